"""What all models have in common: a frozen config, packed weights in the engine, copies, batches in parts."""

import copy
import os
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from . import _core, arrays
from . import weights as files
from .config import DiTConfig, TextEncoderConfig, TexTokConfig

# Images whose arguments are converted, and that go to the engine, at a time. The engine bounds its own workspace.
IMAGES_AT_ONCE = 64

COMPUTE_TYPES = ("float32", "bfloat16", "int8", "int4")


class EngineModel:
    """Base of all models: a config and the engine's packed copy of the weights, both fixed once made.

    One model may be used from several threads at once. Copies share the weights, which nothing can change; pickles carry them.
    """

    model_type: ClassVar[str]
    config_class: ClassVar[type[TexTokConfig] | type[DiTConfig] | type[TextEncoderConfig]]

    def __init__(self, config: Any, weights: Mapping[str, Any], dtype: str = "float32", threads: int | None = None) -> None:
        self._from_arrays(config, weights, dtype, threads)

    def _from_arrays(
        self, config: Any, weights: Mapping[str, Any], dtype: str, threads: int | None, side: str = "both"
    ) -> None:
        self._set_up(self._as_config(config), dtype, threads, side)
        self._load(files.as_weights(weights, self._table(), self._prefix()))

    def _set_up(self, config: Any, dtype: str, threads: int | None, side: str) -> None:
        self._dtype = dtype_name(dtype)
        self._config = config
        self._threads = arrays.thread_count(threads)
        self._side = arrays.choice(side, "side", files.SIDES)  # a DiT has none and is all there

    def _load(self, tensors: files.Weights) -> None:
        self._model = _core.Model(self.model_type, self._config.to_dict(), tensors, self._dtype, self._side, self._threads)

    def _prefix(self) -> str:
        """What the names of the tensors begin with that the model holds."""
        return "" if self._side == "both" else f"{self._side}."

    def _table(self) -> files.Table:
        return _core.weight_table(self.model_type, self._config.to_dict())

    @classmethod
    def _as_config(cls, config: Any) -> Any:
        return config if isinstance(config, cls.config_class) else cls.config_class.from_dict(config)

    @classmethod
    def from_config(cls, config: Any, seed: int = 0, dtype: str = "float32", threads: int | None = None) -> Self:
        """A model with random weights of a trained one's scale, for timing and tests; the same `seed` gives the same weights.

        `config` is a dict as in `config.json` or the dataclass. A ConfigError for values that make no model, a MemoryError for
        one that has no room.
        """
        return cls._from_seed(config, seed, dtype, threads)

    @classmethod
    def _from_seed(cls, config: Any, seed: int, dtype: str, threads: int | None, side: str = "both") -> Self:
        model = cls.__new__(cls)
        model._set_up(cls._as_config(config), dtype, threads, side)
        table = model._table()
        _check_memory([(name, shape) for name, shape in table if name.startswith(model._prefix())])
        model._load(files.random_weights(table, arrays.whole(seed, "seed", 0, 2**128 - 1)))
        return model

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write `config.json` and `model.safetensors` to `folder`, made where missing; each file appears whole or not at all.

        The config is that of the whole model, the tensors are those that it holds (see `TexTok.side`).
        """
        files.save_model(folder, self._config.to_dict(), self.weights())

    @property
    def config(self) -> Any:
        """The frozen config."""
        return self._config

    @property
    def dtype(self) -> str:
        """What the model computes in."""
        return self._dtype

    @property
    def threads(self) -> int | None:
        """The most threads that a call uses; None for all."""
        return self._threads or None

    @property
    def num_parameters(self) -> int:
        """Numbers in all tensors that the model holds."""
        return self._model.num_parameters

    def weights(self) -> dict[str, NDArray[Any]]:
        """Copies of all tensors by name, as the model holds them and `save_pretrained` writes them.

        float32, bit for bit as they were given; in other models the large matrices are bfloat16, or int8 `NAME` [out,in] beside
        `NAME.scale` float32 [out], or int4: `NAME` uint8 [out, in/2 up], two numbers -8..7 to a byte, each plus 8, the even one
        in the low four bits, beside `NAME.scale` and `NAME.group_scale` uint8 [out, in/32 up].

        On CPUs with AVX2 and without VNNI an image model's int8 was rounded a second time, to what such a CPU multiplies
        fastest. Files of int8 for other machines are better made on those, or by `textok export --storage int8`.
        """
        return files.from_engine(self._model.weights())

    def memory_plan(self, batch: int) -> dict[str, int]:
        """Bytes that a call on `batch` images takes beside its arguments and its result.

        Returns a dict: "weights", held as long as the model, with what is made of them at load; "workspace", held during a call
        with captions of full length (a DiT: a guided run of any number of steps); "total" of the two. Arguments that are not
        C-contiguous float32 (or uint8 pictures) are converted besides, 64 images at a time.

        Examples
        --------
        >>> textok.TexTok.from_pretrained("emoji-textok").memory_plan(64)["total"] < 100 << 20  # doctest: +SKIP
        True
        """
        images = min(arrays.whole(batch, "batch", 1, arrays.MAX_BATCH), IMAGES_AT_ONCE)
        steps = getattr(self._config, "num_train_timesteps", 1)  # a DiT holds the modulations of many steps at a time
        plan = self._model.memory_plan(images, self._config.num_text_tokens, steps)
        return {**plan, "total": plan["weights"] + plan["workspace"]}

    def _call_threads(self, threads: int | None) -> int:
        return arrays.thread_count(threads, self._threads)

    def __reduce__(self) -> Any:
        return type(self), (self._config, self.weights(), self.dtype, self.threads)

    def __copy__(self) -> Self:
        twin = type(self).__new__(type(self))
        twin.__dict__.update(self.__dict__)
        return twin

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return copy.copy(self)

    def _tail(self) -> str:
        """The end of a repr: parameters, what it computes in and with which kernels."""
        kernels = _core.cpu_info()["isa"]
        return f"{self.num_parameters / 1e6:.1f}M parameters, {self.dtype}, {kernels} kernels)"


def dtype_name(dtype: Any) -> str:
    """The name of a dtype that comes as a string or as NumPy's or ml_dtypes' type."""
    name = dtype if isinstance(dtype, str) else getattr(dtype, "__name__", None) or str(dtype)
    return arrays.choice(name, "dtype", COMPUTE_TYPES)


def _check_memory(table: files.Table) -> None:
    """MemoryError for weights that this machine cannot hold, before it starts to fill its memory."""
    needed = 4 * sum(int(np.prod(shape, dtype=object)) for _, shape in table)
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise MemoryError(f"a model of this config needs {needed / 2**30:.1f} GiB, the machine has {there / 2**30:.1f} GiB")


def batch_parts(batch: int, batch_size: int | None, most: int = IMAGES_AT_ONCE) -> list[slice]:
    """The parts of a batch that run one after another, of `batch_size` images or, where that is None, `most`."""
    step = most if batch_size is None else arrays.whole(batch_size, "batch_size", 1, arrays.MAX_BATCH)
    return [slice(first, min(first + step, batch)) for first in range(0, batch, step)]
