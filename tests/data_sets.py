"""Small data sets and models on disk, for tests of runs over whole ones."""

import io
import json
import struct
import subprocess
import sys
import tarfile

import api_models
import numpy as np
from fresh_process import environment
from PIL import Image


def png(picture):
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def picture(seed, side=20):
    return np.random.default_rng(seed).integers(0, 256, (side, side + seed % 5, 3), np.uint8)


def make_shard(path, samples):
    """A shard of (key, {extension: bytes})."""
    with tarfile.open(path, "w") as tar:
        for key, files in samples:
            for extension, data in files.items():
                info = tarfile.TarInfo(f"{key}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return path


def caption(number):
    return f"caption {number % 18}"  # as those of api_models.captions()


def samples(first, count):
    for i in range(first, first + count):
        yield f"k{i:03d}", {"png": png(picture(i)), "json": json.dumps({"caption": caption(i), "label": i % 9}).encode()}


def make_shards(folder, counts):
    """Shards of so many samples each, numbered on."""
    folder.mkdir(parents=True, exist_ok=True)
    first = 0
    for number, count in enumerate(counts):
        make_shard(folder / f"{number:02d}.tar", samples(first, count))
        first += count
    return folder


def models(folder):
    """TexToks with text, masked and not, and one without, pipelines and captions' embeddings, in a folder."""
    api_models.textok(text_mask=True).save_pretrained(folder / "textok")
    api_models.textok().save_pretrained(folder / "unmasked")
    api_models.textok(text_condition="none").save_pretrained(folder / "baseline")
    api_models.class_pipeline().save_pretrained(folder / "classes")
    api_models.text_pipeline().save_pretrained(folder / "texts")
    api_models.dit().save_pretrained(folder / "dit")
    api_models.captions().save(folder / "captions")
    return folder


def contents(folder):
    """All files of a run's folder that matter: path to bytes, without locks."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".lock"
    }


def command(*arguments):
    """A fresh process of the shell's command, not waited for."""
    line = [sys.executable, "-m", "textok", *map(str, arguments)]
    return subprocess.Popen(line, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def jpeg_with(*entries, extra=b""):
    """A JPEG with EXIF entries (tag, type, count, four bytes)."""
    table = b"II*\0" + struct.pack("<LH", 8, len(entries))
    table += b"".join(struct.pack("<HHL", *entry[:3]) + entry[3] for entry in entries) + bytes(4) + extra
    buffer = io.BytesIO()
    Image.fromarray(picture(2)).save(buffer, "JPEG", exif=b"Exif\0\0" + table)
    return buffer.getvalue()


TURNED = (0x0112, 3, 1, struct.pack("<HH", 6, 0))
# On which Pillow raises struct.error and TypeError, which it documents nowhere.
DAMAGED_EXIF = {
    "a rational below zero": jpeg_with(TURNED, (0x011A, 10, 1, struct.pack("<L", 38)), extra=struct.pack("<ll", -1, 0)),
    "text for a number": jpeg_with(TURNED, (0x011A, 2, 1, bytes(4))),
    "a sign where none is": jpeg_with(TURNED, (0x0128, 8, 1, struct.pack("<hh", -5, 0))),
}
