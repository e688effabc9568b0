"""Files that are written whole and durably, or not at all."""

import os

import pytest

from textok import files


@pytest.fixture
def synced(monkeypatch):
    """What is synced and renamed, in order: ("sync", the name that it has then) and ("rename", the new name)."""
    log, fsync, replace = [], os.fsync, os.replace

    def recording_fsync(handle):
        fsync(handle)
        log.append(("sync", os.path.basename(os.readlink(f"/proc/self/fd/{handle}"))))

    def recording_replace(source, target):
        replace(source, target)
        log.append(("rename", os.path.basename(target)))

    monkeypatch.setattr(os, "fsync", recording_fsync)
    monkeypatch.setattr(os, "replace", recording_replace)
    monkeypatch.setattr(os, "rename", recording_replace)
    return log


def is_durable(log, path):
    """The file is synced before it gets its name, and its folder afterwards."""
    kinds = [kind for kind, _ in log]
    return kinds == ["sync", "rename", "sync"] and log[0][1].startswith(f".{path.name}.") and log[2][1] == path.parent.name


@pytest.mark.parametrize("elsewhere", (False, True))
def test_files_are_durable(tmp_path, synced, elsewhere):
    folder, path = tmp_path / "work", tmp_path / "a.txt"
    folder.mkdir()
    path.write_text("old")
    files.write_text(path, "new\n", folder if elsewhere else None)
    assert path.read_bytes() == b"new\n" and is_durable(synced, path)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.txt", "work"]
    assert not is_durable(synced[1:], path) and not is_durable(synced[:2], path)


def test_what_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, {"a": 1})
    with pytest.raises(KeyError), files.replacing(path) as temporary:
        temporary.write_text("half")
        raise KeyError
    assert files.read_json(path) == {"a": 1} and os.listdir(tmp_path) == ["a.json"]


def test_the_first_to_write_wins(tmp_path, synced):
    path = tmp_path / "a.json"
    files.write_json(path, {"first": 1}, keep=True)
    assert [kind for kind, _ in synced] == ["sync", "sync"] and synced[1][1] == tmp_path.name
    files.write_json(path, {"second": 2}, keep=True)
    assert files.read_json(path) == {"first": 1} and os.listdir(tmp_path) == ["a.json"]


def test_what_a_killed_process_left_is_cleared(tmp_path):
    path = tmp_path / "a[1].json"
    for name in (".a[1].json.1a2b3c4d.part", ".a1.json.1a2b3c4d.part", "a[1].json"):
        (tmp_path / name).touch()
    files.clear_unfinished(path)
    assert sorted(os.listdir(tmp_path)) == [".a1.json.1a2b3c4d.part", "a[1].json"]


@pytest.mark.parametrize("system", ("linux", "macOS"))
def test_disk_is_taken_beforehand(tmp_path, monkeypatch, system):
    """Also where there is no posix_fallocate."""
    if system == "macOS":
        monkeypatch.delattr(os, "posix_fallocate")
    path = tmp_path / "a"
    path.write_bytes(b"head")
    with path.open("r+b") as file:
        files.take_disk(file, 4, 3 << 20)
    assert path.read_bytes() == b"head" + bytes((3 << 20) - 4)
    assert path.stat().st_blocks * 512 >= 3 << 20
