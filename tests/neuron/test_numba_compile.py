"""Compiled loops are kept on disk, and never longer than the code that they were made of."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("numba")

HEADER = "from snu_plugin.neuron.numba_scan.jit import compiled\n"
CALLED = HEADER + "@compiled\ndef more(x):\n    return x + {}\n"
CALLER = HEADER + "from called import more\n@compiled\ndef twice(x):\n    return more(more(x))\n"
RUN = "import caller; print(caller.twice(0), sum(caller.twice.stats.cache_hits.values()))"


def ran(folder: Path) -> list[int]:
    """Return what a process of its own finds, and how often it found it compiled."""
    command = [sys.executable, "-c", RUN]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return [int(word) for word in done.stdout.split()]


def test_a_loop_is_compiled_once_and_again_when_what_it_calls_has_changed(tmp_path: Path) -> None:
    (tmp_path / "called.py").write_text(CALLED.format(1))
    (tmp_path / "caller.py").write_text(CALLER)
    assert ran(tmp_path) == [2, 0]
    assert ran(tmp_path) == [2, 1]
    (tmp_path / "called.py").write_text(CALLED.format(5))
    assert ran(tmp_path) == [10, 0]
    assert ran(tmp_path) == [10, 1]
