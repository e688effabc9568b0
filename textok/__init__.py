"""textok: TexTok image tokenizers and DiT generators on CPUs, a C engine behind NumPy.

    import textok

    tokenizer = textok.TexTok.from_pretrained("emoji-textok")
    z = tokenizer.encode(textok.preprocess(pictures, 64), text, text_lengths)
    pictures = tokenizer.decode(z, text, text_lengths)
    pipeline = textok.Pipeline.from_pretrained("emoji")
    pipeline(labels=[3, 7], seed=0).images

`textok.list_models()` names the bundled models; the README has the whole table of names. Each name, and `textok.data`,
`textok.metrics`, `textok.viz` and `textok.ray`, is imported when it is first used, so that `import textok` is quick.
"""

import importlib
from typing import TYPE_CHECKING, Any

from .version import __version__ as __version__

if TYPE_CHECKING:  # what a type checker and an editor see; at run time each is imported when it is first asked for
    from ._core import cpu_info, get_num_threads, set_num_threads
    from .bundled import list_models
    from .config import DiTConfig, SideConfig, TextEncoderConfig, TexTokConfig
    from .dit import DiT
    from .errors import ConfigError, DataError, TextokError, WeightsError
    from .image_tokenizer import TexTok
    from .pictures.preprocess import preprocess, to_uint8
    from .pipeline import Pipeline
    from .pipeline_result import PipelineResult
    from .text.caption_store import CaptionStore
    from .text.embedding_store import EmbeddingStore
    from .text.encoder import TextEncoder
    from .text.open_embeddings import open_embeddings

__all__ = [
    "CaptionStore",
    "ConfigError",
    "DataError",
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

_HOMES = {  # a module, and what of it is imported when it is asked for
    "_core": ("cpu_info", "get_num_threads", "set_num_threads"),
    "bundled": ("list_models",),
    "config": ("DiTConfig", "SideConfig", "TextEncoderConfig", "TexTokConfig"),
    "dit": ("DiT",),
    "errors": ("ConfigError", "DataError", "TextokError", "WeightsError"),
    "image_tokenizer": ("TexTok",),
    "pictures.preprocess": ("preprocess", "to_uint8"),
    "pipeline": ("Pipeline",),
    "pipeline_result": ("PipelineResult",),
    "text.caption_store": ("CaptionStore",),
    "text.embedding_store": ("EmbeddingStore",),
    "text.encoder": ("TextEncoder",),
    "text.open_embeddings": ("open_embeddings",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
_MODULES = {"data", "images", "importers", "metrics", "ray", "text_encoders", "viz"}
_MODULES |= {home.partition(".")[0] for home in _HOMES}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF, *_MODULES})
