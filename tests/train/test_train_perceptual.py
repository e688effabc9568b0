"""The perceptual networks that a training can choose. Needs torch; without it these are skipped."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from textok.errors import ConfigError, WeightsError
from textok.metrics import lpips
from textok.networks.lpips import VGG16, Lpips
from textok.train.perceptual_loss import perceptual_loss


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Random weights under the published names: torchvision's VGG-16 and the linear layers of LPIPS."""
    folder = tmp_path_factory.mktemp("lpips")
    rng = torch.Generator().manual_seed(0)
    backbone, lins = {}, {}
    for index, (c_in, c_out, kernel, _, _) in VGG16["convolutions"].items():
        backbone[f"features.{index}.weight"] = torch.randn(c_out, c_in, kernel, kernel, generator=rng) * (2 / (9 * c_in)) ** 0.5
        backbone[f"features.{index}.bias"] = 0.1 * torch.randn(c_out, generator=rng)
    backbone["classifier.0.weight"] = torch.zeros(2, 2)  # there in torchvision's file, and of no use here
    for place, tap in enumerate(VGG16["taps"]):
        lins[f"lin{place}.model.1.weight"] = torch.rand(1, VGG16["convolutions"][tap][1], 1, 1, generator=rng)
    torch.save(backbone, folder / "vgg16.pth")
    torch.save(lins, folder / "vgg.pth")
    return f"{folder}/vgg16.pth,{folder}/vgg.pth"


def pictures(seed=0, count=3):
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(2, count, 32, 32, 3, generator=rng) * 2 - 1


def test_lpips_as_a_loss_is_the_mean_of_the_metric(files):
    images, targets = pictures()
    loss = perceptual_loss("lpips-vgg16", files)
    network = Lpips.load("vgg16", files.split(","))
    a, b = (network.features(x.permute(0, 3, 1, 2)) for x in (images, targets))
    plain = lpips([x.numpy() for x in a], [x.numpy() for x in b], [w.numpy() for w in network.weights])
    assert loss(images, targets).item() == pytest.approx(plain.mean(), rel=1e-5)
    assert loss(images, targets.flip(1)).item() != pytest.approx(plain.mean(), rel=1e-5)


def test_lpips_has_a_slope_towards_the_target_and_no_weights_to_train(files):
    loss = perceptual_loss("lpips-vgg16", files)
    images, targets = pictures(1)
    images.requires_grad_(True)
    before = loss(images, targets)
    (slope,) = torch.autograd.grad(before, images)
    assert torch.isfinite(slope).all() and not [p for p in loss.parameters() if p.requires_grad]
    assert loss(images.detach() - 1e-3 * slope / slope.abs().max(), targets) < before
    assert loss(targets, targets).item() == 0.0


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("vgg", "", "perceptual_network: expected efficientnet-lite0 or lpips-vgg16 or lpips-alexnet, got 'vgg'"),
        ("lpips-vgg16", "", "perceptual_weights: expected files of lpips-vgg16's weights, got none"),
        ("efficientnet-lite0", "a.pth", "perceptual_weights: expected none"),
    ],
)
def test_wrong_choices_are_told(name, weights, message):
    with pytest.raises(ConfigError, match=message):
        perceptual_loss(name, weights)


def test_a_missing_file_or_tensor_is_told(files):
    with pytest.raises(WeightsError, match="no such file"):
        perceptual_loss("lpips-vgg16", "nowhere.pth")
    with pytest.raises(WeightsError, match=r"expected LPIPS' vgg16 with weights.0 \[64\], got none"):
        perceptual_loss("lpips-vgg16", files.split(",")[0])


def test_the_stand_in_needs_no_files():
    pytest.importorskip("efficientnet_lite_pytorch")
    images = torch.from_numpy(np.stack([pictures()[0].numpy()])[0])
    assert perceptual_loss("efficientnet-lite0")(images, images).item() == 0.0
