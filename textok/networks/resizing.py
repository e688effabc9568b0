"""How pictures get a network's size, for FID, KID and all that features make: Pillow's filters on floats.

Which filter, each network says: `efficientnet.py` bicubic, a TorchScript or ONNX file what stands beside it
(`network_files.py`; bilinear unless told). Two do without this: NVIDIA's Inception file resizes by itself, and
`transformers_networks.py` does as its models' own processors do, on bytes.
"""

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]

FILTERS = {"bilinear": "BILINEAR", "bicubic": "BICUBIC", "box": "BOX", "lanczos": "LANCZOS"}


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
