"""``snu docs``: the documentation in a browser."""

from __future__ import annotations

import argparse

from snu_plugin.commands.answers import say
from snu_plugin.commands.command import Command
from snu_plugin.commands.shared import add_json


def run(options: argparse.Namespace) -> int:
    import webbrowser

    from snu_plugin.experiments import docs

    page = docs.first_page()
    say(options, {"page": str(page)}, page)
    webbrowser.open(page.as_uri())
    return 0


COMMAND = Command("docs", "open the documentation in a browser, from disk", "", add_json, run)
