"""From a training run to a model's folder (`textok export`); and the bundled folders.

    python -m textok.train.export --runs RUNS --out textok/models --data benchmarks/paper/data --labels labels.json

A run is a folder of `textok train`, finished or not; what is exported is its moving average. The command here takes the runs
`textok`, `baseline`, `dit` and `dit-t2i` in RUNS, writes OUT/emoji-NAME, and beside them the pipelines `emoji` (with captions
for every class) and `emoji-t2i`, and `emoji-heldout`: test pictures with their captions, the PCA baseline's pictures and
every model's scores.
"""

import argparse
import json
from pathlib import Path

import ml_dtypes
import numpy as np
import torch
from safetensors.numpy import save_file

from .. import image_tokenizer as engine
from .. import metrics
from ..files import write_json
from ..pictures.preprocess import to_uint8
from . import data
from .loop import CONFIG_FILE, SETTINGS_FILE, STATE_FILE

HELD_OUT = 64
STORAGES = ("float32", "bfloat16", "int8")
RUNS = {"textok": "textok", "baseline": "textok", "dit": "dit", "dit-t2i": "dit"}  # run -> model_type


def to_bfloat16(x):
    """float32 array to bfloat16, rounded to nearest even."""
    return x.astype(ml_dtypes.bfloat16)


def to_int8(weight):
    """[out,in] float32 -> int8 rows and their float32 scales [out]; zero rows have scale one."""
    largest = np.abs(weight).max(axis=1)  # [out]
    scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    return np.clip(np.rint(weight / scale[:, None]), -127, 127).astype(np.int8), scale


def is_linear(name, array):
    """Whether a tensor is the matrix of a linear layer."""
    return array.ndim == 2 and name.endswith(".weight") and "embedding_table" not in name


def pack(weights, storage):
    """float32 tensors as stored: as they are, all `bfloat16`, or the matrices of linears `int8` and the rest bfloat16."""
    if storage == "float32":
        return dict(weights)
    packed = {}
    for name, array in weights.items():
        if storage == "int8" and is_linear(name, array):
            packed[name], packed[f"{name}.scale"] = to_int8(array)
        else:
            packed[name] = to_bfloat16(array)
    return packed


def unpack(packed):
    """The float32 tensors that a stored model stands for."""
    scales = {n for n in packed if n.endswith(".weight.scale")}
    return {
        n: a.astype(np.float32) * (packed[f"{n}.scale"][:, None] if f"{n}.scale" in scales else 1)
        for n, a in packed.items()
        if n not in scales
    }


def load_average(run):
    """A run's config, averaged float32 weights and progress."""
    run = Path(run)
    if not (run / STATE_FILE).is_file():
        raise FileNotFoundError(f"{run}: expected the folder of a training run, with {STATE_FILE}")
    config, settings = (json.loads((run / name).read_text()) for name in (CONFIG_FILE, SETTINGS_FILE))
    state = torch.load(run / STATE_FILE, weights_only=True, map_location="cpu")
    part = state["parts"]["model"]
    weights = {name: value.numpy() for name, value in (part["ema"] or part["model"]).items()}
    history = {
        "steps": state["step"],
        "images": state["step"] * settings["run"]["batch_size"],
        "cpu_hours": state["cpu_seconds"] / 3600,
    }
    return config, weights, history


def export_run(run, out, storage="float32"):
    """Writes a run's averaged weights to the folder `out` as a model; returns what `load_average` does."""
    config, weights, history = load_average(run)
    save_tensors(Path(out) / "model.safetensors", pack(weights, storage))
    write_json(Path(out) / CONFIG_FILE, config)
    return config, weights, history


def save_tensors(path, tensors):
    """One safetensors file, contiguous arrays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({n: np.ascontiguousarray(a) for n, a in tensors.items()}, path, metadata={"format": "np"})
    path.chmod(0o644)


def write_jsonl(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def save_captions(folder, rows, embeddings):
    """captions.jsonl, and the real tokens of all captions end to end with the offsets [n+1] of each."""
    store = data.TextStore.join(embeddings)
    write_jsonl(folder / "captions.jsonl", rows)
    save_tensors(folder / "embeddings.safetensors", {"tokens": store.tokens, "offsets": store.offsets})


def caption_row(record, label_names):
    """What is told of one caption of the data."""
    return {
        "label": record["label"], "label_name": label_names[record["label"]], "caption": record["caption_long"],
        "key": record["key"], "source": "held-out",
    }  # fmt: skip


def caption_from_name(label, label_name):
    """A caption for a class of which no held-out picture exists."""
    category, _, subcategory = label_name.partition("/")
    words = subcategory.replace("-", " ")
    text = f"A flat Noto emoji of {words} ({category.lower()}, {words}): {', '.join(words.split())}."
    return {"label": label, "label_name": label_name, "caption": text, "key": None, "source": "name"}


def pick_by_class(pairs, rows, count=None):
    """One row a label out of `rows`, the styles taking turns; the first `count` labels where given, evenly spread."""
    by_label = {}
    for i in rows:
        by_label.setdefault(pairs.records[i]["label"], []).append(i)
    labels = sorted(by_label)
    if count is not None:
        labels = [labels[k] for k in np.linspace(0, len(labels) - 1, count).round().astype(int)]
    picked, styles = [], ("google", "twitter", "fluent")
    for turn, label in enumerate(labels):
        wanted = [i for i in by_label[label] if pairs.records[i]["style"] == styles[turn % 3]]
        picked.append((wanted or by_label[label])[0])
    return picked


def fit_pca(images, numbers, seed=0):
    """Mean [n] and principal directions [n,numbers] of uint8 pictures in [-1,1]; a randomised SVD with 8 power iterations."""
    flat = torch.from_numpy(np.asarray(images).reshape(len(images), -1)).float() / 127.5 - 1
    mean = flat.mean(dim=0)
    torch.manual_seed(seed)
    directions = torch.svd_lowrank(flat - mean, numbers + 32, niter=8)[2]
    return mean.numpy(), directions[:, :numbers].numpy()


def pca_pictures(images, mean, directions):
    """uint8 [n,S,S,3] through the PCA and back."""
    flat = images.reshape(len(images), -1) / np.float32(127.5) - 1
    return to_uint8((flat - mean) @ directions @ directions.T + mean).reshape(images.shape)


def tokenizer_score(config, weights, pairs, texts, rows):
    """Mean PSNR over the pictures `rows`, computed in float32 by the engine, dB."""
    model = engine.TexTok(config, weights)
    text, lengths = texts.batch(rows)
    pictures = model.reconstruct(pairs.images[rows], text.numpy(), lengths.numpy())
    return round(float(metrics.psnr(pictures, pairs.images[rows]).mean()), 3)


def tokenizer_scores(config, weights, packed, pairs, texts):
    """Of the weights as stored over the test split and as many train pictures, and of the weights before rounding."""
    train, test = pairs.rows("train"), pairs.rows("test")
    some = train[:: len(train) // len(test)][: len(test)]
    return {
        "test_psnr": tokenizer_score(config, unpack(packed), pairs, texts, test),
        "train_psnr": tokenizer_score(config, unpack(packed), pairs, texts, some),
        "test_psnr_unrounded": tokenizer_score(config, weights, pairs, texts, test),
    }


def export_models(args, pairs, texts):
    """The four model folders; their scores and histories. Without `--scores` the tokenizers keep those of the last export."""
    file = args.out / "emoji-heldout" / "scores.json"
    before = json.loads(file.read_text()) if file.exists() else {}
    told = {}
    for run, kind in RUNS.items():
        storage = args.storage if kind == "textok" else "int8"
        config, weights, history = export_run(args.runs / run, args.out / f"emoji-{run}", storage)
        history["parameters"] = int(sum(a.size for a in weights.values()))
        if kind == "textok" and args.scores:
            history |= tokenizer_scores(config, weights, pack(weights, storage), pairs, texts)
        elif kind == "textok":
            history |= {k: v for k, v in before.get(f"emoji-{run}", {}).items() if "psnr" in k}
        told[f"emoji-{run}"] = history
        print(run, history, flush=True)
    return told


def export_captions(args, pairs, texts, label_names):
    """The pipelines, and a caption for every class."""
    test = pairs.rows("test")
    rows = [caption_row(pairs.records[i], label_names) for i in pick_by_class(pairs, test)]
    places = {row["label"]: i for row, i in zip(rows, pick_by_class(pairs, test), strict=True)}
    rows += [caption_from_name(k, name) for k, name in enumerate(label_names) if k not in places]
    rows.sort(key=lambda row: row["label"])
    made = [row["caption"] for row in rows if row["source"] == "name"]
    embedded = dict(zip(made, data.minilm_rows(made), strict=True))
    embeddings = [embedded[row["caption"]] if row["source"] == "name" else texts.row(places[row["label"]]) for row in rows]
    save_captions(args.out / "emoji" / "captions", rows, embeddings)
    index = {"_class_name": "Pipeline", "textok": "emoji-textok", "dit": "emoji-dit", "captions": "captions"}
    write_json(args.out / "emoji" / "model_index.json", index)
    index = {"_class_name": "Pipeline", "textok": "emoji-textok", "dit": "emoji-dit-t2i"}
    (args.out / "emoji-t2i").mkdir(parents=True, exist_ok=True)
    write_json(args.out / "emoji-t2i" / "model_index.json", index)


def export_held_out(args, pairs, texts, label_names, told):
    """Test pictures with their captions, what PCA of as many numbers as TexTok's makes of them, and all scores."""
    folder = args.out / "emoji-heldout"
    config = json.loads((args.out / "emoji-textok" / CONFIG_FILE).read_text())
    numbers = config["num_latent_tokens"] * config["latent_dim"]
    train, test = pairs.rows("train"), pairs.rows("test")
    rows = np.array(pick_by_class(pairs, test, HELD_OUT))
    save_captions(folder, [caption_row(pairs.records[i], label_names) for i in rows], [texts.row(i) for i in rows])
    np.savez_compressed(folder / "images.npz", images=pairs.images[rows])
    mean, directions = fit_pca(pairs.images[train], numbers)
    np.savez_compressed(folder / "pca.npz", images=pca_pictures(pairs.images[rows], mean, directions))
    score = metrics.psnr(pca_pictures(pairs.images[test], mean, directions), pairs.images[test]).mean()
    told["pca"] = {"numbers": numbers, "test_psnr": round(float(score), 3)}
    write_json(folder / "scores.json", told)
    print("pca", told["pca"])


def bundle(args):
    pairs, texts, _ = data.load(args.data, held_out=args.held_out, cache=args.cache)
    label_names = json.loads(args.labels.read_text())
    told = export_models(args, pairs, texts)
    export_captions(args, pairs, texts, label_names)
    export_held_out(args, pairs, texts, label_names, told)
    size = sum(f.stat().st_size for f in args.out.rglob("*") if f.is_file())
    print(f"{size / 1e6:.1f} MB in {args.out}")


def parser():
    top = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    top.add_argument("--data", required=True, nargs="+", help="shards of the pictures")
    top.add_argument("--labels", required=True, type=Path, help="labels.json")
    top.add_argument("--held-out", help="file with the keys of the test set by pair")
    top.add_argument("--cache", default="captions.npz", help="file for the captions' embeddings")
    top.add_argument("--runs", required=True, type=Path, help="folder of the four runs")
    top.add_argument("--out", required=True, type=Path, help="folder of the bundled models")
    top.add_argument("--storage", choices=STORAGES, default="int8", help="of the tokenizers")
    top.add_argument("--scores", action=argparse.BooleanOptionalAction, default=True, help="measure the tokenizers' PSNR")
    return top


if __name__ == "__main__":
    bundle(parser().parse_args())
