"""What a pipeline made: pictures with their captions and classes, as arrays, files, PIL images and a sheet."""

import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from . import arrays, files
from .errors import shown
from .noise import MAX_INDEX
from .text.caption_store import CAPTIONS_FILE

if TYPE_CHECKING:
    from PIL import Image

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]


@dataclass(frozen=True, eq=False, repr=False)
class PipelineResult:
    """What a pipeline made.

    Attributes
    ----------
    images
        uint8 [B,S,S,3], or float32 with output="float32".
    latents
        float32 [B,N,d], what the detokenizer was given.
    captions
        The caption of each image: the one given, or of an image of a class the one drawn, whose text the detokenizer saw; None
        where embeddings were given or the detokenizer takes no text.
    labels, class_names
        The classes, and their names where the pipeline has some; None for text-to-image.
    seed
        With it and the same arguments the call gives the same result, also where it was called with seed=None.
    first_index
        That of the first image.
    """

    images: U8 | F32
    latents: F32
    captions: list[str] | None
    labels: list[int] | None
    seed: int
    class_names: list[str | None] | None = None
    first_index: int = 0

    def __post_init__(self) -> None:
        arrays.instance(self.images, "images", np.ndarray, "a NumPy array")
        arrays.instance(self.latents, "latents", np.ndarray, "a NumPy array")
        if self.images.ndim != 4 or self.images.shape[-1] != 3:
            raise ValueError(f"images: expected [B,S,S,3], got {list(self.images.shape)}")
        for name in ("captions", "labels", "class_names"):
            given = getattr(self, name)
            if given is not None and (not isinstance(given, list | tuple) or len(given) != len(self.images)):
                raise ValueError(f"{name}: expected a list of {len(self.images)}, one an image, got {shown(given)}")
        arrays.whole(self.first_index, "first_index", 0, MAX_INDEX)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def pil(self) -> "list[Image.Image]":
        """The images as PIL images."""
        from PIL import Image

        return [Image.fromarray(picture) for picture in self._pixels()]

    def save(self, folder: str | os.PathLike[str], overwrite: bool = False) -> list[Path]:
        """Write the images as PNG files, and `captions.jsonl`, a line for each, to a folder, which is made where missing.

        Parameters
        ----------
        folder
            Where to. Files are named after the images' indices, from `first_index`: 000000.png, 000001.png, ...
        overwrite
            Whether to replace what an earlier call wrote there.

        Returns
        -------
        The paths of the PNG files. A line of captions.jsonl has "file_name", "seed" and "index", and where there are some
        "caption", "label" and "label_name"; `textok eval` and the others read it as a table of pictures.

        Raises
        ------
        FileExistsError
            A file of that name is there; nothing was written.
        """
        target = Path(folder)
        names = [f"{self.first_index + place:06d}.png" for place in range(len(self))]
        if not overwrite and (there := next((name for name in (*names, CAPTIONS_FILE) if (target / name).exists()), None)):
            raise FileExistsError(f"{target / there} is there already; give another folder, or overwrite=True")
        if target.exists() and not target.is_dir():
            raise FileExistsError(f"{target}: expected a folder to write to, got a file")
        target.mkdir(parents=True, exist_ok=True)
        for name, picture in zip(names, self.pil):
            with files.replacing(target / name) as temporary:
                picture.save(temporary, "PNG")
        lines = [json.dumps(self._record(place, name), ensure_ascii=False) for place, name in enumerate(names)]
        files.write_text(target / CAPTIONS_FILE, "".join(f"{line}\n" for line in lines))
        return [target / name for name in names]

    def _record(self, place: int, file_name: str) -> dict[str, Any]:
        found = {
            "caption": self.captions and self.captions[place],
            "label": None if self.labels is None else self.labels[place],
            "label_name": self.class_names and self.class_names[place],
        }
        told = {key: value for key, value in found.items() if value is not None}
        return {"file_name": file_name} | told | {"seed": self.seed, "index": self.first_index + place}

    def contact_sheet(self) -> "Image.Image":
        """A PIL image of all pictures with their classes and captions."""
        from .pictures.sheets import Entry, contact_sheet

        captions, titles = self.captions or [""] * len(self), self._titles()
        entries = [Entry([picture], title, caption) for picture, title, caption in zip(self._pixels(), titles, captions)]
        columns, text_width = (2, 300) if self.captions else (4, 150) if self.class_names else (8, 60)
        return contact_sheet(entries, columns=columns, side=128, text_width=text_width)

    def _titles(self) -> list[str]:
        if self.labels is None:
            return [""] * len(self)
        names = self.class_names or [None] * len(self)
        return [f"class {label}" if name is None else f"{label} {name}" for label, name in zip(self.labels, names)]

    def _pixels(self) -> U8:
        from .pictures.preprocess import to_uint8

        return cast(U8, self.images) if self.images.dtype == np.uint8 else to_uint8(self.images)

    def _repr_png_(self) -> bytes:
        """The pictures, in a notebook."""
        buffer = io.BytesIO()
        self.contact_sheet().save(buffer, "PNG")
        return buffer.getvalue()

    def __repr__(self) -> str:
        kind = f"captions for {len(self.captions)}" if self.captions else "no captions"
        classes = "" if self.labels is None else f"classes {', '.join(self._titles()[:8])}{', ...' * (len(self) > 8)}; "
        return (
            f"PipelineResult(images {arrays.describe(self.images)}, latents {arrays.describe(self.latents)}, "
            f"{classes}{kind}, seed {self.seed})"
        )
