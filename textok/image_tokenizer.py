"""TexTok: images to a few continuous tokens and back, with the help of a caption."""

import os
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self, overload

import numpy as np
from numpy.typing import NDArray

from . import arrays
from .conditions import Conditions, class_labels, text_batch
from .config import TexTokConfig
from .errors import WeightsError
from .image_model import ImageModel
from .model import batch_parts
from .progress import progress_bar

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]

PIXEL_TYPES: dict[str, type] = {"uint8": np.uint8, "float32": np.float32}


class TexTok(ImageModel):
    """A text-conditioned image tokenizer: tokenizer and detokenizer of one model.

    `TexTok.from_pretrained` loads one, `TexTok.from_config` makes one with random weights; from arrays:

    Parameters
    ----------
    config
        A dict as in `config.json` (missing keys have their defaults) or a `TexTokConfig`.
    weights
        A dict of arrays with the names and shapes of the checkpoint format, any float type; or int8 rows beside their scales.
    dtype
        What the model computes in: "float32", "bfloat16", "int8" or "int4"; see `from_pretrained`.
    threads
        The most threads that a call uses; None for all that the process may use.
    side
        What to hold: "both", "tokenizer", enough to `encode`, or "detokenizer", enough to `decode`; see `from_pretrained`.

    Raises
    ------
    ConfigError, WeightsError
        A config value that does not fit; tensors that are missing, too many, misshapen or not finite. A call that needs a side
        which the model does not hold.

    Notes
    -----
    Arguments that several methods share:

    text
        Caption embeddings [B,t,Dt], t at most Nt, float16, float32, float64 or bfloat16. Where a side of the model sees no
        text, its method ignores `text` and needs none.
    text_lengths
        int [B], each 1..t: how many rows of each caption are real. Where the config masks text the others take no part; where
        it does not, they are part of the sequence like the rest: give t = Nt with zeros after each caption, as training, the
        commands and `Pipeline` do (`textok.conditions.full_text`), or a result depends on how far its batch is padded. None:
        all t.
    captions
        B strings (one string for one image) in place of `text`, where the config names its text encoder: they are embedded with
        `encoder`.
    labels
        int [B], 0..num_classes-1, in place of `text` for a model whose `text_source` is "class".
    batch_size
        Images worked on at a time; None for 64. It never changes a result.
    out
        The array to write the result to: of exactly its shape and type, C-contiguous, writeable, and no input's memory.
    threads
        A cap for this call.
    progress
        Whether to show a bar.

    A batch of 0 images is allowed and gives an empty result. Source: TexTok (arXiv 2412.05796), section 3.

    Examples
    --------
    >>> model = TexTok.from_config({"image_size": 16, "text_condition": "none", "num_latent_tokens": 4,
    ...                             "tokenizer": {"hidden_size": 32, "depth": 1, "num_heads": 2},
    ...                             "detokenizer": {"hidden_size": 32, "depth": 1, "num_heads": 2}})
    >>> model.encode(np.zeros((2, 16, 16, 3), np.uint8)).shape
    (2, 4, 8)
    """

    model_type: ClassVar[str] = "textok"
    config_class = TexTokConfig

    def __init__(
        self, config: Any, weights: Mapping[str, Any], dtype: str = "float32", threads: int | None = None, side: str = "both"
    ) -> None:
        self._from_arrays(config, weights, dtype, threads, side)

    @classmethod
    def from_pretrained(
        cls, path: str | os.PathLike[str], dtype: str = "float32", threads: int | None = None, side: str = "both"
    ) -> Self:
        """Load a model, or the one side of it that is needed.

        Parameters
        ----------
        path, dtype, threads
            As in `DiT.from_pretrained`.
        side
            "both"; "tokenizer", with which a model only encodes; or "detokenizer", with which it only decodes, all that making
            pictures of latents needs. Nothing of the other side is read or held: about half the memory, half the time to load,
            and the same bits. The files may lack it too: `save_pretrained` of such a model writes its side alone, to be loaded
            with the same `side`.

        Raises
        ------
        ConfigError, WeightsError
            Files that are missing or broken, or tensors that are not those of the config; says which and how.

        Examples
        --------
        >>> TexTok.from_pretrained("emoji-textok", side="detokenizer").side
        'detokenizer'
        """
        return cls._from_folder(path, dtype, threads, side)

    @classmethod
    def from_config(
        cls, config: Any, seed: int = 0, dtype: str = "float32", threads: int | None = None, side: str = "both"
    ) -> Self:
        """A model with random weights of a trained one's scale, for timing and tests; the same `seed` gives the same weights.

        `config` is a dict as in `config.json` or the dataclass. One `side` has the weights that it has in a model of both. A
        ConfigError for values that make no model, a MemoryError for one that has no room.

        Examples
        --------
        >>> TexTok.from_config({"image_size": 64}, seed=1, side="tokenizer").side
        'tokenizer'
        """
        return cls._from_seed(config, seed, dtype, threads, side)

    @property
    def config(self) -> TexTokConfig:
        """The frozen config, of both sides."""
        return self._config

    @property
    def side(self) -> str:
        """What the model holds: "both", "tokenizer" or "detokenizer"."""
        return self._side

    def encode(
        self,
        x: Any,
        text: Any = None,
        text_lengths: Any = None,
        *,
        captions: Any = None,
        labels: Any = None,
        batch_size: int | None = None,
        out: F32 | None = None,
        threads: int | None = None,
        progress: bool = False,
        **unknown: Any,
    ) -> F32:
        """Latents of images.

        Parameters
        ----------
        x
            Pictures [B,S,S,3], uint8 or floats in [-1, 1]; see `textok.preprocess`.
        text, text_lengths, captions, labels, batch_size, out, threads, progress
            See the class.

        Returns
        -------
        float32 [B,N,d]. For a model with a KL latent, the mean.

        Raises
        ------
        ValueError, TypeError
            An argument that does not fit; says what came and what was expected.

        Warns
        -----
        UserWarning
            Floats that lie in [0, 1] all of them, as other libraries have pictures: 0 is grey here.
        """
        arrays.no_unknown(unknown)
        self._check_side("encode", "tokenizer")
        pixels = arrays.images(x, "x", self._config.image_size)
        arrays.warn_of_unit_range(pixels, "x")
        text, text_lengths = self._text(("tokenizer",), len(pixels), text, text_lengths, captions, threads)
        conditions = self._conditions("tokenizer", len(pixels), text, text_lengths, labels)
        result = arrays.output(out, "out", (len(pixels), *self._config.latent_shape), np.float32, [pixels, *conditions.given()])
        count = self._call_threads(threads)
        with progress_bar(progress, len(pixels), "image") as bar:
            for part in batch_parts(len(pixels), batch_size):
                self._encode_part(pixels, conditions, part, result[part], count)
                bar.update(part.stop - part.start)
        return result

    @overload
    def decode(
        self, z: Any, text: Any = None, text_lengths: Any = None, *, captions: Any = None, labels: Any = None,
        output: Literal["uint8"] = "uint8", batch_size: int | None = None, out: U8 | None = None,
        threads: int | None = None, progress: bool = False,
    ) -> U8: ...  # fmt: skip

    @overload
    def decode(
        self, z: Any, text: Any = None, text_lengths: Any = None, *, captions: Any = None, labels: Any = None,
        output: Literal["float32"], batch_size: int | None = None, out: F32 | None = None,
        threads: int | None = None, progress: bool = False,
    ) -> F32: ...  # fmt: skip

    @overload
    def decode(
        self, z: Any, text: Any = None, text_lengths: Any = None, *, captions: Any = None, labels: Any = None,
        output: str, batch_size: int | None = None, out: U8 | F32 | None = None,
        threads: int | None = None, progress: bool = False,
    ) -> U8 | F32: ...  # fmt: skip

    def decode(
        self,
        z: Any,
        text: Any = None,
        text_lengths: Any = None,
        *,
        captions: Any = None,
        labels: Any = None,
        output: str = "uint8",
        batch_size: int | None = None,
        out: U8 | F32 | None = None,
        threads: int | None = None,
        progress: bool = False,
        **unknown: Any,
    ) -> U8 | F32:
        """Images of latents.

        Parameters
        ----------
        z
            Latents [B,N,d] of any float type, from `encode` or a generator.
        output
            "uint8": clipped to [-1, 1] and rounded half up of (v + 1) * 127.5. "float32": as they come out, unclipped.
        text, text_lengths, captions, labels, batch_size, out, threads, progress
            See the class.

        Returns
        -------
        uint8 or float32 [B,S,S,3].

        Raises
        ------
        ValueError, TypeError
            An argument that does not fit; says what came and what was expected. A model of the tokenizer's side alone.

        Examples
        --------
        >>> tt = TexTok.from_config({"image_size": 16, "patch_size": 4, "num_latent_tokens": 4, "text_condition": "none"})
        >>> tt.decode(np.zeros((2, 4, 8))).shape
        (2, 16, 16, 3)
        """
        arrays.no_unknown(unknown)
        self._check_side("decode", "detokenizer")
        dtype = PIXEL_TYPES[arrays.choice(output, "output", list(PIXEL_TYPES))]
        latents = self._latents(z)
        text, text_lengths = self._text(("detokenizer",), len(latents), text, text_lengths, captions, threads)
        conditions = self._conditions("detokenizer", len(latents), text, text_lengths, labels)
        result = arrays.output(out, "out", (len(latents), *self._config.image_shape), dtype, [latents, *conditions.given()])
        count = self._call_threads(threads)
        with progress_bar(progress, len(latents), "image") as bar:
            for part in batch_parts(len(latents), batch_size):
                self._model.decode(
                    arrays.as_float32(latents[part], "z", part.start), *conditions.part(part), result[part], count
                )
                bar.update(part.stop - part.start)
        return result

    @overload
    def reconstruct(
        self, x: Any, text: Any = None, text_lengths: Any = None, *, captions: Any = None, labels: Any = None,
        output: Literal["uint8"] = "uint8", batch_size: int | None = None, out: U8 | None = None,
        threads: int | None = None, progress: bool = False,
    ) -> U8: ...  # fmt: skip

    @overload
    def reconstruct(
        self, x: Any, text: Any = None, text_lengths: Any = None, *, captions: Any = None, labels: Any = None,
        output: Literal["float32"], batch_size: int | None = None, out: F32 | None = None,
        threads: int | None = None, progress: bool = False,
    ) -> F32: ...  # fmt: skip

    @overload
    def reconstruct(
        self, x: Any, text: Any = None, text_lengths: Any = None, *, captions: Any = None, labels: Any = None,
        output: str, batch_size: int | None = None, out: U8 | F32 | None = None,
        threads: int | None = None, progress: bool = False,
    ) -> U8 | F32: ...  # fmt: skip

    def reconstruct(
        self,
        x: Any,
        text: Any = None,
        text_lengths: Any = None,
        *,
        captions: Any = None,
        labels: Any = None,
        output: str = "uint8",
        batch_size: int | None = None,
        out: U8 | F32 | None = None,
        threads: int | None = None,
        progress: bool = False,
        **unknown: Any,
    ) -> U8 | F32:
        """`decode(encode(x))` with the same captions on both sides; arguments, errors and warnings as there, result as
        `decode`'s.

        Examples
        --------
        >>> tt = TexTok.from_config({"image_size": 16, "patch_size": 4, "num_latent_tokens": 4, "text_condition": "none"})
        >>> tt.reconstruct(np.zeros((2, 16, 16, 3), np.uint8), output="float32").dtype
        dtype('float32')
        """
        arrays.no_unknown(unknown)
        self._check_side("reconstruct", "both")
        dtype = PIXEL_TYPES[arrays.choice(output, "output", list(PIXEL_TYPES))]
        pixels = arrays.images(x, "x", self._config.image_size)
        arrays.warn_of_unit_range(pixels, "x")
        text, text_lengths = self._text(("tokenizer", "detokenizer"), len(pixels), text, text_lengths, captions, threads)
        sides = [self._conditions(side, len(pixels), text, text_lengths, labels) for side in ("tokenizer", "detokenizer")]
        inputs = [pixels, *sides[0].given(), *sides[1].given()]
        result = arrays.output(out, "out", (len(pixels), *self._config.image_shape), dtype, inputs)
        count = self._call_threads(threads)
        with progress_bar(progress, len(pixels), "image") as bar:
            for part in batch_parts(len(pixels), batch_size):
                latents = np.empty((part.stop - part.start, *self._config.latent_shape), np.float32)
                self._encode_part(pixels, sides[0], part, latents, count)
                self._model.decode(latents, *sides[1].part(part), result[part], count)
                bar.update(part.stop - part.start)
        return result

    def _check_side(self, method: str, needed: str) -> None:
        if self._side not in ("both", needed):
            wanted = "both sides" if needed == "both" else f"its {needed}"
            raise WeightsError(
                f"{method}: expected a model that holds {wanted}, got one of its {self._side} only; "
                'side="both", the default, loads both'
            )

    def _encode_part(self, pixels: NDArray[Any], conditions: Conditions, part: slice, out: F32, threads: int) -> None:
        self._model.encode(arrays.as_pixels(pixels[part], "x", part.start), *conditions.part(part), out, threads)

    def _latents(self, z: Any) -> NDArray[Any]:
        tokens, numbers = self._config.latent_shape
        return arrays.floats(z, "z", (("B", None), ("N", tokens), ("d", numbers)))

    def _text(
        self, sides: tuple[str, ...], batch: int, text: Any, text_lengths: Any, captions: Any, threads: int | None
    ) -> tuple[Any, Any]:
        """The embeddings of the captions, where one of the sides takes text."""
        config = self._config
        if captions is None or not any(map(config.has_text, sides)):
            return text, text_lengths
        if config.text_source == "class":
            raise ValueError("captions: expected None, this model takes labels [B]; got captions")
        return self._embedded(captions, text, text_lengths, batch, threads)

    def _conditions(self, side: str, batch: int, text: Any, text_lengths: Any, labels: Any) -> Conditions:
        config = self._config
        if not config.has_text(side):
            return Conditions()
        if config.text_source == "class":
            return class_labels(labels, text, batch, config.num_classes - 1, f"the {side}'s classes")
        if labels is not None:
            raise ValueError("labels: expected None, this model takes text [B,t,Dt] or captions; got labels")
        return text_batch(
            text, text_lengths, batch, config.text_dim, config.num_text_tokens, f"the {side}", lengths_count=config.text_mask
        )

    def __reduce__(self) -> Any:
        kind, arguments, *state = super().__reduce__()
        return kind, (*arguments, self._side), *state

    def __repr__(self) -> str:
        c = self._config
        if c.text_condition == "none":
            text = "no text"
        else:
            kind = f"{c.num_classes} classes" if c.text_source == "class" else f"text {c.num_text_tokens} x {c.text_dim}"
            where = "both sides" if c.text_condition == "both" else f"the {c.text_condition}"
            text = f"{kind} in {where} ({c.text_injection.replace('_', ' ')}{', masked' if c.text_mask else ''})"
        sides = ", ".join(
            f"{name} {side.depth} x {side.hidden_size}" if self._side in ("both", name) else f"no {name}"
            for name, side in (("tokenizer", c.tokenizer), ("detokenizer", c.detokenizer))
        )
        latents = f"{c.num_latent_tokens} tokens x {c.latent_dim}"
        return f"TexTok({c.image_size} px, patch {c.patch_size} -> {latents}; {text}; {sides}; {self._tail()}"
