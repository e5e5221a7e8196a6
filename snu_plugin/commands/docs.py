"""``snu docs``: the documentation in a browser."""

from __future__ import annotations

import argparse
from pathlib import Path

import snu_plugin
from snu_plugin.commands.answers import say
from snu_plugin.commands.command import Command
from snu_plugin.commands.shared import add

SITE = Path(snu_plugin.__file__).with_name("site")
"""A wheel has it; in a clone ``docs/make/build_site.py`` makes it."""


def first_page() -> Path:
    """Return the page to open.

    Raises:
        LookupError: If the documentation is not built here.
    """
    page = SITE / "index.html"
    if not page.is_file():
        raise LookupError(
            f"there is no built documentation in {SITE.parent}; wheels bring it; in a clone type: "
            "pip install -e '.[docs]' && python docs/make/build_site.py"
        )
    return page


def run(options: argparse.Namespace) -> int:
    import webbrowser

    page = first_page()
    say(options, {"page": str(page)}, page)
    webbrowser.open(page.as_uri())
    return 0


def arguments(command: argparse.ArgumentParser) -> None:
    add(command, "--json")


COMMAND = Command("docs", "open the documentation in a browser, from disk", "", arguments, run)
