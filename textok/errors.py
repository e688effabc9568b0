"""The exceptions of textok's own. Wrong arguments raise Python's ValueError and TypeError."""


class TextokError(Exception):
    """Base of the errors that textok defines."""


class ConfigError(TextokError, ValueError):
    """A model's configuration has a value that is missing, unknown, out of range or does not fit the others."""


class WeightsError(TextokError, ValueError):
    """A model's files cannot be found or read, or their tensors are not those that its configuration asks for."""


class DataError(TextokError, ValueError):
    """A dataset's files cannot be found or read, or are not what an earlier run saw."""
