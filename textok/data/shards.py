"""Shards out: tar files that webdataset and `sources` read, the same bytes for the same samples; and latents in them.

A sample of latents is KEY.npz or KEY.safetensors with `latent` float32 [N,d] (and `latent_flipped`, of the mirrored picture),
beside KEY.json with what is known of it. Tar headers have no times, owners or order of their own, so equal samples make equal
files.
"""

import contextlib
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from .. import arrays
from ..errors import DataError
from .sources import Sample, Skip, read_samples, teller

F32 = NDArray[np.float32]

FORMATS = ("npz", "safetensors")
LATENT, FLIPPED = "latent", "latent_flipped"


class TarWriter:
    """A tar file, written from front to back; `bytes` and `sha256` of what was written so far. A context manager."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.bytes = 0
        self._hash = hashlib.sha256()
        self._file = open(path, "wb")  # noqa: SIM115

    def add(self, key: str, files: Mapping[str, bytes]) -> None:
        """One sample: its files by extension."""
        for extension, data in files.items():
            header = tarfile.TarInfo(f"{key}.{extension}")  # time 0, owner 0, mode 0644
            header.size = len(data)
            self._write(header.tobuf(tarfile.PAX_FORMAT) + data + bytes(-len(data) % tarfile.BLOCKSIZE))

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._hash.update(data)
        self.bytes += len(data)

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def close(self) -> None:
        """The end mark, and everything to the disk."""
        end = 2 * tarfile.BLOCKSIZE
        self._write(bytes(end + -(self.bytes + end) % tarfile.RECORDSIZE))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def abandon(self) -> None:
        with contextlib.suppress(OSError):  # what is in its buffer may find the disk full again
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()


def write_shards(
    samples: Iterable[tuple[str, Mapping[str, Any]]], folder: str | os.PathLike[str], *, prefix: str = "shard", size: int = 2048
) -> list[Path]:
    """Write samples as WebDataset shards.

    Parameters
    ----------
    samples
        Pairs of a key and its files by extension: bytes, str, a picture uint8 [H,W,3] for "png", arrays by name for "npz" and
        "safetensors", or what JSON has for "json".
    folder
        Made where missing. Files are called PREFIX-000000.tar and on; each appears whole or not at all.
    size
        Samples a shard.

    Returns
    -------
    The paths.

    Examples
    --------
    >>> write_shards([("cat", {"npz": {"latent": z}, "json": {"caption": "a cat"}})], "latents")  # doctest: +SKIP
    [PosixPath('latents/shard-000000.tar')]
    """
    size = arrays.whole(size, "size", 1, arrays.MAX_BATCH)
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    iterator = iter(samples)
    sample = next(iterator, None)
    while sample is not None:
        path = place / f"{prefix}-{len(paths):06d}.tar"
        part = path.with_suffix(".tar.part")
        with TarWriter(part) as writer:
            for _ in range(size):
                if sample is None:
                    break
                key, files = sample
                if not key or "." in key.rpartition("/")[2]:
                    raise ValueError(
                        f"expected keys without a dot in the name, at which a shard's reader would cut them, got {key!r}"
                    )
                writer.add(key, {extension: as_bytes(extension, value) for extension, value in files.items()})
                sample = next(iterator, None)
        part.replace(path)
        paths.append(path)
    return paths


def as_bytes(extension: str, value: Any) -> bytes:
    """A sample's file, from whatever `write_shards` takes."""
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if extension == "json":
        return json.dumps(value, ensure_ascii=False).encode()
    if isinstance(value, str | int):
        return str(value).encode()
    if extension == "png":
        return png_bytes(value)
    if extension in FORMATS and isinstance(value, Mapping):
        return pack_arrays(extension, {name: arrays.view(array, name) for name, array in value.items()})
    raise TypeError(f"{extension}: expected bytes, a string or what the extension says, got {type(value).__name__}")


def png_bytes(picture: Any) -> bytes:
    """A picture uint8 [H,W,3] as a PNG file."""
    from PIL import Image

    array = arrays.view(picture, "picture")
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise ValueError(f"picture: expected uint8 [H, W, 3], got {arrays.describe(array)}")
    buffer = io.BytesIO()
    # Level 1 takes a third of the time of 6 and gives files a few percent larger; the pixels are the same.
    Image.fromarray(np.ascontiguousarray(array)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def pack_arrays(format: str, values: Mapping[str, NDArray[Any]]) -> bytes:
    """Arrays by name as the bytes of an .npz or safetensors file; no time is in them."""
    if format == "npz":
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **values)
        return buffer.getvalue()
    import ml_dtypes  # noqa: F401
    from safetensors.numpy import save

    return save({name: np.ascontiguousarray(array) for name, array in values.items()})


def unpack_arrays(format: str, data: bytes) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz, .npy or safetensors file; every flaw is a ValueError."""
    try:
        if format == "safetensors":
            import ml_dtypes  # noqa: F401
            from safetensors.numpy import load

            return load(data)
        loaded = np.load(io.BytesIO(data), allow_pickle=False)
        return {LATENT: loaded} if format == "npy" else {name: loaded[name] for name in loaded.files}
    except Exception as problem:  # noqa: BLE001  both libraries raise many kinds
        raise ValueError(f"not {format} data that can be read: {problem}") from None


class Latent(NamedTuple):
    """A sample of latents: `latent` float [N,d], `flipped` of the mirrored picture or None, and what is known of it."""

    key: str
    latent: NDArray[Any]
    flipped: NDArray[Any] | None
    metadata: dict[str, Any]
    source: str


def latent_of(sample: Sample) -> Latent:
    """The latents in a sample of a shard or array file; a ValueError says what is there instead."""
    found: dict[str, NDArray[Any]] = {}
    for format in (*FORMATS, "npy"):
        if format in sample.files:
            found = unpack_arrays(format, sample.files[format])
            break
    else:
        if isinstance(sample.picture, np.ndarray):
            found = {LATENT: sample.picture}
    latent = found.get(LATENT)
    if latent is None:
        raise ValueError(
            f"expected an array {LATENT!r} in .npz, .npy or .safetensors, got {', '.join([*sample.files, *found]) or 'none'}"
        )
    if not arrays.is_float(latent.dtype) or latent.ndim != 2 or not latent.size:
        raise ValueError(f"{LATENT}: expected floats [N, d], got {arrays.describe(latent)}")
    if not np.isfinite(latent.astype(np.float32)).all():
        raise ValueError(f"{LATENT}: expected finite numbers")
    return Latent(sample.key, latent, found.get(FLIPPED), sample.metadata, sample.source)


def read_latents(
    paths: Any, *, skips: list[Skip] | Callable[[Skip], object] | None = None, strict: bool = False
) -> Iterator[Latent]:
    """The latents in shards that `textok encode` wrote, or in an .npy or .npz file [n,N,d], one at a time and in order.

    Arguments as in `read_samples`. A sample without latents, or with damaged ones, is skipped and named.

    Examples
    --------
    >>> for key, latent, flipped, metadata, _ in read_latents("latents"):  # doctest: +SKIP
    ...     print(key, latent.shape, metadata["caption"])
    """
    tell = teller(skips)
    for sample in read_samples(paths, need=(), skips=tell, strict=strict):
        try:
            yield latent_of(sample)
        except ValueError as problem:
            if strict:
                raise DataError(f"{sample.source}: {sample.key}: {problem}") from None
            tell(Skip(sample.key, sample.source, str(problem), sample.position))
