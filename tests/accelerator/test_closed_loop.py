"""Chosen weights written again on a living chip."""

import math
from dataclasses import replace
from typing import Any

import nir
import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from snu_plugin.accelerator import HERMES, IDEAL, PCM, PCM_PULSED, Accelerator, Chip
from snu_plugin.accelerator.devices.model import device_model
from snu_plugin.accelerator.devices.statistical import JOSHI2020
from snu_plugin.accelerator.energy import READ_PJ, expected
from snu_plugin.compiler import compile


def chip_of(weight: Any, chip: Chip, scaling: Any = "column") -> Accelerator:
    nodes = {
        "in": nir.Input({"input": np.array([weight.shape[1]])}),
        "fc": nir.Linear(weight),
        "out": nir.Output({"output": np.array([weight.shape[0]])}),
    }
    g = nir.NIRGraph(nodes, [("in", "fc"), ("fc", "out")])
    made = Accelerator(compile(g, chip, scaling, dt=1.0))
    made.program()
    return made


def drawn(out: int, inputs: int) -> Any:
    weight = np.random.default_rng(0).uniform(-1, 1, (out, inputs))
    weight[:, 0] = 1
    return weight


def mask(*shape: int, share: float = 0.3) -> Tensor:
    return torch.rand(shape, generator=Generator().manual_seed(1)) < share


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_an_ideal_chip_holds_what_was_written_and_nothing_else_moves(count: int) -> None:
    weight = drawn(20, 30)
    made = chip_of(weight, replace(IDEAL, devices_per_weight=count, tile_rows=16))
    where, wanted = mask(20, 30), torch.from_numpy(weight).flip(0, 1)
    before = made.read_weights()["fc"]
    made.set_registers({"fc.gain": torch.linspace(1, 2, 20)})
    made.set_registers({"fc.tile_gain": torch.linspace(1, 1.5, 40).view(2, 20)})
    read = made.read_weights()["fc"]
    made.write({"fc": wanted}, {"fc": where})
    after = made.read_weights()["fc"]
    torch.testing.assert_close(after[where], wanted[where].float(), atol=1e-6, rtol=1e-6)
    assert torch.equal(after[~where], read[~where])
    assert not torch.equal(before, read)


@pytest.mark.parametrize("chip", [PCM, HERMES])
def test_devices_come_to_their_targets_with_the_statistics_of_programming(chip: Chip) -> None:
    n, level = 150, 0.5
    weight = np.full((n, n), 0.01)
    weight[0] = 1.0
    quiet = replace(chip, read_noise=None)
    made = chip_of(weight, quiet, "layer")
    made.wait(30 * 86_400.0)
    where = torch.ones(n, n, dtype=torch.bool)
    where[0] = False
    aged = made.read_conductances()["fc"][:, 0]
    made.write({"fc": torch.full((n, n), level)}, {"fc": where})
    now = made.read_conductances()["fc"]
    torch.testing.assert_close(now[:, 0], aged, rtol=1e-6, atol=0)
    written, target = now[0, 1:], level * chip.g_max_us
    sigma = float(made.state.models["fc"].written_sigma(torch.tensor(target)))  # type: ignore[arg-type]
    count = written.numel()
    assert float(written.mean()) == pytest.approx(target, abs=5 * sigma / math.sqrt(count))
    assert float(written.std()) == pytest.approx(sigma, rel=5 / math.sqrt(2 * count))
    # Its exponents are those of the new target, its clock begins now.
    cells = made.state.cells["fc"]
    curves = made.state.models["fc"].exponents(torch.tensor(target, dtype=torch.float64))
    assert curves is not None
    nu, mean, sd = cells.nu[0, 1:], float(curves[0]), float(curves[1])
    assert float(nu.mean()) == pytest.approx(mean, abs=5 * sd / math.sqrt(count))
    assert float(nu.std()) == pytest.approx(sd, rel=0.03)
    assert float(cells.t_s[0, 1:].min()) > 30 * 86_400
    assert float(cells.t_s[:, 0].max()) == 0


def test_read_noise_of_written_devices_begins_anew_and_of_others_goes_on() -> None:
    n = 120
    weight = np.full((n, n), 0.5)
    weight[0] = 1.0
    quiet = replace(PCM, programming_noise=None, drift=None)
    made = chip_of(weight, quiet, "layer")
    made.wait(86_400)
    where = torch.zeros(n, n, dtype=torch.bool)
    where[1 : n // 2] = True
    first = made.read_conductances()["fc"][0] - 12.5
    made.write({"fc": torch.full((n, n), 0.5)}, {"fc": where})
    second = made.read_conductances()["fc"][0] - 12.5

    def correlation(chosen: slice) -> float:
        seen = torch.stack((first[chosen].flatten(), second[chosen].flatten()))
        return float(torch.corrcoef(seen)[0, 1])

    assert abs(correlation(slice(1, n // 2))) < 5 / math.sqrt(n * (n // 2 - 1))
    assert correlation(slice(n // 2, n)) > 0.3
    q = float(JOSHI2020.q(torch.tensor(0.5)))
    spread = 12.5 * q * math.sqrt(math.log(1 / 5e-7))  # ages below 1 s count as 1 s
    assert float(second[1 : n // 2].std()) == pytest.approx(spread, rel=0.05)


def test_writing_by_pulses_is_counted_and_takes_its_time() -> None:
    weight = drawn(16, 20)
    made = chip_of(weight, PCM_PULSED)
    made.wait(1e4)
    worn, pulses, clock = made.worn, made.pulses, made.clock_s
    where = mask(16, 20)
    spent = made.write({"fc": torch.from_numpy(weight)}, {"fc": where})
    assert not spent.estimated
    assert (spent.sets, spent.resets) == tuple(b - a for a, b in zip(worn, made.worn, strict=True))
    assert spent.resets >= 2 * int(where.sum())
    assert made.pulses - pulses == spent.sets + spent.resets == spent.reads
    assert made.clock_s - clock == pytest.approx(spent.seconds)
    assert spent.seconds == pytest.approx(spent.reads * (100e-9 + 133e-9))
    energy_pj = 4.5 * spent.sets + 30 * spent.resets + READ_PJ * spent.reads
    assert spent.energy_nj == pytest.approx(energy_pj * 1e-3)
    untouched = made.state.cells["fc"].resets[:, ~where]
    assert float(untouched.sum()) < made.worn[1]
    error = (made.read_weights()["fc"] - torch.from_numpy(weight))[where]
    per_us = 1 / 12  # rows reach up to 1
    assert float(error.std()) < 1.5 * per_us


def test_writing_by_statistics_is_estimated_and_says_so() -> None:
    weight = drawn(16, 20)
    made = chip_of(weight, PCM)
    made.wait(1e4)
    clock, where = made.clock_s, mask(16, 20)
    spent = made.write({"fc": torch.from_numpy(weight)}, {"fc": where})
    op = made.layout.products["fc"]
    targets = op.layout.fill(op.targets_us())[:, where]
    sets = device_model(PCM).response.to_reach(targets).round().sum()
    assert spent == expected(PCM, int(sets), targets.numel())
    assert spent.estimated
    assert "estimated from the mean pulse curve" in spent.text()
    assert spent.sets > int(where.sum())
    assert spent.resets == 2 * int(where.sum())
    assert made.clock_s - clock == pytest.approx(spent.seconds) != 0
    assert made.pulses == spent.sets + spent.resets
    assert made.worn == (spent.sets, spent.resets)
    assert not bool(made.state.cells["fc"].resets[:, ~where].any())


def test_what_is_written_is_what_calibration_returns_to() -> None:
    weight = drawn(30, 60)
    quiet: dict[str, Any] = {"programming_noise": None, "read_noise": None, "wire_ohm": None}
    made = chip_of(weight, replace(PCM, **quiet))
    made.remember()
    wanted = torch.from_numpy(weight) * 0.5
    made.write({"fc": wanted})
    made.calibrate()
    assert float((made.registers["fc.gain"] - 1).abs().max()) < 0.03
    torch.testing.assert_close(made.state.remembered["fc"], wanted.float())
    with pytest.raises(RuntimeError, match=r"call remember\(\)"):
        made.calibrate(method="mean")
    made.wait(1e7)
    made.calibrate()
    seen = made.read_weights()["fc"]
    assert float((seen * wanted).sum() / wanted.square().sum()) == pytest.approx(1, abs=0.02)


def test_a_calibrated_gain_is_reckoned_in() -> None:
    made = chip_of(drawn(30, 60), replace(PCM, programming_noise=None, read_noise=None))
    made.wait(1e7)
    made.calibrate()
    assert float(made.registers["fc.gain"].min()) > 1.2
    wanted, where = torch.full((30, 60), 0.7), mask(30, 60)
    made.write({"fc": wanted}, {"fc": where})
    torch.testing.assert_close(made.read_weights()["fc"][where], wanted[where])


def test_stuck_devices_stay_stuck() -> None:
    made = chip_of(drawn(30, 60), replace(PCM_PULSED, stuck_at_set=0.1))
    before = made.state.cells["fc"]
    made.write({"fc": torch.zeros(30, 60)})
    after = made.state.cells["fc"]
    assert torch.equal(after.stuck, before.stuck)
    assert bool((after.g_us[before.stuck] == 12).all())
    assert bool((after.resets > before.resets).all())


def test_a_single_device_stands_above_its_reference_as_it_is_now() -> None:
    weight = drawn(30, 60)
    made = chip_of(
        weight, replace(PCM, devices_per_weight=1, read_noise=None, programming_noise=None)
    )
    made.wait(1e6)
    where = mask(30, 60) & (torch.from_numpy(weight).abs() < 0.5)
    made.write({"fc": torch.from_numpy(weight)}, {"fc": where})
    seen = made.read_weights()["fc"]
    torch.testing.assert_close(
        seen[where], torch.from_numpy(weight).float()[where], atol=1e-6, rtol=0
    )
    with pytest.warns(UserWarning, match="weights of fc end short of their targets"):
        made.write({"fc": torch.full((30, 60), -1.0)})


def test_images_are_written_in_the_shape_of_their_kernel() -> None:
    kernel = np.random.default_rng(0).uniform(-1, 1, (4, 2, 3, 3))
    nodes = {
        "in": nir.Input({"input": np.array([2, 6, 6])}),
        "conv": nir.Conv2d((6, 6), kernel, 1, 1, 1, 1, np.zeros(4)),
        "out": nir.Output({"output": np.array([4, 6, 6])}),
    }
    g = nir.NIRGraph(nodes, [("in", "conv"), ("conv", "out")], type_check=False)
    made = Accelerator(compile(g, IDEAL, dt=1.0))
    made.program()
    wanted = torch.from_numpy(kernel).float() * 0.5
    made.write({"conv": wanted}, {"conv": torch.ones(4, 2, 3, 3, dtype=torch.bool)})
    torch.testing.assert_close(made.read_weights()["conv"], wanted)


@pytest.mark.parametrize(
    ("targets", "where", "said"),
    [
        ({"fd": torch.zeros(5, 6)}, None, r"no crossbar fd of shape \(5, 6\); the chip has fc"),
        ({"fc": torch.zeros(6, 5)}, None, r"no crossbar fc of shape \(6, 5\)"),
        ({"fc": torch.full((5, 6), math.nan)}, None, "not finite; give finite weights"),
        ({"fc": torch.full((5, 6), math.inf)}, None, "not finite"),
        (
            {"fc": torch.full((5, 6), 1.5)},
            None,
            "30 targets of fc are larger than its devices hold",
        ),
        ({"fc": torch.zeros(5, 6)}, {"fc": torch.ones(5, 6)}, "it must be bool"),
        ({"fc": torch.zeros(5, 6)}, {"fc": torch.ones(5, dtype=torch.bool)}, r"of shape \(5,\)"),
        ({"fc": torch.zeros(5, 6)}, {"fd": torch.ones(5, 6).bool()}, "give a target for each node"),
    ],
)
def test_what_cannot_be_written_is_refused_and_nothing_is_touched(
    targets: Any, where: Any, said: str
) -> None:
    made = chip_of(drawn(5, 6), PCM)
    before, clock = made.state.cells["fc"], made.clock_s
    with pytest.raises(ValueError, match=said):
        made.write(targets, where)
    assert made.state.cells["fc"] is before
    assert made.clock_s == clock


def test_what_is_not_chosen_may_hold_anything() -> None:
    made = chip_of(drawn(5, 6), IDEAL)
    targets, where = torch.full((5, 6), math.nan), torch.zeros(5, 6, dtype=torch.bool)
    targets[2, 3], where[2, 3] = 0.25, True
    made.write({"fc": targets}, {"fc": where})
    assert float(made.read_weights()["fc"][2, 3]) == 0.25
    nothing = made.write({"fc": targets}, {"fc": torch.zeros(5, 6, dtype=torch.bool)})
    assert nothing[:5] == (0, 0, 0, 0, 0)
    assert made.write({})[:5] == (0, 0, 0, 0, 0)


def test_a_chip_that_holds_no_weights_cannot_be_corrected() -> None:
    nodes = {
        "in": nir.Input({"input": np.array([2])}),
        "fc": nir.Linear(np.eye(2)),
        "out": nir.Output({"output": np.array([2])}),
    }
    g = nir.NIRGraph(nodes, [("in", "fc"), ("fc", "out")])
    with pytest.raises(RuntimeError, match=r"call program\(\) first"):
        Accelerator(compile(g, PCM, dt=1.0)).write({"fc": torch.eye(2)})


def test_a_gain_of_0_leaves_nothing_but_0_to_write() -> None:
    made = chip_of(drawn(5, 6), IDEAL)
    made.set_registers({"fc.gain": torch.zeros(5)})
    with pytest.raises(ValueError, match="larger than its devices hold"):
        made.write({"fc": torch.full((5, 6), 0.1)})
    made.write({"fc": torch.zeros(5, 6)})
    assert not bool(made.read_weights()["fc"].any())


def test_the_same_seed_writes_the_same() -> None:
    chips = [chip_of(drawn(9, 8), chip) for chip in (PCM, PCM, PCM_PULSED, PCM_PULSED)]
    for made in chips:
        made.wait(1e3)
        made.write({"fc": torch.full((9, 8), 0.3)}, {"fc": mask(9, 8)})
    seen = [made.read_weights()["fc"] for made in chips]
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[2], seen[3])


def test_the_weights_of_a_graph_can_be_written_again_after_a_calibration() -> None:
    weight = np.random.default_rng(0).normal(size=(20, 30))
    nodes = {
        "in": nir.Input({"input": np.array([30])}),
        "fc": nir.Linear(weight),
        "out": nir.Output({"output": np.array([20])}),
    }
    chip = Accelerator(compile(nir.NIRGraph(nodes, [("in", "fc"), ("fc", "out")]), PCM, dt=1.0))
    chip.program()
    chip.calibrate()
    assert bool((chip.registers["fc.gain"] < 1).any())
    with pytest.warns(UserWarning, match="are larger than its devices hold.*to full devices"):
        chip.write({"fc": weight})
    seen = chip.read_weights()["fc"]
    assert float((seen - torch.from_numpy(weight)).std()) < 0.15
