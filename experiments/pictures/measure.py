"""Tokenizers on pictures of concepts and of styles that no training had: PSNR, what the right caption is worth, seams, KID.

    python experiments/pictures/measure.py --pictures FOLDER --emoji FOLDER MODEL [MODEL ...] [--baseline MODEL] [--count 512]

A MODEL is a model's folder, a bundled name, or the folder of a training. Test sets: the emoji's own, by concept; the other
sources' by concept; by style (README.md). Writes reconstruction.csv, reconstruction.md and a sheet of pictures a set.
"""

import argparse
import csv
import math
import os
import time
from pathlib import Path

import numpy as np
from PIL import Image

import textok
from textok import metrics
from textok.data.sources import open_sources
from textok.metrics.networks import load_network
from textok.train import data
from textok.train.dit import load_tokenizer

HERE = Path(__file__).parent
NETWORK = "efficientnet-lite0@128"
BATCH = 64
SHOWN = 16


def seam_ratio(pictures, patch):
    """Mean difference of neighbouring pixels across the borders of patches over that inside them, of uint8 [n,S,S,3]."""
    across = np.abs(np.diff(pictures.astype(np.float64), axis=2)).mean(axis=(0, 1, 3))  # [S-1]
    down = np.abs(np.diff(pictures.astype(np.float64), axis=1)).mean(axis=(0, 2, 3))
    border = np.arange(len(across)) % patch == patch - 1
    return (across[border].mean() + down[border].mean()) / (across[~border].mean() + down[~border].mean())


def test_sets(pictures, emoji, size, caption, count, seed, sources=None):
    """{name: (uint8 [n,S,S,3], n samples)} of the test sets: `count` pictures with that caption of each, at random (0: all);
    of the larger set those of `sources` alone, where they are given.
    """
    keys = {name: set((HERE / f"{name}.txt").read_text().split()) for name in ("test", "style")}
    found = {"emoji, by concept": [], "others, by concept": [], "by style": []}
    rng = np.random.default_rng(seed)
    for folder, own in ((pictures, False), (emoji, True)):
        for sample, _ in data.events(open_sources(sorted(Path(folder).glob("*.tar*"))), caption, "", []):
            place = next((name for name in keys if sample.key in keys[name]), None)
            if place and (own or not sources or sample.metadata["source"] in sources):
                found["by style" if place == "style" else "emoji, by concept" if own else "others, by concept"].append(sample)
    sets = {}
    for name, samples in found.items():
        if not samples:  # of sources that were not asked for
            continue
        chosen = [samples[i] for i in sorted(rng.permutation(len(samples))[: count or None])]
        sets[name] = np.stack([data.decode(sample, size) for sample in chosen]), chosen
    return sets


def others(captions, seed):
    """The captions in another order, in which none stands where it was: a random ring."""
    ring = np.random.default_rng(seed).permutation(len(captions))
    found = list(captions)
    for place, source in zip(ring, np.roll(ring, 1), strict=True):
        found[place] = captions[source]
    return found


def embedded(encoder, captions):
    """The embeddings as `reconstruct` takes them, a batch at a time."""
    return [encoder(captions[start : start + BATCH], data.MAX_TOKENS) for start in range(0, len(captions), BATCH)]


def reconstructed(model, pictures, texts):
    """uint8 [n,S,S,3] of the model, with its text embeddings where it reads any."""
    parts = []
    for number, start in enumerate(range(0, len(pictures), BATCH)):
        condition = {}
        if model.config.text_condition != "none":
            text, lengths = texts[number]
            most = model.config.num_text_tokens
            condition = {"text": text[:, :most], "text_lengths": np.minimum(lengths, most)}
        parts.append(model.reconstruct(pictures[start : start + BATCH], **condition))
    return np.concatenate(parts)


def spread(differences):
    """The mean of paired differences as words, with its 95% interval."""
    half = 1.96 * np.std(differences, ddof=1) / math.sqrt(len(differences))
    return f"{np.mean(differences):+.2f} [{np.mean(differences) - half:+.2f}, {np.mean(differences) + half:+.2f}]"


def measured(name, model, sets, texts, network, originals_features):
    """A row a test set, {test set: pictures}, and {test set: their PSNR}."""
    rows, made, scores = [], {}, {}
    for place, (pictures, _) in sets.items():
        begun = time.perf_counter()
        made[place] = reconstructed(model, pictures, texts[place]["right"])
        seconds = (time.perf_counter() - begun) / len(pictures)
        scores[place] = psnr = metrics.psnr(made[place], pictures)
        features = features_of(network, made[place])
        row = {
            "model": name,
            "test set": place,
            "pictures": len(pictures),
            "PSNR": f"{psnr.mean():.2f}",
            "right less wrong caption, dB": "",
            "KID x 1000": f"{1000 * metrics.kernel_distance(features, originals_features[place], paired=True):.0f}",
            "seams": f"{seam_ratio(made[place], model.config.patch_size):.2f}",
            "seams of originals": f"{seam_ratio(pictures, model.config.patch_size):.2f}",
            "ms a picture": f"{1000 * seconds:.1f}",
        }
        if model.config.text_condition != "none":
            wrong = metrics.psnr(reconstructed(model, pictures, texts[place]["wrong"]), pictures)
            row["right less wrong caption, dB"] = spread(psnr - wrong)
        rows.append(row)
    return rows, made, scores


def sheet(pictures, made):
    """Originals above what every model makes of them."""
    lines = [np.concatenate(list(part[:SHOWN]), axis=1) for part in (pictures, *made)]
    return Image.fromarray(np.concatenate(lines))


def features_of(network, pictures):
    """[n,D] of pictures uint8 [n,S,S,3], a batch at a time."""
    return np.concatenate([network(pictures[i : i + BATCH]).features for i in range(0, len(pictures), BATCH)])


def file_name(place):
    """A test set's name as a part of a file's."""
    return place.replace(", ", "-").replace(" ", "-")


def add_arguments(parser, count):
    """What every measure on the test sets takes; `count` pictures of each unless told otherwise."""
    parser.add_argument("--pictures", required=True, help="folder of the larger set's shards")
    parser.add_argument("--emoji", required=True, help="folder of the emoji's shards")
    parser.add_argument("--count", type=int, default=count, help="pictures of each test set, at random; 0: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--out", type=Path, default=HERE / "results")


def write_tables(path, rows, how):
    """`rows`, dicts of the same keys, as a .csv and, under what `how` says, a .md; the table is printed, too."""
    with path.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    lines = ["| " + " | ".join(rows[0]) + " |", "| " + " | ".join("---" for _ in rows[0]) + " |"]
    lines += ["| " + " | ".join(map(str, row.values())) + " |" for row in rows]
    how += f" textok {textok.__version__}, {len(os.sched_getaffinity(0))} CPUs."
    path.with_suffix(".md").write_text("\n".join([how, "", *lines, ""]))
    print("\n".join(lines))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--caption", default="caption_long", help="the field that models read")
    parser.add_argument("--baseline", metavar="MODEL", help="one of them: each other's PSNR less its, picture by picture, too")
    add_arguments(parser, count=512)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    names = {Path(name).name: name for name in args.models}
    if len(names) < len(args.models):
        parser.error(f"expected models of different names, got {' '.join(args.models)}")
    baseline = args.baseline and Path(args.baseline).name
    if baseline and baseline not in names:
        parser.error(f"--baseline: expected one of {', '.join(names)}, got {baseline}")
    models = {name: load_tokenizer(path, threads=args.threads)[0] for name, path in names.items()}
    size = next(iter(models.values())).config.image_size
    sets = test_sets(args.pictures, args.emoji, size, args.caption, args.count, args.seed)
    encoder = textok.TextEncoder.from_pretrained("minilm", dtype="int8", threads=args.threads)  # as trained with
    captions = {place: [sample.caption(args.caption) for sample in samples] for place, (_, samples) in sets.items()}
    texts = {
        place: {"right": embedded(encoder, told), "wrong": embedded(encoder, others(told, args.seed))}
        for place, told in captions.items()
    }
    network = load_network(NETWORK, args.threads)
    originals = {place: features_of(network, pictures) for place, (pictures, _) in sets.items()}
    rows, shown, scores = [], {place: [] for place in sets}, {}
    for name, model in models.items():
        more, made, scores[name] = measured(name, model, sets, texts, network, originals)
        rows += more
        for place, pictures in made.items():
            shown[place].append(pictures)
    if baseline:
        for row in rows:
            name, place = row["model"], row["test set"]
            less = "" if name == baseline else spread(scores[name][place] - scores[baseline][place])
            row[f"PSNR less {baseline}, dB"] = less
    how = (
        f"{args.count or 'all'} pictures of each set at random (seed {args.seed}), captions {args.caption}; wrong captions are "
        f"those of another picture of the set at random; KID by {NETWORK} in place of Inception-v3."
    )
    write_tables(args.out / "reconstruction", rows, how)
    for place, (pictures, _) in sets.items():
        sheet(pictures, shown[place]).save(args.out / f"reconstruction-{file_name(place)}.webp", quality=90)


if __name__ == "__main__":
    main()
