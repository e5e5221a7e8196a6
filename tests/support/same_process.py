"""Simulators in the process of the test, where another is not the point: they start at once."""

from __future__ import annotations

import subprocess
from types import SimpleNamespace
from typing import Any

import pytest

from snu_plugin.graph import verification
from snu_plugin.graph.worker import main


def simulators_here(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Have ``verify`` run these simulators here, all without names, others as ever."""

    def run(command: list[str], **settings: Any) -> subprocess.CompletedProcess[str]:
        if names and command[-6] not in names:
            return subprocess.run(command, **settings)
        return subprocess.CompletedProcess(command, main(command[-6:]), "", "")

    stand_in = SimpleNamespace(run=run, TimeoutExpired=subprocess.TimeoutExpired)
    monkeypatch.setattr(verification, "subprocess", stand_in)
