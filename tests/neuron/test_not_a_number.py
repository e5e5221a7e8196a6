"""What is not a number reaches the outputs: no comparison with a threshold swallows it."""

from __future__ import annotations

import itertools
from typing import Any, Literal

import nir
import numpy as np
import pytest
import torch
from torch import Tensor

from snu_plugin import SNU, SNUConfig, graph, snu_scan, snu_step, sSNU
from snu_plugin.neuron import (
    LIF,
    Euler,
    SRCConfig,
    euler_scan,
    lif_scan,
    reference,
    src_scan,
    step,
)
from snu_plugin.neuron.src import Gate

NAN, INF = float("nan"), float("inf")
CONFIGS = [
    SNUConfig(soft=soft, g=g) for soft in (False, True) for g in ("identity", "relu", "leaky_relu")
]


def named(config: SNUConfig) -> str:
    return f"{'soft' if config.soft else 'hard'}-{config.g}"


IMPLS = pytest.mark.parametrize("impl", ["numba", "reference"])


def x_with_nan(*shape: int) -> Tensor:
    """Return inputs of which one unit of one sample, the second of the second, has one NaN."""
    x = torch.rand(shape or (7, 3, 70), generator=torch.Generator().manual_seed(0))
    x[2, 1, 1] = NAN
    return x


def lost(y: Tensor) -> Tensor:
    """Return where the unit that was given NaN goes on giving numbers."""
    return ~y[2:, 1, 1].isnan()


def elsewhere(y: Tensor) -> bool:
    """Return whether others give NaN, or that unit does before it was given one."""
    rest = y.clone()
    rest[2:, 1, 1] = 0
    return bool(rest.isnan().any())


def test_a_step_gives_for_every_number_what_a_comparison_does_and_keeps_what_is_none() -> None:
    numbers = [NAN, INF, -INF, 0.0, -0.0, 1e-45, -1e-45, 1e-30, 0.5, 1.0, 2.5, -3.0, 3e38]
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        v = torch.tensor(numbers * 5, dtype=dtype)
        found, compared = step(v), (v > 0).to(dtype)
        assert torch.equal(found.isnan(), v.isnan())
        assert torch.equal(found.nan_to_num(), compared)
        assert not torch.signbit(found[~v.isnan()]).any()


@IMPLS
@pytest.mark.parametrize("config", CONFIGS, ids=named)
@pytest.mark.parametrize("learn", [False, True])
def test_a_unit_given_nan_gives_nan_from_then_on_and_no_other_does(
    config: SNUConfig, impl: str, learn: bool
) -> None:
    x = x_with_nan().requires_grad_(learn)
    y, state = snu_scan(x, config, impl=impl)
    assert not lost(y).any()
    assert not elsewhere(y)
    assert state.y[1, 1].isnan()
    assert state.s[1, 1].isnan()


@IMPLS
@pytest.mark.parametrize("what", ["s", "y", "decay", "threshold"])
def test_nan_in_a_state_or_constant_reaches_the_output(what: str, impl: str) -> None:
    s, y, decay, threshold = (torch.zeros(3, 70) for _ in range(4))
    {"s": s, "y": y, "decay": decay, "threshold": threshold}[what][1, 1] = NAN
    state, x = reference.State(s, y), torch.rand(5, 3, 70)
    y, _ = snu_scan(x, decay=decay, threshold=threshold, state=state, impl=impl)
    assert y[:, 1, 1].isnan().all()
    assert y.isnan().sum() == 5


@IMPLS
def test_recurrent_weights_carry_nan_to_all_whom_it_sends_to(impl: str) -> None:
    y, _ = snu_scan(x_with_nan(), recurrent=torch.ones(70, 70), impl=impl)
    assert y[2].isnan().sum() == 1
    assert y[3:, 1].isnan().all()
    assert not y[:, [0, 2]].isnan().any()


@IMPLS
@pytest.mark.parametrize("inhibition", ["sample", "batch"])
def test_lateral_inhibition_carries_nan_to_the_group(
    inhibition: Literal["sample", "batch"], impl: str
) -> None:
    y, _ = snu_scan(x_with_nan(), SNUConfig(lateral_inhibition=inhibition), impl=impl)
    group = y[3:, 1] if inhibition == "sample" else y[3:]
    assert y[2].isnan().sum() == 1
    assert group.isnan().all()


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # NumPy, in the interpreter
@pytest.mark.parametrize("config", CONFIGS, ids=named)
def test_kernels_for_gpus_keep_nan_too(config: SNUConfig, device: str) -> None:
    from snu_plugin.neuron.triton_scan.scan import ENGINE

    x = x_with_nan(7, 3, 9).to(device)
    x[1, 0, :2] = torch.tensor([INF, -INF])
    y, state = ENGINE.snu(x, config)
    expected, last = reference.snu_scan(x.cpu(), config)
    torch.testing.assert_close(y.cpu(), expected, equal_nan=True)
    torch.testing.assert_close(state.s.cpu(), last.s, equal_nan=True)
    assert not lost(y).any()


@IMPLS
@pytest.mark.parametrize("synapse", [None, 0.5])
@pytest.mark.parametrize("reset", [None, 0.25])
def test_neurons_of_nir_keep_nan(synapse: float | None, reset: float | None, impl: str) -> None:
    def given(value: float | None) -> Tensor | None:
        return None if value is None else torch.full((70,), value)

    neuron = Euler(
        decay=torch.full((70,), 0.9),
        threshold=torch.ones(70),
        synapse_decay=given(synapse),
        reset=given(reset),
    )
    x = x_with_nan()
    y, state = euler_scan(x, neuron, impl=impl)
    assert not lost(y).any()
    assert not elsewhere(y)
    assert state.v[1, 1].isnan()


@pytest.mark.parametrize("reset", ["none", "subtract", "before", "after", "value"])
@pytest.mark.parametrize("late", [True, False])
def test_leaky_neurons_of_hosts_keep_nan(reset: Any, late: bool) -> None:
    a, threshold, rest = (torch.tensor(value) for value in (0.9, 1.0, 0.0))
    neuron = LIF(a=a, threshold=threshold, reset=reset, late=late, reset_to=rest)
    y, v, _ = lif_scan(x_with_nan(), neuron)
    assert v is not None
    assert not lost(y).any()
    assert not elsewhere(y)
    assert not lost(v).any()


@IMPLS
@pytest.mark.parametrize("gate", ["prev", "cur", "prev_hard", "cur_hard"])
def test_spiking_recurrent_cells_keep_nan(gate: Gate, impl: str) -> None:
    x = x_with_nan()
    y, state = src_scan(x, SRCConfig(gate=gate), impl=impl)
    assert not lost(y).any()
    assert not elsewhere(y)
    assert all(part[1, 1].isnan() for part in state)


@pytest.mark.parametrize("layer", [SNU(70), sSNU(70), SNU(70, recurrent=True)])
def test_layers_in_a_compiled_or_exported_graph_keep_nan(layer: torch.nn.Module) -> None:
    x = x_with_nan()
    exported = torch.export.export(layer, (x,)).module()
    expected = layer(x)[0]
    assert not lost(expected).any()
    torch.testing.assert_close(exported(x)[0], expected, equal_nan=True)


def test_a_single_step_keeps_nan() -> None:
    x = x_with_nan()[2]
    for config, once in itertools.product(CONFIGS, (snu_step, None)):
        y = once(x, None, config)[0] if once else snu_scan(x[None], config)[0][0]
        assert y[1, 1].isnan()
        assert y.isnan().sum() == 1


@pytest.mark.parametrize("kind", ["LIF", "IF", "CubaLIF", "Threshold"])
def test_the_strict_reference_of_a_graph_keeps_nan(kind: str) -> None:
    ones = np.ones(70)
    leaky = {"r": ones, "v_leak": 0 * ones, "v_threshold": ones, "v_reset": 0 * ones}
    node = {
        "LIF": lambda: nir.LIF(tau=2 * ones, **leaky),
        "IF": lambda: nir.IF(r=ones, v_threshold=ones, v_reset=0 * ones),
        "CubaLIF": lambda: nir.CubaLIF(tau_syn=2 * ones, tau_mem=2 * ones, w_in=ones, **leaky),
        "Threshold": lambda: nir.Threshold(threshold=ones),
    }[kind]()
    # A matrix would give NaN to all, even with 0 between them.
    found = nir.NIRGraph.from_list(nir.Scale(scale=ones), node)
    y, _ = graph.network(graph.stamp(found, 1.0))(x_with_nan())
    assert y[2, 1, 1].isnan()
