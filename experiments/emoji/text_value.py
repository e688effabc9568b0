"""What captions tell of pictures that a code of so many numbers does not, as far as a line fitted to the training pictures can
say.

    python experiments/emoji/text_value.py [--out experiments/emoji/results]

A code is the first n principal components of a picture. The other components are predicted by ridge regression from the code
and the caption together: from the words of a caption, each with the place that its clause names ("top left ... green"), or from
the mean of its token embeddings. The gain is in PSNR over the code alone. Ridge's strength is chosen on a seventh of the
training pictures, emoji that the fit has not seen; beside it stands what the weakest ridge gives, which learns its captions by
heart.

Writes text-value.csv, text-value.md and text-value.webp. It says what is there to be read by a simple reader, not what a
transformer could read; a few minutes on one core.
"""

import argparse
import re
from collections import Counter
from pathlib import Path

import numpy as np
from claim import table, write_csv
from evaluation import Emoji, add_data_arguments, fit_pca

PLACES = ("top left", "top right", "bottom left", "bottom right", "centre")
CODES = (0, 32, 64, 128, 256)
LEARNT = 512  # components that are predicted
STRENGTHS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
SHARES = (0.125, 0.25, 0.5, 1.0)  # of the training pictures
LEAST = 8  # captions of the training split that a word must be in
SPLITS = ("train", "concept", "pair")


def placed_words(caption):
    """The words of a caption, each with the place that its clause begins with ("" where it names none)."""
    found = []
    for clause in re.split(r"[;.:]", caption.lower()):
        place = next((p for p in PLACES if clause.strip().startswith(p)), "")
        found += [(place, word) for word in re.findall(r"[a-z0-9]+", clause.strip()[len(place) :])]
    return found


def bags(captions, train):
    """float32 [n,words]: 1 where a word of at least LEAST training captions stands in a caption."""
    told = [set(placed_words(caption)) for caption in captions]
    counts = Counter(word for row in train for word in told[row])
    places = {word: k for k, word in enumerate(sorted(w for w, n in counts.items() if n >= LEAST))}
    result = np.zeros((len(captions), len(places)), np.float32)
    for row, words in enumerate(told):
        result[row, [places[word] for word in words if word in places]] = 1
    return result


def ridge(features, targets, rows, strength):
    """float32 [n,k]: the targets of all rows as the fit to `rows` predicts them."""
    mean = features[rows].mean(axis=0)
    x = (features - mean) / (features[rows].std(axis=0) + 1e-6)
    middle = targets[rows].mean(axis=0)
    square = x[rows].T @ x[rows] + strength * len(rows) * np.eye(x.shape[1], dtype=np.float32)
    return x @ np.linalg.solve(square, x[rows].T @ (targets[rows] - middle)) + middle


class Codes:
    """Pictures as principal components, and the PSNR of what is left of them."""

    def __init__(self, images, train):
        flat = images.reshape(len(images), -1).astype(np.float32) / 127.5 - 1
        mean, directions = fit_pca(images[train], LEARNT)
        self.components = (flat - mean) @ directions
        self.outside = ((flat - mean) ** 2).sum(axis=1) - (self.components**2).sum(axis=1)
        self.size = flat.shape[1]

    def psnr(self, errors):
        """Of each picture, from its squared errors within the components [n]."""
        return 10 * np.log10(4 * self.size / (errors + self.outside))

    def gains(self, n, features, rows, strength):
        """[pictures]: dB over the first n components alone."""
        code, rest = self.components[:, :n], self.components[:, n:]
        predicted = ridge(np.concatenate([features, code], axis=1), rest, rows, strength)
        return self.psnr(((rest - predicted) ** 2).sum(axis=1)) - self.psnr((rest**2).sum(axis=1))


def chosen_strength(codes, n, features, rows, groups):
    """The strength that is best on a seventh of the groups in `rows`, fitted to the others."""
    names = np.random.default_rng(0).permutation(np.unique(groups[rows]))
    apart = np.isin(groups[rows], names[: len(names) // 7])
    told = [codes.gains(n, features, rows[~apart], s)[rows[apart]].mean() for s in STRENGTHS]
    return STRENGTHS[int(np.argmax(told))]


def measure(codes, features, splits, groups):
    """Rows of text-value.csv."""
    result = []
    for kind, values in features.items():
        for n in CODES:
            for share in SHARES if n == CODES[1] else (1.0,):
                names = np.random.default_rng(1).permutation(np.unique(groups[splits["train"]]))
                some = splits["train"][np.isin(groups[splits["train"]], names[: round(share * len(names))])]
                for strength in (chosen_strength(codes, n, values, some, groups), STRENGTHS[0]):
                    gains = codes.gains(n, values, some, strength)
                    row = {"text": kind, "numbers": n, "share": share, "pictures": len(some), "strength": strength}
                    fitted = {**splits, "train": some}
                    result.append(row | {f"gain_{name}": round(float(gains[fitted[name]].mean()), 4) for name in SPLITS})
                    print(result[-1], flush=True)
    return result


def markdown(rows):
    def lines(chosen, first):
        pairs = zip(chosen[::2], chosen[1::2], strict=True)
        return [
            [
                a["text"],
                first(a),
                *(f"{a[f'gain_{name}']:+.2f}" for name in SPLITS),
                *(f"{b[f'gain_{name}']:+.2f}" for name in SPLITS),
            ]
            for a, b in pairs
        ]

    head = [*(f"{name}, restrained" for name in SPLITS), *(f"{name}, by heart" for name in SPLITS)]
    whole = [row for row in rows if row["share"] == 1]
    learning = [row for row in rows if row["numbers"] == CODES[1]]
    return "\n".join(
        [
            "# What captions add to a code\n",
            (
                "dB of PSNR over the first principal components alone, by ridge regression from code and caption "
                "(`text_value.py`). Restrained: its strength chosen on emoji of the training split that the fit had not "
                f"seen. By heart: the weakest ridge. Words: those in at least {LEAST} training captions, with the place "
                "that their clause names.\n"
            ),
            table(["caption", "numbers of the code", *head], lines(whole, lambda row: row["numbers"])),
            f"\n## With {CODES[1]} numbers, by training pictures\n",
            table(["caption", "training pictures", *head], lines(learning, lambda row: row["pictures"])),
            "",
        ]
    )


def plot(rows, path):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4))
    for name, colour in zip(SPLITS, ("#888888", "#1f5fa8", "#c8553d"), strict=True):
        for offset, style, words in ((0, "o-", "restrained"), (1, "s:", "by heart")):
            for axis, key, chosen in (
                (left, "numbers", [row for row in rows if row["share"] == 1 and row["numbers"]]),
                (right, "pictures", [row for row in rows if row["numbers"] == CODES[1]]),
            ):
                told = [row for row in chosen if row["text"] == rows[0]["text"]][offset::2]
                axis.plot(
                    [r[key] for r in told], [r[f"gain_{name}"] for r in told], style, color=colour, label=f"{name}, {words}"
                )
    for axis, words in ((left, "numbers of the code"), (right, f"training pictures ({CODES[1]} numbers)")):
        axis.set_xscale("log", base=2)
        ticks = sorted({x for line in axis.lines for x in line.get_xdata()})
        axis.set_xticks(ticks, labels=[str(t) for t in ticks])
        axis.minorticks_off()
        axis.axhline(0, color="black", linewidth=0.8)
        axis.set_xlabel(words)
        axis.grid(alpha=0.3)
    left.set_ylabel("what the caption's words add, dB")
    right.legend(fontsize=8, loc="upper right")
    figure.tight_layout()
    figure.savefig(path, dpi=110, pil_kwargs={"lossless": True})
    pyplot.close(figure)


def main(arguments=None):
    top = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    top.add_argument("--out", default=Path(__file__).parent / "results", type=Path)
    add_data_arguments(top)
    args = top.parse_args(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    emoji = Emoji.load(args)
    train = emoji.splits["train"]
    texts, captions = emoji.texts(args.caption), emoji.pairs.column
    features = {
        "long, words": bags(captions("caption_long"), train),
        "long, mean embedding": np.stack([texts.row(i).astype(np.float32).mean(axis=0) for i in range(len(emoji.labels))]),
        "short, words": bags(captions("caption"), train),
        "name, words": bags(captions("caption_name"), train),
    }
    groups = np.unique(captions("codepoints"), return_inverse=True)[1]
    rows = measure(Codes(emoji.pairs.images, train), features, emoji.splits, groups)
    write_csv(args.out / "text-value.csv", rows)
    (args.out / "text-value.md").write_text(markdown(rows))
    plot(rows, args.out / "text-value.webp")
    print(markdown(rows))


if __name__ == "__main__":
    main()
