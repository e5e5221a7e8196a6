"""A line on a terminal that says what is going on."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from snu_plugin.durations import span

Say = Callable[[str], None]
"""What is told, in a sentence, what is going on; one that begins with ``3 of 10`` counts."""


class Left:
    """The time left, from sentences that count: ``3 of 10 chips done``.

    It counts from the first such sentence, so that what a run taken up had done takes no time.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._first: tuple[float, int] | None = None
        self.told = ""
        """What is left in words; empty until two sentences have counted."""

    def hear(self, text: str) -> None:
        """Take up a sentence; most say nothing of how much is done."""
        counted = re.match(r"(\d+) of (\d+)\b", text)
        if counted is None:
            return
        done, whole = int(counted[1]), int(counted[2])
        if self._first is None or done < self._first[1]:
            self._first = self._now(), done
        began, first = self._first
        if done > first:
            seconds = (self._now() - began) / (done - first) * (whole - done)
            self.told = f"about {span(max(1.0, round(seconds)))} to go" if whole > done else ""


class Progress:
    """``with Progress() as progress: progress("half done")``; shows nothing without a terminal."""

    def __enter__(self) -> Say:
        from tqdm import tqdm

        # disable=None: tqdm shows nothing where standard error is not a terminal.
        self.bar = tqdm(bar_format="{elapsed} {desc}", disable=None, leave=False)
        self.left = Left()
        return self._say

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def _say(self, text: str) -> None:
        self.left.hear(text)
        self.bar.set_description_str(", ".join(filter(None, (text, self.left.told))))
        self.bar.refresh()


def remaining(progress: Say, name: str, epochs: int) -> Callable[[float], None]:
    """Return what is called with the epochs gone and tells, every other second, how long it takes.

    The estimate counts from the second call: a run taken up is told right, and what is compiled for
    the first batch is not taken for the time of a batch.
    """
    calls: list[tuple[float, float]] = []
    last = time.monotonic()

    def tell(gone: float) -> None:
        nonlocal last
        now = time.monotonic()
        if len(calls) < 2:
            calls.append((now, gone))
            return
        began, first = calls[1]
        if gone > first and now - last >= 2:
            last = now
            left = (now - began) / (gone - first) * (epochs - gone)
            progress(f"{name}, {gone:.2f} of {epochs} epochs, about {left / 60:.0f} min to go")

    return tell
