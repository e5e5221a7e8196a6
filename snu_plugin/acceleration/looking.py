"""A network looked at: run on copies, in its own words, until what it does is known."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from snu_plugin.acceleration.neurons import neurons_of
from snu_plugin.acceleration.nodes import Unseen, mapped, tensors_in
from snu_plugin.acceleration.operations import looks_at_values
from snu_plugin.acceleration.program import ONE_AT_A_TIME
from snu_plugin.acceleration.recording import Recorder
from snu_plugin.random_states import undisturbed

HOOKS = "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"

RUNS = 5
"""How often a network is looked at until it is known which axis is time."""


def looked(net: nn.Module, args: Any, kwargs: Any, what: str) -> Recorder:
    """Return what a network does, or refuse shapes that it does not run on."""
    if not any(True for _ in tensors_in((args, kwargs))):
        raise TypeError("the network is called without a tensor; torch.as_tensor makes one")
    hints: tuple[frozenset[Any], frozenset[Any]] = frozenset(), frozenset()
    try:
        with ONE_AT_A_TIME:
            for _ in range(RUNS):  # until it is known which axis is time
                with _recorder(net, args, kwargs, hints) as (recorder, copies, named):
                    recorder.record(*copies, **named)
                    if recorder.leaves:
                        recorder.check_leaves(*copies, **named)
                if recorder.hints() == hints:
                    break
                hints = recorder.hints()
            if recorder.calls.problem is not None:
                raise recorder.calls.problem
            for line, check in recorder.checks.items():
                with _recorder(net, args, kwargs, hints) as (other, copies, named):
                    if not other.raises_without(check, *copies, **named):
                        raise Unseen(looks_at_values("bool", line))
            return recorder
    except RuntimeError as error:  # torch's own, of shapes that do not fit
        shapes = ", ".join(str(tuple(x.shape)) for x in tensors_in((args, kwargs)))
        raise ValueError(
            f"the network does not run on {what} of shape {shapes}: "
            f"{' '.join(str(error).split())}; give what net is called with, one step "
            "(B, ...) where it makes one step a call and (T, B, ...) where it loops over them"
        ) from error


@contextmanager
def _recorder(
    net: nn.Module, args: Any, kwargs: Any, hints: tuple[frozenset[Any], frozenset[Any]]
) -> Iterator[tuple[Recorder, Any, Any]]:
    """Give a recorder of a copy of a network, and copies of what it is called with."""
    copied_of = lambda v: v.detach().clone() if isinstance(v, Tensor) else v  # noqa: E731
    tensors = *net.parameters(), *tensors_in((args, kwargs))
    with undisturbed(*tensors), torch.inference_mode(False), torch.enable_grad():
        model = copied(net)
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        recorder = Recorder(model, *hints, once=not isinstance(net, Loop))
        with reached(model):
            yield recorder, *mapped((args, kwargs), copied_of)


def refuse_hooks(net: nn.Module) -> None:
    if any(vars(nn.modules.module)[f"_global{kind}"] for kind in HOOKS):
        raise Unseen(
            "torch.nn.modules.module holds a hook for all modules, which would not run; remove it"
        )
    for name, module in net.named_modules():
        for kind in HOOKS:
            for hook in getattr(module, kind).values():
                if type(hook).__module__.startswith("torch.nn.utils"):
                    continue  # such as weight_norm, which is seen
                who = getattr(hook, "__qualname__", type(hook).__name__)
                raise Unseen(
                    f"{name or 'the network'} ({type(module).__name__}) has a hook "
                    f"({kind.strip('_')[:-1]} {who}), which would not run; remove it before"
                )


class Loop(nn.Module):
    """The loop around a network that makes one step a call."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.training = net.training

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        (first, *_) = tensors_in((args, kwargs))
        outs: list[Any] = []
        state: dict[str, Any] = {}
        name = second_name(self.net)
        if name.startswith(("state", "hidden")):  # no step of it: where a sequence before ended
            if len(args) == 2:
                state = {name: args[1]}
                args = args[:1]
            elif name in kwargs:
                state = {name: kwargs.pop(name)}
        given = False
        for t in range(first.shape[0]):
            now = lambda v, t=t: v[t] if isinstance(v, Tensor) else v  # noqa: E731
            out = self.net(*mapped(args, now), **mapped(kwargs, now), **state)
            if given := gives_state(self.net, out):
                out, state = out[0], {name: out[1]}
            outs.append(out)
        leaves, kinds = zip(*map(pytree.tree_flatten, outs), strict=True)
        joined = [
            torch.stack(list(of)) if isinstance(of[0], Tensor) else of[0]
            for of in zip(*leaves, strict=True)
        ]
        whole = pytree.tree_unflatten(joined, kinds[0])
        return (whole, *state.values()) if given else whole


def gives_state(net: nn.Module, out: Any) -> bool:
    """Tell whether a network returns its output and its state, and takes the state next."""
    return isinstance(out, tuple) and len(out) == 2 and second_name(net).startswith(("s", "hidden"))


def second_name(net: nn.Module) -> str:
    """Return how the second thing that a network takes is called, empty if there is none."""
    try:
        names = list(inspect.signature(net.forward).parameters)
    except (TypeError, ValueError):
        return ""
    return names[1] if len(names) > 1 else ""


def copied(net: nn.Module) -> Any:
    """Copy a network without its graph of gradients, its neurons reset as if never called."""
    memo: dict[int, Any] = {}
    for module in net.modules():
        for tensor in tensors_in((dict(module._buffers), dict(vars(module)))):
            if not tensor.is_leaf:
                memo[id(tensor)] = tensor.detach().clone()
    model = copy.deepcopy(net, memo)
    reset(model)
    return model


def reset(model: nn.Module) -> None:
    for _, module, rule in neurons_of(model):
        rule.reset(module)


@contextmanager
def reached(model: nn.Module) -> Iterator[None]:
    """Have class-wide functions of a host, such as one that resets all neurons, reach a copy."""
    with ExitStack() as stack:
        for _, module, rule in neurons_of(model):
            stack.enter_context(rule.reached(module))
        yield
