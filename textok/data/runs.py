"""`encode`, `decode` and `sample`: whole datasets, on the threads of this machine and on several processes or machines.

What a run may be killed in, and how it goes on, is `jobs`; what is done with a sample, `tasks`. This module divides the work
and shows how it goes.
"""

import importlib
import itertools
import multiprocessing
import os
import queue
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Self

from .. import _core, arrays
from ..errors import DataError
from ..noise import MAX_SEED
from ..pipeline import SAMPLING_KEYS, sampling_of
from ..sampling import Sampling
from ..text.embedding_store import EmbeddingStore
from ..text.open_embeddings import open_embeddings
from .jobs import BATCH_SIZE, SHARD_SIZE, Job, Summary, Unit
from .sources import open_sources, read_samples
from .tasks import OUTPUTS, DecodeTask, EncodeTask, SampleTask, TextFinder, Wishes, dit_config, folder_of, is_pipeline

Paths = Iterable[str | os.PathLike[str]] | str | os.PathLike[str]
Tell = Callable[[int, float], object]

_POLL_SECONDS = 0.2


def encode(
    model: str | os.PathLike[str],
    sources: Paths,
    out: str | os.PathLike[str],
    *,
    embeddings: str | os.PathLike[str] | None = None,
    field: str = "caption",
    dtype: str = "float32",
    format: str = "npz",
    flip: bool = False,
    batch_size: int = BATCH_SIZE,
    shard_size: int = SHARD_SIZE,
    share: tuple[int, int] = (0, 1),
    processes: int = 1,
    threads: int | None = None,
    ray: str | None = None,
    overwrite: bool = False,
    strict: bool = False,
    progress: bool = False,
) -> Summary:
    """Latents of all pictures, as shards.

    Parameters
    ----------
    model
        A TexTok's folder or a bundled name.
    sources
        What `open_sources` takes: shards, folders, tables, arrays, pictures.
    out
        The folder for shards latents-UUUUUU-PPPP.tar (KEY.npz or .safetensors with `latent` float32 [N,d], and KEY.json),
        index.json and skips.jsonl. Run again with the same arguments, an interrupted run goes on and ends with the same bytes.
    embeddings
        Of the captions, for a model whose tokenizer takes text: a store or a file, see `textok.open_embeddings`.
    field
        The metadata's field that is the caption.
    dtype
        What the model computes in.
    format
        "npz" or "safetensors", of a sample in the shards.
    flip
        Encode each picture's mirror image too, as `latent_flipped`, with the same caption.
    batch_size
        Pictures of a call of the engine; each thread has its own. No result depends on it.
    shard_size
        Samples of an output shard, and of the work that a kill can cost.
    share
        (i, n): do every n-th piece of the work from the i-th, i from 0; for several machines.
    processes, threads
        Processes, started afresh, that share the threads (all that this process may use).
    ray
        The address of a Ray cluster, or "local" for one of this machine, to do the work; see `textok.ray`.
    overwrite
        Remove what an earlier run wrote to the folder, and start anew.
    strict
        Stop at the first sample that has to be skipped.
    progress
        Whether to show a bar.

    Raises
    ------
    DataError
        The folder was made with other settings, or an input changed since: says what.

    Examples
    --------
    >>> encode("emoji-textok", "emoji", "latents", embeddings="captions")  # doctest: +SKIP
    Summary(folder=PosixPath('latents'), samples=5674, skipped=0, parts=3, computed=5674, left=0, seconds=8.1)
    """
    task = EncodeTask(os.fspath(model), _text(embeddings), field, dtype, format, flip)
    found = open_sources(sources)
    TextFinder(task.embeddings).check_positions(found)
    job = Job(Path(out), task, found, "shards", "latents", shard_size, batch_size, share, strict)
    if ray is not None:
        return importlib.import_module("textok.ray").run(job, ray, overwrite=overwrite, threads=threads, progress=progress)
    return run(job, processes=processes, threads=threads, overwrite=overwrite, progress=progress)


def decode(
    model: str | os.PathLike[str],
    latents: Paths,
    out: str | os.PathLike[str],
    *,
    embeddings: str | os.PathLike[str] | None = None,
    field: str = "caption",
    dtype: str = "float32",
    format: str = "png",
    batch_size: int = BATCH_SIZE,
    shard_size: int = SHARD_SIZE,
    share: tuple[int, int] = (0, 1),
    processes: int = 1,
    threads: int | None = None,
    overwrite: bool = False,
    strict: bool = False,
    progress: bool = False,
) -> Summary:
    """Pictures of latents.

    Parameters
    ----------
    latents
        Shards that `encode` or `sample` wrote, or .npy or .npz files [n,N,d].
    format
        "png": KEY.png in `out` (in a folder a shard, where there are several) with metadata.jsonl; "shards": KEY.png and
        KEY.json in pictures-UUUUUU-PPPP.tar; "npz": one samples.npz as ADM's, in the order of the latents, with labels where
        all have one.
    model, out, ..., progress
        As in `encode`; `embeddings` for a model whose detokenizer takes text.

    Examples
    --------
    >>> decode("emoji-textok", "latents", "pictures", embeddings="captions", format="npz")  # doctest: +SKIP
    """
    found = open_sources(latents)
    several = len(found) > 1 and format == "png"
    folders = [folder_of(source.name) for source in found]
    if several and len(set(folders)) < len(found):
        twice = next(name for name in folders if folders.count(name) > 1)
        raise DataError(f"latents: expected shards of names that differ, as their pictures' folders do, got two of {twice!r}")
    task = DecodeTask(os.fspath(model), _text(embeddings), field, dtype, arrays.choice(format, "format", OUTPUTS), several)
    TextFinder(task.embeddings).check_positions(found)
    job = Job(Path(out), task, found, format, "pictures", shard_size, batch_size, share, strict)
    return run(job, processes=processes, threads=threads, overwrite=overwrite, progress=progress)


def sample(
    model: str | os.PathLike[str],
    num: int,
    out: str | os.PathLike[str],
    *,
    labels: Sequence[int] | None = None,
    captions: Paths | None = None,
    embeddings: str | os.PathLike[str] | None = None,
    field: str = "caption",
    seed: int = 0,
    steps: int | None = None,
    solver: str | None = None,
    guidance_scale: float | None = None,
    guidance_interval: tuple[float, float] | None = None,
    dtype: str = "float32",
    format: str | None = None,
    batch_size: int = BATCH_SIZE,
    shard_size: int = SHARD_SIZE,
    share: tuple[int, int] = (0, 1),
    processes: int = 1,
    threads: int | None = None,
    overwrite: bool = False,
    strict: bool = False,
    progress: bool = False,
) -> Summary:
    """Pictures from noise, by the tens of thousands that metrics want.

    Parameters
    ----------
    model
        A pipeline (pictures) or a DiT alone (latents).
    num
        How many. Sample k depends on `seed`, k and its own label or caption only: asking for more later, or on other machines,
        gives the same first ones.
    labels
        Classes, taken in turn; None for all of the DiT's, from 0. For a class-conditional DiT.
    captions, embeddings
        For text-to-image: the embeddings, and what has the captions (any source), taken in turn; without `captions` all of the
        embeddings', in their order.
    steps, solver, guidance_scale, guidance_interval
        As in `DiT.sample`, or, of a pipeline, as in `Pipeline`.
    format
        "png", "shards" or "npz", as in `decode`; None for "png", or for latents "shards".
    out, ..., progress
        As in `encode`.

    Examples
    --------
    >>> sample("emoji", 50000, "samples", seed=1, steps=20, guidance_scale=2.0, format="npz")  # doctest: +SKIP
    """
    num = arrays.whole(num, "num", 1, arrays.MAX_BATCH)
    config = dit_config(os.fspath(model))
    asked = Sampling(steps, solver, guidance_scale=guidance_scale, guidance_interval=guidance_interval)
    settings = asked.over(sampling_of(os.fspath(model))).resolved(config)
    options = {name: value for name in SAMPLING_KEYS if (value := getattr(settings, name)) is not None}
    cycle = 0
    if config.condition == "class":
        if captions is not None or embeddings is not None:
            raise ValueError("captions, embeddings: expected none, this model takes classes")
        classes = range(config.num_classes) if labels is None else labels
        chosen = arrays.integers(list(classes), "labels", None, 0, config.num_classes, "classes and the null class").tolist()
        if not chosen:
            raise ValueError("labels: expected at least one class, got none")
        wishes = Wishes(num, labels=chosen)
    else:
        if labels is not None:
            raise ValueError("labels: expected none, this model takes text")
        if embeddings is None:
            raise DataError("embeddings: expected a store or file, this model takes text; `textok embed` makes one")
        wishes, cycle = _wished_captions(num, captions, embeddings, field)
    pipeline = is_pipeline(os.fspath(model))
    kind = format or ("png" if pipeline else "shards")
    arrays.choice(kind, "format", OUTPUTS if pipeline else ("shards",))
    task = SampleTask(
        os.fspath(model), arrays.whole(seed, "seed", 0, MAX_SEED), _text(embeddings), dtype, kind, tuple(options.items()), cycle
    )
    job = Job(Path(out), task, [wishes], kind, "samples" if pipeline else "latents", shard_size, batch_size, share, strict)
    return run(job, processes=processes, threads=threads, overwrite=overwrite, progress=progress)


def _text(path: str | os.PathLike[str] | None) -> str | None:
    return None if path is None else os.fspath(path)


def _wished_captions(num: int, captions: Paths | None, embeddings: Any, field: str) -> tuple[Wishes, int]:
    """What a text-to-image run is asked for, and after how many embeddings by position it starts over."""
    opened = open_embeddings(embeddings)
    if captions is not None:
        if getattr(opened, "by", "caption") != "caption":
            raise DataError(f"{embeddings}: expected embeddings that are found by caption, since captions are given")
        found = [
            sample.caption(field) for sample in itertools.islice(read_samples(captions, need=("caption",), field=field), num)
        ]
        if not found:
            raise DataError(f"captions: expected a caption in the field {field!r}, found none")
        return Wishes(num, captions=found), 0
    if len(opened) == 0:
        raise DataError(f"{embeddings}: expected embeddings, there are none in it")
    if isinstance(opened, EmbeddingStore):
        return Wishes(num, captions=list(itertools.islice(opened, num))), 0
    return Wishes(num), len(opened)


# --- On the threads of this machine -------------------------------------------------------------------------------------------


def run(
    job: Job, *, processes: int = 1, threads: int | None = None, overwrite: bool = False, progress: bool = False
) -> Summary:
    """Do a job's share on this machine; write the index if nothing is left."""
    count = arrays.whole(processes, "processes", 1, 1024)
    cores = arrays.thread_count(threads) or _core.get_num_threads()
    job.prepare(overwrite)
    units = job.pending()
    began = time.monotonic()
    with Bar(progress, units) as bar:
        if not units:
            computed = 0
        elif count == 1 or len(units) == 1:
            computed = job.work_through(units, cores, bar.tell)
        else:
            computed = _in_processes(job, units, min(count, len(units)), cores, bar.tell)
    return summary(job, computed, time.monotonic() - began)


def summary(job: Job, computed: int, seconds: float) -> Summary:
    samples, skipped, parts, left = job.conclude()
    return Summary(job.out, samples, skipped, parts, computed, left, seconds)


class Bar:
    """Images done, images a second and the time left, of work whose length only shows on the way; a context manager."""

    def __init__(self, progress: bool, units: Sequence[Unit]) -> None:
        self._weight, self._done, self._images = sum(unit.weight for unit in units), 0.0, 0
        self._exact = all(unit.stop is not None for unit in units)
        self._bar = None
        if progress:
            from tqdm.auto import tqdm

            self._bar = tqdm(total=self._weight if self._exact else None, unit="img", smoothing=0.1)

    def tell(self, images: int, weight: float) -> None:
        self._images += images
        self._done += weight
        if self._bar is not None:
            if not self._exact and self._done:
                self._bar.total = max(round(self._images * self._weight / self._done), self._images)
            self._bar.update(images if not self._exact else weight)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()


def _in_processes(job: Job, units: Sequence[Unit], count: int, threads: int, tell: Tell) -> int:
    """Processes that take units as they come to them; spawned, since a fork would copy locks that other threads hold."""
    context = multiprocessing.get_context("spawn")
    news = context.Queue()
    each = max(1, threads // count)
    workers = [context.Process(target=_serve, args=(job, units, each, news, os.getpid()), daemon=True) for _ in range(count)]
    for worker in workers:
        worker.start()
    computed, running = 0, count
    try:
        while running:
            try:
                what, value = news.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                dead = next((worker for worker in workers if worker.exitcode not in (None, 0)), None)
                if dead is not None:
                    raise DataError(
                        f"a worker process ended with status {dead.exitcode}; run again to go on where it stopped"
                    ) from None
                continue
            if what == "told":
                tell(*value)
            elif what == "done":
                computed, running = computed + value, running - 1
            else:
                raise value
    finally:
        for worker in workers:
            if running:
                worker.terminate()
            worker.join()
    return computed


def _serve(job: Job, units: Sequence[Unit], threads: int, news: Any, parent: int) -> None:
    def tell(images: int, weight: float) -> None:
        if os.getppid() != parent:  # nobody listens any more
            os._exit(1)
        news.put(("told", (images, weight)))

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it too, and ends us
    try:
        news.put(("done", job.work_through(units, threads, tell)))
    except Exception as problem:  # noqa: BLE001  it is raised in the parent
        news.put(
            ("failed", problem if isinstance(problem, OSError | ValueError | MemoryError) else RuntimeError(repr(problem)))
        )
