"""``accelerate``: a host's network, its layers run for all steps at once and its neurons fused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from snu_plugin.acceleration.attributes import OF_MODULES, PLAIN
from snu_plugin.acceleration.looking import (
    HOOKS,
    Loop,
    copied,
    gives_state,
    looked,
    reached,
    refuse_hooks,
    reset,
)
from snu_plugin.acceleration.nodes import Unseen, fields_of, is_record, mapped, tensors_in
from snu_plugin.acceleration.program import Otherwise, Program
from snu_plugin.acceleration.proof import compare, outcome
from snu_plugin.acceleration.recording import Recorder
from snu_plugin.accepted import shown, with_known_names
from snu_plugin.random_states import undisturbed

SIMPLE = frozenset((bool, int, float, str, type(None)))

PROGRAMS = 64
"""Programs that are kept; a network that is set to something new at every call makes one a call."""

Sample = Tensor | Sequence[Any] | Mapping[str, Any]
"""What a network is called with: one tensor; several in a row, or by the names of its arguments."""

STEPS = 4
"""Steps of the loop around a network that makes one step a call, when it is proved."""


@with_known_names
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
    if isinstance(net, Accelerated):
        raise TypeError("net is accelerated already; use it as it is, or give its network")
    if not isinstance(net, nn.Module):
        raise TypeError(f"net is a {type(net).__name__}; it must be a torch.nn.Module")
    _refuse_accelerated_parts(net)
    refuse_hooks(net)
    args, kwargs = _call_of(sample)
    found = looked(net, args, kwargs, "a sample")
    if not found.calls.count:
        raise Unseen(
            f"accelerate finds no neuron in {type(net).__name__} that it knows; it runs snnTorch's "
            "and Norse's"
        )
    stepped = _makes_one_step(net, found)
    fast = Accelerated(net, stepped)
    if stepped:
        sequence = lambda v: torch.stack([v] * STEPS) if isinstance(v, Tensor) else v  # noqa: E731
        args, kwargs = mapped((args, kwargs), sequence)
    fast.prove(args, kwargs)
    return fast


def _refuse_accelerated_parts(net: nn.Module) -> None:
    for name, module in net.named_modules():
        for attribute, value in vars(module).items():
            if isinstance(value, Accelerated):
                raise Unseen(
                    f"{name or 'the network'} ({type(module).__name__}) holds in .{attribute} a "
                    "network that is accelerated already, which hides its neurons; put that "
                    "network itself there, and accelerate the whole"
                )


def _makes_one_step(net: nn.Module, found: Recorder) -> bool:
    """Tell whether a call makes one step, whose state goes on to the next call.

    A network that loops over time also calls its neurons once where the sample has one step: then
    its neurons begin anew, and where it gives its state, it takes the only row out of a tensor.
    """
    once = all(n == 1 for n in found.calls.count.values())
    if not once or any(rule.over_time for rule in found.rules.values()):
        return False
    nodes = found.nodes.all
    begins = [node.args[1] for node in nodes if node.kind == "neuron"]
    goes_on = any(state is not None for begin in begins for state in begin)
    return goes_on or (gives_state(net, found.result) and not found.unrolled)


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
                reset(self.network)
            return (Loop(self.network) if self.stepped else self.network)(*args, **kwargs)

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
        refuse_hooks(self.network)
        net = Loop(self.network) if self.stepped else self.network
        found = looked(net, args, kwargs, "inputs")
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
        stock = copied(self.network)
        own = Accelerated(copied(self.network), self.stepped)
        net = Loop(stock) if self.stepped else stock
        for module in (*stock.modules(), *own.network.modules()):
            if isinstance(module, nn.modules.dropout._DropoutNd):
                module.training = False
        given = tensors_in((args, kwargs))
        with undisturbed(*self.network.parameters(), *given), reached(stock):
            program = own._program(args, kwargs)
            self.report = own.report
            drawn = [program.nodes[n].name for n in program.needed if program.nodes[n].random]
            expected = outcome(net, net, program, args, kwargs)
            if drawn:  # nothing to be compared: other draws
                return

            def by_step(*args: Any, **kwargs: Any) -> Any:
                return program.run(list(tensors_in((args, kwargs))), by_step=True)

            compare(outcome(by_step, own.network, program, args, kwargs), expected)
            reset(own.network)
            whole = outcome(own, own.network, program, args, kwargs)
        pairs = zip(whole.outputs, expected.outputs, strict=True)
        near = torch.cat([torch.isclose(a, b, rtol=1e-4, atol=1e-5).flatten() for a, b in pairs])
        self.share = 1 - near.double().mean().item()
        if self.share > 0.2:
            raise ValueError(
                f"{self.share:.0%} of the outputs differ from the network's own where layers take "
                "all steps at once; use the network itself, and please report it"
            )


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


def _shape_of(value: Any) -> Any:
    if isinstance(value, Tensor):
        return tuple(value.shape), value.dtype, str(value.device)
    if isinstance(value, Mapping):
        return tuple((k, _shape_of(v)) for k, v in value.items())
    if isinstance(value, (tuple, list)):
        return tuple(map(_shape_of, value))
    return (type(value), _shape_of(fields_of(value))) if is_record(value) else repr(value)
