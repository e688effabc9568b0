"""diffusers' DiT, eager: the original over 2D latents, and over tokens where they make a square; and the VAE that
decodes its latents.

Its timestep frequencies are 128 steps over the same range in 127 parts, not 128 as in the original; set to the
original's here, so that outputs can be compared.
"""

import math

NAME = "diffusers"
SETTINGS = "DiTTransformer2DModel and AutoencoderKL, eager, fused attention"
VERSIONS = ("diffusers", "torch")
PRECISIONS = ("float32", "bfloat16")
PRECISIONS_WHY = {"int8": "no int8 of its own on CPUs; see PyTorch's"}


# Of the VAE that the original DiT decodes with (Stable Diffusion's, f8); weights are random.
VAE = {
    "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "latent_channels": 4, "norm_num_groups": 32,
    "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4,
}  # fmt: skip


def lacks(case, precision):
    if case.what == "vae":
        return None
    if case.what != "denoise":
        return "has no TexTok"
    side = math.isqrt(case.config["num_tokens"])
    return None if side * side == case.config["num_tokens"] else "its tokens are a square grid"


def prepare(case, precision, store):
    if case.what == "vae":
        if not (folder := store.path("vae")).exists():
            import torch
            from diffusers import AutoencoderKL

            torch.manual_seed(0)
            AutoencoderKL(**VAE).save_pretrained(folder)
        return
    store.make_weights(case, precision)


def renamed(weights, depth, channels, patch):
    """textok's tensors under diffusers' names; what diffusers keeps once a block shares one tensor here."""
    import torch

    out = {}
    width = weights["pos_embed"].shape[1]
    out["pos_embed.proj.weight"] = weights["x_embedder.weight"].reshape(width, channels, patch, patch)
    out["pos_embed.proj.bias"] = weights["x_embedder.bias"]
    for i in range(depth):
        ours, theirs = f"blocks.{i}", f"transformer_blocks.{i}"
        for kind in ("weight", "bias"):
            for k, layer in ((0, 1), (2, 2)):
                out[f"{theirs}.norm1.emb.timestep_embedder.linear_{layer}.{kind}"] = weights[f"t_embedder.mlp.{k}.{kind}"]
            out[f"{theirs}.norm1.linear.{kind}"] = weights[f"{ours}.adaLN_modulation.1.{kind}"]
            for name, part in zip("qkv", torch.chunk(weights[f"{ours}.attn.qkv.{kind}"], 3), strict=True):
                out[f"{theirs}.attn1.to_{name}.{kind}"] = part
            out[f"{theirs}.attn1.to_out.0.{kind}"] = weights[f"{ours}.attn.proj.{kind}"]
            out[f"{theirs}.ff.net.0.proj.{kind}"] = weights[f"{ours}.mlp.fc1.{kind}"]
            out[f"{theirs}.ff.net.2.{kind}"] = weights[f"{ours}.mlp.fc2.{kind}"]
        out[f"{theirs}.norm1.emb.class_embedder.embedding_table.weight"] = weights["y_embedder.embedding_table.weight"]
    for kind in ("weight", "bias"):
        out[f"proj_out_1.{kind}"] = weights[f"final_layer.adaLN_modulation.1.{kind}"]
        out[f"proj_out_2.{kind}"] = weights[f"final_layer.linear.{kind}"]
    return out


def load_vae(store, kind):
    import torch
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(store.path("vae"), torch_dtype=kind).eval()
    if kind == torch.bfloat16:
        vae = vae.to(memory_format=torch.channels_last)

    def run(a):
        with torch.inference_mode():
            return vae.decode(torch.from_numpy(a["x"]).to(kind)).sample.float().numpy()

    return run


def load(case, precision, store, threads):
    import torch
    from diffusers import DiTTransformer2DModel
    from safetensors.torch import load_file

    torch.set_num_threads(threads)
    if case.what == "vae":
        return load_vae(store, torch.float32 if precision == "float32" else torch.bfloat16)
    config = case.config
    side, patch = math.isqrt(config["num_tokens"]), config.get("patch_size", 1)
    weights = {}
    for path in sorted(store.weights(case, precision).glob("*.safetensors")):
        weights |= load_file(path)
    with torch.device("meta"):
        model = DiTTransformer2DModel(
            num_attention_heads=config["num_heads"],
            attention_head_dim=config["hidden_size"] // config["num_heads"],
            in_channels=config["in_channels"],
            out_channels=2 * config["in_channels"],
            num_layers=config["depth"],
            sample_size=side * patch,
            patch_size=patch,
            norm_eps=config.get("norm_eps", 1e-6),
            num_embeds_ada_norm=config["num_classes"],
        )
    names = renamed(weights, config["depth"], config["in_channels"], patch)
    model.load_state_dict(names, assign=True, strict=False)
    model.pos_embed.pos_embed = weights["pos_embed"][None]
    left = [name for name, tensor in (*model.named_parameters(), *model.named_buffers()) if tensor.is_meta]
    if left:
        raise RuntimeError(f"diffusers' model has tensors that no weight of textok's fills: {left[:4]}")
    for block in model.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = 0
    kind = torch.float32 if precision == "float32" else torch.bfloat16
    model = model.eval().requires_grad_(False).to(kind)

    def run(a):
        x = torch.from_numpy(a["x"]).to(kind)
        if patch == 1:  # tokens [B,N,C] as a picture [B,C,side,side]
            x = x.transpose(1, 2).unflatten(2, (side, side))
        with torch.inference_mode():
            out = model(x, timestep=torch.from_numpy(a["t"]), class_labels=torch.from_numpy(a["labels"])).sample.float()
        return (out.flatten(2).transpose(1, 2) if patch == 1 else out).contiguous().numpy()

    return run
