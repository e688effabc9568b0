"""Makes pair_test.txt, the list of pairs that are tested on though their emoji is trained on in another style.

    python benchmarks/paper/make_data.py split SHARDS

A tenth of the pairs outside the by-concept test split, by a hash of codepoints and style; without those whose emoji would then be
in no style of the training data, for these would be unseen concepts.
"""

import argparse
import hashlib
from collections import Counter
from pathlib import Path

HERE = Path(__file__).parent
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


def main():
    top = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    kinds = top.add_subparsers(dest="kind", required=True)
    split = kinds.add_parser("split", help="writes pair_test.txt")
    split.add_argument("shards", help="folder of the .tar shards")
    args = top.parse_args()
    from textok.train.data import load_pairs

    keys = pair_test_keys(load_pairs(args.shards).records)
    SPLIT_FILE.write_text("".join(f"{key}\n" for key in keys))
    print(f"{len(keys)} pairs in {SPLIT_FILE}")


if __name__ == "__main__":
    main()
