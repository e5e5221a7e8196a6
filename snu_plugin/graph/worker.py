"""One simulator on one graph, in a process of its own: ``python -m snu_plugin.graph.worker``.

Arguments: simulator, importer (plugin, stock or reference), graph file, input ``.npy`` (of several
Inputs an ``.npz``, ``x.`` before the names), dt, and

- an output ``.npy``: writes the output; on failure a JSON object with ``status`` and ``message`` to
  a ``.json`` beside it and to standard error. Then it runs each node that lies in ``nodes`` beside
  the graph, ``0.nir`` with inputs ``0.npy`` and so on; the answers go into a folder called as the
  output, likewise;
- or ``timed``: runs once, says ``ready`` or ``error`` in a line of JSON, then once more for each
  line on standard input; the answers are lines of JSON with ``all_s``, the seconds for reading the
  graph into the simulator and running it, and ``first_step_s``, the same for one step only.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

REFUSALS = (ValueError, TypeError, LookupError, NotImplementedError, AssertionError)
"""What an importer raises on purpose; anything else is a crash."""

TIMED = "timed"

Simulate = Callable[..., Any]


def main(arguments: list[str]) -> int:
    name, importer, graph_path, x_path, dt, y_path = arguments
    if y_path == TIMED:
        return _answer_times(name, importer, graph_path, x_path, float(dt))

    try:
        simulate = _simulator(name, importer)
    except ImportError as error:
        sys.stderr.write("\n" + _failure("missing", error) + "\n")
        return 1
    out = Path(y_path)

    def answer(graph_file: Path, x_file: Path, y_file: Path) -> str:
        x = _load(x_file)
        try:
            graph = _read(graph_file)
            y = np.asarray(simulate(graph, x, float(dt)))
        except Exception as error:
            stumbled = isinstance(error, (KeyError, IndexError)) or not str(error)
            refused = isinstance(error, REFUSALS) and not stumbled
            failure = _failure("refused" if refused else "crashed", error)
            y_file.with_suffix(".json").write_text(failure)
            return failure
        half = y_file.with_suffix(".half.npy")  # a process that is stopped leaves no half output
        np.save(half, y, allow_pickle=False)
        half.replace(y_file)
        return ""

    failure = answer(Path(graph_path), Path(x_path), out)
    nodes = Path(graph_path).with_name("nodes")
    if nodes.is_dir():
        out.with_suffix("").mkdir()
        for one in sorted(nodes.glob("*.nir"), key=lambda path: int(path.stem)):
            answer(one, one.with_suffix(".npy"), out.with_suffix("") / f"{one.stem}.npy")
    sys.stderr.write(f"\n{failure}\n" if failure else "")
    return 1 if failure else 0


def _load(path: Path) -> Any:
    """Return the inputs, of several Inputs a dict by their names."""
    x = np.load(path, allow_pickle=False)
    return {name[len("x.") :]: x[name] for name in x} if path.suffix == ".npz" else x


def _read(path: Path) -> Any:
    """Read a graph, in an environment with an older nir as that reads it, and name its version."""
    import nir

    from snu_plugin.graph.files import read

    try:
        return read(path) if hasattr(nir, "CubaLI") else nir.read(path)
    except Exception as error:
        told = f"nir {version('nir')} cannot read the graph: {' '.join(str(error).split())}"
        raise RuntimeError(told) from error


def _failure(status: str, error: BaseException) -> str:
    message = f"{type(error).__name__}: {' '.join(str(error).split()) or 'no message'}"
    return json.dumps({"status": status, "message": message})


def _simulator(name: str, importer: str) -> Simulate:
    from snu_plugin import simulators

    if importer == "reference":
        return _reference
    if name in simulators.SIMULATORS:
        alone = simulators.simulator(name)
        return lambda graph, x, dt: alone(graph, simulators.only_input(x, name), dt)
    host = simulators.adapter(name)
    run: Simulate = host.simulate if importer == "plugin" else host.simulate_stock
    return run


def _reference(graph: Any, x: Any, dt: float) -> Any:
    import torch

    from snu_plugin.graph.reference_network import network

    with torch.no_grad():
        given = {n: torch.from_numpy(part) for n, part in x.items()} if isinstance(x, dict) else x
        return network(graph, dt)(given if isinstance(x, dict) else torch.from_numpy(x))[0]


def _answer_times(name: str, importer: str, graph_path: str, x_path: str, dt: float) -> int:
    """Run whenever a line comes in, until standard input ends."""
    warnings.simplefilter("ignore")
    out = sys.stdout

    def seconds(x: Any) -> float:
        start = time.perf_counter()
        run(graph, x, dt)
        return time.perf_counter() - start

    with redirect_stdout(sys.stderr):  # what hosts print is not the answer
        try:
            run = _simulator(name, importer)
            graph = _read(Path(graph_path))
            x = _load(Path(x_path))
            run(graph, x, dt)
        except Exception as error:  # a host may raise anything: that is what is told
            message = f"{type(error).__name__}: {' '.join(str(error).split())}"
            print(json.dumps({"error": message}), file=out, flush=True)
            return 1
        print(json.dumps({"ready": name}), file=out, flush=True)
        for _ in sys.stdin:
            answer = {"all_s": seconds(x), "first_step_s": seconds(x[:1])}
            print(json.dumps(answer), file=out, flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
