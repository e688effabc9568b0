"""How few steps are enough: distance of samples from real pictures against network evaluations, for each solver.

    python experiments/emoji/steps.py --work WORK            measures what is missing in WORK; killed, it goes on
    python experiments/emoji/steps.py --work WORK --figures  writes results/steps.csv, .webp and steps-class.json

The bundled pipeline `emoji` makes pictures of classes as frequent as in all the data. Every setting gets the same labels and
start noise of a seed. Distances are KID (unbiased, whole sets; errors by the jackknife over parts of a seed's pictures) and the
Frechet distance, between features of EfficientNet-Lite0 at 128 x 128 (a stand-in for Inception-v3) of the samples and of all
real pictures. What results/ has of captions is of the text-to-image DiT that was bundled until 2026-11-29, one picture of each
caption of both test sets; today's predicts a velocity, see experiments/pictures.

An evaluation is one run of the network for one picture; a guided step takes two. The guidance interval is that of Kynkaanniemi
et al. (2024), noise levels 0.28 to 2.9, carried over to this DiT's timesteps.
"""

import argparse
import csv
import functools
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from evaluation import Emoji, add_data_arguments, kernel

import textok
from textok.sampling import Sampling
from textok.schedules import cumulative_alphas

NETWORK = "efficientnet-lite0@128"
SIGMAS = (0.28, 2.9)
PARTS = 16  # of a seed's pictures, each left out in turn
PIPELINE, MODELS = "emoji", ("emoji-dit", "emoji-textok")


@dataclass(frozen=True)
class Setting:
    solver: str
    steps: int
    guidance_scale: float
    interval: bool = False

    @property
    def name(self):
        return f"{self.solver.replace('+', 'p')}-{self.steps}-g{self.guidance_scale:g}{'-interval' if self.interval else ''}"


REFERENCE = ("ddpm", 250)


def settings(scale):
    """The cheap ones first."""
    whole = [("dpmsolver++", n) for n in (5, 8, 10, 15, 20, 50)] + [("ddim", n) for n in (10, 20, 50)]
    whole += [("ddpm", n) for n in (50, 250)]
    inside = [("dpmsolver++", n) for n in (5, 8, 10, 15, 20, 50)] + [("ddim", 20), ("ddpm", 50)]
    result = [Setting(*pair, scale) for pair in whole] + [Setting(*pair, scale, True) for pair in inside]
    return sorted(result, key=lambda setting: setting.steps)


def scales():
    """Guidance alone, at enough steps."""
    return [Setting("dpmsolver++", 20, scale) for scale in (1.0, 1.5, 2.0, 3.0, 4.0)]


def interval_of(config):
    """The train timesteps whose noise level sqrt(1/abar - 1) lies in SIGMAS."""
    sigma = np.sqrt(1 / cumulative_alphas(config) - 1)
    inside = np.flatnonzero((sigma >= SIGMAS[0]) & (sigma <= SIGMAS[1]))
    return int(inside[0]), int(inside[-1])


def check_models(work):
    """WORK belongs to the models it was begun with."""
    from textok import bundled
    from textok.networks.base import file_hash

    models = {name: file_hash(bundled.FOLDER / name / "model.safetensors") for name in MODELS}
    path = work / "models.json"
    if path.is_file() and json.loads(path.read_text()) != models:
        raise SystemExit(f"{path}: begun with other bundled models; take another folder for --work")
    path.write_text(json.dumps(models))


def save(path, **arrays):
    with open(part := path.with_suffix(".part"), "wb") as file:
        np.savez(file, **arrays)
    os.replace(part, path)


def measure(setting, seed, labels, pipeline, network, work):
    """Samples, their features and the time they took, kept in WORK."""
    path = work / f"seed{seed}-{setting.name}.npz"
    if path.is_file():
        return
    interval = interval_of(pipeline.dit.config) if setting.interval else None
    settings = Sampling(
        setting.steps, setting.solver, guidance_scale=setting.guidance_scale, guidance_interval=interval
    ).resolved(pipeline.dit.config)
    calls = settings.guidance(pipeline.dit.config, settings.schedule(pipeline.dit.config))
    start = time.process_time()
    result = pipeline(
        labels=labels, seed=seed, steps=setting.steps, solver=setting.solver,
        guidance_scale=setting.guidance_scale, guidance_interval=interval,
    )  # fmt: skip
    seconds = time.process_time() - start
    features = network(result.images).features
    evaluations = int(len(calls) + (calls != 1).sum())
    save(path, features=features.astype(np.float16), seconds=seconds, evaluations=evaluations, count=len(labels))
    print(f"seed {seed} {setting.name}: {seconds:.0f} s of CPU for samples", flush=True)


@functools.cache
def reference_of(work):
    """Of the real pictures: features, the root of their covariance and their mean kernel."""
    from textok.metrics import kernel_mean
    from textok.metrics.distances import covariance_root

    with np.load(work / "real.npz") as file:
        real = file["features"].astype(np.float64)
    return real, covariance_root(np.cov(real.T)), kernel_mean(real)


def frechet(features, work):
    """`textok.metrics.frechet_distance`; the centred rows are a root themselves, of fewer columns where there are few."""
    from textok.metrics.distances import frechet_of_roots

    real, root, _ = reference_of(work)
    mean = features.mean(axis=0)
    return frechet_of_roots(mean, (features - mean).T / np.sqrt(len(features) - 1), real.mean(axis=0), root)


def features_of(path):
    with np.load(path) as file:
        return file["features"].astype(np.float64), int(file["evaluations"]), float(file["seconds"])


def kids_of(path):
    """KID of the pictures of one setting and seed, kept in WORK, and without each of PARTS parts of them; float64 [1 +
    PARTS]."""
    score = path.with_suffix(".json")
    if not score.is_file():
        features = features_of(path)[0]
        real, _, within_real = reference_of(path.parent)
        cross, within = kernel(features, real).mean(axis=1), kernel(features, features)
        np.fill_diagonal(within, 0)
        kids = []
        for left_out in [[], *np.array_split(np.arange(len(features)), PARTS)]:
            rest = np.delete(np.arange(len(features)), left_out)
            inner = within[np.ix_(rest, rest)].sum() / (len(rest) * (len(rest) - 1))
            kids.append(inner + within_real - 2 * cross[rest].mean())
        score.write_text(json.dumps(kids))
    return np.array(json.loads(score.read_text()))


def mean_and_error(kids):
    """Of the seeds' `kids_of`, or their differences: the mean of the whole sets, and its standard error by the jackknife."""
    kids = np.array(kids)
    if not len(kids):
        return np.nan, np.nan
    variances = (PARTS - 1) * kids[:, 1:].var(axis=1)
    return kids[:, 0].mean(), np.sqrt(variances.sum()) / len(kids)


def row_of(setting, work, target):
    """Means over seeds with their standard errors; the Frechet distance of all seeds' pictures together."""
    paths = {seed: work / f"seed{seed}-{setting.name}.npz" for seed in range(1000)}
    paths = {seed: path for seed, path in paths.items() if path.is_file()}
    if not paths:
        return None
    kids = {seed: kids_of(path) for seed, path in paths.items()}
    parts = [features_of(path) for path in paths.values()]
    pictures = sum(len(part[0]) for part in parts)
    kid, kid_error = mean_and_error(list(kids.values()))
    difference, difference_error = mean_and_error([kids[seed] - target[seed] for seed in kids if seed in target])
    return asdict(setting) | {
        "evaluations": parts[0][1],
        "seeds": len(paths),
        "pictures": pictures,
        "kid": kid,
        "kid_error": kid_error,
        "kid_minus_ddpm250": difference,
        "kid_minus_ddpm250_error": difference_error,
        "fd": frechet(np.concatenate([part[0] for part in parts]), work),
        "cpu_seconds_a_picture": sum(part[2] for part in parts) / pictures,
    }


def collect(work, scale):
    """One row a setting."""
    name = Setting(*REFERENCE, scale).name
    target = {int(path.name[4:].partition("-")[0]): kids_of(path) for path in sorted(work.glob(f"seed*-{name}.npz"))}
    rows = [row for setting in {*settings(scale), *scales()} if (row := row_of(setting, work, target))]
    return sorted(rows, key=lambda row: (row["guidance_scale"] != scale, row["solver"], row["interval"], row["steps"]))


def cheapest(rows, scale):
    """The fewest evaluations whose KID is not above 250-step DDPM's by more than two standard errors of their difference.

    Differences are taken picture by picture: labels, captions and start noise are the same for all settings. A better one is
    not unequal: a solver of higher order may well come closer than DDPM does.
    """
    here = [row for row in rows if row["guidance_scale"] == scale]
    target = next(row for row in here if (row["solver"], row["steps"]) == REFERENCE and not row["interval"])
    equal = [row for row in here if row is target or row["kid_minus_ddpm250"] <= 2 * row["kid_minus_ddpm250_error"]]
    return target, min(equal, key=lambda row: (row["evaluations"], row["kid"]))


def series_of(row, scale):
    if row["guidance_scale"] != scale:
        return "guidance scales"
    return row["solver"] + (", interval" if row["interval"] else "")


def none_of(value):
    return None if np.isnan(value) else value


def write_result(args, rows):
    """The format of `textok eval`, which `textok.viz` plots."""
    from textok.metrics.evaluate import result_file

    sets = [
        {
            "name": f"{row['solver']} {row['steps']}, {'interval, ' * row['interval']}guidance {row['guidance_scale']:g}",
            "count": row["pictures"],
            "settings": {k: row[k] for k in ("solver", "steps", "guidance_scale", "evaluations", "seeds")}
            | {"seconds": row["cpu_seconds_a_picture"], "series": series_of(row, args.guidance)},
            "metrics": {
                f"kid@{NETWORK}": row["kid"],
                f"kid_deviation@{NETWORK}": none_of(row["kid_error"]),
                f"fid@{NETWORK}": row["fd"],
            },
        }
        for row in rows
    ]
    with np.load(args.work / "real.npz") as file:
        about = {"source": "emoji", "count": len(file["features"])}
    models = {"models": json.loads((args.work / "models.json").read_text())}
    result_file(args.out / "steps-class.json", "samples", sets, network=args.network, reference=about, settings=models)


def draw(ax, rows, target, scale):
    colors = {"ddpm": "#8c6d31", "ddim": "#2f7d5b", "dpmsolver++": "#1f5fa8"}
    ax.axhline(0, color="#8c6d31", lw=1, ls=":")
    for (solver, interval), color in [((s, i), c) for s, c in colors.items() for i in (False, True)]:
        line = [r for r in rows if (r["solver"], r["interval"], r["guidance_scale"]) == (solver, interval, scale)]
        line.sort(key=lambda row: row["evaluations"])
        if line:
            x, y, e = (np.array([r[k] for r in line]) for k in ("evaluations", "kid_minus_ddpm250", "kid_minus_ddpm250_error"))
            style = {"ls": "--", "marker": "o", "mfc": "white"} if interval else {"ls": "-", "marker": "o"}
            label = solver + (", guidance interval" if interval else "")
            ax.errorbar(x, y, e, color=color, label=label, capsize=2, ms=5, lw=1.5, **style)
            for row in line:
                place = (row["evaluations"], row["kid_minus_ddpm250"])
                ax.annotate(row["steps"], place, (4, 5), textcoords="offset points", fontsize=7, color=color)
    ticks = sorted({row["evaluations"] for row in rows if not row["interval"]})
    ax.set(xscale="log", xlabel="network evaluations a picture (numbers: steps)")
    ax.set_xticks(ticks, ticks)
    ax.minorticks_off()
    seeds = "" if target["seeds"] == 1 else f", {target['seeds']} seeds"
    title = f"{PIPELINE}: {target['pictures'] // target['seeds']:,} pictures a setting{seeds}"
    ax.set_title(title, loc="left", fontsize=10)
    ax.grid(alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)


def figures(args):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = collect(args.work, args.guidance)
    with open(args.out / "steps.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows({key: f"{v:.6g}" if isinstance(v, float) else v for key, v in row.items()} for row in rows)
    fig, ax = plt.subplots(figsize=(6.2, 4.6), layout="constrained")
    write_result(args, rows)
    target, best = cheapest(rows, args.guidance)
    draw(ax, rows, target, args.guidance)
    print(f"250-step DDPM: KID {target['kid']:.4f}, {target['seeds']} seeds")
    print(
        f"cheapest equal: {best['solver']}, {best['steps']} steps, interval {best['interval']}: "
        f"{best['evaluations']} evaluations, {best['kid_minus_ddpm250']:+.4f} +- {best['kid_minus_ddpm250_error']:.4f}"
    )
    ax.set_ylabel("KID above 250-step DDPM of the same seeds")
    ax.legend(frameon=False, fontsize=8)
    fig.suptitle(
        f"Few steps: the bundled DiT, guidance {args.guidance:g}; bars: one standard error", x=0.01, ha="left", fontsize=11
    )
    fig.savefig(args.out / "steps.webp", dpi=130, pil_kwargs={"lossless": True})


def measure_all(args, emoji, network):
    """The settings that WORK lacks, seed by seed."""
    work = args.work
    work.mkdir(parents=True, exist_ok=True)
    pipeline = textok.Pipeline.from_pretrained(PIPELINE, args.dtype, args.threads)
    check_models(work)
    if not (work / "real.npz").is_file():
        save(work / "real.npz", features=network(emoji.pairs.images).features)
    plan = [] if args.scales else [(setting, seed) for seed in range(args.seeds) for setting in settings(args.guidance)]
    plan += [(setting, 0) for setting in scales()]
    for setting, seed in plan:
        labels = emoji.labels[np.random.default_rng(seed).permutation(len(emoji.labels))[: args.count]]
        measure(setting, seed, labels, pipeline, network, work)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=1034, help="pictures a setting and seed (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--guidance", type=float, default=3.0, help="scale (default: %(default)s)")
    parser.add_argument("--dtype", default="bfloat16", help="what the models compute in (default: %(default)s)")
    parser.add_argument("--scales", action="store_true", help="measure guidance scales only, one seed")
    parser.add_argument("--figures", action="store_true", help="write the figures from what is measured, and measure nothing")
    parser.add_argument("--out", default=Path(__file__).parent / "results", type=Path)
    add_data_arguments(parser)
    args = parser.parse_args()
    from textok.metrics.networks import load_network

    network = load_network(NETWORK, args.threads)
    args.network = network.describe()
    if args.figures:
        figures(args)
        return
    measure_all(args, Emoji.load(args), network)


if __name__ == "__main__":
    main()
