"""Weights on devices: pairs, several pairs, one device against a reference; closed forms."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch
from torch import Generator

from snu_plugin.accelerator import IDEAL, PCM, PCM_PULSED, Accelerator, Chip
from snu_plugin.accelerator.devices.statistical import JOSHI2020
from snu_plugin.compiler import compile

ALL = [
    {},
    {"g_min_us": 0.25},
    {"devices_per_weight": 1},
    {"devices_per_weight": 1, "g_min_us": 2.0},
    {"devices_per_weight": 4, "significance": 4.0},
    {"devices_per_weight": 6, "significance": 2.5, "g_min_us": 1.0},
    {"devices_per_weight": 8},
]


def matrix(weight: Any) -> nir.NIRGraph:
    weight = np.asarray(weight, np.float64)
    nodes = {
        "in": nir.Input({"input": np.array([weight.shape[1]])}),
        "fc": nir.Linear(weight),
        "out": nir.Output({"output": np.array([weight.shape[0]])}),
    }
    return nir.NIRGraph(nodes, [("in", "fc"), ("fc", "out")])


def chip_of(weight: Any, chip: Chip, seed: int = 0, scaling: Any = "column") -> Accelerator:
    made = Accelerator(compile(matrix(weight), chip, scaling, dt=1.0), seed)
    made.program()
    return made


def normal(out: int, inputs: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.random.default_rng(0).normal(size=(out, inputs))


@pytest.mark.parametrize("change", ALL)
@pytest.mark.parametrize("scaling", ["layer", "tile", "column"])
def test_any_number_of_ideal_devices_holds_the_weights(
    change: dict[str, Any], scaling: str
) -> None:
    weight = normal(13, 22)
    chip = replace(IDEAL, tile_rows=8, tile_columns=5, **change)
    made = chip_of(weight, chip, scaling=scaling)
    torch.testing.assert_close(made.read_weights()["fc"].double(), torch.from_numpy(weight))
    g = made.state.cells["fc"].g_us
    assert float(g.max()) <= 25.0 + 1e-9
    assert float(g.min()) >= chip.g_min_us - 1e-12
    x = torch.rand(3, 2, 22, generator=Generator().manual_seed(0))
    expected = x.double() @ torch.from_numpy(weight).T
    torch.testing.assert_close(made.run(x)[0].double(), expected, rtol=1e-5, atol=1e-5)


def noise_over_signal(weight: Any, outputs: Any, scaling: str) -> float:
    """Of an hour-old, calibrated chip with inputs of which a tenth are 1."""
    inputs = np.shape(weight)[1]
    x = (torch.rand(60, 4, inputs, generator=Generator().manual_seed(0)) < 0.1).float()
    made = chip_of(weight, replace(PCM, tile_rows=128), scaling=scaling)
    made.wait(3600)
    made.calibrate()
    right = x @ torch.tensor(np.asarray(weight)).T.float()
    return float((made.run(x)[0] - right)[..., outputs].std() / max(float(right.std()), 1e-30))


@pytest.mark.parametrize("scaling", ["layer", "tile", "column"])
@pytest.mark.parametrize("size", [1.0, 1e-3, 1e-30])
def test_zeros_add_no_more_noise_than_weights_do(scaling: str, size: float) -> None:
    weight = np.random.default_rng(0).normal(0, size, (12, 256))
    usual = noise_over_signal(weight, slice(None), scaling)
    half, pruned, alone = weight.copy(), weight.copy(), weight.copy()
    half[:, 128:] = 0  # wired to the first of two tiles
    pruned[3] = 0
    alone[:, 1:] = 0  # one input is left
    assert noise_over_signal(half, slice(None), scaling) < 2 * usual
    assert noise_over_signal(pruned, [3], scaling) < 2 * usual
    assert np.isfinite(noise_over_signal(alone, slice(None), scaling))


def test_a_layer_of_zeros_gives_next_to_nothing() -> None:
    made = chip_of(np.zeros((5, 40)), PCM)
    made.wait(3600)
    made.calibrate()
    assert float(made.run(torch.ones(10, 2, 40))[0].abs().max()) < 1e-12
    assert float(made.read_weights()["fc"].abs().max()) < 1e-12


@pytest.mark.parametrize("change", ALL)
def test_every_weight_has_its_devices(change: dict[str, Any]) -> None:
    made = chip_of(normal(13, 22), replace(IDEAL, tile_rows=8, tile_columns=5, **change))
    per = change.get("devices_per_weight", 2)
    assert made.layout.devices == 13 * 22 * per
    references = 3 * 22 if per == 1 else 0
    assert made.state.cells["fc"].g_us.numel() == made.layout.devices + references
    assert any("reference column" in note for note in made.layout.notes) == (per == 1)


def test_a_network_of_52800_single_devices_is_88_300_88() -> None:
    layers = [
        chip_of(normal(*s), replace(IDEAL, devices_per_weight=1)) for s in ((300, 88), (88, 300))
    ]
    assert sum(made.layout.devices for made in layers) == 52_800


def test_a_more_significant_device_is_used_only_when_the_one_before_is_full() -> None:
    """Section 7: w = Σ F_k (G+_k - G-_k) / s with s = Σ F_k (g_max - g_min) / max |w|."""
    chip = replace(IDEAL, devices_per_weight=4, significance=3.0, g_min_us=1.0)
    weight = np.array([[1.0, 0.25, 0.2, -0.1, 0.0]])
    g = chip_of(weight, chip).state.cells["fc"].g_us.view(2, 2, 5)
    width, s = 24.0, (1 + 3) * 24.0
    expected = torch.tensor([[25, 25, 1 + 0.2 * s, 1, 1], [25, 1, 1, 1, 1]], dtype=torch.float64)
    torch.testing.assert_close(g[0], expected)
    back = (1 * (g[0, 0] - g[1, 0]) + 3 * (g[0, 1] - g[1, 1])) / s
    torch.testing.assert_close(back, torch.from_numpy(weight[0]))
    assert float(g[1, 0, 3]) == pytest.approx(1 + 0.1 * s)
    assert width == chip.span_us


@pytest.mark.parametrize("change", ALL)
def test_read_noise_of_the_outputs_is_that_of_the_devices(change: dict[str, Any]) -> None:
    """Var(w) = Σ (F_k / Σ F)² σ_k² over the devices of a weight, its reference included."""
    quiet: dict[str, Any] = {
        "programming_noise": None,
        "drift": None,
        "adc_bits": None,
        "output_noise": None,
    }
    chip = replace(PCM_PULSED, wire_ohm=None, dac_bits=None, verify=False, **quiet, **change)
    made = chip_of(normal(4, 6), replace(chip, g_max_us=12.0))
    batch, x = 20_000, torch.ones(1, 1, 6)
    cells, op = made.state.cells["fc"], made.layout.products["fc"]
    g = made.state.models["fc"].drift(cells, cells.age_s(made.clock_s))
    sigma = 0.03 * g + 0.13  # model C: all of its noise is new at every product
    share = torch.tensor(op.layout.shares).view(-1, 1, 1)
    variance = (sigma * share).square().sum(0)
    if change.get("devices_per_weight") == 1:
        variance = variance[:4] + variance[4:]
    expected = (variance * op.weight_per_us.square()).sum(1).sqrt()
    seen = made.run(x.expand(1, batch, 6))[0][0].double()
    torch.testing.assert_close(seen.std(0), expected, rtol=5 / math.sqrt(2 * batch), atol=0)
    torch.testing.assert_close(
        torch.stack([made.read_weights()["fc"] for _ in range(700)]).double().sum(2).std(0),
        expected,
        rtol=0.15,
        atol=0,
    )


@pytest.mark.parametrize("scaling", ["layer", "tile", "column"])
@pytest.mark.parametrize("size", [1.0, 1e-3])
def test_outputs_without_weights_are_no_noisier_than_others(scaling: Any, size: float) -> None:
    """Pruned units, and dead channels of a convolution, by the noise of the others."""
    dense = size * normal(24, 32)
    pruned = dense.copy()
    pruned[::3] = 0
    chip = replace(PCM, tile_rows=16)  # two rows of tiles
    x = (torch.rand(200, 4, 32, generator=Generator().manual_seed(1)) < 0.3).float()
    y = chip_of(pruned, chip, scaling=scaling).run(x)[0].double()
    noise = (y - x.double() @ torch.from_numpy(pruned).T).flatten(0, 1).square().mean(0).sqrt()
    alive = noise[[n for n in range(24) if n % 3]]
    assert float(noise[::3].max()) < 1.5 * float(alive.max())
    nodes = {
        "in": nir.Input({"input": np.array([2, 8, 8])}),
        "conv": nir.Conv2d((8, 8), pruned[:, :18].reshape(24, 2, 3, 3), 1, 0, 1, 1, np.zeros(24)),
        "out": nir.Output({"output": np.array([24, 6, 6])}),
    }
    g = nir.NIRGraph(nodes, [("in", "conv"), ("conv", "out")])
    made = Accelerator(compile(g, chip, scaling, dt=1.0), 0)
    made.program()
    maps = (torch.rand(20, 4, 2, 8, 8, generator=Generator().manual_seed(1)) < 0.3).float()
    right = torch.nn.functional.conv2d(
        maps.flatten(0, 1), torch.from_numpy(nodes["conv"].weight).float()
    )
    off = (made.run(maps)[0].flatten(0, 1) - right).square().mean((0, 2, 3)).sqrt()
    assert float(off[::3].max()) < 1.5 * float(off[[n for n in range(24) if n % 3]].max())


def drifted(g_us: float, t: float) -> tuple[float, float]:
    """Mean and variance of an exactly written device at age t (docs/devices.md#moments)."""
    g = torch.tensor(g_us / 25, dtype=torch.float64)
    mu, sd, log = float(JOSHI2020.nu_mean(g)), float(JOSHI2020.nu_sd(g)), math.log(t / 20)
    first, second = (folded(k, mu, sd, log) for k in (1, 2))
    return g_us * first, g_us**2 * (second - first**2)


def folded(k: int, mu: float, sd: float, log: float) -> float:
    """E[(t/t0)^(-k |N(mu, sd)|)]."""
    a, b, c = k * log * mu, (k * log * sd) ** 2 / 2, k * log * sd
    return math.exp(b - a) * cdf(mu / sd - c) + math.exp(a + b) * cdf(-mu / sd - c)


def cdf(x: float) -> float:
    return 0.5 * (1 + math.erf(x / math.sqrt(2)))


@pytest.mark.parametrize("w", [-0.6, 0.0, 0.8])
@pytest.mark.parametrize("count", [1, 2])
def test_weights_drift_as_their_devices_do(w: float, count: int) -> None:
    """A device less its reference: both drift, each by the exponent of its own conductance."""
    out, inputs, t = 60, 200, 86_400.0
    weight = np.full((out, inputs), w)
    weight[0] = 1.0  # the layer's scale
    chip = replace(PCM, devices_per_weight=count, programming_noise=None, read_noise=None)
    made = chip_of(weight, chip, scaling="layer")
    made.wait(t - made.clock_s)
    seen = made.read_weights()["fc"][1:].double()
    if count == 1:
        (plus, spread), (minus, common), span = drifted(12.5 * (1 + w), t), drifted(12.5, t), 12.5
    else:
        (plus, spread), (minus, common), span = drifted(25 * w if w > 0 else 0, t), (0, 0), 25.0
        if w < 0:
            (plus, spread), (minus, common) = (0.0, 0.0), drifted(-25 * w, t)
    # The reference of a row is the same device for all outputs.
    error = math.sqrt(spread / seen.numel() + common / (inputs if count == 1 else seen.numel()))
    assert float(seen.mean()) == pytest.approx((plus - minus) / span, abs=5 * error / span + 1e-7)
    if count == 1:
        within = seen.std(0).square().mean().sqrt()
        assert float(within) == pytest.approx(math.sqrt(spread) / span, rel=0.05)


def test_a_reference_that_drifts_keeps_zeros_near_zero() -> None:
    """A fixed reference would leave -G_ref (1 - (t/t0)^-ν) Σ x on every output."""
    made = chip_of(
        np.vstack([np.ones(400), np.zeros((99, 400))]),
        replace(PCM, devices_per_weight=1, programming_noise=None, read_noise=None),
        scaling="layer",
    )
    made.wait(1e6)
    left = float(made.read_weights()["fc"][1:].mean())
    fixed = (drifted(12.5, 1e6)[0] - 12.5) / 12.5
    assert fixed < -0.3
    assert abs(left) < 0.02


def test_a_single_device_can_only_be_raised_by_pulses() -> None:
    chip = replace(IDEAL, devices_per_weight=1, pulse_step_us=0.5)
    made = chip_of([[1.0, -0.5, 0.0], [0.0, 0.25, 1.0]], chip, scaling="layer")
    made.pulse({"fc": torch.tensor([[0, 2, 1], [3, 0, 0]])})
    moved = made.read_weights()["fc"]
    expected = torch.tensor([[1.0, -0.5 + 1 / 12.5, 0.5 / 12.5], [1.5 / 12.5, 0.25, 1.0]])
    torch.testing.assert_close(moved, expected)
    assert made.pulses == 6
    with pytest.raises(ValueError, match="take a chip with devices_per_weight 2"):
        made.pulse({"fc": torch.tensor([[0, -1, 0], [0, 0, 0]])})
    assert made.pulses == 6
    made.reset({"fc": torch.tensor([[1, 0, 0], [0, 0, 0]])})
    assert float(made.read_weights()["fc"][0, 0]) == -1.0


def test_a_chip_of_single_devices_goes_on_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    chip = replace(PCM, devices_per_weight=1, tile_rows=8, tile_columns=5, stuck_at_set=0.05)
    made = chip_of(normal(13, 22), chip)
    made.wait(1e4)
    made.calibrate("tile")
    made.save(tmp_path / "chip.npz")
    again = Accelerator.load(tmp_path / "chip.npz")
    x = torch.rand(3, 2, 22, generator=Generator().manual_seed(0))
    assert torch.equal(again.run(x)[0], made.run(x)[0])


def test_a_window_without_width_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^g_min_us is 25\.0; it must be below g_max_us, 25\.0"):
        replace(IDEAL, g_min_us=25.0)
    with pytest.raises(ValueError, match=r"^devices_per_weight is 3; it must be 1, 2, 4, 6 or 8"):
        replace(IDEAL, devices_per_weight=3)
