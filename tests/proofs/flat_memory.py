"""Thousands of calls of each kind, failing ones among them: how much the process grows."""

import os
import time
from pathlib import Path

from common import Models, arguments, finish

MOST_GROWTH = 1 << 20  # bytes: a leak of 100 bytes a call of ten thousand would show


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    options = arguments(__doc__, 10_000)
    began, failures, grown = time.monotonic(), [], {}
    models = Models()

    def failing() -> None:
        try:
            models.textok.encode(models.x)
            raise SystemExit("a call without its text came through")
        except ValueError:
            pass

    works = models.works | {"a call that fails": failing}
    each = max(1, options.count // len(works))
    for name, work in works.items():
        for _ in range(min(each, 200)):
            work()
        before = resident()
        for _ in range(each):
            work()
        grown[name] = resident() - before
        if grown[name] > MOST_GROWTH:
            failures.append(f"{name}: {each} calls made the process {grown[name]} bytes larger")
    finish("flat_memory", began, failures, calls=each * len(works), most_growth_bytes=max(grown.values()))


if __name__ == "__main__":
    main()
