"""What PyTorch offers around a module works on our layers: compilers, transforms, export."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gradients import currents, learned, transforms_agree
from snu_plugin import SNU, SNUConfig, implementations, snu_step, sSNU
from snu_plugin.neuron import SRC, Euler, euler_scan

FEATURES = 4


def bell(v: Tensor) -> Tensor:
    return torch.exp(-v.square())


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "SNU": lambda: SNU(FEATURES),
    "SNU, ReLU, trained decay": lambda: SNU(FEATURES, SNUConfig(g="relu", learn_decay=True)),
    "SNU, other surrogate": lambda: SNU(FEATURES, SNUConfig(surrogate=bell)),
    "SNU, recurrent": lambda: SNU(FEATURES, recurrent=True),
    "SNU, inhibited": lambda: SNU(FEATURES, SNUConfig(lateral_inhibition="sample")),
    "sSNU": lambda: sSNU(FEATURES),
    "sSNU, recurrent": lambda: sSNU(FEATURES, recurrent=True),
    "SRC": lambda: SRC(FEATURES),
}
layers = pytest.mark.parametrize("kind", LAYERS)


class Outputs(nn.Module):
    """A layer without its state."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)[0]
        return y


def outputs_of(kind: str) -> Outputs:
    torch.manual_seed(0)
    return Outputs(LAYERS[kind]())


@layers
@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.covering(1)
def test_a_compiled_layer_is_one_graph_that_learns_the_same(kind: str, steps: int) -> None:
    torch.compiler.reset()
    net, x = outputs_of(kind), currents(steps, 3, FEATURES)
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    torch.testing.assert_close(learned(compiled, net, x), learned(net, net, x))
    with torch.inference_mode():
        torch.testing.assert_close(compiled(x), net(x))


@layers
def test_transforms_find_the_gradients_of_autograd(kind: str) -> None:
    net, x = outputs_of(kind), currents(5, 3, FEATURES)
    transforms_agree(net, x)


@layers
def test_a_mapped_layer_runs_each_sample_alone(kind: str) -> None:
    net, x = outputs_of(kind), currents(3, 5, 2, FEATURES)
    torch.testing.assert_close(torch.vmap(net)(x), torch.stack([net(one) for one in x]))
    grad = torch.func.grad(lambda one: net(one).sum())
    torch.testing.assert_close(torch.vmap(grad)(x), torch.stack([grad(one) for one in x]))


@layers
def test_an_ensemble_of_layers_is_one_call(kind: str) -> None:
    nets, x = [Outputs(LAYERS[kind]()) for _ in range(3)], currents(5, 2, FEATURES)
    state = torch.func.stack_module_state(nets)
    base = copy.deepcopy(nets[0])
    each = torch.vmap(lambda p, b: torch.func.functional_call(base, (p, b), (x,)))(*state)
    torch.testing.assert_close(each, torch.stack([net(x) for net in nets]))


@pytest.mark.parametrize(
    "kind",
    ["SNU", "SNU, ReLU, trained decay", "SNU, recurrent", "sSNU", "sSNU, recurrent"],
)
@pytest.mark.parametrize("strict", [False, True])
def test_an_exported_layer_runs_any_number_of_steps(kind: str, strict: bool) -> None:
    if not implementations()["numba"].available:
        pytest.skip("the reference is a loop over steps, which export writes out")
    net = outputs_of(kind)
    steps = torch.export.Dim("steps", min=1)
    program = torch.export.export(
        net, (currents(5, 3, FEATURES),), dynamic_shapes=({0: steps},), strict=strict
    ).module()
    for length in (1, 2, 4, 9):
        x = currents(length, 3, FEATURES)
        torch.testing.assert_close(program(x), net(x))


@layers
@pytest.mark.parametrize("reentrant", [False, True])
def test_a_checkpointed_layer_learns_the_same(kind: str, reentrant: bool) -> None:
    net, x = outputs_of(kind), currents(5, 3, FEATURES).requires_grad_()
    grads = []
    runs: tuple[Callable[..., Any], ...] = net, partial(checkpoint, net, use_reentrant=reentrant)
    for run in runs:
        x.grad = None
        net.zero_grad()
        torch.autograd.backward(run(x).square().sum())
        grads.append([x.grad, *(p.grad for p in net.parameters())])
    torch.testing.assert_close(*grads)


@layers
@pytest.mark.parametrize("shape", [(0, 2), (3, 0), (0, 0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_steps_and_no_sequences_give_empty_outputs_that_can_be_trained_on(
    kind: str, shape: tuple[int, int], dtype: torch.dtype
) -> None:
    layer, x = LAYERS[kind](), torch.zeros(*shape, FEATURES, dtype=dtype)
    y, state = layer(x)
    assert y.shape == x.shape
    assert y.dtype == dtype
    assert all(part.shape == x.shape[1:] and part.dtype == torch.float32 for part in state)
    y.sum().backward()
    assert not any(p.grad.any() for p in layer.parameters() if p.grad is not None)


def test_no_steps_leave_the_neurons_of_nir_where_they_were() -> None:
    neuron = Euler(decay=torch.tensor(0.5, requires_grad=True), threshold=torch.tensor(1.0))
    for impl in implementations():
        if implementations()[impl].available and impl != "triton":
            y, state = euler_scan(torch.zeros(0, 2, 3), neuron, impl=impl)
            torch.autograd.backward(y.sum())
            assert y.shape == (0, 2, 3)
            assert not state.v.any()


class Sigmoid(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(x)


@layers
def test_parametrised_parameters_are_held_and_trained(kind: str) -> None:
    net, x = outputs_of(kind), currents(5, 3, FEATURES)
    names = [name for name, _ in net.layer.named_parameters()]
    for name in names:
        nn.utils.parametrize.register_parametrization(net.layer, name, Sigmoid())
    found = learned(net, net, x)
    assert all(grad.isfinite().all() for grad in found)
    for name in names:
        nn.utils.parametrize.remove_parametrizations(net.layer, name)
    torch.testing.assert_close(net(x), found[0])


@layers
def test_anomaly_mode_and_copies_after_a_step_change_nothing(kind: str) -> None:
    net, x = outputs_of(kind), currents(5, 3, FEATURES)
    expected = learned(net, net, x)
    with pytest.warns(UserWarning, match="Anomaly"), torch.autograd.detect_anomaly():
        torch.testing.assert_close(learned(net, net, x), expected)
    twin = copy.deepcopy(net)
    torch.testing.assert_close(learned(twin, twin, x), expected)


def test_transforms_go_through_a_single_step() -> None:
    x = currents(3, FEATURES)

    def total(x: Tensor) -> Tensor:
        y, state = snu_step(x)
        return (snu_step(x, state)[0] + y).sum()

    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(total(leaf), leaf)
    torch.testing.assert_close(torch.func.grad(total)(x), expected)
    torch.testing.assert_close(torch.vmap(torch.func.grad(total))(x), expected)


def test_the_slope_of_a_step_can_be_differentiated_inside_transforms_too() -> None:
    v: Any = torch.tensor(0.3, dtype=torch.float64)
    slope = torch.func.grad(lambda v: snu_step(v, config=SNUConfig(threshold=0.0))[0])
    torch.testing.assert_close(slope(v), 1 - torch.tanh(v) ** 2)
    torch.testing.assert_close(
        torch.func.grad(slope)(v), -2 * torch.tanh(v) * (1 - torch.tanh(v) ** 2)
    )
