"""The calls of a network's neurons: one node each, whose steps must follow one another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from snu_plugin.acceleration.functions import ZEROS
from snu_plugin.acceleration.neurons import Rule
from snu_plugin.acceleration.nodes import NOW, Node, Nodes, Ref, Unseen, key_of


class Calls:
    """How often each neuron was called, and what is wrong with it."""

    def __init__(self, nodes: Nodes) -> None:
        """Take the nodes that those of neurons are put among."""
        self.nodes = nodes
        self.count: dict[str, int] = {}
        """Calls of each neuron, by its name."""
        self.problem: Unseen | None = None
        """The first problem, which counts once it is known which axis is time."""
        self._places: dict[str, int] = {}

    def over_time(
        self, path: str, rule: Rule, source: Ref, before: Sequence[Any], steps: int
    ) -> int:
        """Note a call with a sequence of so many steps; return its node's place."""
        count = self._counted(path)
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
        count = self._counted(path)
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

    def _counted(self, path: str) -> int:
        """Return how often a neuron was called before."""
        before = self.count.get(path, 0)
        self.count[path] = before + 1
        return before

    def _begin(self, before: Sequence[Any]) -> tuple[Any, ...]:
        """Return the states that a neuron begins with, ``None`` where they are its reset state."""

        def one(state: Any) -> Any:
            made = state
            while isinstance(made, Ref) and self.nodes[made.node].name == "detach":
                (made,) = self.nodes[made.node].args
            zero = isinstance(made, Ref) and self.nodes[made.node].name in ZEROS
            return None if zero else state

        return tuple(map(one, before))

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
