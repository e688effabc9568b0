"""Latents of samples: KEY.npz or KEY.safetensors with `latent` float32 [N,d], and `latent_flipped`, of the mirrored picture,
beside KEY.json with what is known of it.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import arrays
from ..errors import DataError
from .base import Sample, Skip, teller
from .payloads import FLIPPED, FORMATS, LATENT, unpack_arrays
from .sources import read_samples


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
