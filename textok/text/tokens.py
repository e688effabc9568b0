"""Captions to token numbers, by the `tokenizers` library (`[text]`): from `tokenizer.json`, or from the files that came before
it."""

import hashlib
import struct
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ..errors import ConfigError, shown
from ..files import parse_object

# What a tokenizer may be made of; the first of VOCABULARIES that is there counts, the others say what it leaves open.
VOCABULARIES = ("tokenizer.json", "spiece.model", "vocab.txt", "vocab.json")
# What their classes in transformers fill up with where the settings do not say.
_PADDING = {"spiece.model": "<pad>", "vocab.txt": "[PAD]", "vocab.json": "<|endoftext|>"}
MOST_SENTINELS = 10_000  # T5 has 100
_SETTINGS = ("special_tokens_map.json", "tokenizer_config.json")


def needed_files(there: Callable[[str], bool]) -> list[str]:
    """Names of the files that a tokenizer is made of, of those that are there."""
    kind = next(filter(there, VOCABULARIES), None)
    names = [] if kind is None else [kind, *(["merges.txt"] if kind == "vocab.json" else []), *_SETTINGS]
    return [name for name in names if there(name)]


class CaptionTokenizer:
    """The tokenizer of an encoder's folder, made when it is first needed; may be used from several threads.

    Parameters
    ----------
    files
        Its files, by name.
    """

    def __init__(self, files: Mapping[str, bytes], where: str) -> None:
        self.files = dict(files)
        self._where = where
        self._lock = threading.Lock()
        self._made: Any = None

    def __call__(self, captions: Sequence[str], max_tokens: int, special: bool = True) -> list[list[int]]:
        """Token numbers of each caption, at most so many, with the special tokens before and after it or without."""
        tokenizer = self._tokenizer()
        room = max_tokens - (tokenizer.num_special_tokens_to_add(False) if special else 0)
        if room < 0:
            raise ValueError(f"max_tokens: expected {max_tokens - room} or more, room for the special tokens, got {max_tokens}")
        result = []
        for caption in captions:  # one by one: the library's own threads would ask nobody how many there may be
            encoding = tokenizer.encode(caption, add_special_tokens=False)
            encoding.truncate(room)
            result.append((tokenizer.post_process(encoding, None, True) if special else encoding).ids)
        return result

    def digest(self) -> bytes:
        """Of what token numbers depend on."""
        kind = next((name for name in VOCABULARIES if name in self.files), None)
        names = {"vocab.json": ("vocab.json", "merges.txt"), "vocab.txt": ("vocab.txt", "tokenizer_config.json")}.get(
            str(kind), (kind,)
        )
        return hashlib.sha256(
            b"".join(hashlib.sha256(self.files[name]).digest() for name in names if name in self.files)
        ).digest()

    def pad_id(self, default: int) -> int:
        """The number of the padding token; `default` where the files do not name one."""
        if not self.files:
            return default
        name = _special(self._settings(), "pad_token", _PADDING.get(next(iter(self.files)), ""))
        number = self._tokenizer().token_to_id(name)
        return default if number is None else int(number)

    def _settings(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name in _SETTINGS:
            if name in self.files:
                found |= _object(self.files[name], f"{self._where}/{name}")
        return found

    def _tokenizer(self) -> Any:
        with self._lock:
            if self._made is None:
                self._made = self._make()
            return self._made

    def _make(self) -> Any:
        kind = next((name for name in VOCABULARIES if name in self.files), None)
        if kind is None:
            raise ConfigError(
                f"{self._where}: none of {', '.join(VOCABULARIES)} in it, so it takes no strings: pass token numbers to "
                "encode_ids"
            )
        try:
            import tokenizers
        except ModuleNotFoundError:
            raise ModuleNotFoundError(
                "captions as strings need the tokenizers library: pip install 'textok-cpu[text]'", name="tokenizers"
            ) from None
        try:
            if kind == "tokenizer.json":
                made = tokenizers.Tokenizer.from_str(self.files[kind].decode())
            else:
                made = {"spiece.model": _unigram, "vocab.txt": _wordpiece, "vocab.json": _byte_bpe}[kind](
                    self.files, self._settings()
                )
        except ConfigError:
            raise
        except Exception as problem:  # noqa: BLE001  the library raises plain Exceptions
            raise ConfigError(f"{self._where}/{kind}: not a tokenizer that can be read: {problem}") from None
        made.no_truncation()
        made.no_padding()
        return made


def _object(text: bytes, where: str) -> dict[str, Any]:
    try:
        return parse_object(text)
    except ValueError as problem:
        raise ConfigError(f"{where}: not a JSON file that textok can read: {problem}") from None


# --- SentencePiece's own file -------------------------------------------------------------------------------------------------


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Numbers and values of a message of Protocol Buffers: integers, four bytes or a run of bytes."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
            if shift > 63:
                raise ValueError("a number that does not end")

    while at < len(data):
        key = varint()
        kind = key & 7
        if kind == 0:
            yield key >> 3, varint()
            continue
        size = {1: 8, 5: 4}.get(kind) if kind != 2 else varint()
        if size is None or at + size > len(data):
            raise ValueError("a field that is none")
        yield key >> 3, data[at : at + size]
        at += size


def _unigram(files: Mapping[str, bytes], settings: Mapping[str, Any]) -> Any:
    """T5's vocabulary: pieces with scores, and the table that normalises characters."""
    from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors

    pieces: list[tuple[str, float]] = []
    kinds: list[int] = []
    unknown, table, unigram = 0, b"", True
    for number, value in _fields(files["spiece.model"]):
        if number == 1:
            piece = dict(_fields(value))
            pieces.append((piece[1].decode(), struct.unpack("<f", piece[2])[0] if 2 in piece else 0.0))
            kinds.append(piece.get(3, 1))
        elif number == 2:
            trainer = dict(_fields(value))
            unknown, unigram = trainer.get(40, 0), trainer.get(3, 1) == 1
        elif number == 3:
            table = dict(_fields(value)).get(2, b"")
    if not unigram or not pieces:
        raise ValueError("expected a unigram vocabulary")
    extra = settings.get("extra_ids", 100)
    if type(extra) is not int or not 0 <= extra <= MOST_SENTINELS:
        raise ValueError(f"extra_ids: expected 0 to {MOST_SENTINELS}, got {shown(extra)}")
    there = {piece for piece, _ in pieces}
    sentinels = [name for i in reversed(range(extra)) if (name := f"<extra_id_{i}>") not in there]
    end = _special(settings, "eos_token", "</s>")
    tokenizer = Tokenizer(models.Unigram([*pieces, *((name, 0.0) for name in sentinels)], unknown, byte_fallback=6 in kinds))
    if table:
        tokenizer.normalizer = normalizers.Precompiled(table)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=True)]
    )
    controls = [piece for (piece, _), kind in zip(pieces, kinds) if kind in (2, 3)]
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in (*controls, *sentinels)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=["$A", end], special_tokens=[(end, tokenizer.token_to_id(end))]
    )
    return tokenizer


# --- Vocabularies beside their settings ---------------------------------------------------------------------------------------


def _special(settings: Mapping[str, Any], name: str, default: str) -> str:
    value = settings.get(name)
    value = value.get("content") if isinstance(value, Mapping) else value
    return value if isinstance(value, str) else default


def _wordpiece(files: Mapping[str, bytes], settings: Mapping[str, Any]) -> Any:
    """BERT's vocabulary: a word a line."""
    from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors

    vocabulary = {line.rstrip("\r"): number for number, line in enumerate(files["vocab.txt"].decode().rstrip("\n").split("\n"))}
    unknown, first, last = (
        _special(settings, f"{name}_token", default) for name, default in (("unk", "[UNK]"), ("cls", "[CLS]"), ("sep", "[SEP]"))
    )
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=unknown))
    tokenizer.normalizer = normalizers.BertNormalizer(
        lowercase=bool(settings.get("do_lower_case", True)),
        strip_accents=settings.get("strip_accents"),
        handle_chinese_chars=bool(settings.get("tokenize_chinese_chars", True)),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    names = [unknown, first, last, _special(settings, "pad_token", "[PAD]"), _special(settings, "mask_token", "[MASK]")]
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names if name in vocabulary])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[first, "$A", last], special_tokens=[(name, vocabulary[name]) for name in (first, last)]
    )
    return tokenizer


def _byte_bpe(files: Mapping[str, bytes], settings: Mapping[str, Any]) -> Any:
    """CLIP's vocabulary and merges."""
    from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    vocabulary = _object(files["vocab.json"], "vocab.json")
    lines = files["merges.txt"].decode().split("\n")
    merges = [
        (left, right)
        for left, _, right in (line.partition(" ") for line in lines if line and not line.startswith("#version"))
        if right
    ]
    first, last = _special(settings, "bos_token", "<|startoftext|>"), _special(settings, "eos_token", "<|endoftext|>")
    tokenizer = Tokenizer(
        models.BPE(
            vocabulary,
            merges,
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
            unk_token=_special(settings, "unk_token", last),
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(words), behavior="removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in (first, last)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[first, "$A", last], special_tokens=[(name, vocabulary[name]) for name in (first, last)]
    )
    return tokenizer
