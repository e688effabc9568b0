"""An encoder without a network and processes that fill a store with it, for tests that kill them, run several or fill the disk.

python embedding_runs.py STORE FIRST LAST SECONDS_A_BATCH [BYTES]     embeds captions FIRST to LAST; files of at most BYTES
"""

import resource
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import ClassVar

import numpy as np
from fresh_process import environment


class HashEncoder:
    """A token a word, and random numbers of the word and its place; sleeps before each batch."""

    text_dim: ClassVar = 16
    max_tokens: ClassVar = 8
    identity: ClassVar = {"model": "hash", "max_tokens": max_tokens}

    def __init__(self, seconds=0.0):
        self.seconds = seconds
        self.ran = []  # captions' ids, in order

    def tokenize(self, captions):
        words = [caption.split() for caption in captions]
        return [[zlib.crc32(word.encode()) for word in row[: self.max_tokens]] for row in words], [len(row) for row in words]

    def run(self, ids):
        time.sleep(self.seconds)
        self.ran += ids
        return [
            np.stack(
                [
                    np.random.default_rng([place, word]).standard_normal(self.text_dim, np.float32)
                    for place, word in enumerate(row)
                ]
            )
            for row in ids
        ]


def captions_of(first, last):
    """Captions of 1 to 10 words, of which every tenth is there twice."""
    numbers = [number for number in range(first, last) for _ in range(1 + (number % 10 == 0))]
    return [f"caption{number}" + "".join(f" word{k}" for k in range(number * 7 % 10)) for number in numbers]


def start(store, first, last, seconds=0.0, limit=None):
    """A process that embeds; its last line of output is how many captions it embedded."""
    arguments = [str(store), str(first), str(last), str(seconds), *([str(limit)] if limit else [])]
    return subprocess.Popen(
        [sys.executable, __file__, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )


def finish(process, timeout=600):
    """How many captions the process embedded."""
    out, err = process.communicate(timeout=timeout)
    assert process.returncode == 0, err
    return int(out.split()[-1])


def contents(store):
    """All records with their entries, sorted: what must be equal between stores."""
    from textok.text.embedding_store import EmbeddingStore

    entries = EmbeddingStore.open(store)._entries
    return sorted(map(entries.checked, entries))


def kill_until(store, last, kills, seed, seconds=0.02, longest=0.3):
    """Starts a run over the same captions again and again and kills each at a random moment; returns how many were at work."""
    from textok.text.embedding_store import EmbeddingStore

    rng = np.random.default_rng(seed)
    working = 0
    for _ in range(kills):
        before = set(Path(store).glob("segments/*.claims"))  # of those that were killed
        process = start(store, 0, last, seconds)
        deadline = time.monotonic() + 20
        while (
            not set(Path(store).glob("segments/*.claims")) - before and time.monotonic() < deadline and process.poll() is None
        ):
            time.sleep(0.005)  # the kill is to hit the work, not the imports
        time.sleep(rng.uniform(0, longest))
        process.send_signal(signal.SIGKILL)
        working += process.wait() == -signal.SIGKILL
        process.communicate()
        found = EmbeddingStore.open(store).verify()
        assert found.ok and found.repeated == 0, found
    return working


def main(store, first, last, seconds, limit=None):
    from textok.text.embedding_store import EmbeddingStore

    if limit:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
    encoder = HashEncoder(float(seconds))
    opened = EmbeddingStore.create(store, encoder.identity, encoder.text_dim)
    print(opened.embed(captions_of(int(first), int(last)), encoder, batch_size=8).embedded)


if __name__ == "__main__":
    main(*sys.argv[1:])
