"""TextEncoder: captions to the states of their tokens, T5, BERT-like and CLIP encoders in the C engine."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from .. import _core, arrays, files
from ..bundled import find_model
from ..config import TextEncoderConfig
from ..model import EngineModel
from ..progress import progress_bar
from ..weights import CONFIG_FILE, INDEX_FILE, WEIGHTS_FILE, Tensor, from_engine, random_tensors, user_tensors, write_tensors
from . import encoder_layouts as layouts
from .embeddings import caption_list
from .encoder_files import EncoderFolder, EngineTensors, read_folder
from .tokens import CaptionTokenizer

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]

SHARD_BYTES = 2 << 30  # of a file of weights, and of a tensor more
CAPTIONS_AT_ONCE = 64  # that go to the engine; it takes as many of them together as fill its kernels
# Fields of a config that no state depends on.
_NO_SETTINGS = ("model_type", "max_tokens", "pad_token_id", "weights_digest")


class TextEncoder(EngineModel):
    """A frozen text encoder: T5 (v1.1, Flan, the original, mT5, umT5), BERT-like ones (MiniLM) or CLIP's text model.

    `TextEncoder.from_pretrained` loads one; from arrays:

    Parameters
    ----------
    config
        A dict as in `config.json` (missing keys have their defaults) or a `TextEncoderConfig`.
    weights
        A dict of arrays with the names and shapes of transformers' checkpoints, any float type; or int8 rows beside their
        scales. An encoder made so has no tokenizer: it takes token numbers.
    dtype
        What the model computes in: "float32", "bfloat16", "int8" or "int4"; see `from_pretrained`.
    threads
        The most threads that a call uses; None for all that the process may use.

    Raises
    ------
    ConfigError, WeightsError
        A config value that does not fit; tensors that are missing, too many, misshapen or not finite.

    Notes
    -----
    Captions are not padded: each costs what its own tokens cost, and its states do not depend on which others come with it, to
    the bit. The input of T5's `wo` has outliers of several hundred times the typical number: int8 models add these apart, in
    float32, and int4 models keep `wo` in bfloat16.
    Sources: T5 (arXiv 1910.10683), BERT (1810.04805), CLIP (2103.00020).

    Examples
    --------
    >>> encoder = TextEncoder.from_pretrained("minilm", dtype="int8")  # doctest: +SKIP
    >>> text, lengths = encoder(["a red apple", "two dogs"])  # doctest: +SKIP
    >>> text.shape, lengths  # doctest: +SKIP
    ((2, 5, 384), array([5, 4], dtype=int32))
    """

    model_type: ClassVar[str] = "text_encoder"
    config_class = TextEncoderConfig

    def __init__(self, config: Any, weights: Mapping[str, Any], dtype: str = "float32", threads: int | None = None) -> None:
        self._set_up(self._as_config(config), dtype, threads, "both")
        self._describe("text_encoder", CaptionTokenizer({}, "this encoder, made of arrays,"), True)
        self._fill(user_tensors(weights), "weights", False)

    @property
    def config(self) -> TextEncoderConfig:
        """The frozen config."""
        config: TextEncoderConfig = self._config
        return config

    @classmethod
    def from_pretrained(
        cls,
        path: str | os.PathLike[str],
        dtype: str = "float32",
        threads: int | None = None,
        *,
        end_token: bool = True,
        progress: bool = False,
    ) -> Self:
        """Load an encoder.

        Parameters
        ----------
        path
            The name of a bundled encoder ("minilm") or a folder: our own, made by `save_pretrained` or `textok convert`; one of
            Hugging Face with a T5, mT5, umT5, BERT or CLIP in it (`config.json` beside safetensors or `.bin` files, whole or in
            shards; of an encoder-decoder only the encoder is read); or one of open_clip.
        dtype
            What the model computes in: "float32", "bfloat16", "int8" or "int4", whatever the file holds; the table
            of tokens is kept in it too.
        threads
            The most threads that a call of this model uses; None for all that the process may use.
        end_token
            Whether captions carry the tokenizer's special tokens (T5's </s>; [CLS] and [SEP]; CLIP's start and end), as these
            models were trained.
        progress
            Whether to show a bar over the tensors.

        Raises
        ------
        ConfigError, WeightsError
            Files that are missing or broken, of no known encoder, or tensors that are not those of the config; says which and
            how.
        """
        folder = find_model(path)
        return cls._from_source(read_folder(folder), os.fspath(path), dtype, threads, end_token, progress)

    @classmethod
    def _from_source(
        cls,
        source: EncoderFolder,
        name: str,
        dtype: str,
        threads: int | None = None,
        end_token: bool = True,
        progress: bool = False,
    ) -> Self:
        """An encoder of what `encoder_files` found; the others as in `from_pretrained`."""
        model = cls.__new__(cls)
        model._set_up(source.config, dtype, threads, "both")
        if not isinstance(end_token, bool):
            raise TypeError(f"end_token: expected True or False, got {type(end_token).__name__} {end_token!r}")
        model._describe(name, CaptionTokenizer(source.tokenizer, str(source.path)), end_token)
        model._fill(source.tensors, str(source.path), progress)
        return model

    def _describe(self, name: str, tokenizer: CaptionTokenizer, end_token: bool) -> None:
        self._name, self._tokenizer, self._end_token = name, tokenizer, end_token

    def _fill(self, tensors: Mapping[str, Tensor], where: str, progress: bool) -> None:
        names = layouts.file_table(self._config)
        with progress_bar(progress, len(names), "tensor") as bar:
            engine = EngineTensors(self._config, tensors, where, bar.update)
            self._load(engine)  # type: ignore[arg-type]
        if not self._config.weights_digest:
            self._config = self.config_class.from_dict(self._config.to_dict() | {"weights_digest": engine.digest()})

    @classmethod
    def _from_seed(cls, config: Any, seed: int, dtype: str, threads: int | None, side: str = "both") -> Self:
        config = cls._as_config(config)
        table = layouts.file_table(config)
        model = cls.__new__(cls)
        model._set_up(config, dtype, threads, side)
        model._describe("random weights", CaptionTokenizer({}, "this encoder, of random weights,"), True)
        model._fill(random_tensors(table, arrays.whole(seed, "seed", 0, 2**128 - 1)), "random weights", False)
        return model

    # --- Calls ----------------------------------------------------------------------------------------------------------------

    def __call__(
        self,
        captions: str | Sequence[str],
        max_tokens: int | None = None,
        pad_to: int | None = None,
        *,
        pad_token: int | None = None,
        threads: int | None = None,
        progress: bool = False,
    ) -> tuple[F32, I32]:
        """States of captions.

        Parameters
        ----------
        captions
            Strings, or one string. Longer ones are cut to `max_tokens`, special tokens included.
        max_tokens
            The most tokens of a caption; None for the encoder's own, `config.max_tokens`.
        pad_to
            Fill every caption up with the padding token to so many, and compute these places too: for users of CLIP that take
            all 77 states. CLIP's mask lets no token see what comes after it; in other families no token looks at the padding,
            as with transformers' attention mask.
        pad_token
            The number to fill up with where `pad_to` says so; None for the tokenizer's own. open_clip fills up with 0, whatever
            the vocabulary.
        threads, progress
            The most threads of this call; whether to show a bar over captions.

        Returns
        -------
        text
            float32 [B,t,Dt], t the longest caption's tokens (or `pad_to`), zeros behind each caption's end.
        lengths
            int32 [B], tokens of each caption without padding.

        Raises
        ------
        ValueError, TypeError
            An argument that does not fit; says what came and what was expected.
        ConfigError
            An encoder without the files of a tokenizer, see `encode_ids`.
        ModuleNotFoundError
            The `tokenizers` library, extra `[text]`, is not installed.
        """
        ids = self.tokenize(captions, max_tokens)
        return self.encode_ids(ids, pad_to, pad_token=pad_token, threads=threads, progress=progress)

    def tokenize(self, captions: str | Sequence[str], max_tokens: int | None = None) -> list[list[int]]:
        """Token numbers of captions, a list each, as transformers gives them; see `__call__`."""
        texts: Any = [captions] if isinstance(captions, str) else caption_list(captions)
        if not isinstance(texts, Sequence) and not isinstance(texts, np.ndarray):
            raise TypeError(f"captions: expected a string or a list of strings, got {type(captions).__name__}")
        for place, text in enumerate(texts):
            if not isinstance(text, str):
                raise TypeError(f"captions[{place}]: expected a string, got {type(text).__name__} {text!r}")
            if any(0xD800 <= ord(letter) <= 0xDFFF for letter in text):
                raise ValueError(f"captions[{place}]: expected text that has a form in UTF-8, got half of a surrogate pair")
        most = self._config.max_positions or arrays.MAX_BATCH
        limit = self._config.max_tokens if max_tokens is None else arrays.whole(max_tokens, "max_tokens", 1, most)
        ids = self._tokenizer(list(texts), limit, self._end_token)
        for place, row in enumerate(ids):
            if not row:
                raise ValueError(
                    f"captions[{place}]: expected one token or more, got none for {texts[place]!r}; keep the end token"
                )
        return ids

    def encode_ids(
        self,
        ids: Sequence[Sequence[int]],
        pad_to: int | None = None,
        *,
        pad_token: int | None = None,
        threads: int | None = None,
        progress: bool = False,
    ) -> tuple[F32, I32]:
        """The same from token numbers: a list (or array of integers) each caption, special tokens included.

        Examples
        --------
        >>> config = {"family": "t5", "vocab_size": 50, "hidden_size": 32, "depth": 1, "num_heads": 2, "mlp_size": 64}
        >>> text, lengths = TextEncoder.from_config(config).encode_ids([[7, 3, 1], [9, 1]])
        >>> text.shape, lengths.tolist()
        ((2, 3, 32), [3, 2])
        """
        rows, lengths, counts = self._rows(ids, pad_to, pad_token)
        text = np.zeros((len(rows), int(counts.max(initial=0)), self._config.hidden_size), np.float32)
        self._run(rows, lengths, counts, None, text, None, threads, progress)
        return text, lengths

    def pooled(
        self,
        captions: str | Sequence[str],
        max_tokens: int | None = None,
        *,
        threads: int | None = None,
        progress: bool = False,
    ) -> F32:
        """CLIP's pooled vectors of captions, float32 [B,P]: the state at the end token, through `text_projection`.

        A ValueError for encoders of other families, which have none.

        Examples
        --------
        >>> TextEncoder.from_pretrained("clip-vit-base-patch32").pooled("a red apple").shape  # doctest: +SKIP
        (1, 512)
        """
        self._check_pooled()
        return self.pooled_ids(self.tokenize(captions, max_tokens), threads=threads, progress=progress)

    def pooled_ids(self, ids: Sequence[Sequence[int]], *, threads: int | None = None, progress: bool = False) -> F32:
        """The same from token numbers."""
        self._check_pooled()
        rows, lengths, counts = self._rows(ids, None, None)
        places = np.asarray([self._end_place(row, place) for place, row in enumerate(rows)], np.int32)
        result = np.empty((len(rows), self._config.pooled_dim), np.float32)
        self._run(rows, lengths, counts, places, None, result, threads, progress)
        return result

    def _check_pooled(self) -> None:
        if self._config.family != "clip":
            raise ValueError(
                f"pooled: expected a CLIP, got a {self._config.family}, which has no pooled vector; take the states of __call__"
            )

    def _end_place(self, row: I32, place: int) -> int:
        end = self._config.end_token_id
        if end is None:
            return int(row.argmax())
        found = np.flatnonzero(row == end)
        if not len(found):
            raise ValueError(f"ids[{place}]: expected the end token {end} in it, whose state is pooled")
        return int(found[0])

    def _rows(self, ids: Any, pad_to: int | None, pad_token: int | None) -> tuple[list[I32], I32, I32]:
        """Checked rows, filled up where asked for; how many tokens each has, without and with padding."""
        if isinstance(ids, str | bytes) or not isinstance(ids, Sequence | np.ndarray):
            raise TypeError(f"ids: expected a list of token numbers for each caption, got {type(ids).__name__}")
        most, last = self._config.max_positions or arrays.MAX_BATCH, self._config.vocab_size - 1
        rows = []
        for place, row in enumerate(ids):
            if isinstance(row, Integral) or (isinstance(row, np.ndarray) and row.ndim == 0):
                raise ValueError(
                    "ids: expected a list of token numbers for each caption, got numbers; pass [ids] for one caption"
                )
            rows.append(arrays.integers(row, f"ids[{place}]", None, 0, last, "token numbers"))
            if not 1 <= len(rows[-1]) <= most:
                raise ValueError(f"ids[{place}]: expected 1 to {most} tokens, got {len(rows[-1])}")
        lengths = np.asarray([len(row) for row in rows], np.int32)
        if pad_to is None:
            if pad_token is not None:
                raise ValueError("pad_token: expected pad_to beside it, how many tokens to fill captions up to; got None")
            return rows, lengths, lengths
        size = arrays.whole(pad_to, "pad_to", max(1, int(lengths.max(initial=0))), most)
        if pad_token is None:
            fill = self._tokenizer.pad_id(self._config.pad_token_id)
        else:
            fill = arrays.whole(pad_token, "pad_token", 0, last)
        padded = [np.concatenate([row, np.full(size - len(row), fill, np.int32)]) for row in rows]
        return padded, lengths, np.full(len(rows), size, np.int32)

    def _run(
        self,
        rows: list[I32],
        lengths: I32,
        counts: I32,
        places: I32 | None,
        text: F32 | None,
        pooled: F32 | None,
        threads: Any,
        progress: bool,
    ) -> None:
        number = self._call_threads(threads)
        keys = counts if self._config.family == "clip" else lengths  # CLIP's mask looks after padding
        with progress_bar(progress, len(rows), "caption") as bar:
            for first in range(0, len(rows), CAPTIONS_AT_ONCE):
                part = slice(first, first + CAPTIONS_AT_ONCE)
                self._model.encode_text(
                    np.concatenate(rows[part]),
                    counts[part],
                    keys[part],
                    None if places is None else places[part],
                    None if text is None else text[part],
                    None if pooled is None else pooled[part],
                    number,
                )
                bar.update(len(rows[part]))

    # --- What it is -----------------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """As it was asked for."""
        return self._name

    @property
    def text_dim(self) -> int:
        """Width Dt of the states."""
        return self.config.hidden_size

    @property
    def max_tokens(self) -> int:
        """The most tokens of a caption where a call does not say."""
        return self.config.max_tokens

    @property
    def end_token(self) -> bool:
        """Whether captions carry the tokenizer's special tokens."""
        return self._end_token

    @property
    def identity(self) -> str:
        """What its states depend on: a digest of the weights as they were published, the vocabulary and the settings.

        Equal for any file that holds these weights, converted ones too, and for any dtype that is computed in.
        """
        settings = {name: value for name, value in self._config.to_dict().items() if name not in _NO_SETTINGS}
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        digest.update(self._config.weights_digest.encode())
        digest.update(self._tokenizer.digest())
        return digest.hexdigest()[:32]

    def weights(self) -> dict[str, NDArray[Any]]:
        """Copies of all tensors, under the names that transformers gives them, as the model holds them; see
        `EngineModel.weights`."""
        return layouts.split(self._config, super().weights())

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write `config.json`, the tokenizer's files and `model.safetensors` to `folder`, made where missing; of more than 2
        GiB, parts of it and their index, so that the copy that is written never takes more memory than that.
        """
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        for name, content in self._tokenizer.files.items():
            with files.replacing(target / name) as temporary:
                temporary.write_bytes(content)
        places: dict[str, str] = {}
        for number, tensors in enumerate(self._shards(), 1):
            name = f"model-{number:05}.safetensors"
            write_tensors(target / name, tensors)
            places |= dict.fromkeys(tensors, name)
        if len(set(places.values())) == 1:
            (target / name).replace(target / WEIGHTS_FILE)
            (target / INDEX_FILE).unlink(missing_ok=True)
        else:
            files.write_json(target / INDEX_FILE, {"metadata": {}, "weight_map": places})
            (target / WEIGHTS_FILE).unlink(missing_ok=True)
        files.write_json(target / CONFIG_FILE, self._config.to_dict())

    def _shards(self) -> Iterator[dict[str, NDArray[Any]]]:
        """All tensors as files have them, so many at a time that a copy of them may be held."""
        shard: dict[str, NDArray[Any]] = {}
        for index in range(len(_core.weight_table(self.model_type, self._config.to_dict()))):
            shard |= layouts.split(self._config, from_engine(self._model.weights(index)))
            if sum(tensor.nbytes for tensor in shard.values()) > SHARD_BYTES:
                yield shard
                shard = {}
        if shard:
            yield shard

    def memory_plan(self, batch: int, tokens: int | None = None) -> dict[str, int]:
        """Bytes that a call on `batch` captions of `tokens` tokens (None: of `max_tokens`) takes beside its arguments and its
        result.

        Returns a dict: "weights", held as long as the model; "workspace", held during a call; "total" of the two.
        """
        captions = min(arrays.whole(batch, "batch", 1, arrays.MAX_BATCH), CAPTIONS_AT_ONCE)
        most = self._config.max_positions or arrays.MAX_BATCH
        plan = self._model.memory_plan(captions, self.max_tokens if tokens is None else arrays.whole(tokens, "tokens", 1, most))
        return {**plan, "total": plan["weights"] + plan["workspace"]}

    def __reduce__(self) -> Any:
        return _restored, (
            self._config,
            self.weights(),
            self.dtype,
            self.threads,
            self._name,
            self._tokenizer.files,
            self._end_token,
        )

    def __repr__(self) -> str:
        c = self._config
        return (
            f"TextEncoder({self._name}: {c.family}, {c.depth} x {c.hidden_size}, {c.num_heads} heads; {c.vocab_size} "
            f"token numbers, up to {c.max_tokens} a caption; " + self._tail()
        )


def _restored(
    config: TextEncoderConfig,
    weights: Mapping[str, Any],
    dtype: str,
    threads: int | None,
    name: str,
    tokenizer: Mapping[str, bytes],
    end_token: bool,
) -> TextEncoder:
    """A pickled encoder."""
    model = TextEncoder(config, weights, dtype, threads)
    model._describe(name, CaptionTokenizer(tokenizer, name), end_token)
    return model
