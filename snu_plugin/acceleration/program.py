"""What was recorded, run with whole sequences: each operation once for all of its steps."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snu_plugin.acceleration.at_once import Steps, at_once, windows_of
from snu_plugin.acceleration.nodes import (
    NOW,
    Circle,
    Constant,
    Held,
    Node,
    Ref,
    Unseen,
    in_order,
    mapped,
    named,
    refs_in,
    tensors_in,
)
from snu_plugin.neuron import max_pool2d, spike_linear

ONE_AT_A_TIME = threading.RLock()
"""Held by a thread that looks at a network, for it watches classes that all threads share and
copies what they leave in the network's attributes; and by one that leaves something there."""


class Program:
    """Nodes in their order, and how a network's result is made of theirs."""

    def __init__(
        self, nodes: Sequence[Node], result: Any, modules: Mapping[str, nn.Module], reset: bool,
        leaves: Mapping[tuple[str, str], Any],
    ) -> None:  # fmt: skip
        """Take what was recorded.

        Args:
            nodes: The operations.
            result: What the network returns, with sources instead of tensors.
            modules: Those of the network by name.
            reset: Neurons begin anew, whatever state they hold.
            leaves: What the network leaves in an attribute of a module, with sources likewise.
        """
        self.nodes, self.result, self.modules, self.reset = nodes, result, modules, reset
        self.leaves = leaves
        self.wanted: dict[int, set[int | None]] = {}
        """Parts of nodes of which more than the last step is taken."""
        self.needed = self._needed()
        self.pools: dict[int, tuple[int, int]] = {}
        """Windows, of neurons whose outputs are pooled and else not taken."""
        self.pooled: set[int] = set()
        """The nodes that pool them."""
        self.spent: dict[int, list[int]] = {}
        """What nobody takes behind a node any more."""
        self._plan()

    def _needed(self) -> list[int]:
        """Return the nodes that the result is made of, or that leave something behind, in order."""
        behind = [n for n, node in enumerate(self.nodes) if node.kind in ("norm", "check")]
        ends = refs_in((self.result, [*self.leaves.values()]))
        try:
            order = in_order(self.nodes, [*(ref.node for ref in ends), *behind])
        except Circle as circle:
            raise Unseen(self._way_back(circle.places)) from None
        for ref in (*ends, *(ref for place in order for ref in self.nodes[place].refs)):
            steps = self.nodes[ref.node].steps
            if not steps or ref.step != steps[-1]:
                self.wanted.setdefault(ref.node, set()).add(ref.part)
        return order

    def _plan(self) -> None:
        """Find which neurons are pooled at once, and behind which node a value may go."""
        takers: dict[int, list[tuple[int, Ref]]] = {place: [] for place in self.needed}
        for place in self.needed:
            for ref in self.nodes[place].refs:
                takers[ref.node].append((place, ref))
        given = refs_in((self.result, [*self.leaves.values()]))
        order = {place: n for n, place in enumerate(self.needed)}
        for place in order.keys() - {ref.node for ref in given}:
            last = max((taker for taker, _ in takers[place]), key=order.__getitem__, default=place)
            self.spent.setdefault(last, []).append(place)
        for place in self.needed:
            if all(ref.node != place or ref.part != 0 for ref in given):
                self._pool_at_once(place, takers, {ref.node for ref in given})

    def _pool_at_once(
        self, place: int, takers: Mapping[int, list[tuple[int, Ref]]], given: set[int]
    ) -> None:
        """Note that a neuron is pooled at once, if a pool and nobody else takes its outputs."""
        node = self.nodes[place]
        if (
            node.kind != "neuron"
            or node.cuts
            or node.without
            or self.wanted.get(place, set()) - {0}
        ):
            return
        taken = [(taker, ref) for taker, ref in takers[place] if ref.part == 0]
        if len(taken) == 1 and self.nodes[taken[0][0]].kind == "step":  # of a neuron over time
            ((step, whole),) = taken
            every = self.nodes[step].args == (whole, 0) and self.nodes[step].steps == node.steps
            taken = takers[step] if every and step not in given else []
        if len(taken) != 1:
            return
        ((taker, ref),) = taken
        pool = self.nodes[taker]
        if pool.kind != "function" or pool.name != "max_pool2d" or pool.steps != node.steps:
            return
        source, *others = pool.args or (None,)
        if source == ref and ref.step == NOW and (size := windows_of(others, pool.kwargs)):
            self.pools[place] = size
            self.pooled.add(taker)

    def _way_back(self, circle: Sequence[int]) -> str:
        """Return what is wrong with neurons that are fed by what they gave."""
        neurons = [node for node in map(self.nodes.__getitem__, circle) if node.kind == "neuron"]
        fed_by_hand = [node for node in neurons if isinstance(node.args[0], list)]
        node = min(fed_by_hand, key=lambda node: self._of(node.args[0][0], circle))
        path, fed = node.name, node.args[0]
        call = next(n for n, ref in enumerate(fed) if self._of(ref, circle))
        return (
            f"{path!r} ({type(self.modules[path]).__name__}) is given "
            f"{named(self.nodes, fed[call])} at its call {call + 1}, which is made of what it gave "
            "at a call before: a way back through layers, which accelerate does not run at once"
        )

    def _of(self, value: Any, circle: Sequence[int]) -> bool:
        """Tell whether a value is made of what neurons of a circle give."""
        left = seen = {ref.node for ref in refs_in([value])}
        while left:
            place = left.pop()
            node = self.nodes[place]
            if place in circle and node.kind == "neuron":
                return True
            if node.kind != "neuron":
                new = {ref.node for ref in node.refs} - seen
                left = left | new
                seen = seen | new
        return False

    def run(self, inputs: Sequence[Tensor], *, by_step: bool = False) -> Any:
        """Return what the network returns for ``inputs``.

        Args:
            inputs: The tensors that it is called with.
            by_step: Do every function step by step, with the rounding of the network itself.
        """
        run = Run(self, inputs, by_step)
        for place in self.needed:
            node = self.nodes[place]
            with torch.set_grad_enabled(torch.is_grad_enabled() and node.grad):
                run.values[place] = run.value(place, node)
            for spent in self.spent.get(place, ()):
                del run.values[spent]

        ends = {**self.leaves}, self.result
        left, result = mapped(ends, lambda v: _as_torch_lays(run.resolved(v)))
        with ONE_AT_A_TIME:
            for (path, name), value in left.items():
                setattr(self.modules[path], name, value)
        return result

    def left(self, net: nn.Module) -> list[Tensor]:
        """Return the tensors that a network's last call left in attributes, without gradients."""
        found = [getattr(net.get_submodule(path), name) for path, name in self.leaves]
        return [tensor.detach() for tensor in tensors_in(found)]


class Run:
    """One run of a program: what its nodes gave so far."""

    def __init__(self, program: Program, inputs: Sequence[Tensor], by_step: bool) -> None:
        self.program, self.inputs, self.by_step = program, inputs, by_step
        self.nodes, self.modules = program.nodes, program.modules
        self.values: dict[int, Any] = {}
        """By the places of nodes; of one with steps, these one behind the other."""

    def value(self, place: int, node: Node) -> Any:
        """Return what a node gives."""
        if node.kind == "input":
            return self.inputs[int(node.name)]
        if node.kind == "step":
            source, axis, *lone = node.args
            whole = self.resolved(source)
            if lone:
                return whole.select(axis, lone[0])
            return _rows(whole.movedim(axis, 0), node.steps or [])
        if node.kind == "neuron":
            return self._neuron(place, node)
        if node.kind == "check":
            return self._check(node)
        if place in self.program.pooled and not self.by_step:
            return self.resolved(node.args[0])
        function = self.modules[node.func] if isinstance(node.func, str) else node.func
        if node.steps is not None:
            return self._over_steps(node, function)
        if (stacked := self._stacked(node)) is not None:
            return stacked
        args, kwargs = mapped((node.args, node.kwargs), self.resolved)
        return function(*args, **kwargs)

    def resolved(self, value: Any) -> Any:
        """Return a tensor that a source stands for, of one at all of its steps the sequence."""
        if isinstance(value, Constant):
            return value.tensor
        if isinstance(value, Held):
            found = getattr(self.modules[value.module], value.keys[0])
            for key in value.keys[1:]:
                found = found[key]
            return found
        if not isinstance(value, Ref):
            return value
        found = self.values[value.node]
        found = found if value.part is None else found[value.part]
        if value.step is None or value.step == NOW:
            return found
        steps = self.nodes[value.node].steps or []
        return found[-1 if value.step == steps[-1] else steps.index(value.step)]

    def _at(self, ref: Ref, steps: Iterable[int]) -> Tensor:
        """Return a value at some of its steps, one behind the other."""
        own = self.nodes[ref.node].steps or []
        return _rows(self.resolved(ref._replace(step=NOW)), [own.index(t) for t in steps])

    def _stacked(self, node: Node) -> Tensor | None:
        """Return what a node gives that stacks steps of one value, which lie so; else ``None``."""
        if node.name != "stack" or not node.args or node.kwargs.keys() - {"dim"}:
            return None
        refs = node.args[0]
        if not isinstance(refs, (tuple, list)) or not all(
            isinstance(r, Ref) and r.step is not None and r[:2] == refs[0][:2] for r in refs
        ):
            return None
        axis = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
        return self._at(refs[0], (r.step for r in refs)).movedim(0, axis)

    def _check(self, node: Node) -> None:
        """Compare what a check finds with what it found when the network was looked at."""
        (ref,) = node.args
        found = self.resolved(ref) if node.steps is None else self._at(ref, node.steps)
        if not bool((found.bool() == node.func).all()):
            raise Otherwise

    def _fed(self, steps: Sequence[Any]) -> Tensor:
        """Return what a neuron is fed in steps that come of several values, or in another order."""
        parts = []
        for _, run in itertools.groupby(steps, lambda v: v[:2] if isinstance(v, Ref) else v):
            same = list(run)
            if isinstance(same[0], Ref) and same[0].step is not None:
                parts.append(self._at(same[0], (ref.step for ref in same)))
            else:
                one = self.resolved(same[0])
                parts.append(one.expand(len(same), *one.shape))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _neuron(self, place: int, node: Node) -> Any:
        """Return what a neuron gives, and have its module hold the states that it ends with."""
        source, begin = node.args
        module, rule = self.modules[node.name], node.func
        steps, same = len(node.steps or []), False
        if isinstance(source, list):
            x = self._fed(source)
        elif isinstance(source, Ref) and source.step == NOW:
            x = self._at(source, range(steps))
        else:
            x, same = self.resolved(source), not rule.over_time  # the same at every step
        weights = rule.weights(module, x)
        if weights is not None:
            once = same or not self.by_step
            x = spike_linear(x, weights) if once else torch.stack([F.linear(t, weights) for t in x])
        if same:
            x = x.expand(steps, *x.shape)
        held = (Held,) if self.program.reset else ()
        states = [None if isinstance(s, held) else self.resolved(s) for s in begin]
        if place in self.program.pools and not self.by_step:
            size = self.program.pools[place]
            parts = rule.pooled(module, x, states, size)
            if parts is None:
                y, *last = rule.run(module, x, states, frozenset([0]))
                pools = max_pool2d(y.flatten(0, 1), size)
                parts = pools.view(*y.shape[:2], *pools.shape[1:]), *last
        else:
            wanted = frozenset(self.program.wanted.get(place, ()))
            parts = _in_pieces(node, module, x, states, wanted)
        with ONE_AT_A_TIME:
            rule.keep(module, parts)
        return parts

    def _over_steps(self, node: Node, function: Callable[..., Any]) -> Any:
        """Return what a function gives at each of its steps, one behind the other."""
        steps = node.steps or []
        sequences: list[Tensor] = []

        def value(ref: Any) -> Any:
            if not (isinstance(ref, Ref) and ref.step == NOW):
                return self.resolved(ref)
            own = self.nodes[ref.node].steps == steps
            sequences.append(self.resolved(ref) if own else self._at(ref, steps))
            return Steps(sequences[-1])

        args, kwargs = mapped((node.args, node.kwargs), value)
        if not self.by_step and len(steps) > 1 and node.kind != "norm" and sequences:
            found = at_once(node.name, function, args, kwargs, sequences)
            if found is not None:
                return found
        outs = []
        for t in range(len(steps)):
            row = lambda v, t=t: v.tensor[t] if isinstance(v, Steps) else v  # noqa: E731
            outs.append(function(*mapped(args, row), **mapped(kwargs, row)))
        if isinstance(outs[0], Tensor):
            return torch.stack(outs)
        return tuple(torch.stack(parts) for parts in zip(*outs, strict=True))


def _in_pieces(
    node: Node,
    module: nn.Module,
    x: Tensor,
    states: Sequence[Tensor | None],
    wanted: frozenset[int | None],
) -> tuple[Tensor | None, ...]:
    """Return what a neuron gives; where gradients come or go, it begins again."""
    rule, found = node.func, list[Any]()
    for begin, end in itertools.pairwise((0, *sorted(node.cuts), len(x))):
        if begin:
            last = {name: found[-1][rule.parts[name]][-1] for name in rule.states}
            states = [s.detach() if n in node.cuts[begin] else s for n, s in last.items()]
        piece = x[begin:end] if node.cuts else x  # all of x is no slice: its gradient is a copy
        grad = torch.is_grad_enabled() and begin not in node.without
        with torch.set_grad_enabled(grad):
            found.append(rule.run(module, piece, states, wanted))
    if len(found) == 1:
        return tuple(found[0])
    parts = enumerate(zip(*found, strict=True))
    return tuple(torch.cat(of) if n in wanted else of[-1] for n, of in parts)


class Otherwise(Exception):
    """A check finds something else than it did, so that the network would do something else."""


def _as_torch_lays(value: Any) -> Any:
    """Return images that lie channels last, as they do here, in the network's own order.

    Whoever takes them may ask for ``view``, which the network's own outputs have.
    """
    if isinstance(value, Tensor) and value.dim() > 3 and not value.is_contiguous():
        return value.contiguous() if value.movedim(-3, -1).is_contiguous() else value
    return value


def _rows(whole: Tensor, steps: Sequence[int]) -> Tensor:
    """Return some steps of a sequence, without a copy where they follow one another."""
    first, count = steps[0], len(steps)
    if list(steps) == list(range(first, first + count)):
        return whole if count == len(whole) else whole[first : first + count]
    return whole[list(steps)]
