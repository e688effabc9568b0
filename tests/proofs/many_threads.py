"""Threads that share models, each beginning elsewhere, then the same in children of fork: all get the same bits."""

import os
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
    finish("many_threads", began, failures, threads=THREADS, calls=THREADS * options.count, forks=len(children))


if __name__ == "__main__":
    main()
