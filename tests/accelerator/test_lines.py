"""Open lines, tiles that failed, and input converters off their value: each alone."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from small_chips import chip_of, matrix
from snu_plugin.accelerator import IDEAL, PCM, Accelerator, Chip
from snu_plugin.accelerator.variability import draw_lines
from snu_plugin.compiler import compile

BENT = replace(IDEAL, dac_bits=8, dac_bound=2.0)


def held(chip: Accelerator) -> Tensor:
    return chip.layout.products["fc"].weight.float()


def values(inputs: int) -> Tensor:
    return torch.randn(7, 3, inputs, generator=Generator().manual_seed(0)).clamp(-2, 2) / 2


def test_shares_of_lines_and_tiles_fail() -> None:
    chip = Chip(open_rows=0.1, open_columns=0.02, dead_tiles=0.3, tile_rows=200, tile_columns=300)
    drawn = [draw_lines(chip, 3, number) for number in range(400)]
    for share, failed in (
        (0.1, torch.stack([one.rows for one in drawn])),
        (0.02, torch.stack([one.columns for one in drawn])),
        (0.3, torch.tensor([one.whole for one in drawn])),
    ):
        error = 5 * math.sqrt(share * (1 - share) / failed.numel())
        assert float(failed.double().mean()) == pytest.approx(share, abs=error)


@pytest.mark.parametrize("kind", ["open_rows", "open_columns"])
def test_an_open_line_takes_its_row_or_column_out_of_each_tile(kind: str) -> None:
    faults: dict[str, Any] = {kind: 0.25}
    chip = replace(IDEAL, tile_rows=16, tile_columns=8, **faults)
    made = chip_of(matrix(20, 40), chip, 1)
    weight = held(made).clone()
    for tile in made.layout.tiles:
        lines = draw_lines(chip, 1, tile.number)
        part = weight[slice(*tile.columns), slice(*tile.rows)]
        if kind == "open_rows":
            part[:, lines.rows[: tile.height]] = 0
        else:
            part[lines.columns[: tile.width]] = 0
    lost = int((weight == 0).sum())
    assert 0.1 < lost / weight.numel() < 0.35
    assert made.cut_off == {"fc": lost}
    x = values(40)
    torch.testing.assert_close(made.run(x)[0], x @ weight.T, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(made.read_weights()["fc"], weight, rtol=1e-6, atol=0)


def test_a_tile_that_failed_gives_nothing_and_is_not_converted() -> None:
    chip = replace(PCM, dead_tiles=0.4, tile_rows=16, tile_columns=8, skip_idle=False)
    made, whole = (chip_of(matrix(20, 40), c, 1) for c in (chip, replace(chip, dead_tiles=None)))
    dead = [tile for tile in made.layout.tiles if draw_lines(chip, 1, tile.number).whole]
    assert 0 < len(dead) < len(made.layout.tiles)
    x = values(40)
    (_, trace), (_, all_) = made.run(x), whole.run(x)
    left_out = sum(tile.width for tile in dead) * 21
    assert trace.counts["fc"].conversions == all_.counts["fc"].conversions - left_out
    seen = made.read_weights()["fc"]
    for tile in dead:
        assert not seen[slice(*tile.columns), slice(*tile.rows)].any()


def test_all_tiles_dead_is_silence() -> None:
    out, trace = chip_of(matrix(20, 40), replace(PCM, dead_tiles=1.0)).run(values(40))
    assert not out.any()
    assert trace.counts["fc"].conversions == 0


def test_an_open_bit_line_keeps_the_noise_of_its_converter() -> None:
    chip = replace(PCM, open_columns=1.0, adc_bits=None, skip_idle=False)
    made = chip_of(matrix(50, 40), chip)
    out, _ = made.run(torch.ones(100, 4, 40))
    full = made.layout.products["fc"].weight_per_us[:, 0].float() * 25
    assert float((out / full).std()) == pytest.approx(0.04, rel=5 / math.sqrt(2 * out.numel()))


def test_networks_that_share_a_tile_share_its_open_lines() -> None:
    nodes = {
        "in": nir.Input({"input": np.array([4])}),
        "a": nir.Linear(np.ones((4, 4))),
        "b": nir.Linear(np.ones((4, 4))),
        "out": nir.Output({"output": np.array([4])}),
    }
    g = nir.NIRGraph(nodes, [("in", "a"), ("a", "b"), ("b", "out")])
    chip = Chip(open_rows=0.5, tiles=1)
    made = Accelerator(compile(g, chip, dt=1.0), 2)
    a, b = made.layout.tiles
    assert (a.number, a.row) == (b.number, b.row)
    weights = [made.state.reach[n].weights for n in "ab"]
    assert torch.equal(*weights)
    assert not weights[0].all()


def test_faults_of_lines_disturb_no_other_draw_and_are_those_of_the_seed(tmp_path: Path) -> None:
    faulty = replace(PCM, open_rows=0.2, open_columns=0.1, dac_offset_spread=0.02)
    plain, made = (chip_of(matrix(30, 30), c, 5) for c in (PCM, faulty))
    assert torch.equal(plain.state.cells["fc"].g_us, made.state.cells["fc"].g_us)
    made.save(tmp_path / "chip.npz")
    again, x = Accelerator.load(tmp_path / "chip.npz"), values(30)
    assert torch.equal(again.run(x)[0], made.run(x)[0])


def test_calibration_makes_up_for_rows_that_a_column_lacks() -> None:
    chip = replace(IDEAL, open_rows=0.25)
    nodes = matrix(6, 200)
    nodes.nodes["fc"].weight[:] = np.linspace(0.1, 1, 6)[:, None]
    made = chip_of(nodes, chip)
    missing = made.cut_off["fc"] / held(made).numel()
    made.calibrate(method="ideal")
    gains = made.registers["fc.gain"].double()
    expected = torch.full((6,), 1 / (1 - missing), dtype=torch.float64)
    torch.testing.assert_close(gains, expected, rtol=0.03, atol=0)


def test_input_converters_bend_what_is_graded_and_pass_spikes() -> None:
    """``x / (1 + |k x|)`` of the converted value, k this over ``dac_bound``."""
    straight, bent = (
        chip_of(matrix(9, 12), c) for c in (BENT, replace(BENT, input_nonlinearity=0.6))
    )
    x = values(12)
    step = 4 / 254
    code = (x / step).round() * step
    expected = code / (1 + 0.3 * code.abs())
    torch.testing.assert_close(bent.run(x)[0], expected @ held(bent).T, rtol=1e-4, atol=1e-5)
    spikes = (x > 0).float()
    assert torch.equal(bent.run(spikes)[0], straight.run(spikes)[0])


@pytest.mark.parametrize("bits", [8, None])
def test_input_converters_are_off_by_an_offset_of_each_driven_row(bits: int | None) -> None:
    chip = replace(BENT, dac_bits=bits, dac_offset_spread=0.05, tile_rows=7)
    made = chip_of(matrix(9, 12), chip)
    offset = made.state.drivers["fc"]
    assert offset is not None
    x = values(12)
    x[:, :, 3] = 0  # which leaves its row undriven
    code = x if bits is None else (x * 254 / 4).round() * 4 / 254
    expected = code + offset * (code != 0)
    torch.testing.assert_close(made.run(x)[0], expected @ held(made).T, rtol=1e-4, atol=1e-5)
    assert torch.equal(made.run(x)[0], made.run(x)[0])


def test_offsets_of_input_converters_have_their_spread() -> None:
    made = chip_of(matrix(1, 20_000), replace(BENT, dac_offset_spread=0.05))
    offset = made.state.drivers["fc"]
    assert offset is not None
    assert float(offset.std()) == pytest.approx(0.05 * 2, rel=5 / math.sqrt(40_000))
    assert float(offset.mean()) == pytest.approx(0, abs=5 * 0.1 / math.sqrt(20_000))


def test_repeated_products_meet_the_same_converters() -> None:
    """Bound management halves what the converter is given, not what it is off by."""
    chip = replace(
        BENT,
        dac_bits=12,
        dac_bound=1.0,
        adc_bits=14,
        adc_bound=2.0,
        bound_management=True,
        dac_offset_spread=0.05,
    )
    made = chip_of(matrix(1, 16), chip)
    offset = made.state.drivers["fc"]
    assert offset is not None
    x = held(made).sign()[None]  # every product as large as can be
    out, trace = made.run(x)
    repeats = trace.counts["fc"].repeats
    assert repeats >= 1
    expected = ((x / 2**repeats + offset) @ held(made).T) * 2**repeats
    torch.testing.assert_close(out, expected, rtol=5e-3, atol=0)
