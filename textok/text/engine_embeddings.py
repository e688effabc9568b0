"""Embeddings that the engine's encoder makes: for a store, or of captions as they are asked for."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

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

    Raises
    ------
    ValueError
        More tokens than the encoder has positions for.
    """

    def __init__(self, encoder: TextEncoder, max_tokens: int, name: str | None = None) -> None:
        most = encoder.config.max_positions
        if most and max_tokens > most:
            raise ValueError(f"max_tokens: expected at most the {most} that {encoder.name} takes, got {max_tokens}")
        self.encoder, self.max_tokens, self.name = encoder, max_tokens, name or encoder.name
        self.text_dim = encoder.text_dim
        self.identity: dict[str, Any] = {
            "identity": encoder.identity,
            "output": "last_hidden_state",
            "compute": encoder.dtype,
            "max_tokens": max_tokens,
            "end_token": encoder.end_token,
            "padding": "not computed",
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
        text, lengths = self.encoder.encode_ids(ids)
        return [row[:length] for row, length in zip(text, lengths)]


class EncodedEmbeddings:
    """Embeddings of any caption, made when they are asked for.

    It stands where a store stands (`open_embeddings`), and knows no caption beforehand: `len` is 0.
    """

    by = "caption"

    def __init__(self, encoder: TextEncoder, max_tokens: int) -> None:
        self.encoder, self.longest = encoder, max_tokens
        self.text_dim = encoder.text_dim

    def __len__(self) -> int:
        return 0

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str)

    def embeddings(self, names: Any) -> tuple[F32, I32]:
        """`text` [B,t,Dt] and `text_lengths` [B] of captions."""
        text, lengths = self.encoder(names, self.longest)
        return (text, lengths) if len(text) else (np.zeros((0, 1, self.text_dim), np.float32), lengths)

    def __repr__(self) -> str:
        return f"EncodedEmbeddings({self.encoder!r}, up to {self.longest} tokens)"
