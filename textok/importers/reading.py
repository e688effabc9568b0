"""A checkpoint of another project, whichever it is: its config and tensors as ours, the numbers not read yet."""

import fnmatch
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _core, hub
from ..config import DiTConfig, TexTokConfig
from ..errors import ConfigError, WeightsError, shown, told
from ..weights import CONFIG_FILE, FLOAT_TYPES, Table, Tensor, listed
from .bytedance_titok import TATITOK, TITOK
from .diffusers_dit import DIFFUSERS_DIT
from .facebookresearch_dit import ORIGINAL_DIT, SIT
from .hhhhhhao_continuous_tokenizer import MAETOK, SOFTVQ, TOKEN_DIT
from .layout import Change, Layout, Settings, Shaped, expand
from .pranoyr_textok import PRANOYR_TEXTOK
from .source import Source, open_source

# The first whose sign a file carries and that fits.
LAYOUTS: Sequence[Layout] = (
    ORIGINAL_DIT, SIT, TOKEN_DIT, DIFFUSERS_DIT, PRANOYR_TEXTOK, TATITOK, TITOK, SOFTVQ, MAETOK,
)  # fmt: skip
_CONFIGS: dict[str, type[TexTokConfig] | type[DiTConfig]] = {"textok": TexTokConfig, "dit": DiTConfig}

# A file's numbers become about as many of ours; fixed positions, which some files leave out, and tokens that are one for all
# patches are more. A config that asks for much more than that is wrong, or hostile.
_MOST_TIMES, _MOST_MORE = 4, 1 << 26


@dataclass(frozen=True)
class Imported:
    """A model of another project, its numbers not read yet: of `model_type` "textok" or "dit", made from the file or folder
    `where`, in the layout of the project `title`; `notes` are what was taken for granted."""

    model_type: str
    config: TexTokConfig | DiTConfig
    tensors: Mapping[str, Tensor]
    where: str
    title: str
    notes: Sequence[str] = ()


def read(path: str | os.PathLike[str], settings: Mapping[str, Any] | None = None, ignore: Sequence[str] = ()) -> Imported:
    """What `textok.importers.load` makes a model of; arguments and errors are the same."""
    source = open_source(hub.fetch(str(path)) if hub.is_hub_name(path) else path)
    if source.config is not None and source.config.get("model_type") in (*_CONFIGS, "text_encoder"):
        raise ConfigError(f"{source.path.parent}: a model of textok already; expected one of another project")
    given = _nested(settings or {})
    layout = _layout_of(source, given)
    given = _of_sides(given, layout)
    values = _complete(layout, source, given)
    try:
        config = _CONFIGS[layout.model_type].from_dict(values)
    except ConfigError as problem:
        raise ConfigError(f"{source.path}: {problem}") from None
    tensors = _tensors(layout, source, config, (*layout.ignored, *ignore))
    return Imported(layout.model_type, config, tensors, str(source.path), layout.title, layout.notes(source, given))


def is_foreign(folder: Path) -> bool:
    """Whether a folder holds a model of another project, its config beside it; broken files are not told of here."""
    try:
        source = open_source(folder) if (folder / CONFIG_FILE).is_file() or (folder / "transformer").is_dir() else None
        said = None if source is None else source.config
        if source is None or said is None or "model_type" in said:
            return False
        _layout_of(source, {})
    except (ValueError, OSError):
        return False
    return True


def _layout_of(source: Source, given: Settings) -> Layout:
    """The layout whose sign the names carry; WeightsError where there is none."""
    for layout in LAYOUTS:
        if all(name in source.tensors for name in layout.sign) and layout.fits(source, given):
            return layout
    some = ", ".join(told(name, 80) for name in list(source.tensors)[:3])
    raise WeightsError(f"{source.path}: expected tensors of {', '.join(layout.title for layout in LAYOUTS)}; got {some}, ...")


def _complete(layout: Layout, source: Source, given: Settings) -> dict[str, Any]:
    """The config: what the file says, and over it what was given."""
    config = layout.config(source, given)
    for key, value in given.items():
        config[key] = {**config[key], **value} if isinstance(value, dict) and isinstance(config.get(key), dict) else value
    missing = [key for key in layout.needed if not _has(config, key)]
    if missing:
        raise ConfigError(
            f"{source.path}: a file of {layout.title} does not say {' and '.join(missing)}: give it, as num_heads=16"
        )
    return config


def _nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """{"a.b": 1} as {"a": {"b": 1}}; unknown keys are the config class's to complain of."""
    result: dict[str, Any] = {}
    for key, value in settings.items():
        outer, dot, inner = str(key).partition(".")
        if dot or isinstance(value, Mapping):
            part = result.setdefault(outer, {})
            if not isinstance(part, dict):
                raise ConfigError(f"{outer}: expected one value or some of its parts, got both")
            part.update({inner: value} if dot else value)
        elif outer in result:
            raise ConfigError(f"{outer}: expected one value or some of its parts, got both")
        else:
            result[outer] = value
    return result


def _of_sides(given: Settings, layout: Layout) -> dict[str, Any]:
    """`num_heads` of a tokenizer as both sides'."""
    result = dict(given)
    if layout.model_type != "textok":
        return result
    for side in ("tokenizer", "detokenizer"):
        if not isinstance(result.get(side, {}), dict):
            raise ConfigError(f"{side}: expected some of its parts, as {side}.num_heads=4, got {shown(result[side])}")
    if "num_heads" in result:
        heads = result.pop("num_heads")
        for side in ("tokenizer", "detokenizer"):
            result[side] = {"num_heads": heads, **result.get(side, {})}
    return result


def _has(config: Mapping[str, Any], key: str) -> bool:
    outer, dot, inner = key.partition(".")
    return inner in config[outer] if dot else key in config


def _tensors(layout: Layout, source: Source, config: Any, ignored: Sequence[str]) -> dict[str, Tensor]:
    """Our tensors, each made from theirs when it is asked for."""
    is_dit = layout.model_type == "dit"
    sides = {"": config.depth} if is_dit else {f"{s}.": getattr(config, s).depth for s in ("tokenizer", "detokenizer")}
    table = expand(layout.rows_of(source), sides)
    wanted: Table = _core.weight_table(layout.model_type, config.to_dict())
    shapes = dict(wanted)
    used = {name for names, _ in table.values() for name in names}
    left_out = {
        name for name in source.tensors if name not in used and any(fnmatch.fnmatchcase(name, pattern) for pattern in ignored)
    }
    _check_names(used, source.tensors.keys() - left_out, f"{source.path}, {layout.title}")
    if table.keys() != shapes.keys():
        odd = sorted(table.keys() ^ shapes.keys())
        raise ConfigError(
            f"{source.path}: the config does not fit a file of {layout.title}: {listed(odd)} would have to come from elsewhere"
        )
    _check_types(source, used)
    _check_size(source, used, wanted)

    def reader(ours: str, theirs: tuple[str, ...], change: Change | Shaped) -> Callable[[], NDArray[Any]]:
        def read() -> NDArray[Any]:
            try:
                arrays = [_floats(source.tensors[name]) for name in theirs]
                array = change.make(shapes[ours], *arrays) if isinstance(change, Shaped) else change(*arrays)
            except (ValueError, IndexError, TypeError) as problem:
                if isinstance(problem, ConfigError | WeightsError):
                    raise
                told = [list(source.tensors[name].shape) for name in theirs[:3]]
                why = problem if isinstance(problem, ValueError) else "not the axes that this layout has"
                raise WeightsError(f"{source.path}: {', '.join(theirs[:3])} {told}: {why}") from None
            if ours == "y_embedder.embedding_table.weight" and not config.null_class and array.ndim == 2:
                array = np.concatenate([array, np.zeros_like(array[:1])])  # a row for the null class, which nobody can ask for
            if array.shape != tuple(shapes[ours]):
                told = [list(source.tensors[name].shape) for name in theirs[:3]]
                raise WeightsError(
                    f"{source.path}: {', '.join(theirs[:3])} {told}: become {ours} {list(array.shape)}, expected "
                    f"{list(shapes[ours])}"
                )
            return np.ascontiguousarray(array, np.float32)

        return read

    return {ours: Tensor(shapes[ours], "F32", str(source.path), reader(ours, *row)) for ours, row in table.items()}


def _check_names(wanted: set[str], found: set[str], where: str) -> None:
    """One WeightsError that lists the names that are missing and those that nobody asked for, if there are such."""
    complaints = []
    if missing := sorted(wanted - found):
        complaints.append(f"missing {listed(missing)}")
    if extra := sorted(found - wanted):
        one = told(extra[0], 80)
        complaints.append(f"unknown {listed(extra)}; what is of no use here may be ignored, as with --ignore {one}")
    if complaints:
        raise WeightsError(f"{where}: {'; '.join(complaints)}")


def _floats(tensor: Tensor) -> NDArray[Any]:
    """Its numbers, at least float32, so that what is done with them is not rounded."""
    array = np.asarray(tensor.read())
    return array if array.itemsize >= 4 else array.astype(np.float32)


def _check_types(source: Source, used: set[str]) -> None:
    wrong = [f"{name} {source.tensors[name].type}" for name in sorted(used) if source.tensors[name].type not in FLOAT_TYPES]
    if wrong:
        raise WeightsError(f"{source.path}: expected {', '.join(FLOAT_TYPES)}, got integers or another type: {listed(wrong)}")


def _check_size(source: Source, used: set[str], wanted: Table) -> None:
    there = min(sum(_count(source.tensors[name].shape) for name in used), source.bytes)  # a number has a byte or more
    needed = sum(_count(shape) for _, shape in wanted)
    if needed > _MOST_TIMES * there + _MOST_MORE:
        raise WeightsError(f"{source.path}: its config asks for {needed} numbers, the file has {there}")


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
