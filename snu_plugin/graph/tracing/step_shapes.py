"""Which axes of a tensor are batch and time, and the shapes of calls in a step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import prod
from typing import Any, NamedTuple

from torch import Tensor, nn

from snu_plugin.graph.tracing.torch_functions import selection
from snu_plugin.graph.tracing.traced_tensor import Shape, Source, TracedTensor, matching, named
from snu_plugin.graph.tracing.wiring import Call, Wiring


class LayerRules(NamedTuple):
    """What whoever traces a model knows of layers."""

    is_leaf: Callable[[nn.Module], bool]
    """Whether a module is one node, whatever it holds inside."""
    batch_axes: Callable[[nn.Module, Tensor], int | None]
    """How many axes of a module's input are batch and time; ``None`` if its source knows."""
    split_input: Callable[[nn.Module, Sequence[int]], Sequence[nn.Module]]
    """Modules that each take one of the tensors that a module takes side by side, given their
    widths; their outputs add up to its own."""
    start: Callable[[nn.Module, Tensor], Any]
    """The states that a module begins with if it is given none; ``None`` if they are zero."""


@dataclass
class StepShapes:
    """The shapes of the model's inputs, and of what it makes of them, in a step."""

    wiring: Wiring
    rules: LayerRules
    inputs: dict[str, Shape] = field(default_factory=dict)
    """By the name of the input."""
    unsettled: set[str] = field(default_factory=set)
    """Calls of which is not known yet what axes are batch and time."""

    def split(
        self, name: str, value: TracedTensor, x: Tensor, lead: int | None
    ) -> tuple[int, Shape]:
        """Return the leading axes of ``x``, and the shape that its sources give in a step."""
        shape, whole = tuple(x.shape), value.whole
        start = value.lead
        if lead is None:
            if start is None:
                lead = min(value.least + 1, x.dim() - 1)
            else:
                lead = matching(shape, prod(whole[:start]), whole[start:], start)
        if start is None and lead is not None:
            start = matching(whole, prod(shape[:lead]), shape[lead:], lead)
        fits = lead is not None and start is not None and start >= value.least
        if not fits or prod(whole[start:]) != prod(shape[lead:]):
            raise ValueError(
                f"{name} receives {shape}, cut or folded out of {whole} from "
                f"{named(value.sources)}; only batch and time may be cut, folded or stacked"
            )
        given = whole[start:]
        if not value.parts:
            for source in value.sources:
                self._settle(name, source, given)
        return int(lead or 0), given

    def _settle(self, receiver: str, source: Source, given: Shape) -> None:
        """Note which shape the model's input has in a step, and what was made of it as it is."""
        before = self.inputs.get(source.state or "input")
        if source.name in self.unsettled:
            before = self.wiring.calls[source.name][0].out or None
        elif source.name is not None:
            return
        if source.name is not None and before == given:
            return  # settled already: a cycle ends here
        if before not in (None, given):
            raise ValueError(
                f"{receiver} takes {named((source,))} as {given} in a step, another module took it "
                f"as {before}"
            )
        if source.name is None:
            self.inputs[source.state or "input"] = given
            return
        (call,) = self.wiring.calls[source.name]
        self.wiring.calls[source.name] = [call._replace(source_shape=given, shape=given, out=given)]
        for further in call.sources:
            self._settle(receiver, further, given)

    def parts(
        self, module: nn.Module, value: TracedTensor, given: Shape, shape: Shape
    ) -> Sequence[nn.Module]:
        """Return a module for each of the tensors side by side that a module takes, if it has."""
        if not value.parts or given != shape or len(given) != -value.axis:
            return ()
        try:
            return self.rules.split_input(module, [p.tensor.shape[value.axis] for p in value.parts])
        except TypeError:
            return ()

    def divided(self, whole: Call, value: TracedTensor, modules: Sequence[nn.Module]) -> list[Call]:
        """Return a call of a module for each of the tensors that lie side by side."""
        calls, name = [], repr(whole.name)
        _bias_with_signal(modules, value.parts)
        for i, (module, part) in enumerate(zip(modules, value.parts, strict=True)):
            _, given = self.split(name, part, part.tensor, part.tensor.dim() + value.axis)
            shape = (part.tensor.shape[value.axis], *whole.shape[1:])
            calls.append(Call(f"{whole.name}.{i}", module, part.sources, given, shape, whole.out))
        return calls

    def placed(self, receiver: str, value: TracedTensor, given: Shape) -> TracedTensor:
        """Return tensors side by side as a sum: each in its place, with zeros beside it."""
        if len(given) != -value.axis or len(given) > 3:
            raise ValueError(
                f"{receiver} receives {named(value.sources)} side by side along an axis of "
                f"{given} that is not the first; this is not supported: put channels or features "
                "side by side"
            )
        whole = Call("cat()", nn.Identity(), value.sources, given, given, given)
        widths = [part.tensor.shape[value.axis] for part in value.parts]
        layers = [
            selection(given[0], sum(widths[:i]), width, len(given) - 1)
            for i, width in enumerate(widths)
        ]
        divide = partial(self.divided, value=value, modules=layers)
        name = self.wiring.take_up(value, whole, in_its_step=True, divide=divide)
        lead = len(value.whole) - len(given)
        sources = tuple(Source(call.name) for call in self.wiring.calls[name])
        return replace(value, sources=sources, lead=lead, parts=())


def _bias_with_signal(modules: Sequence[nn.Module], parts: Sequence[TracedTensor]) -> None:
    """Let the bias of a layer whose input lies side by side act in the first step, too.

    Changes ``modules``, a layer for each of ``parts``, of which one has the bias: it goes to one
    whose part is made in the step itself.
    """
    owner = next((m for m in modules if getattr(m, "bias", None) is not None), None)
    now = [
        module
        for module, part in zip(modules, parts, strict=True)
        if part.sources and not any(source.late for source in part.sources)
    ]
    if owner is not None and now and not any(owner is module for module in now):
        now[0].register_parameter("bias", owner.get_parameter("bias"))
        owner.register_parameter("bias", None)
