"""Pulsed devices against the published response curves."""

import csv
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Generator

from snu_plugin.accelerator import IDEAL, PCM, PCM_PULSED, Cells, Chip, device_model
from snu_plugin.accelerator.devices import pulses

ORACLE = Path(__file__).parents[3] / "shared" / "reference" / "pcm_oracle"


def rows(name: str) -> list[dict[str, str]]:
    path = ORACLE / name
    if not path.is_file():
        pytest.skip(f"needs the shared oracle tables, looked for {path}")
    with path.open() as file:
        return list(csv.DictReader(file))


def streams(seed: int = 0) -> dict[str, Generator]:
    names = ("programming", "drift", "read", "output", "pulse")
    return {name: Generator().manual_seed(seed + i) for i, name in enumerate(names)}


def drifted(cells: Cells, clock_s: float, chip: Chip) -> torch.Tensor:
    return device_model(chip).drift(cells, cells.age_s(clock_s))


def cells_at(g: torch.Tensor, clock_s: float = 0.0) -> Cells:
    return device_model(replace(IDEAL, g_max_us=100.0)).write(g, clock_s, streams())


@pytest.mark.parametrize("ceiling", [12.0, 20.0])
def test_the_mean_response_is_the_published_curve(ceiling: float) -> None:
    count = 200_000
    generator = Generator().manual_seed(1)
    g = pulses.reset(torch.Size([count]), generator)
    for row in rows("nandakumar2018_pulse_response.csv"):
        if float(row["Gmax_uS"]) != ceiling:
            continue
        n = int(row["pulse"])
        if n:
            noise = torch.randn(count, generator=generator, dtype=torch.float64)
            g = pulses.set_pulse(g, torch.tensor(float(n)), ceiling, noise)
        std = float(row["G_std"])
        error = 5 * std * math.sqrt(1 / count + 1 / 400_000)
        assert float(g.mean()) == pytest.approx(float(row["G_mean"]), abs=error)
        assert float(g.std()) == pytest.approx(std, rel=0.01)


def test_the_noise_free_response_is_the_published_curve() -> None:
    curve = pulses.mean_curve()
    for row in rows("nandakumar2018_pulse_response.csv"):
        if float(row["Gmax_uS"]) == 20:
            expected = float(row["G_noisefree"])
            assert float(curve[int(row["pulse"])]) == pytest.approx(expected, abs=1e-4)


def test_drift_and_read_noise_are_the_published_ones() -> None:
    for row in rows("nandakumar2018_drift_read.csv"):
        g = torch.tensor([float(row["G_T0_uS"])], dtype=torch.float64)
        cells = cells_at(g)._replace(nu=torch.tensor([0.04]))
        t = float(row["t_s"])
        now = drifted(cells, t, PCM_PULSED)
        sigma = device_model(PCM_PULSED).read_sigma(cells, now, cells.age_s(t))
        assert float(now) == pytest.approx(float(row["G_drifted_uS"]), rel=1e-5)
        assert float(sigma) == pytest.approx(float(row["sigma_read_uS"]), rel=1e-5)


def test_the_history_that_leads_to_a_conductance_leads_back() -> None:
    curve = pulses.mean_curve()
    n = pulses.pulses_to_reach(curve[:20])
    torch.testing.assert_close(n, torch.arange(20, dtype=torch.float64))
    assert float(pulses.pulses_to_reach(torch.tensor([0.0], dtype=torch.float64))) == 0


def test_a_pulse_touches_no_other_device() -> None:
    cells = device_model(PCM).write(torch.full((50,), 8.0, dtype=torch.float64), 0.0, streams())
    counts = torch.zeros(50, dtype=torch.int32)
    counts[7] = 2
    after = device_model(PCM).pulse(cells, counts, 100.0, streams(5))
    others = torch.arange(50) != 7
    for old, new in zip(cells, after, strict=True):
        assert torch.equal(old[others].nan_to_num(9), new[others].nan_to_num(9))
        assert old.dtype == new.dtype
    assert float(after.t_s[7]) == 100.0
    assert int(after.sets[7]) == 2
    assert float(after.history[7]) == float(cells.history[7] + 2)
    assert float(after.g_us[7]) != float(cells.g_us[7])


def test_a_pulse_starts_from_the_drifted_conductance_and_restarts_the_clock() -> None:
    chip = replace(PCM, programming_noise=None, read_noise=None)
    g = torch.tensor([10.0], dtype=torch.float64)
    cells = device_model(chip).write(g, 0.0, streams())
    later = 1e6
    aged = drifted(cells, later, chip)
    after = device_model(chip).pulse(cells, torch.tensor([1]), later, streams())
    scale = 25 / 12
    expected = scale * pulses.set_pulse(aged / scale, cells.history.double() + 1, 12.0, None)
    torch.testing.assert_close(after.g_us, expected)
    assert torch.equal(drifted(after, later + 10, chip), after.g_us)


def test_pulses_never_pass_the_largest_conductance() -> None:
    cells = device_model(PCM).write(torch.full((200,), 24.0, dtype=torch.float64), 0.0, streams())
    many = torch.full((200,), 40, dtype=torch.int32)
    after = device_model(PCM).pulse(cells, many, 30.0, streams())
    assert float(after.g_us.max()) <= 25.0 + 1e-9
    assert float(after.g_us.min()) >= 0.1


def test_a_reset_forgets_the_history() -> None:
    cells = device_model(PCM).write(torch.full((100,), 8.0, dtype=torch.float64), 0.0, streams())
    where = torch.arange(100) < 30
    after = device_model(PCM).reset(cells, where, 50.0, streams())
    assert float(after.g_us[:30].max()) < 0.5
    assert float(after.history[:30].sum()) == 0
    assert int(after.resets.sum()) == 30
    assert torch.equal(after.g_us[30:], cells.g_us[30:])


def test_ideal_pulses_are_equal_exact_steps() -> None:
    cells = cells_at(torch.tensor([1.0, 2.0], dtype=torch.float64))
    after = device_model(IDEAL).pulse(cells, torch.tensor([3, 0]), 0.0, streams())
    assert torch.equal(after.g_us, torch.tensor([1.0 + 3 * 0.75, 2.0], dtype=torch.float64))


def test_program_and_verify_comes_as_close_as_its_tolerance_allows() -> None:
    target = torch.linspace(0, 10, 4000, dtype=torch.float64)
    cells = device_model(PCM_PULSED).write(target, 0.0, streams())
    error = drifted(cells, pulses.T0_S, PCM_PULSED) - target
    # Verified through a read of at most 0.43 µS noise, and never more than 60 tries.
    assert float(error.std()) < 0.75
    assert abs(float(error.mean())) < 0.2
    assert int(cells.sets.sum()) > 4000


def test_age_zero_gives_finite_values() -> None:
    for chip in (IDEAL, PCM, PCM_PULSED):
        cells = device_model(chip).write(torch.zeros(10, dtype=torch.float64), 5.0, streams())
        g = drifted(cells, 5.0, chip)
        sigma = device_model(chip).read_sigma(cells, g, cells.age_s(5.0))
        assert bool(torch.stack((g, sigma)).isfinite().all())


def test_every_switch_of_a_device_changes_something_and_nothing_else() -> None:
    target = torch.linspace(0, 20, 300, dtype=torch.float64)
    full = device_model(PCM).write(target, 0.0, streams())
    quiet = device_model(replace(PCM, programming_noise=None)).write(target, 0.0, streams())
    still = device_model(replace(PCM, drift=None)).write(target, 0.0, streams())
    assert torch.equal(quiet.g_us, target)
    assert torch.equal(quiet.nu, full.nu)
    assert torch.equal(still.g_us, full.g_us)
    assert torch.equal(drifted(still, 1e6, replace(PCM, drift=None)), still.g_us)
    silent = device_model(replace(PCM, read_noise=None))
    sigma = silent.read_sigma(full, full.g_us, full.age_s(1e3))
    assert not bool(sigma.any())
