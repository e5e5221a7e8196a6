"""One simulator that runs a graph whenever it is told to: ``python -m snu_plugin.bench.simulate``.

Arguments: simulator, importer (plugin, stock or reference), graph file, input ``.npy``, dt. Each
line on standard input asks for one run; the answer is a line of JSON with ``all_s``, the seconds
for reading the graph into the simulator and running it, and ``first_step_s``, the same for one
step only. The first line out says ``ready`` or ``error``.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any

import nir
import numpy as np
import torch
from numpy.typing import NDArray

from snu_plugin.graph import network, read
from snu_plugin.simulators import SIMULATORS, adapter, simulator

Array = NDArray[Any]
REFERENCE = "strict reference"


def main(arguments: list[str]) -> int:
    """Answer until standard input ends."""
    name, importer, graph_path, x_path, dt = arguments
    warnings.simplefilter("ignore")
    out = sys.stdout
    with redirect_stdout(sys.stderr):  # what hosts print is not the answer
        try:
            run = _simulator(name, importer)
            graph = read(graph_path)
            x = np.load(x_path, allow_pickle=False)
            run(graph, x, float(dt))
        except Exception as error:  # a host may raise anything: that is what is told
            text = " ".join(str(error).split())
            print(json.dumps({"error": f"{type(error).__name__}: {text}"}), file=out, flush=True)
            return 1
        print(json.dumps({"ready": name}), file=out, flush=True)
        for _ in sys.stdin:
            seconds = {"all_s": _timed(run, graph, x, float(dt))}
            seconds["first_step_s"] = _timed(run, graph, x[:1], float(dt))
            print(json.dumps(seconds), file=out, flush=True)
    return 0


def _timed(run: Callable[..., Any], graph: nir.NIRGraph, x: Array, dt: float) -> float:
    start = time.perf_counter()
    run(graph, x, dt)
    return time.perf_counter() - start


def _simulator(name: str, importer: str) -> Callable[..., Any]:
    if importer == "reference":
        return _reference
    if name in SIMULATORS:
        return simulator(name)
    host = adapter(name)
    run: Callable[..., Any] = host.simulate if importer == "plugin" else host.simulate_stock
    return run


def _reference(graph: nir.NIRGraph, x: Array, dt: float) -> Any:
    with torch.no_grad():
        return network(graph, dt)(torch.from_numpy(x))[0]


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
