"""The bundled models (textok/models) out of the runs that trained them.

    python experiments/emoji/make_bundle.py --runs RUNS [--out textok/models]

Takes the runs `textok`, `baseline` and `dit` of `textok train` in RUNS, writes OUT/emoji-NAME, and beside them the pipeline
`emoji` with captions for every class, and `emoji-heldout`: test pictures with their captions (whose embeddings are among those
of `emoji`), the PCA baseline's pictures and every model's scores.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from pca import fit_pca, pca_pictures

import textok
from textok import metrics
from textok.files import write_json
from textok.train import data
from textok.train.export import STORAGES, export_run, pack, save_tensors, to_int8, unpack
from textok.train.loop import CONFIG_FILE

HERE = Path(__file__).parent
HELD_OUT = 64
RUNS = {"textok": "textok", "baseline": "textok", "dit": "dit"}  # run -> model_type


def write_jsonl(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def save_captions(folder, rows, embeddings):
    """captions.jsonl, and the real tokens of all captions end to end, in int8 with scales, with the offsets [n+1] of each."""
    store = data.TextStore.join(embeddings)
    tokens, scales = to_int8(store.tokens.astype(np.float32))
    write_jsonl(folder / "captions.jsonl", rows)
    save_tensors(folder / "embeddings.safetensors", {"tokens": tokens, "scales": scales, "offsets": store.offsets})


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


def tokenizer_score(config, weights, pairs, texts, rows):
    """Mean PSNR over the pictures `rows`, computed in float32 by the engine, dB."""
    model = textok.TexTok(config, weights)
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
    """The three model folders; their scores and histories. Without `--scores` the tokenizers keep those of the last export."""
    file = args.out / "emoji-heldout" / "scores.json"
    before = json.loads(file.read_text()) if file.exists() else {}
    told = {name: row for name, row in before.items() if name.startswith("pictures-")}  # of experiments/pictures
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
    """The pipeline, and a caption for every class: that of its held-out picture, where it has one."""
    test = pairs.rows("test")
    picked = {pairs.records[i]["label"]: i for i in [*pick_by_class(pairs, test), *pick_by_class(pairs, test, HELD_OUT)]}
    rows = [caption_row(pairs.records[i], label_names) for i in picked.values()]
    places = {row["label"]: i for row, i in zip(rows, picked.values(), strict=True)}
    rows += [caption_from_name(k, name) for k, name in enumerate(label_names) if k not in places]
    rows.sort(key=lambda row: row["label"])
    made = [row["caption"] for row in rows if row["source"] == "name"]
    embedded = dict(zip(made, data.minilm_rows(made), strict=True))
    embeddings = [embedded[row["caption"]] if row["source"] == "name" else texts.row(places[row["label"]]) for row in rows]
    save_captions(args.out / "emoji" / "captions", rows, embeddings)
    parts = {"textok": "emoji-textok", "dit": "emoji-dit", "captions": "captions"}
    index = {"_class_name": "Pipeline", **parts, "sampling": {"guidance_scale": 3.0}}
    write_json(args.out / "emoji" / "model_index.json", index)


def export_held_out(args, pairs, label_names, told):
    """Test pictures with their captions, what PCA of as many numbers as TexTok's makes of them, and all scores."""
    folder = args.out / "emoji-heldout"
    config = json.loads((args.out / "emoji-textok" / CONFIG_FILE).read_text())
    numbers = config["num_latent_tokens"] * config["latent_dim"]
    train, test = pairs.rows("train"), pairs.rows("test")
    rows = np.array(pick_by_class(pairs, test, HELD_OUT))
    write_jsonl(folder / "captions.jsonl", [caption_row(pairs.records[i], label_names) for i in rows])
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
    export_held_out(args, pairs, label_names, told)
    size = sum(f.stat().st_size for f in args.out.rglob("*") if f.is_file())
    print(f"{size / 1e6:.1f} MB in {args.out}")


def parser():
    top = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    top.add_argument("--data", default=[HERE / "data"], nargs="+", help="shards of the pictures")
    top.add_argument("--labels", default=HERE / "data" / "labels.json", type=Path, help="labels.json")
    top.add_argument("--held-out", default=HERE / "pair_test.txt", help="file with the keys of the test set by pair")
    top.add_argument("--cache", default="captions.npz", help="file for the captions' embeddings")
    top.add_argument("--runs", required=True, type=Path, help="folder of the four runs")
    top.add_argument("--out", default=Path(textok.__file__).parent / "models", type=Path, help="folder of the bundled models")
    top.add_argument("--storage", choices=STORAGES, default="int8", help="of the tokenizers")
    top.add_argument("--scores", action=argparse.BooleanOptionalAction, default=True, help="measure the tokenizers' PSNR")
    return top


if __name__ == "__main__":
    bundle(parser().parse_args())
