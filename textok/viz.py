"""The public name of `textok.pictures.plots`: plots and picture grids through matplotlib (extra "viz")."""

from .pictures.plots import axes, curve, difference, grid, mosaic, reconstructions

__all__ = ["axes", "curve", "difference", "grid", "mosaic", "reconstructions"]
