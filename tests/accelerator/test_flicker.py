"""Read noise in time against the closed forms of its 1/f spectrum (docs/devices.md)."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from snu_plugin.accelerator import HERMES, PCM, PCM_PULSED, Accelerator, Chip
from snu_plugin.accelerator.devices.flicker import (
    Flicker,
    SlowNoise,
    relaxation_times_s,
    relaxation_variance,
)
from snu_plugin.accelerator.devices.statistical import JOSHI2020
from snu_plugin.accelerator.noise import random_bits
from snu_plugin.compiler import compile

DAY = 86_400.0
QUIET: dict[str, Any] = {
    "programming_noise": None,
    "drift": None,
    "output_noise": None,
    "adc_bits": None,
    "dac_bits": None,
    "wire_ohm": None,
}
CARRIED = 0.03
"""Documented error of correlations."""


def ci(x: float) -> float:
    """Cosine integral."""
    if x > 20:
        return math.sin(x) / x * (1 - 2 / x**2 + 24 / x**4) - math.cos(x) / x**2 * (1 - 6 / x**2)
    terms = [
        (-1.0) ** k * math.exp(2 * k * math.log(x) - math.lgamma(2 * k + 1)) / (2 * k)
        for k in range(1, 60)
    ]
    return 0.57721566 + math.log(x) + math.fsum(terms)


def covariance(t: float, lag: float, t_read: float = 250e-9) -> float:
    """Of two readings at age t, in units of (G Q)²."""
    if lag == 0:
        return math.log((t + t_read) / (2 * t_read))
    return ci(math.pi * lag / t_read) - ci(2 * math.pi * lag / t)


def uniform(g: float, chip: Chip, outputs: int = 100, inputs: int = 150) -> Accelerator:
    """A chip whose devices of G+ all hold ``g`` of the range, but for one row that is full."""
    weight = np.full((outputs, inputs), g)
    weight[0] = 1.0
    nodes = {
        "in": nir.Input({"input": np.array([inputs])}),
        "fc": nir.Linear(weight),
        "out": nir.Output({"output": np.array([outputs])}),
    }
    graph = nir.NIRGraph(nodes, [("in", "fc"), ("fc", "out")])
    made = Accelerator(compile(graph, chip, "layer", dt=1.0))
    made.program()
    return made


def noise(made: Accelerator, g: float) -> Tensor:
    """One reading of G+ less what it holds, over the published ``G Q``."""
    seen = made.read_conductances()["fc"][0, 1:] - 25 * g
    return seen / (25 * g * float(JOSHI2020.q(torch.tensor(g))))


@pytest.mark.parametrize("g", [0.1, 0.4, 1.0])
@pytest.mark.parametrize(
    ("t", "lag"),
    [
        (20.0, 2e-5),
        (20.0, 1.0),
        (3600.0, 1e-4),
        (3600.0, 30.0),
        (DAY, 3.3e-5),
        (DAY, 7e-3),
        (DAY, 0.5),
        (DAY, 100.0),
        (30 * DAY, 5e4),
        (365 * DAY, 3e6),
    ],
)
def test_readings_correlate_as_the_spectrum_says_at_every_lag(
    g: float, t: float, lag: float
) -> None:
    made = uniform(g, replace(PCM, **QUIET, step_ns=0.1))
    made.wait(t - made.age_s)
    first = noise(made, g)
    made.wait(lag)
    second = noise(made, g)
    n = first.numel()
    for seen, age in ((first, t), (second, t + lag)):
        expected = covariance(age, 0)
        assert float(seen.square().mean()) == pytest.approx(expected, rel=5 * math.sqrt(2 / n))
    found = float(torch.corrcoef(torch.stack((first.flatten(), second.flatten())))[0, 1])
    expected = covariance(t, lag) / math.sqrt(covariance(t, 0) * covariance(t + lag, 0))
    assert found == pytest.approx(expected, abs=CARRIED + 5 / math.sqrt(n))


def test_the_variance_is_that_of_the_spectrum_at_every_age() -> None:
    for age in (1.0, 20.0, 333.0, 3600.0, DAY, 3e7, 3e9):
        times = torch.tensor(relaxation_times_s(age))
        slow = float(relaxation_variance(times, torch.tensor(age)).sum())
        assert slow == pytest.approx(math.log(age / (2 * math.pi * 1e-5)), rel=1e-6)


def test_averaging_readings_helps_as_little_as_the_spectrum_says() -> None:
    made = uniform(0.4, replace(PCM, **QUIET))
    made.wait(DAY)
    count = 16
    begin = made.clock_s
    readings = [noise(made, 0.4) for _ in range(count)]
    every = (made.clock_s - begin) / count
    lags = [abs(i - j) * every for i in range(count) for j in range(count)]
    expected = float(np.mean([covariance(DAY, lag) for lag in lags]))
    found = float(torch.stack(readings).mean(0).square().mean())
    error = CARRIED * covariance(DAY, 0) + 5 * expected * math.sqrt(2 / readings[0].numel())
    assert found == pytest.approx(expected, abs=error)
    assert found > 0.7 * float(readings[0].square().mean())


def test_a_million_readings_have_the_spectrum_of_one_over_f() -> None:
    """The expected periodogram is that of the closed covariance, sampled; 2,000 devices."""
    steps, devices, every = 512, 2000, 1e-3
    slow, bits = SlowNoise(), random_bits(0, "flicker", "fc")
    written = torch.zeros(devices, dtype=torch.float64)
    draw, seen = Generator().manual_seed(1), []
    for n in range(steps):
        frozen, open_ = slow.observe(Flicker(250e-9), written, DAY + n * every, 0.0, bits)
        seen.append(frozen + open_.sqrt() * torch.randn(devices, generator=draw))
    window = torch.hann_window(steps, periodic=True)
    power = torch.fft.rfft(torch.stack(seen) * window[:, None], dim=0).abs().square().mean(1)
    by_lag = np.array([covariance(DAY, n * every) for n in range(steps)]) / covariance(DAY, 0)
    at = np.abs(np.subtract.outer(np.arange(steps), np.arange(steps)))
    rows = np.fft.rfft(by_lag[at] * np.outer(window, window), axis=0)
    turn = np.exp(2j * np.pi * np.outer(np.arange(steps // 2 + 1), np.arange(steps)) / steps)
    expected = (rows * turn).sum(1).real
    for low, high in ((2, 4), (4, 10), (10, 30), (30, 100), (100, 257)):
        found = float(power[low:high].sum()) / float(expected[low:high].sum())
        assert found == pytest.approx(1, abs=0.02 + 5 / math.sqrt(devices * (high - low) / 1.5))


@pytest.mark.parametrize("lag", [0.0, 1e-3, 10.0])
def test_runs_share_the_mean_of_what_fluctuates_while_they_last(lag: float) -> None:
    """Steps of a run share its mean; two runs share what their times have in common."""
    made = uniform(1.0, replace(PCM, **QUIET), 4000, 1)
    made.wait(DAY)
    steps, step = 400, sum(made.layout.cycles.values()) * 133e-9
    outputs = []
    for _ in range(2):
        outputs.append(made.run(torch.ones(steps, 1, 1))[0][:, 0, 1:].double() - 1)
        made.wait(lag)
    unit = float(JOSHI2020.q(torch.tensor(1.0))) ** 2
    n = outputs[0].shape[1]
    assert float(outputs[0][0].square().mean()) == pytest.approx(
        covariance(DAY, 0) * unit, rel=5 * math.sqrt(2 / n)
    )
    first, second = (y.mean(0) for y in outputs)
    at = np.arange(steps) * step
    of_lag = np.vectorize(lambda lag: covariance(DAY, abs(lag)))
    within = float(of_lag(np.subtract.outer(at, at[::8])).mean())
    later = at + steps * step + lag
    shared = float(of_lag(np.subtract.outer(later[::8], at[::8])).mean())
    error = CARRIED * covariance(DAY, 0)
    sampled = 5 * covariance(DAY, 0) * math.sqrt(2 / n)
    assert float(first.square().mean()) / unit == pytest.approx(within, abs=error + sampled)
    assert float((first * second).mean()) / unit == pytest.approx(shared, abs=error + sampled)


def test_a_pulse_begins_the_noise_of_its_device_anew_and_of_no_other() -> None:
    made = uniform(0.4, replace(PCM, **QUIET))
    made.wait(DAY)
    first = made.read_conductances()["fc"][0]
    counts = torch.zeros(100, 150, dtype=torch.int32)
    counts[::2] = 1
    made.pulse({"fc": counts})
    second = made.read_conductances()["fc"][0]
    held = made.state.cells["fc"].g_us[0]
    pulsed = counts.bool()
    now = ((second - held) / held)[pulsed]
    before = ((first - 10) / 10)[pulsed]
    assert abs(float(torch.corrcoef(torch.stack((now, before)))[0, 1])) < 5 / math.sqrt(len(now))
    others = ~pulsed
    others[0] = False
    kept = torch.stack((first[others], second[others]))
    expected = covariance(DAY, made.clock_s - DAY - 20) / covariance(DAY, 0)
    assert float(torch.corrcoef(kept)[0, 1]) == pytest.approx(expected, abs=CARRIED + 5 / 86)
    q = made.state.cells["fc"].q[0][pulsed]
    young = covariance(1.0, 0)  # ages below 1 s count as 1 s
    relative = (now / q).square().mean() / young
    assert float(relative) == pytest.approx(1, rel=5 * math.sqrt(2 / len(now)))


def test_hermes_has_the_spectrum_of_its_own_read_pulse() -> None:
    made = uniform(1.0, replace(HERMES, **QUIET))
    made.wait(DAY)
    first, begin = made.read_conductances()["fc"][0] - 20.7, made.clock_s
    made.wait(1e-3)
    second = made.read_conductances()["fc"][0] - 20.7
    lag = made.clock_s - begin
    found = float(torch.corrcoef(torch.stack((first[0], second[0])))[0, 1])
    t = DAY + 300
    expected = covariance(t, lag, 512e-9) / covariance(t, 0, 512e-9)
    assert found == pytest.approx(expected, abs=CARRIED + 5 / math.sqrt(150))


def test_a_model_without_a_spectrum_is_read_anew_every_time() -> None:
    made = uniform(0.5, replace(PCM_PULSED, **QUIET))
    held = made.state.cells["fc"].g_us[0]
    seen = [made.read_conductances()["fc"][0] - held for _ in range(2)]
    found = torch.corrcoef(torch.stack([s.flatten() for s in seen]))[0, 1]
    assert abs(float(found)) < 5 / math.sqrt(held.numel())
    assert not made.state.slow["fc"].values


def test_what_readings_share_is_saved_with_the_chip(tmp_path: Path) -> None:
    made = uniform(0.4, PCM, 20, 10)
    made.wait(3600)
    made.read_weights()
    made.save(tmp_path / "chip.npz")
    again = Accelerator.load(tmp_path / "chip.npz")
    assert again.state.slow["fc"].together == made.state.slow["fc"].together == 4
    for value, kept in zip(
        made.state.slow["fc"].values, again.state.slow["fc"].values, strict=True
    ):
        assert torch.equal(value, kept)
    made.wait(1e-4)
    again.wait(1e-4)
    assert torch.equal(made.read_weights()["fc"], again.read_weights()["fc"])


def test_reading_often_and_seldom_shows_the_same_noise_in_distribution() -> None:
    """Looks in between change no correlation: relaxations that stood still catch up."""
    n, t, lag = 10_000, 3600.0, 1.0
    written = torch.zeros(n, dtype=torch.float64)
    found = []
    for looks in (1, 30):
        slow, bits = SlowNoise(), random_bits(looks, "flicker", "fc")
        first = slow.observe(Flicker(250e-9), written, t, 0.0, bits).frozen.clone()
        for i in range(1, looks + 1):
            last = slow.observe(Flicker(250e-9), written, t + lag * i / looks, 0.0, bits)
        found.append(float((first * last.frozen).mean()))
    expected = covariance(t, lag) / covariance(t, 0)
    assert found == pytest.approx([expected] * 2, abs=CARRIED + 5 / math.sqrt(n))
    assert found[0] == pytest.approx(found[1], abs=0.003 + 5 * math.sqrt(2 / n))


@pytest.mark.parametrize(
    ("first_s", "lag", "second_s", "forgotten"),
    [(3e-4, 0.0, 3e-4, 0), (0.0, 1e-4, 2e-3, 0), (3e-4, 1e-3, 0.0, 1)],
)
def test_relaxations_drawn_as_one_go_on_each_as_its_own(
    first_s: float, lag: float, second_s: float, forgotten: int
) -> None:
    """Means over two looks, and over a third, against the closed form of the process."""
    n, begin = 100_000, 3600.0
    slow, bits = SlowNoise(), random_bits(0, "flicker", "fc")
    written = torch.zeros(n, dtype=torch.float64)
    looks, clock = (first_s, second_s, first_s), begin
    seen: list[tuple[float, float, Tensor]] = []
    for seconds in looks:
        found = slow.observe(Flicker(250e-9), written, clock, seconds, bits)
        assert slow.together == (forgotten if seen else 4)
        seen.append((clock, seconds, found.frozen.double() * math.sqrt(covariance(clock, 0))))
        clock += seconds + lag
    taus = relaxation_times_s(begin)
    shares = [float(relaxation_variance(tau, torch.tensor(begin))) for tau in taus]

    def shared(one: float, one_s: float, other: float, other_s: float) -> float:
        at = (np.arange(200) + 0.5) / 200
        apart = np.abs(np.subtract.outer(one + at * one_s, other + at * other_s))
        return float(sum(v * np.exp(-apart / t).mean() for t, v in zip(taus, shares, strict=True)))

    for i, (one, one_s, x) in enumerate(seen):
        for other, other_s, y in seen[i:]:
            expected = shared(one, one_s, other, other_s)
            sampled = 5 * covariance(begin, 0) * math.sqrt(2 / n)
            assert float((x * y).mean()) == pytest.approx(expected, abs=0.06 + sampled)


def test_devices_of_several_ages_each_have_their_own_variance() -> None:
    written = torch.tensor([0.0, DAY - 3600, DAY - 20], dtype=torch.float64).repeat(10_000)
    slow, bits = SlowNoise(), random_bits(0, "flicker", "fc")
    slow.observe(Flicker(250e-9), written, DAY, 1e-3, bits)
    for seconds in (0.0, 1e-3):
        frozen, open_ = slow.observe(Flicker(250e-9), written, DAY + 2, seconds, bits)
        for n in range(3):
            own = frozen[n::3].square().mean() + open_[n]
            assert float(own) == pytest.approx(1, rel=5 * math.sqrt(2 / 10_000))
    assert float(open_[2]) > float(open_[0])


def test_relaxation_times_are_those_that_the_documentation_gives() -> None:
    times = relaxation_times_s(20.0)
    assert times[0] == pytest.approx(22.4e-6, rel=0.01)
    assert times[3] / times[2] == pytest.approx(5)
    assert [len(relaxation_times_s(t)) for t in (20.0, DAY, 3650 * DAY)] == [8, 13, 18]
