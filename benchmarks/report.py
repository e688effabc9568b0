"""Tables, goals and plot from the results of `run.py`."""

import statistics

from cases import case
from peers import PEERS, lacks, peer
from process import DISTURBED

PRECISIONS = ("float32", "bfloat16", "int8")
# What textok sets out to reach: how many times as fast as the fastest peer at the same precision.
GOALS = {"side": {"float32": 1.05, "bfloat16": 1.05, "int8": 1.15}, "step": {"float32": 1.1, "bfloat16": 1.2, "int8": 1.4}}
INT8_OVER_EAGER_FLOAT32 = {"side": 3.5, "step": 6.0}
THREADS_GOAL, PICTURE_SECONDS = 1.9, 2.0
# A batch of 8 takes 8 times one picture, give or take what a second measurement of the same gives.
LINEAR_WITHIN = 0.05


def kind_of(name):
    return {"encode": "side", "decode": "side", "denoise": "step"}.get(case(name).what)


def describe(name):
    work = case(name)
    config = work.config
    if work.what in ("encode", "decode"):
        tokens = (config["image_size"] // config["patch_size"]) ** 2 + config["num_latent_tokens"] + config["num_text_tokens"]
        sizes = f"patch {config['patch_size']}, N = {config['num_latent_tokens']} ({tokens:,} tokens)"
        return f"{work.what}, {sizes}, batch {work.batch}"
    if work.what == "picture":
        return f"a picture, DiT-XL, {config['num_tokens']} tokens, guidance, decoded"
    if work.what == "vae":
        return f"VAE decode, {config['image_size']}px"
    return f"DiT-XL{'/2' if work.is_2d else ''} step, {config['num_tokens']:,} tokens, guidance"


def seconds(value):
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"


class Results:
    """The records of units, looked up by what was run; those that other programs disturbed count for nothing."""

    def __init__(self, records):
        self.failed = {record["unit"]: record["failed"] for record in records.values() if "failed" in record}
        done = [record for record in records.values() if "failed" not in record]
        self.records = [record for record in done if record["others"] <= DISTURBED]
        self.disturbed = {record["unit"]: record["others"] for record in done if record["others"] > DISTURBED}

    def pairs(self, name, precision):
        """{peer: record} of textok beside each peer at one precision, all threads."""
        found = {}
        for r in self.records:
            a, b = r["a"], r["b"]
            if a["case"] == b["case"] == name and a["precision"] == b["precision"] == precision and b["peer"] != "textok":
                found[b["peer"]] = r
        return found

    def peer_median(self, other, name, precision):
        """Over all units in which a peer ran a case on all threads; None where there is none."""
        sides = (side for r in self.records for side in (r["a"], r["b"]))
        times = [
            t
            for s in sides
            if (s["peer"], s["case"], s["precision"], s["threads"]) == (other, name, precision, 0)
            for t in s["times_s"]
        ]
        return statistics.median(times) if times else None

    def find(self, a, b):
        return next((r for r in self.records if r["unit"] == f"{a} | {b}"), None)

    def cases(self):
        names = dict.fromkeys(r["a"]["case"] for r in self.records if r["a"]["case"] == r["b"]["case"])
        order = {"encode": 0, "decode": 0, "denoise": 1, "picture": 2, "vae": 3}
        return sorted(
            names,
            key=lambda n: (
                order[case(n).what],
                case(n).batch if order[case(n).what] == 0 else 0,
                n.split("-n")[-1] if "-p" in n else "",
                list(names).index(n),
            ),
        )


def cell(results, name, precision, other):
    record = results.pairs(name, precision).get(other)
    if record:
        return seconds(record["b"]["median_s"])
    for units, word in ((results.failed, "failed"), (results.disturbed, "disturbed")):
        if any(unit.endswith(f"| {other}/{precision}/{name}") for unit in units):
            return word
    if case(name).what == "picture":
        return ""
    return "cannot" if lacks(other, case(name), precision) else ""


def table(header, rows):
    lines = [f"| {' | '.join(header)} |", f"| {' | '.join('---' for _ in header)} |"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])


def times_table(results):
    rows = []
    for precision in PRECISIONS:
        for name in results.cases():
            pairs = results.pairs(name, precision)
            if not pairs:
                continue
            best, ratio = min(((other, r["ratio"]) for other, r in pairs.items()), key=lambda item: item[1])
            goal = GOALS.get(kind_of(name), {}).get(precision)
            verdict = "" if goal is None else f" ({'met' if ratio >= goal else 'not met'}: {goal})"
            rows.append(
                [precision, describe(name), seconds(results.peer_median("textok", name, precision))]
                + [cell(results, name, precision, other) for other in PEERS]
                + [f"{ratio:.2f} {peer(best).NAME}{verdict}"]
            )
    return table(
        ["precision", "median seconds a call", "textok", *(peer(p).NAME for p in PEERS), "against the fastest peer (goal)"],
        rows,
    )


def cost_table(results):
    """Memory, loading and error of every side that was run on all threads; the lowest of its units."""
    rows = []
    for name in results.cases():
        for precision in PRECISIONS:
            sides = {}
            for r in results.records:
                for side in (r["a"], r["b"]):
                    if (side["case"], side["precision"], side["threads"]) == (name, precision, 0):
                        sides.setdefault(side["peer"], []).append(side)
            for other in ("textok", *PEERS):
                if other in sides:
                    least = {
                        field: min(s[field] for s in sides[other]) for field in ("peak_mib", "load_s", "first_s", "error_rms")
                    }
                    rows.append(
                        [describe(name), precision, peer(other).NAME, f"{least['peak_mib']:.0f}", f"{least['load_s']:.2f}",
                         f"{least['first_s']:.2f}", f"{least['error_rms']:.1e}"])  # fmt: skip
    return table(["work", "precision", "", "peak MiB", "load s", "first call s", "relative RMS error"], rows)


def goals(results):
    """(goal, what was found, met) of each goal that the results can answer."""
    found = []
    for precision in PRECISIONS:
        for kind, what in (("side", "encode and decode"), ("step", "DiT-XL step")):
            ratios = {}
            for name in results.cases():
                pairs = results.pairs(name, precision)
                if kind_of(name) == kind and pairs:
                    ratios[name] = min(r["ratio"] for r in pairs.values())
            if ratios:
                goal, worst = GOALS[kind][precision], min(ratios, key=ratios.get)
                middle = statistics.median(ratios.values())
                count = sum(ratio >= goal for ratio in ratios.values())
                found.append(
                    (
                        f"{what} in {precision}: {goal}x the fastest peer",
                        f"{count} of {len(ratios)} cases; median {middle:.2f}x, least {ratios[worst]:.2f}x ({worst})",
                        count == len(ratios),
                    )
                )
    for kind, what in (("side", "encode and decode"), ("step", "DiT-XL step")):
        goal = INT8_OVER_EAGER_FLOAT32[kind]
        ratios = {
            name: r["ratio"]
            for name in results.cases()
            if kind_of(name) == kind and (r := results.find(f"textok/int8/{name}", f"eager/float32/{name}"))
        }
        if ratios:
            worst = min(ratios, key=ratios.get)
            found.append(
                (
                    f"{what}: int8 {goal}x PyTorch eager float32",
                    f"{min(ratios.values()):.2f} to {max(ratios.values()):.2f}x (least: {worst})",
                    ratios[worst] >= goal,
                )
            )
    above = [
        f"{peer(other).NAME} {precision} {name}: {r['b']['peak_mib']:.0f} MiB, textok {r['a']['peak_mib']:.0f}"
        for name in results.cases()
        for precision in PRECISIONS
        for other, r in results.pairs(name, precision).items()
        if r["a"]["peak_mib"] >= r["b"]["peak_mib"]
    ]
    if results.cases():
        found.append(("peak memory below every peer's at the same precision", "; ".join(above) or "in every case", not above))
    for r in results.records:
        a, b = r["a"], r["b"]
        if b["peer"] == "textok" and a["peer"] == "textok" and a["case"] == b["case"] and b["threads"] == 1:
            found.append(
                (
                    f"two threads {THREADS_GOAL}x one: {a['case']} in {a['precision']}",
                    f"{r['ratio']:.2f}x",
                    r["ratio"] >= THREADS_GOAL,
                )
            )
        elif b["peer"] == "textok" and a["case"] != b["case"] and case(b["case"]).batch != case(a["case"]).batch:
            share = r["ratio"] * case(a["case"]).batch / case(b["case"]).batch
            found.append(
                (
                    f"time linear in batch: {b['case']} beside {a['case']} in {a['precision']}",
                    f"{share:.3f} of linear",
                    share <= 1 + LINEAR_WITHIN,
                )
            )
    pictures = {p: t for p in PRECISIONS if (t := results.peer_median("textok", "picture-n32", p))}
    if pictures:
        best = min(pictures, key=pictures.get)
        found.append(
            (
                f"a 256px picture, DiT-XL, 32 tokens, guidance, in {PICTURE_SECONDS:g} s",
                f"{pictures[best]:.2f} s in {best}",
                pictures[best] <= PICTURE_SECONDS,
            )
        )
    return found


def plot(results, path):
    """How many times as long each peer takes as textok at the same precision: one row a case and precision, one mark a peer."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [(name, precision) for name in results.cases() for precision in PRECISIONS if results.pairs(name, precision)]
    if not rows:
        return
    figure, axes = pyplot.subplots(figsize=(9, 1.2 + 0.26 * len(rows)), layout="constrained")
    marks = dict(zip(PEERS, "osD^vP", strict=False))
    shown = set()
    for y, (name, precision) in enumerate(rows):
        for other, record in results.pairs(name, precision).items():
            color = f"C{PEERS.index(other)}"
            axes.plot(record["ratio"], y, marks[other], color=color, label=None if other in shown else peer(other).NAME)
            shown.add(other)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_yticks(range(len(rows)), [f"{describe(name)}, {precision}" for name, precision in rows], fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    ticks = [t for t in (0.5, 0.7, 1, 1.5, 2, 3, 4, 6, 8, 10, 15, 20, 30) if low <= t <= high or t == 1]
    axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
    axes.minorticks_off()
    axes.set_xlabel("time of the peer / time of textok, at the same precision")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(loc="best", fontsize=8)
    figure.savefig(path, dpi=110, pil_kwargs={"lossless": True})
    pyplot.close(figure)


def settings():
    lines = [f"- {peer(other).NAME}: {peer(other).SETTINGS}." for other in ("textok", *PEERS)]
    for other in PEERS:
        reasons = getattr(peer(other), "PRECISIONS_WHY", {})
        lines += [f"- {peer(other).NAME} cannot {precision}: {why}." for precision, why in reasons.items()]
    return "\n".join(lines)


def write(records, out):
    """Writes report.md and plot.webp to OUT; returns the report."""
    results = Results(records)
    last = max((r["date"] for r in results.records), default="nothing measured undisturbed")
    machines = dict.fromkeys(f"{r['machine']}, {r['kernels']} kernels" for r in results.records)
    packages = dict.fromkeys(package for r in results.records for package in r["versions"].split(", "))
    how = "Medians of interleaved repeats, inputs changing, random weights, all threads."
    text = "\n\n".join(
        [
            f"{last}; {'; '.join(machines)}; {', '.join(packages)}. {how}",
            times_table(results),
            "\n".join(f"- {'met' if met else 'NOT MET'}: {goal}: {what}" for goal, what, met in goals(results)),
            settings(),
            "\n".join(
                f"- disturbed, not counted: other programs took {share:.0%} of the machine: {unit}"
                for unit, share in results.disturbed.items()
            ),
            "\n".join(f"- failed: {unit}: {why}" for unit, why in results.failed.items()),
            cost_table(results),
        ]
    )
    (out / "report.md").write_text(text + "\n")
    plot(results, out / "plot.webp")
    return text
