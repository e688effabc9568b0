"""Pictures from words: everyday captions as a sheet; how near held-out pictures generated ones come, by kind of caption.

    textok pipeline --tokenizer emoji-textok --generator runs/t2i PIPELINE
    python experiments/pictures/generation.py --pictures FOLDER --emoji FOLDER PIPELINE [PIPELINE ...] [--count 256]

A PIPELINE is the folder of a text-to-image pipeline, or a bundled name; each samples with its own guidance, solver and steps
unless told otherwise: `--captions long --solver euler heun --steps 5 10 20 50` makes the rows of a curve. For every test
picture one is generated from its caption: long, short and name. KID is against the test pictures. "Followed" is how often a
picture is nearest to the mean features of its label's training pictures (emoji alone have labels), beside it that of the
test pictures themselves.
Writes everyday.webp, a sheet of held-out captions at random, generation.csv and generation.md.
"""

import argparse
import itertools
import time
from pathlib import Path

import numpy as np
from measure import BATCH, HERE, NETWORK, add_arguments, features_of, file_name, test_sets, write_tables
from tqdm import tqdm

import textok
from textok import metrics
from textok.data.sources import open_sources
from textok.metrics.networks import load_network
from textok.pictures.sheets import Entry, contact_sheet
from textok.sampling import Sampling
from textok.train import data

KINDS = {"long": "caption_long", "short": "caption", "name": "caption_name"}
SETS = ("emoji, by concept", "others, by concept")
SHOWN = 12


def drawn(pipeline, captions, args, solver=None, steps=None):
    """uint8 [n,S,S,3], a picture for each caption; picture k has stream k of the seed."""
    how = {"guidance_scale": args.guidance, "guidance_interval": args.guidance_interval, "solver": solver, "steps": steps}
    how |= {"seed": args.seed, "threads": args.threads}
    parts = [
        pipeline(captions=captions[start : start + BATCH], first_index=start, **how).images
        for start in tqdm(range(0, len(captions), BATCH), disable=None, leave=False)
    ]
    return np.concatenate(parts)


def label_means(folder, network, size):
    """{label: mean features} of the training split's emoji."""
    found = {}
    for sample, _ in data.events(open_sources(sorted(Path(folder).glob("*.tar*"))), "caption", "", []):
        if sample.metadata.get("split") == "train":
            found.setdefault(sample.metadata["label"], []).append(data.decode(sample, size))
    return {label: features_of(network, np.stack(pictures)).mean(axis=0) for label, pictures in found.items()}


def followed(features, labels, means):
    """The share of features [n,D] whose nearest mean is that of their label."""
    names = list(means)
    distances = np.square(features[:, None].astype(np.float64) - np.stack([means[name] for name in names])).sum(axis=2)
    return float(np.mean([names[place] == label for place, label in zip(distances.argmin(axis=1), labels, strict=True)]))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pipelines", nargs="+", metavar="PIPELINE")
    parser.add_argument("--sources", nargs="+", help="of the larger set, whose test pictures are asked for (default: all)")
    parser.add_argument("--guidance", type=float, default=None)
    parser.add_argument("--guidance-interval", nargs=2, type=float, default=None, metavar=("LOW", "HIGH"))
    parser.add_argument("--captions", nargs="+", choices=KINDS, default=list(KINDS), help="(default: all)")
    parser.add_argument("--solver", nargs="+", default=[None], help="a row each, with all of --steps")
    parser.add_argument("--steps", nargs="+", type=int, default=[None], help="a row each")
    add_arguments(parser, count=256)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    pipelines = {Path(name).name: textok.Pipeline.from_pretrained(name, threads=args.threads) for name in args.pipelines}
    everyday = (HERE / "everyday.txt").read_text().splitlines()
    made = [drawn(pipeline, everyday, args) for pipeline in pipelines.values()]
    write_sheet(args.out / "everyday.webp", everyday, made, pipelines)

    size = next(iter(pipelines.values())).textok.config.image_size
    network = load_network(NETWORK, args.threads)
    means = label_means(args.emoji, network, size)
    rows, shown = [], {}
    for kind in args.captions:
        sets = test_sets(args.pictures, args.emoji, size, KINDS[kind], args.count, args.seed, args.sources)
        for place in SETS:
            pictures, samples = sets[place]
            originals, captions = features_of(network, pictures), [sample.caption(KINDS[kind]) for sample in samples]
            labels = [sample.metadata.get("label") for sample in samples]
            known = place == SETS[0]  # emoji alone have labels
            of_originals = f"{followed(originals, labels, means):.3f}" if known else ""
            for (name, pipeline), solver, steps in itertools.product(pipelines.items(), args.solver, args.steps):
                begun = time.perf_counter()
                found = drawn(pipeline, captions, args, solver, steps)
                seconds = (time.perf_counter() - begun) / len(found)
                features = features_of(network, found)
                used = Sampling(steps, solver).over(pipeline.sampling).resolved(pipeline.dit.config)
                rows.append(
                    {
                        "pipeline": name,
                        "test set": place,
                        "captions": kind,
                        "pictures": len(found),
                        "solver": f"{used.solver}, {used.steps}",
                        "KID x 1000": f"{1000 * metrics.kernel_distance(features, originals):.0f}",
                        "followed": f"{followed(features, labels, means):.3f}" if known else "",
                        "of originals": of_originals,
                        "ms a picture": f"{1000 * seconds:.0f}",
                    }
                )
                if kind == args.captions[0]:
                    shown.setdefault(place, [captions[:SHOWN], pictures[:SHOWN]]).append(found[:SHOWN])
    for place, (captions, *columns) in shown.items():
        write_sheet(args.out / f"generation-{file_name(place)}.webp", captions, columns, ["the test picture", *pipelines])
    how = (
        f"{args.count or 'all'} pictures of each set at random{' of ' + ', '.join(args.sources) if args.sources else ''}, "
        f"seed {args.seed}, guidance {args.guidance or 'of each pipeline'}; KID by {NETWORK} in place of Inception-v3."
    )
    write_tables(args.out / "generation", rows, how)


def write_sheet(path, captions, columns, names):
    """A caption and its picture of each column a line, two lines side by side."""
    entries = [Entry(list(pictures), "", caption) for caption, *pictures in zip(captions, *columns, strict=True)]
    contact_sheet(entries, columns=2, headings=[*names], side=128, text_width=150).save(path, quality=90)


if __name__ == "__main__":
    main()
