"""Loops that fire before they update, as tutorials of surrogate gradients have it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from snu_plugin.graph import network, to_nir

States = tuple[Tensor, Tensor]


class Fire(torch.autograd.Function):
    """A step with a gradient of its own."""

    @staticmethod
    def forward(ctx: Any, v: Tensor) -> Tensor:
        spikes = torch.zeros_like(v)
        spikes[v > 0] = 1.0
        return spikes

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class Layer(nn.Module):
    """Spikes of what the step before left, and then the update, for sequences ``(B, T, n)``."""

    def __init__(self, update: Callable[..., States], recurrent: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.w, self.v = (nn.Parameter(0.7 * torch.randn(n, 9)) for n in (5, 9))
        self.update, self.recurrent = update, recurrent

    def forward(self, x: Tensor) -> Tensor:
        h = torch.einsum("abc,cd->abd", (x, self.w))
        mem = syn = spikes = torch.zeros(len(x), 9)
        record = []
        for t in range(x.shape[1]):
            drive = h[:, t]
            if self.recurrent:
                drive = drive + torch.einsum("ab,bc->ac", (spikes, self.v))
            spikes = Fire.apply(mem - 0.5)
            mem, syn = self.update(drive, mem, syn, spikes.detach())
            record.append(spikes)
        return torch.stack(record, dim=1)


def held(x: Tensor, mem: Tensor, syn: Tensor, y: Tensor) -> States:
    return (0.875 * mem + syn) * (1.0 - y), 0.75 * syn + x


def held_without_a_current(x: Tensor, mem: Tensor, syn: Tensor, y: Tensor) -> States:
    return (1 - y) * (0.875 * mem + x), syn


def held_and_perfect(x: Tensor, mem: Tensor, syn: Tensor, y: Tensor) -> States:
    return (mem + x) * (1 - y), syn


def held_by_a_mask(x: Tensor, mem: Tensor, syn: Tensor, y: Tensor) -> States:
    return (0.875 * mem + syn).masked_fill(y.bool(), 0.0), 0.75 * syn + x


def subtracted(x: Tensor, mem: Tensor, syn: Tensor, y: Tensor) -> States:
    return 0.875 * mem + syn - 0.5 * y, 0.75 * syn + x


def subtracted_by_a_mask(x: Tensor, mem: Tensor, syn: Tensor, y: Tensor) -> States:
    fired, reset = mem - 0.5 > 0, torch.zeros_like(mem)
    reset[fired] = torch.ones_like(mem)[fired]
    return 0.875 * mem + syn - reset, 0.75 * syn + x


def data() -> Tensor:
    return (torch.rand((3, 15, 5), generator=torch.Generator().manual_seed(1)) < 0.4).float()


@pytest.mark.parametrize("recurrent", [False, True], ids=["plain", "recurrent"])
@pytest.mark.parametrize(
    "update",
    [held, held_without_a_current, held_and_perfect, subtracted, subtracted_by_a_mask],
)
def test_they_leave(update: Callable[..., States], recurrent: bool) -> None:
    model, x = Layer(update, recurrent), data()
    graph = to_nir(model, x)
    with torch.no_grad():
        y = model(x)
    assert 0.05 < y.mean() < 0.95
    assert torch.equal(network(graph)(x.transpose(0, 1))[0].transpose(0, 1), y)


def test_the_integrators_behind_them_leave_too() -> None:
    class Whole(Layer):
        def forward(self, x: Tensor) -> Tensor:
            h = torch.einsum("abc,cd->abd", (super().forward(x), self.v))
            flt = out = torch.zeros(len(x), 9)
            record = []
            for t in range(x.shape[1]):
                flt, out = 0.75 * flt + h[:, t], 0.875 * out + flt
                record.append(out)
            return torch.stack(record, dim=1)

    model, x = Whole(held), data()
    graph = to_nir(model, x)
    with torch.no_grad():
        y = model(x)
    torch.testing.assert_close(network(graph)(x.transpose(0, 1))[0].transpose(0, 1), y)


def test_a_potential_that_is_held_by_other_spikes_is_refused() -> None:
    def other(x: Tensor, mem: Tensor, syn: Tensor, y: Tensor) -> States:
        return (0.875 * mem + syn) * (1 - (syn > 0.5).float()), 0.75 * syn + x

    with pytest.raises(ValueError, match=r"mul"):
        to_nir(Layer(other), data())


def test_a_potential_that_another_holds_is_refused() -> None:
    class Two(Layer):
        def forward(self, x: Tensor) -> Tensor:
            a = b = torch.zeros(len(x), 9)
            record = []
            for t in range(x.shape[1]):
                first, second = Fire.apply(a - 0.5), Fire.apply(b - 0.5)
                a = (0.875 * a + x[:, t] @ self.w) * (1 - second)
                b = (0.875 * b + 0.5 * x[:, t] @ self.w) * (1 - first)
                record.append(first)
            return torch.stack(record, dim=1)

    with pytest.raises(
        ValueError, match=r"is multiplied by what 'mul\w*' fired in the step before"
    ):
        to_nir(Two(held), data(), check=False)


def test_a_potential_that_is_held_in_some_steps_only_is_refused() -> None:
    class Some(Layer):
        def forward(self, x: Tensor) -> Tensor:
            mem, record = torch.zeros(len(x), 9), []
            for t in range(x.shape[1]):
                spikes = Fire.apply(mem - 0.5)
                gate = 1 - spikes if t % 3 else torch.ones_like(spikes)
                mem = (0.875 * mem + x[:, t] @ self.w) * gate
                record.append(spikes)
            return torch.stack(record, dim=1)

    with pytest.raises(ValueError, match=r"'mul' multiplies by other spikes in step 4|in step 3"):
        to_nir(Some(held), data())


def test_a_potential_that_is_held_and_read_is_refused() -> None:
    class Read(Layer):
        def forward(self, x: Tensor) -> Tensor:
            mem, record = torch.zeros(len(x), 9), []
            for t in range(x.shape[1]):
                mem = (0.875 * mem + x[:, t] @ self.w) * (1 - Fire.apply(mem - 0.5))
                record.append(mem)
            return torch.stack(record, dim=1)

    with pytest.raises(ValueError, match=r"mul: it changes a value .* not yet supported"):
        to_nir(Read(held), data())
