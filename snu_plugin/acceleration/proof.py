"""What a network gives beside what its callable gives: outputs and gradients must be the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from snu_plugin.acceleration.nodes import mapped, tensors_in
from snu_plugin.acceleration.program import Program
from snu_plugin.neuron import held_parameters


@dataclass
class Outcome:
    """What a run gave."""

    outputs: list[Tensor]
    gradients: dict[str, Tensor | None]
    held: dict[str, Tensor]
    """Where parameters lie at a limit that a layer holds them inside of."""


def outcome(run: Any, net: nn.Module, program: Program, args: Any, kwargs: Any) -> Outcome:
    """Return a network's outputs and gradients, its outputs weighted always in the same way.

    Behind the outputs of ``run`` stand the tensors that it left in the network.
    """

    def leaf(value: Any) -> Any:
        if isinstance(value, Tensor) and value.is_floating_point():
            return value.detach().clone().requires_grad_()
        return value

    args, kwargs = mapped((args, kwargs), leaf)
    net.zero_grad(set_to_none=True)
    with torch.enable_grad():
        outputs = list(tensors_in(run(*args, **kwargs)))
        names = {id(p): name for name, p in net.named_parameters()}
        held = {names[id(p)]: at for p, at in held_parameters(outputs) if id(p) in names}
        generator = torch.Generator().manual_seed(0)
        loss: Any = 0.0
        for out in outputs:
            if out.requires_grad:
                weight = torch.rand(out.shape, generator=generator).to(out) + 0.5
                loss = loss + (out * weight).mean()
        if isinstance(loss, Tensor):
            loss.backward()  # type: ignore[no-untyped-call]
    named = {name: p.grad for name, p in net.named_parameters()}
    named |= {f"input {n}": x.grad for n, x in enumerate(tensors_in((args, kwargs)))}
    return Outcome([*(out.detach() for out in outputs), *program.left(net)], named, held)


def compare(found: Outcome, expected: Outcome) -> None:
    for n, (a, b) in enumerate(zip(found.outputs, expected.outputs, strict=True)):
        if a.shape != b.shape or a.dtype != b.dtype:
            raise ValueError(
                f"output {n} has shape {tuple(a.shape)} and {a.dtype}, the network's own "
                f"{tuple(b.shape)} and {b.dtype}; use the network itself, and please report it"
            )
        if not torch.allclose(a, b, rtol=1e-5, atol=1e-6, equal_nan=True):
            share = (~torch.isclose(a, b, rtol=1e-5, atol=1e-6)).float().mean()
            raise ValueError(
                f"output {n} differs from the network's own in {share:.2%} of its values; use the "
                "network itself, and please report it"
            )
    # A gradient that is zero but for rounding, such as that of a bias ahead of a batch
    # normalisation, is measured by what the others are.
    length = sum(float(g.norm()) ** 2 for g in expected.gradients.values() if g is not None) ** 0.5
    given = {name.removeprefix("net."): g for name, g in found.gradients.items()}
    for name, wanted in expected.gradients.items():
        other = given[name.removeprefix("net.")]
        wanted = torch.zeros(()) if wanted is None else wanted
        if not wanted.isfinite().all():
            raise ValueError(
                f"the network's own gradient of {name.removeprefix('net.')!r} is not finite on the "
                "sample, so that none can be compared; give a sample or weights where it is, or "
                "another surrogate (snnTorch's sigmoid overflows far below its threshold)"
            )
        other = torch.zeros(()) if other is None else other
        if (held := expected.held.get(name)) is not None:
            wanted, other = wanted.masked_fill(held, 0), other.masked_fill(held, 0)
        error = float(other.sub(wanted).norm())
        if not error <= 1e-4 * float(wanted.norm()) + 1e-6 * length:
            raise ValueError(
                f"the gradient of {name.removeprefix('net.')!r} differs from the network's own by "
                f"{error / max(float(wanted.norm()), 1e-30):.1e} of its length; use the network "
                "itself, and please report it"
            )
