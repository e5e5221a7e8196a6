"""Settings of all tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

# A thread for each worker, and for the processes that it starts, unless told otherwise: before
# torch is imported. Tests of several threads say how many.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings

# A busy machine is no defect: examples are counted, not timed.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


MOST_WORKERS = 4
"""Processes that share a whole run; each takes about 1.5 GB."""


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Share a whole run among processes; what is named on the line runs in this one.

    ``-n`` and ``--dist`` of pytest-xdist say otherwise, ``-n 0`` that nothing is shared.
    """
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    if "PYTEST_XDIST_WORKER" in os.environ:
        return  # one of those processes, which starts no others
    if whole and getattr(config.option, "numprocesses", 0) is None and not config.option.usepdb:
        config.option.numprocesses = min(os.cpu_count() or 1, MOST_WORKERS)
        if config.option.dist == "no":
            config.option.dist = "worksteal"  # neighbours share fixtures and compiled loops


@pytest.fixture(autouse=True)
def _snntorch_forgets_the_neurons_of_a_test() -> Iterator[None]:
    """Have snnTorch, which lists all neurons and resets them together, forget those of a test."""
    host = sys.modules.get("snntorch")
    count = len(host.SpikingNeuron.instances) if host else 0
    yield
    if host := sys.modules.get("snntorch"):
        del host.SpikingNeuron.instances[count:]
