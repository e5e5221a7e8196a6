"""Drift of devices and tiles, and what compensates it, against the closed forms."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from snu_plugin.accelerator import HERMES, PCM, Accelerator, Chip, device_model
from snu_plugin.accelerator.devices.statistical import (
    HERMES1,
    HERMES2,
    JOSHI2020,
    Statistics,
)
from snu_plugin.compiler import compile

STATISTICS = {"joshi2020": JOSHI2020, "hermes1": HERMES1, "hermes2": HERMES2}
FITS: dict[str, float] = {"joshi2020": 25.0, "hermes1": 10.35, "hermes2": 20.7}


def streams() -> dict[str, Generator]:
    names = ("programming", "drift", "read", "pulse")
    return {name: Generator().manual_seed(i) for i, name in enumerate(names)}


@pytest.mark.parametrize(
    ("fit", "sigma", "nu_sd", "q"),
    [
        (
            HERMES1,
            (0.15781817, 2.32443916, -2.16310839, 0.68841818),
            (0.3039, (-0.0120, -0.0023, 0.0124, 0.04), (0.0104, 0.0116, -0.0165, 0)),
            (0.1591, (-0.0078, 0.0038, 0.0179, 0.04), (0.0088, 0.0768, -0.1352, 0.0664)),
        ),
        (
            HERMES2,
            (0.16603222, 4.71806468, -8.48101252, 4.68961419),
            (0.3055, (-0.0117, -0.0057, 0.0091, 0.04), (0.0073, 0.0093, -0.0118, 0)),
            (0.16, (-0.0117, -0.0069, 0.015, 0.04), (0.0123, 0.0211, -0.0280, 0.0069)),
        ),
    ],
)
def test_the_curves_of_hermes_are_the_printed_ones(
    fit: Statistics, sigma: Any, nu_sd: Any, q: Any
) -> None:
    """Section 3, on both sides of every edge."""
    grid = [0.0, 1e-9, 1e-3, 0.05, 0.0944, 0.0946, 0.1590, 0.1595, 0.161, 0.3038, 0.304, 0.306, 1.0]
    g = torch.tensor(grid, dtype=torch.float64)

    def printed(edge: float, line: Any, cubic: Any) -> Tensor:
        low = (line[0] * np.log(np.maximum(grid, 1e-7)) + line[1]).clip(line[2], line[3])
        high = sum(c * np.asarray(grid) ** n for n, c in enumerate(cubic))
        return torch.from_numpy(np.where(np.asarray(grid) < edge, low, high))

    nu = (0.0945, (-0.0387, -0.0182, 0.072, 0.13), (0.0736, -0.0126, -0.0436, 0))
    torch.testing.assert_close(fit.nu_mean(g), printed(*nu))
    torch.testing.assert_close(fit.nu_sd(g), printed(*nu_sd))
    torch.testing.assert_close(fit.q(g), printed(*q))
    torch.testing.assert_close(fit.programming_us(g), printed(0, (0, 0, 0, 0), sigma))
    assert fit.t_read_s == 512e-9
    assert (fit.t0_s, fit.g_ref_us) == ((200.0, 10.35) if fit is HERMES1 else (300.0, 20.7))


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("g", [0.2, 0.6, 1.0])
@pytest.mark.parametrize("age", [1.0, 3600.0, 3e7])
def test_a_reading_has_the_moments_of_writing_drift_and_noise(
    fit: Any, g: float, age: float
) -> None:
    """Section 2.2: Var[G] = m2 M(2) (1 + rho²) - (m1 M(1))², age from the first read on."""
    count, g_max = 100_000, FITS[fit]
    chip = Chip(device=fit, g_max_us=g_max)
    draws = streams()
    target = torch.full((count,), g * g_max, dtype=torch.float64)
    cells = device_model(chip).write(target, 0.0, draws)
    statistics = STATISTICS[fit]
    t = statistics.t0_s + age
    seen = device_model(chip).read(cells, t, draws["read"])
    relative = torch.tensor(g, dtype=torch.float64)
    s, mu, sd, q = (
        float(f(relative))
        for f in (statistics.programming_us, statistics.nu_mean, statistics.nu_sd, statistics.q)
    )
    m1, m2 = clipped(g * g_max, s)
    log = math.log(t / statistics.t0_s)
    t_r = statistics.t_read_s
    rho = q * math.sqrt(math.log((t + t_r) / (2 * t_r)))
    mean = m1 * folded(1, mu, sd, log)
    variance = m2 * folded(2, mu, sd, log) * (1 + rho**2) - mean**2
    assert float(seen.mean()) == pytest.approx(mean, abs=5 * math.sqrt(variance / count))
    assert float(seen.std()) == pytest.approx(math.sqrt(variance), rel=0.015)


def clipped(mean: float, s: float) -> tuple[float, float]:
    """First two moments of max(0, N(mean, s))."""
    a = mean / s
    density = math.exp(-a * a / 2) / math.sqrt(2 * math.pi)
    return mean * cdf(a) + s * density, (mean**2 + s**2) * cdf(a) + mean * s * density


def folded(k: int, mu: float, sd: float, log: float) -> float:
    """E[(t/t0)^(-k |N(mu, sd)|)]."""
    a, b, c = k * log * mu, (k * log * sd) ** 2 / 2, k * log * sd
    return math.exp(b - a) * cdf(mu / sd - c) + math.exp(a + b) * cdf(-mu / sd - c)


def cdf(x: float) -> float:
    return 0.5 * (1 + math.erf(x / math.sqrt(2)))


def test_relative_read_noise_follows_the_target_or_what_was_written() -> None:
    target = torch.full((10_000,), 0.5, dtype=torch.float64)
    for chip in (PCM, HERMES):
        fit = STATISTICS[str(chip.device)]
        by_target, by_written = (
            device_model(replace(chip, noise_of=of)).write(target, 0.0, streams())
            for of in ("target", "written")
        )
        assert torch.equal(by_target.g_us, by_written.g_us)
        expected = fit.q(target / chip.g_max_us).float()
        torch.testing.assert_close(by_target.q, expected)
        torch.testing.assert_close(by_written.q, fit.q(by_written.g_us / chip.g_max_us).float())
    assert HERMES.noise_of == "written"


def test_a_smaller_hermes_device_errs_in_proportion() -> None:
    """Section 3: sigma_P scales with g_max over that of the measured devices."""
    full, half = Chip(device="hermes2", g_max_us=20.7), Chip(device="hermes2", g_max_us=10.35)
    target = torch.linspace(0, 20.7, 500, dtype=torch.float64)
    one, two = (
        device_model(c).write(t, 0.0, streams()) for t, c in ((target, full), (target / 2, half))
    )
    torch.testing.assert_close(two.g_us, one.g_us / 2)
    assert torch.equal(two.nu, one.nu)


def layer(weight: Any, chip: Chip, scaling: Any = "layer", seed: int = 0) -> Accelerator:
    nodes = {
        "in": nir.Input({"input": np.array([weight.shape[1]])}),
        "fc": nir.Linear(weight),
        "out": nir.Output({"output": np.array([weight.shape[0]])}),
    }
    g = nir.NIRGraph(nodes, [("in", "fc"), ("fc", "out")])
    made = Accelerator(compile(g, chip, scaling, dt=1.0), seed)
    made.program()
    return made


@pytest.mark.parametrize("preset", [PCM, HERMES])
@pytest.mark.parametrize("age", [3600.0, 3e7])
def test_the_outputs_of_a_tile_fall_as_its_devices_do(preset: Chip, age: float) -> None:
    """All rows driven, exact writing: E[y] = n w M(1), Var[y] = n w² (M(2) - M(1)²)."""
    out, inputs, w = 300, 200, 0.7
    weight = np.full((out, inputs), w)
    weight[0, 0] = 1.0
    plain: dict[str, Any] = {"adc_bits": None, "output_noise": None, "wire_ohm": None}
    chip = replace(preset, programming_noise=None, read_noise=None, tile_columns=300, **plain)
    made = layer(weight, chip)
    fit = STATISTICS[str(chip.device)]
    made.wait(age)
    y = made.run(torch.ones(1, 1, inputs))[0][0, 0, 1:].double()
    g = torch.tensor(w, dtype=torch.float64)
    mu, sd = float(fit.nu_mean(g)), float(fit.nu_sd(g))
    log = math.log((fit.t0_s + age) / fit.t0_s)
    mean, second = folded(1, mu, sd, log), folded(2, mu, sd, log)
    spread = w * math.sqrt(inputs * (second - mean**2))
    assert float(y.mean()) == pytest.approx(inputs * w * mean, abs=5 * spread / math.sqrt(out))
    assert float(y.std()) == pytest.approx(spread, rel=5 / math.sqrt(2 * out))


@pytest.mark.parametrize("sigma", [0.0, 0.05, 0.2])
@pytest.mark.parametrize("scope", ["layer", "tile", "global"])
def test_the_published_factor_is_that_of_the_closed_form(sigma: float, scope: Any) -> None:
    """Section 11: alpha = sqrt((s₀² + σ²) / (s_t² + σ²)) for weights of normal distribution."""
    out, inputs, reads = 200, 250, 2
    weight = np.random.default_rng(0).normal(size=(out, inputs))
    quiet: dict[str, Any] = {"adc_bits": None, "wire_ohm": None, "read_noise": None}
    made = layer(weight, replace(PCM, output_noise=sigma, programming_noise=None, **quiet))
    # One exponent for all devices: the distribution keeps its form.
    cells = made.state.cells["fc"]
    made.state.cells["fc"] = cells._replace(nu=torch.full_like(cells.nu, 0.05))
    op = made.layout.products["fc"]
    fresh = float((op.weight / op.weight_per_us).square().mean().sqrt()) / 25
    made.remember(reads)
    made.wait(3e6)
    aged = fresh * ((3e6 + 20) / 20) ** -0.05
    made.calibrate(scope, method="mean", reads=reads)
    noise = sigma**2 / reads
    expected = math.sqrt((fresh**2 + noise) / (aged**2 + noise))
    found = made.registers["fc.gain"]
    assert len(set(found.tolist())) == 1
    # 50,000 magnitudes at both times, each with a relative spread of 0.76.
    error = 5 * 0.76 * math.sqrt(2 / weight.size) if sigma else 1e-3
    assert float(found[0]) == pytest.approx(expected, rel=error)


def test_a_factor_fitted_to_random_inputs_has_no_such_bias() -> None:
    weight = np.random.default_rng(0).normal(size=(200, 250))
    quiet: dict[str, Any] = {"adc_bits": None, "wire_ohm": None, "read_noise": None}
    made = layer(weight, replace(PCM, output_noise=0.2, programming_noise=None, **quiet))
    made.wait(3e6)
    target = made.layout.products["fc"].targets_us()
    cells = made.state.cells["fc"]
    g = made.state.models["fc"].drift(cells, cells.age_s(made.clock_s))
    now, then = g[0] - g[1], target[0] - target[1]
    expected = float(then.square().sum() / (then * now).sum())
    made.calibrate("layer")
    assert float(made.registers["fc.gain"][0]) == pytest.approx(expected, rel=0.01)


def exponents_over_their_law(made: Accelerator) -> Tensor:
    """``(ν - mean) / sd`` at the conductance that every device of G+ holds."""
    cells = made.state.cells["fc"]
    curves = made.state.models["fc"].exponents(cells.g_us)
    assert curves is not None
    return ((cells.nu - curves[0]) / curves[1])[0]


@pytest.mark.parametrize("chip", [PCM, replace(PCM, devices_per_weight=4), HERMES])
@pytest.mark.parametrize("calls", [[1], [8], [1] * 8, [2, 5]])
def test_a_device_that_was_reset_has_the_exponent_of_what_it_is_pulsed_to(
    chip: Chip, calls: list[int]
) -> None:
    """Written near 0 it had one around 0.1; the new one is |N(mean, sd)| of where it stands."""
    n = 100
    made = layer(np.full((n, n), 1e-6) + np.eye(n), replace(chip, pulse="nandakumar2018"))
    before = made.state.cells["fc"].nu
    made.reset({"fc": torch.ones(n, n, dtype=torch.bool)})
    for _ in range(made.layout.chip.per_polarity):
        for count in calls:
            made.pulse({"fc": torch.full((n, n), count)})
    found = exponents_over_their_law(made).flatten()
    curves = made.state.models["fc"].exponents(made.state.cells["fc"].g_us[0].flatten())
    assert curves is not None
    ratio = (curves[0] / curves[1]).numpy()
    # Of |m + s z| only what lies below 0 is reflected.
    reflected = np.mean([2 * (math.exp(-r * r / 2) / 2.5066 - r * cdf(-r)) for r in ratio[:500]])
    assert float(found.mean()) == pytest.approx(reflected, abs=0.01 + 5 / n)
    assert float(found.std()) == pytest.approx(1, abs=0.06)
    old = before[0].flatten()
    assert abs(float(torch.corrcoef(torch.stack((old, found.float())))[0, 1])) < 5 / n
    first = found.clone()
    made.reset({"fc": torch.ones(n, n, dtype=torch.bool)})
    made.pulse({"fc": torch.full((n, n), 3)})
    again = exponents_over_their_law(made).flatten()
    assert abs(float(torch.corrcoef(torch.stack((first, again)))[0, 1])) < 5 / n


def test_a_set_pulse_keeps_moves_or_draws_the_exponent_of_a_written_device_as_asked() -> None:
    weight = np.random.default_rng(0).uniform(0.2, 1, (100, 100))
    counts = torch.zeros(100, 100, dtype=torch.int32)
    counts[:50] = 3
    drawn = {}
    for choice in ("keeps", "follows", "draws"):
        made = layer(weight, replace(PCM, nu_after_set=choice))
        targets = made.layout.products["fc"].targets_us()
        curves = made.state.models["fc"].exponents(targets)
        assert curves is not None
        before = made.state.cells["fc"].nu
        deviate = ((before - curves[0]) / curves[1])[0, :50].flatten()
        made.pulse({"fc": counts})
        after = made.state.cells["fc"].nu
        assert torch.equal(after[1], before[1])
        assert torch.equal(after[0, 50:], before[0, 50:])
        drawn[choice] = torch.equal(after[0, :50], before[0, :50])
        now = exponents_over_their_law(made)[:50].flatten()
        together = float(torch.corrcoef(torch.stack((deviate, now)))[0, 1])
        if choice == "follows":
            torch.testing.assert_close(now, deviate, atol=1e-3, rtol=0)
        elif choice == "draws":
            assert abs(together) < 5 / math.sqrt(5000)
            assert float(now.std()) == pytest.approx(1, abs=5 / 100)
    assert drawn == {"keeps": True, "follows": False, "draws": False}


def test_exponents_of_rewritten_devices_are_saved_with_the_chip(tmp_path: Path) -> None:
    made = layer(np.random.default_rng(0).normal(size=(10, 12)), PCM)
    made.reset({"fc": torch.ones(10, 12, dtype=torch.bool)})
    made.pulse({"fc": torch.full((10, 12), 4)})
    made.save(tmp_path / "chip.npz")
    again = Accelerator.load(tmp_path / "chip.npz")
    for one in (made, again):
        one.pulse({"fc": torch.full((10, 12), 4)})
    assert torch.equal(made.state.cells["fc"].nu, again.state.cells["fc"].nu)
