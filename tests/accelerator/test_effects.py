"""Effects of arrays and converters, each alone against its closed form or an oracle."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from small_chips import EVERYTHING, chip_of, matrix
from snu_plugin.accelerator import IDEAL, PCM, PCM_PULSED, Accelerator, Chip
from snu_plugin.accelerator.crossbar import Crossbar, TileRow
from snu_plugin.accelerator.matrix import lay, wires
from snu_plugin.accelerator.noise import normals, random_bits
from snu_plugin.accelerator.periphery import ir_drop
from snu_plugin.accelerator.variability import draw_columns
from snu_plugin.compiler import compile

SETTINGS: dict[str, dict[str, Any]] = {
    "Y_perfect": {},
    "Y_dac7_absmax": {"dac_bits": 7},
    "Y_adc9_absmax": {"adc_bits": 9, "adc_bound": 12.0},
    "Y_dac8_adc8_absmax": {"dac_bits": 8, "adc_bits": 8},
    "Y_dac8_adc8_outbound2": {"dac_bits": 8, "adc_bits": 8, "adc_bound": 2.0},
    "Y_dac8_adc8_outbound2_iter": {
        "dac_bits": 8,
        "adc_bits": 8,
        "adc_bound": 2.0,
        "bound_management": True,
    },
    "Y_irdrop1": {"g_max_us": 5.0, "wire_ohm": 0.35},
    "Y_outnl2.0_bound10": {"output_nonlinearity": 2.0},
}


@pytest.mark.parametrize("key", SETTINGS)
def test_a_row_of_tiles_gives_the_outputs_of_the_toolkit(
    key: str, trace: dict[str, Tensor]
) -> None:
    chip = Chip(input_scaling="absmax", **SETTINGS[key])
    program = compile(matrix(20, 64), chip, dt=1.0)
    unit = program.products["fc"].unit
    weight = trace["W"] / unit
    drop = wires(64, unit, chip.wire_ohm, 5.0) if chip.wire_ohm else None
    scale, used = torch.full((20,), unit), (20,)
    row = TileRow(0, 64, lay(weight, 0, 64, drop, None), drop is not None, False, None, scale, used)
    array = Crossbar(
        program.products["fc"],
        random_bits(0, "output", "fc"),
        (row,),
        None,
        torch.ones(1, 20),
        None,
    )
    torch.testing.assert_close(array.probe(trace["X"])[0], trace[key], atol=1e-5, rtol=0)
    assert array.count.repeats == (6 if chip.bound_management else 0)


def test_the_wire_of_a_chip_takes_more_voltage_from_larger_conductances() -> None:
    """Section 10.1: 256 rows all on, mean |w| 0.2: 0.76 % at 5 µS and 3.6 % at 25 µS."""
    for g_max, share in ((5.0, 0.0076), (25.0, 0.036)):
        drop, y = wires(256, 1.0, 0.35, g_max), torch.zeros(1)
        ir_drop(y, torch.tensor([0.2 * drop.load * 256]), 0.2 * drop.far.sum(0, keepdim=True))
        assert float(-y) / (0.2 * 256) == pytest.approx(share, rel=0.02)


def test_ir_drop_reaches_the_outputs_of_a_chip() -> None:
    g = matrix(6, 200)
    x = torch.ones(1, 2, 200)
    straight = chip_of(g, IDEAL).run(x)[0]
    dropped = chip_of(g, replace(IDEAL, wire_ohm=0.35)).run(x)[0]
    weight = torch.from_numpy(g.nodes["fc"].weight)
    rel = (weight / weight.abs().amax(1, keepdim=True)).float()
    drop, y = wires(200, 1.0, 0.35, 25.0), torch.zeros(6)
    ir_drop(y, drop.load * rel.abs().sum(1), rel @ drop.far)
    lost = (-y * weight.abs().amax(1)).float()
    torch.testing.assert_close(straight - dropped, lost.expand(1, 2, 6), atol=1e-4, rtol=0)


def test_output_noise_is_normal_and_the_same_step_by_step() -> None:
    z = normals(random_bits(1, "output", "fc"), 50, 10_001).double()
    n = z.numel()
    assert float(z.mean()) == pytest.approx(0, abs=5 / math.sqrt(n))
    assert float(z.square().mean()) == pytest.approx(1, abs=5 * math.sqrt(2 / n))
    assert float((z**4).mean()) == pytest.approx(3, abs=5 * math.sqrt(96 / n))
    ordered = z.flatten().sort().values
    normal = 0.5 * (1 + torch.erf(ordered / math.sqrt(2)))
    rank = (torch.arange(n) + 0.5) / n
    assert float((normal - rank).abs().max()) < 1.63 / math.sqrt(n)  # Kolmogorov-Smirnov, 1 %
    again = random_bits(1, "output", "fc")
    steps = torch.cat([normals(again, 1, 10_001) for _ in range(50)])
    assert torch.equal(steps.double(), z)


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("outputs", [1, 9])
@pytest.mark.parametrize(
    "change", [{}, {"adc_bits": None}, {"bound_management": True, "adc_bound": 1.0}]
)
def test_a_network_run_step_by_step_gives_the_same_numbers(
    batch: int, outputs: int, change: dict[str, Any]
) -> None:
    g = matrix(outputs, 30)
    chip = replace(PCM, tile_rows=16, **change)
    x = torch.rand(40, batch, 30, generator=Generator().manual_seed(0))
    x[::3] = (x[::3] < 0.2).float()
    whole, single = chip_of(g, chip), chip_of(g, chip)
    expected, trace = whole.run(x)
    found, counted = single.run(x, step_by_step=True)
    assert torch.equal(found, expected)
    assert counted.counts == trace.counts
    assert single.clock_s == whole.clock_s


def test_columns_differ_by_gain_and_offset_for_the_life_of_a_chip() -> None:
    chip = replace(IDEAL, adc_gain_spread=0.05, adc_offset_spread=0.3, voltage_offset=0.02)
    drawn = draw_columns(100_000, chip, Generator().manual_seed(0))
    assert drawn is not None
    assert float(drawn.gain.mean()) == pytest.approx(1, abs=5 * 0.05 / 316)
    assert float(drawn.gain.std()) == pytest.approx(0.05, rel=0.012)
    assert float(drawn.offset.std()) == pytest.approx(0.3, rel=0.012)
    assert float(drawn.transmission.mean()) == pytest.approx(
        1 - 0.02 / math.sqrt(2 * math.pi), abs=2e-4
    )
    made = chip_of(matrix(8, 5), chip)
    x = torch.rand(3, 2, 5, generator=Generator().manual_seed(0))
    first, later = made.run(x)[0], made.run(x)[0]
    assert torch.equal(first, later)
    ideal = chip_of(matrix(8, 5), IDEAL).run(x)[0]
    (own,) = made.state.columns["fc"]
    assert own is not None
    full = torch.from_numpy(matrix(8, 5).nodes["fc"].weight).abs().amax(1).float()
    expected = ideal * own.transmission * own.gain + own.offset * full
    torch.testing.assert_close(first, expected, atol=1e-5, rtol=1e-5)


def test_stuck_devices_have_their_shares_and_never_change() -> None:
    chip = replace(PCM, stuck_at_reset=0.02, stuck_at_set=0.03, stuck_at_random=0.05)
    made = chip_of(matrix(150, 200), chip, 4)
    cells = made.state.cells["fc"]
    n = cells.stuck.numel()
    share = made.stuck["fc"] / n
    assert share == pytest.approx(0.1, abs=5 * math.sqrt(0.09 / n))
    at_set = float((cells.g_us[cells.stuck] == 25).double().mean())
    assert at_set == pytest.approx(0.3, abs=5 * math.sqrt(0.21 / made.stuck["fc"]))
    before = made.pulses
    made.wait(1e6)
    counts = torch.ones(150, 200, dtype=torch.int32)
    made.pulse({"fc": counts})
    made.pulse({"fc": -counts})
    assert made.pulses - before == 2 * 150 * 200
    after = made.state.cells["fc"]
    assert torch.equal(after.g_us[cells.stuck], cells.g_us[cells.stuck])
    assert bool((after.g_us[~cells.stuck] != cells.g_us[~cells.stuck]).all())
    assert bool((after.sets == 1).all())
    assert not bool(cells.nu[cells.stuck].any())
    made.program()
    assert torch.equal(made.state.cells["fc"].stuck, cells.stuck)


def test_devices_wear_out_pulse_by_pulse_and_stay_so_also_when_written_again(
    tmp_path: Path,
) -> None:
    chip, devices = replace(PCM, endurance=20.0), 2 * 150 * 200
    made = chip_of(matrix(150, 200), chip, 4)
    assert made.stuck["fc"] == 0  # writing by statistics knows of no pulses
    once = torch.ones(150, 200, dtype=torch.int32)
    for total, counts in ((3, 3 * once), (10, 7 * once)):
        made.pulse({"fc": counts})
        gone = 1 - 0.95**total  # on half of the devices, those of G+
        error = 5 * math.sqrt(gone * (1 - gone) / (devices / 2))
        assert made.stuck["fc"] / (devices / 2) == pytest.approx(gone, abs=error)
    made.save(tmp_path / "chip.npz")
    again, before = Accelerator.load(tmp_path / "chip.npz"), made.state.cells["fc"]
    assert torch.equal(again.state.cells["fc"].stuck, before.stuck)
    for one in (made, again):
        one.wait(1e6)
        one.pulse({"fc": once})
        after = one.state.cells["fc"]
        assert torch.equal(after.g_us[before.stuck], before.g_us[before.stuck])
        one.program()
        assert torch.equal(one.state.cells["fc"].stuck, after.stuck)
        assert torch.equal(one.state.cells["fc"].g_us[before.stuck], before.g_us[before.stuck])
    assert made.stuck == again.stuck


def test_stuck_devices_stay_stuck_while_others_are_verified() -> None:
    chip = replace(PCM_PULSED, stuck_at_set=0.1)
    made = chip_of(matrix(30, 30), chip)
    cells = made.state.cells["fc"]
    assert bool((cells.g_us[cells.stuck] == 12).all())
    assert float(cells.resets[cells.stuck].double().mean()) > 20  # tried until given up


def test_faults_disturb_no_other_draw() -> None:
    plain, faulty = (chip_of(matrix(20, 20), c) for c in (PCM, replace(PCM, stuck_at_set=0.1)))
    works = ~faulty.state.cells["fc"].stuck
    assert torch.equal(plain.state.cells["fc"].g_us[works], faulty.state.cells["fc"].g_us[works])


@pytest.mark.parametrize("count", [2, 4, 8])
def test_several_devices_hold_one_weight_and_are_filled_in_order(count: int) -> None:
    g = matrix(7, 12)
    made = chip_of(g, replace(IDEAL, devices_per_weight=count))
    assert made.layout.devices == count * 84
    x = torch.rand(4, 3, 12, generator=Generator().manual_seed(0))
    torch.testing.assert_close(made.run(x)[0], chip_of(g, IDEAL).run(x)[0])
    targets = made.state.cells["fc"].g_us.view(2, count // 2, 7, 12)
    for device in range(1, count // 2):
        started = targets[:, device] > 0
        assert bool((targets[:, device - 1][started] == 25).all())
    pairs = made.layout.products["fc"].targets_us()
    torch.testing.assert_close(made.read_conductances()["fc"], pairs)


def test_pulses_go_to_the_devices_of_a_weight_in_turn() -> None:
    chip = replace(IDEAL, devices_per_weight=4, pulse_step_us=0.5)
    g = matrix(3, 4)
    g.nodes["fc"].weight[1:] *= 1e-3
    made = chip_of(g, chip)
    counts = torch.zeros(3, 4, dtype=torch.int32)
    counts[0, 0] = 1
    for _ in range(3):
        made.pulse({"fc": counts})
    sets = made.state.cells["fc"].sets.view(2, 2, 3, 4)[:, :, 0, 0]
    assert sets.tolist() == [[2, 1], [0, 0]]


def test_more_devices_average_their_errors() -> None:
    g = matrix(100, 100)
    one, four = (chip_of(g, replace(PCM, devices_per_weight=n, drift=None)) for n in (2, 8))
    target = torch.from_numpy(g.nodes["fc"].weight)
    spread = [float((m.read_weights()["fc"] - target).std()) for m in (one, four)]
    assert spread[1] < 0.7 * spread[0]


def test_an_unknown_scope_or_method_lists_those_that_exist() -> None:
    made = chip_of(matrix(3, 3), PCM)
    with pytest.raises(ValueError, match="scope is 'row'; it must be one of column, tile, "):
        made.calibrate("row")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="method is 'best'; it must be one of fit, mean, ideal"):
        made.calibrate(method="best")  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match=r"call remember\(\) right after program\(\)"):
        made.calibrate(method="mean")


@pytest.mark.parametrize(("scope", "distinct"), [("column", 30), ("tile", 3), ("layer", 1)])
def test_a_scope_shares_its_gain(scope: Any, distinct: int) -> None:
    made = chip_of(matrix(30, 40), replace(PCM, tile_columns=10))
    made.wait(1e6)
    made.calibrate(scope)
    assert len(set(made.registers["fc.gain"].tolist())) == distinct
    assert 1.3 < float(made.registers["fc.gain"].mean()) < 2.2
    assert "fc.tile_gain" not in made.registers  # there is one row of tiles


@pytest.mark.parametrize("method", ["fit", "mean", "ideal"])
def test_tiles_below_one_another_each_get_a_factor_of_their_own(method: Any) -> None:
    """Rows of tiles that drifted by different shares come back one by one."""
    g = matrix(20, 40)
    chip = replace(PCM, tile_rows=20, tile_columns=10, programming_noise=None, read_noise=None)
    made = chip_of(g, replace(chip, adc_bits=None, output_noise=None, wire_ohm=None))
    made.remember(1)
    cells = made.state.cells["fc"]
    kept = torch.tensor([0.8, 0.5], dtype=torch.float64).repeat_interleave(20)
    made.state.cells["fc"] = cells._replace(g_us=cells.g_us * kept, nu=cells.nu * 0)
    made.calibrate("tile", method=method)
    factors = made.registers["fc.gain"] * made.registers["fc.tile_gain"]
    expected = torch.tensor([[1 / 0.8], [1 / 0.5]]).expand(2, 20)
    torch.testing.assert_close(factors, expected, rtol=2e-3, atol=0)
    weight = torch.from_numpy(g.nodes["fc"].weight).float()
    torch.testing.assert_close(made.read_weights()["fc"], weight, rtol=4e-3, atol=1e-6)
    x = torch.rand(5, 2, 40, generator=Generator().manual_seed(0))
    torch.testing.assert_close(made.run(x)[0], x @ weight.T, rtol=4e-3, atol=0.05)
    made.calibrate("column", method=method)
    assert bool(made.registers["fc.tile_gain"].eq(1).all())


def test_exact_readings_compensate_exactly() -> None:
    quiet = replace(PCM, programming_noise=None)
    made = chip_of(matrix(20, 40), quiet)
    made.wait(1e7)
    made.calibrate(method="ideal")
    cells = made.state.cells["fc"]
    op = made.layout.products["fc"]
    pairs = op.layout.by_polarity(made.state.models["fc"].drift(cells, cells.age_s(made.clock_s)))
    now = (pairs[0] - pairs[1]) * op.weight_per_us
    ratio = (op.weight * now).sum(1) / now.square().sum(1)
    torch.testing.assert_close(made.registers["fc.gain"].double(), ratio, rtol=0.06, atol=0)


def test_the_published_compensation_falls_short_by_the_noise_of_its_readings() -> None:
    """Section 11: noise that does not drift biases a ratio of mean magnitudes towards 1."""
    gains = {}
    for noise in (None, 0.3):
        made = chip_of(matrix(60, 120), replace(PCM, output_noise=noise, adc_bits=None))
        made.remember(reads=1)
        made.wait(3e7)
        made.calibrate("layer", method="mean", reads=1)
        gains["mean", noise] = float(made.registers["fc.gain"][0])
        made.calibrate("layer", reads=1)
        gains["fit", noise] = float(made.registers["fc.gain"][0])
    assert gains["mean", None] == pytest.approx(gains["fit", None], rel=0.02)
    assert gains["fit", 0.3] == pytest.approx(gains["fit", None], rel=0.02)
    assert gains["mean", 0.3] < 0.95 * gains["mean", None]


def test_a_chip_with_every_effect_goes_on_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    chip = replace(EVERYTHING, tile_rows=16)
    made = chip_of(matrix(9, 30), chip, 3)
    made.remember()
    made.pulse({"fc": torch.ones(9, 30, dtype=torch.int32)})
    x = torch.rand(5, 3, 30, generator=Generator().manual_seed(0))
    made.run(x)
    made.save(tmp_path / "chip.npz")
    again = Accelerator.load(tmp_path / "chip.npz")
    for one in (made, again):
        one.wait(1e5)
        one.pulse({"fc": torch.ones(9, 30, dtype=torch.int32)})
        one.calibrate("tile", method="mean")
    assert torch.equal(made.run(x)[0], again.run(x)[0])
    assert torch.equal(made.state.cells["fc"].sets, again.state.cells["fc"].sets)
    assert made.stuck == again.stuck


def test_a_device_takes_the_bytes_that_the_documentation_gives() -> None:
    """41, and 4 for each relaxation of its read noise: 13 at a day."""
    made = chip_of(matrix(10, 10), PCM)
    made.wait(86_400)
    made.read_weights()
    size = sum(field.nbytes for field in made.state.cells["fc"])
    slow = sum(value.nbytes for value in made.state.slow["fc"].values)
    assert size == 41 * made.layout.devices
    assert slow == 4 * 13 * made.layout.devices


def test_writing_by_pulses_takes_their_time_and_without_verifying_ends_further_off() -> None:
    g = matrix(20, 20)
    checked, blind = (chip_of(g, replace(PCM_PULSED, verify=v)) for v in (True, False))
    target = torch.from_numpy(g.nodes["fc"].weight)
    errors = [float((m.read_weights()["fc"] - target).std()) for m in (checked, blind)]
    assert errors[0] < errors[1]
    assert bool((blind.state.cells["fc"].resets == 1).all())
    assert bool((checked.state.cells["fc"].resets > 1).any())
    assert chip_of(g, PCM_PULSED).clock_s == pytest.approx(checked.pulses * 100e-9)
