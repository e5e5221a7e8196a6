"""The one update of all NIR neurons: fused, it equals the step-by-step reference."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from snu_plugin import SNUConfig
from snu_plugin.neuron import Euler, EulerState, euler_scan, euler_step


def row(*values: float) -> Tensor:
    return torch.tensor(values)


NEURONS = {
    "LIF": Euler(
        decay=row(0.5, 0.9, 0.75),
        gain=row(0.5, 0.1, 0.25),
        threshold=row(0.5, 0.4, 0.6),
        offset=row(0.0, 0.01, -0.02),
    ),
    "LIF that resets elsewhere": Euler(
        decay=row(0.5, 0.9, 0.75), threshold=row(1.0, 1.0, 1.0), reset=row(-0.3, 0.2, 0.0)
    ),
    "LIF that starts elsewhere": Euler(
        decay=row(0.5, 0.9, 0.75), threshold=row(1.0, 1.0, 1.0), start=row(0.3, 2.0, -1.0)
    ),
    "IF": Euler(decay=torch.tensor(1.0), gain=row(0.3, 0.2, 0.1), threshold=torch.tensor(1.0)),
    "LI": Euler(decay=row(0.5, 0.9, 0.75), gain=row(0.5, 0.1, 0.25), offset=torch.tensor(0.1)),
    "I": Euler(decay=torch.tensor(1.0), gain=torch.tensor(0.01)),
    "CubaLIF": Euler(
        decay=row(0.5, 0.9, 0.75),
        gain=row(0.5, 0.1, 0.25),
        threshold=row(0.3, 0.2, 0.4),
        synapse_decay=row(0.8, 0.7, 0.6),
        synapse_gain=row(0.2, 0.3, 0.4),
    ),
    "CubaLI": Euler(decay=row(0.5, 0.9, 0.75), synapse_decay=torch.tensor(0.8)),
    "ReLU before the threshold": Euler(
        decay=row(0.5, 0.9, 0.75), threshold=torch.tensor(1.0), config=SNUConfig(g="relu")
    ),
    "detached reset": Euler(
        decay=row(0.5, 0.9, 0.75),
        threshold=torch.tensor(1.0),
        reset=torch.tensor(0.1),
        config=SNUConfig(detach_reset=True),
    ),
}
every_neuron = pytest.mark.parametrize("neuron", NEURONS.values(), ids=NEURONS)


def inputs(steps: int = 70) -> Tensor:
    return torch.randn(steps, 4, 3, generator=torch.Generator().manual_seed(0)) + 0.5


def assert_same(actual: tuple[Tensor, EulerState], expected: tuple[Tensor, EulerState]) -> None:
    assert torch.equal(actual[0], expected[0])
    assert torch.equal(actual[1].v, expected[1].v)
    if expected[1].i is None or actual[1].i is None:
        assert actual[1].i is expected[1].i
    else:
        assert torch.equal(actual[1].i, expected[1].i)


@every_neuron
def test_fused_outputs_and_states_are_bit_by_bit_the_references(neuron: Euler) -> None:
    pytest.importorskip("numba")
    expected = euler_scan(inputs(), neuron, impl="reference")
    assert expected[0].any()
    assert_same(euler_scan(inputs(), neuron, impl="numba"), expected)


@every_neuron
def test_a_scan_is_its_steps_one_after_the_other(neuron: Euler) -> None:
    x = inputs(20)
    outputs, state = [], None
    for x_t in x:
        y, state = euler_scan(x_t[None], neuron, state)
        outputs.append(y)
    assert state is not None
    assert_same((torch.cat(outputs), state), euler_scan(x, neuron))


@every_neuron
def test_chunks_equal_the_whole(neuron: Euler) -> None:
    x = inputs(100)
    first, state = euler_scan(x[:37], neuron)
    second, last = euler_scan(x[37:], neuron, state)
    assert_same((torch.cat((first, second)), last), euler_scan(x, neuron))


@every_neuron
def test_fused_gradients_are_the_references(neuron: Euler) -> None:
    pytest.importorskip("numba")
    exact = neuron.to(torch.zeros((), dtype=torch.float64))
    found = []
    for impl in ("numba", "reference"):
        leaves = {
            name: value.clone().requires_grad_()
            for name, value in vars(exact).items()
            if isinstance(value, Tensor) and name != "reset"
        }
        x = inputs().double().requires_grad_()
        y, state = euler_scan(x, replace(exact, **leaves), impl=impl)  # type: ignore[arg-type]
        loss = y.cumsum(0).sum() + state.v.square().sum()
        loss = loss if state.i is None else loss + state.i.square().sum()
        found.append(torch.autograd.grad(loss, (x, *leaves.values())))
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-9)


def test_no_step_leaves_the_start() -> None:
    y, state = euler_scan(torch.empty(0, 2, 3), NEURONS["LIF that starts elsewhere"])
    assert y.shape == (0, 2, 3)
    assert torch.equal(state.v, row(0.3, 2.0, -1.0).expand(2, 3))


def test_a_trained_reset_falls_to_the_reference_but_a_name_raises() -> None:
    pytest.importorskip("numba")
    reset = torch.tensor(0.2, requires_grad=True)
    neuron = Euler(decay=torch.tensor(0.5), threshold=torch.tensor(1.0), reset=reset)
    with pytest.raises(ValueError, match="a trained reset is not fused"):
        euler_scan(inputs(), neuron, impl="numba")
    state = euler_scan(inputs(), neuron)[1]
    assert torch.autograd.grad(state.v.sum(), reset)[0] != 0


def test_constants_wider_than_the_input_fall_to_the_reference() -> None:
    neuron = Euler(decay=row(0.1, 0.2, 0.3), threshold=torch.tensor(1.0))
    y, _ = euler_scan(torch.ones(4, 2, 1), neuron)
    assert y.shape == (4, 2, 3)


def test_one_step_of_a_leaky_integrator_is_the_equation() -> None:
    neuron = Euler(decay=row(0.5), gain=row(2.0), offset=row(0.25))
    y, state = euler_step(row(3.0), EulerState(row(4.0), None), neuron)
    assert y.item() == 0.5 * 4 + 2 * 3 + 0.25
    assert state.v.item() == y.item()
