"""A chip that is warmed: what it shows and how it relaxes, against the closed form."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from snu_plugin.accelerator import IDEAL, PCM, PCM_PULSED, Accelerator, Chip
from snu_plugin.accelerator.devices.temperature import ATTEMPT_S, BOLTZMANN_EV, Climate
from snu_plugin.compiler import compile

WARM = replace(IDEAL, activation_ev=0.2)
DRIFTS = replace(
    PCM, programming_noise=None, read_noise=None, output_noise=None, adc_bits=None, dac_bits=None
)


def matrix(weight: np.ndarray) -> nir.NIRGraph:
    nodes = {
        "in": nir.Input({"input": np.array([weight.shape[1]])}),
        "fc": nir.Linear(weight),
        "out": nir.Output({"output": np.array([weight.shape[0]])}),
    }
    return nir.NIRGraph(nodes, [("in", "fc"), ("fc", "out")])


def chip_of(chip: Chip, weight: np.ndarray | None = None, seed: int = 0) -> Accelerator:
    weight = np.random.default_rng(0).uniform(0.1, 1, (8, 6)) if weight is None else weight
    made = Accelerator(compile(matrix(weight), chip, dt=1.0, scaling="layer"), seed)
    made.program()
    return made


def plus(chip: Accelerator) -> Tensor:
    return chip.read_conductances()["fc"][0]


def test_conductances_follow_arrhenius_by_how_far_they_are_from_full() -> None:
    chip = chip_of(WARM)
    before = plus(chip)
    chip.set_temperature(360.0)
    energy = 0.2 * (1 - before / 25.0)
    expected = before * torch.exp(-energy / BOLTZMANN_EV * (1 / 360 - 1 / 300))
    torch.testing.assert_close(plus(chip), expected, rtol=1e-12, atol=0)
    full = before.argmax()
    assert float(plus(chip).flatten()[full]) == pytest.approx(25.0, rel=1e-12)


def test_a_product_meets_what_a_reading_shows() -> None:
    chip = chip_of(WARM)
    chip.set_temperature(330.0)
    out, _ = chip.run(torch.eye(6)[:, None])
    torch.testing.assert_close(out[:, 0].T, chip.read_weights()["fc"], rtol=1e-5, atol=0)


def test_cooling_at_once_undoes_warming() -> None:
    chip = chip_of(replace(DRIFTS, activation_ev=0.3))
    chip.wait(86_400)
    before = plus(chip)
    chip.set_temperature(380.0)
    chip.set_temperature(300.0)
    torch.testing.assert_close(plus(chip), before, rtol=1e-6, atol=0)


def test_a_steady_temperature_changes_nothing_whatever_it_is() -> None:
    chips = [chip_of(replace(PCM, activation_ev=energy)) for energy in (None, 0.3)]
    chips[1] = Accelerator(chips[1].layout, 0)
    chips[1].set_temperature(370.0)
    chips[1].program()
    for chip in chips:
        chip.wait(86_400)
    torch.testing.assert_close(plus(chips[1]), plus(chips[0]), rtol=1e-6, atol=0)


def barriers(times_s: list[float], kelvin: list[float]) -> float:
    """Energy of the barriers crossed after so many seconds at each temperature, eV.

    Solved step by step from ``du/dt = (k T / τ_0) exp(-u / (k T))``, in the logarithm of time.
    """
    u = BOLTZMANN_EV * kelvin[0] * math.log(1e-6 / ATTEMPT_S)  # after a microsecond
    for seconds, temperature in zip(times_s, kelvin, strict=True):
        unit = BOLTZMANN_EV * temperature

        def rate(log_t: float, u: Any, unit: float = unit) -> Any:
            return unit * np.exp(log_t - math.log(ATTEMPT_S) - u / unit)

        span = (math.log(1e-9), math.log(seconds))
        u = solve_ivp(rate, span, [u], method="LSODA", rtol=1e-9, atol=1e-12).y[0, -1]
    return float(u)


@pytest.mark.parametrize("holds", [300.0, 350.0])
def test_relaxation_crosses_barriers_sooner_where_it_is_warmer(holds: float) -> None:
    chip = chip_of(replace(DRIFTS, activation_ev=0.0))
    written = plus(chip)
    chip.wait(3600 - chip.clock_s)
    chip.set_temperature(350.0)
    chip.wait(600)
    chip.set_temperature(holds)
    chip.wait(7200)
    u = barriers([3600, 600, 7200], [300.0, 350.0, holds])
    u_0 = BOLTZMANN_EV * 300 * math.log(20 / ATTEMPT_S)
    nu = chip.state.cells["fc"].nu[0].double()
    expected = written * torch.exp(-nu * (u - u_0) / (BOLTZMANN_EV * holds))
    torch.testing.assert_close(plus(chip), expected, rtol=1e-5, atol=0)


def test_heat_ages_a_chip() -> None:
    """20 s at 350 K are 81 minutes at 300 K, as docs/devices.md says."""
    climate = Climate().then(20.0, 350.0).then(40.0, 300.0)
    aged = climate.drift_age_s(torch.zeros(1, dtype=torch.float64), 40.0, 20.0)
    assert float(aged) / 60 == pytest.approx(81.5, abs=0.1)


def test_what_is_written_warm_holds_its_target_there() -> None:
    weight = np.array([[1.0, 0.5, 0.25]])
    chip = chip_of(WARM, weight)
    chip.set_temperature(350.0)
    off = chip.read_weights()["fc"]
    assert off[0, 2] > 0.3
    chip.write({"fc": torch.tensor(weight)}, {"fc": torch.tensor([[False, False, True]])})
    now = chip.read_weights()["fc"]
    assert now[0, 2] == pytest.approx(0.25, rel=1e-6)
    assert now[0, 1] == off[0, 1]


def test_a_pulse_starts_from_what_is_shown() -> None:
    chip = chip_of(replace(WARM, pulse_step_us=0.5), np.array([[1.0, 0.5]]))
    chip.set_temperature(350.0)
    shown = plus(chip)[0, 1]
    chip.pulse({"fc": torch.tensor([[0, 1]])})
    assert float(plus(chip)[0, 1] - shown) == pytest.approx(0.5, rel=1e-9)


def test_calibration_undoes_what_a_column_has_in_common() -> None:
    """Columns of equal weights come back exactly; of unequal ones the mean does."""
    alike = np.outer([1.0, 0.6, 0.3], np.ones(12))
    mixed = np.random.default_rng(1).uniform(0.05, 1, (3, 12))
    x = torch.eye(12)[:, None]
    for weight, exact in ((alike, True), (mixed, False)):
        chip = chip_of(WARM, weight)
        chip.set_temperature(350.0)
        wrong = chip.run(x)[0][:, 0].T - torch.tensor(weight).float()
        chip.calibrate()
        left = chip.run(x)[0][:, 0].T - torch.tensor(weight).float()
        if exact:
            energy = 0.2 * (1 - torch.tensor([1.0, 0.6, 0.3]).double())
            gain = torch.exp(energy / BOLTZMANN_EV * (1 / 350 - 1 / 300)).float()
            torch.testing.assert_close(chip.registers["fc.gain"], gain, rtol=1e-5, atol=0)
            assert left.abs().max() < 1e-5
        else:
            assert 0.1 < left.square().mean().sqrt() / wrong.square().mean().sqrt() < 0.6


def test_devices_that_live_by_pulses_are_warmed_too() -> None:
    noiseless = replace(PCM_PULSED, programming_noise=None, read_noise=None, activation_ev=0.1)
    chip = chip_of(noiseless)
    chip.wait(38.6)
    cells, clock = chip.state.cells["fc"], chip.clock_s
    chip.set_temperature(340.0)
    energy = 0.1 * (1 - cells.g_us / 12)
    warmth = torch.exp(-energy / BOLTZMANN_EV * (1 / 340 - 1 / 300))
    aged = ((clock - cells.t_s) / 38.6) ** (-0.04 * 300 / 340)
    torch.testing.assert_close(
        chip.read_conductances()["fc"], cells.g_us * warmth * aged, rtol=1e-6, atol=0
    )


def test_a_device_that_sticks_while_warm_stays_where_it_stood() -> None:
    chip = chip_of(replace(DRIFTS, activation_ev=0.0, sticking=5.0))
    chip.wait(1e6)
    chip.set_temperature(350.0)
    chip.wait(1e6)
    stuck = chip.state.cells["fc"].stuck[0]
    assert stuck.any()
    held = plus(chip)
    chip.wait(1e6)
    assert torch.equal(plus(chip)[stuck], held[stuck])


def test_a_saved_chip_remembers_its_temperatures(tmp_path: Path) -> None:
    chip = chip_of(replace(PCM, activation_ev=0.2))
    chip.wait(60)
    chip.set_temperature(345.0)
    chip.wait(60)
    chip.save(tmp_path / "chip.npz")
    again = Accelerator.load(tmp_path / "chip.npz")
    assert again.temperature_k == 345.0
    assert torch.equal(plus(again), plus(chip))


def test_a_temperature_that_would_change_nothing_or_is_no_temperature_is_refused() -> None:
    with pytest.raises(ValueError, match=r"activation_ev None.*replace\(PCM, activation_ev"):
        chip_of(IDEAL).set_temperature(320.0)
    for kelvin in (25.0, math.nan, "warm"):
        with pytest.raises(ValueError, match="from 200 to 450 K"):
            chip_of(WARM).set_temperature(kelvin)  # type: ignore[arg-type]
