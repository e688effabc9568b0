"""`textok pipeline`: a tokenizer and a generator of two projects in one folder, with names of classes."""

import argparse
import json
import shutil

import numerics
import numpy as np
import pytest
from test_convert import FOREIGN

import textok
from textok import ConfigError, Pipeline, importers
from textok.cli import main
from textok.commands import pipeline
from textok.errors import DataError
from textok.importers.class_names import imagenet_names, read_names
from textok.sampling import Sampling

PARTS = ["--tokenizer", str(FOREIGN / "softvq"), "--generator", str(FOREIGN / "sit"), "--tokenizer-set", "num_heads=3"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("pipeline") / "out"
    assert main(["pipeline", str(out), *PARTS]) == 0
    return out


def test_latents_are_taken_as_the_tokenizer_says(folder):
    """(z - vq_mean) / vq_std: what the generator alone makes, carried to the tokenizer's latents and decoded."""
    pipe, stored = Pipeline.from_pretrained(folder), np.load(FOREIGN / "sit" / "io.npz")
    run = {"noise": stored["z"], "steps": 6, "solver": "euler", "guidance_scale": 2.5}
    result = pipe(labels=stored["labels"], **run)
    numerics.check(result.latents, 0.75 * stored["euler6_cfg"] + 0.125, numerics.SAMPLING)
    assert np.array_equal(result.images, pipe.textok.decode(result.latents))
    generator = importers.load(FOREIGN / "sit")
    assert generator.config.latent_mean == (0.0,) * 16, "alone it knows of no tokenizer"
    twin = generator.for_latents_of(pipe.textok.config)
    assert twin.config.latent_std == (0.75,) * 16 and twin.for_latents_of(pipe.textok.config) is twin


def test_names_of_classes(folder):
    pipe = Pipeline.from_pretrained(folder)
    result = pipe(labels=["golden retriever", "tench"], steps=2, seed=0)
    assert result.labels == [207, 0] and result.class_names == ["golden retriever", "tench"]
    assert np.array_equal(result.images, pipe(labels=[207, 0], steps=2, seed=0).images)
    seen = type("View", (), {"__array_interface__": np.array([207, 0]).__array_interface__})()
    assert np.array_equal(result.images, pipe(labels=seen, steps=2, seed=0).images)  # whatever NumPy can view
    with pytest.raises(ValueError, match="'golden retriever'.*got 'golden retreiver'"):
        pipe(labels=["golden retreiver"], steps=2, seed=0)
    names = imagenet_names()
    assert len(set(names)) == len(names) == 1000 and (names[134], names[517]) == ("crane (bird)", "crane (machine)")


def test_names_that_are_given(tmp_path, folder):
    text, listed = tmp_path / "a.txt", tmp_path / "a.json"
    text.write_text("\n".join(f"c{i}" for i in range(1000)))
    listed.write_text(json.dumps([f"c{i}" for i in range(1000)]))
    assert read_names(text) == read_names(listed) == [f"c{i}" for i in range(1000)]
    assert main(["pipeline", str(tmp_path / "named"), *PARTS, "--class-names", str(listed)]) == 0
    assert Pipeline.from_pretrained(tmp_path / "named").class_names[999] == "c999"
    assert main(["pipeline", str(tmp_path / "none"), *PARTS, "--class-names", "none"]) == 0
    assert not Pipeline.from_pretrained(tmp_path / "none").class_names
    for flaw in ("{}", "[1]", "[]", "[" * 100_000):
        listed.write_text(flaw)
        with pytest.raises(DataError, match="expected names, one a line or as a list in JSON"):
            read_names(listed)
    pipe = Pipeline.from_pretrained(folder)
    for names, message in (
        ("abc", "expected a list of strings, got str"),
        (["a"], "expected 1000, one a class of the DiT, got 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            Pipeline(pipe.textok, pipe.dit, class_names=names)


def test_arguments_that_do_not_fit(tmp_path, folder, capsys):
    for arguments, message in (
        ([str(folder), *PARTS], "is there already; --overwrite replaces it"),
        ([str(tmp_path / "a"), *PARTS[2:], "--tokenizer", str(FOREIGN / "dit_1d")], "expected a TexTok, got a model of"),
        (["--tokenizer", "emoji-textok", *PARTS[2:4], str(tmp_path / "a")], "dit: expected to make the tokenizer's latents"),
        ([str(tmp_path / "a"), *PARTS[2:], "--tokenizer", "emoji-textok"], "a model of textok, which says all of its config"),
    ):
        assert main(["pipeline", *arguments]) == 1
        said = capsys.readouterr().err
        assert message in said and len(said.splitlines()) == 1
    assert not (tmp_path / "a").exists()


def test_folders_of_others_load_as_they_are(tmp_path, capsys):
    """Where their config says all that is needed."""
    model = textok.DiT.from_pretrained(FOREIGN / "sit", dtype="bfloat16")
    assert model.config.prediction == "velocity" and model.dtype == "bfloat16"
    with pytest.raises(ConfigError, match="expected a TexTok, got a model of Hhhhhhao/continuous_tokenizer DiT or SiT"):
        textok.TexTok.from_pretrained(FOREIGN / "sit")
    with pytest.raises(ConfigError, match="does not say tokenizer.num_heads"):
        textok.TexTok.from_pretrained(FOREIGN / "softvq")
    assert main(["info", str(FOREIGN / "dit_1d")]) == 0
    assert '"cosine"' in capsys.readouterr().out


def test_a_generator_samples_as_where_it_came_from(tmp_path, capsys):
    """By its name, by a training that began with it, or with the training before; what is asked for goes before."""
    bundled = Pipeline.from_pretrained("emoji-t2i").sampling
    assert bundled.kept()
    make = ["pipeline", "--tokenizer", "emoji-textok", "--overwrite", str(tmp_path / "p"), "--generator"]
    for generator in ("emoji-dit-t2i", "emoji-t2i"):
        assert main([*make, generator]) == 0
        assert Pipeline.from_pretrained(tmp_path / "p").sampling == bundled
        assert capsys.readouterr().out.endswith(f"samples with {bundled.told()}\n")
    assert main([*make, "emoji-t2i", "--sampling", "steps=3", "guidance_interval=[0.2, 1]"]) == 0
    asked = Pipeline.from_pretrained(tmp_path / "p").sampling
    assert (asked.steps, tuple(asked.guidance_interval), asked.solver) == (3, (0.2, 1), bundled.solver)
    for name, init in (("first", "emoji-t2i"), ("second", str(tmp_path / "first")), ("circle", str(tmp_path / "circle"))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "training.json").write_text(json.dumps({"run": {"init": init}}))
    assert pipeline._sampling(str(tmp_path / "second")) == bundled
    assert pipeline._sampling(str(tmp_path / "circle")) == pipeline._sampling("hf://a/b") == Sampling()
    theirs = tmp_path / "diffusers"  # whose pipelines have an index of that name, and other parts
    shutil.copytree(FOREIGN / "diffusers_dit" / "transformer", theirs / "transformer")
    (theirs / "model_index.json").write_text(json.dumps({"_class_name": "DiTPipeline", "transformer": ["a", "b"]}))
    generator = pipeline._model(textok.DiT, str(theirs), [], argparse.Namespace(ignore=[], dtype="float32"))
    assert generator.config == importers.load(FOREIGN / "diffusers_dit" / "transformer").config
    assert pipeline._sampling(str(theirs)) == Sampling()
    capsys.readouterr()
    for arguments, message in (
        (["emoji-dit-t2i", "--sampling", "stepp=3"], "--sampling: unknown key 'stepp'"),
        (["emoji-dit-t2i", "--sampling", "steps=0"], "sampling: steps: expected 1 to"),
        (["emoji-dit"], "--captions: expected a CaptionStore, since the DiT takes classes"),
    ):
        assert main([*make, *arguments]) == 1 and message in capsys.readouterr().err
