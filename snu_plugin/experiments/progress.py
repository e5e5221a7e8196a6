"""A line on a terminal that says what is going on."""

from __future__ import annotations

from collections.abc import Callable


class Progress:
    """``with Progress() as say: say("half done")``; shows nothing where there is no terminal."""

    def __enter__(self) -> Callable[[str], None]:
        from tqdm import tqdm

        # disable=None: tqdm shows nothing where standard error is not a terminal.
        self.bar = tqdm(bar_format="{elapsed} {desc}", disable=None, leave=False)
        return self._say

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def _say(self, text: str) -> None:
        self.bar.set_description_str(text)
        self.bar.refresh()
