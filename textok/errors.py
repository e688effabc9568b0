"""The exceptions of textok's own. Wrong arguments raise Python's ValueError and TypeError."""

_MOST = 2000  # characters of a message: a name in a hostile file may have millions


class TextokError(Exception):
    """Base of the errors that textok defines. What they say is one line, whatever the names in it."""

    def __init__(self, *args: object) -> None:
        super().__init__(*(told(part, _MOST) if isinstance(part, str) else part for part in args))


class ConfigError(TextokError, ValueError):
    """A model's configuration has a value that is missing, unknown, out of range or does not fit the others."""


class WeightsError(TextokError, ValueError):
    """A model's files cannot be found or read, or their tensors are not those that its configuration asks for."""


class DataError(TextokError, ValueError):
    """A dataset's files cannot be found or read, or are not what an earlier run saw."""


def shown(value: object, most: int = 80) -> str:
    """`repr(value)` for an error message: short, and whatever came."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested too deeply; a number of thousands of digits
        text = f"a {type(value).__name__} that cannot be shown"
    return text if len(text) <= most else text[: most - 3] + "..."


def told(text: str, most: int = 120) -> str:
    """A name or a reason from a file for an error message: one line, short, and nothing in it that a terminal obeys."""
    if len(text) > 2 * most:  # a name in a file may have megabytes
        text = text[:most] + text[-most:]
    line = "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)
    end = most // 3
    return line if len(line) <= most else f"{line[: most - end - 3]}...{line[-end:]}"
