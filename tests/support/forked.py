"""Processes of their own that begin with other people's packages loaded, and ours if asked for.

They are forked from one that has loaded those: torch alone takes two seconds of each new process,
and what is here another three. All processes that share a run of tests share these, too: the first
that needs one starts it, and it ends with the last.
"""

from __future__ import annotations

import fcntl
import importlib
import json
import multiprocessing
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
import types
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from multiprocessing.connection import wait
from pathlib import Path
from threading import Lock
from typing import Any

PACKAGES = (
    "h5py", "joblib", "matplotlib", "networkx", "nir", "nirtorch", "norse.torch", "numba", "numpy",
    "pytest", "scipy", "snntorch", "torch", "torch._dynamo", "zmq",
)  # fmt: skip
"""Those that are not installed are left out; optimisers of torch load the last but one."""
OURS = (
    "snu_plugin.diagnosis", "snu_plugin.hil", "snu_plugin.graph.worker",
    "snu_plugin.neuron.numba_scan", "snu_snntorch", "snu_norse",
)  # fmt: skip

RUN = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
"""What the processes of a run have in common."""
_ONE_AT_A_TIME = Lock()
_STARTED: list[subprocess.Popen[bytes]] = []
"""Servers that end by themselves; Python warns of those that nobody holds."""


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
        said = Path(tempfile.mkdtemp())
        weakref.finalize(self, shutil.rmtree, said, ignore_errors=True)
        self._streams = [said / name for name in ("out", "err")]
        self._code: int | None = None
        told = code, arguments, str(folder or Path.cwd()), dict(environment or os.environ), sys.path
        self._server = _connected("ours" if ours else "packages")
        weakref.finalize(self, self._server.close)
        _send(self._server, [*told, list(map(str, self._streams))])
        self._pid = _number(self._server)

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
        return self._ended(0.0) is None

    def wait(self, seconds: float = 300.0) -> int:
        """Return with what it ended; minus the signal's number if one killed it."""
        code = self._ended(seconds)
        assert code is not None, f"still at work after {seconds:g} s: {self.err}"
        return code

    def kill(self) -> None:
        """End it as a machine that loses its power does."""
        if self.runs:
            os.kill(self._pid, 9)
            self.wait()

    def _ended(self, seconds: float) -> int | None:
        if self._code is None and wait([self._server], seconds):
            self._code = _number(self._server)
            self._server.close()
        return self._code


def script(path: Path) -> str:
    """Return the code that runs a file as a script, without a word of warnings."""
    return (
        "import runpy, sys, warnings; warnings.simplefilter('ignore'); "
        f"sys.argv[0] = {str(path)!r}; sys.path.insert(0, {str(path.parent)!r}); "
        f"runpy.run_path({str(path)!r}, run_name='__main__')"
    )


def _folder() -> Path:
    """Return where the servers of this run listen: a short path, as sockets need."""
    folder = Path(tempfile.gettempdir(), f"snu-tests-{RUN[:12]}-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


@cache
def _kept(name: str) -> socket.socket:
    """Return a connection that keeps a server at work until this process ends."""
    if name == "ours":
        _kept("packages")  # which begins it
    with (_folder() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one process starts it
        with suppress(OSError):
            return _connection(name)
        if name == "packages":
            command = [sys.executable, __file__, str(_folder())]
            path = os.pathsep.join(filter(None, sys.path))
            environment = {**os.environ, "PYTHONPATH": path}
            _STARTED.append(subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL))
        else:
            with _connection("packages") as server:
                _send(server, [])
        while True:
            with suppress(OSError):
                return _connection(name)
            time.sleep(0.01)


def _connected(name: str) -> socket.socket:
    with _ONE_AT_A_TIME:  # of the threads of this process
        _kept(name)
    return _connection(name)


def _connection(name: str) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    try:
        made.connect(str(_folder() / name))
    except OSError:
        made.close()
        raise
    return made


def _send(server: socket.socket, task: list[Any]) -> None:
    server.sendall(json.dumps(task).encode() + b"\n")


def _number(server: socket.socket) -> int:
    told: tuple[int] = struct.unpack("q", server.recv(8, socket.MSG_WAITALL))
    return told[0]


def _serve(folder: Path, name: str, packages: tuple[str, ...]) -> None:
    """Load packages and fork for all who connect, until nobody is connected any more.

    Who sends a task is told the number of the process, and at its end its exit code. An empty task
    begins the server that has our packages, too.
    """
    listener = socket.socket(socket.AF_UNIX)
    (folder / name).unlink(missing_ok=True)  # of a server that was killed
    listener.bind(str(folder / name))
    listener.listen(64)
    for package in packages:
        with suppress(ImportError):
            importlib.import_module(package)

    def begun(target: Callable[..., None], about: list[Any]) -> None:
        for inherited in (listener, *clients):
            inherited.close()
        target(*about)

    context: Any = multiprocessing.get_context("fork")
    clients: list[socket.socket] = [listener.accept()[0]]
    working: dict[Any, tuple[Any, socket.socket]] = {}
    while clients:
        for ready in wait([listener, *clients, *working]):
            if ready is listener:
                clients.append(listener.accept()[0])
            elif isinstance(ready, socket.socket):
                task = ready.makefile("r").readline()
                if not task:
                    clients.remove(ready)
                    ready.close()
                    continue
                told = json.loads(task)
                target, about = (_run, told) if told else (_serve, [folder, "ours", OURS])
                process = context.Process(target=begun, args=(target, about))
                process.start()
                if told:
                    working[process.sentinel] = process, ready
                    ready.sendall(struct.pack("q", process.pid))
            else:
                process, client = working.pop(ready)
                process.join()
                with suppress(OSError):  # who asked for it has gone
                    client.sendall(struct.pack("q", process.exitcode))
    (folder / name).unlink(missing_ok=True)
    if name == "packages":
        shutil.rmtree(folder, ignore_errors=True)
    for process, _ in working.values():
        process.kill()


def _run(
    code: str,
    arguments: list[str],
    folder: str,
    environment: dict[str, str],
    path: list[str],
    streams: list[str],
) -> None:
    for number, stream in enumerate(streams, 1):
        os.dup2(os.open(stream, os.O_WRONLY | os.O_CREAT), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path[:] = "", *path
    sys.argv, sys.modules["__main__"] = ["-c", *arguments], types.ModuleType("__main__")
    exec(compile(code, "<code>", "exec"), vars(sys.modules["__main__"]))


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), "packages", PACKAGES)
