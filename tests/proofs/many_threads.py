"""Threads that share models, each beginning elsewhere, then the same in children of fork, in processes that were spawned and
get the models as pickles, and in workers of torch's DataLoader, where that is: all get the same bits.
"""

import multiprocessing
import os
import pickle
import threading
import time

import numpy as np
from common import Models, arguments, finish

THREADS = 16


def together(models: Models, turns: int) -> list[str]:
    """What went wrong while THREADS threads ran everything `turns` times."""
    wrong: list[str] = []
    start = threading.Barrier(THREADS)
    names = list(models.works)

    def work(index: int) -> None:
        start.wait()
        for turn in range(turns):
            name = names[(index + turn) % len(names)]
            try:
                if not np.array_equal(models.works[name](), models.expected[name]):
                    wrong.append(f"thread {index}: {name} gives other bits")
            except Exception as problem:
                wrong.append(f"thread {index}: {name}: {type(problem).__name__}: {problem}")

    threads = [threading.Thread(target=work, args=(index,)) for index in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return wrong


def spawned(pickled: bytes) -> list[str]:
    """The works that give other bits with the models of a pickle, in a process that began anew."""
    models = Models()
    vars(models).update(pickle.loads(pickled))
    return models.differing()


class Works:
    """A data set as torch's DataLoader takes it: a work's result an item."""

    def __init__(self, models: Models) -> None:
        self.models = models
        self.names = list(models.works)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.models.works[self.names[index]]()


def loaded(models: Models) -> tuple[int, list[str]]:
    """How many items came out of a DataLoader's workers, and the works that gave other bits there."""
    try:
        from torch.utils.data import DataLoader
    except ImportError:
        return 0, []
    works = Works(models)
    loader = DataLoader(works, batch_size=None, num_workers=2, multiprocessing_context="fork")
    items = list(zip(works.names, loader, strict=True))
    wrong = [name for name, item in items if not np.array_equal(np.asarray(item), models.expected[name])]
    return len(items), [f"a DataLoader's worker: {name} gives other bits" for name in wrong]


def main() -> None:
    options = arguments(__doc__, 30)
    began = time.monotonic()
    models = Models()
    failures = together(models, options.count)
    children = []
    for _ in range(2):
        child = os.fork()
        if child == 0:
            os._exit(1 if together(models, max(1, options.count // 10)) else 0)
        children.append(child)
    failures += models.differing()
    failures += [f"a child of fork ended with {status}" for child in children if (status := os.waitpid(child, 0)[1])]
    pickled = pickle.dumps({name: getattr(models, name) for name in ("textok", "dit", "dit_text", "encoder")})
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        failures += [f"spawned: {name} gives other bits" for names in pool.map(spawned, [pickled] * 2) for name in names]
    items, wrong = loaded(models)
    failures += wrong
    calls = THREADS * options.count
    finish("many_threads", began, failures, threads=THREADS, calls=calls, forks=len(children), spawned=2, of_loader=items)


if __name__ == "__main__":
    main()
