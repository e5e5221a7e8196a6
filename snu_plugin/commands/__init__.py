"""The commands of ``snu``, a file each: what can be typed after it, and what it does then.

A new one is one more file with a ``COMMAND``, and its place in ``COMMANDS`` and ``HELP``.
"""

from __future__ import annotations

import argparse

import snu_plugin
from snu_plugin.commands import (
    bench,
    demo,
    docs,
    doctor,
    info,
    life,
    map,
    reproduce,
    run,
    simulators,
    tune,
    verify,
    zoo,
)
from snu_plugin.commands.command import Command
from snu_plugin.commands.shared import check_graph
from snu_plugin.usage import Parser

__all__ = ["COMMANDS", "Command", "check_graph", "parser"]

COMMANDS: dict[str, Command] = {
    part.COMMAND.name: part.COMMAND
    for part in (
        demo,
        verify,
        map,
        run,
        life,
        tune,
        reproduce,
        bench,
        doctor,
        simulators,
        zoo,
        docs,
        info,
    )
}
"""What can be typed after ``snu``."""

HELP = {
    "to begin with": ("demo", "zoo", "docs"),
    "a network": ("verify", "doctor"),
    "a network on chips": ("map", "run", "life", "tune"),
    "measured": ("reproduce", "bench"),
    "what is installed": ("info", "simulators"),
}
"""The commands as ``snu --help`` lists them; each stands once."""


def _listed() -> str:
    """Return the commands under the titles of ``HELP``, a line each."""
    blocks = (
        "\n".join([f"{title}:", *(f"  {name:<12}{COMMANDS[name].text}" for name in names)])
        for title, names in HELP.items()
    )
    return "\n\n".join([*blocks, "snu COMMAND --help says more"])


def parser() -> Parser:
    """Return the parser of ``snu``; ``command`` in what it parses names the command."""
    snu = Parser(
        prog="snu",
        description="Spiking Neural Units for snnTorch and Norse, exchanged through NIR,\n"
        "mapped onto phase-change memory.",
        epilog=_listed(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    snu.add_argument("--version", action="version", version=f"snu {snu_plugin.__version__}")
    commands = snu.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        example = f"example: snu {name} {command.example}".rstrip()
        command.arguments(
            commands.add_parser(name, help=command.text, description=command.text, epilog=example)
        )
    return snu
