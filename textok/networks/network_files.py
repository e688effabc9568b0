"""Networks that come as files: TorchScript, such as the field's inception-2015-12-05.pt, and ONNX.

FILE.json says what a file does not: {"size": 299, "resize": "bilinear", "mean": 127.5, "std": 127.5} and, where they apply,
"features" and "probabilities" or "logits", the names of outputs (of TorchScript: their places). A picture 0..255 is resized
to size x size and becomes (x - mean) / std, NCHW; mean and std are numbers or three.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from .. import arrays
from ..errors import WeightsError
from .base import F32, U8, FeatureNetwork, Output, file_hash, fingerprint
from .resizing import FILTERS, resized


class Settings:
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
    powers: F32 = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: F32 = powers / powers.sum(axis=1, keepdims=True)
    return shares


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
        self._settings = None if self._resizes_itself else Settings(path)
        self.name = path.name
        self.preprocessing = "uint8 as it is; the file resizes" if self._settings is None else str(self._settings)
        self.fingerprint = fingerprint(
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
        self._settings = Settings(path)
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
        self.fingerprint = fingerprint(self.preprocessing, file_hash(path), file_hash(self._settings.path))

    def _run(self, pictures: U8) -> Output:
        feed = {self._session.get_inputs()[0].name: self._settings(pictures)}
        values = self._session.run(list(self._outputs.values()), feed)
        return _output(dict(zip(self._outputs, values)), self.name)
