"""Calls of each kind, failing ones among them, again and again: how much the process grows, what malloc gave and did not get
back, and how many objects Python has."""

import ctypes
import gc
import os
import sys
import time
from pathlib import Path

from common import Models, arguments, finish

# At most, over all calls of a kind: of the process, of malloc, and blocks of Python's. A leak of a few bytes a call shows.
MOST = {"bytes of the process": 1 << 20, "bytes of malloc": 1024, "objects": 100}


class Mallinfo(ctypes.Structure):
    """glibc's, of what malloc holds."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    ]


def held() -> dict[str, int]:
    gc.collect()
    mallinfo = getattr(ctypes.CDLL(None), "mallinfo2", None)  # None: another libc
    given = 0
    if mallinfo is not None:
        mallinfo.restype = Mallinfo
        told = mallinfo()
        given = told.uordblks + told.hblkhd
    return {
        "bytes of the process": int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"),
        "bytes of malloc": given,
        "objects": sys.getallocatedblocks(),
    }


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
        before = held()
        for _ in range(each):
            work()
        for what, now in held().items():
            grown[what] = max(grown.get(what, 0), now - before[what])
            if now - before[what] > MOST[what]:
                failures.append(f"{name}: {each} calls left {now - before[what]} more {what}")
    finish("flat_memory", began, failures, calls=each * len(works), most_growth=grown)


if __name__ == "__main__":
    main()
