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
            self._note(f"{path!r} takes a sequence, and is given one inside of a loop")
        begin = self._begin(before)
        key = "neuron", path, key_of(source), key_of(begin), count
        node = Node(
            "neuron", path, rule, (source, begin), grad=torch.is_grad_enabled(),
            steps=list(range(steps)),
        )  # fmt: skip
        return self.nodes.place(key, node)

    def step(
        self, path: str, who: str, rule: Rule, source: Ref, before: Sequence[Any]
    ) -> tuple[int, int]:
        """Note a call with a step; return the place of the neuron's node, and which step it is."""
        count = self._counted(path)
        if source.step not in (None, count):
            self._note(
                f"{who} is given step {source.step + 1} of {self.nodes.named(source)} at its call "
                f"{count + 1}: a delay, or a way back, which accelerate does not run at once"
            )
        now = source if source.step is None else source._replace(step=NOW)
        if count == 0:
            node = Node(
                "neuron", path, rule, (now, self._begin(before)), grad=torch.is_grad_enabled(),
                steps=[0],
            )  # fmt: skip
            self._places[path] = self.nodes.place(("neuron", path), node)
            return self._places[path], 0
        place = self._places[path]
        fed = self.nodes[place].args[0]
        if fed != now:
            self._note(
                f"{who} is given {self.nodes.named(now)} at its call {count + 1}, and "
                f"{self.nodes.named(fed)} before: accelerate needs steps that are alike (a way "
                "back through layers, or one neuron used for two layers, is none)"
            )
        for name, state in zip(rule.states, before, strict=True):
            if state != Ref(place, rule.parts[name], count - 1):
                self._note(
                    f"{who} is not given at its call {count + 1} the state {name!r} that it "
                    "returned at the call before"
                )
        self.nodes.at(place, count)
        return place, count

    def _counted(self, path: str) -> int:
        """Return how often a neuron was called before."""
        before = self.count.get(path, 0)
        self.count[path] = before + 1
        return before

    def _begin(self, before: Sequence[Any]) -> tuple[Any, ...]:
        """Return the states that a neuron begins with, ``None`` where they are its reset state."""

        def one(state: Any) -> Any:
            zero = isinstance(state, Ref) and self.nodes[state.node].name in ZEROS
            return None if zero else state

        return tuple(map(one, before))

    def _note(self, problem: str) -> None:
        self.problem = self.problem or Unseen(problem)
