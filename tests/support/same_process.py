"""What has a process of its own starts at once: in the test's, or in one forked for it."""

from __future__ import annotations

import subprocess
from types import SimpleNamespace
from typing import Any

import pytest

from forked import Process
from snu_plugin.graph import verification
from snu_plugin.graph.worker import main
from snu_plugin.tasks import matlab

WORKER = "import sys; from snu_plugin.graph.worker import main; sys.exit(main(sys.argv[1:]))"


def simulators_here(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Have ``verify`` run these simulators here, all without names, others as ever."""

    def run(command: list[str], **settings: Any) -> subprocess.CompletedProcess[str]:
        if names and command[-6] not in names:
            return subprocess.run(command, **settings)
        return subprocess.CompletedProcess(command, main(command[-6:]), "", "")

    _stand_in(monkeypatch, run)


def simulators_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have ``verify`` run every simulator in a process that has torch and hosts loaded already."""

    def run(command: list[str], **settings: Any) -> subprocess.CompletedProcess[str]:
        process = Process(WORKER, *command[-6:], folder=settings["cwd"], ours=True)
        status = process.wait(settings["timeout"])
        return subprocess.CompletedProcess(command, status, process.out, process.err)

    _stand_in(monkeypatch, run)


def mat_files_read_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have files of MATLAB be read here, by what reads them in the other process."""
    monkeypatch.setattr(matlab, "read_apart", lambda file, _: matlab.packed(matlab.read(file)))


def _stand_in(monkeypatch: pytest.MonkeyPatch, run: Any) -> None:
    stand_in = SimpleNamespace(run=run, TimeoutExpired=subprocess.TimeoutExpired)
    monkeypatch.setattr(verification, "subprocess", stand_in)
