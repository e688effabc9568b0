"""`textok report`: the results below a folder as one HTML file, with everything inside it.

What `textok eval` wrote (result.json with pictures.npz beside it; other names will do) becomes tables, pictures and curves:
originals, reconstructions and differences, where the first set is worst and best, samples, and quality against what the
sets' settings say of cost (tokens, steps, evaluations, guidance, seconds). No script, no request to anywhere. Curves need
matplotlib (extra "viz").
"""

import base64
import html
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..files import write_text
from ..numpy_files import read_npz
from ..pictures import plots as viz
from ..version import __version__
from .registry import METRICS, SUBSET_SIZE

U8 = NDArray[np.uint8]

FORMAT = "textok-eval "
COSTS = {
    "tokens": "tokens an image",
    "evaluations": "network evaluations",
    "steps": "steps",
    "guidance_scale": "guidance scale",
    "seconds": "seconds",
}
# What parts the sets of a plot against a cost into lines, where it differs; what only follows from the cost does not.
APART = {
    "tokens": ("steps", "guidance_scale"),
    "evaluations": ("tokens", "guidance_scale"),
    "steps": ("tokens", "guidance_scale"),
    "guidance_scale": ("tokens", "steps"),
    "seconds": ("guidance_scale",),
}
LOGARITHMIC = ("tokens", "evaluations", "steps", "seconds")
GROUPS = {
    "spread": ("Evenly spread", "every n-th picture of the set"),
    "worst": ("Worst cases", "lowest PSNR or CLIP score of the first set"),
    "best": ("Best cases", "highest of the same"),
}
FEW = SUBSET_SIZE  # pictures: distances between smaller sets get a note

STYLE = """
:root { --ink: #23272e; --muted: #6d7580; --line: #e4e7eb; --card: #fff; --back: #f6f7f9; --accent: #1f5fa8; --best: #e8f1fb; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 36px 24px 60px; }
h1 { font-size: 28px; margin: 0 0 4px; letter-spacing: -.01em; }
h2 { font-size: 20px; margin: 0 0 2px; }
h3 { font-size: 15px; margin: 26px 0 10px; }
h3 small, .muted { color: var(--muted); font-weight: normal; font-size: 13px; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 24px 26px 28px;
  margin-top: 22px; }
nav a { color: var(--accent); text-decoration: none; margin-right: 16px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin-top: 14px; }
th, td { padding: 6px 16px 6px 0; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-right: 28px; }
th { font-weight: 600; white-space: normal; max-width: 150px; vertical-align: bottom; line-height: 1.25; }
th small { font-weight: normal; color: var(--muted); }
td.best, .lead { color: var(--accent); } td.best { font-weight: 650; }
td small { color: var(--muted); }
.note { background: #fff7e8; border-left: 3px solid #d79a2b; padding: 8px 14px; margin: 16px 0 0; font-size: 13px; }
.examples { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 330px), 1fr)); gap: 18px 22px; }
.examples p { margin: 0 0 6px; font-size: 13px; overflow-wrap: anywhere; }
.strip { display: flex; flex-wrap: wrap; gap: 6px 8px; }
figure { margin: 0; width: 96px; }
figure img { display: block; width: 100%; border: 1px solid var(--line); border-radius: 6px; background: #fff; }
img.pixels { image-rendering: pixelated; }
figcaption { color: var(--muted); font-size: 11px; text-align: center; overflow: hidden; text-overflow: ellipsis;
  white-space: nowrap; }
.curves { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); gap: 18px; margin-top: 12px; }
.curves svg { width: 100%; height: auto; }
details { margin-top: 16px; font-size: 13px; } summary { color: var(--accent); cursor: pointer; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 18px; margin: 8px 0 0; }
dt { color: var(--muted); } dd { margin: 0; overflow-wrap: anywhere; }
footer { color: var(--muted); font-size: 12px; margin-top: 26px; }
@media (max-width: 700px) {
  main { padding: 18px 10px 40px; } section { padding: 16px 14px 20px; }
  thead { display: none; } table, tbody, tr, td { display: block; width: 100%; }
  tr { padding: 10px 0; border-bottom: 1px solid var(--line); } td { border: 0; padding: 2px 0; white-space: normal; }
  td:first-child { font-weight: 600; } td:not(:first-child) { display: flex; justify-content: space-between; }
  td:not(:first-child)::before { content: attr(data-label); color: var(--muted); padding-right: 12px; }
  dl { display: block; } dd { margin-bottom: 8px; }
}
@media print { body { background: #fff; } section { break-inside: avoid; } }
"""


@dataclass(frozen=True)
class Result:
    """A result file: where it lies below the folder, what it says, and the arrays of the pictures beside it."""

    name: str
    data: Mapping[str, Any]
    pictures: Mapping[str, NDArray[Any]]


def find_results(folder: str | os.PathLike[str]) -> list[Result]:
    """All results below a folder, by name; other files are passed over, a broken result is a DataError."""
    root = Path(folder)
    if not root.is_dir():
        raise DataError(
            f"{root}: expected a folder with results of `textok eval`, got {'a file' if root.exists() else 'nothing'}"
        )
    results = []
    for path in sorted(root.rglob("*.json")):
        with path.open("rb") as file:
            head = file.read(200)
        if FORMAT.encode() not in head:
            continue
        try:
            data = json.loads(path.read_text("utf-8"))
            _check(data)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as problem:
            raise DataError(f"{path}: expected a result of `textok eval`, got: {problem}") from None
        place = path.parent if path.name == "result.json" else path.with_suffix("")
        beside = path.with_name("pictures.npz")
        pictures = {}
        if path.name == "result.json" and beside.is_file():
            pictures = read_npz(beside, DataError)
            _check_places(beside, pictures)
        results.append(Result(str(place.relative_to(root)) if place != root else root.resolve().name, data, pictures))
    if not results:
        raise DataError(f"{root}: expected results of `textok eval` below it, found none")
    return results


def _check(data: Any) -> None:
    """What the page reads of a result; one of many exceptions where it is not there."""
    if not isinstance(data["kind"], str):
        raise TypeError(f"kind {data['kind']!r}")
    for part in (data.get("reference") or {}, data.get("network") or {}):
        part.items()
    for row in data["sets"]:
        str(row["name"]), row.get("settings", {}).items()
        [float(value) for value in row["metrics"].values() if value is not None]


def _check_places(path: Path, pictures: Mapping[str, NDArray[Any]]) -> None:
    """Whether the examples are among the pictures that came with them."""
    sets = [len(value) for key, value in pictures.items() if key.startswith("set/") or key == "originals"]
    for name in (key for key in pictures if key.startswith("places/")):
        places = pictures[name]
        if places.dtype.kind not in "iu" or (places.size and sets and not 0 <= places.min() <= places.max() < min(sets)):
            raise DataError(f"{path}: {name}: expected whole numbers below {min(sets, default=0)}, got {places.tolist()}")


def write(folder: str | os.PathLike[str], out: str | os.PathLike[str] | None = None, title: str = "") -> Path:
    """Write the report of a folder to `out`, for None `report.html` in it; returns the file's path.

    Examples
    --------
    >>> write("results")  # doctest: +SKIP
    PosixPath('results/report.html')
    """
    path = Path(folder) / "report.html" if out is None else Path(out)
    text = page(find_results(folder), title or f"Evaluation of {Path(folder).resolve().name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)
    return path


def page(results: Sequence[Result], title: str) -> str:
    """The whole file."""
    curves, groups = "".join(curve_section(results)), joined(results)
    links = [
        f'<a href="#r{place}">{escape(" + ".join(result.name for result in group))}</a>' for place, group in enumerate(groups)
    ]
    links += ['<a href="#curves">Quality against cost</a>'] if curves else []
    sections = "".join("".join(section(group, f"r{place}")) for place, group in enumerate(groups))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body><main>\n"
        f"<header><h1>{escape(title)}</h1><p class='muted'>{plural(len(results), 'result')} by textok {escape(__version__)}</p>"
        f"<nav>{''.join(links)}</nav></header>\n{sections}{curves}"
        "<footer>Made by <code>textok report</code>. Everything is inside this file.</footer>\n</main></body></html>\n"
    )


def joined(results: Sequence[Result]) -> list[list[Result]]:
    """Results of one kind beside the same reference, whose numbers compare, together."""
    groups: dict[Any, list[Result]] = {}
    for result in results:
        reference = result.data.get("reference") or {}
        source = reference.get("source")
        key = (result.data["kind"], source, reference.get("count")) if source else result.name
        groups.setdefault(key, []).append(result)
    return list(groups.values())


@dataclass
class Row:
    """A set in a table: what its results say of it together."""

    name: str
    of: str  # the result, where others have sets of that name
    data: Mapping[str, Any]
    metrics: dict[str, Any]
    values: dict[str, NDArray[Any]]  # {metric: one number a picture}
    keys: list[str]  # of these pictures

    def deviation(self, key: str) -> float | None:
        base, at, network = key.partition("@")
        found = self.metrics.get(f"{base}_deviation{at}{network}")
        return float(found) if found is not None and np.isfinite(found) else None


def rows_of(results: Sequence[Result]) -> list[Row]:
    """The sets of results that compare; one that several results measured, by other networks say, is one row."""
    rows: list[Row] = []
    for result in results:
        keys = result.pictures.get("keys", np.array([])).tolist()
        for data in result.data["sets"]:
            name, metrics, head = data["name"], data["metrics"], f"value/{data['name']}/"
            values = {key.removeprefix(head): value for key, value in result.pictures.items() if key.startswith(head)}
            same = next((row for row in rows if is_same(row, data)), None)
            if same is None:
                rows.append(Row(name, result.name, data, dict(metrics), values, keys))
                continue
            same.metrics |= metrics
            if keys == same.keys:
                same.values |= values
    names = [row.name for row in rows]
    for row in rows:
        row.of = row.of if names.count(row.name) > 1 else ""
    return rows


def is_same(row: Row, data: Mapping[str, Any]) -> bool:
    """Whether a result's set is that of a row: the same name, source and number of pictures, no number that differs."""
    alike = all(row.data.get(field) == data.get(field) for field in ("name", "source", "count"))
    return alike and bool(data.get("source")) and all(row.metrics.get(k, v) == v for k, v in data["metrics"].items())


def beyond_error(one: Row, other: Row, key: str) -> bool | None:
    """Whether two sets differ in a metric by more than its error at 95%: by the same pictures where each has a number of its
    own, or by both deviations; None where no error is known."""
    a, b = one.values.get(key), other.values.get(key)
    if a is not None and b is not None and one.keys == other.keys and len(a) == len(b) > 1:
        both = np.isfinite(a) & np.isfinite(b)
        difference = (a - b)[both]
        if len(difference) > 1:
            return bool(abs(difference.mean()) > 1.96 * difference.std(ddof=1) / np.sqrt(len(difference)))
    errors = one.deviation(key), other.deviation(key)
    if errors[0] is None or errors[1] is None:
        return None
    return bool(abs(one.metrics[key] - other.metrics[key]) > 1.96 * np.hypot(errors[0], errors[1]))


def best_of(rows: Sequence[Row], key: str) -> tuple[Row | None, str]:
    """The best set in a metric, and how it is shown: "best" where it is so by more than the error, "lead" where no error is
    known; no set where the next is inside the error."""
    known = [row for row in rows if row.metrics.get(key) is not None]
    base = key.partition("@")[0]
    if len(known) < 2 or base not in METRICS:
        return None, ""
    value = (min if is_lower_better(base) else max)(row.metrics[key] for row in known)
    best = [row for row in known if row.metrics[key] == value]
    apart = [beyond_error(best[0], other, key) for other in known if other is not best[0]]
    if len(best) > 1 or False in apart:
        return None, ""
    return best[0], "lead" if None in apart else "best"


def section(results: Sequence[Result], anchor: str) -> Iterator[str]:
    """The results of a group: one table, and what belongs to each."""
    data, rows = results[0].data, rows_of(results)
    counts = sorted({row.data["count"] for row in rows if row.data.get("count")})
    of = f"{counts[0]:,} pictures a set" if len(counts) == 1 else "sets of different sizes" if counts else ""
    reference = data.get("reference") or {}
    beside = f", beside {reference['count']:,} of {escape(short(reference['source']))}" if reference.get("count") else ""
    name = " + ".join(escape(result.name) for result in results)
    yield f'<section id="{anchor}"><h2>{name}</h2><div class="muted">{escape(data["kind"])}: {of}{beside}</div>'
    yield numbers(rows, stand_ins_of(results))
    for note in notes(results, rows):
        yield f'<p class="note">{note}</p>'
    for result in results:
        yield from picture_groups(result)
    for result in results:
        yield details(result, len(results) > 1)
    yield "</section>\n"


def stand_ins_of(results: Iterable[Result]) -> dict[str, str]:
    """{network: what it stands in for} of all of them that are no network people know."""
    networks = [result.data.get("network") or {} for result in results]
    return {network["name"]: network["stand_in_for"] for network in networks if network.get("stand_in_for")}


def notes(results: Sequence[Result], rows: Sequence[Row]) -> Iterator[str]:
    """What to keep in mind of a table: stand-ins, sets that are too small, remarks of the evaluation."""
    for network, known in stand_ins_of(results).items():
        yield (
            f"Features of <b>{escape(network)}</b>, a stand-in for {escape(known)}: "
            "these distances and scores compare with each other, not with published ones."
        )
    few = [row.data["count"] for row in rows if row.data.get("count", FEW) < FEW and any("@" in key for key in row.metrics)]
    if few:
        yield (
            f"Only {min(few):,} pictures: FID, KID, precision and recall of fewer than {FEW:,} tell large differences alone; "
            "compare sets of one size with each other."
        )
    told: dict[str, list[str]] = {}
    for row in rows:
        for remark in row.data.get("remarks", ()):
            told.setdefault(remark, []).append(row.name)
    for remark, names in told.items():
        yield escape(f"{', '.join(dict.fromkeys(names))}: {remark}")


def numbers(rows: Sequence[Row], stand_ins: Mapping[str, str]) -> str:
    """The table: a row a set; on a narrow screen a block a set."""
    keys = list(dict.fromkeys(key for row in rows for key in row.metrics if "_deviation" not in key))
    heads = "".join(f"<th>{heading(key, stand_ins)}</th>" for key in keys)
    best = {key: best_of(rows, key) for key in keys}
    lines = []
    for row in rows:
        cells = []
        for key in keys:
            value, deviation = row.metrics.get(key), row.deviation(key)
            shown = f" class={best[key][1]}" if best[key][0] is row else ""
            spread = f" <small>± {deviation:.2g}</small>" if deviation is not None else ""
            label = escape(f"{metric_name(key, stand_ins)} {arrow(key)}".strip())
            cells.append(f'<td data-label="{label}"{shown}>{"–" if value is None else f"{value:.4g}"}{spread}</td>')
        of = f"<br><small>{escape(row.of)}</small>" if row.of else ""
        lines.append(f"<tr><td>{escape(row.name)}{of}{settings_words(row.data)}</td>{''.join(cells)}</tr>")
    kinds = {kind for _, kind in best.values()}
    told = {
        "best": "<b>Bold</b>: better than every other by more than chance in these pictures (95%). ",
        "lead": '<span class="lead">Blue</span>: the best number, its error unknown. ',
    }
    legend = "".join(text for kind, text in told.items() if kind in kinds)
    table = f"<table><thead><tr><th>set</th>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    return f'<div class="scroll">{table}</div><p class="muted">↑ more is better, ↓ less is better. {legend}</p>'


def settings_words(row: Mapping[str, Any]) -> str:
    settings = row.get("settings", {})
    words = [f"{key.replace('_', ' ')} {settings[key]:.4g}" for key in COSTS if isinstance(settings.get(key), int | float)]
    return f"<br><small>{escape(', '.join(words))}</small>" if words else ""


def is_lower_better(base: str) -> bool:
    return base in METRICS and METRICS[base].better == "lower"


def arrow(key: str) -> str:
    """Which way is better."""
    base = key.partition("@")[0]
    return "" if base not in METRICS else "↓" if is_lower_better(base) else "↑"


def metric_name(key: str, stand_ins: Mapping[str, str] | None = None) -> str:
    """A metric as people call it; "-like" where a network stands in for the one they mean, whose name comes behind."""
    base, _, network = key.partition("@")
    name = METRICS[base].column if base in METRICS else base.replace("_", " ")
    return f"{name}{'-like' if network in (stand_ins or {}) else ''} ({network})" if network else name


def heading(key: str, stand_ins: Mapping[str, str]) -> str:
    """A metric's name, which way is better, its network small below it."""
    name, bracket, network = metric_name(key, stand_ins).partition(" (")
    return f"{escape(name)} {arrow(key)}" + (f"<br><small>({escape(network)}</small>" if bracket else "")


def picture_groups(result: Result) -> Iterator[str]:
    """Examples: a card each, its caption above what was made of it."""
    arrays = result.pictures
    sets = {key.removeprefix("set/"): value for key, value in arrays.items() if key.startswith("set/")}
    if not sets:
        return
    names = [row["name"] for row in result.data["sets"] if row["name"] in sets]
    keys, captions = (arrays.get(name, np.array([])).tolist() for name in ("example_keys", "example_captions"))
    places_of = {group: arrays[f"places/{group}"].tolist() for group in GROUPS if f"places/{group}" in arrays}
    originals = arrays.get("originals")
    differences = {} if originals is None else {name: viz.difference(sets[name], originals) for name in names}
    for group, places in places_of.items():
        head, what = GROUPS[group]
        yield f'<h3>{head} <small>{what}</small></h3><div class="examples">'
        for place in places:
            key, caption = (found[place] if place < len(found) else "" for found in (keys, captions))
            yield f'<article><p>{escape(caption or key)}</p><div class="strip">'
            if originals is not None:
                yield picture(originals[place], "original", caption)
            for name in names:
                value = psnr_of(result, name, keys, place)
                yield picture(sets[name][place], f"{name}, {value}" if value else name, caption)
                if originals is not None:
                    yield picture(differences[name][place], "difference × 3", caption)
            yield "</div></article>"
        yield "</div>"


def psnr_of(result: Result, name: str, keys: Sequence[str], place: int) -> str:
    values, all_keys = result.pictures.get(f"value/{name}/psnr"), result.pictures.get("keys")
    if values is None or all_keys is None or place >= len(keys):
        return ""
    found = np.flatnonzero(all_keys == keys[place])
    return f"{values[found[0]]:.1f} dB" if len(found) else ""


def picture(pixels: U8, under: str = "", hover: str = "") -> str:
    small = " class=pixels" if pixels.shape[1] < 100 else ""
    alternative = escape(hover or under or "picture")
    line = f"<figcaption>{escape(under)}</figcaption>" if under else ""
    return f'<figure title="{alternative}"><img{small} alt="{alternative}" src="{data_uri(pixels)}">{line}</figure>'


def data_uri(pixels: U8) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def details(result: Result, named: bool) -> str:
    """How a result was measured, `named` where there are several in a section."""
    data = result.data
    network, reference = data.get("network") or {}, data.get("reference") or {}
    entries = {
        "network": network.get("name"),
        "preprocessing": network.get("preprocessing"),
        "reference": reference.get("source"),
    }
    entries |= {"reference pictures": reference.get("preprocessing"), "seed": data.get("seed")}
    entries |= data.get("settings", {})
    for row in data["sets"]:
        if row.get("source"):
            entries[f"set {row['name']}"] = row["source"]
        if row.get("skipped"):
            entries[f"unreadable in {row['name']}"] = ", ".join(skip["key"] or skip["source"] for skip in row["skipped"][:20])
    entries["versions"] = ", ".join(f"{name} {version}" for name, version in data.get("versions", {}).items())
    lines = (f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in entries.items() if value not in (None, ""))
    of = f": {escape(result.name)}" if named else ""
    return f"<details><summary>How it was measured{of}</summary><dl>{''.join(lines)}</dl></details>"


def curve_section(results: Sequence[Result]) -> Iterator[str]:
    """Each cost that at least two sets of a line have different values of, against each metric they share."""
    plots, stand_ins = [], stand_ins_of(results)
    rows = [(result, row) for result in results for row in result.data["sets"]]
    for cost, label in COSTS.items():
        for key in dict.fromkeys(key for _, row in rows for key in row["metrics"] if "_deviation" not in key):
            if points := points_of(rows, cost, key):
                ax = viz.curve(points, label, metric_name(key), "line", log=cost in LOGARITHMIC, told=True)
                ax.set_title(f"{metric_name(key, stand_ins)} {arrow(key)}", loc="left", fontsize=10)
                plots.append(f"<div>{svg(ax.figure)}</div>")
    if plots:
        yield '<section id="curves"><h2>Quality against cost</h2><div class="muted">A line a series; points are sets</div>'
        yield f'<div class="curves">{"".join(plots)}</div></section>\n'


def points_of(rows: Iterable[tuple[Result, Mapping[str, Any]]], cost: str, key: str) -> list[dict[str, Any]]:
    """The sets that have a cost and a metric, as points of a plot's lines.

    A line is what settings say of `series`; or else all sets of a solver, or of a result where there is none, whose other
    settings (APART) are the same. A line of one point shows nothing and is left out.
    """
    found = []
    for result, row in rows:
        settings = row.get("settings", {})
        value, across = row["metrics"].get(key), settings.get(cost)
        if value is not None and isinstance(across, int | float) and not isinstance(across, bool):
            found.append((result, row, settings, value, across))
    differing = [name for name in APART[cost] if len({settings.get(name) for _, _, settings, _, _ in found}) > 1]
    base, at, network = key.partition("@")
    points: list[Any] = []
    of_line: dict[Any, Any] = {}
    for result, row, settings, value, across in found:
        others = {name: settings[name] for name in differing if isinstance(settings.get(name), int | float)}
        apart = [f"{name.replace('_', ' ')} {other:.4g}" for name, other in others.items()]
        line = str(settings.get("series") or ", ".join([str(settings.get("solver") or result.name), *apart]))
        of_line.setdefault(line, set()).add(across)
        deviation = row["metrics"].get(f"{base}_deviation{at}{network}")
        points.append({COSTS[cost]: across, metric_name(key): value, f"{metric_name(key)}_deviation": deviation, "line": line})
    return [point for point in points if len(of_line[point["line"]]) > 1]


def svg(figure: Any) -> str:
    """A figure as SVG that may stand in HTML, its text as paths, the same for the same figure."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "textok", "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    text = buffer.getvalue()
    return text[text.index("<svg") :].replace(
        ' xmlns:xlink="http://www.w3.org/1999/xlink"', ' xmlns:xlink="http://www.w3.org/1999/xlink"', 1
    )


def escape(value: Any) -> str:
    return html.escape(str(value))


def short(source: str) -> str:
    return Path(source).name or source


def plural(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"
