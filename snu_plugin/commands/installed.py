"""What is installed: ``snu info``, ``snu simulators``."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from snu_plugin.commands.shared import Command, add, chip_of, say


def _info_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--chip", help="a preset or a TOML file: what its settings mean")
    add(command, "--out", help="with --chip: folder for pictures of its devices")
    command.add_argument(
        "--clear",
        choices=("chorales", "simulators", "loops", "all"),
        help="remove what is kept on disk: rolls of chorales, environments of simulators, loops "
        "that Numba compiled, or all of it",
    )
    add(command, "--json")


def _info(options: argparse.Namespace) -> int:
    from snu_plugin.accelerator import describe
    from snu_plugin.experiments import info

    if options.clear is not None:
        names = info.CACHES if options.clear == "all" else (options.clear,)
        gone = {name: str(info.clear(name)) for name in names}
        say(options, {"removed": gone}, info.removed_text(gone))
        return 0
    chip = None
    if options.chip is None:
        answer: Any = info.installed()
        text = info.installed_text(answer)
    else:
        chip = chip_of(options)
        answer = describe(chip)
        text = info.chip_text(answer)
    if options.out is not None:
        info.draw(chip, options.out)
    say(options, answer, text)
    return 0


INFO = Command(
    "info", "versions, implementations, simulators, chips", "--chip PCM", _info_arguments, _info
)


def _simulators_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("what", choices=("install", "remove"), nargs="?", help="default: a list")
    command.add_argument("name", metavar="NAME", nargs="?", help="one of those in the list")
    add(command, "--json")


def _simulators(options: argparse.Namespace) -> int:
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


SIMULATORS = Command(
    "simulators",
    "other simulators, and environments of their own",
    "install sinabs",
    _simulators_arguments,
    _simulators,
)
