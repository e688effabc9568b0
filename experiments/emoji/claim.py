"""The paper's claim on captioned emoji: what text is worth at each number of tokens.

    python experiments/emoji/claim.py RUN [RUN ...] [--out experiments/emoji/results]

A RUN is the folder of a training (`textok train tokenizer`), finished or not, or a model's. Each is compared on two test
sets: *concept*, whose emoji are in no style part of the training, and *pair*, seen in another style. Beside TexTok and its
Baseline stands a PCA of as many numbers. Pictures are made by the C engine, in float32, each model reading the captions or
labels that it was trained on.

Runs of other steps and ablations may stand among them. A TexTok is compared with the Baseline of its tokens, seed and steps,
with one of about its CPU time, and, where it is an ablation, with the full TexTok of its tokens, seed and steps. Plots and
sheets show the usual runs: those of the number of steps that most TexToks have, and no ablations.

Writes claim.csv (one row a model and test set), gains.csv (the comparisons, with bootstrap intervals), claim.md, plots,
sheets of pictures, and the logs of the runs. Killed and run again it goes on from what --work holds.

    python experiments/emoji/claim.py RUN [RUN ...] --earlier experiments/emoji/results

puts new runs beside what that folder holds of runs that are no more: tables, plots and logs then have both, sheets of pictures
the new ones. Comparisons are made among the new. Other pictures are told of with --data, --pair-test, --about and --pair.
"""

import argparse
import csv
import functools
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
from evaluation import (
    Candidate,
    Emoji,
    Features,
    Kept,
    add_data_arguments,
    candidate,
    frechet,
    paired_kernels,
    paired_kid,
    pca_candidate,
    reconstruct,
)

from textok import metrics
from textok.errors import TextokError

SETS = ("concept", "pair")
NETWORK = "efficientnet-lite0@128"
OTHER_NETWORK = "efficientnet-lite2@128"  # was no part of any loss
PAPER_GAINS = {4: (37.2, 32), 8: (25.0, 64), 16: (30.2, 128), 32: (24.2, 256)}  # tokens: per cent of rFID at so many there
KINDS = ("TexTok", "Baseline", "PCA")
PER_PICTURE = {
    "psnr": (+1, "PSNR, dB"),
    "ssim": (+1, "SSIM"),
    "perceptual": (-1, "perceptual distance"),
}  # whether more is better
DRAWS = 10_000
HALVES = 200


def spread(rows, count):
    """At most `count` of the rows, evenly spread; all for 0."""
    return rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)] if count else rows


def measure(one, emoji, features, kept, args):
    """{test set: measures} of a candidate; measures are numbers, arrays a picture [n], and the matrix of kernels.

    Everything is made of `used`: the test sets and, for the Frechet distance over both, --train-pictures of the training split.
    """
    pairs, train = emoji.pairs, spread(emoji.splits["train"], args.train_pictures)
    used = np.concatenate([*(emoji.splits[name] for name in SETS), train])
    pictures = kept.get(one.name, ["pictures", one.stamp, len(used)], lambda: reconstruct(one, emoji, used, args.threads))
    stamp, originals = [one.stamp, len(used)], ["originals", len(used)]
    made = features.of(NETWORK, one.name, stamp, pictures)
    real = features.of(NETWORK, "originals", originals, pairs.images[used])
    whole = frechet(made, real)
    result, start = {}, 0
    for name in SETS:
        here = slice(start, start + len(emoji.splits[name]))
        start = here.stop
        got, want = np.asarray(pictures[here]), pairs.images[used[here]]
        values = {
            "psnr": metrics.psnr(got, want),
            "ssim": kept.get(f"{one.name}-{name}-ssim", ["ssim", name, one.stamp], functools.partial(metrics.ssim, got, want)),
            "perceptual": features.perceptual(f"{one.name}-{name}", [name, one.stamp], got, want),
            "kernels": paired_kernels(made[here], real[here]),
            "frechet_all": whole,
            "frechet": frechet(made[here], real[here]),
        }
        if one.kind == "TexTok":
            rows = used[here]
            others = kept.get(
                f"{one.name}-{name}-wrong",
                ["wrong captions", name, one.stamp],
                functools.partial(reconstruct, one, emoji, rows, args.threads, np.roll(rows, len(rows) // 2)),
            )
            values["psnr_wrong"] = metrics.psnr(np.asarray(others), want)
        if args.other_network:
            values["kernels_other"] = paired_kernels(
                features.of(OTHER_NETWORK, f"{one.name}-{name}", [name, one.stamp], got),
                features.of(OTHER_NETWORK, f"originals-{name}", [name, "originals"], want),
            )
        result[name] = values
    return result


def summary(one, name, values):
    """A row of claim.csv."""
    row = {
        "model": one.name,
        "kind": one.kind,
        "variant": one.variant,
        "test_set": name,
        "tokens": one.tokens,
        "numbers": one.numbers,
        "seed": one.seed,
        "steps": one.steps,
        "planned_steps": one.planned,
        "images": one.images,
        "cpu_hours": round(one.cpu_hours, 3),
        "pictures": len(values["psnr"]),
    }
    row |= {key: round(float(np.mean(values[key])), 5) for key in PER_PICTURE}
    if "psnr_wrong" in values:
        row["psnr_wrong_captions"] = round(float(np.mean(values["psnr_wrong"])), 5)
    row["kid_x1000"] = round(1000 * paired_kid(values["kernels"]), 4)
    if "kernels_other" in values:
        row["kid_lite2_x1000"] = round(1000 * paired_kid(values["kernels_other"]), 4)
    return row | {"frechet": round(values["frechet"], 3), "frechet_train_and_test": round(values["frechet_all"], 3)}


def bootstrap(differences, seed=0):
    """Mean of paired differences [n] and its 95% percentile interval over resampled pictures."""
    rng = np.random.default_rng(seed)
    means = [differences[rng.integers(0, len(differences), len(differences))].mean() for _ in range(DRAWS)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(differences.mean()), float(low), float(high)


def kid_gain(ours, theirs, seed=0):
    """Relative gain of KID in per cent, and its standard error by the delete-half jackknife: the spread over random halves of
    the pictures.
    """
    rng = np.random.default_rng(seed)
    gain = 100 * (1 - paired_kid(ours) / paired_kid(theirs))
    halves = [rng.permutation(len(ours))[: len(ours) // 2] for _ in range(HALVES)]
    return gain, float(np.std([100 * (1 - paired_kid(ours, rows) / paired_kid(theirs, rows)) for rows in halves]))


def gain_row(ours, theirs, name, a, b):
    """A row of gains.csv: TexTok `ours` with measures a against `theirs` (mostly a Baseline) with b, on the test set `name`."""
    row = {
        "variant": ours.variant,
        "tokens": ours.tokens,
        "seed": ours.seed,
        "test_set": name,
        "textok": ours.name,
        "baseline": theirs.name,
        "textok_steps": ours.steps,
        "baseline_steps": theirs.steps,
        "textok_cpu_hours": round(ours.cpu_hours, 3),
        "baseline_cpu_hours": round(theirs.cpu_hours, 3),
    }
    for key, (sign, _) in PER_PICTURE.items():
        mean, low, high = bootstrap(np.asarray(a[key]) - np.asarray(b[key]))
        row |= {key: round(mean, 5), f"{key}_low": round(low, 5), f"{key}_high": round(high, 5)}
        row[f"{key}_better"] = round(100 * float((sign * (np.asarray(a[key]) - np.asarray(b[key])) > 0).mean()), 1)
    for key, kernels in (("kid_gain", "kernels"), ("kid_lite2_gain", "kernels_other")):
        if kernels in a:
            gain, error = kid_gain(a[kernels], b[kernels])
            row |= {key: round(gain, 2), f"{key}_error": round(error, 2)}
    row["frechet_gain"] = round(100 * (1 - a["frechet_all"] / b["frechet_all"]), 2)
    return row


def plain_baselines(rows):
    """Those without registers, or what else makes another model of one."""
    return [row for row in rows if row["kind"] == "Baseline" and not row.get("variant")]


def equal_tokens(rows, name, key):
    """{a TexTok's name: how many Baseline tokens have its `key`}, by interpolation over the logarithm of tokens.

    None where fewer than two Baselines of its seed and steps stand for a curve; with < or > where the value is off its ends.
    """
    result = {}
    chosen = [row for row in rows if row["test_set"] == name]
    for row in (row for row in chosen if row["kind"] == "TexTok"):
        alike = [r for r in plain_baselines(chosen) if (r["seed"], r["steps"]) == (row["seed"], row["steps"])]
        curve = sorted({other["tokens"]: other[key] for other in alike}.items())
        if len(curve) < 2:
            result[row["model"]] = None
            continue
        tokens, values = np.array(curve).T
        sign = 1 if values[-1] > values[0] else -1
        if sign * row[key] > sign * values[-1]:
            found = f"> {tokens[-1]:.0f}"
        elif sign * row[key] < sign * values[0]:
            found = f"< {tokens[0]:.0f}"
        else:
            found = f"{2 ** np.interp(sign * row[key], sign * values, np.log2(tokens)):.1f}"
        result[row["model"]] = found
    return result


def baselines_of(one, candidates):
    """The plain Baselines of a TexTok's tokens and seed; none of what is no TexTok."""
    return [c for c in candidates if one.kind == "TexTok" and (c.label, c.tokens, c.seed) == ("Baseline", one.tokens, one.seed)]


def partner(one, candidates):
    """The Baseline to compare a TexTok with, which has come as many steps; None where there is none.

    Of several, as of two machines, the namesake: baseline8b for textok8b.
    """
    equal = [c for c in baselines_of(one, candidates) if c.steps == one.steps]
    namesake = one.name.replace("textok", "baseline")
    return min(equal, key=lambda c: c.name != namesake, default=None)


def full_partner(one, candidates):
    """The full TexTok of an ablation's tokens, seed and steps; None where there is none, or where `one` is no ablation."""
    alike = [c for c in candidates if (c.label, c.tokens, c.seed, c.steps) == ("TexTok", one.tokens, one.seed, one.steps)]
    return alike[0] if one.variant and alike else None


def usual(candidates):
    """Those that plots and sheets show: no ablations, and of trained models those of the steps that most TexToks have."""
    plain = [c for c in candidates if not c.variant]
    steps = Counter(c.steps for c in plain if c.kind == "TexTok")
    most = max(steps, key=lambda s: (steps[s], s), default=None)
    return [c for c in plain if c.kind == "PCA" or most in (None, c.steps)]


def equal_time_partner(one, candidates):
    """A Baseline of other steps that took the same CPU time, within a tenth; None where there is none."""
    fitting = [c for c in baselines_of(one, candidates) if c.steps != one.steps]
    nearest = min(fitting, key=lambda c: abs(c.cpu_hours - one.cpu_hours), default=None)
    return nearest if nearest and abs(nearest.cpu_hours - one.cpu_hours) <= 0.1 * one.cpu_hours else None


# --- What is written ----------------------------------------------------------------------------------------------------------


def write_csv(path, rows):
    names = list(dict.fromkeys(name for row in rows for name in row))
    with Path(path).open("w", newline="") as file:
        writer = csv.DictWriter(file, names, restval="")
        writer.writeheader()
        writer.writerows(rows)


def number(text):
    """A field of a CSV file: an int or float where it is one, else the text."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def read_csv(path):
    """The rows of what `write_csv` wrote, without empty fields but for the columns of text."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [{k: number(v) for k, v in row.items() if v or k == "variant"} for row in csv.DictReader(file)]


def earlier_results(folder, names):
    """What `folder` holds of runs other than `names`: rows of claim.csv, of gains.csv, and Candidates with logs but without
    weights."""
    rows = [row for row in read_csv(folder / "claim.csv") if row["model"] not in names]
    gains = [row for row in read_csv(folder / "gains.csv") if not {row["textok"], row["baseline"]} & names]
    logged = []
    for row in rows:
        log = folder / "logs" / f"{row['model']}.csv"
        if row["test_set"] == SETS[0] and log.exists():
            with log.open(newline="") as file:
                lines = list(csv.DictReader(file))
            about = ("kind", "tokens", "numbers", "seed", "steps", "images", "cpu_hours", "variant")
            logged.append(Candidate(name=row["model"], planned=row["planned_steps"], log=lines, **{k: row[k] for k in about}))
    return rows, gains, logged


def table(head, rows):
    lines = [f"| {' | '.join(head)} |", f"| {' | '.join('---' for _ in head)} |"]
    return "\n".join([*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows)])


def markdown(rows, gains, timed, ablations, candidates, network_words, note):
    """claim.md."""
    parts = ["# What text is worth at each number of tokens\n", *([f"{note}\n"] if note else []), network_words]
    unfinished = [f"{c.name} ({c.steps} of {c.planned} steps)" for c in candidates if not c.finished]
    if unfinished:
        parts.append(f"**Not finished, so no final result: {', '.join(unfinished)}.**\n")
    measured = {row["model"] for row in rows}
    if any(c.name not in measured for c in candidates):
        parts.append("Of a run that is in no table below only the log is compared.\n")
    has_other = any("kid_lite2_x1000" in row for row in rows)
    for name in SETS:
        chosen = [row for row in rows if row["test_set"] == name]
        chosen.sort(key=lambda r: (r["tokens"], KINDS.index(r["kind"]), r["steps"], r["variant"], r["seed"]))
        head = ["tokens", "model", "seed", "steps", "CPU hours", "PSNR", "SSIM", "perceptual", "KID x 1000"]
        head += ["KID x 1000, Lite2"] * has_other + ["Frechet", "Frechet, train and test", "PSNR with wrong captions"]
        body = [
            [
                r["tokens"],
                f"{r['kind']}, {r['variant']}" if r["variant"] else r["kind"],
                *((r["seed"], r["steps"], f"{r['cpu_hours']:.2f}") if r["steps"] else ("",) * 3),
                f"{r['psnr']:.2f}",
                f"{r['ssim']:.4f}",
                f"{r['perceptual']:.4f}",
                f"{r['kid_x1000']:.2f}",
                *(f"{r[key]:.2f}" for key in ("kid_lite2_x1000",) if has_other),
                f"{r['frechet']:.1f}",
                f"{r['frechet_train_and_test']:.1f}",
                f"{r['psnr_wrong_captions']:.2f}" if "psnr_wrong_captions" in r else "",
            ]
            for r in chosen
        ]
        parts.append(f"## Test set by {name}: {chosen[0]['pictures']} pictures\n\n{table(head, body)}\n")
    if gains:
        parts.append("## TexTok beside the Baseline of the same tokens, seed and steps\n\n" + gain_table(gains))
        parts.append(equality_words(rows))
    if ablations:
        parts.append(f"## Ablations beside the full TexTok\n\n{ABLATION_WORDS}\n\n{gain_table(ablations, paper=False)}")
    for column, words in (("step", "step"), ("cpu_seconds", "CPU seconds")):
        logged = log_rows(candidates, column)
        if logged:
            head = [
                "model",
                "tokens",
                "seed",
                words,
                *(f"{kind}, {name}" for name in LOGGED for kind in ("TexTok", "Baseline", "difference")),
            ]
            parts.append(f"## As training goes on, at equal {words}\n\n{LOG_WORDS}\n\n{table(head, logged)}\n")
    if timed:
        parts.append("## At about equal CPU time\n\n" + gain_table(timed))
    return "\n".join(parts)


ABLATION_WORDS = (
    "What each loses or gains against TexTok that reads long captions, in context, on both sides. With registers: a "
    "Baseline that has as many learnt rows in its sequences where TexTok has captions. The paper's rFID at 128 tokens: "
    "1.04 with text on both sides, 1.11 in the tokenizer only, 1.28 in the detokenizer only, 1.49 without; richer "
    "captions and in-context text rather than cross-attention help there."
)


def gain_table(gains, paper=True):
    """`paper`: with the paper's gains over its Baseline."""
    has_other, has_variant = (any(row.get(key) for row in gains) for key in ("kid_lite2_gain", "variant"))
    head = ["tokens"] + ["variant"] * has_variant + ["seed", "test set", "steps", "PSNR, dB", "SSIM", "perceptual"]
    head += ["better in PSNR", "KID gain"] + ["KID gain, Lite2"] * has_other + ["Frechet gain"]
    head += ["the paper's rFID gain"] * paper
    body = []
    for row in gains:
        told = [f"{row[key]:+.4f} [{row[f'{key}_low']:+.4f}, {row[f'{key}_high']:+.4f}]" for key in PER_PICTURE]
        kids = [f"{row[key]:+.1f}% (error {row[f'{key}_error']:.1f})" for key in ("kid_gain", "kid_lite2_gain") if key in row]
        steps = (
            f"{row['textok_steps']}"
            if row["textok_steps"] == row["baseline_steps"]
            else f"{row['textok_steps']}, {row['baseline_steps']}"
        )
        gain, at = PAPER_GAINS.get(row["tokens"], (None, None))
        body.append(
            [
                row["tokens"],
                *([row["variant"]] * has_variant),
                row["seed"],
                row["test_set"],
                steps,
                *told,
                f"{row['psnr_better']:.0f}%",
                *kids,
                f"{row['frechet_gain']:+.1f}%",
                *([f"{gain}% at {at}" if gain and not row["variant"] else ""] * paper),
            ]
        )
    note = (
        "Differences are the model less what it is beside, with 95% intervals of a paired bootstrap over pictures; they "
        "say what other pictures would change, not what another training would. Gains are falls of a distance relative to "
        "the other's; KID's error is the standard error by the delete-half jackknife."
    )
    if paper:
        note += " The paper's figures are for 256-pixel ImageNet with eight times the tokens, in the same order."
    return f"{table(head, body)}\n\n{note}\n"


LOG_WORDS = (
    "As the runs' logs have it: the same pictures in the same order, in dB. Training: of the mean squared error of the batches "
    "since the last line of the log. Test sets: mean PSNR of evenly spread parts. ~: between two places of TexTok's log. "
    "Before the end learning rates are still high, so these are no results of a finished training."
)
LOGGED = ("training", *SETS)


def log_curve(one, name, column):
    """{place in `column`: dB} of a run's log."""
    key = "l2" if name == "training" else f"psnr_{name}"
    values = {int(row[column]): float(row[key]) for row in one.log if row.get(key)}
    return {place: float(10 * np.log10(4 / v)) for place, v in values.items()} if name == "training" else values


def log_rows(candidates, column="step"):
    """[model, tokens, seed, place, for each of LOGGED: TexTok, its Baseline, difference] where the Baseline has scores.

    column: what is equal, "step" or "cpu_seconds". Where TexTok's log has no such place its value is interpolated between its
    neighbours, and marked with "~".
    """
    rows = []
    for one in sorted((c for c in candidates if c.kind == "TexTok"), key=lambda c: (c.tokens, c.seed)):
        other = max(baselines_of(one, candidates), key=lambda c: c.steps * (c.planned == one.planned), default=None)
        if other is None or one.planned != other.planned:
            continue
        pairs = [(log_curve(one, name, column), log_curve(other, name, column)) for name in LOGGED]
        places = [place for place in sorted(pairs[1][1]) if pairs[1][0] and min(pairs[1][0]) <= place <= max(pairs[1][0])]
        for place in places:
            told = []
            for ours, theirs in pairs:
                if place not in theirs or not ours:
                    told += ["", "", ""]
                    continue
                a, b = float(np.interp(place, sorted(ours), [ours[p] for p in sorted(ours)])), theirs[place]
                told += [f"{'' if place in ours else '~'}{a:.2f}", f"{b:.2f}", f"{a - b:+.2f}"]
            rows.append([one.name, one.tokens, one.seed, place, *told])
    return rows


def equality_words(rows):
    body = []
    for name in SETS:
        for key, (_, words) in {**PER_PICTURE, "kid_x1000": (-1, "KID")}.items():
            told = equal_tokens(rows, name, key)
            for row in sorted((r for r in rows if r["test_set"] == name and told.get(r["model"])), key=lambda r: r["tokens"]):
                body.append([name, words, row["model"], row["tokens"], row["seed"], told[row["model"]]])
    head = ["test set", "measure", "TexTok", "its tokens", "seed", "Baseline tokens that equal them"]
    return f"## How many Baseline tokens equal a TexTok\n\n{table(head, body)}\n" if body else ""


COLOURS = {"TexTok": "#1f5fa8", "Baseline": "#c8553d", "PCA": "#888888"}
MARKS = {"TexTok": "o", "Baseline": "s", "PCA": "^"}


def plot_quality(rows, path):
    """Quality against tokens, a column a measure and a row a test set."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [("psnr", "PSNR, dB"), ("ssim", "SSIM"), ("perceptual", "perceptual distance"), ("kid_x1000", "KID x 1000")]
    figure, axes = pyplot.subplots(2, len(shown), figsize=(14, 6.5), squeeze=False, sharex=True)
    for line, name in zip(axes, SETS, strict=True):
        for axis, (key, words) in zip(line, shown, strict=True):
            for kind, colour in COLOURS.items():
                usual = [r for r in rows if r["test_set"] == name and r["kind"] == kind and not r["variant"]]
                points = sorted((r["tokens"], r[key]) for r in usual)
                if points:
                    tokens = sorted({t for t, _ in points})
                    means = [np.mean([v for t, v in points if t == token]) for token in tokens]
                    axis.plot(tokens, means, color=colour, linewidth=1.2)
                    axis.plot(*zip(*points, strict=True), MARKS[kind], color=colour, label=kind)
            axis.set_xscale("log", base=2)
            axis.set_xticks(sorted({r["tokens"] for r in rows}), labels=sorted({r["tokens"] for r in rows}))
            axis.minorticks_off()
            axis.set_title(f"{words}, by {name}", fontsize=10)
            axis.grid(alpha=0.3)
    for axis in axes[-1]:
        axis.set_xlabel("tokens of 8 numbers")
    axes[0][0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110, pil_kwargs={"lossless": True})
    pyplot.close(figure)


def plot_curves(candidates, path):
    """PSNR on the test sets against steps and against CPU time, from the logs."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(12, 7), sharey="row")
    styles = dict(zip(sorted({c.tokens for c in candidates}), ("-", "--", "-.", ":"), strict=False))
    for one in candidates:
        for line, name in zip(axes, SETS, strict=True):
            told = [row for row in one.log if row.get(f"psnr_{name}")]
            values = [float(row[f"psnr_{name}"]) for row in told]
            for axis, column, scale in zip(line, ("step", "cpu_seconds"), (1, 3600), strict=True):
                axis.plot(
                    [float(row[column]) / scale for row in told],
                    values,
                    styles.get(one.tokens, "-"),
                    color=COLOURS[one.kind],
                    label=f"{one.kind}, {one.tokens} tokens, {one.planned} steps",
                )
    for line, name in zip(axes, SETS, strict=True):
        line[0].set_ylabel(f"PSNR, dB, by {name} (subset)")
        for axis, words in zip(line, ("steps", "CPU hours"), strict=True):
            axis.set_xlabel(words)
            axis.grid(alpha=0.3)
    axes[0][0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110, pil_kwargs={"lossless": True})
    pyplot.close(figure)


def sheet(candidates, emoji, kept, used, name, path, count=12):
    """Originals and what each candidate makes of them, evenly spread over a test set."""
    from textok.pictures.sheets import Entry, contact_sheet

    some = spread(np.arange(len(emoji.splits[name])), count)
    first = sum(len(emoji.splits[other]) for other in SETS[: SETS.index(name)])
    rows = emoji.splits[name]
    columns = sorted((c for c in candidates if c.seed == 0), key=lambda c: (c.tokens, KINDS.index(c.kind)))
    pictures = [kept.get(c.name, ["pictures", c.stamp, used], None) for c in columns]
    entries = []
    for place in some:
        told = emoji.pairs.records[rows[place]]
        entries.append(
            Entry(
                [emoji.pairs.images[rows[place]], *(np.asarray(made[first + place]) for made in pictures)],
                told.get("name", told.get("caption_name", "")),
                told.get("style", told.get("source", "")),
            )
        )
    contact_sheet(entries, headings=["original", *(f"{c.kind} {c.tokens}" for c in columns)], side=112, text_width=150).save(
        path, quality=90
    )


def common_variant(candidates):
    """What all TexToks have and the usual one has not, in words, or ""."""
    variants = {one.variant for one in candidates if one.kind == "TexTok"}
    return variants.pop() if len(variants) == 1 else ""


def take_out(variant, candidates):
    """Among TexToks that all have `variant` it is none: they lose it."""
    usual = variant.split(", ") if variant else []
    for one in (one for one in candidates if one.kind == "TexTok"):
        parts = one.variant.split(", ")
        if not set(usual) <= set(parts):
            has = one.variant or "none"
            raise TextokError(f"{one.name}: expected a TexTok with {variant}, as all the others, got one with {has}")
        one.variant = ", ".join(part for part in parts if part not in usual)


def words_on_networks(emoji, args):
    counts = {name: len(rows) for name, rows in emoji.splits.items()}
    words = (
        f"{args.about}: {counts['train']} training pictures, {counts['concept']} test pictures by concept (in no style "
        f"part of the training), {counts['pair']} by {args.pair}. Pictures by the C engine in float32. KID and Frechet "
        f"distances are of {NETWORK} features (Pillow, bicubic), KID with the cubic kernel, unbiased and paired (Gretton "
        "et al. 2012, lemma 6). The perceptual distance is that of EfficientNet-Lite0's blocks 3, 5, 8 and 11, which was "
        "also part of the loss: the same network that the models were trained towards measures them, which flatters all "
        "of them. "
    )
    if args.other_network:
        words += (
            f"{OTHER_NETWORK}, whose weights were no part of any loss, stands beside it; it is a relative, trained on the same "
            "ImageNet. "
        )
    together = len(spread(emoji.splits["train"], args.train_pictures))
    return words + (
        "Wrong captions are those of other pictures of the test set. PCA was fitted on the training pictures. The Frechet "
        f"distance over train and test has {together} training pictures.\n"
    )


def main(arguments=None):
    top = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    top.add_argument("runs", nargs="+", help="folders of trainings or models, or names of bundled models")
    top.add_argument(
        "--log-only", nargs="*", default=[], help="runs of which only the log is compared: too young to be measured"
    )
    top.add_argument("--earlier", type=Path, help="a folder of results whose other runs stand beside these")
    top.add_argument("--usual", default="", help="what every TexTok here has, those of --earlier too, say 'cross-attention'")
    top.add_argument("--out", default=Path(__file__).parent / "results", type=Path)
    top.add_argument("--other-network", action=argparse.BooleanOptionalAction, default=True, help=f"also {OTHER_NETWORK}")
    top.add_argument(
        "--train-pictures", type=int, default=0, help="how many of the training split count for the Frechet distance (0: all)"
    )
    top.add_argument("--note", default="", help="words that claim.md begins with")
    top.add_argument("--about", default="Captioned emoji of 64 pixels in three styles", help="what the pictures are, in words")
    top.add_argument("--pair", default="pair (seen in another style)", help="what the second test set is, in words")
    add_data_arguments(top)
    args = top.parse_args(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    emoji, kept = Emoji.load(args), Kept(args.work)
    features = Features(kept, args.threads)
    candidates = [candidate(run, args.caption) for run in args.runs]
    logged = candidates + [candidate(run, args.caption) for run in args.log_only]
    if len({c.name for c in candidates}) < len(candidates):
        raise TextokError(f"expected runs of different names, got {', '.join(c.name for c in candidates)}")
    usual_variant = args.usual or ("" if args.earlier else common_variant(candidates))
    take_out(usual_variant, candidates)
    sizes = sorted({(c.tokens, c.config["latent_dim"]) for c in candidates})
    everyone = candidates + [pca_candidate(emoji, tokens, width, kept) for tokens, width in sizes]
    measures = {}
    for one in everyone:
        measures[one.name] = measure(one, emoji, features, kept, args)
        print(one.name, summary(one, "concept", measures[one.name]["concept"]), flush=True)
    rows = [summary(one, name, measures[one.name][name]) for one in everyone for name in SETS]
    held, compared, gone = earlier_results(args.earlier, {c.name for c in everyone}) if args.earlier else ([], [], [])
    rows, logged = held + rows, gone + logged
    ours = sorted(
        (c for c in candidates if c.kind == "TexTok" or c.variant), key=lambda c: (c.tokens, c.steps, c.variant, c.seed)
    )
    told = {}
    for words, choose in (("equal steps", partner), ("equal CPU time", equal_time_partner), ("ablation", full_partner)):
        found = told[words] = [row for row in compared if row["at"] == words]
        for one in ours:
            other = choose(one, candidates)
            if other is not None:
                pairs = ((name, measures[one.name][name], measures[other.name][name]) for name in SETS)
                found += [gain_row(one, other, *pair) | {"at": words} for pair in pairs]
        found.sort(key=lambda row: (row["tokens"], row["textok_steps"], row["variant"], row["seed"], row["textok"]))
    write_csv(args.out / "claim.csv", rows)
    if any(told.values()):
        write_csv(args.out / "gains.csv", [row for found in told.values() for row in found])
    words = words_on_networks(emoji, args)
    if usual_variant:
        words = f"Every TexTok here is one with {usual_variant}. {words}"
    (args.out / "claim.md").write_text(markdown(rows, *told.values(), logged, words, args.note))
    shown = usual(everyone)
    known = {c.name for c in usual(gone + candidates)}
    plot_quality([row for row in rows if row["kind"] == "PCA" or row["model"] in known], args.out / "quality.webp")
    if any(c.log for c in logged):
        plot_curves([c for c in logged if c.log and not c.variant], args.out / "curves.webp")
    used = sum(len(emoji.splits[name]) for name in SETS) + len(spread(emoji.splits["train"], args.train_pictures))
    for name in SETS:
        sheet(shown, emoji, kept, used, name, args.out / f"pictures-{name}.webp")
    for run in map(Path, [*args.runs, *args.log_only]):
        if (run / "log.csv").exists():
            (args.out / "logs").mkdir(exist_ok=True)
            shutil.copyfile(run / "log.csv", args.out / "logs" / f"{run.name}.csv")
            told = json.loads((run / "training.json").read_text())
            told.pop("data", None)  # where the data lay on one machine
            (args.out / "logs" / f"{run.name}.json").write_text(json.dumps(told, indent=1) + "\n")
    print((args.out / "claim.md").read_text())


if __name__ == "__main__":
    main()
