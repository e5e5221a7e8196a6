"""``snu zoo``: trained networks that come along, each with its card."""

from __future__ import annotations

import argparse
from pathlib import Path

from snu_plugin.commands.answers import say
from snu_plugin.commands.command import Command
from snu_plugin.commands.shared import add
from snu_plugin.usage import path


def arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("what", choices=("list", "get"), nargs="?", help="default: list")
    command.add_argument("name", metavar="NAME", nargs="?", help="list: show its card; get: copy")
    command.add_argument("--out", type=path, default=Path(), help="get: a folder, or a file (here)")
    add(command, "--json")


def run(options: argparse.Namespace) -> int:
    from snu_plugin import zoo

    if options.what == "get":
        if options.name is None:
            raise ValueError(f"no network is named; give one of {', '.join(zoo.cards())}")
        path, card = zoo.get(options.name, options.out), zoo.card(options.name)
        say(options, {"graph": str(path), "card": card.to_dict()}, f"{path}\n\n{card}")
    elif options.name is not None:
        card = zoo.card(options.name)
        say(options, card.to_dict(), card)
    else:
        say(options, [card.to_dict() for card in zoo.cards().values()], zoo.listed())
    return 0


COMMAND = Command(
    "zoo", "trained networks that come along, each with its card", "get jsb-snu", arguments, run
)
