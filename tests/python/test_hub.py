"""Models by hf://owner/name, against a server on this machine that speaks the hub's protocol, and misbehaves."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from fresh_process import environment
from hub_server import COMMIT, Hub
from test_convert import FOREIGN

from textok import DiT, TexTok, hub
from textok.errors import WeightsError

pytestmark = pytest.mark.long
pytest.importorskip("huggingface_hub")


def files_of(folder, under=""):
    return {f"{under}{path.relative_to(folder)}": path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The hub with a SiT, a pipeline of diffusers' layout, a model of textok in a folder, and shards."""
    own = tmp_path_factory.mktemp("own")
    side = {"hidden_size": 16, "depth": 1, "num_heads": 2}
    sizes = {"image_size": 16, "num_latent_tokens": 4, "latent_dim": 4, "text_condition": "none"}
    TexTok.from_config(sizes | {"tokenizer": side, "detokenizer": side}).save_pretrained(own)
    sit = {name: data for name, data in files_of(FOREIGN / "sit").items() if name != "io.npz"}
    transformer = files_of(FOREIGN / "diffusers_dit" / "transformer", "transformer/")
    index = json.dumps({"_class_name": "DiTPipeline", "transformer": ["diffusers", "DiTTransformer2DModel"]}).encode()
    other = {"README.md": b"# a page", "pictures/a.png": b"png" * 100, "vae/diffusion_pytorch_model.safetensors": b"\1" * 5000}
    repos = {
        "some/sit": sit | {"README.md": b"# a page"},
        "some/pipeline": transformer | other | {"model_index.json": index},
        "some/folders": files_of(own, "small/") | {"large/config.json": b"{}"},
    }
    server = Hub(repos)
    with server.running() as address:
        yield server, address


RUN = """
    import sys, warnings
    import textok
    from textok import importers
    from textok.errors import WeightsError
    try:
        print(repr(getattr(textok, {kind!r}).from_pretrained({name!r})))
    except WeightsError as problem:
        print("WeightsError:", problem)
"""


def run(served, home, name, kind="DiT", **variables):
    """What loading a name says, in a process of its own: huggingface_hub reads its environment when it is imported."""
    _, address = served
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    environ |= {"HF_HOME": str(home), "HF_ENDPOINT": address, "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1"}
    environ |= {
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "PYTHONPATH": environment()["PYTHONPATH"],
        "NO_PROXY": "127.0.0.1",
    } | variables
    code = textwrap.dedent(RUN).format(name=name, kind=kind)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environ, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


@pytest.fixture(autouse=True)
def good_mood(served):
    served[0].mood.clear()
    served[0].sent.clear()
    yield
    served[0].mood.clear()


def test_a_model_comes_once(served, tmp_path):
    """Only what it needs, of one commit; a second time from the cache, also without the hub."""
    server, _ = served
    expected = repr(DiT.from_pretrained(FOREIGN / "sit"))
    assert run(served, tmp_path, "hf://some/sit") == expected
    assert sorted(server.sent) == ["config.json", "meta.json", "model.safetensors"]
    server.sent.clear()
    assert run(served, tmp_path, "hf://some/sit@v1") == expected and not server.sent
    assert run(served, tmp_path, f"hf://some/sit@{COMMIT}") == expected and not server.sent
    asked = server.asked
    assert run(served, tmp_path, "hf://some/sit", HF_HUB_OFFLINE="1") == expected and server.asked == asked
    unreachable = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    assert run(served, tmp_path, "hf://some/sit", **unreachable) == expected


def test_pipelines_and_folders(served, tmp_path):
    """Of diffusers' pipeline the transformer alone; of a repository with several models the folder that is named."""
    server, _ = served
    assert run(served, tmp_path, "hf://some/pipeline") == repr(DiT.from_pretrained(FOREIGN / "diffusers_dit" / "transformer"))
    assert all(name == "model_index.json" or name.startswith("transformer/") for name in server.sent), server.sent
    server.sent.clear()
    assert run(served, tmp_path, "hf://some/folders/small", "TexTok").startswith("TexTok(16 px")
    assert all(name.startswith("small/") for name in server.sent), server.sent
    assert "no folder 'none' in some/folders" in run(served, tmp_path, "hf://some/folders/none")


@pytest.mark.parametrize(
    ("name", "message"),
    (
        ("hf://some/none", "the hub has no such model, or it is private and HF_TOKEN is not of a reader"),
        ("hf://some/sit@v7", "the hub has no such revision of it"),
        ("hf://some", "expected hf://owner/name"),
        ("hf://some/sit/../x", "expected hf://owner/name"),
        ("hf://", "expected hf://owner/name"),
    ),
)
def test_names_that_are_wrong(served, tmp_path, name, message):
    assert message in run(served, tmp_path, name)


@pytest.mark.parametrize(("status", "message"), ((401, ""), (404, ""), (429, "429: too many requests"), (503, "503")))
def test_refusals(served, tmp_path, status, message):
    """In a line, at once; nothing is left that a later run would take for a model."""
    server, _ = served
    server.mood["status"] = status
    said = run(served, tmp_path, "hf://some/sit")
    assert said.startswith("WeightsError: hf://some/sit: the hub") and message in said and len(said.splitlines()) == 1
    server.mood.clear()
    assert run(served, tmp_path, "hf://some/sit").startswith("DiT(")


@pytest.mark.parametrize("mood", ({"cut": True}, {"wrong": True}, {"slow": 5}), ids=str)
def test_nothing_half_written_is_used(served, tmp_path, mood):
    """A connection that ends in the middle, other bytes than the hub's hash is of, a hub that answers too late: an error,
    a cache without the file, and a good model when the hub is well again."""
    server, _ = served
    server.mood |= mood
    patience = {"HF_HUB_DOWNLOAD_TIMEOUT": "1", "HF_HUB_ETAG_TIMEOUT": "1"}
    said = run(served, tmp_path, "hf://some/sit", **patience)
    assert said.startswith("WeightsError: hf://some/sit: ") and len(said.splitlines()) == 1, said
    if "wrong" in mood:
        assert "another hash than the hub says; it was thrown away" in said
    offline = run(served, tmp_path, "hf://some/sit", HF_HUB_OFFLINE="1")
    assert offline.startswith("WeightsError"), offline
    server.mood.clear()
    assert run(served, tmp_path, "hf://some/sit") == repr(DiT.from_pretrained(FOREIGN / "sit"))


def test_offline_without_a_cache(served, tmp_path):
    said = run(served, tmp_path, "hf://some/sit", HF_HUB_OFFLINE="1")
    assert said == "WeightsError: hf://some/sit: not in the cache, and HF_HUB_OFFLINE forbids to ask the hub"
    said = run(served, tmp_path, "hf://some/sit", HF_ENDPOINT="http://127.0.0.1:9")
    assert said.startswith("WeightsError: hf://some/sit: not in the cache, and the hub at http://127.0.0.1:9 cannot be reached")


def test_plain_names_never_ask(served, tmp_path):
    """A name that is neither a folder nor bundled says how the hub would be asked, and does not."""
    asked = served[0].asked
    said = run(served, tmp_path, "some/sit")
    assert (
        "no such folder, and no bundled model of that name" in said
        and said.endswith("hf://some/sit")
        and served[0].asked == asked
    )


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(
        ModuleNotFoundError, match=r"hf://some/sit: names of the hub need huggingface_hub: pip install 'textok-cpu\[hub\]'"
    ):
        TexTok.from_pretrained("hf://some/sit")


def test_captions_come_whatever_their_size():
    download = hub._Download("hf://some/one", "some/one", None)
    download.sizes = {"captions/captions.jsonl": 1 << 30, "trainer_state.json": 1 << 30, "config.json": 100}
    assert [download._is_beside(name) for name in download.sizes] == [True, False, True]


def test_names():
    assert hub.is_hub_name("hf://a/b") and not hub.is_hub_name("a/b") and not hub.is_hub_name(Path("hf:/a/b"))
    for name in ("hf://a", "hf://a/b@", "hf://a/b//c", "hf://a b/c", "hf://a/b/./c"):
        with pytest.raises(WeightsError, match="expected hf://owner/name"):
            hub.fetch(name)
