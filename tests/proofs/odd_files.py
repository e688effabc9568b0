"""Files that are whole as files go and odd in what they hold: pickles of any opcodes, zips whose parts disagree, tables and
names in any encoding. Of a checkpoint comes a model or a documented error of one line; of a row of text the caption that was
written, or a skip that names it. Neither takes memory or time out of proportion."""

import gzip
import io
import json
import logging
import pickle
import random
import re
import struct
import tarfile
import tempfile
import time
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import arguments, finish
from damaged_files import DOCUMENTED, FOREIGN, MOST_SECONDS

import textok
from textok import importers
from textok.data import read_latents, read_samples
from textok.numpy_files import read_npz
from textok.torch_files import TorchFile

MOST_TIMES, MOST_MORE = 200, 24 << 20  # bytes that reading may take of one of the file's, and whatever it holds

# --- Pickles ------------------------------------------------------------------------------------------------------------------

NAMES = (
    "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor", "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_parameter_with_state", "torch._tensor _rebuild_from_type_v2", "torch._utils _rebuild_qtensor",
    "torch._utils _rebuild_sparse_tensor", "torch._utils _rebuild_device_tensor_from_numpy", "torch Size",
    "torch FloatStorage", "torch HalfStorage", "torch BFloat16Storage", "torch ByteStorage", "torch QInt8Storage",
    "torch.storage UntypedStorage", "collections OrderedDict", "builtins getattr", "builtins eval", "os system",
    "numpy.core.multiarray scalar", "numpy dtype", "pathlib PosixPath", "argparse Namespace", "a\x1b[31m b\u2028",
)  # fmt: skip
NUMBERS = (0, 1, 2, 3, 255, 256, -1, -(1 << 31), 1 << 31, (1 << 32) - 1, 1 << 62, (1 << 63) - 1, 1 << 64, 10**400)


def number(n: int) -> bytes:
    return pickle.dumps(n, 2)[2:-1]


def text(value: str) -> bytes:
    data = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def name(full: str) -> bytes:
    return b"c%b\n%b\n" % tuple(part.encode("utf-8", "surrogatepass") for part in full.split(" ", 1))


def storage(rng: random.Random) -> bytes:
    kind = rng.choice([*[NAMES[9]] * 6, *NAMES[10:14], rng.choice(NAMES)])
    key = rng.choice(["0", "0", "1", "nothing", "../data.pkl", "\ud800", ""])
    count = rng.choice([24, 24, 24, 23, 25, *NUMBERS])
    return b"(" + text("storage") + name(kind) + text(key) + text("cpu") + number(count) + b"t" + rng.choice([b"Q"] * 9 + [b""])


def tensor(rng: random.Random) -> bytes:
    """A call that makes one, most of them right but for one thing."""
    shape = rng.choice([(4, 6), (24,), (), (0,), (2, 3, 4), (1,) * 40, (rng.choice(NUMBERS), 2), (0, 1 << 61, 1 << 61)])
    strides = [1] * len(shape)
    for axis in reversed(range(len(shape) - 1)):
        strides[axis] = strides[axis + 1] * shape[axis + 1]
    if rng.random() < 0.3 and strides:
        strides[rng.randrange(len(strides))] = rng.choice(NUMBERS)
    offset = rng.choice([0, 0, 0, 1, *NUMBERS])

    def sizes(values: Any) -> bytes:
        return b"(" + b"".join(map(number, values)) + rng.choice([b"t"] * 9 + [b"l"])

    parts = [storage(rng), number(offset), sizes(shape), sizes(strides), b"\x89", name("collections OrderedDict") + b")R"]
    if rng.random() < 0.1:
        rng.shuffle(parts)
    made = name(rng.choice(NAMES[:2])) + b"(" + b"".join(parts[: rng.choice([6, 6, 6, 4, 3])]) + b"tR"
    wrap = rng.random()
    if wrap < 0.1:
        made = name(rng.choice(NAMES[2:4])) + b"(" + made + b"\x88}tR"
    elif wrap < 0.2:
        made = name(NAMES[4]) + b"(" + name(NAMES[0]) + name("torch Size") + b"(" + made + b"t}tR"
    if rng.random() < 0.2:  # ... and what would change what was checked
        field = rng.choice(["_strides", "_offset", "_storage", "shape", "_file", "__class__", "__dict__"])
        state = b"}" + text(field) + rng.choice([number(1 << 40), sizes((1 << 40, 1)), name("os system")]) + b"s"
        made += rng.choice([state, b"(" + state + b"Nt", b"N" + state + b"\x86"]) + b"b"
    return made


def opcodes(rng: random.Random) -> bytes:
    """Any of them, with arguments that may be right."""
    pieces = [
        lambda: rng.choice([b"(", b"0", b"1", b"2", b".", b"}", b"]", b")", b"\x8f", b"N", b"\x88", b"\x89", b"a", b"e", b"s"]),
        lambda: rng.choice([b"u", b"d", b"l", b"t", b"\x85", b"\x86", b"\x87", b"\x90", b"\x91", b"\x94"]),
        lambda: rng.choice([b"R", b"b", b"o", b"\x81"]),
        lambda: rng.choice([b"\x92", b"Q", b"\x93", b"P0\n", b"\x97", b"\x98", b"\x82\x01", b"\x83\1\0", b"\x84\1\0\0\0"]),
        lambda: rng.choice([b"q%c", b"h%c"]) % rng.randrange(4),
        lambda: rng.choice([b"r", b"j"]) + struct.pack("<I", rng.choice([0, 1, 1 << 28, (1 << 32) - 1])),
        lambda: rng.choice([b"p%d\n", b"g%d\n"]) % rng.choice([0, 1, -1, 1 << 61, 10**100]),
        lambda: number(rng.choice(NUMBERS)),
        lambda: rng.choice([b"I%d\n", b"L%dL\n"]) % rng.choice(NUMBERS),
        lambda: rng.choice([b"I01\n", b"F1e999\n", b"Fnan\n", b"Ix\n", b"S'a\\n'\n", b"S'\n", b"V\\ud800\n", b"G" + bytes(8)]),
        lambda: text(rng.choice(["a", "ema", "model", "args", "a\nb\x1b", "\ud800", "x" * 5000])),
        lambda: rng.choice([b"X", b"B", b"T"]) + struct.pack("<I", rng.choice([0, 3, 1 << 31, (1 << 32) - 1])) + b"abc",
        lambda: rng.choice([b"\x8d", b"\x8e", b"\x96"]) + struct.pack("<Q", rng.choice([0, 3, 1 << 40, 2**64 - 1])) + b"abc",
        lambda: rng.choice([b"\x8a\xff", b"\x8b" + struct.pack("<i", rng.choice([-1, 2, 1 << 20, (1 << 31) - 1]))]) + b"abc",
        lambda: name(rng.choice(NAMES)) + rng.choice([b"", b")R", b")\x81", b"(R", b"}b"]),
        lambda: b"i" + name(rng.choice(NAMES))[1:],
        lambda: tensor(rng),
        lambda: b"\x95" + struct.pack("<Q", rng.choice([0, 8, 1 << 62])),
        lambda: rng.choice([b"]", b"}", b")", b"("]) * rng.choice([10, 3000]),
    ]
    return b"".join(rng.choice(pieces)() for _ in range(rng.randrange(1, 60)))


def pickled(rng: random.Random) -> bytes:
    start = b"\x80" + bytes([rng.randrange(6)]) if rng.random() < 0.9 else b""
    if rng.random() < 0.3:
        return start + opcodes(rng) + b"."
    items = b"".join(text(rng.choice(["a", "b", "b", "c\n\x1b[0m"])) + tensor(rng) for _ in range(rng.randrange(1, 6)))
    extra = text("args") + opcodes(rng) if rng.random() < 0.3 else b""
    return start + b"}(" + (text("ema") + b"}(" + items + b"u" if rng.random() < 0.5 else items) + extra + b"u."


def whole_pickle(rng: random.Random) -> bytes:
    """Of another project's file, with some bytes of it anew: most is still there."""
    with zipfile.ZipFile(FOREIGN / rng.choice(["dit_reference", "pranoyr_textok", "titok_vae"]) / "model.pt") as file:
        body = bytearray(file.read(next(part for part in file.namelist() if part.endswith("data.pkl"))))
    for _ in range(rng.choice([1, 1, 2, 4])):
        at = rng.randrange(len(body))
        body[at : at + rng.choice([0, 1, 1, 8])] = rng.choice([opcodes(rng), rng.randbytes(1), tensor(rng)])
    return bytes(body)


# --- Zips ---------------------------------------------------------------------------------------------------------------------


def zipped(rng: random.Random, members: list[tuple[str, bytes]]) -> bytes:
    """An archive of them whose parts may disagree: names twice, packed in any way, other claims in one header than in the
    other, several entries of one member, numbers of 64 bits."""
    buffer = io.BytesIO()
    if rng.random() < 0.2:
        members = [*members, rng.choice(members)]
    if rng.random() < 0.2:
        members = [*members, (rng.choice(["", "a/../b", "\udcff", "x" * 300, "a\0b"]), b"x")]
    rng.shuffle(members) if rng.random() < 0.2 else None
    with zipfile.ZipFile(buffer, "w") as file:
        for member, content in members:
            packing = rng.choice([*[zipfile.ZIP_STORED] * 8, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
            info = zipfile.ZipInfo(member.encode("utf-8", "replace").decode())
            info.compress_type = packing
            with file.open(info, "w", force_zip64=rng.random() < 0.2) as stream:
                stream.write(content)
    data = bytearray(buffer.getvalue())
    for _ in range(rng.choice([0, 0, 1, 1, 2])):
        places = [match.start() for match in re.finditer(rng.choice([b"PK\1\2", b"PK\3\4", b"PK\5\6"]), data)]
        if not places:
            continue
        at = rng.choice(places) + rng.randrange(4, 46)
        width = rng.choice([1, 2, 4, 8])
        anew = [b"\xff" * width, bytes(width), rng.randbytes(width), (24).to_bytes(width, "little")]
        data[at : at + width] = rng.choice(anew)
    if rng.random() < 0.1:  # the directory, again and again
        start, end = data.find(b"PK\1\2"), data.find(b"PK\5\6")
        if 0 <= start < end:
            entries = bytes(data[start:end]) * rng.choice([2, 50])
            data[start:] = entries + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 9, 9, len(entries), start, 0)
    if rng.random() < 0.1:
        data[:0] = rng.randbytes(rng.randrange(1, 100))
    return bytes(data)


def checkpoint(rng: random.Random, path: Path) -> None:
    body = rng.choice([pickled, pickled, whole_pickle])(rng)
    members = [("m/data.pkl", body), ("m/byteorder", b"little"), ("m/data/0", bytes(96)), ("m/data/1", bytes(96))]
    path.write_bytes(zipped(rng, members))


def array(rng: random.Random) -> bytes:
    descr = rng.choice(["<f4", "<f4", "<f4", ">f8", "|O", "<U9", "<f2", "|V8", "<c16", "M8[s]", [("a", "<f4")], "x" * 50])
    shape = rng.choice([(2, 3), (2, 3), (2, 3, 4), (), (0, 3), (10**6, 10**6), (-1, 3), (1 << 70,), "3", (True, 3), (2.0, 3)])
    header = repr({"descr": descr, "fortran_order": rng.random() < 0.2, "shape": shape})
    header = rng.choice([header, header, header, header[:-5], "(" * 200, f"{header}, 1", header.replace("2", "9" * 5000)])
    body = rng.choice([bytes(24), bytes(96), b"", bytes(10)])
    major = rng.choice([1, 1, 1, 2, 3, 9])
    length = rng.choice([len(header), len(header), len(header), 0xFFFF]).to_bytes(2 if major == 1 else 4, "little")
    data = b"\x93NUMPY" + bytes([major, 0]) + length + header.encode() + body
    return rng.choice([data, data, data, data, pickle.dumps([1]), b"", b"PK\3\4", zipped(rng, [("a.npy", data)])])


def arrays(rng: random.Random, path: Path) -> None:
    names = rng.sample(["latent", "text", "arr_0", "text_lengths", "latent_flipped", "mu", "a\nb"], 3)
    path.write_bytes(zipped(rng, [(f"{part}.npy", array(rng)) for part in names]))


# --- Text ---------------------------------------------------------------------------------------------------------------------

WORDS = (
    "a cat", "ein Café", "猫", "🙂", "na \u2028 line", 'she said "no"', "it's, well", "tab\there", "x" * 3000, "-", "0",
)  # fmt: skip
BROKEN = {"utf-8": b"\xff\xc3", "utf-16-le": b"\x00\xd8", "utf-16-be": b"\xdc\x00", "utf-32-le": b"\0\0\x11\0"}
MARKS = {"utf-8": ("", "\ufeff"), "utf-16-le": ("\ufeff",), "utf-16-be": ("\ufeff",), "utf-32-le": ("\ufeff",)}


def lines(rng: random.Random) -> tuple[list[str], str]:
    """Captions that no format of a line changes, and an encoding."""
    captions = [f"{k} {' '.join(rng.choices(WORDS, k=rng.choice([1, 2, 5])))}".strip() for k in range(rng.randrange(1, 30))]
    return captions, rng.choice([*["utf-8"] * 3, *BROKEN])


def encoded(rng: random.Random, written: list[str], encoding: str) -> tuple[bytes, set[int]]:
    """Lines as a file with mixed ends, and the numbers of those that were broken."""
    broken, data = set(), rng.choice(MARKS[encoding]).encode(encoding)
    ends = rng.choice([["\n"], ["\r\n"], ["\r"], ["\n", "\r\n", "\r"]])
    for number, line in enumerate(written):
        body = line.encode(encoding)
        if number and rng.random() < 0.05:
            broken.add(number)
            body += BROKEN[encoding]
        data += body + (rng.choice(ends).encode(encoding) if number < len(written) - 1 or rng.random() < 0.8 else b"")
    return data, broken


def text_file(rng: random.Random, folder: Path) -> tuple[Path, list[str], int]:
    """A table or text, the captions that must come of it, and how many lines were broken."""
    captions, encoding = lines(rng)
    kind = rng.choice(["txt", "csv", "tsv", "jsonl"])
    written = captions
    if kind == "jsonl":
        written = [json.dumps({"caption": caption}, ensure_ascii=rng.random() < 0.5) for caption in captions]
    elif kind == "csv":
        written = ["caption,n"] + ['"{}",1'.format(caption.replace('"', '""')) for caption in captions]
    elif kind == "tsv":
        captions = [caption.replace("\t", " ") for caption in captions]
        written = ["caption\tn"] + [f"{caption}\t1" for caption in captions]
    data, broken = encoded(rng, written, encoding)
    path = folder / f"odd.{kind}"
    path.write_bytes(data)
    first = kind in ("csv", "tsv")
    return path, [caption for number, caption in enumerate(captions, first) if number not in broken], len(broken)


def archive(rng: random.Random, folder: Path) -> tuple[Path, list[str], int]:
    """A shard of captions in any encoding, with names of any bytes."""
    path = folder / rng.choice(["odd.tar", "odd.tgz"])
    buffer, captions, bad = io.BytesIO(), [], 0
    form = rng.choice([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
    with tarfile.open(fileobj=buffer, mode="w", format=form, encoding="utf-8", errors="surrogateescape") as tar:
        for number in range(rng.randrange(1, 8)):
            caption = " ".join(rng.choices(WORDS, k=2)).strip()
            encoding = rng.choice([*BROKEN])
            data = (rng.choice(MARKS[encoding]) + caption).encode(encoding)
            stem = f"{number}" + rng.choice(["", "/x", " é", "%2E", "\udce9", "\n", "\x1b[0m", "-" * 120])
            usable = "\udce9" not in stem
            if rng.random() < 0.2:
                data, usable = data + BROKEN[encoding], False
            member = tarfile.TarInfo(rng.choice(["", "./"]) + stem + ".txt")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
            captions += [caption] * usable
            bad += not usable
    path.write_bytes(gzip.compress(buffer.getvalue()) if path.suffix == ".tgz" else buffer.getvalue())
    return path, captions, bad


# --- Tries --------------------------------------------------------------------------------------------------------------------


def costs(work: Callable[[], Any], size: int) -> tuple[str, str]:
    """What came of it, and what of that breaks the promise."""
    outcome, failure = "results", ""
    tracemalloc.reset_peak()
    before, start = tracemalloc.get_traced_memory()[0], time.process_time()
    try:
        work()
    except DOCUMENTED as problem:
        outcome = "documented exceptions"
        if not str(problem).isprintable() or not str(problem):
            failure = f" not one line: {str(problem)[:200]!a}"
    except Exception as problem:
        outcome, failure = "others", f" {type(problem).__name__}: {problem!a}"[:300]
    if (seconds := time.process_time() - start) > MOST_SECONDS:
        failure += f" took {seconds:.1f} s"
    if (taken := tracemalloc.get_traced_memory()[1] - before) > MOST_TIMES * size + MOST_MORE:
        failure += f" took {taken >> 10} KB for {size} bytes"
    return outcome, failure


def read_tensors(path: Path) -> None:
    """Every tensor of a file, whatever its name."""

    def all_of(value: Any, depth: int = 0) -> None:
        if isinstance(value, dict) and depth < 3:
            for part in value.values():
                all_of(part, depth + 1)
        elif hasattr(value, "strides") or hasattr(value, "check"):
            value.check("it")
            value.read().sum()

    all_of(TorchFile(path).content)


def main() -> None:
    options = arguments(__doc__, 3000)
    rng = random.Random(options.seed)
    began, failures = time.monotonic(), []
    outcomes: dict[str, int] = {"results": 0, "documented exceptions": 0, "others": 0, "captions": 0, "skips": 0}
    warnings.simplefilter("ignore")
    logging.disable()
    tracemalloc.start()
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home)
        store = folder / "store"
        textok.EmbeddingStore.create(store, {"name": "none"}, 4)
        for turn in range(options.count):
            kind = rng.choice(["checkpoint", "checkpoint", "arrays", "text", "text", "archive"])
            if kind == "checkpoint":
                path = folder / "odd.pt"
                checkpoint(rng, path)
                reads: list[Callable[[], Any]] = [
                    lambda path=path: importers.load(path, {"num_heads": 4}), lambda path=path: read_tensors(path)
                ]  # fmt: skip
            elif kind == "arrays":
                path = folder / "odd.npz"
                arrays(rng, path)
                reads = [
                    lambda path=path: read_npz(path, ValueError),
                    lambda path=path: textok.open_embeddings(path),
                    lambda path=path: list(read_latents(path, skips=[])),
                    lambda path=path: textok.metrics.Statistics.load(path),
                ]
            else:
                path, captions, bad = (text_file if kind == "text" else archive)(rng, folder)
                found: list[str] = []
                skips: list[Any] = []

                def samples(path: Path = path, found: list[str] = found, skips: list[Any] = skips) -> None:
                    found += [sample.caption() or "" for sample in read_samples(path, need=("caption",), skips=skips)]

                reads = [samples]
            for read in reads:
                outcome, failure = costs(read, path.stat().st_size)
                outcomes[outcome] += 1
                if failure:
                    failures.append(f"{turn}: {path.name}:{failure}")
            if kind in ("text", "archive"):
                outcomes["captions"] += len(found)
                outcomes["skips"] += len(skips)
                if found != captions or len(skips) != bad or not all(skip.reason for skip in skips):
                    lost = next((pair for pair in zip(captions, found, strict=False) if pair[0] != pair[1]), "")
                    told = [skip.reason for skip in skips][:2]
                    counts = f"{len(found)} of {len(captions)} captions, {len(skips)} of {bad} skips"
                    failures.append(f"{turn}: {path.name}: {counts}: {lost!a} {told!a}"[:400])
            path.unlink()
    finish("odd_files", began, failures, files=options.count, seed=options.seed, **outcomes)


if __name__ == "__main__":
    main()
