"""A further device model is one more file: found by name, used by everything."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch
from torch import Tensor

from snu_plugin.accelerator import (
    PCM,
    Accelerator,
    Cells,
    Chip,
    DeviceModel,
    describe,
    devices,
    dump_chip,
)
from snu_plugin.accelerator.noise import Streams
from snu_plugin.compiler import compile

LEAKING = """
import torch
from snu_plugin.accelerator import Flicker
from snu_plugin.accelerator.devices.model import DeviceModel

class Leaking(DeviceModel):
    limit_us = 30.0

    def drift(self, cells, age_s):
        return cells.g_us * torch.exp(-age_s / 1000)

class Flickering(DeviceModel):
    noisy = True
    spectrum = Flicker(t_read_s=1e-6)

    def read_sigma(self, cells, g, age_s):
        return torch.full_like(g, 0.5)

FITS = {"leaking": Leaking, "flickering": Flickering}
"""


@pytest.fixture
def leaking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A model in a file of its own, as if it lay in the folder of models."""
    (tmp_path / "leaking.py").write_text(LEAKING)
    monkeypatch.setattr(devices, "__path__", [*devices.__path__, str(tmp_path)])
    devices.named.cache_clear()
    yield
    devices.named.cache_clear()


@pytest.mark.usefixtures("leaking")
def test_a_model_in_one_more_file_writes_ages_is_pulsed_and_calibrated(tmp_path: Path) -> None:
    nodes = {
        "in": nir.Input({"input": np.array([6])}),
        "fc": nir.Linear(np.random.default_rng(0).normal(size=(4, 6))),
        "out": nir.Output({"output": np.array([4])}),
    }
    g = nir.NIRGraph(nodes, [("in", "fc"), ("fc", "out")])
    quiet: dict[str, Any] = {
        "adc_bits": None,
        "dac_bits": None,
        "output_noise": None,
        "wire_ohm": None,
    }
    made = Accelerator(compile(g, replace(PCM, device="leaking", **quiet), dt=1.0))
    made.program()
    target = torch.from_numpy(nodes["fc"].weight).float()
    torch.testing.assert_close(made.read_weights()["fc"], target)
    made.wait(1000)
    torch.testing.assert_close(made.read_weights()["fc"], target / np.e, rtol=1e-4, atol=0)
    made.calibrate()
    torch.testing.assert_close(made.read_weights()["fc"], target, rtol=1e-4, atol=0)
    made.pulse({"fc": torch.ones(4, 6, dtype=torch.int32)})
    made.save(tmp_path / "chip.npz")
    again, x = Accelerator.load(tmp_path / "chip.npz"), torch.ones(2, 1, 6)
    assert torch.equal(again.run(x)[0], made.run(x)[0])


@pytest.mark.usefixtures("leaking")
def test_a_model_gives_its_noise_a_spectrum_in_time_by_one_value() -> None:
    nodes = {
        "in": nir.Input({"input": np.array([100])}),
        "fc": nir.Linear(np.full((100, 100), 1.0)),
        "out": nir.Output({"output": np.array([100])}),
    }
    g = nir.NIRGraph(nodes, [("in", "fc"), ("fc", "out")])
    made = Accelerator(compile(g, Chip(device="flickering"), dt=1.0))
    made.program()
    made.wait(3600.0)
    first, begin = made.read_conductances()["fc"][0] - 25, made.clock_s
    made.wait(1e-3)
    second, lag = made.read_conductances()["fc"][0] - 25, made.clock_s - begin
    assert float(first.std()) == pytest.approx(0.5, rel=5 / np.sqrt(2e4))
    expected = (np.log(3600 / (2 * np.pi * lag)) - 0.5772) / np.log(3600 / 2e-6)
    found = np.corrcoef(first.flatten(), second.flatten())[0, 1]
    assert found == pytest.approx(expected, abs=0.03 + 5 / 100)


@pytest.mark.usefixtures("leaking")
def test_its_name_is_accepted_and_its_limit_held() -> None:
    (row,) = (row for row in describe(PCM) if row["field"] == "device")
    assert "leaking" in row["accepted"]
    with pytest.raises(ValueError, match=r"leaking was measured up to 30\.0 µS"):
        Chip(device="leaking", g_max_us=31.0)


class Half(DeviceModel):
    """Devices that come out at half of what was asked for."""

    def written(
        self, target: Tensor, stuck_at: Tensor | None, clock_s: float, streams: Streams
    ) -> Cells:
        return super().written(target / 2, stuck_at, clock_s, streams)


def linear(weight: np.ndarray) -> nir.NIRGraph:
    nodes = {
        "in": nir.Input({"input": np.array([weight.shape[1]])}),
        "fc": nir.Linear(weight),
        "out": nir.Output({"output": np.array([weight.shape[0]])}),
    }
    return nir.NIRGraph(nodes, [("in", "fc"), ("fc", "out")])


def test_a_class_is_a_device_but_only_its_name_can_be_saved(tmp_path: Path) -> None:
    made = Accelerator(compile(linear(np.ones((2, 3))), Chip(device=Half), dt=1.0))
    made.program()
    assert torch.equal(made.read_weights()["fc"], torch.full((2, 3), 0.5))
    for save in (made.save, lambda path: dump_chip(made.layout.chip, path)):
        with pytest.raises(ValueError, match="a device without a name, Half"):
            save(tmp_path / "chip")
    assert not list(tmp_path.iterdir())


def test_an_installed_package_brings_its_class_under_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = EntryPoint("half", f"{__name__}:Half", devices.MODELS)
    monkeypatch.setitem(sys.modules, __name__, sys.modules[Half.__module__])
    monkeypatch.setattr(devices, "entry_points", lambda group: [point])
    devices.named.cache_clear()
    made = Accelerator(compile(linear(np.ones((2, 3))), Chip(device="half"), dt=1.0))
    made.program()
    made.save(tmp_path / "chip.npz")
    again = Accelerator.load(tmp_path / "chip.npz")
    assert torch.equal(again.read_weights()["fc"], torch.full((2, 3), 0.5))
    monkeypatch.undo()
    devices.named.cache_clear()


def test_without_its_file_the_name_is_refused_with_those_there_are() -> None:
    known = "joshi2020, hermes1, hermes2, nandakumar2018"
    with pytest.raises(ValueError, match=f"device is 'leaking'; it must be one of {known}"):
        Chip(device="leaking")
