"""What is going on, told to whoever asks."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from snu_plugin.accepted import shown

Say = Callable[[str], None]


@contextmanager
def told(progress: Say | bool, updates: int) -> Iterator[Say]:
    """Return what is called with sentences; those that begin with ``3 of 20`` count updates.

    Args:
        progress: What is told them; ``True`` shows them on standard error, with the time left;
            ``False`` does nothing.
        updates: How many there will be.
    """
    if not isinstance(progress, bool):
        if not callable(progress):
            raise TypeError(
                f"progress is {shown(progress)}; give True, False, or what is called with sentences"
            )
        yield progress
        return
    if not progress:
        yield lambda text: None
        return
    from tqdm import tqdm

    with tqdm(total=updates, bar_format="{desc}, {elapsed} gone, {remaining} to go") as bar:

        def say(text: str) -> None:
            counted = re.match(r"(\d+) of \d+\b", text)
            bar.set_description_str(text, refresh=False)
            bar.update(0 if counted is None else int(counted[1]) - bar.n)
            bar.refresh()

        yield say
