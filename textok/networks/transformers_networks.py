"""CLIP and DINOv2 as folders of transformers, read offline."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import WeightsError
from .base import BATCH, F32, U8, FeatureNetwork, Output, file_hash, fingerprint, torch_threads


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
        self.fingerprint = fingerprint(self.preprocessing, file_hash(path / "config.json", *weights))

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
