"""Embeddings that the engine's encoder makes: for a store, or of captions as they are asked for."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..config import EncoderUse
from .encoder import TextEncoder

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]


class StoreEncoder:
    """A `TextEncoder` as `EmbeddingStore.embed` takes it.

    Parameters
    ----------
    encoder
        The encoder.
    max_tokens
        Longer captions are cut.
    name
        What the store is told of it, for people.
    pad_to, pad_token
        As in `TextEncoder.__call__`: the states of padding are kept too.

    Raises
    ------
    ValueError
        More tokens than the encoder has positions for.
    """

    def __init__(
        self,
        encoder: TextEncoder,
        max_tokens: int,
        name: str | None = None,
        pad_to: int | None = None,
        pad_token: int | None = None,
    ) -> None:
        most = encoder.config.max_positions
        if most and max_tokens > most:
            raise ValueError(f"max_tokens: expected at most the {most} that {encoder.name} takes, got {max_tokens}")
        self.encoder, self.max_tokens, self.name = encoder, max_tokens, name or encoder.name
        if pad_to is not None and pad_to < max_tokens:
            raise ValueError(f"pad_to: expected {max_tokens} or more, the most tokens of a caption, got {pad_to}")
        self.pad_to, self.pad_token = pad_to, pad_token
        self.text_dim = encoder.text_dim
        self.identity: dict[str, Any] = {
            "identity": encoder.identity,
            "output": "last_hidden_state",
            "compute": encoder.dtype,
            "max_tokens": max_tokens,
            "end_token": encoder.end_token,
            "padding": padding_told(pad_to, pad_token),
        }

    @property
    def described(self) -> dict[str, Any]:
        """The identity with the name, as a store keeps it."""
        return {"name": self.name, **self.identity}

    def tokenize(self, captions: Sequence[str]) -> tuple[list[list[int]], list[int]]:
        """Token numbers, and how many each caption would have without `max_tokens` (up to the positions that the model has)."""
        ids = self.encoder.tokenize(captions, self.max_tokens)
        whole = [len(row) for row in ids]
        if full := [place for place, count in enumerate(whole) if count >= self.max_tokens]:
            most = self.encoder.config.max_positions or max(len(captions[place]) for place in full) + 16
            for place, row in zip(full, self.encoder.tokenize([captions[place] for place in full], most)):
                whole[place] = len(row)
        return ids, whole

    def run(self, ids: Sequence[list[int]]) -> list[F32]:
        """The states [t_i,Dt] of each caption."""
        text, lengths = self.encoder.encode_ids(ids, self.pad_to, pad_token=self.pad_token)
        return list(text) if self.pad_to else [row[:length] for row, length in zip(text, lengths)]


def padding_told(pad_to: int | None, pad_token: int | None) -> str:
    """What a store says of the padding in it."""
    return "not computed" if pad_to is None else f"to {pad_to} with {'its own token' if pad_token is None else pad_token}"


def padding_of(told: str) -> tuple[int | None, int | None]:
    """`pad_to` and `pad_token` of what `padding_told` said, or an earlier version."""
    words = told.split()
    if len(words) < 4 or words[0] != "to":
        return None, None
    return int(words[1]), int(words[3]) if words[3].isdecimal() else None


def states(
    encoder: TextEncoder, captions: Any, max_tokens: int, use: EncoderUse | None, threads: int | None = None
) -> tuple[F32, I32]:
    """Captions as a model takes them whose config says `use`: `text` [B,t,Dt], and `text_lengths` [B], how many rows of each
    count: those of its padding too where the model takes them."""
    pad_to = None if use is None else use.pad_to
    text, lengths = encoder(captions, max_tokens, pad_to, pad_token=use.pad_token if use and pad_to else None, threads=threads)
    if len(text) == 0:
        text = np.zeros((0, pad_to or 1, encoder.text_dim), np.float32)
    return text, np.full_like(lengths, pad_to) if pad_to else lengths


class EncodedEmbeddings:
    """Embeddings of any caption, made when they are asked for.

    It stands where a store stands (`open_embeddings`), and knows no caption beforehand: `len` is 0.
    """

    by = "caption"

    def __init__(self, encoder: TextEncoder, max_tokens: int, use: EncoderUse | None = None) -> None:
        self.encoder, self.longest, self.use = encoder, max_tokens, use
        self.text_dim = encoder.text_dim

    def __len__(self) -> int:
        return 0

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str)

    def embeddings(self, names: Any) -> tuple[F32, I32]:
        """`text` [B,t,Dt] and `text_lengths` [B] of captions."""
        return states(self.encoder, names, self.longest, self.use)

    def __repr__(self) -> str:
        return f"EncodedEmbeddings({self.encoder!r}, up to {self.longest} tokens)"
