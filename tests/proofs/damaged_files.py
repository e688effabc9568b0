"""Files of every kind with bytes changed, cut off, put in or swapped: a result, or a documented exception of one line."""

import io
import json
import logging
import random
import shutil
import tarfile
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import Models, arguments, finish

import textok
from textok import importers
from textok.data import read_samples

DOCUMENTED = (ValueError, OSError, MemoryError, textok.TextokError)
FOREIGN = Path(__file__).resolve().parent.parent / "golden" / "foreign"
MOST_SECONDS = 5.0  # of opening one small file: longer is a way to stop a run


def loaded(folder: Path) -> Any:
    return textok.TexTok.from_pretrained(folder)


def samples(path: Path) -> list[Any]:
    return list(read_samples(path))


def torch_file(name: str) -> Callable[[Path], Any]:
    settings = {"num_heads": 4}
    return lambda path: importers.load(path, settings)


def make(folder: Path, models: Models) -> list[tuple[str, Path, Callable[[Path], Any], Path]]:
    """(kind, the file to damage, what opens it, the path it is opened by)"""
    model, store, archive = folder / "model", folder / "store", folder / "set.tar"
    models.textok.save_pretrained(model)
    kinds = [("safetensors", model / "model.safetensors", loaded, model), ("config.json", model / "config.json", loaded, model)]
    pipe = folder / "pipe"
    textok.Pipeline(
        models.textok,
        textok.DiT.from_config(
            {
                "num_tokens": 6,
                "in_channels": 5,
                "hidden_size": 8,
                "depth": 1,
                "num_heads": 1,
                "condition": "text",
                "text_dim": 12,
                "num_text_tokens": 7,
                "num_classes": 0,
            }
        ),
    ).save_pretrained(pipe)
    kinds.append(("model_index.json", pipe / "model_index.json", textok.Pipeline.from_pretrained, pipe))
    textok.EmbeddingStore.create(store, {"name": "none"}, 4).add(["a", "b b"], np.ones((2, 3, 4), np.float32), [1, 3])

    def read_store(path: Path) -> Any:
        return textok.open_embeddings(path).embeddings(["a", "b b"])

    kinds += [
        (f"store/{part.name}", part, read_store, store)
        for part in sorted(store.rglob("*"))
        if part.is_file() and part.stat().st_size
    ]
    np.savez(folder / "text.npz", text=np.ones((3, 4, 12), np.float32), text_lengths=np.array([1, 2, 4]))
    kinds.append((".npz", folder / "text.npz", textok.open_embeddings, folder / "text.npz"))
    np.save(folder / "text.npy", np.ones((3, 4, 12), np.float32))
    kinds.append((".npy", folder / "text.npy", textok.open_embeddings, folder / "text.npy"))
    captions = folder / "captions"
    textok.CaptionStore([{"caption": "a"}, {"caption": "b", "label": 1}], np.ones((3, 4), np.float32), [0, 1, 3]).save(captions)
    for name in ("captions.jsonl", "embeddings.safetensors"):
        kinds.append((name, captions / name, textok.CaptionStore.from_folder, captions))
    from PIL import Image

    with tarfile.open(archive, "w") as tar:
        for key in range(3):
            picture = io.BytesIO()
            Image.fromarray(np.full((8, 8, 3), 40 * key, np.uint8)).save(picture, ("PNG", "JPEG", "WEBP")[key])
            for name, data in (
                (f"{key}.{('png', 'jpg', 'webp')[key]}", picture.getvalue()),
                (f"{key}.json", b'{"caption": "x"}'),
            ):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    kinds.append(("tar", archive, samples, archive))
    (folder / "set.csv").write_text('file,caption\n0.png,"a, b"\n')
    kinds.append(("csv", folder / "set.csv", samples, folder / "set.csv"))
    for name in ("dit_reference", "pranoyr_textok", "titok_vae"):
        target = folder / f"{name}.pt"
        shutil.copyfile(FOREIGN / name / "model.pt", target)
        target.chmod(0o644)
        kinds.append((f"{name}.pt", target, torch_file(name), target))
    return kinds


def damaged(rng: random.Random, data: bytes) -> bytes:
    """The bytes with some harm done; heads of files, where their structure is, more often than the rest."""
    body = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 5])):
        at = rng.randrange(min(len(body), rng.choice([16, 256, 4096, len(body)])) or 1) if body else 0
        kind = rng.randrange(7)
        if kind == 0 and body:
            body[at] = rng.randrange(256)
        elif kind == 1 and body:
            body[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            del body[at:]
        elif kind == 3:
            del body[at : at + rng.randrange(1, 64)]
        elif kind == 4:
            body[at:at] = rng.randbytes(rng.randrange(1, 64))
        elif kind == 5:
            body[at : at + 8] = rng.choice(
                [b"\xff" * 8, b"\0" * 8, (2**63 - 1).to_bytes(8, "little"), b"-1", b"1e999", b"[" * 40]
            )
        else:
            other = rng.randrange(len(body) or 1)
            body[at : at + 16], body[other : other + 16] = body[other : other + 16], body[at : at + 16]
    return bytes(body)


def tried(opens: Callable[[Path], Any], path: Path) -> tuple[float, str, str]:
    """How long it took, what came of it, and what of that breaks the promise."""
    start, outcome, failure = time.monotonic(), "results", ""
    try:
        opens(path)
    except DOCUMENTED as problem:
        outcome = "documented exceptions"
        if not str(problem) or "\n" in str(problem):
            failure = f" not one line: {json.dumps(str(problem)[:200])}"
    except Exception as problem:
        outcome, failure = "others", f" {type(problem).__name__}: {problem}"[:300]
    return time.monotonic() - start, outcome, failure


def main() -> None:
    options = arguments(__doc__, 3000)
    rng = random.Random(options.seed)
    began, failures = time.monotonic(), []
    outcomes: dict[str, int] = {"results": 0, "documented exceptions": 0, "others": 0}
    warnings.simplefilter("ignore")
    logging.disable()
    models, slowest = Models(), 0.0
    with tempfile.TemporaryDirectory() as name:
        kinds = make(Path(name), models)
        for turn in range(options.count):
            kind, path, opens, opened = rng.choice(kinds)
            whole = path.read_bytes()
            path.write_bytes(damaged(rng, whole))
            seconds, outcome, failure = tried(opens, opened)
            if seconds > MOST_SECONDS:  # again, since a busy machine may have stopped this process meanwhile
                seconds = min(seconds, tried(opens, opened)[0])
            slowest = max(slowest, seconds)
            if seconds > MOST_SECONDS:
                failure += f" took {seconds:.1f} s, twice"
            outcomes[outcome] += 1
            if failure:
                failures.append(f"{turn}: {kind}:{failure}")
            path.write_bytes(whole)
    failures += [f"afterwards {name} gives other bits" for name in models.differing()]
    finish(
        "damaged_files",
        began,
        failures,
        kinds=len(kinds),
        files=options.count,
        seed=options.seed,
        slowest_s=round(slowest, 2),
        **outcomes,
    )


if __name__ == "__main__":
    main()
