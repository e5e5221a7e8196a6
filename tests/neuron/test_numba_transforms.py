"""What torch can do with the fused scan besides running it forward and backward once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import Tensor

from snu_plugin import SNU, SNUConfig, State, snu_scan
from snu_plugin.neuron import src_scan, tanh_derivative

pytest.importorskip("numba")

SOFT = SNUConfig(soft=True)


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def outputs(x: Tensor, threshold: Tensor) -> Tensor:
    return snu_scan(x, SOFT, threshold=threshold, impl="numba")[0]


def bell(v: Tensor) -> Tensor:
    return torch.exp(-v.square())


@pytest.mark.parametrize("dims", [(0, 0), (1, None), (2, None), (None, 0)], ids=str)
def test_vmap_equals_a_loop(dims: tuple[int | None, int | None]) -> None:
    x, threshold = draw(4, 4, 4, 5), draw(4, 5)
    given = [t if d is not None else t[0] for t, d in zip((x, threshold), dims, strict=True)]
    expected = torch.stack(
        [
            outputs(*(t if d is None else t.select(d, i) for t, d in zip(given, dims, strict=True)))
            for i in range(4)
        ]
    )
    torch.testing.assert_close(torch.vmap(outputs, in_dims=dims)(*given), expected)


def test_gradients_of_each_sample_come_from_one_call() -> None:
    x, threshold = draw(4, 6, 3, 5), draw(5)

    def loss(x: Tensor, threshold: Tensor) -> Tensor:
        return outputs(x, threshold).square().sum()

    each = torch.vmap(torch.func.grad(loss, argnums=(0, 1)), in_dims=(0, None))(x, threshold)
    for i in range(4):
        leaves = x[i].clone().requires_grad_(), threshold.clone().requires_grad_()
        expected = torch.autograd.grad(loss(*leaves), leaves)
        torch.testing.assert_close((each[0][i], each[1][i]), expected)


def test_transforms_nest_in_any_order() -> None:
    x = draw(3, 4, 2, 5)

    def each(x: Tensor) -> Tensor:
        return torch.vmap(lambda one: outputs(one, torch.ones(5, dtype=one.dtype)))(x)

    def total(x: Tensor) -> Tensor:
        return each(x).square().sum()

    leaf = x.clone().requires_grad_()
    alone = torch.stack([outputs(one, torch.ones(5, dtype=one.dtype)) for one in leaf])
    (expected,) = torch.autograd.grad(alone.square().sum(), leaf, retain_graph=True)
    compiled = torch.compile(total, backend="aot_eager")
    for loss in (total, compiled):
        torch.testing.assert_close(torch.autograd.grad(loss(leaf), leaf)[0], expected)
    torch.testing.assert_close(torch.func.grad(total)(x), expected)
    jacobian = torch.func.jacrev(lambda one: each(one[None])[0].sum((0, 1)))(x[0])
    rows = [torch.autograd.grad(row, leaf, retain_graph=True)[0][0] for row in alone[0].sum((0, 1))]
    torch.testing.assert_close(jacobian, torch.stack(rows))


def test_transforms_take_recurrent_weights_through_the_reference() -> None:
    x, h = draw(4, 6, 2, 3), draw(3, 3)
    each = torch.vmap(lambda x: snu_scan(x, SOFT, recurrent=h)[0])(x)
    expected = torch.stack([snu_scan(one, SOFT, recurrent=h)[0] for one in x])
    torch.testing.assert_close(each, expected)
    with pytest.raises(ValueError, match=r"recurrent weights .* torch\.func"):
        torch.vmap(lambda x: snu_scan(x, SOFT, recurrent=h, impl="numba")[0])(x)


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("soft", [False, True])
def test_batched_gradients_equal_those_of_the_reference(soft: bool, recurrent: bool) -> None:
    x, threshold, grads = draw(5, 2, 3).requires_grad_(), draw(3).requires_grad_(), draw(4, 5, 2, 3)
    h = draw(3, 3) if recurrent else None
    found = []
    for impl in ("numba", "reference"):
        config = SNUConfig(soft=soft)
        y, _ = snu_scan(x, config, threshold=threshold, recurrent=h, impl=impl)
        leaves = x, threshold
        found.append(torch.autograd.grad(y, leaves, grads, is_grads_batched=True))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("steps", [8, 9, 16, 17, 33, 70])
def test_gradients_of_a_kept_pass_are_one_by_one_what_they_are_together(steps: int) -> None:
    x, grads = draw(steps, 2, 3).requires_grad_(), draw(4, steps, 2, 3)
    y, _ = snu_scan(x, impl="numba")
    (together,) = torch.autograd.grad(y, x, grads, is_grads_batched=True, retain_graph=True)
    alone = [torch.autograd.grad(y, x, g, retain_graph=True)[0] for g in grads]
    assert torch.equal(together, torch.stack(alone))


def test_batched_gradients_are_refused_where_no_operator_takes_them() -> None:
    x, grads = draw(5, 2, 3).requires_grad_(), draw(4, 5, 2, 3)
    for y in (
        snu_scan(x, SNUConfig(surrogate=bell), impl="numba")[0],
        snu_scan(x, SNUConfig(surrogate=bell), recurrent=draw(3, 3), impl="numba")[0],
        src_scan(x, bias=draw(3), impl="numba")[0],
    ):
        with pytest.raises(RuntimeError, match=r"no batched gradients; impl='reference'"):
            torch.autograd.grad(y, x, grads, is_grads_batched=True)


@pytest.mark.parametrize("recurrent", [False, True])
def test_a_second_derivative_is_refused_and_the_reference_has_it(recurrent: bool) -> None:
    x = draw(5, 2, 3).requires_grad_()
    h = draw(3, 3) if recurrent else None
    for impl in ("numba", "reference"):
        y, _ = snu_scan(x, SOFT, recurrent=h, impl=impl)
        (first,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        if impl == "reference":
            assert torch.autograd.grad(first.sum(), x)[0].any()
        else:
            with pytest.raises(RuntimeError, match="no second derivative; impl='reference'"):
                torch.autograd.grad(first.sum(), x)


@pytest.mark.parametrize("trained", [0, 1])
@pytest.mark.parametrize("inhibition", [None, "sample"])
def test_no_second_derivative_is_left_out_in_silence(
    inhibition: Literal["sample"] | None, trained: int
) -> None:
    leaves = [draw(5, 2, 3), draw(3)]
    leaf = leaves[trained].requires_grad_()
    config = replace(SOFT, lateral_inhibition=inhibition)
    y, _ = snu_scan(leaves[0], config, threshold=leaves[1], impl="numba")
    (first,) = torch.autograd.grad(y.sum(), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative; impl='reference'"):
        torch.autograd.grad(first.sum(), leaf)


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("g", ["identity", "relu", "leaky_relu"])
def test_any_surrogate_is_fused(g: str, recurrent: bool) -> None:
    config = SNUConfig(g=g, surrogate=bell)  # type: ignore[arg-type]
    given = [draw(13, 3, 7), 0.5 * draw(7).abs(), draw(7), draw(3, 7), (draw(3, 7) > 0).double()]
    h = 0.4 * draw(7, 7) if recurrent else None
    found = []
    for impl in ("numba", "reference"):
        leaves = [value.clone().requires_grad_() for value in given]
        x, decay, threshold, *state = leaves
        y, last = snu_scan(
            x, config, decay=decay, threshold=threshold, recurrent=h, state=State(*state), impl=impl
        )
        loss = (y * draw(13, 3, 7)).sum() + last.s.sum()
        found.append((y.detach(), *torch.autograd.grad(loss, leaves)))
    torch.testing.assert_close(found[0], found[1], rtol=1e-10, atol=1e-10)


def test_a_compiled_graph_takes_another_surrogate_through_the_reference() -> None:
    def loss(x: Tensor) -> Tensor:
        return snu_scan(x, SNUConfig(surrogate=bell))[0].sum()

    x = draw(4, 2, 3).requires_grad_()
    (expected,) = torch.autograd.grad(loss(x), x)
    (actual,) = torch.autograd.grad(torch.compile(loss, backend="aot_eager")(x), x)
    torch.testing.assert_close(actual, expected)


def test_a_trace_of_eager_torch_records_the_operator() -> None:
    from torch.fx.experimental.proxy_tensor import make_fx

    graph = make_fx(lambda x: snu_scan(x, impl="numba")[0])(draw(5, 2, 3))
    x = -draw(5, 2, 3)
    assert torch.equal(graph(x), snu_scan(x)[0])
    assert any("snu_plugin.scan" in str(node.target) for node in graph.graph.nodes)


def test_the_published_slope_errs_at_most_twice_as_much_as_from_tanh() -> None:
    z = torch.linspace(-30, 30, 200_001)
    x = z[None, None].clone().requires_grad_()
    y, _ = snu_scan(x, threshold=torch.zeros(1), impl="numba")
    (slope,) = torch.autograd.grad(y.sum(), x)
    exact = tanh_derivative(z.double())
    own = float((tanh_derivative(z) - exact).abs().max())
    assert float((slope.flatten() - exact).abs().max()) <= 2 * own


@pytest.mark.parametrize("steps", range(1, 18))
def test_steps_left_over_from_a_pass_are_run_too(steps: int) -> None:
    found = []
    for impl in ("numba", "reference"):
        x, s = draw(steps, 2, 21).requires_grad_(), draw(2, 21).requires_grad_()
        state = State(s, torch.zeros(2, 21, dtype=torch.float64))
        y, last = snu_scan(x, SOFT, state=state, impl=impl)
        loss = (y * draw(steps, 2, 21)).sum() + (last.s * last.y).sum()
        found.append((y.detach(), last.s.detach(), *torch.autograd.grad(loss, (x, s))))
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-12)


def test_threads_that_train_copies_of_a_layer_get_the_gradients_of_one() -> None:
    def gradients(x: Tensor) -> tuple[Tensor, ...]:
        layer = SNU(5, impl="numba")
        return torch.autograd.grad(layer(x)[0].sum(), list(layer.parameters()))

    x = torch.randn(40, 6, 5, generator=torch.Generator().manual_seed(0))
    halves = x[:, :3], x[:, 3:]
    expected = [gradients(half) for half in halves]
    with ThreadPoolExecutor(2) as pool:
        for actual, alone in zip(pool.map(gradients, halves), expected, strict=True):
            torch.testing.assert_close(actual, alone)
