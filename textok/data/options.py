"""How a run over a whole data set goes: what `encode`, `decode` and `sample` take as keywords and hand on."""

from dataclasses import dataclass

from .. import arrays
from ..errors import shown

SHARD_SIZE = 2048  # samples of a part: what a kill can cost
BATCH_SIZE = 16  # the engine works on about a thousand rows at a time, so more would only take memory


@dataclass(frozen=True)
class RunOptions:
    """How a run goes; of all this only `shard_size` shows in the files, none of it in what a sample becomes.

    Attributes
    ----------
    batch_size
        Samples of a call of the engine; each thread has its own.
    shard_size
        Samples of a part: an output shard, and the work that a kill can cost.
    share
        (i, n): do every n-th piece of the work from the i-th, i from 0; for several machines.
    processes, threads
        Processes, started afresh, that share the threads (None: all that this process may use).
    overwrite
        Remove what an earlier run wrote to the folder, and start anew.
    strict
        Stop at the first sample that has to be skipped, with a DataError.
    progress
        Whether to show a bar.
    """

    batch_size: int = BATCH_SIZE
    shard_size: int = SHARD_SIZE
    share: tuple[int, int] = (0, 1)
    processes: int = 1
    threads: int | None = None
    overwrite: bool = False
    strict: bool = False
    progress: bool = False

    def __post_init__(self) -> None:
        arrays.whole(self.batch_size, "batch_size", 1, arrays.MAX_BATCH)
        arrays.whole(self.shard_size, "shard_size", 1, 1 << 30)
        arrays.whole(self.processes, "processes", 1, 1024)
        arrays.thread_count(self.threads)
        if not isinstance(self.share, tuple | list) or len(self.share) != 2:
            raise ValueError(f"share: expected (i, n) with i from 0 to n - 1, got {shown(self.share)}")
        count = arrays.whole(self.share[1], "share[1]", 1, 1 << 30)
        if not 0 <= arrays.whole(self.share[0], "share[0]", 0, 1 << 30) < count:
            raise ValueError(f"share: expected i/n with i from 0 to n - 1, got {self.share[0]}/{count}")
