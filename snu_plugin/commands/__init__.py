"""The commands of ``snu``, a file for each title of its help: what can be typed after it.

A new one is one more ``Command`` in the file of its title, with its place in ``COMMANDS`` and in
``HELP``.
"""

from __future__ import annotations

import argparse

import snu_plugin
from snu_plugin.commands import begin, chips, installed, measured, network, tune
from snu_plugin.commands.shared import Command, check_graph
from snu_plugin.usage import Parser

__all__ = ["COMMANDS", "Command", "check_graph", "parser"]

COMMANDS: dict[str, Command] = {
    command.name: command
    for command in (
        begin.DEMO,
        network.VERIFY,
        chips.MAP,
        chips.RUN,
        chips.LIFE,
        tune.TUNE,
        measured.REPRODUCE,
        measured.BENCH,
        network.DOCTOR,
        installed.SIMULATORS,
        begin.ZOO,
        begin.DOCS,
        installed.INFO,
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
