"""What TexTok and DiT have in common beyond all models: captions as strings, and files, their own and other projects'."""

import os
from collections.abc import Mapping
from typing import Any, Self

from . import weights as files
from .bundled import find_model
from .captions import TakesCaptions
from .errors import ConfigError
from .model import EngineModel


class ImageModel(TakesCaptions, EngineModel):
    """Base of `TexTok` and `DiT`."""

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str], dtype: str = "float32", threads: int | None = None) -> Self:
        """Load a model.

        Parameters
        ----------
        path
            A folder with `config.json` and `model.safetensors` (or shards and their index), or the name of a bundled model, see
            `textok.list_models`. A folder that exists goes before a name. A folder of another project whose config says all
            that is needed is converted in memory; see `textok.importers`. "hf://owner/name[@revision][/subfolder]" asks the
            hub.
        dtype
            What the model computes in: "float32", "bfloat16", "int8" or "int4", whatever the file holds. In the latter three
            the products inside the blocks take their inputs rounded to it (int8: with a scale a row of each weight and a scale
            a token; CPUs with AVX2 and without VNNI leave weights 7.2 bits of 8), sums and the residual stream stay float32,
            and so do the small layers at both ends; attention reads bfloat16, which it rounds to int8 in int8 and int4 models
            where that is faster on this CPU. "int4" is int8 with
            weights of 4 bits, which share a scale in groups of 32: half the memory, and several times int8's error.
        threads
            The most threads that a call of this model uses; None for all that the process may use.

        Raises
        ------
        ConfigError, WeightsError
            Files that are missing or broken, or tensors that are not those of the config; says which and how.
        """
        return cls._from_folder(path, dtype, threads)

    @classmethod
    def _from_folder(cls, path: str | os.PathLike[str], dtype: str, threads: int | None, side: str = "both") -> Self:
        from .importers.reading import is_foreign, read

        folder = find_model(path)
        if is_foreign(folder):
            found = read(folder)
            if found.model_type != cls.model_type:
                raise ConfigError(f"{folder}: expected a {cls.__name__}, got a model of {found.title}")
            return cls._from_tensors(found.config, found.tensors, found.where, dtype, threads, side)
        try:
            config = cls.config_class.from_dict(files.load_config(folder, cls.model_type))
        except ConfigError as problem:
            if str(folder) in str(problem):
                raise
            raise ConfigError(f"{folder / files.CONFIG_FILE}: {problem}") from None
        model = cls.__new__(cls)
        model._set_up(config, dtype, threads, side)
        model._load(files.load_weights(folder, model._table(), model._prefix()))
        return model

    @classmethod
    def _from_tensors(
        cls,
        config: Any,
        tensors: Mapping[str, files.Tensor],
        where: str,
        dtype: str,
        threads: int | None = None,
        side: str = "both",
    ) -> Self:
        """A model of another project's tensors, which are made one at a time."""
        model = cls.__new__(cls)
        model._set_up(config, dtype, threads, side)
        model._load(files.Weights(tensors, model._table(), where, model._prefix()))
        return model
