"""One run that fills an embedding store: what is not there yet, batch by batch, shared with all others that write it."""

import itertools
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ..progress import progress_bar
from .batches import Encoder, by_length
from .segments import Writer
from .stored_entries import StoredEntries

WINDOW = 64  # batches of captions that are sorted by length together
POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Embedded:
    """What `EmbeddingStore.embed` did.

    Attributes
    ----------
    read, embedded, truncated
        Captions that came in; how many of them were embedded now, the others being there already, coming a second time or
        embedded by another writer; and how many of those embedded now were longer than the encoder takes.
    longest
        The most tokens that one of those embedded now would have had.
    seconds
        From the first caption to the last.
    """

    read: int
    embedded: int
    truncated: int
    longest: int
    seconds: float


class EmbedRun:
    """See `EmbeddingStore.embed`."""

    def __init__(self, entries: StoredEntries, encoder: Encoder, batch_size: int) -> None:
        self.entries, self.encoder, self.batch_size = entries, encoder, batch_size
        self.read = self.embedded = self.truncated = self.longest = 0

    def fill(self, captions: Iterable[str], progress: bool) -> Embedded:
        began = time.monotonic()
        source = iter(captions)
        with Writer(self.entries.index) as writer, progress_bar(progress, None, "caption") as bar:
            later: list[list[str]] = []  # what others are embedding
            while window := list(itertools.islice(source, self.batch_size * WINDOW)):
                self.read += len(window)
                done = 0
                for batch in self._batches(window):
                    later.append(self._attempt(writer, batch))
                    done += len(batch)
                    bar.update(len(batch))
                bar.update(len(window) - done)
                later = self._retry(writer, later)
            while later := self._retry(writer, later):
                time.sleep(POLL_SECONDS)
        return Embedded(self.read, self.embedded, self.truncated, self.longest, time.monotonic() - began)

    def _batches(self, window: list[str]) -> Iterator[list[str]]:
        """The distinct captions of a window, sorted by length, in parts; what is stored already is then left out.

        In this order, so that a rerun, for which more is stored, cuts the same batches.
        """
        captions = list(dict.fromkeys(window))
        places = self.entries.find(captions)
        unknown = [caption for caption, place in zip(captions, places) if place is None]
        fresh = iter(self.encoder.tokenize(unknown)[0])
        lengths = [len(next(fresh)) if place is None else self.entries.count(place) for place in places]
        for part in by_length(lengths, self.batch_size):
            if batch := [captions[number] for number in part if places[number] is None]:
                yield batch

    def _attempt(self, writer: Writer, batch: list[str]) -> list[str]:
        """Embed those of a batch that nobody has done or is doing; returns those that somebody is doing."""
        claimed = writer.claim(self.entries.keys(batch))
        captions = [batch[place] for place in claimed.mine]
        if captions:
            ids, whole = self.encoder.tokenize(captions)
            rows = self.encoder.run(ids)
            writer.append([self.entries.made(*entry) for entry in zip(captions, rows, whole, strict=True)])
            self.embedded += len(captions)
            self.truncated += sum(count > len(tokens) for count, tokens in zip(whole, ids))
            self.longest = max(self.longest, *whole)
        return [batch[place] for place in claimed.others]

    def _retry(self, writer: Writer, later: list[list[str]]) -> list[list[str]]:
        return [rest for batch in later if batch and (rest := self._attempt(writer, batch))]
