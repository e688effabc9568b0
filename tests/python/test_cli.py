"""The command: what it prints, its errors of one line, its exit status."""

import json
import os
import subprocess
import sys
import warnings

import api_models
import pytest
from fresh_process import environment

import textok
from textok import bundled, cli, demo
from textok.commands import COMMANDS


def run(*arguments, **options):
    """A fresh `python -m textok`."""
    return subprocess.run(
        [sys.executable, "-m", "textok", *arguments], capture_output=True, text=True, env=environment(), timeout=120, **options
    )


def one_line(text):
    assert text.count("\n") == 1 and text.startswith("textok: "), text
    return text


def test_as_a_process():
    done = run("info")
    assert done.returncode == 0 and done.stderr == ""
    assert f"textok {textok.__version__}" in done.stdout and textok.cpu_info()["isa"] in done.stdout
    for name in textok.list_models():
        assert name in done.stdout
    done = run("info", "no-such-model")
    assert done.returncode == 1 and done.stdout == "" and "bundled are" in one_line(done.stderr)
    assert run("--version").stdout == f"textok {textok.__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["no-such-command"],
        ["demo", "--seed", "x"],
        ["demo", "--seed", "-1"],
        ["demo", "--threads", "0"],
        ["demo", "--threads", "1.5"],
        ["demo", "extra"],
        ["info", "a", "b"],
        ["--seed", "3"],
    ],
)
def test_wrong_usage(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("usage: textok") and "error: " in err.splitlines()[-1]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main([command, "--help"])
    assert caught.value.code == 0 and f"example: textok {command}" in capsys.readouterr().out


@pytest.mark.parametrize("model", [api_models.textok(), api_models.dit(), api_models.dit(condition="text")])
def test_info_of_a_model(model, tmp_path, capsys):
    model.save_pretrained(tmp_path)
    assert cli.main(["info", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert err == "" and repr(model) in out and "memory: weights" in out
    for key, value in model.config.to_dict().items():
        assert f"  {key:22}{json.dumps(value)}\n" in out


def test_info_of_a_pipeline(tmp_path, capsys):
    api_models.class_pipeline().save_pretrained(tmp_path)
    assert cli.main(["info", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{api_models.class_pipeline()!r}\n") and out.count("memory: weights") == 2
    assert out.endswith("samples with the defaults\n")


def test_info_of_every_bundled_model(capsys):
    assert textok.list_models()
    for name in textok.list_models():
        assert cli.main(["info", name]) == 0
    assert capsys.readouterr().err == ""


def test_errors_are_one_line(tmp_path, capsys, monkeypatch):
    (tmp_path / "config.json").write_text('{"model_type":\n "gan"}')
    for command in ("info", "bench"):
        assert cli.main([command, str(tmp_path)]) == 1
        assert 'expected "model_type": "textok" or "dit", got \'gan\'' in one_line(capsys.readouterr().err)
    (tmp_path / "config.json").write_text('{"model_type": ["dit"]}')
    for command in ("info", "bench"):
        assert cli.main([command, str(tmp_path)]) == 1
        assert 'expected "model_type": "textok" or "dit", got ' in one_line(capsys.readouterr().err)
    assert cli.main(["demo", "--out", str(tmp_path / "config.json")]) == 1
    assert "config.json" in one_line(capsys.readouterr().err)
    monkeypatch.setattr(bundled, "FOLDER", tmp_path / "nothing")
    assert cli.main(["demo", "--out", str(tmp_path / "out")]) == 1
    assert "'emoji-heldout' is not there" in one_line(capsys.readouterr().err)
    assert cli.main(["info"]) == 0 and "none bundled" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (KeyboardInterrupt(), "stopped"),
        (MemoryError(), "MemoryError"),
        (MemoryError("no 3 GiB"), "no 3 GiB"),
        (OSError(28, "No space left"), "No space left"),
        (OSError(20, "Not a directory", "a/parts"), "a/parts: Not a directory"),
        (ValueError("two\nlines"), "two lines"),
        (ModuleNotFoundError("No module named 'skimage'"), "pip install 'textok-cpu[demo]'"),
    ],
)
def test_what_a_command_raises(problem, message, capsys, monkeypatch):
    def fail(*_, **__):
        raise problem

    monkeypatch.setattr(demo, "run", fail)
    assert cli.main(["demo"]) == 1
    assert message in one_line(capsys.readouterr().err)


def test_warnings_of_ours_are_one_line(capsys, monkeypatch):
    def warn(*_, **__):
        warnings.warn("latents of another model", stacklevel=2)  # its caller is the command
        warnings.warn_explicit("somebody else's", UserWarning, "/elsewhere/library.py", 3)

    monkeypatch.setattr(demo, "run", warn)
    with pytest.warns(UserWarning, match="somebody else's"):
        assert cli.main(["demo"]) == 0
    assert capsys.readouterr().err == "textok: latents of another model\n"


def test_a_reader_that_goes_away():
    """`textok info | head -1` ends quietly."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "textok", "info"],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        timeout=120,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")
