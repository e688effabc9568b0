"""Shards read by webdataset, encoded, and written by webdataset as shards that textok reads; and the other way round.

    textok embed shards/*.tar --field caption_long --out store
    python webdataset_in_and_out.py shards/*.tar --embeddings store --field caption_long --out latents

Needs webdataset. `textok encode` does the same with several processes and goes on where it was killed; this is for pipelines
that are webdataset's already.
"""

import argparse
from pathlib import Path

import numpy as np
import webdataset as wds

import textok
from textok.conditions import full_text
from textok.data import read_latents


def encode_shards(urls, model, embeddings, out, field="caption", batch_size=32, per_shard=1000):
    """Writes KEY.npz with `latent` and KEY.json for each KEY.png (or .jpg, .webp) and KEY.json; returns the shards."""
    dataset = (
        wds.WebDataset(urls, shardshuffle=False)
        .decode("pil")
        .to_tuple("__key__", "png;jpg;jpeg;webp", "json")
        .batched(batch_size)
    )
    Path(out).mkdir(parents=True, exist_ok=True)
    with wds.ShardWriter(str(Path(out) / "latents-%06d.tar"), maxcount=per_shard, verbose=0) as writer:
        for keys, pictures, metadata in dataset:
            text, lengths = embeddings.embeddings([known[field] for known in metadata])
            text = full_text(text, model.config.num_text_tokens, model.config.text_mask)
            latents = model.encode(textok.preprocess(list(pictures), model.config.image_size), text, lengths)
            for key, latent, known in zip(keys, latents, metadata):
                writer.write({"__key__": key, "npz": {"latent": latent}, "json": known})
    return sorted(map(str, Path(out).glob("latents-*.tar")))


def decode_shards(shards, model, embeddings, field="caption"):
    """Yields (key, picture uint8 [S,S,3]) of shards with latents, whoever wrote them."""
    for key, latent, _, metadata, _ in read_latents(shards):
        text, lengths = embeddings.embeddings([metadata[field]])
        text = full_text(text, model.config.num_text_tokens, model.config.text_mask)
        yield key, model.decode(latent[None], text, lengths)[0]


def loader_of(shards, batch_size=32):
    """(latents [B,N,d], metadata) in batches, of shards that `textok encode` or `encode_shards` wrote, for a training loop."""
    dataset = wds.WebDataset(shards, shardshuffle=False).decode().to_tuple("npz", "json")
    for files, metadata in dataset.batched(batch_size):
        yield np.stack([file["latent"] for file in files]), list(metadata)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shards", nargs="+")
    parser.add_argument("--model", default="emoji-textok")
    parser.add_argument("--embeddings", required=True)
    parser.add_argument("--field", default="caption")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    model, embeddings = textok.TexTok.from_pretrained(args.model), textok.open_embeddings(args.embeddings)
    shards = encode_shards(args.shards, model, embeddings, args.out, args.field)
    latents, metadata = next(loader_of(shards))
    print(f"{len(shards)} shards; a batch: {latents.shape}, the first is {metadata[0][args.field][:60]!r}")


if __name__ == "__main__":
    main()
