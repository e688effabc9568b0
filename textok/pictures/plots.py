"""Plots and picture grids through matplotlib (extra "viz").

Functions that draw do so into `ax`, or a new figure, and return the Axes.

from textok import viz

ax = viz.grid(result.images, columns=8)
ax.figure.savefig("samples.png")
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .. import arrays

if TYPE_CHECKING:
    from matplotlib.axes import Axes

U8 = NDArray[np.uint8]

COLORS = ("#1f5fa8", "#c2552d", "#2f7d5b", "#8c6d31", "#7a4a9e", "#4a4f57", "#b23a6f", "#2a8c9c")
INK, MUTED = "#23272e", "#8a9099"


def axes(ax: "Axes | None", width: float, height: float) -> "Axes":
    """`ax`, or that of a new figure of this size in inches, which no window shows by itself."""
    if ax is not None:
        return ax
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise ModuleNotFoundError("plots need matplotlib: pip install 'textok-cpu[viz]'", name="matplotlib") from None

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure.add_subplot()


def _some_pictures(pictures: U8, name: str) -> U8:
    pictures = arrays.view(pictures, name)
    if pictures.ndim != 4 or pictures.shape[3] != 3 or pictures.dtype != np.uint8 or not pictures.size:
        raise ValueError(f"{name}: expected uint8 [B, H, W, 3], all at least 1, got {arrays.describe(pictures)}")
    return pictures


def mosaic(pictures: U8, columns: int = 8, gap: int = 2) -> U8:
    """Pictures uint8 [B,H,W,3] side by side on white, uint8 [h,w,3], without matplotlib."""
    pictures = _some_pictures(pictures, "pictures")
    columns = min(arrays.whole(columns, "columns", 1, 1000), len(pictures))
    rows, (height, width) = -(-len(pictures) // columns), pictures.shape[1:3]
    result = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for place, picture in enumerate(pictures):
        top, left = place // columns * (height + gap), place % columns * (width + gap)
        result[top : top + height, left : left + width] = picture
    return result


def difference(pictures: U8, originals: U8, gain: float = 3.0) -> U8:
    """Where pictures differ from their originals, uint8 [B,H,W,3].

    White where they are equal, through orange to black with `gain` times the channels' mean absolute difference.
    """
    gain = arrays.number(gain, "gain", 0, 1e6)
    pictures, originals = (arrays.view(array, name) for array, name in ((pictures, "pictures"), (originals, "originals")))
    for array, name in ((pictures, "pictures"), (originals, "originals")):
        if array.dtype != np.uint8 or array.ndim < 3 or array.shape[-1] != 3 or array.shape != originals.shape:
            raise ValueError(f"{name}: expected uint8 [B,H,W,3] of one shape, got {arrays.describe(array)}")
    distance = np.abs(pictures.astype(np.float64) - originals).mean(axis=-1) / 255
    level = np.clip(gain * distance, 0, 1)[..., None]
    white, orange, black = np.array([255.0, 255, 255]), np.array([224.0, 110, 40]), np.array([20.0, 10, 10])
    low = white + (orange - white) * np.minimum(2 * level, 1)
    return np.round(low + (black - low) * np.maximum(2 * level - 1, 0)).astype(np.uint8)


def grid(pictures: U8, columns: int = 8, title: str = "", ax: "Axes | None" = None) -> "Axes":
    """Pictures uint8 [B,H,W,3] as one grid, pixel for pixel.

    Examples
    --------
    >>> grid(np.zeros((5, 8, 8, 3), np.uint8), columns=3)  # doctest: +SKIP
    <Axes: >
    """
    whole = mosaic(pictures, columns)
    ax = axes(ax, 8, 8 * whole.shape[0] / whole.shape[1] + (0.3 if title else 0))
    ax.imshow(whole, interpolation="nearest")
    ax.set_axis_off()
    if title:
        ax.set_title(title, loc="left", fontsize=11, color=INK)
    return ax


def reconstructions(originals: U8, sets: Mapping[str, U8], names: Sequence[str] = (), ax: "Axes | None" = None) -> "Axes":
    """A row a picture: the original, then of each set the reconstruction and its difference.

    `sets` maps a name to pictures of the originals' shape, uint8 [B,H,W,3]; `names` stand left of the rows.
    """
    arrays.instance(sets, "sets", Mapping, "a dict of pictures by name")
    originals = _some_pictures(originals, "originals")
    sets = {name: arrays.view(pictures, f"sets[{name!r}]") for name, pictures in sets.items()}
    for name, pictures in sets.items():
        if pictures.shape != originals.shape:
            raise ValueError(
                f"sets: expected {name} of the originals' shape {list(originals.shape)}, got {list(pictures.shape)}"
            )
    columns = [("original", originals)]
    for name, pictures in sets.items():
        columns += [(name, pictures), ("difference", difference(pictures, originals))]
    count, height, width = originals.shape[:3]
    gap = max(2, width // 16)
    whole = mosaic(np.stack([column[1] for column in columns], axis=1).reshape(-1, height, width, 3), len(columns), gap)
    ax = axes(ax, 1.4 * len(columns), 1.4 * count + 0.4)
    ax.imshow(whole, interpolation="nearest")
    middles = np.arange(len(columns)) * (width + gap) + width / 2
    ax.set_xticks(middles, [name for name, _ in columns], color=INK)
    ax.xaxis.tick_top()
    ax.set_yticks(np.arange(len(names)) * (height + gap) + height / 2, list(names), color=MUTED)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax


def curve(
    points: Iterable[Mapping[str, Any]],
    x: str,
    y: str,
    by: str = "",
    log: bool = False,
    ax: "Axes | None" = None,
    told: bool = False,
) -> "Axes":
    """Quality against cost: a line for each value of `by`, through its points in the order of x.

    Parameters
    ----------
    points
        Dicts with numbers `x` and `y`, perhaps `y_deviation`, which becomes an error bar; those without x or y are left out.
    x, y, by
        Their keys, which are the labels too.
    log
        Whether x is logarithmic.
    told
        Whether the value stands beside each point.

    Examples
    --------
    >>> curve([{"steps": 5, "kid": 0.2}, {"steps": 20, "kid": 0.1}], "steps", "kid")  # doctest: +SKIP
    <Axes: xlabel='steps', ylabel='kid'>
    """
    points = list(points)
    for place, point in enumerate(points):
        arrays.instance(point, f"points[{place}]", Mapping, "a dict of numbers")
    ax = axes(ax, 5.2, 3.4)
    lines: dict[str, list[tuple[float, float, float]]] = {}
    for point in points:
        if point.get(x) is not None and point.get(y) is not None:
            deviation = point.get(f"{y}_deviation")
            name = str(point.get(by, "")) if by else ""
            lines.setdefault(name, []).append(
                (float(point[x]), float(point[y]), float("nan") if deviation is None else float(deviation))
            )
    for (name, line), color in zip(lines.items(), COLORS * (len(lines) // len(COLORS) + 1)):
        across, up, deviations = np.array(sorted(line)).T
        ax.plot(across, up, "o-", color=color, ms=4.5, lw=1.6, label=name or None)
        for at in zip(across, up) if told else ():
            ax.annotate(f"{at[1]:.3g}", at, (0, 5), textcoords="offset points", ha="center", fontsize=7, color=color)
        if np.isfinite(deviations).any():
            ax.errorbar(across, up, np.nan_to_num(deviations), fmt="none", ecolor=color, elinewidth=1, capsize=2)
    if log:
        ax.set_xscale("log")
        ticks = sorted({value for line in lines.values() for value, _, _ in line})
        if len(ticks) <= 9:
            ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            ax.minorticks_off()
    ax.set_xlabel(x, color=INK)
    ax.set_ylabel(y, color=INK)
    ax.grid(alpha=0.22, lw=0.7)
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(colors=MUTED, labelcolor=INK)
    if any(lines):
        ax.legend(frameon=False, fontsize=8, labelcolor=INK)
    return ax
