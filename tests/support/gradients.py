"""What a module learns, by autograd and by the transforms of ``torch.func``."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def currents(*shape: int) -> Tensor:
    return 1.5 * torch.rand(shape, generator=torch.Generator().manual_seed(1))


def learned(net: Callable[[Tensor], Tensor], of: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    """Return outputs, and the gradients of a loss by the input and by all parameters."""
    x = x.clone().requires_grad_()
    y = net(x)
    weights = torch.linspace(0.5, 1.5, y.numel()).reshape(y.shape)
    return y.detach(), *torch.autograd.grad((y * weights).sum(), [x, *of.parameters()])


def transforms_agree(net: nn.Module, x: Tensor) -> None:
    """Hold gradients by ``torch.func`` against those of autograd."""
    y, *expected = learned(net, net, x)
    weights = torch.linspace(0.5, 1.5, y.numel()).reshape(y.shape)

    def loss(x: Tensor, parameters: dict[str, Tensor]) -> Tensor:
        found: Tensor = torch.func.functional_call(net, parameters, (x,))
        return (found * weights).sum()

    parameters = {name: value.detach() for name, value in net.named_parameters()}
    gx, others = torch.func.grad(loss, (0, 1))(x, parameters)
    torch.testing.assert_close([gx, *others.values()], expected)
    rows = torch.func.jacrev(lambda x: net(x).sum((1, 2)))(x)
    torch.testing.assert_close(rows.sum(0), torch.func.grad(lambda x: net(x).sum())(x))


def per_sample_gradients_agree(layer: nn.Module, x: Tensor) -> None:
    """Hold gradients of ``layer.weight`` for each sample against those of autograd."""
    weights: dict[str, Tensor] = dict(layer.named_parameters())

    def loss(weights: dict[str, Tensor], x: Tensor) -> Tensor:
        y: Tensor = torch.func.functional_call(layer, weights, (x,))
        return y.square().sum()

    each = torch.vmap(torch.func.grad(loss), in_dims=(None, 0))(weights, x)
    for n, sample in enumerate(x):
        wanted = torch.autograd.grad(loss(weights, sample), weights["weight"])[0]
        torch.testing.assert_close(each["weight"][n], wanted)
