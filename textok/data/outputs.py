"""What comes out of a run: a product a sample, and the forms in which parts of them come: shards of any files, folders of PNG,
and raw pictures for ADM's one file.

A writer takes samples and, at `close`, syncs and renames what it wrote and says what there is: the fields of the part's record
that `verify_part` later checks.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..files import commit, replacing, sync
from .base import Sample
from .folders import METADATA_FILE, PARTS_FOLDER, SAMPLE_KEY
from .payloads import json_bytes, pack_arrays, png_bytes
from .rows import write_archive
from .shards import TarWriter, name_of

OUTPUTS = ("png", "shards", "npz")  # the forms of pictures
SAMPLES_FILE = "samples.npz"
KEYS = ".keys"
RAW = "raw"  # the "extension" of a picture uint8 [S,S,3], C order


class Product(NamedTuple):
    """What a task made of a sample: files by extension, and what is to be known of it beside a picture."""

    key: str
    files: dict[str, bytes]
    metadata: dict[str, Any]


def latent_product(sample: Sample, format: str, latents: dict[str, NDArray[np.float32]]) -> Product:
    # The bytes of a shard's JSON go through as they are; captions and labels of other files come in as fields.
    metadata = sample.files.get("json")
    if metadata is None or metadata[:1] in b"\xef\xfe\xff" or any(extension in sample.files for extension in ("txt", "cls")):
        metadata = json_bytes(sample.metadata)
    return Product(sample.key, {format: pack_arrays(format, latents), "json": metadata}, {})


def picture_product(key: str, picture: NDArray[np.uint8], metadata: dict[str, Any], kind: str) -> Product:
    """A picture as a job of this kind writes it."""
    files = {RAW: picture.tobytes()} if kind == "npz" else {"png": png_bytes(picture)}
    return Product(key, files, metadata)


class PartWriter(Protocol):
    name: str

    def __init__(self, out: Path, work: Path, name: str) -> None: ...
    def add(self, key: str, files: Mapping[str, bytes], metadata: Mapping[str, Any]) -> None: ...
    def close(self) -> dict[str, Any]: ...
    def abandon(self) -> None: ...


class ShardPart:
    """NAME.tar.

    NAME.keys in the work folder, empty, says that the shard may be there before it is, so that one that never gets its record
    can be removed.
    """

    def __init__(self, out: Path, work: Path, name: str) -> None:
        self.name = name
        (work / f"{name}{KEYS}").touch()
        self._path, self._part = out / f"{name}.tar", work / f"{name}.tar.part"
        self._writer = TarWriter(self._part)
        self._samples = 0

    def add(self, key: str, files: Mapping[str, bytes], metadata: Mapping[str, Any]) -> None:
        self._writer.add(name_of(key), {**files, "json": json_bytes(metadata)} if "json" not in files else files)
        self._samples += 1

    def close(self) -> dict[str, Any]:
        self._writer.close()
        commit(self._part, self._path)
        return {"samples": self._samples, "file": self._path.name, "bytes": self._writer.bytes, "sha256": self._writer.sha256}

    def abandon(self) -> None:
        self._writer.abandon()
        self._part.unlink(missing_ok=True)


def picture_path(out: Path, key: str) -> Path:
    """Where the picture of a key lies: KEY.png, or where a file cannot be called so or would lie among a run's records, a name
    made of it, beside which `write_metadata` puts the key.
    """
    *folders, name = key.split("/")
    if folders and folders[0] in (PARTS_FOLDER, _PARTS):
        folders[0] = _PARTS if folders[0] == PARTS_FOLDER else _PARTS.replace("%", "%25")
    folders = [f"{folder[:-4]}%2E{folder[-3:]}" if folder.lower().endswith(".png") else folder for folder in folders]
    path = "/".join([_short_enough(part) for part in (*folders, name)])
    if len(path.encode()) > _MOST_BYTES:
        path = _short_enough(key.replace("/", "%2F"))
    return out / f"{path}.png"


_PARTS = f"%{ord(PARTS_FOLDER[0]):02X}{PARTS_FOLDER[1:]}"  # a class that is called as the records' folder
_MOST_BYTES = 2000  # of a path below a run's folder; the system takes 4096 of a whole one
_MOST_NAME = 200  # bytes of a name; file systems take 255


def _short_enough(name: str) -> str:
    content = name.encode()
    if len(content) <= _MOST_NAME:
        return name
    return f"{content[: _MOST_NAME - 40].decode('utf-8', 'ignore')}~{hashlib.sha256(content).hexdigest()[:16]}"


class PngPart:
    """KEY.png, a file a sample; one checksum over all of a part's.

    NAME.keys in the work folder names the pictures from before they are there, so that those of a part that never gets its
    record can be removed.
    """

    def __init__(self, out: Path, work: Path, name: str) -> None:
        self.name, self._out, self._part = name, out, work / f"{name}.png.part"
        self._keys = (work / f"{name}{KEYS}").open("a", encoding="utf-8")
        self._rows: list[tuple[str, dict[str, Any]]] = []
        self._hash = hashlib.sha256()
        self._bytes = 0

    def add(self, key: str, files: Mapping[str, bytes], metadata: Mapping[str, Any]) -> None:
        path = picture_path(self._out, key)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._keys.write(json.dumps(key) + "\n")
        self._keys.flush()
        self._part.write_bytes(files["png"])
        self._part.replace(path)
        self._rows.append((key, dict(metadata)))
        self._hash.update(files["png"])
        self._bytes += len(files["png"])

    def close(self) -> dict[str, Any]:
        self._keys.close()
        paths = [picture_path(self._out, key) for key, _ in self._rows]
        for path in [*paths, *{path.parent for path in paths}, self._out]:
            sync(path)
        return {"samples": len(self._rows), "bytes": self._bytes, "sha256": self._hash.hexdigest(), "rows": self._rows}

    def abandon(self) -> None:
        self._keys.close()
        self._part.unlink(missing_ok=True)


class RawPart:
    """Pictures one after another, which `write_samples` makes one file of."""

    def __init__(self, out: Path, work: Path, name: str) -> None:
        self.name, self._work = name, work
        self._part, self._path = work / f"{name}.raw.part", work / f"{name}.raw"
        self._file = self._part.open("wb")
        self._rows: list[tuple[str, dict[str, Any]]] = []
        self._hash = hashlib.sha256()
        self._bytes = 0

    def add(self, key: str, files: Mapping[str, bytes], metadata: Mapping[str, Any]) -> None:
        self._file.write(files[RAW])
        self._hash.update(files[RAW])
        self._bytes += len(files[RAW])
        self._rows.append((key, dict(metadata)))

    def close(self) -> dict[str, Any]:
        self._file.close()
        commit(self._part, self._path)
        file = f"{self._work.name}/{self._path.name}"
        return {
            "samples": len(self._rows),
            "file": file,
            "bytes": self._bytes,
            "sha256": self._hash.hexdigest(),
            "rows": self._rows,
        }

    def abandon(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()
        self._part.unlink(missing_ok=True)


KINDS: dict[str, type[PartWriter]] = {"shards": ShardPart, "png": PngPart, "npz": RawPart}
FILE_ENDS = {"shards": ".tar", "png": ".png", "npz": ".npz"}


def _files(out: Path, record: Mapping[str, Any]) -> list[Path]:
    return [out / record["file"]] if "file" in record else [picture_path(out, key) for key, _ in record.get("rows", ())]


def verify_part(out: Path, record: Mapping[str, Any]) -> bool:
    """Whether a record's files are there, to the byte."""
    digest, count = hashlib.sha256(), 0
    if "sha256" not in record:
        return False
    try:
        for path in _files(out, record):
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
                    count += len(block)
    except OSError:
        return False
    return bool(count == record["bytes"] and digest.hexdigest() == record["sha256"])


def remove_part(out: Path, record: Mapping[str, Any]) -> None:
    for path in _files(out, record):
        path.unlink(missing_ok=True)


def remove_unfinished(out: Path, work: Path) -> None:
    """The pictures and shards of parts that were in work, finished or not."""
    for path in work.glob(f"*{KEYS}"):
        (out / f"{path.name.removesuffix(KEYS)}.tar").unlink(missing_ok=True)
        for line in path.read_text(encoding="utf-8").split("\n"):  # a key may have what else ends lines
            with contextlib.suppress(ValueError):  # a line cut off, whose picture was never written
                picture_path(out, json.loads(line)).unlink(missing_ok=True)


def write_metadata(out: Path, work: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """metadata.jsonl of a folder of pictures, as HF's imagefolder and `sources` read it."""
    with replacing(out / METADATA_FILE, work) as part, part.open("wb") as file:
        for record in records:
            for key, metadata in record["rows"]:
                name = str(picture_path(out, key).relative_to(out))
                row = {"file_name": name} | ({} if name == f"{key}.png" else {SAMPLE_KEY: key})
                file.write(json_bytes(row | {field: value for field, value in metadata.items() if field not in row}) + b"\n")


def write_samples(out: Path, work: Path, records: Callable[[], Iterable[Mapping[str, Any]]], count: int) -> dict[str, Any]:
    """ADM's samples.npz of all raw parts, whose records `records` gives, as often as it is called; arr_1 where every sample has
    a label. Returns the file's record.
    """

    def labels() -> Iterator[Any]:
        return (metadata.get("label") for record in records() for _, metadata in record["rows"])

    whole = count > 0 and all(type(label) is int and -(1 << 63) <= label < 1 << 63 for label in labels())
    with replacing(out / SAMPLES_FILE, work) as part:
        write_archive(part, _pictures(out, records()), count, map(np.int64, labels()) if whole else None)
        with part.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"file": SAMPLES_FILE, "bytes": part.stat().st_size, "sha256": digest}


def _pictures(out: Path, parts: Iterable[Mapping[str, Any]]) -> Iterator[NDArray[np.uint8]]:
    for part in parts:
        if not part["samples"]:
            continue
        length = part["bytes"] // part["samples"]
        side = round((length // 3) ** 0.5)
        if side * side * 3 * part["samples"] != part["bytes"]:
            raise DataError(f"{out / part['file']}: expected {part['samples']} square pictures, got {part['bytes']} bytes")
        with (out / part["file"]).open("rb") as file:
            for _ in range(part["samples"]):
                yield np.frombuffer(file.read(length), np.uint8).reshape(side, side, 3)
