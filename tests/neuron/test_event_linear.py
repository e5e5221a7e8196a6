"""What a product with events promises: that of ``nn.Linear``, up to the order of its sums."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snu_plugin.neuron import event_linear
from snu_plugin.neuron.event_linear import EventLinear

events_numba = pytest.importorskip("snu_plugin.neuron.numba_scan.event_linear")


def spikes(*shape: int, share: float = 0.05, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < share


def layer(inputs: int, outputs: int, *, bias: bool = False) -> EventLinear:
    made = EventLinear(inputs, outputs, bias=bias).double()
    for p in made.parameters():
        nn.init.normal_(p, generator=torch.Generator().manual_seed(1))
    return made


@pytest.mark.parametrize("n", [1, 15, 16, 17, 33, 100])
@pytest.mark.parametrize("kind", [torch.bool, torch.float64])
def test_outputs_and_gradients_are_those_of_the_dense_product(n: int, kind: torch.dtype) -> None:
    x = spikes(40, 3, n, share=0.2).to(kind)
    x = x if kind == torch.bool else x * torch.linspace(-1, 1, n, dtype=kind)
    weight = layer(n, 7).weight
    found, expected = events_numba.linear(x, weight, n), F.linear(x.double(), weight)
    if n < events_numba.BLOCK:
        assert found is None or torch.allclose(found, expected)
        return
    torch.testing.assert_close(found, expected)
    g = torch.randn(found.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    (got,), (wanted,) = (torch.autograd.grad(y, weight, g) for y in (found, expected))
    torch.testing.assert_close(got, wanted)


def test_the_gradient_of_the_input_is_that_of_finite_differences() -> None:
    x = (spikes(12, 40, share=0.1).double() * 0.7).requires_grad_()
    weight = layer(40, 3).weight
    assert torch.autograd.gradcheck(lambda w: events_numba.linear(x.detach(), w, 40), (weight,))
    y = events_numba.linear(x, weight, 40)
    g = torch.ones_like(y)
    torch.testing.assert_close(torch.autograd.grad(y, x, g)[0], g @ weight)


def test_batched_gradients_reach_the_input_and_are_refused_for_the_weights() -> None:
    x = spikes(12, 40, share=0.1).double().requires_grad_()
    weight = layer(40, 3).weight
    y, grads = events_numba.linear(x, weight, 40), torch.ones(2, 12, 3, dtype=torch.float64)
    with pytest.raises(RuntimeError, match=r"no batched gradients; nn\.Linear"):
        torch.autograd.grad(y, weight, grads, is_grads_batched=True)
    y = events_numba.linear(x, weight.detach(), 40)
    (found,) = torch.autograd.grad(y, x, grads, is_grads_batched=True)
    torch.testing.assert_close(found, grads @ weight)


def test_rows_without_room_are_given_up_and_never_wrong() -> None:
    x, weight = spikes(50, 64, share=0.5), layer(64, 3).weight
    assert events_numba.linear(x, weight, 20) is None
    assert events_numba.linear(x[:0], weight, 20).shape == (0, 3)


def test_several_threads_change_nothing() -> None:
    x, weight = spikes(3000, 64), layer(64, 40).weight
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            y = events_numba.linear(x, weight, 30)
            results.append((y, torch.autograd.grad(y, weight, torch.ones_like(y))[0]))
    finally:
        torch.set_num_threads(before)
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(("share", "taken"), [(0.02, True), (0.3, False)])
def test_events_are_taken_where_there_are_few(
    share: float, taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_linear, "LEAST", 1)
    made, x = layer(256, 5, bias=True), spikes(20, 4, 256, share=share)
    calls: list[Tensor | None] = []
    real = events_numba.linear

    def watched(*given: object) -> Tensor | None:
        calls.append(real(*given))
        return calls[-1]

    monkeypatch.setattr(events_numba, "linear", watched)
    y = made(x)
    assert [c is not None for c in calls] == [True] * taken
    torch.testing.assert_close(y, F.linear(x.double(), made.weight, made.bias))


def test_a_small_product_is_that_of_torch_bit_by_bit() -> None:
    made, x = layer(20, 5, bias=True), spikes(3, 2, 20).double()
    assert torch.equal(made(x), F.linear(x, made.weight, made.bias))
    assert torch.equal(made(x.bool()), made(x))
    with pytest.raises(RuntimeError):
        made(x[..., :7])
