"""What the layout of another project's files is made of: which of their tensors becomes which of ours, and how.

A row is (ours, theirs, change): `{i}` in the names counts blocks, and `change` makes ours from theirs. What a file says by its
shapes becomes config; what it does not say (the number of heads, in all of them) stands in `needed`.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, WeightsError, shown
from .source import Source

Array = NDArray[Any]
Change = Callable[..., Array]


@dataclass(frozen=True)
class Shaped:
    """A change that looks at the shape that is wanted, before the arrays."""

    make: Callable[..., Array]


Row = tuple[str, str | tuple[str, ...], Change | Shaped]
Settings = Mapping[str, Any]  # what the caller says, nested


@dataclass(frozen=True)
class Layout:
    """What one project's files look like.

    Attributes
    ----------
    title, model_type
        The project; "textok" or "dit".
    sign
        Names that only its files have.
    rows
        See above; or what makes them of a file.
    config
        What the shapes, and what stands beside them, say.
    needed
        Keys that they do not say.
    ignored
        Patterns, as a shell's, of names that belong to something else, such as a text encoder.
    fits
        Of layouts with the same sign, whether the file, or what the caller says of it, means this one.
    notes
        What is taken for granted because neither of them says it.
    """

    title: str
    model_type: str
    sign: tuple[str, ...]
    rows: tuple[Row, ...] | Callable[[Source], tuple[Row, ...]]
    config: Callable[[Source, Settings], dict[str, Any]]
    needed: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    fits: Callable[[Source, Settings], bool] = lambda source, given: True
    notes: Callable[[Source, Settings], list[str]] = lambda source, given: []

    def rows_of(self, source: Source) -> tuple[Row, ...]:
        return self.rows(source) if callable(self.rows) else self.rows


def same(array: Array) -> Array:
    return array


def first(array: Array) -> Array:
    """[1,...] -> [...]"""
    return array.reshape(array.shape[1:])


def flat(array: Array) -> Array:
    """A convolution's [out, in, p, p] as a matrix whose columns are (channel, row, column)."""
    return array.reshape(len(array), -1)


def channels_last(array: Array) -> Array:
    """The same with columns (row, column, channel)."""
    return array.transpose(0, 2, 3, 1).reshape(len(array), -1)


def joined(*arrays: Array) -> Array:
    return np.concatenate(arrays)


def equal(*arrays: Array) -> Array:
    """One of many copies."""
    if not all(np.array_equal(arrays[0], other) for other in arrays[1:]):
        raise ValueError("expected equal copies of it in every block, they differ")
    return arrays[0]


def pairs(ours: str, theirs: str, weight: Change = same) -> tuple[Row, Row]:
    return (f"{ours}.weight", f"{theirs}.weight", weight), (f"{ours}.bias", f"{theirs}.bias", same)


def shape_of(source: Source, name: str, rank: int) -> tuple[int, ...]:
    shape = source.tensors[name].shape if name in source.tensors else None
    if shape is None or len(shape) != rank or 0 in shape:
        raise WeightsError(f"{source.path}: {name}: expected {rank} axes, got {'nothing' if shape is None else list(shape)}")
    return shape


def number_of(source: Source, values: Mapping[str, Any], key: str, low: int = 1) -> int:
    """A whole number of a config, or an error that names it."""
    value = values.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= 1 << 24:
        raise ConfigError(
            f"config.json of {source.path.parent}: expected a number for {key}, whole and from {low}, got {shown(value)}"
        )
    return value


def refuse(source: Source, values: Mapping[str, Any], known: Mapping[str, tuple[Any, ...]]) -> None:
    """A ConfigError that names the first key of a config that says something else than what is computed here."""
    for key, choices in known.items():
        if key in values and values[key] not in choices:
            expected = " or ".join(map(repr, choices))
            raise ConfigError(f"config.json of {source.path.parent}: {key}: expected {expected}, got {shown(values[key])}")


def count_blocks(source: Source, pattern: str) -> int:
    """How many blocks there are, named 0, 1, ... where `pattern` has {i}."""
    found = re.compile(re.escape(pattern).replace(r"\{i\}", r"(\d{1,4})"))
    return len({match[1] for name in source.tensors if (match := found.match(name))})


def side_of_square(source: Source, what: str, count: int) -> int:
    side = math.isqrt(count)
    if side * side != count:
        raise ConfigError(f"{source.path}: {what}: expected a square number of patches, got {count}")
    return side


def expand(rows: Sequence[Row], depths: Mapping[str, int]) -> dict[str, tuple[tuple[str, ...], Change | Shaped]]:
    """Rows with their {i} counted: by the depth of the side that our name begins with, or of "" for a DiT."""
    table: dict[str, tuple[tuple[str, ...], Change | Shaped]] = {}
    for ours, theirs, change in rows:
        names = (theirs,) if isinstance(theirs, str) else theirs
        depth = next(depth for side, depth in depths.items() if ours.startswith(side))
        names = tuple(name.replace("{all}", str(i)) for name in names for i in range(depth if "{all}" in name else 1))
        for i in range(depth if "{i}" in ours else 1):
            table[ours.replace("{i}", str(i))] = tuple(name.replace("{i}", str(i)) for name in names), change
    return table
