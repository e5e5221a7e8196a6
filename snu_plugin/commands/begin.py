"""To begin with: ``snu demo``, ``snu zoo``, ``snu docs``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import snu_plugin
from snu_plugin.commands.shared import Command, add, followed, say
from snu_plugin.usage import path


def _demo_arguments(command: argparse.ArgumentParser) -> None:
    add(command, "--out", help="folder for the report (snu-demo)", default=Path("snu-demo"))
    command.add_argument("--data", type=path, help="JSB_Chorales.mat; default: music21's chorales")
    command.add_argument("--epochs", type=int, default=None, help="epochs of training (70)")
    add(command, "--seed", help="seed of training and chip (0)")
    add(command, "--no-verify", "--resume")
    add(command, "--json", help="print JSON: report.json")


def _demo(options: argparse.Namespace) -> int:
    from snu_plugin.experiments.demo import EPOCHS, checkpoints_of, demo
    from snu_plugin.experiments.runs import left_in

    epochs = EPOCHS if options.epochs is None else options.epochs
    about = {"data": options.data, "epochs": epochs, "seed": options.seed}
    about["verify"] = not options.no_verify
    with followed(lambda: left_in(checkpoints_of(options.out))) as progress:
        record = demo(options.out, **about, resume=options.resume, progress=progress)
    say(options, record, f"{_text(record)}\nreport: {options.out / 'report.html'}")
    return 0


def _text(record: Mapping[str, Any]) -> str:
    """Return the likelihoods as a terminal shows them."""
    from snu_plugin.report.page import SAID

    nll = record["nll"]
    lines = [
        f"data {record['data']['name']}, {record['devices']:,} devices, seed {record['seed']}",
        f"float {nll['float']:.3f}  nir {nll['nir']:.3f}  ideal chip {nll['ideal_chip']:.3f}",
        f"{'':12}" + "".join(f"{age:>9}" for age in nll["programmed"]),
    ]
    for case in ("programmed", "compensated", "tuned"):
        lines.append(f"{SAID[case]:12}" + "".join(f"{value:9.3f}" for value in nll[case].values()))
    return "\n".join([*lines, f"verified: {', '.join(map(' '.join, record['verify'].items()))}"])


DEMO = Command(
    "demo", "the whole way on Bach chorales, with a report", "--out out", _demo_arguments, _demo
)


def _zoo_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("what", choices=("list", "get"), nargs="?", help="default: list")
    command.add_argument("name", metavar="NAME", nargs="?", help="list: show its card; get: copy")
    command.add_argument("--out", type=path, default=Path(), help="get: a folder, or a file (here)")
    add(command, "--json")


def _zoo(options: argparse.Namespace) -> int:
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


ZOO = Command(
    "zoo",
    "trained networks that come along, each with its card",
    "get jsb-snu",
    _zoo_arguments,
    _zoo,
)


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


def _docs(options: argparse.Namespace) -> int:
    import webbrowser

    page = first_page()
    say(options, {"page": str(page)}, page)
    webbrowser.open(page.as_uri())
    return 0


def _docs_arguments(command: argparse.ArgumentParser) -> None:
    add(command, "--json")


DOCS = Command("docs", "open the documentation in a browser, from disk", "", _docs_arguments, _docs)
