"""Datasets in and out, as plain functions on iterators and NumPy arrays."""

from .sources import Sample, Skip, Source, open_sources, read_samples

__all__ = ["Sample", "Skip", "Source", "open_sources", "read_samples"]
