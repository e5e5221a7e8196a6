"""Units that are pooled while they are updated: what two calls give, without the outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snu_plugin import SNU, SNUConfig, State, sSNU
from snu_plugin.neuron import laid_channels_last, max_pool2d, pool
from snu_plugin.neuron import layer as layers

pytest.importorskip("snu_plugin.neuron.numba_scan.pooled")

Run = Callable[[Any, Tensor, tuple[int, int], State | None], tuple[Tensor, State]]


def by_two_calls(
    layer: Any, x: Tensor, size: tuple[int, int], state: State | None
) -> tuple[Tensor, State]:
    y, last = layer(x, state)
    pools = max_pool2d(y.flatten(0, 1), size)
    return pools.view(*y.shape[:2], *pools.shape[1:]), last


def at_once(
    layer: Any, x: Tensor, size: tuple[int, int], state: State | None
) -> tuple[Tensor, State]:
    pools, last = layer.pooled(x, size, state)
    return pools, last


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Says of each call whether it was fused."""
    real, calls = pool.snu_pooled, []

    def watched(*args: Any) -> Any:
        found = real(*args)
        calls.append(found is not None)
        return found

    monkeypatch.setattr(layers, "snu_pooled", watched)
    return calls


def images(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Return drives ``(T, B, channels, rows, columns)`` whose channels lie side by side."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=random, dtype=torch.float64).to(dtype)
    return laid_channels_last(x.flatten(0, 1)).view(shape)


def results(
    run: Run, layer: nn.Module, x: Tensor, size: tuple[int, int], state: State | None
) -> tuple[list[Tensor], list[Tensor]]:
    """Return pools and states with the gradients of inputs and states, and those of constants."""
    x = x.detach().requires_grad_()
    begun = [] if state is None else [t.detach().requires_grad_() for t in state]
    y, last = run(layer, x, size, State(*begun) if begun else None)
    random = torch.Generator().manual_seed(1)
    grads = [torch.randn(t.shape, generator=random, dtype=t.dtype) for t in (y, *last)]
    constants = [p for p in layer.parameters() if p.requires_grad]
    asked = [x, *begun, *constants]
    found = torch.autograd.grad([y, *last], asked, grads, allow_unused=True)
    found = tuple(
        torch.zeros_like(t) if g is None else g for g, t in zip(found, asked, strict=True)
    )
    inner = 1 + len(begun)
    return [y, *last, *found[:inner]], [*found[inner:]]


CONFIGS = (
    SNUConfig(),
    SNUConfig(g="relu", learn_decay=True, learn_threshold=False),
    SNUConfig(g="leaky_relu", detach_reset=True, learn_decay=True),
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((1, 1, 1, 1, 1), (1, 1)),
        ((3, 2, 5, 7, 9), (2, 2)),
        ((17, 3, 16, 9, 4), (2, 2)),
        ((33, 1, 33, 6, 7), (3, 2)),
        ((4, 2, 65, 34, 34), (2, 2)),
        ((2, 2, 3, 5, 5), (5, 1)),
    ],
)
def test_pools_states_and_gradients_are_those_of_two_calls(
    shape: tuple[int, ...], size: tuple[int, int], config: SNUConfig, dtype: torch.dtype,
    fused: list[bool],
) -> None:  # fmt: skip
    layer = SNU(shape[2:], config).to(dtype)
    x = images(*shape, dtype=dtype)
    first = layer(x)[1]
    for state in (None, State(*(t.detach() for t in first))):
        same, alike = results(at_once, layer, x, size, state)
        expected, sums = results(by_two_calls, layer, x, size, state)
        for ours, theirs in zip(same, expected, strict=True):
            assert torch.equal(ours, theirs)
        for ours, theirs in zip(alike, sums, strict=True):  # added up in another order
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert min(shape[2:]) == 1 or fused == [True, True]


def test_pools_have_the_order_in_memory_of_the_images(fused: list[bool]) -> None:
    x = images(3, 2, 5, 6, 6)
    y, _ = SNU((5, 6, 6)).pooled(x, (2, 2))
    assert fused == [True]
    assert y.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    "layer",
    [
        sSNU((4, 6, 6)),
        SNU((4, 6, 6), SNUConfig(surrogate=torch.sigmoid)),
        SNU((4, 6, 6), SNUConfig(lateral_inhibition="sample")),
        SNU((4, 6, 6), impl="reference"),
    ],
)
def test_other_units_are_pooled_by_two_calls(layer: Any, fused: list[bool]) -> None:
    x = images(5, 2, 4, 6, 6)
    same, sums = results(at_once, layer, x, (2, 3), None)
    expected, others = results(by_two_calls, layer, x, (2, 3), None)
    assert fused == [False]
    assert all(map(torch.equal, (*same, *sums), (*expected, *others)))


def test_images_in_the_order_of_their_axes_are_pooled_by_two_calls(fused: list[bool]) -> None:
    layer = SNU((4, 6, 6))
    x = images(5, 2, 4, 6, 6).contiguous()
    found, _ = layer.pooled(x, (2, 2))
    assert fused == [False]
    assert torch.equal(found.flatten(0, 1), F.max_pool2d(layer(x)[0].flatten(0, 1), 2))


def test_who_waits_for_calls_of_a_layer_sees_one(fused: list[bool]) -> None:
    layer, seen = SNU((4, 6, 6)), []
    layer.register_forward_hook(lambda module, args, out: seen.append(out[0].shape))
    layer.pooled(images(5, 2, 4, 6, 6), (2, 2))
    assert seen == [(5, 2, 4, 6, 6)]
    assert fused == []


def test_gradients_reach_what_a_layer_started_from_and_its_last_outputs() -> None:
    layer, x = SNU((2, 4, 4)), images(3, 2, 2, 4, 4).requires_grad_()
    _, state = layer.pooled(x, (2, 2))
    (g,) = torch.autograd.grad(state.y.sum(), x)
    assert g[-1].abs().sum() > 0


def test_threads_share_the_parts_of_images(fused: list[bool]) -> None:
    layer, x = SNU((16, 34, 34)), images(5, 4, 16, 34, 34)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = results(at_once, layer, x, (2, 2), None)
        torch.set_num_threads(3)
        shared = results(at_once, layer, x, (2, 2), None)
    finally:
        torch.set_num_threads(before)
    assert fused == [True, True]
    assert all(map(torch.equal, alone[0], shared[0]))
    torch.testing.assert_close(alone[1], shared[1], rtol=1e-5, atol=1e-5)


def test_nothing_becomes_nothing() -> None:
    layer = SNU((2, 4, 4))
    assert layer.pooled(torch.zeros(0, 3, 2, 4, 4), (2, 2))[0].shape == (0, 3, 2, 2, 2)


def test_units_that_are_no_images_and_windows_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"features is \(3,\); pools are of"):
        SNU(3).pooled(torch.zeros(2, 1, 3), (1, 1))
    with pytest.raises(ValueError, match=r"x has shape \(2, 1, 3\); it must be"):
        SNU((1, 2, 2)).pooled(torch.zeros(2, 1, 3), (1, 1))
    with pytest.raises(RuntimeError, match="too small"):
        SNU((1, 2, 2)).pooled(torch.zeros(2, 1, 1, 2, 2), (3, 1))
