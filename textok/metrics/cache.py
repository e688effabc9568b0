"""What was computed for pictures before, kept on disk under the content of the pictures and what computed it.

A folder of small .npz files, each written whole or not at all, named by a hash. So a killed run goes on, runs may share a
folder, and folders of several machines are merged by copying their files together. It may be deleted at any time.
"""

import hashlib
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..files import replacing

Arrays = dict[str, NDArray[Any]]


class Cache:
    """Results of functions of pictures; with `folder` None it keeps nothing.

    Attributes
    ----------
    computed, found
        How many results were computed, and how many were there.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder, self.computed, self.found = folder, 0, 0

    def get(self, what: str, pictures: Iterable[NDArray[np.uint8]], compute: Callable[[], Arrays]) -> Arrays:
        """`compute()`, or what it gave before for the same `what` (name and settings of the computation) and pictures."""
        if self.folder is None:
            self.computed += 1
            return compute()
        digest = hashlib.sha256(what.encode())
        for batch in pictures:
            digest.update(f"\0{batch.dtype.str}{batch.shape}".encode())
            digest.update(np.ascontiguousarray(batch).data)
        name = digest.hexdigest()
        path = self.folder / name[:2] / f"{name}.npz"
        try:
            with np.load(path, allow_pickle=False) as file:
                found = {key: file[key] for key in file.files}
            self.found += 1
            return found
        except FileNotFoundError:
            pass
        except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error):
            pass  # a disk that lost the end of a file: compute it again
        arrays: dict[str, Any] = dict(compute())
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary, open(temporary, "wb") as stream:
            np.savez(stream, **arrays)
        self.computed += 1
        return arrays
