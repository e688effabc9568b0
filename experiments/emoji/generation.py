"""How good generated emoji are: DiTs on TexTok's latents beside DiTs on the Baseline's.

    python experiments/emoji/generation.py RUN [RUN ...] [--guidance 1 2 4] [--out experiments/emoji/results]

A RUN is the folder of `textok train dit`; its tokenizer is the one that it was trained on. For every test picture one is
generated: a class-conditional DiT gets its label, a DiT-T2I its caption, and the detokenizer its caption, which is in no
training data.

KID against the test pictures, Frechet distance, precision and recall against the training pictures, and how often what is drawn
is what was asked for: whether the nearest of the classes' mean features is that of the label. Writes generation.csv,
generation.md and sheets.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from claim import NETWORK, SETS, read_csv, spread, table, write_csv
from evaluation import BATCH, USUAL_CAPTION, Emoji, Features, Kept, add_data_arguments, frechet
from tqdm import tqdm

import textok
from textok import metrics
from textok.train.dit import load_tokenizer
from textok.train.export import load_average


class Generator:
    """A run's DiT and its tokenizer, in the C engine."""

    def __init__(self, folder, tokenizer, threads):
        self.folder = Path(folder)
        self.config, weights, self.history = load_average(self.folder)
        told = json.loads((self.folder / "training.json").read_text())
        self.planned, self.seed = told["run"]["steps"], told["run"]["seed"]
        self.caption = told["data"].get("caption", USUAL_CAPTION)
        self.tokenizer_name = tokenizer or told["latents"]["tokenizer"]
        self.decoder, decoder_stamp = load_tokenizer(self.tokenizer_name, threads=threads)
        self.dit = textok.DiT(self.config, weights, threads=threads)
        self.by_text = self.config["condition"] == "text"
        self.latents = "Baseline" if self.decoder.config.text_condition == "none" else "TexTok"
        self.stamp = [
            self.history["steps"],
            float(sum(np.abs(w).sum(dtype=np.float64) for w in weights.values())),
            decoder_stamp,
            self.caption,
        ]

    def pictures(self, emoji, rows, labels, steps, guidance, seed):
        """uint8 [len(rows),S,S,3]: one picture for each of the rows' conditions; picture k has stream k of the seed."""
        out = np.empty((len(rows), *emoji.pairs.images.shape[1:]), np.uint8)
        for start in tqdm(range(0, len(rows), BATCH), desc=f"{self.folder.name}: samples", disable=None, leave=False):
            part = rows[start : start + BATCH]
            condition = {"labels": labels[part]}
            if self.by_text:
                condition = emoji.text(part, self.caption, self.config["num_text_tokens"])
            z = self.dit.sample(**condition, steps=steps, guidance_scale=guidance, seed=seed, first_index=start)
            beside = emoji.condition(self.decoder.config.to_dict(), part, self.caption)
            out[start : start + BATCH] = self.decoder.decode(z, **beside)
        return out


def centroids(features, labels, classes):
    """Mean features [classes,D] of each class; far away for a class without pictures."""
    total = np.full((classes, features.shape[1]), 1e6)
    for label in np.unique(labels):
        total[label] = np.asarray(features[labels == label], np.float64).mean(axis=0)
    return total


def followed(features, labels, means):
    """The share of rows [n,D] whose nearest mean is that of their label."""
    x = np.asarray(features, np.float64)
    distances = np.square(x).sum(axis=1)[:, None] - 2 * x @ means.T + np.square(means).sum(axis=1)  # [n,classes]
    return float((distances.argmin(axis=1) == labels).mean())


def score(made, labels, tests, trains, means):
    """The measures of a set of features [n,D]; tests and trains are those of real pictures."""
    precision, recall = metrics.precision_recall(made, trains)
    return {
        "kid_x1000": round(1000 * metrics.kernel_distance(made, tests), 3),
        "frechet": round(frechet(made, trains), 2),
        "precision": round(precision, 4),
        "recall": round(recall, 4),
        "class_followed": round(100 * followed(made, labels, means), 2),
    }


def main(arguments=None):
    top = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    top.add_argument("runs", nargs="+", help="folders of trainings of DiTs")
    top.add_argument(
        "--tokenizer", help="a tokenizer's folder in place of the one that the runs tell of, which must be the same model"
    )
    top.add_argument("--guidance", nargs="+", type=float, default=[1.0, 3.0])
    top.add_argument("--steps", type=int, default=50)
    top.add_argument("--seed", type=int, default=0)
    top.add_argument("--count", type=int, default=0, help="how many pictures (0: one for each test picture)")
    top.add_argument("--train-pictures", type=int, default=0, help="how many of the training split stand for it (0: all)")
    top.add_argument("--earlier", type=Path, help="a folder of results whose other runs stand beside these")
    top.add_argument("--out", default=Path(__file__).parent / "results", type=Path)
    add_data_arguments(top)
    args = top.parse_args(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    emoji, kept = Emoji.load(args), Kept(args.work)
    features = Features(kept, args.threads)
    labels = emoji.labels
    tests, trains = np.concatenate([emoji.splits[name] for name in SETS]), spread(emoji.splits["train"], args.train_pictures)
    asked = spread(tests, args.count)
    real = features.of(NETWORK, "real-tests", ["tests", len(tests)], emoji.pairs.images[tests])
    seen = features.of(NETWORK, "real-trains", ["trains", len(trains)], emoji.pairs.images[trains])
    means = centroids(seen, labels[trains], int(labels.max()) + 1)
    rows = [{"model": "test pictures themselves", **score(real, labels[tests], real, seen, means), "kid_x1000": ""}]
    made_here = {rows[0]["model"], *(Path(run).name for run in args.runs)}
    rows += [
        row for row in (read_csv(args.earlier / "generation.csv") if args.earlier else []) if row["model"] not in made_here
    ]
    for run in args.runs:
        generator, sheet = Generator(run, args.tokenizer, args.threads), []
        for guidance in args.guidance:
            stamp = ["samples", generator.stamp, args.steps, guidance, args.seed, len(asked)]
            name = generator.folder.name
            pictures = kept.get(
                f"{name}-{guidance:g}",
                stamp,
                lambda g=generator, s=guidance: g.pictures(emoji, asked, labels, args.steps, s, args.seed),
            )
            made = features.of(NETWORK, f"{name}-{guidance:g}", stamp, pictures)
            row = {
                "model": name,
                "latents": generator.latents,
                "tokens": generator.config["num_tokens"],
                "condition": generator.config["condition"],
                "guidance": guidance,
                "steps": generator.history["steps"],
                "planned_steps": generator.planned,
                "cpu_hours": round(generator.history["cpu_hours"], 3),
                "pictures": len(asked),
            } | score(made, labels[asked], real, seen, means)
            rows.append(row)
            print(row, flush=True)
            sheet.append(pictures)
        write_sheet(args.out / f"samples-{name}.webp", emoji, asked, sheet, args.guidance)
    write_csv(args.out / "generation.csv", rows)
    (args.out / "generation.md").write_text(markdown(rows, args))
    print((args.out / "generation.md").read_text())


def markdown(rows, args):
    head = [
        "model",
        "latents",
        "tokens",
        "condition",
        "guidance",
        "steps",
        "CPU hours",
        "pictures",
        "KID x 1000",
        "Frechet",
        "precision",
        "recall",
        "class followed",
    ]
    keys = [
        "model",
        "latents",
        "tokens",
        "condition",
        "guidance",
        "steps",
        "cpu_hours",
        "pictures",
        "kid_x1000",
        "frechet",
        "precision",
        "recall",
        "class_followed",
    ]
    unfinished = [
        f"{r['model']} ({r['steps']} of {r['planned_steps']} steps)"
        for r in rows
        if r.get("steps", 0) < r.get("planned_steps", 0)
    ]
    words = (
        f"# Generated emoji\n\nOne picture for each test picture's label or caption, {args.steps} evaluations of "
        f"DPM-Solver++, seed {args.seed}, decoded with the "
        f"test picture's caption. {NETWORK} features; KID against the test pictures, the rest against those of training. "
        f"Class followed: per cent whose "
        "nearest class by mean features, of 99, is the one asked for.\n\n"
    )
    if unfinished:
        words += f"**Not finished: {', '.join(dict.fromkeys(unfinished))}.**\n\n"
    return words + table(head, [[row.get(key, "") for key in keys] for row in rows]) + "\n"


def write_sheet(path, emoji, asked, sets, guidances, count=12):
    """Test pictures, and what was generated for their label or caption at each guidance."""
    from textok.pictures.sheets import Entry, contact_sheet

    entries = [
        Entry(
            [emoji.pairs.images[asked[k]], *(np.asarray(made[k]) for made in sets)],
            emoji.pairs.records[asked[k]]["name"],
            emoji.pairs.records[asked[k]]["style"],
        )
        for k in spread(np.arange(len(asked)), count)
    ]
    contact_sheet(
        entries, columns=2, headings=["test picture", *(f"guidance {g:g}" for g in guidances)], side=112, text_width=150
    ).save(path, quality=90)


if __name__ == "__main__":
    main()
