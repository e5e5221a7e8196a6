"""Hosts' leaky neurons pooled while they are updated: what two calls give, without the outputs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from snu_plugin.neuron import LIF, LIFParts, laid_channels_last, lif_scan, max_pool2d

pytest.importorskip("snu_plugin.neuron.numba_scan.pooled")

HOSTS: dict[str, dict[str, Any]] = {
    "Leaky": {"reset": "subtract", "a": 0.9},
    "Leaky to zero": {"reset": "before", "a": 0.9},
    "Lapicque to zero": {"reset": "after", "a": 0.9},
    "Synaptic": {"reset": "subtract", "a": 0.9, "b": 0.6},
    "resets at once": {"reset": "subtract", "a": 0.9, "late": False},
    "LIFCell": {"reset": "value", "leak": "current", "a": 0.1, "b": -0.2, "reset_to": 0.1,
                "rest": 0.2},
    "LIFBoxCell": {"reset": "value", "leak": "box", "a": 0.1, "reset_to": 0.1, "rest": 0.2},
}  # fmt: skip


IN_DOUBLE = "Leaky to zero", "Synaptic", "LIFCell"
"""In double precision, the others are slow: each is a loop to be compiled, and differs in numbers
alone."""
PRECISIONS = [
    *((host, torch.float32) for host in HOSTS),
    *(
        pytest.param(h, torch.float64, marks=[] if h in IN_DOUBLE else pytest.mark.slow)
        for h in HOSTS
    ),
]


def by_two_calls(x: Tensor, neuron: LIF, v: Tensor, i: Tensor, size: tuple[int, int]) -> LIFParts:
    found = lif_scan(x, neuron, v, i, potential=False)
    pools = max_pool2d(found.y.flatten(0, 1), size)
    return found._replace(y=pools.view(*x.shape[:2], *pools.shape[1:]))


def at_once(x: Tensor, neuron: LIF, v: Tensor, i: Tensor, size: tuple[int, int]) -> LIFParts:
    return lif_scan(x, neuron, v, i, potential=False, pool=size)


@pytest.mark.parametrize(("host", "dtype"), PRECISIONS)
@pytest.mark.parametrize(
    ("shape", "size"),
    [((1, 1, 1, 1, 1), (1, 1)), ((37, 2, 5, 7, 9), (2, 3)), ((16, 2, 33, 12, 15), (2, 2))],
)
def test_pools_states_and_gradients_are_those_of_two_calls(
    shape: tuple[int, ...], size: tuple[int, int], host: str, dtype: torch.dtype
) -> None:
    random = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random, dtype=torch.float64).to(dtype)

    def results(run: Any) -> list[Tensor]:
        x = images.detach().requires_grad_()
        learnt = [] if "leak" in HOSTS[host] else ["a", "threshold"]
        constants = {
            name: torch.tensor(value, dtype=dtype, requires_grad=name in learnt)
            for name, value in {"threshold": 0.7, **HOSTS[host]}.items()
            if isinstance(value, float) and not isinstance(value, bool)
        }
        neuron = LIF(**{**HOSTS[host], **constants}, slope="atan", steep=2.0)
        states = [s.detach().requires_grad_() for s in begin]
        found = run(x, neuron, *states, size)
        outs = [part for part in found if part is not None]
        given = [torch.ones_like(t) + 0.1 * t.detach() for t in outs]
        asked = [x, *states, *(constants[name] for name in learnt)]
        grads = torch.autograd.grad(outs, asked, given, allow_unused=True)
        return [*outs, *(torch.zeros(()) if g is None else g for g in grads)]

    images = 1.5 * normal(*shape)
    images = laid_channels_last(images.flatten(0, 1)).view(shape)
    begin = [normal(*shape[1:]), normal(*shape[1:])]
    found, expected = results(at_once), results(by_two_calls)
    outs = 3 if "b" in HOSTS[host] else 2
    for n, (a, b) in enumerate(zip(found, expected, strict=True)):
        if n <= outs:  # pools, states and the gradient of inputs
            assert torch.equal(a, b)
        else:
            torch.testing.assert_close(a, b)


def test_images_in_the_order_of_their_axes_and_others_are_pooled_by_two_calls() -> None:
    random = torch.Generator().manual_seed(0)
    x = 2 * torch.randn(4, 2, 3, 6, 6, generator=random)
    last = laid_channels_last(x.flatten(0, 1)).view(x.shape)
    neuron = LIF(
        a=torch.tensor(0.9), threshold=torch.tensor(1.0), reset="subtract", slope="given",
        surrogate=lambda z: 1 / (1 + z.abs()),
    )  # fmt: skip
    expected = by_two_calls(x, neuron, x[0], x[0], (2, 2)).y
    for images in (x, last):
        assert torch.equal(at_once(images, neuron, x[0], x[0], (2, 2)).y, expected)


def test_threads_share_the_parts_of_images() -> None:
    random = torch.Generator().manual_seed(0)
    x = 2 * torch.randn(20, 4, 16, 18, 18, generator=random)
    x = laid_channels_last(x.flatten(0, 1)).view(x.shape)
    found = []
    for threads in (1, 2):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            leaf, a = x.detach().requires_grad_(), torch.tensor(0.9, requires_grad=True)
            neuron = LIF(a=a, threshold=torch.tensor(1.0), reset="subtract", slope="fast")
            y = lif_scan(leaf, neuron, potential=False, pool=(2, 2)).y
            found.append((y, *torch.autograd.grad(y.square().sum(), [leaf, a])))
        finally:
            torch.set_num_threads(before)
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    torch.testing.assert_close(found[0][2], found[1][2])
