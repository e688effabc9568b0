"""Training configs: files, overrides, the packaged ones."""

import dataclasses
from pathlib import Path

import pytest

from textok.errors import ConfigError
from textok.train import config as configs

ROOT = Path(__file__).resolve().parents[2]
RUN = {"run": configs.RunSettings, "model": dict}
SECTIONS = {name: configs.SETTINGS[name] for name in ("optim", "gan", "diffusion")}


def read(tmp_path, text, *overrides, sections=RUN):
    file = tmp_path / "config.toml"
    file.write_text(text)
    return configs.read(file, overrides, sections)


def test_overrides_win_and_are_values_of_toml_or_strings(tmp_path):
    made = read(
        tmp_path, "[run]\nsteps = 5\nseed = 3\n[model]\na = 1",
        "run.steps=7", "run.precision=float32", "run.compile=false", "model.a=[1, 2]", "model.side.depth=2",
        "model.name='both'",
    )  # fmt: skip
    assert (made.run.steps, made.run.seed, made.run.precision, made.run.compile) == (7, 3, "float32", False)
    assert made.model == {"a": [1, 2], "side": {"depth": 2}, "name": "both"}
    assert made.run.batch_size == configs.RunSettings().batch_size
    assert configs.as_dict(made)["run"]["steps"] == 7


def test_when_is_steps_or_a_share_of_them():
    assert [configs.steps_of(when, 1000) for when in (0, 300, 1, 0.3, 1.0, 0.0)] == [0, 300, 1, 300, 1000, 0]


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("steps", (), "not TOML"),
        ("[runs]", (), "unknown key runs (did you mean 'run'?)"),
        ("[run]\nstep = 1", (), "unknown key run.step (did you mean 'steps'?)"),
        ("[run]\nsteps = '1'", (), "run.steps: expected a whole number, 0 or more, got '1'"),
        ("[run]\nsteps = true", (), "run.steps: expected a whole number"),
        ("[run]\nsteps = -1", (), "run.steps: expected a whole number"),
        ("[run]\nsave_seconds = nan", (), "run.save_seconds: expected a finite number"),
        ("[run]\ncompile = 1", (), "run.compile: expected true or false, got 1"),
        ("[run]\nprecision = 'float16'", (), "run.precision: expected 'bfloat16' or 'float32' or 'auto', got 'float16'"),
        ("run = 3", (), "run: expected a section, got 3"),
        ("model = 3", (), "model: expected a section, got 3"),
        ("", ("model=3",), "model: expected a section, got 3"),
        ("[run]\nseed = 4294967296", (), "run.seed: expected a whole number below 4294967296, got 4294967296"),
        ("[optim]\nbetas = [0.9]", (), "optim.betas: expected two numbers below 1, got (0.9,)"),
        ("[optim]\nbetas = [0.9, 1]", (), "optim.betas: expected two numbers below 1, got (0.9, 1.0)"),
        ("[gan]\nbetas = [0.9, 0.99, 0.5]", (), "gan.betas: expected two numbers below 1, got (0.9, 0.99, 0.5)"),
        ("[gan]\nbase_channels = 0", (), "gan.base_channels: expected a whole number, 1 or more, got 0"),
        ("[gan]\nbase_channels = 4\nmultipliers = [0.01, 2]", (), "gan.multipliers: expected multiples of 4 channels"),
        ("[run]\nnan_limit = 0", (), "run.nan_limit: expected a whole number, 1 or more, got 0"),
        ("[optim]\nema = 1.5", (), "optim.ema: expected a decay below 1, got 1.5"),
        ("[optim]\nfloor = 2", (), "optim.floor: expected a share of the peak, at most 1, got 2.0"),
        ("[diffusion]\ndropout = 2", (), "diffusion.dropout: expected a share of the conditions, less than 1, got 2.0"),
        ("[run]", ("steps",), "expected key=value"),
        ("[run]\nsteps = 1", ("run.steps.more=1",), "steps is a value, not a section"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, text, overrides, message):
    with pytest.raises(ConfigError) as problem:
        read(tmp_path, text, *overrides, sections=RUN | SECTIONS)
    assert message in str(problem.value)


def test_a_share_beyond_one_and_lists_are_checked(tmp_path):
    sections = {"gan": configs.GanSettings}
    made = read(tmp_path, "[gan]\nstart = 1.0\nmultipliers = [0.5, 1]\nlr = 1", sections=sections).gan
    assert (made.start, made.multipliers, made.lr) == (1.0, (0.5, 1.0), 1.0)
    for text in ("start = 1.01", "start = -1", "start = '1'", "multipliers = 3", "multipliers = ['a']", "betas = [0.0, true]"):
        with pytest.raises(ConfigError, match=rf"gan\.{text.split()[0]}"):
            read(tmp_path, f"[gan]\n{text}", sections=sections)


@pytest.mark.parametrize(("size", "text_width", "discriminator"), [(256, 2048, 24_192_385), (512, 4096, 24_229_377)])
def test_packaged_configs_hold_the_papers_values(size, text_width, discriminator):
    torch = pytest.importorskip("torch")
    from textok.train import image_tokenizer as tokenizer
    from textok.train.discriminator import Discriminator
    from textok.train.modules import TexTok

    made = configs.read(configs.find(f"imagenet-{size}"), [], tokenizer.SECTIONS)
    model = tokenizer.model_config(made.model)
    patches = (model["image_size"] // model["patch_size"]) ** 2
    assert (model["image_size"], patches, model["num_latent_tokens"], model["latent_dim"]) == (size, 1024, 128, 8)
    assert (model["text_dim"], model["num_text_tokens"], made.data.size) == (text_width, 128, size)
    assert (made.loss.l2, made.loss.perceptual, made.gan.weight, made.gan.lecam, made.gan.r1) == (1.0, 0.1, 0.1, 1e-4, 10.0)
    assert (made.optim.kind, made.optim.lr, made.optim.betas, made.optim.ema, made.optim.schedule) == (
        "adam",
        1e-4,
        (0.0, 0.99),
        0.999,
        "cosine",
    )
    assert made.gan.start == 80_000 and made.optim.weight_decay == 0
    assert made.run.steps * made.run.batch_size == pytest.approx(270 * 1_281_167, rel=1e-3)
    with torch.device("meta"):
        network = Discriminator(size, made.gan.base_channels, made.gan.multipliers)
        assert sum(p.numel() for p in network.parameters()) == discriminator
        if size == 256:
            assert sum(p.numel() for p in TexTok(model | {"num_latent_tokens": 128}).parameters()) == pytest.approx(
                176.42e6, rel=1e-4
            )


@pytest.mark.parametrize(("size", "width", "depth", "heads"), [("S", 512, 8, 8), ("B", 768, 12, 12), ("L", 1024, 24, 16)])
def test_sizes(size, width, depth, heads):
    pytest.importorskip("torch")
    from textok.train import image_tokenizer as tokenizer

    model = tokenizer.model_config({"size": size})
    for side in ("tokenizer", "detokenizer"):
        assert model[side] == {"hidden_size": width, "depth": depth, "num_heads": heads, "mlp_ratio": 4.0}
    with pytest.raises(ConfigError, match=r"model\.tokenizer: expected none beside"):
        tokenizer.model_config({"size": size, "tokenizer": {}})
    with pytest.raises(ConfigError, match=r"model\.size: expected S, B, L, got 'XL'"):
        tokenizer.model_config({"size": "XL"})


def test_every_config_of_the_tree_can_be_read():
    pytest.importorskip("torch")
    from textok.train import dit
    from textok.train import image_tokenizer as tokenizer

    files = sorted([*(ROOT / "textok/train/configs").glob("*.toml"), *(ROOT / "experiments").glob("*/configs/*.toml")])
    assert len(files) > 8
    for file in files:
        sections = dit.SECTIONS if "[diffusion]" in file.read_text() else tokenizer.SECTIONS
        made = configs.read(file, [], sections)
        assert all(dataclasses.is_dataclass(getattr(made, name)) for name in sections if name != "model")


def test_templates_are_of_one_language(tmp_path):
    sections = {"data": configs.DataSettings}
    spellings = {"a photo of a {name}": "a photo of a {name}", "a picture of a {}": "a picture of a {name}", "short": "short"}
    for given, taken in spellings.items():
        assert read(tmp_path, f'[data]\ntemplate = "{given}"', sections=sections).data.template == taken
    with pytest.raises(
        ConfigError, match=r"data\.template: expected name, short, long or text with a field as \{name\}, got 'x'"
    ):
        read(tmp_path, '[data]\ntemplate = "x"', sections=sections)
