"""``accelerate``: a host's network, its layers run for all steps at once and its neurons fused."""

from __future__ import annotations

import copy
import inspect
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from snu_plugin.acceleration.neurons import rule_of
from snu_plugin.acceleration.nodes import Unseen, fields_of, is_record, mapped, tensors_in
from snu_plugin.acceleration.program import Otherwise, Program
from snu_plugin.acceleration.recording import OF_MODULES, PLAIN, Recorder
from snu_plugin.accepted import shown
from snu_plugin.neuron import held_parameters

SIMPLE = frozenset((bool, int, float, str, type(None)))

PROGRAMS = 64
"""Programs that are kept; a network that is set to something new at every call makes one a call."""

HOOKS = "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"

Sample = Tensor | Sequence[Any] | Mapping[str, Any]
"""What a network is called with: one tensor; several in a row, or by the names of its arguments."""

STEPS = 4
"""Steps of the loop around a network that makes one step a call, when it is proved."""

RUNS = 5
"""How often a network is looked at until it is known which axis is time."""


def accelerate(net: nn.Module, sample: Sample) -> Accelerated:
    """Return a callable that does what a host's network does, in a fraction of the time.

    Layers multiply all steps at once, what is the same in every step is computed once, and the
    neurons of snnTorch and Norse run fused. Outputs, parameters (shared, read at every call) and
    gradients are the network's own, with the host's surrogates and its way through the reset. The
    network may be trained, moved, loaded and set to ``train()`` or ``eval()`` as before; the
    callable follows. What draws random numbers keeps their distribution, not the draws.

    A network that loops over time keeps its call. One that makes one step a call, whose neurons
    hold their state (or that takes and gives it, as Norse's do), becomes ``fast(x)``: ``x`` is
    ``(T, ...)``, neurons start from their reset state, and every step's outputs are stacked; a
    network that gives its state gives that after the last step.

    The network runs here twice beside the callable, on the sample: outputs and gradients must be
    the same. Calls of other shapes, or in another mode, are looked at once more, without a proof.

    Args:
        net: A network; its ``forward`` does the same whatever the values of its input.
        sample: What it is called with: a tensor, several in a tuple, or a dict by name.

    Returns:
        The callable. Its ``report`` says how each neuron runs.

    Raises:
        ValueError: If it cannot see through the network, says where; or if the proof fails.
    """
    if not isinstance(net, nn.Module):
        raise TypeError(f"net is a {type(net).__name__}; it must be a torch.nn.Module")
    _refuse_hooks(net)
    args, kwargs = _call_of(sample)
    looked = _looked(net, args, kwargs, "a sample")
    if not looked.calls.count:
        raise Unseen(
            f"accelerate finds no neuron in {type(net).__name__} that it knows; it runs snnTorch's "
            "and Norse's"
        )
    stepped = _makes_one_step(net, looked)
    fast = Accelerated(net, stepped)
    if stepped:
        args, kwargs = (_repeated(part) for part in (args, kwargs))
    fast.prove(args, kwargs)
    return fast


def _makes_one_step(net: nn.Module, looked: Recorder) -> bool:
    """Tell whether a call makes one step, whose state goes on to the next call.

    A network that loops over time also calls its neurons once where the sample has one step: then
    its neurons begin anew, and where it gives its state, it takes the only row out of a tensor.
    """
    once = all(n == 1 for n in looked.calls.count.values())
    if not once or any(rule.over_time for rule in looked.rules.values()):
        return False
    nodes = looked.nodes.all
    begins = [node.args[1] for node in nodes if node.kind == "neuron"]
    goes_on = any(state is not None for begin in begins for state in begin)
    return goes_on or (_gives_state(net, looked.result) and not looked.unrolled)


class Accelerated:
    """What ``accelerate`` returns: call it as it says there."""

    def __init__(self, net: nn.Module, stepped: bool) -> None:
        self.network = net
        """The network itself."""
        self.stepped = stepped
        """Whether the network makes one step a call, and this takes a sequence."""
        self.report: dict[str, str] = {}
        """How each neuron runs, by its name in the network."""
        self.share = 0.0
        """Share of the sample's outputs that another rounding of the products has changed."""
        self._programs: dict[Any, Program] = {}
        self._neurons: set[int] = set()
        """Neurons by identity; all that they are set to is read at every call."""
        self._objects: dict[int, Any] = {}
        """What modules hold that has no value of its own, so that no other gets its identity."""
        # A compiler of what is around it does not look inside.
        self._run = torch.compiler.disable(self._eager)  # type: ignore[no-untyped-call]

    def __repr__(self) -> str:
        return f"Accelerated({type(self.network).__name__}, {self.report})"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._run(args, kwargs)

    def __getstate__(self) -> dict[str, Any]:
        """Copy and pickle the network and what is known of it; programs are made anew."""
        return {name: vars(self)[name] for name in ("network", "stepped", "report", "share")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["network"], state["stepped"])  # type: ignore[misc]
        self.report, self.share = state["report"], state["share"]

    def _eager(self, args: Any, kwargs: Any) -> Any:
        inputs = list(tensors_in((args, kwargs)))
        try:
            return self._program(args, kwargs).run(inputs)
        except Otherwise:  # what the network then does, which is raise an error of its own
            if self.stepped:
                _reset(self.network)
            return (_Loop(self.network) if self.stepped else self.network)(*args, **kwargs)

    def _program(self, args: Any, kwargs: Any) -> Program:
        given = _shape_of(args), _shape_of(kwargs)
        found = self._programs.get((self._settings(), *given))
        if found is None:
            if len(self._programs) == PROGRAMS:
                self._programs.clear()
                self._objects.clear()
            found = self._look(args, kwargs)
            self._programs[(self._settings(), *given)] = found
        return found

    def _settings(self) -> tuple[Any, ...]:
        """Return what has the network do something else: its modules, and what they are set to.

        Tensors are read at every call, and so is all of a neuron.
        """
        found: list[Any] = []
        for module in self.network.modules():
            found.append(id(module))
            if id(module) in self._neurons:
                found.append(module.training)
                continue
            own = not type(module).__module__.startswith("torch.")
            for name, value in vars(module).items():  # plain loops: this is done at every call
                if name[0] != "_" or (own and name not in OF_MODULES):
                    found.append(name)
                    if type(value) in SIMPLE:
                        found.append(value)
                    else:
                        self._note(value, found)
                elif value and name in HOOKS:
                    found.append(len(value))
        return tuple(found)

    def _note(self, value: Any, found: list[Any]) -> None:
        """Put what an attribute is set to into ``found``."""
        if type(value) in (tuple, list):
            found.append(len(value))
            for item in value:
                self._note(item, found)
        elif isinstance(value, PLAIN):
            found.append(value)
        elif not isinstance(value, Tensor):
            if isinstance(value, (dict, set)):
                found.append(len(value))
            if not any(True for _ in tensors_in(value)):  # those are read at every call
                self._objects.setdefault(id(value), value)
                found.append(id(value))

    def _look(self, args: Any, kwargs: Any) -> Program:
        _refuse_hooks(self.network)
        net = _Loop(self.network) if self.stepped else self.network
        found = _looked(net, args, kwargs, "inputs")
        modules = dict(net.named_modules())
        self._neurons |= {id(modules[name]) for name in found.rules}
        for name, rule in found.rules.items():
            if name in found.calls.count:
                how = rule.how(modules[name], found.given[name]) or "fused"
                self.report[name.removeprefix("net.")] = how
        return Program(found.nodes.all, found.result, modules, self.stepped, found.leaves or {})

    def prove(self, args: Any, kwargs: Any) -> None:
        """Compare with the network itself, in its mode of now and in the other one.

        Raises:
            ValueError: If outputs or gradients differ.
        """
        modes = {module: module.training for module in self.network.modules()}
        try:
            for training in (not self.network.training, self.network.training):
                for module in modes:
                    module.training = training if module is self.network or training else False
                if training == modes[self.network]:
                    for module, mode in modes.items():
                        module.training = mode
                self._prove(args, kwargs)
        finally:
            for module, mode in modes.items():
                module.training = mode

    @torch.inference_mode(False)
    def _prove(self, args: Any, kwargs: Any) -> None:
        stock = _copied(self.network)
        own = Accelerated(_copied(self.network), self.stepped)
        net = _Loop(stock) if self.stepped else stock
        for module in (*stock.modules(), *own.network.modules()):
            if isinstance(module, nn.modules.dropout._DropoutNd):
                module.training = False
        with _undisturbed(), _reached(stock):
            program = own._program(args, kwargs)
            self.report = own.report
            drawn = [program.nodes[n].name for n in program.needed if program.nodes[n].random]
            expected = _outcome(net, net, args, kwargs)
            expected.outputs += program.left(stock)
            if drawn:  # nothing to be compared: other draws
                return

            def by_step(*args: Any, **kwargs: Any) -> Any:
                return program.run(list(tensors_in((args, kwargs))), by_step=True)

            found = _outcome(by_step, own.network, args, kwargs)
            found.outputs += program.left(own.network)
            _compare(found, expected)
            _reset(own.network)
            whole = _outcome(own, own.network, args, kwargs)
            whole.outputs += program.left(own.network)
        pairs = zip(whole.outputs, expected.outputs, strict=True)
        near = torch.cat([torch.isclose(a, b, rtol=1e-4, atol=1e-5).flatten() for a, b in pairs])
        self.share = 1 - near.double().mean().item()
        if self.share > 0.2:
            raise ValueError(
                f"{self.share:.0%} of the outputs differ from the network's own where layers take "
                "all steps at once; use the network itself, and please report it"
            )


class _Loop(nn.Module):
    """The loop around a network that makes one step a call."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.training = net.training

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        (first, *_) = tensors_in((args, kwargs))
        outs: list[Any] = []
        states: tuple[Any, ...] = ()
        for t in range(first.shape[0]):
            now = lambda v, t=t: v[t] if isinstance(v, Tensor) else v  # noqa: E731
            out = self.net(*mapped(args, now), *states, **mapped(kwargs, now))
            if _gives_state(self.net, out):
                states = (out[1],)
                out = out[0]
            outs.append(out)
        leaves, kinds = zip(*map(pytree.tree_flatten, outs), strict=True)
        joined = [
            torch.stack(list(of)) if isinstance(of[0], Tensor) else of[0]
            for of in zip(*leaves, strict=True)
        ]
        whole = pytree.tree_unflatten(joined, kinds[0])
        return (whole, *states) if states else whole


def _looked(net: nn.Module, args: Any, kwargs: Any, what: str) -> Recorder:
    """Return what a network does, or refuse shapes that it does not run on."""
    if not any(True for _ in tensors_in((args, kwargs))):
        raise TypeError("the network is called without a tensor; torch.as_tensor makes one")
    try:
        return _recorded(net, args, kwargs)
    except RuntimeError as error:  # torch's own, of shapes that do not fit
        shapes = ", ".join(str(tuple(x.shape)) for x in tensors_in((args, kwargs)))
        raise ValueError(
            f"the network does not run on {what} of shape {shapes}: "
            f"{' '.join(str(error).split())}; give what net is called with, one step "
            "(B, ...) where it makes one step a call and (T, B, ...) where it loops over them"
        ) from error


def _gives_state(net: nn.Module, out: Any) -> bool:
    """Tell whether a network returns its output and its state, and takes the state next."""
    if not (isinstance(out, tuple) and len(out) == 2):
        return False
    try:
        names = list(inspect.signature(net.forward).parameters.values())
    except (TypeError, ValueError):
        return False
    return len(names) > 1 and names[1].name.startswith(("state", "hidden", "s"))


def _recorded(net: nn.Module, args: Any, kwargs: Any) -> Recorder:
    """Look at what a network does, until it is known which axis is time."""
    hints: tuple[frozenset[Any], frozenset[Any]] = frozenset(), frozenset()
    copied = lambda v: v.detach().clone() if isinstance(v, Tensor) else v  # noqa: E731
    for _ in range(RUNS):
        with _undisturbed(), torch.inference_mode(False), torch.enable_grad():
            model = _copied(net)
            for parameter in model.parameters():
                parameter.requires_grad_(False)
            recorder = Recorder(model, *hints, once=not isinstance(net, _Loop))
            copies, named = mapped((args, kwargs), copied)
            with _reached(model):
                recorder.record(*copies, **named)
                if recorder.leaves:
                    recorder.check_leaves(*copies, **named)
        if recorder.hints() == hints:
            break
        hints = recorder.hints()
    if recorder.calls.problem is not None:
        raise recorder.calls.problem
    return recorder


class _Outcome:
    def __init__(
        self, outputs: list[Tensor], gradients: dict[str, Tensor | None], held: dict[str, Tensor]
    ) -> None:
        self.outputs, self.gradients = outputs, gradients
        self.held = held
        """Where parameters lie at a limit that a layer holds them inside of."""


def _outcome(run: Any, net: nn.Module, args: Any, kwargs: Any) -> _Outcome:
    """Return a network's outputs and gradients, its outputs weighted always in the same way."""

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
    return _Outcome([out.detach() for out in outputs], named, held)


def _compare(found: _Outcome, expected: _Outcome) -> None:
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


def _copied(net: nn.Module) -> Any:
    """Copy a network without its graph of gradients, its neurons reset as if never called."""
    memo: dict[int, Any] = {}
    for module in net.modules():
        for tensor in tensors_in((dict(module._buffers), dict(vars(module)))):
            if not tensor.is_leaf:
                memo[id(tensor)] = tensor.detach().clone()
    model = copy.deepcopy(net, memo)
    _reset(model)
    return model


def _reset(model: nn.Module) -> None:
    for module in model.modules():
        rule = rule_of(module)
        if rule is not None:
            rule.reset(module)


@contextmanager
def _reached(model: nn.Module) -> Iterator[None]:
    """Have class-wide functions of a host, such as one that resets all neurons, reach a copy."""
    with ExitStack() as stack:
        for module in model.modules():
            rule = rule_of(module)
            if rule is not None:
                stack.enter_context(rule.reached(module))
        yield


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Leave the random states of torch, NumPy and Python as they are."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002  (users draw from it)
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


def _call_of(sample: Sample) -> tuple[tuple[Any, ...], dict[str, Any]]:
    given = list(tensors_in(sample)) if isinstance(sample, (Tensor, Mapping, Sequence)) else []
    if not given:
        raise TypeError(
            f"sample is {shown(sample)}; it must be a tensor as net is called with it, several in "
            "a tuple, or a dict by name"
        )
    for x in given:
        if x.is_floating_point() and not x.isfinite().all():
            wrong = int((~x.isfinite()).sum())
            raise ValueError(
                f"{wrong} of {x.numel()} values of sample are not finite; give numbers"
            )
    if isinstance(sample, Mapping):
        return (), dict(sample)
    return (sample,) if isinstance(sample, Tensor) else tuple(sample), {}


def _repeated(value: Any) -> Any:
    return mapped(value, lambda v: torch.stack([v] * STEPS) if isinstance(v, Tensor) else v)


def _shape_of(value: Any) -> Any:
    def one(v: Any) -> Any:
        return (tuple(v.shape), v.dtype, str(v.device)) if isinstance(v, Tensor) else repr(v)

    if isinstance(value, Mapping):
        return tuple((k, _shape_of(v)) for k, v in value.items())
    if is_record(value):
        return type(value), _shape_of(fields_of(value))
    if isinstance(value, (tuple, list)):
        return tuple(map(_shape_of, value))
    return one(value)


def _refuse_hooks(net: nn.Module) -> None:
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
