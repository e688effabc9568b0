"""The report and the plots: what is in the file, that nothing outside it is asked for, and that a browser shows it."""

import base64
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from textok import cli
from textok.errors import DataError
from textok.metrics import report
from textok.metrics.evaluate import Evaluation
from textok.pictures import plots as viz

MAGENTA = (220, 10, 190)
VOID = {"meta", "img", "br", "path", "use", "rect", "link"}


class Page(HTMLParser):
    """Tags that are opened and closed in order, their addresses, and the text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.addresses, self.images, self.words, self.tags = [], [], [], [], set()
        self.feed(text)
        self.close()
        assert self.open == [], f"left open: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
                self.addresses.append(value)
            if tag == "img" and name == "src":
                self.images.append(value)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open and self.open[-1] == tag, f"</{tag}> in {self.open}"
            self.open.pop()

    def handle_data(self, data):
        if not (self.open and self.open[-1] == "style"):
            self.words.append(data)


def smooth(n=12, size=32, seed=0):
    small = np.random.default_rng(seed).integers(0, 256, (n, 3, 3, 3), np.uint8)
    return np.stack([np.asarray(Image.fromarray(p).resize((size, size), Image.Resampling.BICUBIC)) for p in small])


@pytest.fixture
def results(tmp_path):
    """A reconstruction of two sets, one of which has a name that must be escaped; picture 5 is magenta and the worst."""
    pytest.importorskip("skimage")
    originals = smooth()
    noise = np.random.default_rng(1).normal(size=originals.shape)
    near, far = (np.clip(originals + scale * noise, 0, 255).astype(np.uint8) for scale in (6, 25))
    near[5] = MAGENTA
    for name, pictures in (("originals", originals), ("near", near), ("far", far)):
        np.savez(tmp_path / f"{name}.npz", arr_0=pictures)
    sets = {"<b>TexTok & co</b>": tmp_path / "near.npz", "Baseline": tmp_path / "far.npz"}
    Evaluation(tmp_path / "results" / "first").reconstruction(sets, tmp_path / "originals.npz")
    return tmp_path / "results"


def test_report(results):
    path = report.write(results)
    text = path.read_text("utf-8")
    page = Page(text)
    words = " ".join(page.words)
    assert path == results / "report.html" and text.startswith("<!DOCTYPE html>")
    data = json.loads((results / "first" / "result.json").read_text())
    for row in data["sets"]:
        assert f"{row['metrics']['psnr']:.4g}" in words and f"{row['metrics']['ssim']:.4g}" in words and row["name"] in words
    for phrase in (
        "Evenly spread",
        "Worst cases",
        "Best cases",
        "original",
        "difference",
        "How it was measured",
        "gaussian_weights True",
    ):
        assert phrase in words, phrase
    assert "<b>TexTok" not in text and "&lt;b&gt;TexTok &amp; co" in text
    assert "script" not in page.tags and "curves" not in text.partition("</style>")[2]
    # 8 spread, worst and best: the original, and of each set the picture and its difference.
    assert len(page.images) == 3 * 8 * (1 + 2 * 2)


def test_nothing_outside_is_asked_for(results):
    text = report.write(results).read_text("utf-8")
    page = Page(text)
    assert page.addresses and all(address.startswith(("#", "data:image/png;base64,")) for address in page.addresses)
    assert not re.search(r"url\(|@import|<link|<iframe|<script", text, re.IGNORECASE)
    found = set(re.findall(r"https?://[^\s\"'<]+", text))
    assert all("w3.org" in address for address in found), found  # names of namespaces only
    planted = text.replace("</main>", '<img src="https://example.org/a.png"></main>')
    assert not all(address.startswith(("#", "data:")) for address in Page(planted).addresses)


def test_pictures_are_the_sets(results):
    """Pixel for pixel; the worst case comes first in its row."""
    text = report.write(results).read_text("utf-8")
    images = [np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))) for uri in Page(text).images]
    worst = images[8 * 5 :]  # after the spread's eight cards of five
    with np.load(results.parent / "originals.npz") as file:
        assert np.array_equal(worst[0], file["arr_0"][5])
    assert (worst[1] == MAGENTA).all() and np.array_equal(worst[2], viz.difference(worst[1][None], worst[0][None])[0])
    rows = re.findall(r"<figcaption>[^<]*, ([\d.]+) dB</figcaption>", text)
    values = [float(value) for value in rows[16:32:2]]  # the worst of the first set
    assert values == sorted(values) and len(values) == 8


def test_only_differences_beyond_the_error_are_bold(tmp_path):
    """Paired over pictures where each has a number, by deviations elsewhere; unknown errors are marked otherwise."""
    folder = result_with(
        tmp_path, "a",
        [({}, {"psnr": 20.5, "ssim": 0.8, "kid@net": 0.10, "kid_deviation@net": 0.02, "rfid@net": 7.0}),
         ({}, {"psnr": 20.0, "ssim": 0.7, "kid@net": 0.11, "kid_deviation@net": 0.02, "rfid@net": 8.0})],
    )  # fmt: skip
    noise = np.random.default_rng(0).normal(size=40)
    psnr, ssim = {"s0": 20.5 + noise, "s1": 20 + noise}, {"s0": 0.8 + noise, "s1": 0.7 - noise}
    arrays = {f"value/{name}/{key}": each[name] for key, each in (("psnr", psnr), ("ssim", ssim)) for name in each}
    np.savez(folder / "pictures.npz", keys=np.array([f"k{i}" for i in range(40)]), **arrays)
    rows = report.rows_of(report.find_results(tmp_path))
    marks = {key: report.best_of(rows, key) for key in ("psnr", "ssim", "kid@net", "rfid@net")}
    assert marks["psnr"] == (rows[0], "best") and marks["rfid@net"] == (rows[0], "lead")
    assert marks["ssim"] == marks["kid@net"] == (None, "")
    rows[1].metrics["kid@net"] = 0.2  # five deviations apart
    assert report.best_of(rows, "kid@net") == (rows[0], "best")
    text = report.write(tmp_path).read_text("utf-8")
    assert "class=best>20.5" in text and "class=lead>7" in text and "rFID (net) ↓" in text and "PSNR, dB ↑" in text


def test_results_beside_the_same_pictures_are_one_table(tmp_path):
    """A set that two networks measured is one row; sets of several results stand below each other."""
    reference = {"source": "photos", "count": 9}
    for name, network, source in (("a", "lite0", "x"), ("b", "lite2", "x"), ("c", "lite0", "y")):
        folder = result_with(tmp_path, name, [({}, {"psnr": 20.0, f"kid@{network}": 0.1})], reference=reference,
                             network={"name": network, "stand_in_for": "Inception-v3"})  # fmt: skip
        path = folder / "result.json"
        data = json.loads(path.read_text())
        data["sets"][0]["source"] = source
        path.write_text(json.dumps(data))
    groups = report.joined(report.find_results(tmp_path))
    assert [[result.name for result in group] for group in groups] == [["a", "b", "c"]]
    rows = report.rows_of(groups[0])
    assert [(row.of, sorted(row.metrics)) for row in rows] == [
        ("a", ["kid@lite0", "kid@lite2", "psnr"]), ("c", ["kid@lite0", "psnr"])
    ]  # fmt: skip
    text = report.write(tmp_path).read_text("utf-8")
    assert text.count("<table>") == 1 and "KID-like (lite2) ↓" in text and "Only 9 pictures" in text
    result_with(tmp_path, "d", [({}, {"psnr": 1.0})], reference={"source": "others", "count": 9})
    assert len(report.joined(report.find_results(tmp_path))) == 2


def test_captions_stand_beside_pictures_and_remarks_are_seen(tmp_path):
    folder = result_with(tmp_path, "a", [({}, {"kid@net": 0.1})])
    path = folder / "result.json"
    data = json.loads(path.read_text())
    data["sets"][0]["remarks"] = ["far too few"]
    path.write_text(json.dumps(data))
    arrays = {"set/s0": smooth(2, 8), "places/spread": np.arange(2), "example_keys": np.array(["k0", "k1"])}
    np.savez(folder / "pictures.npz", **arrays, example_captions=np.array(["a <small> cat", ""]))
    text = report.write(tmp_path).read_text("utf-8")
    assert "<article><p>a &lt;small&gt; cat</p>" in text and "<article><p>k1</p>" in text
    assert '<p class="note">s0: far too few</p>' in text and 'name="viewport"' in text


def result_with(tmp_path, name, sets, **more):
    folder = tmp_path / name
    folder.mkdir(parents=True)
    rows = [
        {"name": f"s{i}", "count": 9, "settings": settings, "metrics": metrics} for i, (settings, metrics) in enumerate(sets)
    ]
    (folder / "result.json").write_text(json.dumps({"format": "textok-eval 1", "kind": "samples", "sets": rows, **more}))
    return folder


def test_curves(tmp_path):
    """One for each cost with several values and each metric; lines by solver; a lone point is no line."""
    pytest.importorskip("matplotlib")
    sets = [
        ({"steps": s, "solver": solver, "tokens": 16}, {"kid@net": scale / s, "psnr": None})
        for solver, scale in (("ddim", 1), ("ddpm", 2))
        for s in (5, 10, 20)
    ]
    sets.append(({"steps": 7, "solver": "alone"}, {"kid@net": 0.3}))
    result_with(tmp_path, "steps", sets, network={"name": "net", "stand_in_for": "Inception-v3"})
    text = report.write(tmp_path).read_text("utf-8")
    page = Page(text)
    assert text.count("<svg") == 1 and "Quality against cost" in text and "a stand-in for" in " ".join(page.words)
    assert "0.05" in text and "class=lead>0.05" in text  # KID falls; its error is unknown
    assert report.write(tmp_path).read_text("utf-8") == text, "the same results make the same file"


def test_lines_of_curves(tmp_path):
    """A line joins sets that differ in the cost alone, or in what follows from it; a series is what the user says."""
    made = [
        ({"solver": "ddim", "steps": s, "guidance_scale": g, "seconds": s / 10}, {"kid": s + g})
        for g in (1, 3)
        for s in (5, 10)
    ]
    result_with(tmp_path, "a", made)
    rows = [(result, row) for result in report.find_results(tmp_path) for row in result.data["sets"]]

    def lines(cost):
        found = {}
        for point in report.points_of(rows, cost, "kid"):
            found.setdefault(point["line"], []).append((point[report.COSTS[cost]], point["KID"]))
        return found

    assert lines("steps") == {"ddim, guidance scale 1": [(5, 6), (10, 11)], "ddim, guidance scale 3": [(5, 8), (10, 13)]}
    assert lines("guidance_scale") == {"ddim, steps 5": [(1, 6), (3, 8)], "ddim, steps 10": [(1, 11), (3, 13)]}
    assert lines("seconds") == {"ddim, guidance scale 1": [(0.5, 6), (1, 11)], "ddim, guidance scale 3": [(0.5, 8), (1, 13)]}
    for _, row in rows:
        row["settings"]["series"] = "mine"
    assert list(lines("steps")) == ["mine"] and len(lines("steps")["mine"]) == 4
    del rows[1:]
    assert lines("steps") == {}


@pytest.mark.parametrize(
    "content",
    (
        "textok-eval 1",
        '{"format": "textok-eval 1", "sets": [{}]}',
        '{"format": "textok-eval 1", "sets": 3}',
        '{"format": "textok-eval 1", "sets": []}',
        '{"format": "textok-eval 1", "kind": "samples", "sets": [], "network": "x"}',
        '{"format": "textok-eval 1", "kind": "samples", "sets": [{"name": "a", "metrics": {"psnr": "x"}}]}',
    ),
)
def test_broken_results(content, tmp_path, capsys):
    (tmp_path / "result.json").write_text(content)
    assert cli.main(["report", str(tmp_path)]) == 1
    err = capsys.readouterr().err
    assert "result.json: expected a result" in err and err.count("\n") == 1


@pytest.mark.parametrize("flaw", ("empty", "cut", "place"))
def test_broken_pictures_of_a_result(flaw, tmp_path):
    result_with(tmp_path, "a", [({}, {"psnr": 20.0})])
    (beside,) = (path.with_name("pictures.npz") for path in tmp_path.rglob("result.json"))
    np.savez(beside, **{"set/a": np.zeros((2, 8, 8, 3), np.uint8), "places/spread": np.array([0, 2 if flaw == "place" else 1])})
    if flaw != "place":
        report.write(tmp_path)
        beside.write_bytes(b"" if flaw == "empty" else beside.read_bytes()[:-40])
    with pytest.raises(DataError, match="pictures.npz: "):
        report.write(tmp_path)


def test_folders_without_results(tmp_path, capsys):
    (tmp_path / "other.json").write_text("{}")
    for folder in (tmp_path, tmp_path / "nothing", tmp_path / "other.json"):
        with pytest.raises(DataError, match="expected"):
            report.write(folder)
    result_with(tmp_path, "a", [({}, {"psnr": 20.0})])
    assert cli.main(["report", str(tmp_path), "--out", str(tmp_path / "made" / "r.html"), "--title", "A < B"]) == 0
    assert "made/r.html" in capsys.readouterr().out and "<h1>A &lt; B</h1>" in (tmp_path / "made" / "r.html").read_text("utf-8")


def browser():
    return next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)


@pytest.mark.skipif(browser() is None, reason="no headless browser here")
def test_in_a_browser(results, tmp_path):
    """The page as it looks: the planted colour covers most of a picture's place; a page without it fails."""
    pytest.importorskip("matplotlib")
    result_with(results, "steps", [({"steps": s}, {"kid@net": 1 / s}) for s in (5, 10, 20)])
    path = report.write(results)

    def shot(page):
        out = tmp_path / "shot.png"
        out.unlink(missing_ok=True)
        flags = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--window-size=1280,3600",
            f"--user-data-dir={tmp_path / 'profile'}",
        ]
        subprocess.run([browser(), *flags, f"--screenshot={out}", page.as_uri()], capture_output=True, timeout=240, check=True)
        return np.asarray(Image.open(out).convert("RGB")).astype(int)

    def pixels_of(picture, color):
        return int((np.abs(picture - color).max(axis=2) <= 3).sum())

    whole = shot(path)
    assert whole.shape[1] == 1280 and pixels_of(whole, MAGENTA) > 90 * 90
    assert pixels_of(whole, [0x1F, 0x5F, 0xA8]) > 300, "no curve in its colour"
    bare = tmp_path / "bare.html"
    bare.write_text(re.sub(r'src="data:[^"]*"', 'src=""', path.read_text("utf-8")), "utf-8")
    assert pixels_of(shot(bare), MAGENTA) == 0


# ---- plots ----


def test_mosaic_and_difference():
    pictures = smooth(5, 8)
    whole = viz.mosaic(pictures, columns=3, gap=2)
    assert whole.shape == (18, 28, 3) and np.array_equal(whole[10:18, 10:18], pictures[4]) and (whole[:8, 8:10] == 255).all()
    assert (whole[10:, 20:] == 255).all()
    assert (viz.difference(pictures, pictures) == 255).all()
    black, white = np.zeros((1, 2, 2, 3), np.uint8), np.full((1, 2, 2, 3), 255, np.uint8)
    assert viz.difference(black, white).max() <= 20
    slight = viz.difference(black, black + 20)
    assert (slight[..., 0] > slight[..., 2]).all() and slight.min() > 150
    for wrong in (pictures[0], pictures.astype(float), pictures[:0]):
        with pytest.raises(ValueError, match="pictures: expected"):
            viz.mosaic(wrong)


@pytest.mark.parametrize("wrong", (None, "x", 3, [], object, b"", np.zeros((2, 8, 0, 3), np.uint8), np.zeros((2, 8, 8, 3))))
def test_pictures_that_are_none(wrong):
    with pytest.raises((ValueError, TypeError), match="originals: expected"):
        viz.reconstructions(wrong, {"A": smooth(2, 8)})
    with pytest.raises((ValueError, TypeError), match="pictures: expected"):
        viz.mosaic(wrong)


def test_plots_return_axes():
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    pictures = smooth(6, 8)
    ax = viz.grid(pictures, columns=3, title="six")
    assert ax.get_title(loc="left") == "six" and np.array_equal(ax.images[0].get_array(), viz.mosaic(pictures, 3))
    mine = Figure().add_subplot()
    assert viz.grid(pictures, ax=mine) is mine
    ax = viz.reconstructions(pictures[:2], {"A": pictures[2:4]}, names=("x", "y"))
    assert [label.get_text() for label in ax.get_xticklabels()] == ["original", "A", "difference"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["x", "y"]
    with pytest.raises(ValueError, match="expected A of the originals' shape"):
        viz.reconstructions(pictures[:2], {"A": pictures[:3]})
    points = [
        {"steps": s, "kid": 1 / s, "kid_deviation": 0.01, "solver": solver} for s in (20, 5, 10) for solver in ("ddim", "ddpm")
    ]
    ax = viz.curve([*points, {"steps": 3}], "steps", "kid", by="solver", log=True)
    lines = [line for line in ax.get_lines() if len(line.get_xdata()) == 3 and line.get_label() in ("ddim", "ddpm")]
    assert (
        len(lines) == 2 and lines[0].get_xdata().tolist() == [5, 10, 20] and lines[0].get_ydata().tolist() == [0.2, 0.1, 0.05]
    )
    assert ax.get_xscale() == "log" and (ax.get_xlabel(), ax.get_ylabel()) == ("steps", "kid")


def test_every_metric_that_eval_writes_is_in_the_registry():
    """So that a report knows its heading and which way is better."""
    from textok.metrics.registry import METRICS

    assert {"psnr", "fid", "rfid", "is", "clip_score", "perceptual"} <= METRICS.keys()
    assert METRICS["rkid_subsets"].column == "rKID, mean of subsets"
    assert (METRICS["fid"].column, METRICS["rfid"].column, METRICS["ris"].column) == ("gFID", "rFID", "rIS")
    assert {name for name, metric in METRICS.items() if metric.better == "lower"} == {
        "perceptual", "lpips-vgg16", "lpips-alexnet", "fid", "kid", "kid_subsets", "rfid", "rkid", "rkid_subsets",
    }  # fmt: skip
