"""One function that opens whatever has embeddings of captions."""

import os
from pathlib import Path

from .caption_store import CAPTIONS_FILE, CaptionStore
from .embedding_store import STORE_FILE, EmbeddingStore
from .embeddings import Embeddings


def open_embeddings(path: str | os.PathLike[str]) -> Embeddings:
    """The embeddings at a path, whatever they are.

    Parameters
    ----------
    path
        A store, the captions folder of a pipeline (captions.jsonl, embeddings.safetensors), or a file:

        - .npy: [n,t,Dt], mapped into memory; beside it NAME.lengths.npy [n], which may be missing where no row is padding
        - .npz or .safetensors: `text` [n,t,Dt] (or the only array) and `text_lengths` [n], likewise; or ragged, `tokens`
          [total,Dt] and `offsets` [n+1]. In an .npz also `captions` or `keys`, strings [n]; without these rows go by position

    Returns
    -------
    An `EmbeddingStore`, `ArrayEmbeddings` or `CaptionStore`; all have `embeddings(names)`, and `by` says what names are.

    Raises
    ------
    DataError, WeightsError
        Nothing there, or nothing that has embeddings; says what was expected.

    Examples
    --------
    >>> embeddings = open_embeddings("captions.npz")  # doctest: +SKIP
    >>> text, lengths = embeddings.embeddings([0, 1, 2])  # doctest: +SKIP
    """
    place = Path(path)
    if not place.is_dir():
        from .embedding_arrays import read_file

        return read_file(place)
    if (place / CAPTIONS_FILE).is_file() and not (place / STORE_FILE).is_file():
        return CaptionStore.from_folder(place)
    return EmbeddingStore.open(place)
