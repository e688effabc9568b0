"""turn captions into an embedding store

Reads captions from WebDataset shards, folders, .jsonl, .csv, .tsv and .txt files, or - (a line each from standard input),
embeds those that the store has not yet, and keeps the last hidden state of every token. A SOURCE that is itself a store is
merged in. Killed at any moment and run again it goes on; several may write one store at once and share the work. What they
leave out is named in STORE/skips.jsonl.

Encoders run in textok's own engine; --engine torch runs the same through PyTorch and transformers, as a cross-check (extra:
text-torch). They are: t5-v1_1-SIZE and flan-t5-SIZE (small, base, large, xl, xxl), t5-SIZE (small, base, large, 3b, 11b), any
owner/model of the hub, a folder; downloaded when they are not here, unless HF_HUB_OFFLINE is set. TexTok's paper has t5-v1_1-xl
at 256 and t5-v1_1-xxl at 512 pixels. minilm (the default) is a stand-in that needs no download; the bundled models are made for
it.

Captions for data that has none: --template name, short or long, or text with fields of the metadata in braces, which encode,
decode and sample then take as --field. Or have a vision-language model write them to files beside the pictures;
examples/README.md has a prompt.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..model import COMPUTE_TYPES
from .arguments import add_threads, fields_there, integer

EXAMPLE = """textok embed shards/ --field caption_long --out store
         textok embed photos/ --template "a photo of a {name}" --out store --captions my-pipeline/captions --per-class 4"""
EXTRA = "text"
ENGINES = ("textok", "torch")
DTYPES = ("float16", "bfloat16", "int8")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sources", nargs="*", metavar="SOURCE", help="where captions are; - is standard input")
    parser.add_argument("--out", type=Path, required=True, metavar="STORE", help="the store, made where it is missing")
    parser.add_argument("--encoder", default="minilm", help="see above (default: %(default)s)")
    parser.add_argument("--engine", choices=ENGINES, default="textok", help="what runs the encoder (default: %(default)s)")
    parser.add_argument("--field", help="the field of the metadata that is the caption (default: caption)")
    parser.add_argument("--template", help="make captions from the metadata: name, short, long, or text with {name}")
    parser.add_argument(
        "--max-tokens", type=integer(2, 1 << 16), default=128, help="longer captions are cut (default: %(default)s)"
    )
    parser.add_argument(
        "--pad-to",
        type=integer(1, 1 << 16),
        metavar="N",
        help="fill captions up to so many tokens and keep the states of the padding too, as TA-TiTok takes CLIP's 77",
    )
    parser.add_argument(
        "--pad-token",
        type=integer(0, 1 << 24),
        metavar="K",
        help="the token's number to fill up with (default: the tokenizer's own; open_clip, and so TA-TiTok, has 0)",
    )
    parser.add_argument("--no-end-token", action="store_true", help="without the end token that the encoder was trained with")
    parser.add_argument("--dtype", choices=DTYPES, default="float16", help="stored as (default: %(default)s)")
    parser.add_argument(
        "--compute",
        choices=COMPUTE_TYPES,
        default="float32",
        help="of the encoder; int8 with textok's engine (default: %(default)s)",
    )
    parser.add_argument("--batch-size", type=integer(1, 4096), default=32, help="captions at a time (default: %(default)s)")
    add_threads(parser)
    parser.add_argument(
        "--captions", type=Path, metavar="FOLDER", help="write a pipeline's captions folder too, from captions with a label"
    )
    parser.add_argument(
        "--per-class", type=integer(1, 1 << 30), metavar="N", help="take only the first N captions of each label"
    )
    parser.add_argument("--verify", action="store_true", help="read the whole store again afterwards and check it")


def run(args: argparse.Namespace) -> None:
    from ..text.embedding_store import STORE_FILE, EmbeddingStore

    if not args.sources and not args.verify:
        raise ValueError("expected a SOURCE to embed, or --verify to check a store; got neither")
    if args.field and args.template:
        raise ValueError("expected --field or --template, got both; a template makes captions from other fields")
    progress = sys.stderr.isatty()
    stores = [EmbeddingStore.open(source) for source in args.sources if (Path(source) / STORE_FILE).is_file()]
    sources = [source for source in args.sources if not (Path(source) / STORE_FILE).is_file()]
    chosen = _Chosen(args, sources)
    if sources:
        store = _embed(args, chosen, progress)
    elif stores:
        store = EmbeddingStore.create(args.out, stores[0].encoder, stores[0].text_dim, stores[0].dtype)
    else:
        store = EmbeddingStore.open(args.out)
    if stores:
        print(f"merged: {store.merge(*stores, progress=progress):,} captions of {sum(map(len, stores)):,} were new")
    if args.captions and (chosen.used or not chosen.skips):
        chosen.save(store)
    print(store)
    if args.verify:
        _verify(store, progress)
    chosen.check()


class _Chosen:
    """The captions to embed, as they are read; what is left out; and, for a captions folder, whose they are."""

    def __init__(self, args: argparse.Namespace, sources: list[str]) -> None:
        self.args, self.sources = args, sources
        self.skips: list[Any] = []
        self.records: dict[tuple[int, str], dict[str, Any]] = {}
        self._of_label: dict[int, int] = {}
        self.used = 0

    def __iter__(self) -> Iterator[str]:
        from ..data import Skip, read_samples
        from ..data.base import usable
        from ..data.texts import text_problem
        from ..text.templates import fill_template

        by_label = self.args.captions is not None or self.args.per_class is not None
        need = ("label",) if by_label else ()
        template, field = self.args.template, self.args.field or "caption"
        for sample in read_samples(self.sources, need=need, skips=self.skips, pictures=False):
            captions = [fill_template(template, sample.metadata)] if template else sample.captions_for(field)
            if not captions:
                self.skips.append(usable(sample, ("caption",), field))
            for caption in captions:
                if caption is None:
                    reason = (
                        f"the metadata has nothing for a field of the template; it has {', '.join(sample.metadata) or 'none'}"
                    )
                elif (problem := text_problem(caption)) is not None:
                    reason = f"its caption is {problem}"
                else:
                    self.used += 1
                    if not by_label or self._take(caption, sample):
                        yield caption
                    continue
                self.skips.append(Skip(sample.key, sample.source, reason, sample.position))

    def check(self) -> None:
        """A DataError where all was skipped."""
        from ..data.sources import fields_of
        from ..errors import DataError

        if self.skips and not self.used:
            sources = [source for source in self.sources if source != "-"]  # standard input is read once
            fields = fields_there(fields_of(sources) if sources else ())
            first, out = self.skips[0], self.args.captions
            lead = f"{out}: expected captions with labels to write, got none; " if out else ""
            raise DataError(
                f"{lead}nothing could be used, all {len(self.skips):,} samples are skipped; "
                f"the first: {first.source} {first.key}: {first.reason}{fields}"
            )

    def _take(self, caption: str, sample: Any) -> bool:
        label = sample.metadata["label"]
        if (label, caption) in self.records:
            return False
        if self.args.per_class is not None and self._of_label.get(label, 0) >= self.args.per_class:
            return False
        self._of_label[label] = self._of_label.get(label, 0) + 1
        names = {key: sample.metadata[key] for key in ("name", "class_name", "label_name") if key in sample.metadata}
        self.records[label, caption] = {"label": label, **names, "caption": caption, "key": sample.key}
        return True

    def save(self, store: Any) -> None:
        from ..text.caption_store import CaptionStore

        if not self.records:
            raise ValueError(f"{self.args.captions}: expected captions with labels to write, got none")
        captions = CaptionStore.from_embeddings(
            [self.records[key] for key in sorted(self.records, key=lambda key: key[0])], store
        )
        captions.save(self.args.captions)
        print(f"{self.args.captions}: {captions}")


def _encoder(args: argparse.Namespace) -> Any:
    """The encoder, as `EmbeddingStore.embed` takes it."""
    if args.pad_token is not None and args.pad_to is None:
        raise ValueError("expected --pad-to beside --pad-token, how many tokens to fill captions up to")
    if args.engine == "torch":
        if args.pad_to is not None:
            raise ValueError("--engine torch: expected no --pad-to; the states of padding are textok's engine's to make")
        from ..text.torch_encoders import load_encoder

        try:
            return load_encoder(
                args.encoder, args.max_tokens, end_token=not args.no_end_token, compute=args.compute, threads=args.threads
            )
        except ModuleNotFoundError as problem:
            raise ModuleNotFoundError(f"--engine torch needs more: {problem}; pip install 'textok-cpu[text-torch]'") from None
    from ..text.encoder import TextEncoder
    from ..text.encoder_places import encoder_folder
    from ..text.engine_embeddings import StoreEncoder

    folder = encoder_folder(args.encoder)
    encoder = TextEncoder.from_pretrained(folder, args.compute, args.threads, end_token=not args.no_end_token)
    made = StoreEncoder(encoder, args.max_tokens, args.encoder, args.pad_to, args.pad_token)
    made.tokenize(["a"])  # what it needs is missing now, or never
    return made


def _check_engine(store: Any, engine: str) -> None:
    """A store goes on with the engine that began it: their last bits differ, and so does what they know an encoder by."""
    made = "torch" if "model" in store.encoder else "textok" if "identity" in store.encoder else None
    if made not in (None, engine):
        raise ValueError(
            f"{store.path}: the store holds embeddings of {store.encoder.get('name', 'an encoder')} made by --engine {made}: "
            "go on with that, or give another folder; models take either"
        )


def _embed(args: argparse.Namespace, chosen: _Chosen, progress: bool) -> Any:
    from ..text.embedding_store import STORE_FILE, EmbeddingStore
    from ..text.encoder_places import STAND_IN

    if (args.out / STORE_FILE).is_file():
        _check_engine(EmbeddingStore.open(args.out), args.engine)
    encoder = _encoder(args)
    store = EmbeddingStore.create(args.out, encoder.described, encoder.text_dim, args.dtype)
    done = store.embed(chosen, encoder, args.batch_size, progress)
    if args.encoder == STAND_IN:
        print(f"{STAND_IN} stands in for T5, which TexTok's paper uses")
    rate = f", {done.embedded / done.seconds:.1f} a second" if done.embedded and done.seconds else ""
    print(
        f"{done.read:,} captions read: {done.embedded:,} embedded in {done.seconds:.1f} s{rate}; "
        f"{done.read - done.embedded:,} repeated or there already"
    )
    if done.truncated:
        print(f"{done.truncated:,} were longer than {args.max_tokens} tokens, up to {done.longest}, and are cut")
    if chosen.skips:
        path = _add_skips(args.out, chosen.skips)
        first = chosen.skips[0]
        print(f"{len(chosen.skips):,} skipped, named in {path}; the first: {first.source} {first.key}: {first.reason}")
    return store


def _add_skips(store: Path, skips: list[Any]) -> Path:
    """Names skips in the store's file, beside those of other runs; each once."""
    from ..files import write_text
    from ..text.segments import locked

    path = store / "skips.jsonl"
    with locked(store / "lock"):
        lines = path.read_text("utf-8").split("\n")[:-1] if path.exists() else []
        lines += [json.dumps(skip._asdict(), ensure_ascii=False) for skip in skips]
        write_text(path, "".join(f"{line}\n" for line in dict.fromkeys(lines)))
    return path


def _verify(store: Any, progress: bool) -> None:
    found = store.verify(progress)
    for problem in found.problems[:20]:
        print(problem)
    left = (
        f", {found.torn_bytes + found.unused_bytes:,} bytes left by writers that were killed"
        if found.torn_bytes + found.unused_bytes
        else ""
    )
    print(
        f"verified: {found.captions - len(found.problems):,} of {found.captions:,} records are good, "
        f"{found.repeated:,} repeated{left}"
    )
    if not found.ok:
        raise ValueError(
            f"{store.path}: {len(found.problems):,} damaged records; delete their segment's files and run "
            "again to make them anew"
        )
