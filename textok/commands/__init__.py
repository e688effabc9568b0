"""The commands of the shell, one module each.

A command module is light to import (what is heavy, it imports in `run`) and has: a docstring whose
first line is the help and whose rest the description, `EXAMPLE`, `add_arguments(parser)` and
`run(args)`, which returns nothing and raises on failure. `EXTRA`, where there is one, names the extra whose
packages it needs.
"""

COMMANDS = (
    "demo", "info", "embed", "encode", "decode", "sample", "stats", "eval", "report", "convert", "pipeline", "train", "export",
    "bench",
)  # fmt: skip
