"""The paper's claim on this machine: DiT-XL over few tokens and the detokenizer, against the original DiT-XL/2 over 256
and 1,024.

    python benchmarks/efficiency.py --out bench            started again, it does what is missing
    python benchmarks/efficiency.py --out bench --report   the tables and the plot from what is there

The same machinery as `run.py`, and the same arguments. A picture takes steps x evaluation + decode, of which
evaluations (guided: two rows) and decodes are measured; a whole picture at 32 tokens checks the sum. The original's
decode is a VAE's, which textok has not: it is timed in diffusers. The paper (arXiv 2412.05796) says 14.3 times at 256px
and 93.5 at 512px, with 32 tokens; the numbers of operations in the DiTs alone allow 8.3 and 36.6.
"""

from pathlib import Path

from cases import default_steps
from process import Run
from report import Results, seconds, table
from run import PRECISIONS, execute, load_results, parse

TOKENS = (32, 64, 128, 256)
ORIGINAL = {256: "dit-xl2-t256", 512: "dit-xl2-t1024"}
ORIGINAL_STEPS = 250  # of DDPM, the original's own
PAPER = {(256, 32): 14.3, (512, 32): 93.5, (512, 256): 3.7}
BOUND = {(256, 32): 8.3, (512, 32): 36.6}
BASE_PEER = "eager"  # PyTorch, for what a user gains


def decoder(size, tokens):
    return f"decode-p8-n{tokens}-b1" if size == 256 else f"decode-s512-p16-n{tokens}-b1"


def comparisons(quick):
    pairs = []
    for precision in ("int8",) if quick else reversed(PRECISIONS):
        for original in ORIGINAL.values():
            pairs += [(Run("textok", original, precision), Run("textok", f"dit-xl-t{tokens}", precision)) for tokens in TOKENS]
        pairs += [
            (Run("textok", decoder(512, tokens), precision), Run("textok", decoder(256, tokens), precision))
            for tokens in TOKENS
        ]
    pairs.append((Run("textok", "picture-n32", "int8"), Run("textok", "picture-n32", "bfloat16")))
    for size, original in ORIGINAL.items():
        for precision in ("float32", "bfloat16"):
            pairs.append((Run("textok", "dit-xl-t32", "int8"), Run(BASE_PEER, original, precision)))
            pairs.append((Run("textok", decoder(size, 32), "int8"), Run("diffusers", f"vae-{size}", precision)))
        pairs.append((Run("textok", original, "float32"), Run("diffusers", original, "float32")))
    return pairs


def fastest_vae(results, size):
    """Seconds of the quickest VAE decode that was measured."""
    return min((s for p in ("float32", "bfloat16") if (s := results.peer_median("diffusers", f"vae-{size}", p))), default=None)


def rows_of(results):
    """What each picture takes in textok: dicts of size, tokens, precision, eval_s, decode_s, original_s, vae_s."""
    for precision in PRECISIONS:
        for size, original in ORIGINAL.items():
            whole = results.peer_median("textok", original, precision)
            for tokens in TOKENS:
                evaluation = results.peer_median("textok", f"dit-xl-t{tokens}", precision)
                decode = results.peer_median("textok", decoder(size, tokens), precision)
                if None not in (whole, evaluation, decode):
                    yield {"precision": precision, "size": size, "tokens": tokens, "eval_s": evaluation, "decode_s": decode,
                           "original_s": whole, "vae_s": fastest_vae(results, size)}  # fmt: skip


def ratio(row, steps, with_vae):
    original = steps * row["original_s"] + (row["vae_s"] if with_vae else 0)
    return original / (steps * row["eval_s"] + row["decode_s"])


def same_steps_table(results):
    rows = []
    for r in rows_of(results):
        at = (r["size"], r["tokens"])
        vae = "" if r["vae_s"] is None else f"{ratio(r, ORIGINAL_STEPS, True):.1f}"
        rows.append(
            [
                r["precision"],
                f"{r['size']}px",
                str(r["tokens"]),
                f"{1e3 * r['eval_s']:.1f}",
                f"{1e3 * r['decode_s']:.0f}",
                f"{1e3 * r['original_s']:.1f}",
                seconds(ORIGINAL_STEPS * r["eval_s"] + r["decode_s"]),
                seconds(ORIGINAL_STEPS * r["original_s"]),
                f"{ratio(r, ORIGINAL_STEPS, False):.1f}",
                vae,
                f"{r['original_s'] / r['eval_s']:.1f}",
                str(BOUND.get(at, "")),
                str(PAPER.get(at, "")),
            ]
        )
    header = [
        "precision",
        "picture",
        "tokens",
        "evaluation ms",
        "decode ms",
        "original's evaluation ms",
        f"{ORIGINAL_STEPS} steps and decode, s",
        f"the original's {ORIGINAL_STEPS} steps, s",
        "ratio",
        "with its VAE",
        "evaluations alone",
        "token bound",
        "paper",
    ]
    return table(header, rows)


def gain_table(results):
    """The original in PyTorch with its own 250 steps, against textok in its fastest precision with its default steps."""
    rows, steps = [], default_steps()
    for size, original in ORIGINAL.items():
        best = min(
            (r for r in rows_of(results) if r["size"] == size and r["tokens"] == 32), key=lambda r: r["eval_s"], default=None
        )
        for precision in ("float32", "bfloat16"):
            evaluation = results.peer_median(BASE_PEER, original, precision)
            vae = results.peer_median("diffusers", f"vae-{size}", precision)
            if None in (best, evaluation, vae):
                continue
            theirs, ours = ORIGINAL_STEPS * evaluation + vae, steps * best["eval_s"] + best["decode_s"]
            equal = ORIGINAL_STEPS * best["eval_s"] + best["decode_s"]
            rows.append(
                [
                    f"{size}px",
                    f"PyTorch {precision}",
                    seconds(theirs),
                    seconds(vae),
                    f"{best['precision']}, {steps} steps",
                    seconds(ours),
                    f"{theirs / ours:.0f}",
                    f"{theirs / equal:.1f}",
                ]
            )
    header = [
        "picture",
        f"the original, {ORIGINAL_STEPS} steps",
        "s",
        "of which VAE",
        "textok, 32 tokens",
        "s",
        "ratio",
        f"ratio at {ORIGINAL_STEPS} steps each",
    ]
    return table(header, rows)


def check_of_sum(results):
    lines = []
    for precision in PRECISIONS:
        whole = results.peer_median("textok", "picture-n32", precision)
        evaluation = results.peer_median("textok", "dit-xl-t32", precision)
        decode = results.peer_median("textok", decoder(256, 32), precision)
        if None not in (whole, evaluation, decode):
            total = default_steps() * evaluation + decode
            lines.append(
                f"- A whole picture in {precision} took {whole:.2f} s; {default_steps()} evaluations and a decode "
                f"{total:.2f} s. Modulations are computed for all steps at once."
            )
    return "\n".join(lines)


def plot(results, path):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = list(rows_of(results))
    if not rows:
        return
    figure, panels = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained", sharey=True)
    for panel, size in zip(panels, ORIGINAL, strict=True):
        for colour, precision in enumerate(PRECISIONS):
            line = [r for r in rows if r["size"] == size and r["precision"] == precision]
            if line:
                panel.plot(
                    [r["tokens"] for r in line],
                    [ratio(r, ORIGINAL_STEPS, False) for r in line],
                    f"C{colour}o-",
                    label=f"textok, {precision}",
                )
        for points, style, label in (
            (PAPER, "k*", "the paper, on its accelerators"),
            (BOUND, "k_", "operations of the DiTs alone"),
        ):
            at = [(tokens, value) for (s, tokens), value in points.items() if s == size]
            panel.plot(*zip(*at, strict=True), style, markersize=10, label=label)
        panel.set_title(f"{size}px: times as fast as DiT-XL/2, same steps")
        panel.set_xscale("log", base=2)
        panel.set_yscale("log")
        panel.set_xticks(TOKENS, [str(t) for t in TOKENS])
        panel.set_yticks([1, 2, 5, 10, 20, 50, 100], ["1", "2", "5", "10", "20", "50", "100"])
        panel.minorticks_off()
        panel.set_xlabel("latent tokens")
        panel.grid(alpha=0.3)
    panels[0].legend(fontsize=8)
    figure.savefig(path, dpi=110, pil_kwargs={"lossless": True})
    pyplot.close(figure)


def write(records, out):
    """Writes efficiency.md and efficiency.webp to OUT; returns the text."""
    results = Results(records)
    text = "\n\n".join([
        "DiT-XL with guidance and the detokenizer, against DiT-XL/2 with guidance, both in textok, the same number of steps:",
        same_steps_table(results),
        "What a user gains, the original's VAE counted:",
        gain_table(results),
        check_of_sum(results),
    ])  # fmt: skip
    (out / "efficiency.md").write_text(text + "\n")
    plot(results, out / "efficiency.webp")
    return text


def main():
    args = parse(__doc__)
    if execute(comparisons(args.quick), args):
        print(write(load_results(args.out), Path(args.out)))


if __name__ == "__main__":
    main()
