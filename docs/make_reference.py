"""Writes what docs/python.md and docs/shell.md say of each name and command: from docstrings and parsers.

    python docs/make_reference.py           after a docstring, a signature or an option has changed
    python docs/make_reference.py --check   says which page is behind, and changes nothing

A page is by hand down to the line MARK, and made from there on.
"""

import argparse
import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
MARK = "<!-- From here on by docs/make_reference.py: change the docstring or the parser, then run it. -->\n"
PYTHON = ("textok", "textok.data", "textok.metrics", "textok.networks", "textok.viz", "textok.ray")
SECTION = re.compile(r"^(\w[\w ]*)\n-{3,}\n", re.MULTILINE)


# --- Python -------------------------------------------------------------------------------------------------------------------


def public_names(module: Any) -> list[str]:
    """What a module offers, in the order of its pages: classes first, as they are what functions take and give."""
    names = sorted(module.__all__)
    return sorted(names, key=lambda name: not inspect.isclass(getattr(module, name)))


def members(kind: type) -> Iterator[tuple[str, Any]]:
    """Public methods and properties that a class or its bases in textok define, in the order of the source."""
    seen = set(dir(object)) | set(dir(Exception))
    for base in kind.__mro__:
        if base.__module__.split(".")[0] != "textok":
            continue
        for name, value in vars(base).items():
            is_method = inspect.isfunction(value) or isinstance(value, (property, classmethod, staticmethod))
            if is_method and not name.startswith("_") and name not in seen:
                seen.add(name)
                yield name, value


def parameters(call: Any) -> str:
    """`(x, text=None, *, out=None)`: names and defaults, without types, which the text tells."""
    try:
        signature = inspect.signature(call)
    except ValueError:
        return "(...)"
    plain = [one.replace(annotation=inspect.Parameter.empty) for one in signature.parameters.values() if one.name != "self"]
    return re.sub(
        r"<object object at 0x\w+>", "...", str(signature.replace(parameters=plain, return_annotation=inspect.Signature.empty))
    )


def as_list(body: str) -> str:
    """A section of names with indented texts as a list; lines without such a text stay as they are."""
    lines, result = body.strip("\n").split("\n"), []
    for line, after in zip(lines, [*lines[1:], ""], strict=True):
        if line.startswith("    "):
            result.append(line)
        elif line and after.startswith("    "):
            is_plain = re.fullmatch(r"[\w*, ]+", line)
            result.append("- " + (", ".join(f"`{name.strip()}`" for name in line.split(",")) if is_plain else line) + ":")
        else:
            result.append(line)
    return "\n".join(result)


def render(text: str) -> str:
    """A docstring as Markdown."""
    pieces = SECTION.split(inspect.cleandoc(text))
    result = [pieces[0].strip()]
    for title, body in zip(pieces[1::2], pieces[2::2], strict=True):
        if title == "Examples":
            code = re.sub(r" *# doctest:.*", "", body.strip())
            result.append(f"```python\n{code}\n```")
        elif title in ("Parameters", "Raises", "Attributes", "Notes") and re.search(r"^\S[^\n]*\n +\S", body, re.MULTILINE):
            before, _, rest = body.partition("\n\n") if title == "Notes" else ("", "", body)
            result.append(f"*{title}*" + (f": {before.strip()}" if before.strip() else "") + f"\n\n{as_list(rest)}")
        else:
            result.append(f"*{title}*: {body.strip()}")
    return "\n\n".join(piece for piece in result if piece)


def entry(path: str, value: Any, level: str) -> str:
    """A name's heading, how it is called, and its docstring."""
    if isinstance(value, property):
        return f"{level} {path}\n\n{render(value.__doc__ or '')}"
    call = value.__func__ if isinstance(value, (classmethod, staticmethod)) else value
    head = parameters(call)
    if isinstance(value, classmethod):
        head = re.sub(r"^\(cls(?:, )?", "(", head)
    return f"{level} {path}\n\n```python\n{path}{head}\n```\n\n{render(inspect.getdoc(call) or '')}"


def python_page() -> str:
    parts = []
    for title in PYTHON:
        module = importlib.import_module(title)
        names = public_names(module)
        parts.append(f"## {title}")
        if title != "textok":
            parts.append(render(module.__doc__))
        for name in names:
            value, path = getattr(module, name), name if title == "textok" else f"{title.partition('.')[2]}.{name}"
            if not (inspect.isclass(value) or callable(value)):
                parts.append(f"### {path}\n\n`{value!r}`")
                continue
            parts.append(entry(path, value, "###"))
            if inspect.isclass(value):
                parts += [entry(f"{path}.{name}", member, "####") for name, member in members(value)]
    return "\n\n".join(parts) + "\n"


# --- Shell --------------------------------------------------------------------------------------------------------------------


def subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    return next((dict(a.choices) for a in parser._actions if isinstance(a, argparse._SubParsersAction)), {})


def option_row(action: argparse.Action) -> str:
    values = "\\|".join(map(str, action.choices)) if action.choices else action.metavar
    if isinstance(values, tuple):
        values = " ".join(values)
    if action.option_strings:
        value = "" if action.nargs == 0 else f" {values or action.dest.upper()}"
        name = ", ".join(action.option_strings) + value
    else:
        name = str(values or action.dest) + (" ..." if action.nargs in ("*", "+") else "")
    text = (action.help or "") % (vars(action) | {"prog": "textok"})
    needed = " **Needed.**" if action.required and action.option_strings else ""
    return f"| `{name}` | {' '.join(text.split()).replace('|', chr(92) + '|')}{needed} |"


def command_page(name: str, parser: argparse.ArgumentParser, summary: str, level: str) -> list[str]:
    parts = [f"{level} textok {name}", f"{summary[0].upper()}{summary[1:]}."]
    if parser.description and parser.description != summary:
        parts.append(parser.description)
    inner = subparsers(parser)
    helps = (
        {
            a.dest: a.help or ""
            for a in next((a for a in parser._actions if isinstance(a, argparse._SubParsersAction)), parser)._choices_actions
        }
        if inner
        else {}
    )
    rows = [option_row(a) for a in parser._actions if not isinstance(a, (argparse._HelpAction, argparse._SubParsersAction))]
    if rows:
        parts.append("\n".join(["| argument | |", "| --- | --- |", *rows]))
    if parser.epilog:
        lines = "\n".join(line.strip() for line in parser.epilog.removeprefix("example: ").split("\n"))
        parts.append(f"```\n{lines}\n```")
    for sub, one in inner.items():
        parts += command_page(f"{name} {sub}", one, helps.get(sub) or sub, level + "#")
    return parts


def shell_page() -> str:
    from textok.cli import build_parser

    top = build_parser()
    action = next(a for a in top._actions if isinstance(a, argparse._SubParsersAction))
    summaries = {a.dest: a.help or "" for a in action._choices_actions}
    parts = [
        "## The commands",
        "\n".join(
            ["| command | |", "| --- | --- |", *(f"| [`textok {n}`](#textok-{n}) | {h} |" for n, h in summaries.items())]
        ),
    ]
    for name, parser in action.choices.items():
        parts += command_page(name, parser, summaries[name], "###")
    return "\n\n".join(parts) + "\n"


def pages() -> dict[Path, str]:
    """Each page's whole text as it should be."""
    made = {HERE / "python.md": python_page(), HERE / "shell.md": shell_page()}
    return {path: path.read_text().partition(MARK)[0] + MARK + "\n" + text for path, text in made.items()}


def main() -> int:
    check = "--check" in sys.argv[1:]
    behind = [path for path, text in pages().items() if path.read_text() != text]
    for path in behind:
        print(f"{path.name} is behind" if check else f"wrote {path.name}")
        if not check:
            path.write_text(pages()[path])
    return int(check and bool(behind))


if __name__ == "__main__":
    sys.exit(main())
