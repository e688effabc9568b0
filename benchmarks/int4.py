"""What weights of 4 bits cost the bundled models: PSNR of held-out pictures, RMS errors of layers, of denoisers and samples.

    python benchmarks/int4.py              to nearest, and by textok.int4_rounding on the first half of the held-out pictures
    python benchmarks/int4.py --layers     errors by layer too

Figures of pictures are of the second half, which rounding has not seen. Errors are RMS over the float32 model's RMS.
"""

import argparse
import time

import numpy as np

import textok
from textok import int4_rounding
from textok.demo import HeldOut
from textok.metrics import psnr


def rms(result, exact):
    return float(np.sqrt(np.mean((result - exact) ** 2.0) / np.mean(exact**2.0)))


def variants(model, calls):
    """{name: model} of one float32 model."""
    kind, weights = type(model), model.weights()
    start = time.perf_counter()
    rounded = int4_rounding.to_int4(model, calls, progress=False)
    print(f"rounded by calibration in {time.perf_counter() - start:.1f} s")
    return {
        "float32": model,
        "int8": kind(model.config, weights, dtype="int8"),
        "int4, to nearest": kind(model.config, weights, dtype="int4"),
        "int4, calibrated": kind(model.config, rounded, dtype="int4"),
    }


def trace(model, method, *arguments):
    """{layer: rows} of a call of the engine."""
    found = {}
    getattr(model._model, method)(*arguments, 0, found)
    return {name: np.concatenate(rows) for name, rows in found.items()}


def layers(models, run):
    exact = run(models["float32"])
    print(f"{'layer':28}" + "".join(f"{name:>18}" for name in list(models)[1:]))
    others = {name: run(model) for name, model in models.items() if name != "float32"}
    for layer, rows in exact.items():
        print(f"{layer:28}" + "".join(f"{rms(other[layer], rows):>18.4f}" for other in others.values()))


def tokenizers(by_layer):
    held_out = HeldOut.load()
    half = len(held_out.images) // 2
    everything = held_out.captions.embeddings(np.arange(len(held_out.images)))
    for name in ("emoji-textok", "emoji-baseline"):
        model = textok.TexTok.from_pretrained(name)
        takes_text = model.config.text_condition != "none"
        seen, unseen = ([part[rows] for part in everything] if takes_text else [] for rows in (slice(half), slice(half, None)))

        def reconstruct(m, seen=seen):
            m.reconstruct(held_out.images[:half], *seen)

        models = variants(model, [reconstruct])
        pictures = held_out.images[half:]
        exact = model.encode(pictures, *unseen)
        print(f"{name}, {len(pictures)} pictures\n{'':20}{'MiB':>8}{'PSNR':>10}{'latents':>10}{'decoded':>10}")
        decoded = model.decode(exact, *unseen, output="float32")
        for variant, m in models.items():
            result = psnr(m.reconstruct(pictures, *unseen), pictures).mean()
            errors = rms(m.encode(pictures, *unseen), exact), rms(m.decode(exact, *unseen, output="float32"), decoded)
            size = m.memory_plan(1)["weights"] / 2**20
            print(f"{variant:20}{size:>8.1f}{result:>7.2f} dB{errors[0]:>10.4f}{errors[1]:>10.4f}")
        if by_layer:
            text = (
                (np.ascontiguousarray(unseen[0], np.float32), np.asarray(unseen[1], np.int32)) if takes_text else (None, None)
            )
            out = np.empty((len(pictures), *model.config.latent_shape), np.float32)
            layers(models, lambda m, pictures=pictures, text=text, out=out: trace(m, "encode", pictures, *text, None, out))


def generators():
    for name, conditions in (("emoji-dit", {"labels": np.arange(64)}), ("emoji-dit-t2i", None)):
        model = textok.DiT.from_pretrained(name)
        if conditions is None:
            text, lengths = HeldOut.load().captions.embeddings(np.arange(64))
            conditions = {"text": text, "text_lengths": lengths}
        first = {key: value[:32] for key, value in conditions.items()}
        last = {key: value[32:] for key, value in conditions.items()}
        models = variants(model, [lambda m, first=first: m.sample(**first, seed=1)])
        rng = np.random.default_rng(2)
        x = rng.standard_normal((32, *model.config.latent_shape)).astype(np.float32)
        t = rng.integers(0, 1000, 32) * (model.config.last_time / 999)
        exact, sampled = model.denoise(x, t, **last), model.sample(**last, seed=3)
        print(f"{name}\n{'':20}{'MiB':>8}{'denoised':>10}{'sampled':>10}")
        for variant, m in models.items():
            errors = rms(m.denoise(x, t, **last), exact), rms(m.sample(**last, seed=3), sampled)
            print(f"{variant:20}{m.memory_plan(1)['weights'] / 2**20:>8.1f}{errors[0]:>10.4f}{errors[1]:>10.4f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", action="store_true")
    args = parser.parse_args()
    tokenizers(args.layers)
    generators()


if __name__ == "__main__":
    main()
