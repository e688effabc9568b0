"""What a Python process that a test starts has to know."""

import os
from pathlib import Path

import textok


def environment(*folders, **variables):
    """This process's, in which Python finds the textok under test and the modules of `folders`; with `variables`, strings."""
    path = [str(Path(textok.__file__).parents[1]), *map(str, folders)]
    if before := os.environ.get("PYTHONPATH"):
        path.append(before)
    return os.environ | {"PYTHONPATH": os.pathsep.join(path)} | variables
