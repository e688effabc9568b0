"""Training with PyTorch (the extra `train`): what `textok train` runs, and the reference that the C engine is compared with.

modules          TexTok and DiT as plain PyTorch, with the names of a checkpoint
config           TOML configs; configs/ has the paper's
data, encoded    captioned pictures, the order of batches; captions embedded as they are read
loop             one run: updates, checkpoints, log, several devices
image_tokenizer  the task of a tokenizer: l2, perceptual, adversarial
dit              the task of a generator on latents
losses, discriminator, perceptual_loss, diffusion, optim
export           a run to a model's folder
"""
