"""Settings of all tests."""

from __future__ import annotations

import gc
import os
import random
import sys
from collections.abc import Generator, Iterator
from functools import cache
from itertools import combinations
from pathlib import Path

# A thread for each worker, and for the processes that it starts, unless told otherwise: before
# torch is imported. Tests of several threads say how many.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from _pytest.doctest import DoctestModule

TESTS = Path(__file__).with_name("tests")
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


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(
    file_path: Path, parent: pytest.Collector
) -> Generator[None, list[pytest.Collector], list[pytest.Collector]]:
    """Look for no examples in tests: where an import fails, theirs would be an excuse for all.

    Nor in files without a prompt, which would be imported and read through for nothing.
    """
    return [
        each
        for each in (yield)
        if not isinstance(each, DoctestModule)
        or (TESTS not in file_path.parents and b">>>" in file_path.read_bytes())
    ]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark slow what a test marked ``covering`` is run with beyond a few combinations.

    ``covering(1)`` leaves quick as many as it takes for every value of each parameter,
    ``covering(2)`` for every pair of values of two; the greediest choice, the same each time.
    """
    tests: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("covering") and not item.get_closest_marker("slow"):
            tests.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for alike in tests.values():
        marker = alike[0].get_closest_marker("covering")
        assert marker is not None
        missing = {item: set(combinations(_values(item), *marker.args)) for item in alike}
        while any(missing.values()):
            richest = max(missing, key=lambda item: len(missing[item]))
            new = missing.pop(richest)
            missing = {item: values - new for item, values in missing.items()}
        for item in missing:
            item.add_marker("slow")


def _values(item: pytest.Item) -> list[tuple[str, int]]:
    """Return a test's parameters and which of its values each has."""
    return [(name, id(value)) for name, value in item.callspec.params.items()]  # type: ignore[attr-defined]


def pytest_collection() -> None:
    """Have Python look for no garbage while tests are collected, which leaves little."""
    gc.disable()
    # A busy machine is no defect: examples are counted, not timed.
    from hypothesis import settings

    settings.register_profile("untimed", deadline=None)
    settings.load_profile("untimed")


def pytest_collection_finish() -> None:
    """Have Python look for garbage only among what tests leave, not what was there before.

    And more rarely: most of what a test makes goes without.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)
    gc.enable()


@cache
def _has_other_devices() -> bool:
    import torch

    return torch.cuda.is_available() or torch.xpu.is_available() or torch.mps.device_count() > 0


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Have everything that is drawn without a generator be the same, whatever ran before."""
    import numpy as np
    import torch

    # Where there are only processors: torch.manual_seed notes for others who called it, each time.
    seed = torch.manual_seed if _has_other_devices() else torch.default_generator.manual_seed
    seed(0)
    np.random.seed(0)  # noqa: NPY002
    random.seed(0)


@pytest.fixture(autouse=True)
def _snntorch_forgets_the_neurons_of_a_test() -> Iterator[None]:
    """Have snnTorch, which lists all neurons and resets them together, forget those of a test."""
    host = sys.modules.get("snntorch")
    count = len(host.SpikingNeuron.instances) if host else 0
    yield
    if host := sys.modules.get("snntorch"):
        del host.SpikingNeuron.instances[count:]
