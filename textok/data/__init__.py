"""Datasets in and out, as plain functions on iterators and NumPy arrays.

    read_samples, open_sources         samples of shards, folders, tables and arrays, in a fixed order
    batches                            preprocessed pictures with their captions' embeddings, ready for `TexTok.encode`
    write_shards, TarWriter            WebDataset shards, the same bytes for the same samples
    read_latents, latent_statistics    latents of shards, their mean and standard deviation
    read_adm, write_adm, open_rows     ADM's sample files, and rows of .npy and .npz files
    encode, decode, sample             whole datasets: in bounded memory, on many processes and machines, safe to kill

Modules, each reading those before it:

    base                             what a sample, a skip and a source are
    shards, folders, tables, rows    sources by their kind, and what writes them; payloads: what their files hold
    sources                          what paths are; latents, latent_statistics
    fingerprint, conditioning        what results depend on; what a model is given beside pictures
    options, outputs, resumable      how a run goes, what it writes, what of it survives a kill
    job, work, running, on_ray       a run: its units, doing them, on this machine, on a cluster
    encode, decode, sample           each a story from its first line to its last
    batching, ray_encoder            for code of one's own
"""

from .base import Sample, Skip, Source
from .batching import Batch, batches
from .decode import decode
from .encode import encode
from .latent_statistics import LatentStatistics, latent_statistics
from .latents import Latent, read_latents
from .options import RunOptions
from .rows import open_rows, read_adm, write_adm
from .running import Summary
from .sample import sample
from .shards import TarWriter, write_shards
from .sources import open_sources, read_samples

__all__ = [
    "Batch",
    "Latent",
    "LatentStatistics",
    "RunOptions",
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
