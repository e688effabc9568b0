"""The public name of `textok.pictures`: pictures prepared for a model, pixels from floats, contact sheets with captions."""

from .pictures.preprocess import preprocess, to_uint8
from .pictures.sheets import Entry, contact_sheet

__all__ = ["Entry", "contact_sheet", "preprocess", "to_uint8"]
