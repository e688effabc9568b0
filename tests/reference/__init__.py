"""The specification: TexTok, DiT and the samplers, written to be read, in NumPy float64.

    layers.py          linear, layer norm, GELU, attention, the transformer block
    textok_model.py    images and captions to latents and back
    dit_model.py       one evaluation of DiT, and guidance
    t5_encoder.py      a caption through T5
    continuous_tokenizer.py    SoftVQ-VAE and MAETok under the names of their files
    samplers.py        DDPM, DDIM and DPM-Solver++ from their papers' formulas

Everything takes one image at a time, so that no batch, padding or chunk can hide anything; a batch is a loop in the tests.
Nothing is shared with the engine but the names of the tensors.
"""
