"""The training's pictures as one shard: 64 pixels, what no training reads left out.

    python experiments/pictures/pack.py --pictures SHARDS --emoji SHARDS --out pictures64.tar
    python experiments/pictures/pack.py ... --out pictures64.tar.gz --quality 90 --limit 64   where no more may be sent
    python experiments/pictures/pack.py ... --out eighth.tar --share 0.125                    captions of an eighth to read from
    python experiments/pictures/pack.py ... --out measured.tar --styles                       for experiments/emoji/claim.py
    python experiments/pictures/pack.py ... --out things.tar --mirror                         twice as much to train on
    python experiments/pictures/pack.py --emoji experiments/emoji/data --out emoji.tar --mirror         the emoji alone

Of both folders what README.md says is trained on, and the test pictures (marked so), as lossless WebP unless told otherwise:
lossy WebP halves the resolution of colours, which at 64 pixels leaves 32 dB of an emoji and 37 of others.
"""

import argparse
import hashlib
import io
import json
import re
import tarfile
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from textok.data.sources import open_sources
from textok.train import data

HERE = Path(__file__).parent
LEFT_OUT = {"cdda", "crawl", "fugue"}  # small pixel art: its blocks would be learnt
STYLES = {"emojione", "sweethome3d"}  # that no training reads
CAPTIONS = ("caption", "caption_name", "caption_long")
FIELDS = (*CAPTIONS, "label", "source")
SIDES = {"left": "right", "right": "left", "Left": "Right", "Right": "Left"}
WRITTEN = re.compile(r"\((symbols|flags)\b")  # letters, arrows' names, flags: no such thing the other way round


def chance(key, purpose=""):
    """A number from 0 to 1 that is always the same for a key."""
    return int(hashlib.sha256(f"{purpose}{key}".encode()).hexdigest(), 16) / 2**256


def split_of(key, fields, lists, share):
    """"train", "test", "style", or None of what is in no training: most glyphs in two colours, and all but a `share`."""
    if fields["source"] in LEFT_OUT or key in lists["left_out"]:
        return None
    if fields["source"] in STYLES:
        return "style" if key in lists["style"] else None
    if fields["source"] == "mono" and chance(key) >= 1 / 3:
        return None
    if key in lists["test"] or fields.get("split") != "train":
        return "test"
    return "train" if chance(key, "share ") < share else None


def mirrored(fields):
    """The captions of a picture's mirror image, which has at its right what this has at its left."""
    swapped = {name: re.sub(r"\b(?:[Ll]eft|[Rr]ight)\b", lambda word: SIDES[word[0]], fields[name])
               for name in CAPTIONS if name in fields}
    return fields | swapped


def add(tar, key, pixels, told, quality=None):
    """Append a sample, WebP (lossless without `quality`) and JSON, to an open tar."""
    picture = io.BytesIO()
    how = {"lossless": True} if quality is None else {"quality": quality}
    Image.fromarray(pixels).save(picture, "webp", method=4, **how)
    parts = {"webp": picture.getvalue(), "json": json.dumps(told, separators=(",", ":")).encode()}
    for kind, content in parts.items():
        member = tarfile.TarInfo(f"{key}.{kind}")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))


def write(folders, out, size, splits, share, only=(), mirror=False, quality=None):
    """Write the shard `out` of {source or "": folder} with pictures of `splits`, with `mirror` beside each one of training its
    mirror image, key KEY-mirrored; returns how many are in it.
    """
    lists = {name: set((HERE / f"{name}.txt").read_text().split()) for name in ("test", "style", "left_out")}
    count = 0
    with tarfile.open(out, "w:gz" if str(out).endswith(".gz") else "w", format=tarfile.USTAR_FORMAT) as tar:
        for source, folder in folders.items():
            events = data.events(open_sources(sorted(Path(folder).glob("*.tar*"))), "caption_long", "", [])
            for sample, _ in tqdm(events, desc=str(folder), disable=None):
                fields = dict(sample.metadata) | ({"source": source} if source else {})
                split = split_of(sample.key, fields, lists, share)
                if split not in splits or (only and fields["source"] not in only):
                    continue
                pixels = data.decode(sample, size)
                if isinstance(pixels, str):
                    raise ValueError(f"{sample.source}: {sample.key}: {pixels}")
                told = {name: fields[name] for name in FIELDS if fields.get(name) is not None} | {"split": split}
                add(tar, sample.key, pixels, told, quality)
                count += 1
                if mirror and split == "train" and not WRITTEN.search(told.get("caption_long", "")):
                    add(tar, f"{sample.key}-mirrored", pixels[:, ::-1], mirrored(told), quality)
                    count += 1
    return count


def main():
    top = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    top.add_argument("--pictures", type=Path, help="folder of the sources' shards (default: none of them)")
    top.add_argument("--emoji", type=Path, help="folder of the emoji's (default: none)")
    top.add_argument("--out", type=Path, required=True, help="a .tar; it is compressed where it ends in .gz")
    top.add_argument("--size", type=int, default=64)
    top.add_argument("--quality", type=int, help="of lossy WebP; 90 fits 64 MiB (default: lossless)")
    top.add_argument("--limit", type=float, help="MiB that it may have (default: as many as it takes)")
    top.add_argument("--share", type=float, default=1.0, help="of the training pictures, by a hash (default: all)")
    top.add_argument("--only", action="append", default=[], metavar="SOURCE", help="again for each source (default: all)")
    top.add_argument("--styles", action="store_true", help="also the test pictures of styles that no training reads")
    top.add_argument("--mirror", action="store_true", help="mirror images too, left and right exchanged in their captions")
    args = top.parse_args()
    splits = {"train", "test"} | ({"style"} if args.styles else set())
    folders = {source: folder for source, folder in (("", args.pictures), ("emoji", args.emoji)) if folder}
    if not folders:
        top.error("expected --pictures, --emoji or both, got neither")
    count = write(folders, args.out, args.size, splits, args.share, args.only, args.mirror, args.quality)
    size = args.out.stat().st_size / 2**20
    print(f"{args.out}: {count} samples, {size:.1f} MiB")
    if args.limit and size > args.limit:
        raise SystemExit(f"{args.out}: expected at most {args.limit:g} MiB, got {size:.1f}")


if __name__ == "__main__":
    main()
