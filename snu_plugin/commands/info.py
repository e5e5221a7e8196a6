"""``snu info``: versions, chips and what is kept on disk."""

from __future__ import annotations

import argparse
from typing import Any

from snu_plugin.commands.answers import say
from snu_plugin.commands.command import Command
from snu_plugin.commands.shared import add, chip_of


def arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--chip", help="a preset or a TOML file: what its settings mean")
    add(command, "--out", help="with --chip: folder for pictures of its devices")
    command.add_argument(
        "--clear",
        choices=("chorales", "simulators", "loops", "all"),
        help="remove what is kept on disk: rolls of chorales, environments of simulators, loops "
        "that Numba compiled, or all of it",
    )
    add(command, "--json")


def run(options: argparse.Namespace) -> int:
    from snu_plugin.accelerator import describe
    from snu_plugin.experiments import caches, info

    if options.clear is not None:
        names = caches.NAMES if options.clear == "all" else (options.clear,)
        gone = {name: str(caches.clear(name)) for name in names}
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


COMMAND = Command(
    "info", "versions, implementations, simulators, chips", "--chip PCM", arguments, run
)
