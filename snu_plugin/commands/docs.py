"""``snu docs``: the documentation in a browser."""

from __future__ import annotations

import argparse

from snu_plugin.commands.command import Command


def run(_: argparse.Namespace) -> int:
    import webbrowser

    from snu_plugin.experiments import docs

    page = docs.first_page()
    print(page)
    webbrowser.open(page.as_uri())
    return 0


COMMAND = Command("docs", "open the documentation in a browser, from disk", "", lambda _: None, run)
