"""LPIPS' networks from published files' names, against torchvision's layer lists and the float64 formula."""

import numerics
import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn

import textok.metrics as tm
from textok.errors import WeightsError
from textok.metrics.networks import perceptual_distance
from textok.networks.lpips import Lpips

# torchvision's make_layers configurations, as published: channels, "M" a pooling.
VGG = [64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512]


def published(backbone):
    """The layers as torchvision lists them, random; and after which of them LPIPS looks (its slices' ends)."""
    torch.manual_seed(0)
    layers, channels = [], 3
    if backbone == "vgg16":
        for item in VGG:
            if item == "M":
                layers.append(nn.MaxPool2d(2, 2))
            else:
                layers += [nn.Conv2d(channels, item, 3, padding=1), nn.ReLU()]
                channels = item
        return nn.Sequential(*layers), (4, 9, 16, 23, 30)
    layers = [
        nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(),
    ]  # fmt: skip
    return nn.Sequential(*layers), (2, 5, 8, 10, 12)


def widths(backbone):
    return (64, 128, 256, 512, 512) if backbone == "vgg16" else (64, 192, 384, 256, 256)


def linear(backbone):
    rng = np.random.default_rng(1)
    return [rng.uniform(0, 1, width).astype(np.float32) for width in widths(backbone)]


def save(folder, backbone):
    layers, _ = published(backbone)
    torch.save(
        {f"features.{k}": v for k, v in layers.state_dict().items()} | {"classifier.0.weight": torch.zeros(2, 2)},
        folder / "net.pth",
    )
    torch.save(
        {f"lin{i}.model.1.weight": torch.from_numpy(w).reshape(1, -1, 1, 1) for i, w in enumerate(linear(backbone))},
        folder / "lin.pth",
    )


@pytest.mark.parametrize("backbone", ("vgg16", "alexnet"))
def test_lpips_network(backbone, tmp_path):
    save(tmp_path, backbone)
    model = Lpips.load(backbone, tmp_path)
    x, y = torch.rand(2, 2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        got = model(x, y).numpy()
        layers, ends = published(backbone)

        def taps(images):
            images = ((images + 1) / 2 - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor(
                [0.229, 0.224, 0.225]
            )[:, None, None]
            return [layers[:end].double()(images.double()).numpy() for end in ends]

        expected = tm.lpips(taps(x), taps(y), linear(backbone))
        flat = tm.lpips(taps(x), taps(y))
        early = tm.lpips([f[:, :, ::2, ::2] for f in taps(x)], [f[:, :, ::2, ::2] for f in taps(y)], linear(backbone))
    numerics.check(got, expected, numerics.LPIPS_FLOAT32)
    for wrong in (flat, early, expected[::-1], model(x, x).numpy()):
        assert numerics.rejects(wrong, expected, numerics.LPIPS_FLOAT32)
    assert model(x, x).abs().max() == 0


def test_names_of_the_lpips_package(tmp_path):
    """One file with everything, as `loss_fn.state_dict()` of the package has it."""
    save(tmp_path, "alexnet")
    net, lin = torch.load(tmp_path / "net.pth"), torch.load(tmp_path / "lin.pth")
    slices = {0: 1, 3: 2, 6: 3, 8: 4, 10: 5}
    whole = {}
    for key, value in net.items():
        if key.startswith("features"):
            _, index, kind = key.split(".")
            whole[f"net.slice{slices[int(index)]}.{index}.{kind}"] = value
    whole |= lin | {f"lins.{i}.model.1.weight": lin[f"lin{i}.model.1.weight"] for i in range(5)}
    torch.save(whole, tmp_path / "whole.pth")
    x, y = torch.rand(2, 1, 3, 48, 48) * 2 - 1
    assert torch.equal(
        Lpips.load("alexnet", tmp_path / "whole.pth")(x, y),
        Lpips.load("alexnet", [tmp_path / "net.pth", tmp_path / "lin.pth"])(x, y),
    )


def test_fingerprint_is_of_the_weights(tmp_path):
    """The same of the same weights, wherever they lie; another of others in a file of that name."""
    save(tmp_path, "alexnet")
    once = perceptual_distance(f"lpips-alexnet={tmp_path / 'net.pth'},{tmp_path / 'lin.pth'}").fingerprint
    assert perceptual_distance(f"lpips-alexnet={tmp_path}").fingerprint == once and len(once) == 64
    weights = torch.load(tmp_path / "lin.pth")
    weights["lin2.model.1.weight"][0, 5] += 1e-3
    torch.save(weights, tmp_path / "lin.pth")
    assert perceptual_distance(f"lpips-alexnet={tmp_path}").fingerprint != once


def test_gradient_where_a_place_is_zero():
    """Training takes it: finite, also for flat pictures."""
    model = Lpips("alexnet")
    x = torch.zeros(1, 3, 64, 64, requires_grad=True)
    model(x, torch.ones(1, 3, 64, 64)).sum().backward()
    assert torch.isfinite(x.grad).all() and x.grad.abs().max() > 0


def test_files_that_do_not_fit(tmp_path):
    save(tmp_path, "alexnet")
    with pytest.raises(WeightsError, match=r"weights.0 \[64\], got none"):
        Lpips.load("alexnet", tmp_path / "net.pth")
    with pytest.raises(WeightsError, match="vgg16 with convolutions.0.weight"):
        Lpips.load("vgg16", tmp_path)
    (tmp_path / "bad.pth").write_bytes(b"nothing")
    with pytest.raises(WeightsError, match="bad.pth: expected weights"):
        Lpips.load("alexnet", tmp_path / "bad.pth")
    with pytest.raises(WeightsError, match="no such file"):
        Lpips.load("alexnet", tmp_path / "none.pth")
    with pytest.raises(ValueError, match="vgg16 or alexnet"):
        Lpips("resnet")
