"""Datasets in and out, as plain functions on iterators and NumPy arrays.

    read_samples, open_sources         samples of shards, folders, tables and arrays, in a fixed order
    batches                            preprocessed pictures with their captions' embeddings, ready for `TexTok.encode`
    write_shards, TarWriter            WebDataset shards, the same bytes for the same samples
    read_latents, latent_statistics    latents of shards, their mean and standard deviation
    read_adm, write_adm, open_rows     ADM's sample files, and rows of .npy and .npz files
    encode, decode, sample             whole datasets: in bounded memory, on many processes and machines, safe to kill

Modules: `sources` (in), `shards`, `rows` and `parts` (out), `jobs` (runs that may be killed), `tasks` (what is done with a
sample), `runs` (processes, the bar), `batching` and `statistics`.
"""

from .batching import Batch, batches
from .jobs import Summary
from .latent_statistics import LatentStatistics, latent_statistics
from .rows import open_rows, read_adm, write_adm
from .runs import decode, encode, sample
from .shards import Latent, TarWriter, read_latents, write_shards
from .sources import Sample, Skip, Source, open_sources, read_samples

__all__ = [
    "Batch",
    "Latent",
    "LatentStatistics",
    "Sample",
    "Skip",
    "Source",
    "Summary",
    "TarWriter",
    "batches",
    "decode",
    "encode",
    "latent_statistics",
    "open_rows",
    "open_sources",
    "read_adm",
    "read_latents",
    "read_samples",
    "sample",
    "write_adm",
    "write_shards",
]
