"""docs/training.md as a stranger follows it: a folder of pictures in a style no bundled model saw, and what comes of it.

    python experiments/pictures/own_style.py --pictures SHARDS --minutes 2 10 30 --work runs/own

The folder is made of one source's pictures, KEY.webp beside KEY.txt that holds the name; a tenth of them (by a hash) are kept
out. Each number of minutes is a training of its own from the bundled generator, so rates fall to their end in every one.
Writes results/own-style.webp, names that were kept out beside what is drawn from them, and the KID of all of them as
own-style.csv and own-style.md.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
from generation import drawn, write_sheet
from measure import HERE, NETWORK, features_of, write_tables
from pack import chance
from PIL import Image

import textok
from textok import metrics
from textok.data.sources import open_sources
from textok.metrics.networks import load_network
from textok.train import data

BUNDLED = "emoji-t2i"
TOKENIZER = "emoji-textok"
SHOWN = 12
EVERYDAY = 4  # of them: captions of everyday.txt, which have no picture


def divide(shard, folder, size):
    """Write a shard's pictures and names into the folder, but for a tenth; returns the pictures and names of that tenth."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures, names = [], []
    for sample, _ in data.events(open_sources([shard]), "caption_name", "", []):
        pixels, name = data.decode(sample, size), sample.metadata["caption_name"]
        if chance(sample.key, "own ") < 0.1:
            pictures.append(pixels)
            names.append(name)
        else:
            Image.fromarray(pixels).save(folder / f"{sample.key}.webp", lossless=True)
            (folder / f"{sample.key}.txt").write_text(name)
    return np.stack(pictures), names


def trained(minutes, folder, out):
    """The pipeline that so many minutes make of the folder; an earlier training there goes on."""
    run, pipeline = out / f"run-{minutes:g}", out / f"{minutes:g} minutes"
    begun = ["train", "dit", "small-64-dit", "--data", folder, "--init", BUNDLED, f"latents.tokenizer={TOKENIZER}"]
    for command in (
        [*begun, "--minutes", f"{minutes:g}", "--out", run],
        ["pipeline", "--tokenizer", TOKENIZER, "--generator", run, "--overwrite", pipeline],
    ):
        subprocess.run([sys.executable, "-m", "textok", *command], check=True)
    return pipeline


def main():
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument("--source", default="emojione", help="the shard that is anybody's own pictures (default: %(default)s)")
    top.add_argument("--minutes", nargs="+", type=float, default=[2, 10, 30])
    top.add_argument("--work", type=Path, default=Path("runs/own"), help="for the folder and the trainings")
    top.add_argument("--pictures", type=Path, required=True, help="folder of the larger set's shards")
    top.add_argument("--seed", type=int, default=0)
    top.add_argument("--threads", type=int, default=None)
    top.add_argument("--out", type=Path, default=HERE / "results")
    args = top.parse_args()
    args.guidance = args.guidance_interval = None  # each pipeline's own
    size = textok.Pipeline.from_pretrained(BUNDLED).textok.config.image_size
    args.out.mkdir(parents=True, exist_ok=True)
    shard = args.pictures / f"{args.source}.tar.gz"
    pictures, names = divide(shard, args.work / "my-pictures", size)
    chosen = np.random.default_rng(args.seed).permutation(len(names))
    pictures, names = pictures[chosen], [names[place] for place in chosen]

    pipelines = {"before": BUNDLED}
    for minutes in args.minutes:
        pipelines[f"{minutes:g} minutes"] = trained(minutes, args.work / "my-pictures", args.work)
    everyday = (HERE / "everyday.txt").read_text().splitlines()[:EVERYDAY]
    network = load_network(NETWORK, args.threads)
    originals = features_of(network, pictures)
    own = SHOWN - EVERYDAY
    columns = [np.concatenate([pictures[:own], np.full_like(pictures[:EVERYDAY], 255)])]
    rows = []
    for label, name in pipelines.items():
        pipeline = textok.Pipeline.from_pretrained(name, threads=args.threads)
        made = drawn(pipeline, names, args)
        distance = metrics.kernel_distance(features_of(network, made), originals)
        rows.append({"pipeline": label, "names": len(names), "KID x 1000": f"{1000 * distance:.0f}"})
        columns.append(np.concatenate([made[:own], drawn(pipeline, everyday, args)]))
    write_sheet(args.out / "own-style.webp", names[:own] + everyday, columns, ["not trained on", *pipelines])
    how = (
        f"Names of {args.source} that were kept out, seed {args.seed}, each pipeline's own guidance and steps; "
        f"KID by {NETWORK} in place of Inception-v3."
    )
    write_tables(args.out / "own-style", rows, how)


if __name__ == "__main__":
    main()
