"""Inputs of half precision: outputs have it too, everything in between is float32."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from snu_plugin import SNU, SNUConfig, State, implementations, snu_scan, snu_step, sSNU
from snu_plugin.neuron import (
    Euler,
    EulerState,
    SRCState,
    euler_scan,
    euler_step,
    hold_decay,
    src_scan,
    src_step,
)

pytest.importorskip("numba")

HALF = pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
IMPL = pytest.mark.parametrize("impl", [None, "numba", "reference"])
CONFIGS = {
    "SNU": SNUConfig(decay=0.9),
    "sSNU": SNUConfig(decay=0.9, soft=True),
    "leaky": SNUConfig(decay=0.9, g="leaky_relu"),
    "other surrogate": SNUConfig(decay=0.9, surrogate=lambda v: torch.exp(-v.abs())),
    "inhibited": SNUConfig(decay=0.9, lateral_inhibition="sample"),
}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def gradients(y: Tensor, state: State, *of: Tensor) -> tuple[Tensor, ...]:
    loss = (y.float() * draw(*y.shape, seed=9)).sum() + state.s.sum()
    return torch.autograd.grad(loss, of)


@HALF
@IMPL
@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("unit", CONFIGS)
def test_a_scan_is_that_of_the_same_numbers_in_float32(
    unit: str, recurrent: bool, impl: str | None, half: torch.dtype
) -> None:
    config = CONFIGS[unit]
    if config.lateral_inhibition and recurrent and impl == "numba":
        pytest.skip("not fused in any precision")
    x = draw(9, 2, 5).to(half)
    learned: dict[str, Any] = {"decay": torch.tensor(0.9), "threshold": torch.full((5,), 0.7)}
    if recurrent:
        learned["recurrent"] = draw(5, 5, seed=1)
    narrow, wide = x.clone().requires_grad_(), x.float().requires_grad_()
    mine: dict[str, Any] = {name: value.clone().requires_grad_() for name, value in learned.items()}
    theirs: dict[str, Any] = {
        name: value.clone().requires_grad_() for name, value in learned.items()
    }
    y, state = snu_scan(narrow, config, **mine, impl=impl)
    expected, last = snu_scan(wide, config, **theirs, impl=impl)
    assert (y.dtype, state.s.dtype, state.y.dtype) == (half, torch.float32, torch.float32)
    assert torch.equal(y, expected.to(half))
    assert all(map(torch.equal, state, last))
    found = gradients(y, state, narrow, *mine.values())
    exact = gradients(expected, last, wide, *theirs.values())
    assert [g.dtype for g in found] == [half, *[torch.float32] * len(mine)]
    # What comes back to the outputs is rounded on its way, as they are on theirs.
    place = 8 * torch.finfo(half).eps
    torch.testing.assert_close([g.float() for g in found], list(exact), rtol=place, atol=place)


@HALF
@IMPL
def test_small_currents_gather_over_many_steps(impl: str | None, half: torch.dtype) -> None:
    x = torch.full((3000, 1, 1), 0.002, dtype=half)
    for config in (SNUConfig(decay=0.999), SNUConfig(decay=0.999, g="relu")):
        y, state = snu_scan(x, config, impl=impl)
        assert y.sum() == 4
    for _ in range(2):  # in pieces, each from the state of the one before
        first, state = snu_scan(x[:1500], config, impl=impl)
        second, _ = snu_scan(x[1500:], config, state=state, impl=impl)
        assert torch.equal(torch.cat((first, second)), y)


@HALF
def test_steps_are_the_scan(half: torch.dtype) -> None:
    x, h = draw(9, 2, 5).to(half), draw(5, 5, seed=1)
    expected, last = snu_scan(x, recurrent=h, impl="reference")
    state, outputs = None, []
    for x_t in x:
        y, state = snu_step(x_t, state, recurrent=h)
        outputs.append(y)
    assert state is not None
    assert torch.equal(torch.stack(outputs), expected)
    assert torch.equal(state.s, last.s)
    assert state.s.dtype == torch.float32


@HALF
@IMPL
def test_parameters_and_states_of_half_precision_count_with_the_value_they_have(
    impl: str | None, half: torch.dtype
) -> None:
    x = draw(9, 2, 5)
    values = {"decay": torch.tensor(0.9), "threshold": draw(5).abs(), "recurrent": draw(5, 5)}
    narrow: dict[str, Any] = {name: value.to(half) for name, value in values.items()}
    start = State(draw(2, 5).to(half), (draw(2, 5) > 0).to(half))
    for given in (x, x.to(half)):
        y, state = snu_scan(given, **narrow, state=start, impl=impl)
        expected, last = snu_scan(
            given.float(),
            **{name: value.float() for name, value in narrow.items()},
            state=State(start.s.float(), start.y.float()),
            impl=impl,
        )
        assert y.dtype == given.dtype
        assert torch.equal(y.float(), expected)
        assert torch.equal(state.s, last.s)


@HALF
@pytest.mark.parametrize("kind", [SNU, sSNU])
def test_a_whole_layer_of_half_precision_keeps_its_states_in_float32(
    kind: Any, half: torch.dtype
) -> None:
    layer = kind(5, SNUConfig(learn_decay=True), recurrent=True).to(half)
    x = draw(9, 2, 5).to(half).requires_grad_()
    y, state = layer(x)
    assert (y.dtype, state.s.dtype) == (half, torch.float32)
    y.sum().backward()
    for tensor in (x, *layer.parameters()):
        assert tensor.grad is not None
        assert tensor.grad.dtype == half
        assert tensor.grad.isfinite().all()


@HALF
def test_a_trained_decay_of_half_precision_stays_below_one(half: torch.dtype) -> None:
    decay = torch.tensor([0.5, 1.0, 1.5], dtype=half, requires_grad=True)
    held = hold_decay(decay)
    assert (held < 1).all()
    assert held[0] == 0.5


@pytest.mark.parametrize("kind", [SNU, sSNU])
@IMPL
def test_autocast_rounds_nothing_inside_a_layer(kind: Any, impl: str | None) -> None:
    torch.manual_seed(0)
    layer, x = kind(5, recurrent=True, impl=impl), draw(9, 2, 5)
    expected, last = layer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, state = layer(x)
        step = snu_step(x[0], last, layer.config, recurrent=layer.recurrent)[0]
    assert y.dtype == torch.float32
    assert torch.equal(y, expected)
    assert torch.equal(state.s, last.s)
    assert torch.equal(step, snu_step(x[0], last, layer.config, recurrent=layer.recurrent)[0])


def test_behind_a_product_under_autocast_gradients_reach_all_weights() -> None:
    torch.manual_seed(0)
    product, layer = torch.nn.Linear(4, 5), SNU(5, recurrent=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, state = layer(product(draw(9, 2, 4)))
    assert (y.dtype, state.s.dtype) == (torch.bfloat16, torch.float32)
    y.float().sum().backward()
    for tensor in (*product.parameters(), *layer.parameters()):
        assert tensor.grad is not None
        assert tensor.grad.dtype == torch.float32
        assert tensor.grad.any()


def test_a_compiled_layer_does_the_same() -> None:
    layer, x = SNU(5, SNUConfig(learn_threshold=False)), draw(9, 2, 5).bfloat16()
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    y, state = compiled(x)
    expected, last = layer(x)
    assert torch.equal(y, expected)
    assert torch.equal(state.s, last.s)


def test_implementations_say_that_they_run_it_and_triton_that_it_does_not_here() -> None:
    x = draw(3, 2, 5).bfloat16()
    assert implementations(x)["numba"].available
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="impl='triton' cannot run this call"):
            snu_scan(x, impl="triton")


def neuron(**terms: float) -> Euler:
    return Euler(**{name: torch.tensor(value) for name, value in terms.items()})  # type: ignore[arg-type]


NEURONS = {
    "LIF": neuron(decay=0.999, threshold=1.0, gain=0.1, reset=0.05),
    "CubaLIF": neuron(decay=0.99, threshold=0.5, synapse_decay=0.98, synapse_gain=0.3),
    "LI": neuron(decay=0.999, offset=0.001),
}


@HALF
@IMPL
@pytest.mark.parametrize("kind", NEURONS)
def test_neurons_of_graphs_do_the_same(kind: str, impl: str | None, half: torch.dtype) -> None:
    x, of = (0.05 * draw(200, 2, 5).abs()).to(half), NEURONS[kind]
    y, state = euler_scan(x, of, impl=impl)
    expected, last = euler_scan(x.float(), of, impl=impl)
    assert (y.dtype, state.v.dtype) == (half, torch.float32)
    assert torch.equal(y, expected.to(half))
    assert torch.equal(state.v, last.v)
    zero = torch.zeros(2, 5)
    start = EulerState(zero, None if of.synapse_decay is None else zero)
    one, after = euler_step(x[0], start, of)
    assert (one.dtype, after.v.dtype) == (half, torch.float32)
    assert torch.equal(one, y[0])


@HALF
@IMPL
def test_spiking_recurrent_cells_do_the_same(impl: str | None, half: torch.dtype) -> None:
    x = (8 * draw(20, 2, 5)).to(half).requires_grad_()
    y, state = src_scan(x, impl=impl)
    expected, last = src_scan(x.detach().float(), impl=impl)
    assert (y.dtype, state.h.dtype) == (half, torch.float32)
    assert torch.equal(y, expected.to(half))
    assert all(map(torch.equal, state, last))
    (grad,) = torch.autograd.grad(y.float().sum(), x)
    assert grad.dtype == half
    one, after = src_step(x[0], SRCState(*(part.to(half) for part in state)))
    assert (one.dtype, after.h_s.dtype) == (half, torch.float32)


@pytest.mark.parametrize("impl", [None, "reference"])
def test_a_plain_tuple_of_half_precision_is_a_state_too(impl: str | None) -> None:
    torch.manual_seed(0)
    x, state = torch.randn(3, 2, 4).bfloat16(), tuple(torch.rand(3, 2, 4).bfloat16())
    y, last = src_scan(x, state=state, impl=impl)  # type: ignore[arg-type]  # as some call it
    expected, after = src_scan(x, state=SRCState(*state), impl=impl)
    assert torch.equal(y, expected)
    assert all(map(torch.equal, last, after))
