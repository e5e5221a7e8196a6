"""Converters and output-referred read noise against traces of an established toolkit."""

import csv
import math
import operator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from snu_plugin.accelerator import noise, normal_numbers, periphery
from snu_plugin.accelerator.devices.model import Law
from snu_plugin.accelerator.matrix import Drop, Showing
from snu_plugin.accelerator.normal_numbers import Single, Words
from snu_plugin.accelerator.periphery import Converter, Ending
from snu_plugin.neuron import spike_bits

ORACLE = Path(__file__).parents[3] / "shared" / "reference" / "pcm_oracle"


@pytest.fixture
def trace(trace: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: values.double() for name, values in trace.items()}


def test_read_noise_on_the_outputs_has_the_spread_of_the_toolkits(trace: dict[str, Tensor]) -> None:
    with (ORACLE / "pcm_read_output_noise.csv").open() as file:
        measured = [float(row["std_measured"]) for row in csv.DictReader(file)]
    variance = 0.0175**2 * trace["W"].abs()
    sigma = (trace["X"][0].square() @ variance.T).sqrt()
    torch.testing.assert_close(
        sigma, torch.tensor(measured, dtype=torch.float64), rtol=0.02, atol=0
    )


STAGES = pytest.mark.parametrize("edge", [periphery, pytest.param("numba", id="numba")])


def of(edge: Any) -> Any:
    if edge != "numba":
        return edge
    pytest.importorskip("numba")
    from snu_plugin.accelerator import numba_periphery

    return numba_periphery


def fused() -> Any:
    pytest.importorskip("numba")
    from snu_plugin.accelerator import numba_normal_numbers

    return numba_normal_numbers


@STAGES
def test_saturated_values_are_counted_and_held(edge: Any) -> None:
    y = torch.tensor([[0.2, 300.0, -900.0], [127.4, 127.6, -127.0]])
    assert of(edge).adc(y, None, None, 0.0, 127) == 3
    assert y.tolist() == [[0.0, 127.0, -127.0], [127.0, 127.0, -127.0]]
    values, clipped, driven = of(edge).dac(
        torch.tensor([[0.0, 3.0]]), torch.tensor([False]), Converter.of(8, 2.0)
    )
    assert clipped == 1
    assert driven.tolist() == [1]
    assert values.tolist() == [[0.0, 2.0]]


@STAGES
def test_rounding_is_half_to_even_and_odd_symmetric(edge: Any) -> None:
    y = torch.tensor([[0.5, 1.5, 2.5]])
    of(edge).adc(y, None, None, 0.0, 7)
    assert y.tolist() == [[0.0, 2.0, 2.0]]
    graded = torch.tensor([False])
    x = torch.randn(1, 100, generator=Generator().manual_seed(0))
    there, back = (of(edge).dac(v, graded, Converter.of(5, 1.5))[0] for v in (x, -x))
    assert torch.equal(there, -back)


@STAGES
def test_no_bits_convert_nothing(edge: Any) -> None:
    y = torch.randn(1, 10, generator=Generator().manual_seed(0)) * 1000
    kept = y.clone()
    assert of(edge).adc(y, None, None, 0.0, None) == 0
    assert torch.equal(y, kept)


@STAGES
def test_lanes_of_spikes_are_told_from_others_and_pass_as_they_are(edge: Any) -> None:
    x = torch.tensor([[[0.0, 1.0, 1.0]], [[0.0, 0.0, 0.0]], [[0.0, 0.3, 1.0]]])
    seen = of(edge).drive(x, 0, 3, Converter.of(2, 0.7))
    assert seen.spikes.tolist() == [True, True, False]
    assert seen.driven.tolist() == [[2], [0], [1]]
    assert (seen.worked, seen.clipped, seen.rows, seen.busy) == (1, 0, 3, [2])
    assert seen.values[0, 0].tolist() == [0.0, 1.0, 1.0, 0.0]
    assert float(seen.values[2].max()) == pytest.approx(0.7)
    alone = of(edge).drive(x[:2], 0, 3, Converter.of(2, 0.7))
    assert alone.values is None
    assert not alone.graded


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (5, 4, 33), (2, 1000)])
def test_fused_edges_give_the_same_numbers(shape: tuple[int, ...]) -> None:
    fused = of("numba")
    draw = Generator().manual_seed(len(shape))
    y, z, x = (40 * torch.randn(shape, generator=draw) for _ in range(3))
    x[0] = (x[0] > 0).float()
    variance = torch.rand(shape, generator=draw)
    some = torch.randint(2, shape[:-1], generator=draw)
    for drawn, spread, last, rows in (
        (z, variance, 31, None),
        (z, None, 31, some),
        (z, variance, None, some),
        (None, None, 31, None),
    ):
        one, two = y.clone(), y.clone()
        expected = periphery.adc(one, drawn, spread, 0.3, last, rows)
        assert fused.adc(two, drawn, spread, 0.3, last, rows) == expected
        assert torch.equal(two, one)
    spikes = ((x == 0) | (x == 1)).flatten(1).all(1)
    found, wanted = (edge.dac(x, spikes, Converter.of(8, 30.0)) for edge in (fused, periphery))
    assert torch.equal(found.values, wanted.values)
    assert torch.equal(found.driven, wanted.driven)
    assert found.clipped == wanted.clipped
    sums = y.view(shape[0], -1, shape[-1])
    scale, bias = (torch.randn(shape[-1], generator=draw) for _ in range(2))
    for added, more in ((None, False), (bias, False), (bias, True)):
        one, two = torch.ones_like(sums), torch.ones_like(sums)
        periphery.accumulate(one, sums, scale, added, more=more)
        fused.accumulate(two, sums, scale, added, more=more)
        assert torch.equal(two, one)
    one, two = y.clone(), y.clone()
    periphery.ir_drop(one, 0.1 * z, x)
    fused.ir_drop(two, 0.1 * z, x)
    assert torch.equal(two, one)


@pytest.mark.parametrize("bits", [None, 5])
@pytest.mark.parametrize("shape", [(3, 5, 33), (3, 4, 2, 16)])
def test_fused_edges_count_and_convert_alike(shape: tuple[int, ...], bits: int | None) -> None:
    draw = Generator().manual_seed(0)
    x = torch.randn(shape, generator=draw)
    x[0] = (x[0] > 0).float()
    x[:, 1] = 0
    converter = None if bits is None else Converter.of(bits, 1.5)
    for first, end in ((0, shape[-1]), (2, 9)):
        one, other = (edge.drive(x, first, end, converter) for edge in (periphery, of("numba")))
        for wanted, found in zip(one, other, strict=True):
            same = torch.equal if isinstance(wanted, torch.Tensor) else operator.eq
            assert same(wanted, found)
    assert one.worked > 0


@pytest.mark.parametrize("drops", [False, True])
@pytest.mark.parametrize("open_", [False, True])
@pytest.mark.parametrize("apart", [False, True])
def test_sums_finished_in_one_pass_are_those_of_one_stage_after_the_other(
    drops: bool, open_: bool, apart: bool
) -> None:
    draw = Generator().manual_seed(0)
    lanes, vectors, columns = 3, 5, 33
    sums = torch.rand(lanes, vectors, (1 + 2 * drops + open_) * columns, generator=draw)
    sums[..., :columns] = 9 * torch.randn(lanes, vectors, columns, generator=draw)
    noise = torch.randn(lanes, 2 * vectors * columns, generator=draw)
    driven = torch.randint(2, (lanes, vectors), generator=draw)
    scale, bias = (torch.randn(columns, generator=draw) for _ in range(2))
    factor = torch.rand(lanes, 1, 1, generator=draw)

    def kinds() -> list[torch.Tensor]:
        return (
            [kind.clone() for kind in sums.chunk(1 + 2 * drops + open_, -1)]
            if apart
            else [sums.clone()]
        )

    outs = []
    for edge in (periphery, of("numba")):
        out = torch.zeros(lanes, vectors, columns)
        first = Ending(drops, open_, noise, 0.3, 7, 2, bias, out)
        second = first._replace(noise=None, sigma=0.0, last=None)
        clipped = (
            edge.finish(kinds(), 0, scale, driven, None, first),
            edge.finish(kinds(), 1, scale, None, factor, second),
        )
        outs.append((out, clipped))
    assert torch.equal(outs[0][0], outs[1][0])
    assert outs[0][1] == outs[1][1]
    assert outs[0][1][0] > 0 == outs[0][1][1]


@pytest.mark.parametrize("drops", [False, True])
@pytest.mark.parametrize("open_", [False, True])
@pytest.mark.parametrize("skip_idle", [False, True])
def test_spikes_walked_from_their_bits_are_those_of_the_product(
    drops: bool, open_: bool, skip_idle: bool
) -> None:
    draw = Generator().manual_seed(0)
    lanes, vectors, columns, inputs = 3, 100, 75, 200
    x = (torch.rand(lanes, vectors, inputs, generator=draw) < 0.1).float()
    x[1] = 0
    words = spike_bits(x.expand(10, *x.shape), 10_000)
    assert words is not None
    words = words[:, : lanes * vectors].contiguous()
    weight, variance = torch.randn(2, columns, inputs, generator=draw)
    drop = Drop(0.01, torch.rand(inputs, generator=draw)) if drops else None
    noise = torch.randn(lanes, 2 * vectors * columns, generator=draw)
    scale, bias = torch.randn(2, columns, generator=draw)
    found = []
    for edge in (periphery, of("numba")):
        tiles, more = [], variance.square() if open_ else None
        for first, end in ((0, 70), (70, 200)):
            own = None if drop is None else drop._replace(far=drop.far[first:end])
            laid = edge.lay(weight, first, end, own, more)
            tiles.append(periphery.Tile(first, end, laid, scale))
        out = torch.zeros(lanes, vectors, columns)
        for last, drawn in ((7, noise), (None, None)):
            to = Ending(drops, open_, drawn, 0.3, last, 2, bias, out)
            counts = edge.walk(words, tiles, skip_idle, to)
            found.append((out.clone(), counts))
    for (one, counted), (other, count) in zip(found[:2], found[2:], strict=True):
        assert torch.equal(one, other)
        assert counted == count
    (_, (first_of_tiles, _)), (_, (unclipped, _)) = found[:2]
    assert first_of_tiles.rows == int(x[..., :70].sum())
    assert first_of_tiles.busy == int(x[..., :70].any(-1).sum())
    assert first_of_tiles.clipped > unclipped.clipped == 0


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("ages", ["one", "many"])
def test_what_weights_show_is_made_alike(frozen: bool, ages: str) -> None:
    draw = Generator().manual_seed(0)
    g, sigma, noise, share = torch.rand(4, 4, 7, 45, generator=draw)
    open_ = share if ages == "many" else None
    shares, parts = (0.75, 0.25, -0.75, -0.25), (0.02, 0.01, 0.02, 0.01)
    how = Showing(2 * noise - 1 if frozen else None, shares, parts, open_)
    found = []
    for edge in (periphery, of("numba")):
        made = torch.empty(2, 7, 45)
        found.append((edge.show(g, sigma, how, *made), made))
    assert found[0][0] is found[1][0] is True
    assert torch.equal(found[0][1], found[1][1])
    still = torch.zeros_like(g)
    assert not of("numba").show(g, still, how, *torch.empty(2, 7, 45))


@pytest.mark.parametrize("frozen", [False, True])
def test_devices_of_one_law_show_what_their_drift_and_deviation_say(frozen: bool) -> None:
    draw = Generator().manual_seed(0)
    g_us = 25 * torch.rand(2, 7, 45, generator=draw, dtype=torch.float64)
    nu, q, still = torch.rand(3, 2, 7, 45, generator=draw)
    nu[0, 0], nu[0, 1] = 0, 1e3
    how = Showing(still if frozen else None, (1.0, -1.0), (0.03, 0.03))
    g = (g_us * torch.exp(-1.7 * nu.double())).float()
    found = []
    for edge in (periphery, of("numba")):
        made = torch.empty(2, 7, 45)
        assert edge.show(g_us, q, how, *made, Law(1.7, 0.4), nu)
        found.append(made)
    assert torch.equal(*found)
    expected = torch.empty(2, 7, 45)
    periphery.show(g, 0.4 * q * g, how, *expected)
    torch.testing.assert_close(found[0], expected, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("drops", [False, True])
@pytest.mark.parametrize("open_", [False, True])
def test_what_inputs_meet_is_laid_out_alike(drops: bool, open_: bool) -> None:
    draw = Generator().manual_seed(0)
    weight, variance = (torch.randn(35, 90, generator=draw) for _ in range(2))
    weight[3] = 0
    weight[4] *= 1e-36
    drop = Drop(0.01, torch.rand(71, generator=draw)) if drops else None
    more = variance if open_ else None
    one, other = (edge.lay(weight, 9, 80, drop, more) for edge in (periphery, of("numba")))
    assert torch.equal(one, other)
    torch.testing.assert_close(one[:, :35], weight[:, 9:80].T, rtol=0, atol=1e-5)


def test_the_normal_numbers_that_there_are_have_the_moments_of_a_normal() -> None:
    """All 2^20 radii and 2^12 angles at once: nothing is left to chance."""
    length, cos, sin = (torch.from_numpy(table).double() for table in normal_numbers.tables())
    for axis in (cos, sin):
        assert float(axis.mean()) == pytest.approx(0, abs=1e-6)
        assert float(length.square().mean() * axis.square().mean()) == pytest.approx(1, abs=1e-5)
        assert float(length.pow(4).mean() * axis.pow(4).mean()) == pytest.approx(3, abs=1e-3)
    assert float((cos * sin).mean()) == pytest.approx(0, abs=1e-6)
    assert float(length.max()) == pytest.approx(math.sqrt(2 * math.log(2**21)))
    assert bool(length.isfinite().all())


def drawn_by(by: Any, pairs: Words, seeded: bool, n: int) -> Single:
    drawn = np.empty((len(pairs), 2 * n), np.float32)
    by.polar(pairs, seeded, drawn)
    return drawn


@pytest.mark.parametrize("shape", [(1, 2), (3, 10), (5, 801)])
def test_fused_normal_numbers_are_the_same(shape: tuple[int, int]) -> None:
    pairs = np.random.default_rng(0).integers(-(2**31), 2**31, shape).astype(np.int32)
    pairs[0, :2] = -(2**31), 2**31 - 1
    one, other = (drawn_by(by, pairs, False, shape[1]) for by in (fused(), normal_numbers))
    assert np.array_equal(one, other)


def test_random_words_are_those_that_their_authors_give() -> None:
    """The first of state (1, 2, 3, 4), as in the tests of Rust's rand_xoshiro."""
    seeds = np.arange(1, 5, dtype=np.int32).repeat(normal_numbers.LANES)
    given = [641, 1573767, 3222811527, 3517856514, 836907274, 4247214768, 3867114732, 1355841295]
    found = normal_numbers.words(seeds, 8 * normal_numbers.LANES)
    every = found.view(np.uint32).reshape(8, -1)
    assert every[:, 0].tolist() == every[:, -1].tolist() == given


def relaxed_by(by: Any, lasts: bool, pairs: Words, seeded: bool, begun: Single) -> list[Single]:
    """Values from ``begun`` on, and what a look showed beside them."""
    value, total, n = begun[0].copy(), begun[1].copy(), 2 * -(-begun.shape[1] // 4)
    of_shown, of_end = np.array([0.3, 0.8], np.float32), np.array([0.1, 0.4, -0.6], np.float32)
    by.relax(value, tuple(of_shown), tuple(of_end), lasts, pairs, n, seeded, total)
    return [value, total]


@pytest.mark.parametrize("count", [1, 1023, 5000])
def test_fused_numbers_of_many_small_generators_are_the_same(count: int) -> None:
    seeds = noise.Bits(3).random_raw(2 * normal_numbers.LANES).view(np.int32)
    given = np.stack([seeds, seeds[::-1]])
    one, other = (drawn_by(by, given, True, count) for by in (fused(), normal_numbers))
    assert np.array_equal(one, other)
    assert np.array_equal(given[0], seeds)  # as they were
    begun = np.ones((2, 2 * count), np.float32)
    for lasts, pairs in ((False, given[:1]), (True, given)):
        relaxed = [relaxed_by(by, lasts, pairs, True, begun) for by in (fused(), normal_numbers)]
        assert np.array_equal(relaxed[0], relaxed[1])


def test_many_normal_numbers_are_normal_and_know_nothing_of_each_other() -> None:
    steps, count = 8, 1 << 18
    drawn = noise.normals(noise.Bits(1), steps, count).double()
    lag = normal_numbers.LANES  # numbers of one small generator, one after the other
    for x in drawn:
        for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
            off = float(x.pow(power).mean()) - moment
            assert abs(off) < 5 * math.sqrt(variance / count)
        for apart in (1, 2, 3, lag, 2 * lag, count // 2):
            for power in (1, 2):
                y = x.pow(power) - (power - 1)
                both = float((y[:-apart] * y[apart:]).mean()) / power
                assert abs(both) < 5 / math.sqrt(count - apart)
    assert float(torch.corrcoef(drawn).triu(1).abs().max()) < 5 / math.sqrt(count)
    again = noise.Bits(1)
    for x in drawn:  # one after the other the same as at once
        assert torch.equal(noise.normals(again, 1, count)[0].double(), x)


@pytest.mark.parametrize("size", [1, 37, 5000])
def test_fused_relaxations_are_the_same(size: int) -> None:
    draw = np.random.default_rng(size)
    pairs = draw.integers(-(2**31), 2**31, (2, -(-size // 4) * 2)).astype(np.int32)
    begun = draw.standard_normal((2, size), np.float32)
    for lasts, words in ((False, pairs[:1]), (True, pairs)):
        relaxed = [relaxed_by(by, lasts, words, False, begun) for by in (fused(), normal_numbers)]
        assert np.array_equal(relaxed[0], relaxed[1])


def test_relaxations_of_one_age_and_of_many_are_the_same_process() -> None:
    """Shares that are numbers are fused, those that differ by device are not: equal numbers."""
    single = torch.full((9, 11), 0.8)
    found = []
    for sigma in (0.8, single):
        bits, value, total = noise.Bits(5), torch.ones(9, 11), torch.zeros(9, 11)
        noise.relax(bits, value, 0.5, sigma, total)
        noise.relax(bits, value, 0.3, sigma, total, (0.1, 0.4, -0.6))
        found.append((value, total))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
