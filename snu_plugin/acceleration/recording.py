"""The operations of a network, seen while it runs, with its loop over time rolled up.

Every call of a function of torch becomes a node, and so does every neuron. Calls that do the same
to values of one step are one node with many steps; what depends on no step is static, done once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from enum import Enum
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from snu_plugin.acceleration.attributes import PLAIN, Watch, attributes, same
from snu_plugin.acceleration.functions import ZEROS, autograd_functions
from snu_plugin.acceleration.neurons import Rule, neurons_of
from snu_plugin.acceleration.nodes import (
    NOW,
    Node,
    Nodes,
    Ref,
    Unseen,
    key_of,
    mapped,
    tensors_in,
)
from snu_plugin.acceleration.operations import Call, Operations, autocast


class Calls:
    """How often each neuron was called, and what is wrong with it."""

    def __init__(self, nodes: Nodes) -> None:
        """Take the nodes that those of neurons are put among."""
        self.nodes = nodes
        self.count = Counter[str]()
        """Calls of each neuron, by its name."""
        self.problem: Unseen | None = None
        """The first problem, which counts once it is known which axis is time."""
        self._places: dict[str, int] = {}

    def over_time(
        self, path: str, rule: Rule, source: Ref, before: Sequence[Any], steps: int
    ) -> int:
        """Note a call with a sequence of so many steps; return its node's place."""
        count = self.count[path]
        self.count[path] += 1
        if source.step is not None:
            self.note(f"{path!r} takes a sequence, and is given one inside of a loop")
        begin = self._begin(before)
        key = "neuron", path, key_of(source), key_of(begin), count
        node = Node(
            "neuron", path, rule, (source, begin), grad=torch.is_grad_enabled(),
            steps=list(range(steps)),
        )  # fmt: skip
        return self.nodes.place(key, node)

    def step(
        self, path: str, who: str, rule: Rule, source: Any, before: Sequence[Any]
    ) -> tuple[int, int]:
        """Note a call with a step; return the place of the neuron's node, and which step it is."""
        count = self.count[path]
        self.count[path] += 1
        if count == 0:
            begin = [source], self._begin(before)
            node = Node("neuron", path, rule, begin, steps=[0])
            self._places[path] = self.nodes.place(("neuron", path), node)
        place = self._places[path]
        node = self.nodes[place]
        if not torch.is_grad_enabled():
            node.without.add(count)
        if count == 0:
            return place, 0
        if (count in node.without) != (count - 1 in node.without):
            node.cuts.setdefault(count, set())
        node.args[0].append(source)
        for name, state in zip(rule.states, before, strict=True):
            own = Ref(place, rule.parts[name], count - 1)
            if self._is_detached(state, own):
                node.cuts.setdefault(count, set()).add(name)
            elif state != own:
                self.note(
                    f"{who} is not given at its call {count + 1} the state {name!r} that it "
                    "returned at the call before: accelerate takes all steps of a neuron at once, "
                    "from one state on (one neuron used for two layers has two)"
                )
        self.nodes.at(place, count)
        return place, count

    def _is_detached(self, state: Any, own: Ref) -> bool:
        """Tell whether a state is one that a neuron gave, without its gradient."""
        found = state
        while isinstance(found, Ref) and self.nodes[found.node].name in ("detach", "data"):
            (found,) = self.nodes[found.node].args
            if found == own._replace(step=NOW):
                return bool(state.step == own.step)
        return False

    def finish(self) -> None:
        """Have each neuron know what it is fed in all of its steps."""
        for place in self._places.values():
            node = self.nodes[place]
            fed, begin = node.args
            node.args = fed_by(fed), begin

    def _begin(self, before: Sequence[Any]) -> tuple[Any, ...]:
        """Return the states that a neuron begins with, ``None`` where they are its reset state."""
        begin = list[Any]()
        for state in before:
            made = state
            while isinstance(made, Ref) and self.nodes[made.node].name == "detach":
                (made,) = self.nodes[made.node].args
            zero = isinstance(made, Ref) and self.nodes[made.node].name in ZEROS
            begin.append(None if zero else state)
        return tuple(begin)

    def note(self, problem: str) -> None:
        """Note a problem, if it is the first."""
        self.problem = self.problem or Unseen(problem)


def fed_by(steps: list[Any]) -> Any:
    """Return what a neuron is fed, said as simply as it can be.

    The same at every step: that value. The steps of one value, from its first on: that value
    ``NOW``. All else, such as a stimulus and then silence, steps that are skipped, or those of the
    end first: the list.
    """
    first = steps[0]
    stepped = isinstance(first, Ref) and first.step is not None
    if stepped and steps == [first._replace(step=t) for t in range(len(steps))]:
        return first._replace(step=NOW)
    return first if all(value == first for value in steps) else steps


class Recorder(Operations):
    """Records what a network does with its inputs; ``record`` runs it."""

    def __init__(
        self,
        model: nn.Module,
        lone: frozenset[Any] = frozenset(),
        often: frozenset[Any] = frozenset(),
        *,
        once: bool = True,
    ) -> None:
        """Take a copy of a network, in which calls of neurons are watched from now on.

        ``once`` says that a call of it is one of the network's own, which may leave something.

        ``lone`` are static tensors of which but one step is taken, which is then no step, ``often``
        the places that draw random numbers at every step; an earlier run has shown both.
        """
        super().__init__(model, lone, often)
        self.model = model
        self.rules: dict[str, Rule] = {}
        self.calls = Calls(self.nodes)
        self.given: dict[str, Tensor] = {}
        self.turns: dict[str, list[int]] = {}
        """The nodes of each batch normalisation, as they were called."""
        self.result: Any = None
        self.leaves: dict[tuple[str, str], Any] | None = {} if once else None
        """What forward leaves in attributes of modules, with sources instead of tensors."""
        calls: dict[str, Any] = {}
        for path, module, rule in neurons_of(model):
            self.rules[path] = rule
            calls[path] = partial(self._neuron, path, module, rule, module.forward)
        for path, module in model.named_modules():
            if path not in calls and isinstance(module, nn.modules.batchnorm._BatchNorm):
                calls[path] = partial(self._norm, path, module, module.forward)
        for path, call in calls.items():
            model.get_submodule(path).forward = call  # of a copy

    def _norm(self, path: str, module: nn.Module, forward: Any, x: Tensor) -> Tensor:
        if self.inside:
            return forward(x)  # type: ignore[no-any-return]
        self.inside = True
        try:
            out: Tensor = forward(x)
        finally:
            self.inside = False
        node = "norm" if module.training or not module.track_running_stats else "function"
        source = self.source(x)
        if node == "norm" and isinstance(source, Ref) and source.step is None:
            # The same in every step, but each step moves the running statistics.
            key = "norm", path, key_of(source)
            count = self.draws[path] = self.draws.get(path, 0) + 1
            often = path in self.often
            steps: list[int] | None = [] if often else None
            once = *key, 0 if often else count
            place = self.nodes.place(once, Node("norm", path, path, (source,), steps=steps))
            self.nodes.at(place, count - 1)
            self._know(out, Ref(place, None, count - 1 if often else None))
        else:
            self._note(Call(path, path, (x,), {}, out, torch.is_grad_enabled(), node))
        if node == "norm":
            turns = self.turns.setdefault(path, [])
            place = self.known[id(out)].node
            if place in turns[:-1] and place != turns[-1]:
                self.calls.note(
                    f"{path!r} ({type(module).__name__}) normalises several inputs by turns, and "
                    "accelerate all steps of one after the other, which moves its statistics "
                    "otherwise; give each a normalisation of its own"
                )
            turns.append(place)
        return out

    def _neuron(
        self, path: str, module: nn.Module, rule: Rule, forward: Any, *args: Any, **kwargs: Any
    ) -> Any:
        if self.inside:
            return forward(*args, **kwargs)
        self.inside = True
        try:
            x, given = rule.take(module, args, kwargs)
            first = self.given.setdefault(path, x)
            before = [None if s is None else self.source(s) for s in given]
            source = self.source(x)
            out = forward(*args, **kwargs)
            results = list(rule.results(module, out))
        finally:
            self.inside = False
        who = f"{path!r} ({type(module).__name__})"
        if x.shape != first.shape:
            self.calls.note(
                f"{who} is given a step of shape {tuple(x.shape)}, and one of {tuple(first.shape)} "
                "at its first call: accelerate needs steps of one shape, a neuron for each layer"
            )
        if rule.over_time:
            if not isinstance(source, Ref):
                raise Unseen(f"{who} is fed by no input of the network")
            whole = results[0][1]
            place = self.calls.over_time(path, rule, source, before, len(whole))
            for part, tensor in results:
                step = None if tensor.dim() == whole.dim() else len(whole) - 1
                self._know(tensor, Ref(place, part, step))
        else:
            place, step = self.calls.step(path, who, rule, source, before)
            for part, tensor in results:
                self._know(tensor, Ref(place, part, step))
        return out

    def record(self, *args: Any, **kwargs: Any) -> None:
        """Run the network; ``result`` is what it returned, with sources instead of tensors."""
        states = {path: rule.states for path, rule in self.rules.items()}
        before = attributes(self.model, states)
        out = self._run(args, kwargs)
        for (path, name), value in attributes(self.model, states).items():
            if same(old := before.get((path, name)), value):
                continue
            if path in states:
                kind = type(self.model.get_submodule(path)).__name__
                raise Unseen(
                    f"forward sets {name!r} of {path.removeprefix('net.')!r} ({kind}), which the "
                    "callable would not; set it outside of forward"
                )
            self._written(path, name, value[0], None if old is None else old[0])
        self.result = mapped(out, self._given_back)
        self.calls.finish()

    outermost = record.__code__

    def raises_without(self, check: int, *args: Any, **kwargs: Any) -> bool:
        """Run the network; tell whether it raises an error where a check finds the opposite.

        So do ``assert x.isfinite().all()``, ``if x.max() > 1: raise ValueError`` and the checks of
        ``torch.distributions``. Nothing is noted from there on.
        """
        self.denied = check
        try:
            self._run(args, kwargs)
        except Exception:  # whatever it is that it raises
            return self.denied is None
        return False

    def _run(self, args: Any, kwargs: Any) -> Any:
        for place, tensor in enumerate(tensors_in((args, kwargs))):
            node = self.nodes.place(("input", f"{place}"), Node("input", f"{place}"))
            self._know(tensor, Ref(node, None, None))
        self.cast, self.grad = autocast(), torch.is_grad_enabled()
        with self, autograd_functions(self._autograd_function):
            return self.model(*args, **kwargs)

    def check_leaves(self, *args: Any, **kwargs: Any) -> None:
        """Run the network once more: what it left must not matter, nor count calls.

        Raises:
            Unseen: If it goes on from a tensor that it left, or leaves other numbers.
        """
        states = {path: rule.states for path, rule in self.rules.items()}
        before = attributes(self.model, states)
        left = {
            id(tensor): name
            for path, name in self.leaves or {}
            for tensor in tensors_in(before[path, name][0])
        }
        self.inside = True  # the calls of neurons go by
        with Watch(left):
            self.model(*args, **kwargs)
        for (path, name), value in attributes(self.model, states).items():
            if not same(old := before[path, name], value) and isinstance(value[0], PLAIN):
                raise Unseen(
                    f"forward changes {name!r} from call to call, {old[0]!r} to {value[0]!r}; "
                    "accelerate needs one that does the same"
                )

    def _written(self, path: str, name: str, value: Any, old: Any) -> None:
        """Note what forward left in a module: tensors that it made, alone or in something new."""
        plain = value is None or isinstance(value, PLAIN)
        made = plain or (value is not old and any(True for _ in tensors_in(value)))
        if self.leaves is None or not made:
            kind = type(self.model.get_submodule(path)).__name__
            who = f"{path.removeprefix('net.')} ({kind})" if path else "the network"
            raise Unseen(
                f"forward writes {name!r} of {who}, which the callable would not; return it"
            )
        self.leaves[path, name] = mapped(value, self._given_back)

    def _given_back(self, value: Any) -> Any:
        """Return where a part of the result comes from."""
        if isinstance(value, Tensor):
            return self.source(value)
        if value is None or isinstance(value, (Enum, *PLAIN)):
            return value
        raise Unseen(
            f"forward returns a {type(value).__name__}, in which accelerate sees no tensors; "
            "return the tensors that it is made of"
        )

    def hints(self) -> tuple[frozenset[Any], frozenset[Any]]:
        """Return ``lone`` and ``often``, as this run showed them."""
        lone = {key for key, found in self.indices.items() if len(found) == 1}
        often = {where for where, count in self.draws.items() if count > 1}
        return frozenset(lone), frozenset(often)
