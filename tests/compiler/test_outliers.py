"""A few weights in digital beside the devices, so that the others take the whole range."""

import json
from dataclasses import replace
from pathlib import Path

import nir
import numpy as np
import pytest
import torch
from torch import Tensor

from snu_plugin import cli, graph
from snu_plugin.accelerator import IDEAL, PCM, Accelerator, Chip
from snu_plugin.accelerator.energy import OPERATION_PJ
from snu_plugin.compiler import compile, plan
from snu_plugin.hil import Refresh
from snu_plugin.hil.forward import forward

SHARE = 0.02


def heavy(out: int = 30, inputs: int = 120) -> nir.NIRGraph:
    """Weights with a heavy tail, Student's t of 3 degrees of freedom, in one layer."""
    draw = np.random.default_rng(0)
    nodes = {
        "in": nir.Input({"input": np.array([inputs])}),
        "fc": nir.Affine(draw.standard_t(3, (out, inputs)), draw.normal(size=out)),
        "out": nir.Output({"output": np.array([out])}),
    }
    return nir.NIRGraph(nodes, [("in", "fc"), ("fc", "out")])


def images() -> nir.NIRGraph:
    draw = np.random.default_rng(0)
    weight = draw.standard_t(3, (4, 2, 3, 3))
    nodes = {
        "in": nir.Input({"input": np.array([2, 6, 6])}),
        "conv": nir.Conv2d((6, 6), weight, 1, 1, 1, 1, draw.normal(size=4)),
        "out": nir.Output({"output": np.array([4, 6, 6])}),
    }
    return nir.NIRGraph(nodes, [("in", "conv"), ("conv", "out")])


def chip_of(g: nir.NIRGraph, chip: Chip, share: float = SHARE, seed: int = 0) -> Accelerator:
    made = Accelerator(compile(g, chip, dt=1.0, outliers=share), seed)
    made.program()
    return made


def spikes(*shape: int) -> Tensor:
    return (torch.rand(8, 3, *shape, generator=torch.Generator().manual_seed(0)) < 0.3).float()


@pytest.mark.parametrize(("g", "name"), [(heavy(), "fc"), (images(), "conv")])
def test_an_ideal_chip_with_outliers_computes_the_graph(g: nir.NIRGraph, name: str) -> None:
    made = chip_of(g, replace(IDEAL, tile_rows=50))
    x = spikes(*made.layout.shapes["in"])
    expected = graph.network(g, 1.0)(x)[0]
    torch.testing.assert_close(made.run(x)[0], expected, rtol=1e-5, atol=1e-4)
    weight = torch.tensor(g.nodes[name].weight).float()
    torch.testing.assert_close(made.read_weights()[name], weight, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(made.to_nir(2).nodes[name].weight, weight, rtol=1e-5, atol=1e-6)


def test_what_is_left_takes_the_whole_range() -> None:
    op = compile(heavy(), PCM, dt=1.0, outliers=SHARE).products["fc"]
    assert op.outliers is not None
    kept = op.outliers != 0
    assert int(kept.sum()) == int(SHARE * 3600)
    assert not op.weight[kept].any()
    g = op.targets_us().sum(0)
    torch.testing.assert_close(g.amax(1), torch.full((30,), 25.0, dtype=torch.float64))
    whole = torch.tensor(heavy().nodes["fc"].weight)
    torch.testing.assert_close(op.whole, whole, rtol=1e-6, atol=0)
    # Beside the others of their column, no weight on devices is larger than any that is kept.
    size = whole.abs() / whole.square().mean(1, keepdim=True).sqrt()
    assert float(size[~kept].max()) <= float(size[kept].min())


def test_noise_of_the_others_is_less() -> None:
    """A day after writing, calibrated, 2 % in digital: 0.58 of the error of all on devices."""
    g, errors = heavy(), []
    x = spikes(120)
    expected = graph.network(g, 1.0)(x)[0].detach()
    for share in (0.0, SHARE):
        wrong = []
        for seed in range(4):
            made = chip_of(g, replace(PCM, adc_bits=None, output_noise=None), share, seed)
            made.wait(86_400)
            made.calibrate()
            wrong.append((made.run(x)[0] - expected).square().mean())
        errors.append(float(torch.stack(wrong).mean().sqrt()))
    assert errors[1] < 0.65 * errors[0]


def test_operations_energy_and_memory_are_counted() -> None:
    made, plain = (chip_of(heavy(), PCM, share) for share in (SHARE, 0.0))
    x = spikes(120)
    (_, trace), (_, without) = made.run(x), plain.run(x)
    outliers = made.layout.products["fc"].outliers
    assert outliers is not None
    operations = float((x @ (outliers != 0).float().T).sum()) / 24
    assert trace.cost.adapter_operations == pytest.approx(operations)
    assert trace.cost.adapter_nj == pytest.approx(operations * OPERATION_PJ * 1e-3)
    assert trace.cost.adapter_bytes == 8 * int((outliers != 0).sum())
    assert without.cost.adapter_operations == without.cost.adapter_bytes == 0
    found, steps = made.run(x, step_by_step=True)[1], trace
    assert found.counts["fc"].adapter_operations == steps.counts["fc"].adapter_operations
    assert found.cost.adapter_bytes == trace.cost.adapter_bytes


def test_an_adapter_and_outliers_go_together() -> None:
    made = chip_of(heavy(), IDEAL)
    made.set_adapter("fc", 2)
    draw = torch.Generator().manual_seed(1)
    into, out = torch.randn(2, 120, generator=draw), torch.randn(30, 2, generator=draw)
    made.set_registers({"fc.adapter_in": into, "fc.adapter_out": out})
    x = spikes(120)
    expected = graph.network(heavy(), 1.0)(x)[0] + x @ into.T @ out.T
    seen, trace = made.run(x)
    torch.testing.assert_close(seen, expected, rtol=1e-4, atol=1e-3)
    held = 2 * int(SHARE * 3600) + 2 * (120 + 30)
    assert trace.counts["fc"].adapter_values == held


def test_weights_written_again_and_remembered_are_those_of_the_graph() -> None:
    made = chip_of(heavy(), IDEAL)
    whole = made.layout.products["fc"].whole.float()
    where = torch.zeros(30, 120, dtype=torch.bool)
    where[3] = True
    made.write({"fc": whole}, {"fc": where})
    torch.testing.assert_close(made.read_weights()["fc"], whole, rtol=1e-5, atol=1e-6)
    made.remember(1)
    made.calibrate()
    assert bool((made.registers["fc.gain"] == 1).all())


def test_worn_pairs_are_written_again_as_they_were() -> None:
    made = chip_of(heavy(), IDEAL)
    plus = torch.full((30, 120), 8)
    made.pulse({"fc": plus})
    made.pulse({"fc": -plus})
    before = made.read_weights()["fc"]
    assert Refresh(above=0.1).apply(made) > 0
    torch.testing.assert_close(made.read_weights()["fc"], before, rtol=1e-4, atol=1e-4)


def test_gains_act_on_the_devices_alone_and_so_do_their_gradients() -> None:
    made = chip_of(heavy(), IDEAL)
    x = spikes(120)
    before, _ = made.run(x)
    found = forward(made, x, made.read_weights())
    (gradient,) = torch.autograd.grad(found.output.sum(), [found.registers["fc.gain"]])
    assert torch.equal(found.output.detach(), before)
    gain = torch.full((30,), 1.5)
    made.set_registers({"fc.gain": gain})
    change = (made.run(x)[0] - before).sum((0, 1)) / 0.5
    torch.testing.assert_close(gradient, change, rtol=1e-4, atol=1e-2)


def test_a_saved_chip_keeps_its_outliers(tmp_path: Path) -> None:
    made, x = chip_of(heavy(), PCM), spikes(120)
    made.save(tmp_path / "chip.npz")
    again = Accelerator.load(tmp_path / "chip.npz")
    assert again.layout.outliers == SHARE
    assert torch.equal(again.run(x)[0], made.run(x)[0])


def test_ranges_from_data_know_of_outliers() -> None:
    x = spikes(120)
    program = compile(heavy(), PCM, dt=1.0, outliers=SHARE, sample=x)
    assert program.ranges is not None
    made = Accelerator(program)
    made.program()
    assert made.run(x)[1].saturation["fc"].outputs < 0.01


def test_the_choice_is_stated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = str(compile(heavy(), PCM, dt=1.0, outliers=SHARE))
    assert "outliers stay in digital logic, exact: fc 72 of 3,600" in said
    assert "whose largest weight takes the whole range, outliers too" in str(
        compile(heavy(), PCM, dt=1.0)
    )
    graph.write(tmp_path / "g.nir", heavy())
    arguments = ["map", str(tmp_path / "g.nir"), "--dt", "1", "--outliers", "0.02"]
    assert cli.main(arguments) == 0
    assert "exact: fc 72 of 3,600" in capsys.readouterr().out
    assert cli.main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["outliers"] == {"fc": 72}
    assert found["adapters"]["operations_per_step"] == pytest.approx(0.1 * 72)
    assert plan(heavy(), PCM, dt=1.0).to_dict()["outliers"] == {"fc": 0}


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan"), "few"])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=r"outliers is .*; it must be a share of at least 0"):
        compile(heavy(), PCM, dt=1.0, outliers=share)
