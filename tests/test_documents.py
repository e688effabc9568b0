"""The documents' own rules: links lead somewhere, every public name, command, option and training field is told, lines and
titles are as promised."""

import dataclasses
import importlib.util
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
README = ROOT / "README.md"

pytestmark = pytest.mark.skipif(not DOCS.is_dir(), reason="the documents are not here")


def pages():
    """All Markdown that is kept in the repository; of a tree without git all that is no one's output."""
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode == 0 and listed.stdout:
        return [ROOT / name for name in listed.stdout.split("\n") if name and (ROOT / name).is_file()]
    return [
        path
        for path in ROOT.rglob("*.md")
        if not any(part.startswith(".") or part == "build" for part in path.relative_to(ROOT).parts)
    ]


def prose(text):
    """Without blocks of code."""
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(path):
    """What #fragments may name: headings as GitHub makes anchors of them."""
    headings = re.findall(r"^#+ (.+)$", prose(path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.fixture(scope="module")
def reference():
    spec = importlib.util.spec_from_file_location("make_reference", DOCS / "make_reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_links_lead_somewhere():
    lost = []
    for page in pages():
        for target in re.findall(r"\]\(([^)\s]+)\)", prose(page.read_text())):
            if re.match(r"[a-z]+:", target):
                continue
            name, _, fragment = target.partition("#")
            path = (page.parent / name).resolve() if name else page
            if not path.exists() or (fragment and path.suffix == ".md" and fragment not in anchors(path)):
                lost.append(f"{page.relative_to(ROOT)}: {target}")
    assert not lost


def test_readme_is_a_shop_window():
    lines = README.read_text().split("\n")
    assert len(lines) <= 125 and not [line for line in lines if len(line) > 120]


def test_start_has_one_block_of_two_commands():
    """.ci/run takes the second."""
    section = re.search(r"^## Start\n(.*?)^## ", README.read_text(), re.MULTILINE | re.DOTALL)[1]
    first = re.findall(r"^```\n(.*?)^```", section, re.MULTILINE | re.DOTALL)[0].strip().split("\n")
    assert len(first) == 2 and first[0].endswith("textok demo") and first[1].endswith("-m pytest -q")
    assert section.index("python3 -m venv") < section.index("pip install torch")


def test_made_pages_are_as_docstrings_and_parsers_say(reference):
    behind = [path.name for path, text in reference.pages().items() if path.read_text() != text]
    assert not behind, "run: python docs/make_reference.py"


def test_every_public_name_says_what_it_is(reference):
    silent = []
    for title in reference.PYTHON:
        module = importlib.import_module(title)
        for name in module.__all__:
            value = getattr(module, name)
            silent += [f"{title}.{name}"] * (callable(value) and not inspect.getdoc(value))
            for member, one in reference.members(value) if inspect.isclass(value) else ():
                call = one.__func__ if isinstance(one, classmethod | staticmethod) else one
                silent += [f"{title}.{name}.{member}"] * (not inspect.getdoc(call))
    assert not silent


def test_a_name_left_out_is_noticed(reference):
    text = reference.python_page()
    assert "### TexTok\n" in text and "#### TexTok.encode\n" in text and "### metrics.psnr\n" in text
    assert "| `--guidance-scale" in reference.shell_page()


def test_training_tells_every_field():
    pytest.importorskip("torch")
    from textok.train import config

    text = (DOCS / "training.md").read_text()
    sections = re.split(r"^### ", text, flags=re.MULTILINE)
    told = {
        name: next(part for part in sections if part.startswith(f"[{name}]"))
        for name in ("data", "run", "optim", "loss", "gan")
    }
    kinds = {"data": config.DataSettings, "run": config.RunSettings, "optim": config.OptimSettings}
    kinds |= {"loss": config.LossSettings, "gan": config.GanSettings}
    missing = [
        f"{name}.{f.name}" for name, kind in kinds.items() for f in dataclasses.fields(kind) if f"`{f.name}`" not in told[name]
    ]
    for name, kind in (("latents", config.LatentSettings), ("diffusion", config.DiffusionSettings)):
        missing += [f"{name}.{f.name}" for f in dataclasses.fields(kind) if f"`{name}.{f.name}`" not in text]
    assert not missing
    packaged = {path.stem for path in (ROOT / "textok" / "train" / "configs").glob("*.toml")}
    assert not [name for name in packaged if f"`{name}`" not in text]


def test_importers_are_told():
    from textok import importers

    text = (DOCS / "checkpoints.md").read_text()
    assert not [one.title for one in importers.LAYOUTS if one.title.split()[0] not in text]


def test_the_map_shows_every_room_and_no_other():
    drawn = re.search(r"^```\ntextok/\n(.*?)^```", (DOCS / "internals.md").read_text(), re.MULTILINE | re.DOTALL)[1]
    rooms = {path.parent.name for path in (ROOT / "textok").glob("*/__init__.py")} | {"models"}
    assert set(re.findall(r"^  (\w+)/", drawn, re.MULTILINE)) == rooms
    files = {path.name for path in (ROOT / "textok").glob("*.py")} - {"__init__.py", "__main__.py"}
    assert set(re.findall(r"\w+\.py", drawn)) == files


def test_model_cards_tell_what_was_scored():
    """Each bundled model has a card beside it, with the figures of scores.json."""
    models = ROOT / "textok" / "models"
    assert not [one.parent.name for one in models.glob("*/config.json") if not (one.parent / "README.md").is_file()]
    for name, score in json.loads((models / "emoji-heldout" / "scores.json").read_text()).items():
        if (models / name / "config.json").is_file():
            card = (models / name / "README.md").read_text()
            told = [f"{score['parameters'] / 1e6:.2f}M", f"{score['steps']:,} steps", f"{score['cpu_hours']:.2f} CPU hours"]
            told += [f"{score[key]:.2f} dB" for key in ("test_psnr", "train_psnr") if key in score]
            assert not [words for words in told if words not in card], name


def test_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "index.html").is_file() and (tmp_path / "repository" / "csrc" / "index.html").is_file()


def test_citation_is_of_this_version():
    yaml = pytest.importorskip("yaml")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == importlib.import_module("textok").__version__ and citation["license"] == "Apache-2.0"


def test_diary_is_newest_first_and_says_what_became_of_each():
    titles = re.findall(r"^## (\d{4}-\d\d-\d\d .*)$", (ROOT / "benchmarks" / "RESULTS.md").read_text(), re.MULTILINE)
    assert len(titles) > 20 and not [title for title in titles if not title.endswith((": kept", ": dropped"))]
    days = [title[:10] for title in titles]
    assert days == sorted(days, reverse=True)
