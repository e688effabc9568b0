"""`textok bench`: what it times, and that it says so."""

from textok.cli import main


def test_a_pipeline_says_its_seconds_a_picture(capsys):
    for name, steps in (("emoji-t2i", "2"), ("emoji", "3")):
        arguments = ["bench", name, "--dtype", "float32", "--threads", "1", "--repeats", "1", "--batch", "2", "--steps", steps]
        assert main(arguments) == 0
        said = capsys.readouterr().out.splitlines()
        head, row = said[-2].split(), said[-1].split()
        assert said[0].startswith("Pipeline(") and head[-1] == "s/image"
        median, seconds = float(row[3]), float(row[6])
        assert row[:2] == ["picture", "float32"] and abs(seconds - median / 2000) < 1e-3 and seconds > 0


def test_a_model_says_its_pictures_a_second(capsys):
    assert main(["bench", "emoji-baseline", "--dtype", "int8", "--threads", "1", "--repeats", "1"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-3].split()[-1] == "images/s" and [row.split()[0] for row in said[-2:]] == ["encode", "decode"]
