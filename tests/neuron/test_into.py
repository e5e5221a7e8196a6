"""Units whose outputs a linear layer takes: the gradients of two calls, where slopes are not 0."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from snu_plugin import SNU, Linear, SNUConfig, State, sSNU
from snu_plugin.neuron import layer as layers
from snu_plugin.neuron import linear

fed = pytest.importorskip("snu_plugin.neuron.numba_scan.fed")
spike_product = fed.spike_product


def rectangle(half: float) -> Callable[[Tensor], Tensor]:
    return lambda v: (v.abs() < half).to(v.dtype)


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=random, dtype=torch.float64).to(dtype)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Small products count as large ones; says of each part of the way back if places were few."""
    for name in ("LEAST", "ROWS", "COLUMNS"):
        monkeypatch.setattr(linear, name, 1)
    monkeypatch.setattr(spike_product, "most", lambda *sizes: 1.0)
    real, calls = spike_product.pack, []

    def pack(x: Tensor, most: float, spikes: bool = True) -> Tensor | None:
        words: Tensor | None = real(x, most, spikes)
        if not spikes:
            calls.append(words is not None)
        return words

    monkeypatch.setattr(spike_product, "pack", pack)
    return calls


def results(
    unit: Any, layer: nn.Linear, x: Tensor, at_once: bool, state: State | None = None
) -> list[Tensor]:
    """Return outputs and states, and the gradients of all that they are made of."""
    x = x.detach().requires_grad_()
    begun = [] if state is None else [t.detach().requires_grad_() for t in state]
    start = State(*begun) if begun else None
    if at_once:
        z, last = unit.into(layer, x, start)
    else:
        y, last = unit(x, start)
        z = nn.functional.linear(y, layer.weight, layer.bias)
    made = [p for m in (unit, layer) for p in m.parameters() if p.requires_grad]
    grads = [drawn(*t.shape, seed=1 + n, dtype=t.dtype) for n, t in enumerate((z, *last))]
    return [z, *last, *torch.autograd.grad([z, *last], [x, *begun, *made], grads)]


@pytest.mark.parametrize("half", [0.0, 0.2, 100.0])
@pytest.mark.parametrize(
    ("shape", "outputs"),
    [((1, 1, 1), 1), ((70, 3, 63), 65), ((3, 2, 2, 64), 64), ((2, 5, 129), 200), ((2, 3, 7), 1000)],
)
def test_outputs_and_gradients_are_those_of_two_calls(
    shape: tuple[int, ...], outputs: int, half: float, asked: list[bool]
) -> None:
    config = SNUConfig(surrogate=rectangle(half), learn_decay=True, g="leaky_relu")
    unit, layer = SNU(shape[-1], config).double(), Linear(shape[-1], outputs).double()
    x = drawn(*shape)
    state = State(*(t.detach() for t in unit(drawn(*shape, seed=9))[1]))
    for begin in (None, state):
        found, expected = (results(unit, layer, x, way, begin) for way in (True, False))
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)
    assert asked == [half < 1] * (4 if shape[0] > 64 else 2)


def test_a_layer_without_bias_and_one_of_torch_are_fed_likewise(asked: list[bool]) -> None:
    unit = SNU(70, SNUConfig(surrogate=rectangle(0.1))).double()
    layer = nn.Linear(70, 66, bias=False).double()
    for ours, theirs in zip(
        *(results(unit, layer, drawn(5, 4, 70), way) for way in (True, False)), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)
    assert asked == [True]


def test_constants_that_are_not_trained_get_no_gradient(asked: list[bool]) -> None:
    unit, layer = SNU(70, SNUConfig(surrogate=rectangle(0.1))), Linear(70, 66)
    layer.weight.requires_grad_(False)
    x = drawn(5, 4, 70, dtype=torch.float32).requires_grad_()
    z, _ = unit.into(layer, x)
    z.sum().backward()  # type: ignore[no-untyped-call]
    assert layer.weight.grad is None
    assert layer.bias.grad is not None
    assert x.grad is not None
    assert asked == [True]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("share", [0.0, 0.03, 0.5, 1.0])
@pytest.mark.parametrize(
    ("rows", "inputs", "outputs"), [(1, 1, 1), (65, 63, 64), (1000, 65, 63), (257, 130, 300)]
)
def test_products_at_some_places_are_as_exact_as_dense_ones(
    rows: int, inputs: int, outputs: int, share: float, dtype: torch.dtype
) -> None:
    random = torch.Generator().manual_seed(2)
    places = (torch.rand(rows, inputs, generator=random) < share).to(dtype)
    g, weight = drawn(rows, outputs), drawn(outputs, inputs, seed=1)
    given = g.to(dtype), weight.to(dtype)
    long = [t.numpy().astype(np.longdouble) for t in (g, weight, places)]
    exact = long[0] @ long[1] * long[2]
    words = spike_product.pack(places, 1.0)
    found = spike_product.product_at(words, *given), (given[0] @ given[1]) * places
    error, usual = (float(abs(t.numpy() - exact).max()) for t in found)
    assert error <= 2 * usual + 4 * torch.finfo(dtype).eps * float(abs(exact).max())


@pytest.mark.parametrize("where", ["gradient", "weight"])
def test_what_is_not_finite_reaches_all_inputs_as_in_the_dense_product(
    where: str, asked: list[bool]
) -> None:
    unit, layer = SNU(70, SNUConfig(surrogate=rectangle(0.1))), Linear(70, 66)
    if where == "weight":
        with torch.no_grad():
            layer.weight[3, 5] = torch.inf
    x, found = drawn(5, 4, 70, dtype=torch.float32), []
    for at_once in (True, False):
        leaf = x.clone().requires_grad_()
        z = unit.into(layer, leaf)[0] if at_once else layer(unit(leaf)[0])
        g = torch.ones_like(z)
        if where == "gradient":
            g[2, 1, 7] = torch.nan
        found.append(torch.autograd.grad(z, leaf, g)[0])
    assert torch.equal(found[0].isnan(), found[1].isnan())
    assert found[0].isnan().any()
    assert asked == []


@pytest.mark.parametrize(
    "unit",
    [
        SNU(70),
        sSNU(70),
        SNU(70, SNUConfig(surrogate=rectangle(0.1)), recurrent=True),
        SNU(70, SNUConfig(surrogate=rectangle(0.1), lateral_inhibition="sample")),
        SNU(70, SNUConfig(surrogate=rectangle(0.1)), impl="reference"),
    ],
)
def test_other_units_are_two_calls(unit: Any, asked: list[bool]) -> None:
    layer, x = Linear(70, 66), drawn(5, 4, 70, dtype=torch.float32)
    y, last = unit(x)
    found, state = unit.into(layer, x)
    assert torch.equal(found, layer(y))
    assert all(map(torch.equal, state, last))
    assert asked == []


def test_other_layers_and_those_that_somebody_waits_for_are_called(
    monkeypatch: pytest.MonkeyPatch, asked: list[bool]
) -> None:
    monkeypatch.setattr(layers, "snu_linear", lambda *args: pytest.fail("fed at once"))
    unit, x, seen = SNU(70, SNUConfig(surrogate=rectangle(0.1))), drawn(5, 4, 70).float(), []
    watched = Linear(70, 66)
    watched.register_forward_hook(lambda module, args, out: seen.append(out.shape))
    unit.into(watched, x)
    assert seen == [(5, 4, 66)]

    class Doubled(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    layer = Doubled(70, 66)
    assert torch.equal(unit.into(layer, x)[0], layer(unit(x)[0]))


def test_where_slopes_are_many_the_product_is_dense(
    monkeypatch: pytest.MonkeyPatch, asked: list[bool]
) -> None:
    monkeypatch.setattr(spike_product, "most", lambda *sizes: 0.25)
    unit, layer = SNU(70, SNUConfig(surrogate=rectangle(0.5))).double(), Linear(70, 66).double()
    found, expected = (results(unit, layer, drawn(5, 4, 70), way) for way in (True, False))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)
    assert asked == [False]


def test_threads_change_no_bit(asked: list[bool]) -> None:
    unit, layer = SNU(200, SNUConfig(surrogate=rectangle(0.2))), Linear(200, 130)
    x, before = drawn(40, 30, 200, dtype=torch.float32), torch.get_num_threads()
    try:
        found = []
        for many in (1, 3):
            torch.set_num_threads(many)
            found.append(results(unit, layer, x, at_once=True))
    finally:
        torch.set_num_threads(before)
    z, s, y, gx, *_ = zip(*found, strict=True)
    assert all(torch.equal(*pair) for pair in (z, s, y, gx))
    assert asked == [True, True]
