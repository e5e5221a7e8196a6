"""Simulators without an adapter: found without importing them, run in a process of their own."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from same_process import simulators_forked
from small_graphs import DT, graph
from snu_plugin import simulators
from snu_plugin.graph import verify

JELLY = """
import torch
from snu_plugin.graph import network

def import_from_nir(graph, dt):
    net = network(graph, dt)
    def step(x, state):
        y, state = net(x[None], state)
        return y[0] * {share}, state
    return step
"""


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, share: str) -> None:
    """Put a package in the place of spikingjelly, for this process and those it starts."""
    package = folder / "spikingjelly" / "activation_based" / "nir_exchange"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(JELLY.format(share=share))
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", str(folder))


def test_what_is_installed_is_found_without_importing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = simulators.installed()
    install(tmp_path, monkeypatch, "1")
    assert "spikingjelly" in simulators.installed()
    assert set(before) <= set(simulators.installed())
    assert "spikingjelly" not in sys.modules


def test_an_installed_one_is_run_and_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulators_forked(monkeypatch)
    install(tmp_path, monkeypatch, "1")
    (run,) = verify(graph(), simulators=["spikingjelly"]).runs
    assert (run.importer, run.status) == ("stock", "exact")


def test_the_first_divergence_is_given_out_with_what_lies_around_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulators_forked(monkeypatch)
    install(tmp_path, monkeypatch, "0")
    report = verify(graph(), simulators=["spikingjelly"])
    found = report.divergence()
    assert found is not None
    assert report.expected is not None
    first = int(np.flatnonzero(report.expected.reshape(100, -1).any(1))[0])
    assert found.step == report.runs[0].first_step == first
    assert found.expected[first - found.begin].any()
    assert not found.outputs.any()
    assert found.expected.shape == found.outputs.shape
    assert "outputs" not in report.to_dict()["runs"][0]


@pytest.mark.parametrize("name", sorted(simulators.SIMULATORS))
def test_an_absent_one_is_missing(name: str) -> None:
    if name in simulators.installed():
        pytest.skip(f"{name} is installed here")
    with pytest.raises(ImportError, match=f"{name} is not installed: pip install"):
        simulators.simulator(name)


def test_an_absent_one_that_is_asked_for_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    simulators_forked(monkeypatch)
    name = next((n for n in simulators.SIMULATORS if n not in simulators.installed()), None)
    if name is None:
        pytest.skip("all simulators are installed here")
    report = verify(graph(), simulators=[name])
    assert [run.status for run in report.runs] == ["missing"]
    assert report.problems == (f"{name}: missing",)
    assert report.divergence() is None


SPYX = """
import numpy as np

def from_nir(graph, x, dt):
    assert x.shape == (3, 2, 8, 9, 4), "channels last"
    return None, 2 * x
"""


def test_images_are_given_to_spyx_with_their_channels_last_and_turned_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, code in {"spyx": SPYX, "jax": "from numpy import asarray"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
        (tmp_path / name / ("nir.py" if name == "spyx" else "numpy.py")).write_text(code)
        for module in [m for m in sys.modules if m.split(".")[0] == name]:
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.syspath_prepend(str(tmp_path))
    x = np.random.default_rng(0).normal(size=(3, 2, 4, 8, 9))
    np.testing.assert_array_equal(simulators.simulator("spyx")(graph(), x, DT), 2 * x)
    for module in [m for m in sys.modules if m.split(".")[0] in ("spyx", "jax")]:
        monkeypatch.delitem(sys.modules, module)
