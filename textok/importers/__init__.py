"""Checkpoints of other projects as textok's models.

    source.py    names and tensors of a .safetensors file, a file of torch.save or a folder of diffusers
    pickles.py   the latter without PyTorch
    layout.py    what a layout is made of; and a file a project: what becomes what, as tables

What a file does not say has to be given, and a tensor that no table knows is an error: nothing is guessed.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _core
from ..dit import DiT
from ..errors import ConfigError, WeightsError
from ..image_tokenizer import TexTok
from ..model import EngineModel
from ..weights import Tensor, check_known, listed
from .bytedance_titok import TATITOK, TITOK
from .diffusers_dit import DIFFUSERS_DIT, grid_positions
from .facebookresearch_dit import ORIGINAL_DIT
from .layout import Change, Layout, expand
from .pranoyr_textok import PRANOYR_TEXTOK
from .source import Source, open_source

# The first whose sign a file carries.
LAYOUTS: Sequence[Layout] = (ORIGINAL_DIT, DIFFUSERS_DIT, PRANOYR_TEXTOK, TATITOK, TITOK)
MODELS: dict[str, type[EngineModel]] = {kind.model_type: kind for kind in (TexTok, DiT)}


def load(path: str | os.PathLike[str], settings: Mapping[str, Any] | None = None, dtype: str = "float32") -> TexTok | DiT:
    """A model of another project.

    Parameters
    ----------
    path
        A .safetensors, .pt, .pth or .bin file, or a folder of diffusers. In a training file the running average is taken.
    settings
        Config keys that the file does not say, nested or with dots ("tokenizer.num_heads"); `num_heads` alone is both sides'. They go
        before what the file says.
    dtype
        As in `from_pretrained`.

    Raises
    ------
    WeightsError
        A file that is broken, of no known layout, or whose tensors are not all of that layout.
    ConfigError
        Something that neither the file nor `settings` say; names it.

    Notes
    -----
    Known layouts: facebookresearch/DiT, diffusers' DiTTransformer2DModel, pranoyr/TexTok, and bytedance's TiTok and TA-TiTok with a
    VAE's latents, whose pictures in [0, 1] become ours in [-1, 1]. The latent images of the first two are those
    of a VAE with its factor applied (0.18215 for Stable Diffusion's), which is left to the caller.

    Examples
    --------
    >>> dit = load("DiT-XL-2-256x256.pt", {"num_heads": 16})  # doctest: +SKIP
    """
    source = open_source(path)
    layout = layout_of(source)
    kind = MODELS[layout.model_type]
    config = kind.config_class.from_dict(_complete(layout, source, settings or {}))
    return kind._from_tensors(config, _tensors(layout, source, config), str(source.path), dtype)  # type: ignore[return-value]


def layout_of(source: Source) -> Layout:
    """The layout whose sign the names carry; WeightsError where there is none."""
    for layout in LAYOUTS:
        if all(name in source.tensors for name in layout.sign):
            return layout
    some = ", ".join(list(source.tensors)[:3])
    raise WeightsError(f"{source.path}: expected tensors of {', '.join(layout.title for layout in LAYOUTS)}; got {some}, ...")


def _complete(layout: Layout, source: Source, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The config: what the file says, and over it the settings."""
    config = layout.config(source)
    given = _nested(settings)
    if layout.model_type == "textok" and "num_heads" in given:
        heads = given.pop("num_heads")
        for side in ("tokenizer", "detokenizer"):
            given[side] = {"num_heads": heads, **given.get(side, {})}
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
        outer, dot, inner = key.partition(".")
        if dot or isinstance(value, Mapping):
            part = result.setdefault(outer, {})
            if not isinstance(part, dict):
                raise ConfigError(f"{outer}: expected one value or some of its parts, got both")
            part.update({inner: value} if dot else value)
        else:
            result[key] = value
    return result


def _has(config: Mapping[str, Any], key: str) -> bool:
    outer, dot, inner = key.partition(".")
    return inner in config[outer] if dot else key in config


def _tensors(layout: Layout, source: Source, config: Any) -> dict[str, Tensor]:
    """Our tensors, each made from theirs when it is asked for."""
    sides = (
        {"": config.depth}
        if layout.model_type == "dit"
        else {f"{s}.": getattr(config, s).depth for s in ("tokenizer", "detokenizer")}
    )
    table = expand(layout.rows, sides)
    wanted = dict(_core.weight_table(layout.model_type, config.to_dict()))
    check_known(
        {name for names, _ in table.values() for name in names},
        source.tensors,
        layout.ignored,
        f"{source.path}, {layout.title}",
    )
    if table.keys() != wanted.keys():
        odd = sorted(table.keys() ^ wanted.keys())
        raise ConfigError(
            f"{source.path}: the config does not fit a file of {layout.title}: {listed(odd)} would have to come from elsewhere"
        )

    def reader(ours: str, theirs: tuple[str, ...], change: Change) -> Callable[[], NDArray[Any]]:
        def read() -> NDArray[Any]:
            if change is grid_positions:
                array = grid_positions(config.input_size // config.patch_size, config.hidden_size)
            else:
                try:
                    array = change(*(np.asarray(source.tensors[name].read()) for name in theirs))
                except ValueError as problem:
                    raise WeightsError(f"{source.path}: {', '.join(theirs[:3])}: {problem}") from None
            if array.shape != tuple(wanted[ours]):
                shapes = [list(source.tensors[name].shape) for name in theirs[:3]]
                raise WeightsError(
                    f"{source.path}: {', '.join(theirs[:3])} {shapes}: become {ours} {list(array.shape)}, expected {list(wanted[ours])}"
                )
            return np.ascontiguousarray(array, np.float32)

        return read

    return {ours: Tensor(wanted[ours], "F32", str(source.path), reader(ours, *row)) for ours, row in table.items()}
