"""Encoding on a local Ray cluster of two workers, one of which is killed; the actor class beside plain calls."""

import io
import os
import signal
import threading
import time
from pathlib import Path

import api_models
import data_sets
import numpy as np
import pytest
from fresh_process import environment
from PIL import Image

import textok
from textok import data
from textok.errors import DataError

ray = pytest.importorskip("ray")
pytest.importorskip("ray.data")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")


@pytest.fixture(scope="module")
def cluster():
    os.environ["PYTHONPATH"] = environment()["PYTHONPATH"]
    os.environ["RAY_DATA_DISABLE_PROGRESS_BARS"] = "1"
    ray.init(num_cpus=2, object_store_memory=100 << 20, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return data_sets.models(tmp_path_factory.mktemp("ray"))


def holders(out):
    """Processes that hold a lock in a run's folder."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            links = [os.readlink(link) for link in (process / "fd").iterdir()]
        except OSError:
            continue
        if int(process.name) != os.getpid() and any(link.startswith(str(out)) and link.endswith(".lock") for link in links):
            yield int(process.name)


def test_encode_with_a_worker_killed(cluster, tmp_path):
    """The first worker that is caught at work is killed; Ray repeats its unit, and the bytes are one machine's."""
    shards = data_sets.make_shards(tmp_path / "shards", [150] * 4)
    data.encode("emoji-baseline", shards, tmp_path / "expected", shard_size=40)
    killed = []

    def kill():
        end = time.monotonic() + 60
        while not killed and time.monotonic() < end:
            for process in holders(tmp_path / "out"):
                if list((tmp_path / "out" / "parts").glob("*-*.json")):  # midway: something is done, and something is held
                    os.kill(process, signal.SIGKILL)
                    killed.append(process)
                    break
            time.sleep(0.01)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    done = data.encode("emoji-baseline", shards, tmp_path / "out", shard_size=40, ray="local")
    killer.join()
    assert killed and (done.samples, done.left) == (600, 0)
    assert data_sets.contents(tmp_path / "out") == data_sets.contents(tmp_path / "expected")
    assert data.encode("emoji-baseline", shards, tmp_path / "out", shard_size=40, ray="local").computed == 0


def test_map_batches(cluster, place):
    """As an actor in map_batches, on Ray's read-only blocks."""
    pictures = np.random.default_rng(0).integers(0, 256, (30, 16, 16, 3), np.uint8)
    rows = [{"image": picture, "caption": data_sets.caption(i), "id": i} for i, picture in enumerate(pictures)]
    dataset = ray.data.from_items(rows, override_num_blocks=3).map_batches(
        textok_encoder(),
        fn_constructor_kwargs={"model": str(place / "textok"), "embeddings": str(place / "captions"), "batch_size": 4},
        batch_size=8,
        num_cpus=1,
        concurrency=2,
    )
    found = sorted(dataset.take_all(), key=lambda row: row["id"])
    expected = api_models.textok(text_mask=True).encode(
        pictures, *api_models.captions().embeddings([data_sets.caption(i) for i in range(30)])
    )
    assert [set(row) for row in found] == [{"caption", "id", "latent"}] * 30
    assert np.array_equal(np.stack([row["latent"] for row in found]), expected)


def textok_encoder():
    from textok.ray import Encoder

    return Encoder


def test_threads_are_those_assigned(cluster, place):
    @ray.remote(num_cpus=1)
    def one(model):
        from textok.ray import Encoder

        return Encoder(model).threads

    assert ray.get(one.remote(str(place / "baseline"))) == 1


def test_encoder_without_a_cluster(place):
    """Bytes and arrays, read-only; the inputs stay as they are, and a second call gives the same."""
    encoder = textok_encoder()(place / "baseline", batch_size=3)
    pictures = [data_sets.picture(i) for i in range(7)]
    expected = api_models.textok(text_condition="none").encode(textok.preprocess(pictures, 16))
    column = np.empty(7, object)
    for i, picture in enumerate(pictures):
        picture.flags.writeable = False
        column[i] = data_sets.png(picture) if i % 2 else picture
    column.flags.writeable = False
    for _ in range(2):
        assert np.array_equal(encoder({"image": column, "n": np.arange(7)})["latent"], expected)
    buffer = io.BytesIO()
    Image.fromarray(pictures[0]).save(buffer, "PNG")
    column = np.array([buffer.getvalue(), b"broken"], object)
    with pytest.raises(DataError, match="row 1: no"):
        encoder({"image": column})
    lax = textok_encoder()(place / "baseline", strict=False)
    found = lax({"image": column, "n": np.array([5, 6])})
    assert found["n"].tolist() == [5] and found["latent"].shape == (1, 6, 5)
    assert lax({"image": column[1:], "n": np.array([6])})["latent"].shape == (0, 6, 5)
    with pytest.raises(DataError, match="image: expected a column"):
        encoder({"n": np.arange(2)})
