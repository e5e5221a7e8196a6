"""The command ``snu``."""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import snu_plugin

BAD_INPUT = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``snu``; returns the exit status: 0, 1 for a negative verdict, 2 for bad input."""
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
    except KeyboardInterrupt:
        return _fail(options.command, "interrupted; what was written so far is whole", 130)
    except BrokenPipeError:
        # The reader of a pipe has enough; nothing is wrong.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, TypeError, OSError, LookupError, ImportError) as error:
        return _fail(options.command, _one_line(error), BAD_INPUT)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="snu",
        description="Spiking Neural Units for snnTorch and Norse, exchanged through NIR, "
        "mapped onto phase-change memory.",
    )
    parser.add_argument("--version", action="version", version=f"snu {snu_plugin.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    demo = _command(commands, "demo", _demo, "the whole way on Bach chorales, with a report")
    demo.add_argument("--out", type=Path, default=Path("snu-demo"), help="folder for the report")
    demo.add_argument("--data", type=Path, help="JSB_Chorales.mat; default: music21's chorales")
    demo.add_argument("--epochs", type=int, default=None, help="epochs of training (70)")
    demo.add_argument("--seed", type=int, default=0, help="seed of training and chip (0)")

    verify = _command(commands, "verify", _verify, "run a graph in every installed simulator")
    verify.add_argument("graph", type=Path, metavar="GRAPH", help="a .nir file")
    verify.add_argument("--simulators", help="names, separated by commas; default: all found")
    verify.add_argument("--dt", type=float, help="time step; default: the one of the graph")
    verify.add_argument("--json", action="store_true", help="print JSON")

    place = _command(commands, "map", _map, "lay a graph out on a chip: does it fit?")
    place.add_argument("graph", type=Path, metavar="GRAPH", help="a .nir file")
    place.add_argument("--chip", default="PCM", help="IDEAL, PCM, PCM_PULSED or HERMES (PCM)")
    place.add_argument("--dt", type=float, help="time step; default: the one of the graph")
    place.add_argument("--json", action="store_true", help="print JSON")

    info = _command(commands, "info", _info, "versions, implementations, simulators, chips")
    info.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int], text: str
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    command.set_defaults(run=run)
    return command


def _demo(options: argparse.Namespace) -> int:
    from snu_plugin.experiments.demo import EPOCHS, demo

    epochs = EPOCHS if options.epochs is None else options.epochs
    with _Progress() as say:
        record = demo(options.out, data=options.data, epochs=epochs, seed=options.seed, say=say)
    nll = record["nll"]
    print(f"data {record['data']['name']}, {record['devices']:,} devices, seed {record['seed']}")
    print(f"float {nll['float']:.3f}  nir {nll['nir']:.3f}  ideal chip {nll['ideal_chip']:.3f}")
    print(f"{'':12}" + "".join(f"{age:>9}" for age in nll["programmed"]))
    for case in ("programmed", "compensated", "tuned"):
        print(f"{case:12}" + "".join(f"{value:9.3f}" for value in nll[case].values()))
    print(f"verified: {', '.join(f'{k} {v}' for k, v in record['verify'].items())}")
    print(f"report: {options.out / 'report.html'}")
    return 0


def _verify(options: argparse.Namespace) -> int:
    from snu_plugin import graph

    names = None if options.simulators is None else options.simulators.split(",")
    g = graph.read(options.graph)
    report = graph.verify(g, simulators=names, dt=options.dt)
    print(json.dumps(report.to_dict(), indent=1) if options.json else report)
    return 0 if report.exact else 1


def _map(options: argparse.Namespace) -> int:
    from snu_plugin import graph
    from snu_plugin.accelerator import CHIPS
    from snu_plugin.compiler import CannotMap, compile

    if options.chip not in CHIPS:
        raise LookupError(f"no chip {options.chip!r}; there are {', '.join(CHIPS)}")
    try:
        program = compile(graph.read(options.graph), CHIPS[options.chip], dt=options.dt)
    except CannotMap as error:
        answer: dict[str, Any] = {"fits": False, "broken": list(error.reasons)}
    else:
        answer = {
            "fits": True,
            "chip": program.chip.name,
            "devices": program.devices,
            "tiles": len(program.tiles),
            "utilisation": program.utilisation,
            "layout": [tile._asdict() for tile in program.tiles],
        }
    print(json.dumps(answer, indent=1) if options.json else _map_text(answer))
    return 0 if answer["fits"] else 1


def _map_text(answer: dict[str, Any]) -> str:
    if not answer["fits"]:
        return "\n".join(["does not fit:", *(f"  {reason}" for reason in answer["broken"])])
    lines = [
        f"fits {answer['chip']}: {answer['devices']:,} devices on {answer['tiles']} tiles, "
        f"{answer['utilisation']:.1%} of their cells used"
    ]
    for tile in answer["layout"]:
        (first, end), (left, right) = tile["rows"], tile["columns"]
        lines.append(f"  {tile['node']}: inputs {first}..{end - 1}, outputs {left}..{right - 1}")
    return "\n".join(lines)


def _info(options: argparse.Namespace) -> int:
    import torch

    from snu_plugin import plugins
    from snu_plugin.accelerator import CHIPS
    from snu_plugin.experiments.demo import versions

    implementations = {
        name: "ready" if found.available else found.reason
        for name, found in snu_plugin.implementations().items()
    }
    answer = {
        "versions": versions(),
        "devices": [f"cpu ({torch.get_num_threads()} threads)"]
        + [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())],
        "implementations": implementations,
        "simulators": {name: _adapter(plugins.adapter, name) for name in plugins.adapters()},
        "chips": list(CHIPS),
    }
    print(json.dumps(answer, indent=1) if options.json else _info_text(answer))
    return 0


def _adapter(load: Callable[[str], object], name: str) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what hosts warn of at import is not the question here
        try:
            load(name)
        except ImportError as error:
            return _one_line(error)
    return "ready"


def _info_text(answer: dict[str, Any]) -> str:
    lines = []
    for title, found in answer.items():
        lines.append(title)
        pairs = found.items() if isinstance(found, dict) else ((item, "") for item in found)
        lines += [f"  {name:16}{value}".rstrip() for name, value in pairs]
    return "\n".join(lines)


class _Progress:
    """A line on a terminal that says what is going on; nothing in a pipe."""

    def __enter__(self) -> Callable[[str], None]:
        from tqdm import tqdm

        # disable=None: tqdm shows nothing where standard error is not a terminal.
        self.bar = tqdm(bar_format="{elapsed} {desc}", disable=None, leave=False)
        return self._say

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def _say(self, text: str) -> None:
        self.bar.set_description_str(text)
        self.bar.refresh()


def _fail(command: str, message: str, status: int) -> int:
    print(f"snu {command}: {message}", file=sys.stderr)
    return status


def _one_line(error: BaseException) -> str:
    if isinstance(error, KeyError):
        return " ".join(str(error.args[0]).split())
    return " ".join(str(error).split()) or type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
