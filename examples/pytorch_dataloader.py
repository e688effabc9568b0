"""Pictures through PyTorch's DataLoader into a TexTok, and its latents out of one again, as a training loop reads them.

    textok embed shards/ --field caption_long --out store
    python pytorch_dataloader.py shards/ --embeddings store --field caption_long

Needs torch. The workers read, decode and crop; the engine runs in the main process, on all its threads.
"""

import argparse
import io
import itertools

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

import textok
from textok.conditions import full_text
from textok.data import read_samples


class Pictures(IterableDataset):
    """(key, picture uint8 [S,S,3], caption) of each sample; workers take turns, and leave out what does not decode."""

    def __init__(self, paths, size, field="caption"):
        self.paths, self.size, self.field = paths, size, field

    def __iter__(self):
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        samples = read_samples(self.paths, need=("picture", "caption"), field=self.field)
        for sample in itertools.islice(samples, first, None, step):
            try:
                picture = textok.preprocess([Image.open(io.BytesIO(sample.picture))], self.size)[0]
            except (ValueError, OSError) as problem:
                print(f"left out {sample.key}: {problem}")
                continue
            yield sample.key, torch.from_numpy(picture), sample.caption(self.field)


def collate(samples):
    keys, pictures, captions = zip(*samples)
    return list(keys), torch.stack(pictures), list(captions)


def encode(model, paths, embeddings, field="caption", batch_size=32, workers=2):
    """Keys, latents [n,N,d] and captions of all pictures."""
    loader = DataLoader(Pictures(paths, model.config.image_size, field), batch_size, collate_fn=collate, num_workers=workers)
    found = []
    for keys, pictures, captions in loader:
        text, lengths = embeddings.embeddings(captions)
        text = full_text(text, model.config.num_text_tokens, model.config.text_mask)
        found.append((keys, torch.from_numpy(model.encode(pictures, text, lengths)), captions))
    keys, latents, captions = zip(*found)
    return list(itertools.chain(*keys)), torch.cat(latents), list(itertools.chain(*captions))


class Latents(Dataset):
    """Latents scaled to mean 0 and standard deviation 1 a channel, with their captions: what a DiT is trained on."""

    def __init__(self, latents, captions):
        self.mean, self.std = latents.mean((0, 1)), latents.std((0, 1))
        self.latents, self.captions = (latents - self.mean) / self.std, captions

    def __len__(self):
        return len(self.latents)

    def __getitem__(self, index):
        return self.latents[index], self.captions[index]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="+")
    parser.add_argument("--model", default="emoji-textok")
    parser.add_argument("--embeddings", required=True)
    parser.add_argument("--field", default="caption")
    args = parser.parse_args()
    model, embeddings = textok.TexTok.from_pretrained(args.model), textok.open_embeddings(args.embeddings)
    keys, latents, captions = encode(model, args.paths, embeddings, args.field)
    dataset = Latents(latents, captions)
    mean, std = np.round(dataset.mean.numpy(), 3), np.round(dataset.std.numpy(), 3)
    print(f"{len(keys)} latents {list(latents.shape[1:])}, mean {mean}, std {std}")
    for batch, words in DataLoader(dataset, batch_size=16, shuffle=True):
        print(f"a batch for a training loop: {list(batch.shape)}, {words[0][:60]!r} and {len(words) - 1} more")
        break


if __name__ == "__main__":
    main()
