"""One simulator's run of one graph, in a process of its own: ``python -m snu_plugin.graph.runner``.

Arguments: simulator, importer (plugin or stock), graph file, input ``.npy``, dt, output ``.npy``.
Writes the output; on failure a JSON object with ``status`` and ``message`` to standard error.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

REFUSALS = (ValueError, TypeError, LookupError, NotImplementedError, AssertionError)
"""What an importer raises on purpose; anything else is a crash."""


def main(arguments: list[str]) -> int:
    name, importer, graph_path, x_path, dt, y_path = arguments
    from snu_plugin.graph.files import read

    try:
        simulate = _simulator(name, importer)
    except ImportError as error:
        return _tell("missing", error)
    graph = read(graph_path)
    x = np.load(x_path, allow_pickle=False)
    try:
        y = simulate(graph, x, float(dt))
    except Exception as error:
        return _tell("refused" if _is_deliberate(error) else "crashed", error)
    np.save(y_path, np.asarray(y), allow_pickle=False)
    return 0


def _simulator(name: str, importer: str) -> Callable[..., Any]:
    from snu_plugin import simulators
    from snu_plugin.simulators import adapter

    if name in simulators.SIMULATORS:
        return simulators.simulator(name)
    host = adapter(name)
    run: Callable[..., Any] = host.simulate if importer == "plugin" else host.simulate_stock
    return run


def _is_deliberate(error: Exception) -> bool:
    """Whether an importer said no, rather than stumbled."""
    stumbled = isinstance(error, (KeyError, IndexError)) or not str(error)
    return isinstance(error, REFUSALS) and not stumbled


def _tell(status: str, error: BaseException) -> int:
    message = " ".join(str(error).split()) or "no message"
    told = {"status": status, "message": f"{type(error).__name__}: {message}"}
    sys.stderr.write("\n" + json.dumps(told) + "\n")
    return 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
