"""What the proofs share: small models and their inputs, the arguments of the command line, and the line that is printed."""

import argparse
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the tests' own modules

import numpy as np
from engine_models import TinyDiT, TinyTexTok, dit_config, textok_config

import textok

SIDE = {"hidden_size": 24, "depth": 1, "num_heads": 2}
BERT = {
    "family": "bert", "hidden_size": 16, "depth": 2, "num_heads": 2, "head_dim": 8, "mlp_size": 24, "activation": "gelu_erf",
    "norm_eps": 1e-12, "vocab_size": 50, "max_positions": 12,
}  # fmt: skip


def arguments(description: str, count: int, only: bool = False) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--count", type=int, default=count, help="how many tries (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    if only:
        parser.add_argument("--only", default="", help="draw all tries and run those alone whose name begins so")
    return parser.parse_args()


def finish(name: str, began: float, failures: list[str], **figures: object) -> None:
    """Prints what was found and ends the program: with 1 where a promise was broken."""
    figures = {"proof": name, "date": time.strftime("%Y-%m-%d"), "isa": textok.cpu_info()["isa"], **figures}
    print(json.dumps(figures | {"seconds": round(time.monotonic() - began, 1), "failures": len(failures)}), flush=True)
    for failure in failures[:20]:
        print(failure, file=sys.stderr)
    sys.exit(1 if failures else 0)


class Models:
    """One small model of each kind, inputs, and `works`: calls by name that must give the same bits again and again."""

    def __init__(self) -> None:
        tiny, small = TinyTexTok(textok_config(text_mask=True)), TinyDiT(dit_config())
        by_text = TinyDiT(dit_config(condition="text"))
        self.x, self.z, self.captions = tiny.inputs(batch=2)
        self.textok = textok.TexTok(tiny.config, tiny.weights)
        self.dit = textok.DiT(small.config, small.weights)
        self.dit_text = textok.DiT(by_text.config, by_text.weights)
        self.encoder = textok.TextEncoder.from_config(BERT, seed=0)
        self.text = np.ones((2, 3, 12), np.float32)
        noisy = np.ones((2, *self.dit.config.latent_shape), np.float32)
        self.works = {
            "encode": lambda: self.textok.encode(self.x, **self.captions),
            "decode": lambda: self.textok.decode(self.z, **self.captions),
            "reconstruct": lambda: self.textok.reconstruct(self.x, **self.captions),
            "denoise": lambda: self.dit.denoise(noisy, [3, 900], labels=[1, 2]),
            "sample": lambda: self.dit.sample([1, 2], steps=3, solver="ddpm", guidance_scale=2.0, seed=0),
            "sample text": lambda: self.dit_text.sample(text=self.text, steps=2, guidance_scale=2.0, seed=0),
            "encode text": lambda: self.encoder.encode_ids([[1, 2, 3], [4, 5]])[0],
        }
        low = {"encode": (self.textok, "int8"), "decode": (self.textok, "bfloat16"), "sample": (self.dit, "int4")}
        self.low = {
            f"{call} {dtype}": type(model)(model.config, model.weights(), dtype) for call, (model, dtype) in low.items()
        }
        self.works |= {
            "encode int8": lambda: self.low["encode int8"].encode(self.x, **self.captions),
            "decode bfloat16": lambda: self.low["decode bfloat16"].decode(self.z, **self.captions),
            "sample int4": lambda: self.low["sample int4"].sample([1, 2], steps=2, solver="ddim", seed=0),
        }
        self.expected = {name: work() for name, work in self.works.items()}

    def differing(self) -> list[str]:
        """The works whose bits are not what they were."""
        return [name for name, work in self.works.items() if not np.array_equal(work(), self.expected[name])]
