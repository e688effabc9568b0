"""The main job on the bundled models: the demo as users run it, its pictures, its table, its promises."""

import os
import re
import socket
import time

import numpy as np
import pytest
from PIL import Image

import textok
from textok import bundled, cli, demo
from textok.metrics import psnr, ssim

SHEETS = ("reconstruction.png", "classes.png", "captions.png")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One run of the command: where it wrote, what it said, how long it took; the network is out of reach."""
    pytest.importorskip("skimage")
    out = tmp_path_factory.mktemp("demo") / "made" / "here"
    said, start, connect = [], time.perf_counter(), socket.socket.connect

    def no_network(*_):
        raise AssertionError("the demo opened a connection")

    socket.socket.connect = no_network
    try:
        demo.run(out, seed=3, say=said.append)
    finally:
        socket.socket.connect = connect
    return out, "\n".join(said), time.perf_counter() - start


@pytest.mark.long
def test_files(run):
    out, said, _ = run
    assert sorted(path.name for path in out.iterdir()) == sorted([*SHEETS, "table.txt"])
    for name in (*SHEETS, "table.txt"):
        assert str(out / name) in said
    for name in SHEETS:
        with Image.open(out / name) as sheet:
            pixels = np.asarray(sheet)
        assert min(sheet.size) > 600 and sheet.mode == "RGB"
        assert pixels.std() > 20 and (pixels.min(axis=2) < 60).any(), f"{name} is empty"
    assert (out / "table.txt").read_text().strip() in said


@pytest.mark.long
def test_table(run):
    """PSNR and SSIM of text, no text and PCA with as many numbers, each in its range; seconds an image of all three parts."""
    _, said, _ = run
    rows = {
        name: re.search(rf"^{re.escape(name)} +(\d+|-) +(\d+) +([\d.]+) dB +([\d.]+) +(.*)$", said, re.M)
        for name in ("TexTok, with text", "Baseline, no text", "PCA", demo.FEW, demo.WRONG)
    }
    assert all(rows.values()), said
    shapes = {name: (row[1], row[2]) for name, row in rows.items()}
    assert shapes == {
        "TexTok, with text": ("32", "256"), "Baseline, no text": ("32", "256"), "PCA": ("-", "256"),
        demo.FEW: ("4", "32"), demo.WRONG: ("4", "32"),
    }  # fmt: skip
    for row in rows.values():
        assert 15 < float(row[3]) < 40 and 0.3 < float(row[4]) < 1
    assert rows["TexTok, with text"][5].endswith(" s") and rows["PCA"][5] == "-"
    how = r", \d+ steps of \S+, guidance [\d.]+ +[\d.]+ s$"
    assert re.search(f"^12 classes{how}", said, re.M) and re.search(f"^10 held-out captions{how}", said, re.M)


@pytest.mark.long
def test_the_table_tells_the_truth(run):
    """Its PSNR is that of the pictures, made anew."""
    _, said, _ = run
    held_out = demo.HeldOut.load()
    model = textok.TexTok.from_pretrained("emoji-textok")
    pictures = model.reconstruct(held_out.images, *held_out.captions.embeddings(np.arange(len(held_out.images))))
    assert f"{psnr(pictures, held_out.images).mean():.2f} dB" in said
    assert f"{psnr(held_out.pca, held_out.images).mean():.2f} dB" in said


@pytest.mark.long
def test_text_helps():
    """Where tokens are few a picture is better with its own caption than with another's."""
    held_out = demo.HeldOut.load()
    model = textok.TexTok.from_pretrained("emoji-textok-4")
    text, lengths = held_out.captions.embeddings(np.arange(len(held_out.images)))
    right = psnr(model.reconstruct(held_out.images, text, lengths), held_out.images).mean()
    wrong = psnr(model.reconstruct(held_out.images, text[::-1], lengths[::-1]), held_out.images).mean()
    assert right > wrong + 0.5


@pytest.mark.long
def test_same_seed_same_pictures(run, tmp_path, capsys):
    """And another out folder, a relative one, through the command."""
    out, _, _ = run
    before = os.getcwd()
    os.chdir(tmp_path)
    try:
        assert cli.main(["demo", "--out", "again", "--seed", "3", "--threads", "1"]) == 0
    finally:
        os.chdir(before)
    assert capsys.readouterr().err == ""
    for name in SHEETS:
        assert (tmp_path / "again" / name).read_bytes() == (out / name).read_bytes()


@pytest.mark.measured
@pytest.mark.long
def test_time(run):
    assert run[2] < 30


def test_held_out_data():
    held_out = demo.HeldOut.load()
    assert (
        held_out.images.shape == held_out.pca.shape == (64, 64, 64, 3)
        and held_out.images.dtype == held_out.pca.dtype == np.uint8
    )
    assert len(held_out.captions) == 64 and held_out.pca_numbers == 256
    assert all(record["caption"] for record in held_out.captions.records)


def test_bundled_pipelines():
    """All 99 classes have a caption; both pipelines make pictures; the whole stays below 60 MB."""
    pipeline = textok.Pipeline.from_pretrained("emoji")
    result = pipeline(labels=[0, 98], steps=3, seed=0)
    assert result.images.shape == (2, 64, 64, 3) and len(result.captions) == 2
    pipeline.captions.draw(range(99), seed=0)
    held_out = demo.HeldOut.load()
    text, lengths = held_out.captions.embeddings([0])
    assert textok.Pipeline.from_pretrained("emoji-t2i")(text=text, text_lengths=lengths, steps=3).images.shape == (1, 64, 64, 3)
    assert sum(path.stat().st_size for path in bundled.FOLDER.rglob("*") if path.is_file()) < 60e6


def test_psnr():
    black, grey = np.zeros((2, 8, 8, 3), np.uint8), np.full((2, 8, 8, 3), 51, np.uint8)
    assert psnr(black, grey) == pytest.approx([20 * np.log10(5)] * 2) and np.isinf(psnr(grey, grey)).all()


def test_ssim():
    """1 for equal pictures; for two flat ones the luminance term of the paper alone."""
    pytest.importorskip("skimage")
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (1, 32, 32, 3), np.uint8)
    assert ssim(noise, noise) == pytest.approx([1.0])
    a, b, c1 = 100.0, 150.0, (0.01 * 255) ** 2
    flat = [np.full((1, 32, 32, 3), value, np.uint8) for value in (100, 150)]
    assert ssim(*flat) == pytest.approx([(2 * a * b + c1) / (a * a + b * b + c1)])
    assert ssim(noise, noise[::-1, ::-1])[0] < 0.2


@pytest.mark.parametrize(
    "wrong",
    [np.zeros((2, 8, 8, 3)), np.zeros((8, 8, 3), np.uint8), np.zeros((2, 8, 8, 1), np.uint8), np.zeros((1, 8, 8, 3), np.uint8)],
)
def test_metrics_of_what_they_do_not_take(wrong):
    with pytest.raises(ValueError, match="expected"):
        psnr(wrong, np.zeros((2, 8, 8, 3), np.uint8))
