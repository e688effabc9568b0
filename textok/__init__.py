"""textok: TexTok image tokenizers and DiT generators on CPUs, a C engine behind NumPy.

    import textok

    tokenizer = textok.TexTok.from_pretrained("emoji-textok")
    z = tokenizer.encode(textok.preprocess(pictures, 64), text, text_lengths)
    pictures = tokenizer.decode(z, text, text_lengths)
    pipeline = textok.Pipeline.from_pretrained("emoji")
    pipeline(labels=[3, 7], seed=0).images

`textok.list_models()` names the bundled models; the README has the whole table of names. `textok.data`, `textok.metrics`,
`textok.viz` and `textok.ray` are imported on first use.
"""

import importlib
from typing import Any

from ._core import cpu_info, get_num_threads, set_num_threads
from .bundled import list_models
from .config import DiTConfig, SideConfig, TextEncoderConfig, TexTokConfig
from .dit import DiT
from .errors import ConfigError, TextokError, WeightsError
from .image_tokenizer import TexTok
from .pictures.preprocess import preprocess, to_uint8
from .pipeline import Pipeline
from .pipeline_result import PipelineResult
from .text.caption_store import CaptionStore
from .text.embedding_store import EmbeddingStore
from .text.encoder import TextEncoder
from .text.open_embeddings import open_embeddings
from .version import __version__ as __version__

__all__ = [
    "CaptionStore",
    "ConfigError",
    "DiT",
    "DiTConfig",
    "EmbeddingStore",
    "Pipeline",
    "PipelineResult",
    "SideConfig",
    "TexTok",
    "TexTokConfig",
    "TextEncoder",
    "TextEncoderConfig",
    "TextokError",
    "WeightsError",
    "cpu_info",
    "get_num_threads",
    "list_models",
    "open_embeddings",
    "preprocess",
    "set_num_threads",
    "to_uint8",
]

_LATER = ("data", "metrics", "ray", "viz")


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
