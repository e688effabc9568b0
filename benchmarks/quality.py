"""What bfloat16 and int8 cost beside float32, in accuracy.

    python benchmarks/quality.py [--quick]

Models of the paper's sizes have random weights of a trained one's scale (`from_config`), since no trained ones exist: relative
RMS error of what comes out, on random pictures, latents and text. The bundled models are trained: PSNR against the original
held-out pictures, and latents and pictures sampled from the same noise. --quick leaves out patch 8.
"""

import argparse

import numpy as np

import textok
from textok.demo import HeldOut
from textok.metrics import psnr

LOW = ("bfloat16", "int8")


def rms(result, reference):
    """RMS of the difference over that of the reference, in percent."""
    difference = np.asarray(result, np.float64) - reference
    return 100 * np.sqrt(np.mean(difference**2) / np.mean(np.square(reference, dtype=np.float64)))


def in_all(kind, config, run):
    """What `run(model)` gives in each dtype; one model is in memory at a time."""
    results = {}
    for dtype in ("float32", *LOW):
        results[dtype] = run(kind.from_config(config, dtype=dtype))
    return results


def report(title, results):
    for name in results["float32"]:
        errors = "  ".join(f"{dtype} {rms(results[dtype][name], results['float32'][name]):6.3f} %" for dtype in LOW)
        print(f"{title + ', ' + name:58} {errors}", flush=True)


def textok_errors(patch):
    rng = np.random.default_rng(0)
    config = {"patch_size": patch, "num_latent_tokens": 32}
    x = rng.uniform(-1, 1, (1, 256, 256, 3)).astype(np.float32)
    text, z = rng.standard_normal((1, 128, 2048)).astype(np.float32), rng.standard_normal((1, 32, 8)).astype(np.float32)

    def run(model):
        return {"encode": model.encode(x, text), "decode": model.decode(z, text, output="float32")}

    report(f"ViT-Base, 256 px, patch {patch}", in_all(textok.TexTok, config, run))


def dit_errors():
    rng = np.random.default_rng(0)
    x, t = rng.standard_normal((3, 32, 8)).astype(np.float32), [50, 500, 950]

    def run(model):
        out = model.denoise(x, t, labels=[1, 500, 1000])
        sample = model.sample(labels=[1], steps=8, guidance_scale=1.5, noise=x[:1])
        return {"prediction": out[..., :8], "variance": out[..., 8:], "latents after 8 guided steps": sample}

    report("DiT-XL, 32 tokens", in_all(textok.DiT, {"num_tokens": 32}, run))


def bundled_models():
    held_out = HeldOut.load()
    text, lengths = held_out.captions.embeddings(np.arange(len(held_out.images)))
    for name in ("emoji-textok", "emoji-baseline"):
        scores = {}
        for dtype in ("float32", *LOW):
            pictures = textok.TexTok.from_pretrained(name, dtype).reconstruct(held_out.images, text, lengths)
            scores[dtype] = psnr(pictures, held_out.images).mean()
        told = "  ".join(f"{dtype} {score:.3f} dB ({score - scores['float32']:+.3f})" for dtype, score in scores.items())
        print(f"{name}, PSNR of {len(held_out.images)} held-out pictures: {told}", flush=True)
    runs = {
        "emoji": {"labels": np.arange(8)},
        "emoji-t2i": dict(zip(("text", "text_lengths"), held_out.captions.embeddings(np.arange(8)), strict=True)),
    }
    for name, condition in runs.items():
        results = {}
        for dtype in ("float32", *LOW):
            results[dtype] = textok.Pipeline.from_pretrained(name, dtype)(**condition, steps=50, guidance_scale=3.0, seed=0)
        for dtype in LOW:
            error = rms(results[dtype].latents, results["float32"].latents)
            score = psnr(results[dtype].images, results["float32"].images).mean()
            print(
                f"{name}, 8 samples from the same noise, {dtype}: latents off by {error:.2f} %, pictures {score:.1f} dB "
                "from float32's"
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="without patch 8")
    args = parser.parse_args()
    bundled_models()
    for patch in (16,) if args.quick else (16, 8):
        textok_errors(patch)
    dit_errors()


if __name__ == "__main__":
    main()
