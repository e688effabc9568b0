"""Makes what stands in data/: the shards in a lossless smaller form, and the list of the by-pair test split.

    python experiments/emoji/make_data.py SHARDS

SHARDS holds google.tar, twitter.tar, fluent.tar and labels.json, with samples of KEY.png and KEY.json. Each becomes NAME.tar.gz
with KEY.webp (lossless) and KEY.json. digests.json keeps a hash of the pixels and the fields of every shard as they were
before.

pair_test.txt: a tenth of the pairs outside the by-concept test split, by a hash of codepoints and style; without those whose
emoji would then be in no style of the training data, for these would be unseen concepts.
"""

import argparse
import gzip
import hashlib
import io
import json
import shutil
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

HERE = Path(__file__).parent
DATA = HERE / "data"
SPLIT_FILE = HERE / "pair_test.txt"
SHARE = 10


def is_chosen(record):
    """Whether the hash of a pair chooses it."""
    digest = hashlib.sha256(f"{record['codepoints']} {record['style']}".encode()).hexdigest()
    return int(digest, 16) % SHARE == 0


def pair_test_keys(records):
    """The keys of the by-pair test split, sorted."""
    rest = [record for record in records if record["split"] == "train"]
    seen = Counter(record["codepoints"] for record in rest if not is_chosen(record))
    return sorted(record["key"] for record in rest if is_chosen(record) and seen[record["codepoints"]])


def samples(shard):
    """(key, pixels uint8 [S,S,3], fields) of every sample of a shard, compressed or not, in its order."""
    parts = {}
    with tarfile.open(shard, "r:*") as tar:
        for member in tar:
            key, _, kind = member.name.rpartition(".")
            parts.setdefault(key, {})[kind] = tar.extractfile(member).read()
    for key, files in parts.items():
        picture = Image.open(io.BytesIO(files.get("webp") or files["png"]))
        yield key, np.array(picture.convert("RGB")), json.loads(files["json"])


def digest(shard):
    """A hash of all keys, pixels and fields of a shard, whatever form they are in."""
    total = hashlib.sha256()
    for key, pixels, fields in samples(shard):
        told = json.dumps([key, pixels.shape, fields], sort_keys=True, ensure_ascii=False)
        total.update(told.encode() + pixels.tobytes())
    return total.hexdigest()


def repack(shard, out):
    """Writes the samples of `shard` as lossless WebP and compact JSON to `out`, a .tar.gz; the same bytes each time."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for key, pixels, fields in tqdm(samples(shard), desc=Path(shard).name, disable=None):
            picture = io.BytesIO()
            Image.fromarray(pixels).save(picture, "webp", lossless=True, quality=100, method=6)
            told = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()
            for kind, content in (("webp", picture.getvalue()), ("json", told)):
                member = tarfile.TarInfo(f"{key}.{kind}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    Path(out).write_bytes(gzip.compress(buffer.getvalue(), 9, mtime=0))


def main():
    top = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    top.add_argument("shards", type=Path, help="folder of google.tar, twitter.tar, fluent.tar and labels.json")
    args = top.parse_args()
    DATA.mkdir(exist_ok=True)
    digests, records = {}, []
    for shard in sorted(args.shards.glob("*.tar")):
        digests[shard.stem] = digest(shard)
        repack(shard, DATA / f"{shard.stem}.tar.gz")
        records += [{"key": key} | fields for key, _, fields in samples(shard)]
    (DATA / "digests.json").write_text(json.dumps(digests, indent=1) + "\n")
    shutil.copyfile(args.shards / "labels.json", DATA / "labels.json")
    SPLIT_FILE.write_text("".join(f"{key}\n" for key in pair_test_keys(records)))
    size = sum(file.stat().st_size for file in DATA.iterdir())
    print(f"{len(records)} samples, {size / 1e6:.1f} MB in {DATA}; {len(pair_test_keys(records))} keys in {SPLIT_FILE}")


if __name__ == "__main__":
    main()
