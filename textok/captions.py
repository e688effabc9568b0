"""Captions as strings: the text encoder that a model's config names, loaded when first needed, in place of embeddings."""

import dataclasses
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .conditions import full_text
from .config import DiTConfig, EncoderUse, TexTokConfig
from .errors import ConfigError, DataError
from .text.embedding_store import EmbeddingStore
from .text.encoder import TextEncoder
from .text.encoder_places import encoder_place
from .text.engine_embeddings import padding_of, padding_told, states

_LOADING = threading.Lock()


class TakesCaptions:
    """What TexTok and DiT have in common that takes captions as strings."""

    _config: Any
    _dtype: str
    _threads: int
    _encoder: TextEncoder | None = None
    _encoder_set = False  # by the user: then it goes wherever the model goes, and is not loaded again

    @property
    def encoder(self) -> TextEncoder:
        """The text encoder of `captions=`: the one that the config names, loaded when first asked for, in this model's dtype.

        Another one may be set; a ConfigError names both where it is not the one whose embeddings the model was trained on.
        """
        with _LOADING:
            if self._encoder is None:
                use = self._config.text_encoder
                if use is None:
                    raise ConfigError(
                        "captions: this model's config names no text encoder; give embeddings as text=, or set "
                        "model.encoder to a textok.TextEncoder"
                    )
                found = TextEncoder.from_pretrained(use.name, self._dtype, self._threads or None, end_token=use.end_token)
                check_encoder(found, self._config)
                self._encoder = found
            return self._encoder

    @encoder.setter
    def encoder(self, encoder: TextEncoder) -> None:
        if not isinstance(encoder, TextEncoder):
            raise TypeError(f"encoder: expected a TextEncoder, got {type(encoder).__name__}")
        check_encoder(encoder, self._config)
        self._encoder, self._encoder_set = encoder, True

    def __reduce__(self) -> Any:
        made: Any = super().__reduce__()
        return (*made, {"_encoder": self._encoder, "_encoder_set": True}) if self._encoder_set else made

    def _embedded(
        self, captions: Any, text: Any, text_lengths: Any, batch: int | None, threads: int | None
    ) -> tuple[Any, Any]:
        """Text and lengths as given, or of captions where there are some."""
        if captions is None:
            return text, text_lengths
        if text is not None or text_lengths is not None:
            raise ValueError("captions: expected captions or text with text_lengths, got both")
        return embed(self.encoder, checked_captions(captions, batch), self._config, threads)


def check_encoder(encoder: TextEncoder, config: TexTokConfig | DiTConfig) -> None:
    """A ConfigError where a model of `config` was not trained on this encoder's embeddings."""
    if encoder.text_dim != config.text_dim:
        raise ConfigError(
            f"encoder: expected embeddings {config.text_dim} wide, as {_trained_on(config.text_encoder)}, got {encoder.name}, "
            f"whose are {encoder.text_dim} wide"
        )
    use = config.text_encoder
    if use is None:
        return
    if use.identity and use.identity != encoder.identity:
        raise ConfigError(
            f"encoder: expected {use.name} (identity {use.identity}), on whose embeddings the model was trained, got "
            f"{encoder.name} (identity {encoder.identity}): other weights, another tokenizer or other settings"
        )
    if use.end_token != encoder.end_token:
        raise ConfigError(
            f"encoder: expected {use.name} {_tokens(use.end_token)}, as the model was trained, got {encoder.name} "
            f"{_tokens(encoder.end_token)}"
        )


# Stores that PyTorch filled know an encoder by a digest of its files, the engine's first ones by one of fewer numbers.
_MINILM = "c13e35c48d77b9899da3aa82451a2c48"
_KNOWN_AS = {"5c03b0d495a73475819850ccd6217f7d": _MINILM, "dda4a185188702fbc568c525c511645a": _MINILM}


def check_store(store: EmbeddingStore, config: TexTokConfig | DiTConfig) -> None:
    """A DataError where a model was not trained on such embeddings; a store that does not say whose they are fits."""
    use, made = config.text_encoder, store.encoder
    if use is None:
        return
    name = made.get("name", "an unnamed encoder")
    identity = identity_of(made)
    wrong_name = identity is None and "model" in made and made.get("name") != use.name
    if wrong_name or (use.identity and identity not in (None, use.identity)):
        raise DataError(
            f"{store.path}: expected embeddings of {use.name} (identity {use.identity or 'unknown'}), on which the model was "
            f"trained, got those of {name} (identity {identity or made.get('model')})"
        )
    if bool(made.get("end_token", use.end_token)) != use.end_token:
        raise DataError(
            f"{store.path}: expected embeddings of {use.name} {_tokens(use.end_token)}, as the model was trained, got those "
            f"of {name} {_tokens(not use.end_token)}"
        )
    padding, own = padding_told(use.pad_to, use.pad_token), padding_told(None, None)
    if use.pad_to is not None and made.get("padding", padding) != padding:
        token = "" if use.pad_token is None else f" --pad-token {use.pad_token}"
        raise DataError(
            f"{store.path}: expected captions filled up {padding}, whose states the model takes too, got padding "
            f"{made['padding']}; textok embed --max-tokens {use.max_tokens or use.pad_to} --pad-to {use.pad_to}{token} makes "
            "them"
        )
    if use.pad_to is None and str(made.get("padding", own)).startswith("to "):
        raise DataError(
            f"{store.path}: expected captions without padding, as the model was trained, got them filled up {made['padding']}"
        )


def identity_of(made: Mapping[str, Any]) -> str | None:
    """`TextEncoder.identity` of the encoder that a store names; None where it does not say."""
    told = made.get("identity") or made.get("model")
    return _KNOWN_AS.get(str(told), made.get("identity"))


def encoder_use(made: Mapping[str, Any]) -> EncoderUse | None:
    """What a model's config says of the encoder that a store names, so that `captions=` finds it; None where it has no name."""
    name = made.get("name")
    if not isinstance(name, str) or not name:
        return None
    pad_to, pad_token = padding_of(str(made.get("padding")))
    most, end_token = made.get("max_tokens"), bool(made.get("end_token", True))
    return EncoderUse(encoder_place(name), identity_of(made) or "", most, end_token, pad_to, pad_token)


def agreed_use(named: EncoderUse | None, found: EncoderUse | None) -> EncoderUse | None:
    """The encoder that a model in training names: `named`, or else the one whose embeddings it is given; a ConfigError where
    they are not one."""
    if named is None or found is None:
        return named or found
    known = bool(named.identity and found.identity)
    if (known and named.identity != found.identity) or (named.end_token, named.pad_to) != (found.end_token, found.pad_to):
        raise ConfigError(
            f"model.text_encoder: expected {found.name} (identity {found.identity or 'unknown'}) {_tokens(found.end_token)}, "
            f"whose embeddings the data has, got {named.name} (identity {named.identity or 'unknown'}) "
            f"{_tokens(named.end_token)}"
        )
    return dataclasses.replace(named, identity=named.identity or found.identity)


def _trained_on(use: EncoderUse | None) -> str:
    return "the model takes them" if use is None else f"those of {use.name} are, on which the model was trained"


def _tokens(end_token: bool) -> str:
    return f"{'with' if end_token else 'without'} its end token"


def is_strings(value: Any) -> bool:
    """Whether `value` is a string or a list of strings, and no array of numbers."""
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "UT"
    return isinstance(value, str) or (
        isinstance(value, list | tuple) and bool(value) and all(isinstance(item, str) for item in value)
    )


def checked_captions(captions: Any, batch: int | None) -> list[str]:
    """A list of strings, `batch` of them where it is given."""
    found = [captions] if isinstance(captions, str) else captions
    if not isinstance(found, Sequence | np.ndarray):
        raise TypeError(f"captions: expected a string or a list of strings, got {type(captions).__name__}")
    for place, caption in enumerate(found):
        if not isinstance(caption, str):
            raise TypeError(f"captions[{place}]: expected a string, got {type(caption).__name__}; embeddings go in as text=")
    if batch is not None and len(found) != batch:
        raise ValueError(f"captions: expected {batch}, one an image, got {len(found)}")
    return [str(caption) for caption in found]


def most_tokens(config: TexTokConfig | DiTConfig) -> int:
    """Tokens that captions of a model are cut to."""
    use = config.text_encoder
    return config.num_text_tokens if use is None or use.max_tokens is None else min(use.max_tokens, config.num_text_tokens)


def embed(
    encoder: TextEncoder, captions: Sequence[str], config: TexTokConfig | DiTConfig, threads: int | None = None
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Captions as a model of `config` takes them: text float32 [B,t,Dt] and lengths int32 [B]."""
    text, lengths = states(encoder, captions, most_tokens(config), config.text_encoder, threads)
    return full_text(text, config.num_text_tokens, getattr(config, "text_mask", True)), lengths
