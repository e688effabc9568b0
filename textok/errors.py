"""The exceptions of textok's own. Wrong arguments raise Python's ValueError and TypeError."""


class TextokError(Exception):
    """Base of the errors that textok defines."""


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
