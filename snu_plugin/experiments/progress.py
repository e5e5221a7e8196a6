"""A line on a terminal that says what is going on."""

from __future__ import annotations

import time
from collections.abc import Callable

Say = Callable[[str], None]
"""What is told, in a sentence, what is going on."""


class Progress:
    """``with Progress() as progress: progress("half done")``; shows nothing without a terminal."""

    def __enter__(self) -> Say:
        from tqdm import tqdm

        # disable=None: tqdm shows nothing where standard error is not a terminal.
        self.bar = tqdm(bar_format="{elapsed} {desc}", disable=None, leave=False)
        return self._say

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def _say(self, text: str) -> None:
        self.bar.set_description_str(text)
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
