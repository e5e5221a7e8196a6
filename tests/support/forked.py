"""Processes of their own that begin with other people's packages loaded, and ours if asked for.

They are forked from one that has loaded those: torch alone takes two seconds of each new process,
and what is here another.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sys
import tempfile
import types
import weakref
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any
from unittest.mock import patch

PACKAGES = (
    "h5py", "joblib", "matplotlib", "networkx", "nir", "nirtorch", "norse.torch", "numba", "numpy",
    "pytest", "scipy", "snntorch", "torch", "zmq",
)  # fmt: skip
"""Those that are not installed are left out."""
OURS = (  # and what optimisers of torch load at their first step
    "snu_plugin.diagnosis", "snu_plugin.hil", "snu_plugin.graph.worker",
    "snu_plugin.neuron.numba_scan", "snu_snntorch", "snu_norse", "torch._dynamo",
)  # fmt: skip

WAY = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"


_ONE_STARTS = Lock()


@cache
def _server(packages: tuple[str, ...]) -> Any:
    """Return what forks processes that have these packages loaded."""
    from multiprocessing.forkserver import ForkServer

    server = ForkServer()
    server.set_forkserver_preload(list(packages))
    return server


class Process:
    """Python at some code, as ``python -c`` runs it; begins at once.

    With ``ours`` it has our packages loaded, too, as they are without a setting of the code's.
    """

    def __init__(
        self,
        code: str,
        *arguments: str,
        folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
        ours: bool = False,
    ) -> None:
        context: Any = multiprocessing.get_context(WAY)
        said = Path(tempfile.mkdtemp())
        weakref.finalize(self, shutil.rmtree, said, ignore_errors=True)
        self._streams = [said / name for name in ("out", "err")]
        told = code, arguments, str(folder or Path.cwd()), dict(environment or os.environ)
        self._process = context.Process(target=_run, args=(*told, list(map(str, self._streams))))
        if WAY != "forkserver":
            self._process.start()
            return
        start = "multiprocessing.forkserver.connect_to_new_process"
        server = _server((*PACKAGES, *OURS) if ours else PACKAGES)
        with _ONE_STARTS, patch(start, server.connect_to_new_process):
            self._process.start()

    @property
    def out(self) -> str:
        """What it has printed so far."""
        path = self._streams[0]
        return path.read_text() if path.exists() else ""

    @property
    def err(self) -> str:
        """What it has said on standard error so far."""
        path = self._streams[1]
        return path.read_text() if path.exists() else ""

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return bool(self._process.is_alive())

    def wait(self, seconds: float = 300.0) -> int:
        """Return with what it ended; minus the signal's number if one killed it."""
        self._process.join(seconds)
        assert self._process.exitcode is not None, f"still at work after {seconds:g} s: {self.err}"
        code: int = self._process.exitcode
        return code

    def kill(self) -> None:
        """End it as a machine that loses its power does."""
        self._process.kill()
        self._process.join()


def _run(
    code: str, arguments: list[str], folder: str, environment: dict[str, str], streams: list[str]
) -> None:
    for number, path in enumerate(streams, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path.insert(0, "")
    sys.argv, sys.modules["__main__"] = ["-c", *arguments], types.ModuleType("__main__")
    exec(compile(code, "<code>", "exec"), vars(sys.modules["__main__"]))


def script(path: Path) -> str:
    """Return the code that runs a file as a script, without a word of warnings."""
    return (
        "import runpy, sys, warnings; warnings.simplefilter('ignore'); "
        f"sys.argv[0] = {str(path)!r}; sys.path.insert(0, {str(path.parent)!r}); "
        f"runpy.run_path({str(path)!r}, run_name='__main__')"
    )
