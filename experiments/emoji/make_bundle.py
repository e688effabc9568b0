"""What belongs to the bundled models (textok/models), once `textok export` has put them there.

    python experiments/emoji/make_bundle.py [--models textok/models] [--few FOLDER]

Writes the pipeline `emoji` with captions for every class, and `emoji-heldout`: test pictures with their captions (whose
embeddings are among those of `emoji`), what PCA makes of them, and in `scores.json` what the tokenizers have in PSNR. How long
a model was trained is of its logs (experiments/pictures/results/log-*.csv): `scores.json` keeps what it says of that.
FOLDER, a float32 export of the model of 4 tokens, becomes `emoji-textok-4` in int4.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from pca import fit_pca, pca_pictures
from PIL import Image
from safetensors.numpy import load_file

import textok
from textok import int4_rounding, metrics
from textok.files import write_json
from textok.train import data
from textok.train.export import save_tensors, to_bfloat16, to_int8

HERE = Path(__file__).parent
HELD_OUT = 64
SEEN = 128  # pictures that int4 is rounded on
TOKENIZERS = ("emoji-textok", "emoji-baseline", "emoji-textok-4")
GENERATORS = ("emoji-dit", "emoji-dit-t2i")


def write_jsonl(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def save_captions(folder, rows, embeddings):
    """captions.jsonl, and the real tokens of all captions end to end, in int8 with scales, with the offsets [n+1] of each."""
    store = data.TextStore.join(embeddings)
    tokens, scales = to_int8(store.tokens.astype(np.float32))
    write_jsonl(folder / "captions.jsonl", rows)
    save_tensors(folder / "embeddings.safetensors", {"tokens": tokens, "scales": scales, "offsets": store.offsets})


def save_pictures(path, images):
    """Square pictures, one below the other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(images.reshape(-1, images.shape[2], 3)).save(path, "webp", lossless=True, quality=100, method=6)


def caption_row(record, label_names):
    """What is told of one caption of the data."""
    return {
        "label": record["label"], "label_name": label_names[record["label"]], "caption": record["caption_long"],
        "key": record["key"], "source": "held-out",
    }  # fmt: skip


def caption_from_name(label, label_name):
    """A caption for a class of which no held-out picture exists."""
    text = f"A flat Noto emoji of {label_name.partition('/')[2].replace('-', ' ')}"
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


def tokenizer_score(model, pairs, texts, rows):
    """Mean PSNR over the pictures `rows`, dB."""
    text, lengths = texts.batch(rows)
    pictures = model.reconstruct(pairs.images[rows], text.numpy(), lengths.numpy())
    return round(float(metrics.psnr(pictures, pairs.images[rows]).mean()), 3)


def export_int4(source, out, pairs, texts):
    """A float32 model in int4, rounded on pictures of the training; what int4 leaves as it is, in bfloat16."""
    model = textok.TexTok.from_pretrained(source)
    train = pairs.rows("train")
    rows = train[:: len(train) // SEEN][:SEEN]
    text, lengths = (part.numpy() for part in texts.batch(rows))
    weights = int4_rounding.to_int4(model, [lambda m: m.reconstruct(pairs.images[rows], text, lengths)])
    textok.TexTok(model.config, weights, dtype="int4").save_pretrained(out)
    stored = load_file(out / "model.safetensors")
    narrow = {name: to_bfloat16(array) if array.dtype == np.float32 and not name.endswith(".scale") else array
              for name, array in stored.items()}
    save_tensors(out / "model.safetensors", narrow)


def scores(models, pairs, texts):
    """{model: what is told of it}: its size, of tokenizers the PSNR over the test split and as many train pictures, computed in
    float32 with the weights as stored, and what was told of its training."""
    train, test = pairs.rows("train"), pairs.rows("test")
    some = train[:: len(train) // len(test)][: len(test)]
    file = models / "emoji-heldout" / "scores.json"
    before = json.loads(file.read_text()) if file.exists() else {}
    told = {}
    for name in TOKENIZERS + GENERATORS:
        kind = textok.TexTok if name in TOKENIZERS else textok.DiT
        model = kind.from_pretrained(models / name)
        told[name] = {key: before.get(name, {}).get(key) for key in ("steps", "images", "cpu_hours")}
        told[name]["parameters"] = int(sum(array.size for array in model.weights().values()))
        if name in TOKENIZERS:
            told[name] |= {f"{split}_psnr": tokenizer_score(model, pairs, texts, rows)
                           for split, rows in (("test", test), ("train", some))}
        print(name, told[name], flush=True)
    return told


def export_captions(args, pairs, texts, label_names):
    """The pipeline, and a caption for every class: that of its held-out picture, where `emoji-heldout` has one."""
    test = pairs.rows("test")
    picked = {pairs.records[i]["label"]: i for i in pick_by_class(pairs, test, HELD_OUT)}
    rows = [caption_row(pairs.records[i], label_names) for i in picked.values()]
    places = {row["label"]: i for row, i in zip(rows, picked.values(), strict=True)}
    rows += [caption_from_name(k, name) for k, name in enumerate(label_names) if k not in places]
    rows.sort(key=lambda row: row["label"])
    made = [row["caption"] for row in rows if row["source"] == "name"]
    embedded = dict(zip(made, data.minilm_rows(made), strict=True))
    embeddings = [embedded[row["caption"]] if row["source"] == "name" else texts.row(places[row["label"]]) for row in rows]
    save_captions(args.models / "emoji" / "captions", rows, embeddings)
    parts = {"textok": "emoji-textok", "dit": "emoji-dit", "captions": "captions"}
    index = {"_class_name": "Pipeline", **parts, "sampling": {"guidance_scale": 3.0}}
    write_json(args.models / "emoji" / "model_index.json", index)


def export_held_out(args, pairs, label_names, told):
    """Test pictures with their captions, what PCA of as many numbers as TexTok's makes of them, and all scores."""
    folder = args.models / "emoji-heldout"
    config = textok.TexTok.from_pretrained(args.models / "emoji-textok").config
    numbers = config.num_latent_tokens * config.latent_dim
    train, test = pairs.rows("train"), pairs.rows("test")
    rows = np.array(pick_by_class(pairs, test, HELD_OUT))
    write_jsonl(folder / "captions.jsonl", [caption_row(pairs.records[i], label_names) for i in rows])
    save_pictures(folder / "images.webp", pairs.images[rows])
    mean, directions = fit_pca(pairs.images[train], numbers)
    save_pictures(folder / "pca.webp", pca_pictures(pairs.images[rows], mean, directions))
    score = metrics.psnr(pca_pictures(pairs.images[test], mean, directions), pairs.images[test]).mean()
    told["pca"] = {"numbers": numbers, "test_psnr": round(float(score), 3)}
    write_json(folder / "scores.json", told)
    print("pca", told["pca"])


def bundle(args):
    pairs, texts, _ = data.load(args.data, held_out=args.held_out, cache=args.cache)
    label_names = json.loads(args.labels.read_text())
    if args.few:
        export_int4(args.few, args.models / "emoji-textok-4", pairs, texts)
    export_captions(args, pairs, texts, label_names)
    export_held_out(args, pairs, label_names, scores(args.models, pairs, texts))
    size = sum(f.stat().st_size for f in args.models.rglob("*") if f.is_file())
    print(f"{size / 1e6:.1f} MB in {args.models}")


def parser():
    top = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    top.add_argument("--data", default=[HERE / "data"], nargs="+", help="shards of the pictures")
    top.add_argument("--labels", default=HERE / "data" / "labels.json", type=Path, help="labels.json")
    top.add_argument("--held-out", default=HERE / "pair_test.txt", help="file with the keys of the test set by pair")
    top.add_argument("--cache", default="captions.npz", help="file for the captions' embeddings")
    top.add_argument("--models", default=Path(textok.__file__).parent / "models", type=Path, help="folder of the models")
    top.add_argument("--few", type=Path, help="float32 folder of the model of 4 tokens (default: leave what is there)")
    return top


if __name__ == "__main__":
    bundle(parser().parse_args())
