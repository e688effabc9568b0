"""The embedding store under kill -9, several writers, a full disk and damaged files: nothing committed is lost or believed
wrongly.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from embedding_runs import HashEncoder, captions_of, contents, finish, kill_until, start
from fresh_process import environment

from textok.errors import DataError
from textok.text import segments
from textok.text.embedding_store import EmbeddingStore

LAST = 300
DISTINCT = LAST


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What an undisturbed run gives."""
    store = tmp_path_factory.mktemp("whole") / "store"
    assert finish(start(store, 0, LAST)) == DISTINCT
    return contents(store)


def filled(folder, captions, batch_size=8):
    encoder = HashEncoder()
    store = EmbeddingStore.create(folder, encoder.identity, encoder.text_dim)
    store.embed(captions, encoder, batch_size)
    return store


def test_killed_at_random_and_run_again(tmp_path, whole):
    assert kill_until(tmp_path / "store", LAST, kills=5, seed=1) >= 3
    done = len(EmbeddingStore.open(tmp_path / "store"))
    assert done > 0
    assert finish(start(tmp_path / "store", 0, LAST)) == DISTINCT - done
    assert contents(tmp_path / "store") == whole
    assert EmbeddingStore.open(tmp_path / "store").verify().ok
    assert not list((tmp_path / "store" / "segments").glob("*.claims"))


def test_two_writers_of_the_same_captions_share_the_work(tmp_path, whole):
    writers = [start(tmp_path / "store", 0, LAST, 0.01) for _ in range(2)]
    embedded = [finish(writer) for writer in writers]
    assert sum(embedded) == DISTINCT and min(embedded) > 0
    found = EmbeddingStore.open(tmp_path / "store").verify()
    assert found.ok and found.captions == DISTINCT and found.repeated == 0
    assert contents(tmp_path / "store") == whole


def test_two_writers_of_other_captions(tmp_path, whole):
    writers = [start(tmp_path / "store", 0, 200, 0.002), start(tmp_path / "store", 100, LAST, 0.002)]
    assert sum(map(finish, writers)) == DISTINCT
    assert contents(tmp_path / "store") == whole


def test_a_writer_takes_over_from_one_that_was_killed(tmp_path, whole):
    """The second waits for the batch that the first, asleep in it, has claimed; it does it itself when the first is gone."""
    first = start(tmp_path / "store", 0, 8, 60)
    deadline = time.monotonic() + 30
    while (
        not any(path.stat().st_size for path in (tmp_path / "store").glob("segments/*.claims")) and time.monotonic() < deadline
    ):
        time.sleep(0.01)
    second = start(tmp_path / "store", 0, LAST)
    with pytest.raises(subprocess.TimeoutExpired):
        second.wait(3)
    assert len(EmbeddingStore.open(tmp_path / "store")) == DISTINCT - 8  # all but what is claimed
    first.send_signal(signal.SIGKILL)
    assert finish(second) == DISTINCT
    first.communicate()
    assert contents(tmp_path / "store") == whole


def test_a_file_that_may_not_grow(tmp_path, whole):
    """As on a full disk: one error that names the file, what was committed is kept, and a second run completes it."""
    process = start(tmp_path / "store", 0, LAST, 0, limit=20_000)
    _, err = process.communicate(timeout=300)
    assert (
        process.returncode == 1 and "kept, and a second run goes on" in err.splitlines()[-1] and ".data" in err.splitlines()[-1]
    )
    store = EmbeddingStore.open(tmp_path / "store")
    found = store.verify()
    assert 0 < len(store) < DISTINCT and found.ok and found.torn_bytes == found.unused_bytes == 0
    before = len(store)
    assert finish(start(tmp_path / "store", 0, LAST)) == DISTINCT - before
    assert contents(tmp_path / "store") == whole


def test_a_full_disk(tmp_path, whole):
    disk = tmp_path / "disk"
    disk.mkdir()
    if (
        os.geteuid()
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], check=False, capture_output=True
        ).returncode
    ):
        pytest.skip("mounting a small disk needs rights that are not here")
    try:
        process = start(disk / "store", 0, LAST)
        _, err = process.communicate(timeout=300)
        assert process.returncode == 1 and "No space left on device" in err.splitlines()[-1]
        found = EmbeddingStore.open(disk / "store").verify()
        assert 0 < found.captions < DISTINCT and found.ok and found.torn_bytes == 0
        subprocess.run(["mount", "-o", "remount,size=4m", disk], check=True)
        assert finish(start(disk / "store", 0, LAST)) == DISTINCT - found.captions
        assert contents(disk / "store") == whole
    finally:
        subprocess.run(["umount", disk], check=True)


# --- Torn and damaged files ---------------------------------------------------------------------------------------------------


def only(store, kind):
    (path,) = (Path(store) / "segments").glob(f"*.{kind}")
    return path


def test_every_torn_tail(tmp_path):
    """Records that end anywhere: the whole commits before are there, and nothing of the last."""
    filled(tmp_path / "store", captions_of(0, 20), batch_size=4)
    records = only(tmp_path / "store", "records")
    data = records.read_bytes()
    size = segments.RECORD.itemsize
    assert len(data) == 20 * size
    for length in [*range(0, 9 * size, 7), 8 * size, 19 * size, 20 * size - 1, 20 * size]:
        records.write_bytes(data[:length])
        store = EmbeddingStore.open(tmp_path / "store")
        assert len(store) == length // size // 4 * 4 == len(list(store))
        assert store.verify().torn_bytes == length % (4 * size)
        records.write_bytes(data[:length].ljust(len(data), b"\0"))  # a tail of zeros, as a crash of the machine may leave it
        assert len(EmbeddingStore.open(tmp_path / "store")) == length // size // 4 * 4


def test_every_flipped_bit_of_a_record_is_seen(tmp_path):
    filled(tmp_path / "store", captions_of(0, 4), batch_size=4)
    records = only(tmp_path / "store", "records")
    data = bytearray(records.read_bytes())
    for bit in range(8 * segments.RECORD.itemsize):
        data[-1 - bit // 8] ^= 1 << bit % 8
        records.write_bytes(data)
        assert len(EmbeddingStore.open(tmp_path / "store")) == 0, bit
        data[-1 - bit // 8] ^= 1 << bit % 8


def test_a_writer_goes_on_after_a_torn_tail(tmp_path, whole):
    filled(tmp_path / "store", captions_of(0, LAST))
    records = only(tmp_path / "store", "records")
    os.truncate(records, records.stat().st_size // 2 + 5)
    store = filled(tmp_path / "store", captions_of(0, LAST))
    assert contents(tmp_path / "store") == whole and store.verify().unused_bytes > 0


def test_damaged_entries_are_named(tmp_path):
    store = filled(tmp_path / "store", captions_of(0, 20))
    data = only(tmp_path / "store", "data")
    good = data.read_bytes()
    for place in (0, len(good) // 2, len(good) - 1):
        changed = bytearray(good)
        changed[place] ^= 1
        data.write_bytes(changed)
        found = EmbeddingStore.open(store.path).verify()
        assert len(found.problems) == 1 and "checksum" in found.problems[0] and str(data) in found.problems[0]
    data.write_bytes(good[: len(good) // 2])  # a cut file is an error where it is read, never a crash
    cut = EmbeddingStore.open(store.path)
    with pytest.raises(DataError, match="the file was cut"):
        cut.embeddings(list(dict.fromkeys(captions_of(0, 20))))
    assert not cut.verify().ok


def test_a_data_file_that_is_cut_while_it_is_mapped(tmp_path):
    store = filled(tmp_path / "store", captions_of(0, 20))
    caption = captions_of(19, 20)
    store.embeddings(caption)
    os.truncate(only(store.path, "data"), 10)
    with pytest.raises(DataError, match="the file was cut"):
        store.embeddings(caption)


def test_what_another_user_owns_can_be_read():
    """Nothing is written, not even looked for a lock. As root, who may write anywhere, the reader becomes somebody else
    first.
    """
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        store = filled(Path(folder) / "store", captions_of(0, 20))
        before = {path: path.stat().st_mtime_ns for path in store.path.rglob("*")}
        for path in (store.path, *before):
            path.chmod(0o444 if path.is_file() else 0o555)
        script = (
            "import mmap, os, sys; from textok.text.embedding_store import EmbeddingStore; os.geteuid() == 0 and "
            "os.setuid(65534); "
            "s = EmbeddingStore.open(sys.argv[1]); text, lengths = s.embeddings(list(s)); "
            "print(len(s), s.verify().ok, len(text)); "
            "s.add(['x'], [[[0.0] * 16]])"
        )
        done = subprocess.run(
            [sys.executable, "-c", script, store.path],
            check=False,
            capture_output=True,
            text=True,
            env=environment(),
            timeout=300,
        )
        assert done.stdout.split() == ["20", "True", "20"], done.stderr
        assert "PermissionError" in done.stderr.splitlines()[-1]
        assert {path: path.stat().st_mtime_ns for path in store.path.rglob("*")} == before
        store.path.chmod(0o755)


# --- The table ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_table(monkeypatch):
    """A table from 50 records on, looked at 16 at a time."""
    monkeypatch.setattr(segments, "WORTH_A_TABLE", 50)
    monkeypatch.setattr(segments, "MOST_LOOSE", 100)
    monkeypatch.setattr(segments, "AT_ONCE", 16)


def test_with_a_table_all_is_as_without(tmp_path, whole, small_table):
    store = filled(tmp_path / "store", captions_of(0, LAST))
    table = tmp_path / "store" / "table"
    assert table.exists() and store._entries.index.loose <= 100 and contents(tmp_path / "store") == whole
    assert len(store) == DISTINCT == len(list(store)) == len(set(store)) and store.verify().ok
    for caption in captions_of(0, LAST):
        assert caption in store and f"not {caption}" not in store
    store.embed(captions_of(0, LAST + 20), encoder := HashEncoder(), 8)
    assert len(encoder.ran) == 20 and len(EmbeddingStore.open(tmp_path / "store")) == DISTINCT + 20


def test_tables_that_do_not_fit_are_not_believed(tmp_path, small_table):
    filled(tmp_path / "store", captions_of(0, LAST))
    table = tmp_path / "store" / "table"
    good = table.read_bytes()
    for bad in (b"", good[:7], good[:100], good[: len(good) // 2], b"\xff" * 64, good.replace(b'"slots": ', b'"slots": 9')):
        table.write_bytes(bad)
        assert len(EmbeddingStore.open(tmp_path / "store")) == DISTINCT, bad[:20]
    header = 8 + int.from_bytes(good[:8], "little")
    table.write_bytes(good[:header] + b"\x77" * (len(good) - header))
    with pytest.raises(DataError, match="'table' is damaged"):
        EmbeddingStore.open(tmp_path / "store").embeddings(captions_of(0, 3))
    table.write_bytes(good)
    for path in (tmp_path / "store" / "segments").iterdir():  # somebody deleted a damaged segment
        path.unlink()
    assert len(EmbeddingStore.open(tmp_path / "store")) == 0


def test_many_records_of_two_writers(tmp_path):
    """The hash table against a dict, with keys that are there twice, and in bounded memory."""
    rng = np.random.default_rng(0)
    count = 60_000
    keys = rng.integers(0, 2**63, (count, 2)).astype(np.uint64)
    keys[::400, 0] &= np.uint64(0x1F)  # probes of hundreds
    keys[1000:2000] = keys[:1000]
    folder = tmp_path / "segments"
    folder.mkdir()
    for name, part in (("a", keys[: count // 2]), ("b", keys[count // 2 :])):
        records = np.zeros(len(part), segments.RECORD)
        records["key"] = part
        records["check"] = segments.checks(records)
        (folder / f"{name}.records").write_bytes(records.tobytes())
        (folder / f"{name}.data").touch()
    wanted = {}
    for place, key in enumerate(map(tuple, keys.tolist())):
        wanted.setdefault(key, place)
    index = segments.Index(tmp_path)
    for _ in range(2):
        numbers, rows = segments.split(index.find(keys))
        np.testing.assert_array_equal(numbers * (count // 2) + rows, [wanted[key] for key in map(tuple, keys.tolist())])
        assert len(index) == len(wanted) == count - 1000
        assert not index.find(rng.integers(0, 2**63, (1000, 2)).astype(np.uint64)).any()
        index.write_table()
        assert index.loose == 0
