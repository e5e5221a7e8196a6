"""Long sequences of hosts' neurons: what is computed again gives what was kept before."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from snu_plugin.neuron import LIF, Euler, Recurrence, euler_scan, lif_scan, segments
from snu_plugin.neuron.numba_scan.lif import BLOCK

T, B, N = 211, 3, 7

FEED_FORWARD: list[tuple[bool, dict[str, Any]]] = [
    (False, {"reset": "subtract", "slope": "atan", "steep": 2.0}),
    (True, {"reset": "subtract", "late": False, "slope": "atan", "steep": 2.0}),
    (False, {"reset": "before", "slope": "given"}),
    (True, {"reset": "after", "slope": "fast"}),
    (False, {"reset": "after", "late": False, "slope": "fast"}),
    (False, {"reset": "value", "leak": "current", "slope": "fast"}),
    (False, {"reset": "value", "leak": "box", "slope": "fast"}),
]

RECURRENT: list[tuple[bool, dict[str, Any]]] = [
    *FEED_FORWARD[:2],
    (False, {"reset": "value", "leak": "current", "slope": "fast", "detached": True}),
]


def name_of(case: Any) -> str:
    return "-".join(map(str, case[1].values())) + ("-synaptic" if case[0] else "")


def gradients(
    settings: dict[str, Any],
    synaptic: bool,
    asked: bool,
    way_back: bool,
    shape: tuple[int, int, int] = (T, B, N),
) -> list[Tensor]:
    T, B, N = shape
    random = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random, dtype=torch.float64)

    trained = settings.get("leak") is None
    x, v, i, h = 0.6 * normal(T, B, N) + 0.3, normal(B, N), normal(B, N), normal(N, N) / 5
    a, b, threshold = 0.8 + 0.05 * normal(N), 0.5 + 0.05 * normal(N), 1 + 0.1 * normal(N)
    leaves = [t.requires_grad_() for t in (x, v, i, h)]
    if trained:
        leaves += [t.requires_grad_() for t in (a, b, threshold)]
    rest: dict[str, Any] = {} if trained else {"rest": 0.1 * normal(N), "reset_to": 0.1 * normal(N)}
    current = settings.get("leak") == "current"
    neuron = LIF(
        a=a / 4 if current else a, b=-b / 4 if current else b if synaptic else None,
        threshold=threshold, surrogate=lambda z: 1 / (1 + z.abs()) ** 2, **rest, **settings,
    )  # fmt: skip
    sent, bias = torch.rand((B, N), generator=random).double().round(), 0.1 * normal(N)
    if way_back:
        leaves += [t.requires_grad_() for t in (sent, bias)]
    recurrence = Recurrence(h, bias, sent) if way_back else None
    out = lif_scan(x, neuron, v, i, recurrence=recurrence, potential=asked, current=asked)
    loss = (out.y * normal(T, B, N)).sum()
    for part in out[1:]:
        if part is not None:
            loss = loss + (part[-1] * normal(B, N)).sum()
    found = torch.autograd.grad(loss, leaves, allow_unused=True)
    return [out.y.detach(), *(p[-1].detach() for p in out[1:] if p is not None), *found]


@pytest.mark.parametrize("case", FEED_FORWARD, ids=name_of)
def test_what_is_computed_again_gives_the_same_gradients(
    case: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    synaptic, settings = case
    expected = gradients(settings, synaptic, True, False)
    monkeypatch.setattr(segments, "LONG", 1)
    monkeypatch.setattr(segments, "STEPS", 16)
    for asked in (False, True):
        actual = gradients(settings, synaptic, asked, False)
        for ours, theirs in zip(actual, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("case", FEED_FORWARD, ids=name_of)
def test_a_wide_layer_run_again_block_by_block_has_the_bits_of_what_was_kept(
    case: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    synaptic, settings = case
    shape = 67, 2, BLOCK // 2 + 75  # the second block is not full, the last segment neither
    expected = gradients(settings, synaptic, True, False, shape)
    monkeypatch.setattr(segments, "LONG", 1)
    monkeypatch.setattr(segments, "STEPS", 16)
    actual = gradients(settings, synaptic, False, False, shape)
    sums = 3 if settings.get("leak") is None else 0  # of decays and threshold, over all steps
    for ours, theirs in zip(actual[: len(actual) - sums], expected, strict=False):
        assert ours is theirs is None or torch.equal(ours, theirs)
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_a_neuron_that_is_given_no_step_ends_as_it_began_and_hands_gradients_through() -> None:
    a = torch.full((N,), 0.9, requires_grad=True)
    neuron = LIF(a=a, threshold=torch.ones(N), reset="subtract", slope="atan", steep=2.0)
    v = torch.rand((B, N), generator=torch.Generator().manual_seed(0)).requires_grad_()
    x = torch.zeros((0, B, N), requires_grad=True)
    last = lif_scan(x, neuron, v, potential=False).v
    assert last is not None
    assert torch.equal(last[0], v)
    gv, ga = torch.autograd.grad(last.sum(), [v, a])
    assert torch.equal(gv, torch.ones_like(v))
    assert torch.equal(ga, torch.zeros_like(a))


@pytest.mark.parametrize("shape", [(N, N), (N,)], ids=["all to all", "each to itself"])
def test_a_recurrent_neuron_that_is_given_no_step_does_so_too(shape: tuple[int, ...]) -> None:
    made = torch.Generator().manual_seed(0)
    a, threshold, weight, before, v = (
        torch.rand(size, generator=made).requires_grad_()
        for size in ((N,), (N,), shape, (B, N), (B, N))
    )
    neuron = LIF(a=a, threshold=threshold, reset="subtract", slope="atan", steep=2.0)
    x = torch.zeros((0, B, N), requires_grad=True)
    recurrence = Recurrence(weight, None, before)
    last = lif_scan(x, neuron, v, recurrence=recurrence, potential=False).v
    assert last is not None
    assert torch.equal(last[0], v)
    gv, *others = torch.autograd.grad(last.sum(), [v, a, threshold, weight, before])
    assert torch.equal(gv, torch.ones_like(v))
    assert not any(g.any() for g in others)


@pytest.mark.parametrize("case", RECURRENT, ids=name_of)
@pytest.mark.parametrize("steps", [0, 16, 100])
def test_a_recurrent_layer_gives_its_last_state_and_takes_its_gradient_in_segments_too(
    case: Any, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    synaptic, settings = case
    expected = gradients(settings, synaptic, True, True)
    if steps:
        monkeypatch.setattr(segments, "LONG", 1)
        monkeypatch.setattr(segments, "STEPS", steps)
    for asked in (False, True):
        actual = gradients(settings, synaptic, asked, True)
        assert torch.equal(actual[0], expected[0])
        for ours, theirs in zip(actual, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("synaptic", [False, True])
def test_neurons_of_nir_in_segments_are_those_in_one_piece(
    synaptic: bool, begun: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found() -> list[Tensor]:
        random = torch.Generator().manual_seed(0)
        x = torch.rand((T, B, N), generator=random, dtype=torch.float64).requires_grad_()
        decay, gain, syn = (
            torch.rand(N, generator=random, dtype=torch.float64).requires_grad_() for _ in range(3)
        )
        one = torch.ones((), dtype=torch.float64)
        neuron = Euler(
            decay=decay, gain=gain, offset=0.1 * one, threshold=one, reset=0.2 * one,
            start=0.3 * one, synapse_decay=syn if synaptic else None,
        )  # fmt: skip
        state = euler_scan(x[:3].detach(), neuron, impl="reference")[1] if begun else None
        y, last = euler_scan(x, neuron, state, impl="numba")
        parts = [part for part in last if part is not None]
        loss = (y * torch.arange(N)).sum() + sum(part.square().sum() for part in parts)
        leaves = [x, decay, gain, *([syn] if synaptic else [])]
        return [y.detach(), *(p.detach() for p in parts), *torch.autograd.grad(loss, leaves)]

    expected = found()
    monkeypatch.setattr(segments, "LONG", 1)
    monkeypatch.setattr(segments, "STEPS", 16)
    actual = found()
    assert torch.equal(actual[0], expected[0])
    assert actual[0].any()
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_segments_refuse_second_derivatives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "LONG", 1)
    x = torch.rand(100, 2, 3, requires_grad=True)
    neuron = Euler(decay=torch.tensor(0.9), gain=torch.tensor(0.5), threshold=torch.tensor(1.0))
    y, _ = euler_scan(x, neuron, impl="numba")
    (gx,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        gx.sum().backward()  # type: ignore[no-untyped-call]


def test_a_trained_value_of_a_reset_is_refused_as_it_would_get_no_gradient() -> None:
    value = torch.zeros(N, requires_grad=True)
    neuron = LIF(a=torch.full((N,), 0.9), threshold=torch.ones(N), reset="value", reset_to=value)
    with pytest.raises(ValueError, match="a constant of the neuron is trained"):
        lif_scan(torch.ones(T, B, N), neuron)
