"""Other settings for some nodes: each lies on the chip that it was given."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch

from snu_plugin.accelerator import HERMES, IDEAL, PCM, PCM_PULSED, Accelerator, Chip
from snu_plugin.accelerator.energy import expected_writing
from snu_plugin.compiler import CannotMap, compile, plan
from snu_plugin.hil import MixedPrecision, Refresh, fine_tune

X = (torch.rand(6, 3, 20, generator=torch.Generator().manual_seed(0)) < 0.4).float()


def chain() -> nir.NIRGraph:
    draw = np.random.default_rng(0)
    nodes = {
        "in": nir.Input({"input": np.array([20])}),
        "a": nir.Linear(draw.normal(size=(30, 20))),
        "step": nir.Threshold(np.zeros(30)),
        "b": nir.Linear(draw.normal(size=(10, 30))),
        "out": nir.Output({"output": np.array([10])}),
    }
    return nir.NIRGraph(nodes, list(pairwise(nodes)))


def made_of(chip: Chip | Mapping[str, Chip], seed: int = 0) -> Accelerator:
    made = Accelerator(compile(chain(), chip, dt=1.0), seed)
    made.program()
    return made


def test_a_mapping_to_one_chip_is_that_chip() -> None:
    one, two, three = (made_of(c) for c in (PCM, {"default": PCM}, {"a": PCM, "b": PCM}))
    assert one.layout.tiles == two.layout.tiles == three.layout.tiles
    seen = [made.run(X)[0] for made in (one, two, three)]
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[2])
    assert one.clock_s == two.clock_s == three.clock_s


def test_a_node_on_an_ideal_chip_is_exact_and_the_other_is_not() -> None:
    made = made_of({"a": IDEAL, "default": PCM})
    weight = {n: torch.from_numpy(chain().nodes[n].weight).float() for n in "ab"}
    assert torch.equal(made.read_weights()["a"], weight["a"])
    assert not torch.allclose(made.read_weights()["b"], weight["b"], rtol=1e-3)
    _, trace = made.run(X, record=True)
    assert torch.equal(trace.products["a"], torch.cat([x[None] @ weight["a"].T for x in X]))
    alone = made_of(PCM)
    assert torch.equal(made.state.cells["b"].g_us, alone.state.cells["b"].g_us)


def test_every_node_has_the_converters_of_its_chip() -> None:
    coarse = replace(PCM, adc_bits=3, output_noise=None, read_noise=None, wire_ohm=None)
    made = made_of({"b": coarse, "default": IDEAL})
    _, trace = made.run(X, record=True)
    op = made.layout.products["b"]
    codes = trace.products["b"] / (op.weight_per_us[:, 0] * 25 * op.unit).float()
    assert float(codes.abs().max()) < 3.5
    torch.testing.assert_close(codes, codes.round(), atol=1e-4, rtol=0)


def test_chips_of_their_own_have_tiles_and_devices_of_their_own() -> None:
    small = replace(PCM, tile_rows=8, tile_columns=8, tiles=20, devices_per_weight=4)
    program = compile(chain(), {"a": small, "default": PCM}, dt=1.0)
    assert program.devices == 4 * 600 + 2 * 300
    assert program.tile_count == 3 * 4 + 1
    assert program.utilisation == pytest.approx(900 / (12 * 64 + 256**2))
    assert len(program.products["a"].row_blocks) == 3
    found = plan(chain(), {"a": small, "default": PCM}, dt=1.0).to_dict()
    assert found["tiles_available"] == 20 + 64
    with pytest.raises(CannotMap, match=r"12 tiles of 8 x 8 are needed \(a 12\), PCM has 11"):
        compile(chain(), {"a": replace(small, tiles=11), "default": PCM}, dt=1.0)


def test_time_and_writing_are_those_of_each_chip() -> None:
    slow = replace(PCM, step_ns=1000.0)
    program = compile(chain(), {"a": slow, "default": PCM}, dt=1.0)
    assert program.step_s == pytest.approx(1133e-9)
    alone = [compile(chain(), chip, dt=1.0) for chip in (slow, PCM)]
    resets = [expected_writing(p).resets for p in alone]
    assert expected_writing(program).resets == resets[0] == resets[1]


def test_chips_by_node_go_on_after_loading_as_if_they_had_never_stopped(tmp_path: Path) -> None:
    made = made_of({"a": HERMES, "b": replace(PCM, devices_per_weight=4)}, 3)
    made.wait(1e4)
    made.calibrate()
    made.save(tmp_path / "chip.npz")
    again = Accelerator.load(tmp_path / "chip.npz")
    assert again.layout.chips == made.layout.chips
    assert torch.equal(made.run(X)[0], again.run(X)[0])


def test_chips_by_node_are_tuned_pulsed_and_given_back() -> None:
    made = made_of({"a": PCM_PULSED, "b": replace(PCM, devices_per_weight=4)})
    target = torch.randn(6, 3, 10, generator=torch.Generator().manual_seed(1))
    fine_tune(
        made,
        [(X, target), (1 - X, target)],
        lambda y, t: (y - t).square().mean(),
        MixedPrecision(lr=30.0),
        refresh=Refresh(every=1),
    )
    assert made.pulses > 0
    assert set(made.to_nir().nodes) == set(chain().nodes)


@pytest.mark.parametrize(
    ("chip", "kind", "said"),
    [
        ("PCM", TypeError, "snu_plugin.accelerator.PCM"),
        ([PCM, IDEAL], TypeError, "give a Chip, or a mapping"),
        (None, TypeError, "chip is None"),
        ({"a": "PCM", "b": PCM}, TypeError, r"chip\['a'\] is 'PCM'"),
        ({"A": PCM, "default": PCM}, ValueError, "'A', which is no node of the graph"),
        ({"aa": PCM, "default": PCM}, ValueError, "did you mean 'a'"),
        ({"step": PCM, "default": PCM}, ValueError, "'step', which has no weights"),
        ({"a": PCM}, ValueError, "no chip for b; .* as 'default'"),
        ({}, ValueError, "no chip for a, b"),
    ],
)
def test_what_is_no_chip_for_every_node_is_refused(
    chip: Any, kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said) as error:
        compile(chain(), chip, dt=1.0)
    assert "\n" not in str(error.value)
