"""Weights of 4 bits with less error than rounding to nearest makes.

A matrix is rounded column by column, and what the rounding of one does to the layer's output is made good in the columns that
are still to come, as far as calibration rows say how columns go together (Frantar et al., "GPTQ: Accurate Post-Training
Quantization for Generative Pre-trained Transformers", 2022). The scales are those of rounding to nearest, of the columns as
they have become.
"""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from . import int4
from .model import EngineModel
from .progress import progress_bar

BLOCK = 128  # columns whose errors reach the columns behind them in one product

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Model = TypeVar("Model", bound=EngineModel)


def to_int4(
    model: Model, calls: Iterable[Callable[[Model], Any]], damping: float = 0.01, progress: bool = True
) -> dict[str, NDArray[Any]]:
    """The weights of a model in int4, rounded so that its products' outputs change least on what the calls multiply.

    Parameters
    ----------
    model
        A model in float32: a `TexTok`, a `DiT` or a `TextEncoder`.
    calls
        Functions of the model that make it compute what it is for: an `encode` and a `decode` of pictures with their captions,
        a `sample` of a few labels. Some thousand rows a layer are enough: dozens of pictures.
    damping
        Of the mean square of a layer's inputs, this part is added to each: more trusts the rows less.
    progress
        Whether to show a bar.

    Returns
    -------
    dict
        Tensors by name, for the model's class with `dtype="int4"`, whose `save_pretrained` writes them. Layers that no call has
        used are rounded to nearest.

    Raises
    ------
    ValueError
        A model that is not float32, or no call.

    >>> weights = to_int4(dit, [lambda m: m.sample(labels=[1, 2, 3], steps=8)])  # doctest: +SKIP
    >>> textok.DiT(dit.config, weights, dtype="int4").save_pretrained("dit-int4")  # doctest: +SKIP
    """
    if model.dtype != "float32":
        raise ValueError(f"model: expected one in float32, got {model.dtype}")
    grams = _grams(model, calls)
    weights = model.weights()
    nearest = type(model)(model.config, weights, dtype="int4").weights()
    names = [name for name in weights if f"{name}.group_scale" in nearest and name in grams]
    with progress_bar(progress, len(names), "weight") as bar:
        for name in names:
            q, scale, group_scale = rounded(weights[name], grams.pop(name), damping)
            nearest |= {name: int4.pack(q), f"{name}.scale": scale, f"{name}.group_scale": group_scale}
            bar.update()
    return nearest


def _grams(model: Model, calls: Iterable[Callable[[Model], Any]]) -> dict[str, F32]:
    """X^T X of the rows X that each weight was multiplied with."""
    grams: dict[str, F32] = {}
    used = 0

    def record(name: str, rows: F32) -> None:
        if name not in grams:
            grams[name] = np.zeros((rows.shape[1], rows.shape[1]), np.float32)
        grams[name] += rows.T @ rows

    model._model.record_inputs(record)
    try:
        for used, call in enumerate(calls, 1):  # noqa: B007  counted
            call(model)
    finally:
        model._model.record_inputs(None)
    if not used:
        raise ValueError("calls: expected at least one")
    return grams


def scales(weight: F32, step: F32) -> NDArray[np.uint8]:
    """The group scales 1..16 of up to 32 columns [N,n] of a weight, of rows with these steps [N]: of least squared error."""
    middle = (np.abs(weight).max(1) / (7.5 * step)).astype(int)
    candidates = np.clip(middle[:, None] + np.arange(-1, 3), 1, int4.MOST_SCALE)  # [N,4]
    steps = (candidates * step[:, None])[:, :, None]
    error = ((np.clip(np.rint(weight[:, None] / steps), -8, 7) * steps - weight[:, None]) ** 2).sum(2)
    return np.take_along_axis(candidates, error.argmin(1)[:, None], 1)[:, 0].astype(np.uint8)


def rounded(weight: F32, gram: F32, damping: float = 0.01) -> tuple[NDArray[np.int8], F32, NDArray[np.uint8]]:
    """A weight [N,K] as q [N,K], scale [N] and group scales [N, K/32 up], for inputs with this X^T X [K,K]."""
    count, columns = weight.shape
    left = weight.astype(np.float32).copy()  # the columns to come, as the errors of those before have changed them
    top = np.abs(left).max(1)
    step = np.where(top > 0, top / (7.5 * int4.MOST_SCALE), 1).astype(np.float32)
    q = np.zeros((count, columns), np.int8)
    group_scale = np.zeros((count, -(-columns // int4.GROUP)), np.uint8)
    upper = _upper_of_inverse(gram, damping)
    for first in range(0, columns, BLOCK):
        end = min(first + BLOCK, columns)
        errors = np.empty((count, end - first), np.float32)
        for k in range(first, end):
            if k % int4.GROUP == 0:
                group_scale[:, k // int4.GROUP] = scales(left[:, k : k + int4.GROUP], step)
            steps = step * group_scale[:, k // int4.GROUP]
            q[:, k] = np.clip(np.rint(left[:, k] / steps), -8, 7)
            errors[:, k - first] = (left[:, k] - q[:, k] * steps) / upper[k, k]
            left[:, k + 1 : end] -= errors[:, k - first, None] * upper[k, k + 1 : end]
        left[:, end:] -= errors @ upper[first:end, end:]
    return q, step, group_scale


def _upper_of_inverse(gram: F32, damping: float) -> F32:
    """U with U^T U the inverse of the damped X^T X: row k says how an error in column k is made good in those behind it."""
    whole = gram.astype(np.float64)
    whole[np.diag_indices_from(whole)] += damping * max(float(np.mean(np.diag(whole))), 1e-12)
    return np.linalg.cholesky(np.linalg.inv(whole)).T.astype(np.float32)
