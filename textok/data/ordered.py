"""A map over an iterator by threads, in order and a bounded way ahead."""

import collections
import contextlib
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ordered_map(function: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[tuple[Item, Result]]:
    """(item, function(item)) in the order of `items`, computed by threads that are at most twice as many items ahead.

    The threads are daemons: Ctrl-C need not wait for a batch that nobody wants any more.
    """
    inbox: queue.SimpleQueue[tuple[Item, Future[Result]] | None] = queue.SimpleQueue()

    def serve() -> None:
        while (job := inbox.get()) is not None:
            item, future = job
            try:
                future.set_result(function(item))
            except BaseException as problem:  # noqa: BLE001  it is raised where the result is wanted
                future.set_exception(problem)

    for _ in range(threads):
        threading.Thread(target=serve, daemon=True).start()
    waiting: collections.deque[tuple[Item, Future[Result]]] = collections.deque()
    try:
        for item in items:
            waiting.append((item, Future()))
            inbox.put(waiting[-1])
            while len(waiting) > 2 * threads or (waiting and waiting[0][1].done()):
                done, future = waiting.popleft()
                yield done, future.result()
        while waiting:
            done, future = waiting.popleft()
            yield done, future.result()
    finally:
        with contextlib.suppress(queue.Empty):
            while True:
                inbox.get_nowait()
        for _ in range(threads):
            inbox.put(None)
