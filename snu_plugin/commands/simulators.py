"""``snu simulators``: other simulators, in environments of their own."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from snu_plugin.commands.answers import say
from snu_plugin.commands.command import Command
from snu_plugin.commands.shared import add


def arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("what", choices=("install", "remove"), nargs="?", help="default: a list")
    command.add_argument("name", metavar="NAME", nargs="?", help="one of those in the list")
    add(command, "--json")


def run(options: argparse.Namespace) -> int:
    from snu_plugin import environments
    from snu_plugin.experiments import info

    def progress(text: str) -> None:
        if sys.stderr.isatty():
            print(text, file=sys.stderr)

    if options.what is not None and options.name is None:
        raise ValueError(
            f"{options.what} takes the name of a simulator, and none is given; give one"
        )
    if options.what == "install":
        path = environments.install(options.name, progress)
        answer: Any = {"installed": str(path), "packages": environments.contents(options.name)}
        text = f"{options.name} {environments.running_version(options.name)} is in {path}"
    elif options.what == "remove":
        removed = environments.remove(options.name)
        answer = {"removed": removed}
        text = f"{options.name} {'is removed' if removed else 'has no environment'}"
    else:
        rows = environments.listed()
        answer, text = [row._asdict() for row in rows], info.simulators_text(rows)
    say(options, answer, text)
    return 0


COMMAND = Command(
    "simulators",
    "other simulators, and environments of their own",
    "install sinabs",
    arguments,
    run,
)
