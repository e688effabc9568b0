"""Progress bars, for whatever takes more than two seconds."""

from typing import Any, Self


def progress_bar(progress: bool, total: int | None, unit: str) -> Any:
    """A tqdm bar, or one that does nothing where `progress` is false; a context manager with `update`."""
    if not isinstance(progress, bool):
        raise TypeError(f"progress: expected True or False, got {type(progress).__name__} {progress!r}")
    if not progress:
        return _NoBar()
    from tqdm.auto import tqdm

    return tqdm(total=total, unit=unit)


class _NoBar:
    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, count: int = 1) -> None:
        pass
