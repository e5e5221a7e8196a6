"""Proof before a file leaves: a model as its user calls it, beside its graph's strict reference.

It runs over several steps, on the sample's values and again, from a reset, on drawn ones that make
every layer fire. What each of its modules gives is compared with what the node gives for the same
input from the same state: a rounding counts once, and not for the steps after it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, NamedTuple

import nir
import torch
from torch import Tensor, nn

from snu_plugin.graph.calling import (
    Sample,
    by_name,
    called_with,
    carried_on,
    detached_copy,
    returned,
    undisturbed,
)
from snu_plugin.graph.discretisation import discretise
from snu_plugin.graph.layer_state import StepError, everything, held
from snu_plugin.graph.probe import probe, shares_fired
from snu_plugin.graph.reference_network import Network
from snu_plugin.graph.replay import replay
from snu_plugin.graph.torch_rules import BATCH_NORMS
from snu_plugin.graph.traced_tensor import Shape, tensors
from snu_plugin.graph.validate import STATEFUL
from snu_plugin.graph.watch import Trace

STEPS = 32, 128
"""How many steps are checked: at least, and of longer samples at most."""

BATCH = 4
"""How many sequences are checked."""

RATE = 0.3
"""Of the spikes that are drawn where the sample is silent."""

TRIES = 24
"""How many inputs are tried until every layer fires."""

TRIED = 16
"""Steps of such a try."""


class Calling(NamedTuple):
    """How a model is called over time."""

    axis: int | None
    """Axis of its input that is time; ``None``: one call takes what is no sequence."""
    repeated: bool = False
    """Whether one call makes all steps, with the same input in each."""


@dataclass
class Observed:
    """What a run of the model gave, each ``(T, B, ...)``."""

    fed: dict[str, Tensor]
    """What went in, ``(T, *batch, ...)``, by Input; one step of what is the same in each."""
    x: dict[str, Tensor]
    y: dict[str, Tensor]
    """By Output; from ``first`` on."""
    first: dict[str, int]
    given: dict[str, Tensor] = field(default_factory=dict)
    """What the module of each node gave, as far as it is known."""
    taken: dict[str, Tensor] = field(default_factory=dict)
    """What it received."""


class Disagreement(ValueError):
    """The model gives something else than its graph."""

    def __init__(self, message: str, step: int, calls: list[Sample]) -> None:
        super().__init__(message)
        self.step, self.calls = step, calls


class Unclear(ValueError):
    """What the model gives cannot be laid out in time."""


def prove(
    model: nn.Module,
    graph: nir.NIRGraph,
    sample: Sample,
    found: Trace,
    gives: Mapping[str, str],
    again: Callable[[Sample, Sequence[Sample]], Any],
) -> dict[str, Any]:
    """Show that ``graph`` computes what ``model`` does, or raise.

    Args:
        model: As its user calls it; copies of it run, in evaluation mode.
        graph: Its graph.
        sample: What it is called with.
        found: Its trace on the sample.
        gives: The node of each of its modules, by name.
        again: Traces the model on what its calls get; asked why they disagree.

    Returns:
        What to declare: the steps and sequences compared, the share of neurons of each node that
        fired, and the share of spikes left out because a rounding decides them.

    Raises:
        Disagreement: If they differ; names the first step and node, and why, where it can be told.
        StepError: If a later step does something else than the first.
    """
    worst: Disagreement | None = None
    for calling in _callings(found, sample):
        try:
            return _Proof(model, graph, sample, found, gives, calling).run()
        except Disagreement as error:
            worst = error if worst is None or error.step >= worst.step else worst
    assert worst is not None
    try:
        again(worst.calls[0], worst.calls[1:])
    except StepError:
        raise
    except (TypeError, ValueError):
        pass  # No step that differs: the disagreement itself says where.
    raise worst


def _callings(found: Trace, sample: Sample) -> list[Calling]:
    """Return how a model may be called; of several, one is.

    A model that takes two leading axes at once and cuts none either has layers over whole sequences
    or is one step of two batch axes; of a single step, a loop cuts none either: its outputs tell.
    """
    if found.time is not None:
        return [Calling(found.time)]
    if found.steps > 1:
        return [Calling(None, repeated=True)]
    if len(_longest_lead(found, sample)) < 2:
        return [Calling(None)]
    return [Calling(0), Calling(1), Calling(None)]


class _Proof:
    """One way to call a model, and what came of it."""

    def __init__(
        self,
        model: nn.Module,
        graph: nir.NIRGraph,
        sample: Sample,
        found: Trace,
        gives: Mapping[str, str],
        calling: Calling,
    ) -> None:
        self.model, self.sample, self.found, self.calling = model, sample, found, calling
        self.samples = by_name(sample)
        self.lead = _longest_lead(found, sample)
        used = {name: len(shape) for name, shape in found.input_shapes.items()}
        self.axes = {n: x.dim() - used.get(n, len(self.lead)) for n, x in self.samples.items()}
        """How many axes of each input are batch and time."""
        self.forgets = False
        """Whether the model gives states that it takes in no call."""
        self.first = next(iter(self.samples.values()))
        like = next((p for p in model.parameters() if p.is_floating_point()), self.first)
        self.dtype = like.dtype if like.is_floating_point() else torch.get_default_dtype()
        self.discrete = discretise(graph)
        dtype = torch.float32 if self.dtype.itemsize < 4 else self.dtype
        self.net = Network(self.discrete, dtype).to(self.first.device)
        self.gives = _modules(model, gives, self.net.names)
        self.ties = self.total = 0
        self.fired: dict[str, float] = {}
        self.node_of = {
            output.name: node
            for output in found.outputs
            if (node := output.name.replace("/", "_")) in self.discrete.outputs
        }
        """The Output of each tensor that the model returns and that leaves."""
        self.outputs = {o.name: o.shape for o in found.outputs if o.name in self.node_of}

    def run(self) -> dict[str, Any]:
        """Compare on the sample's values, then on drawn ones; return what to declare."""
        seen = self._first()
        self._compare(seen, "the sample's values")
        drawn = self._observe(self._drawn(seen))
        self._compare(drawn, "drawn values")
        steps, batch = next(iter(drawn.x.values())).shape[:2]
        declared = {"steps": steps, "batch": batch, "fired": self.fired}
        if silent := [name for name, share in self.fired.items() if not share]:
            declared["silent"] = silent
            warnings.warn(
                f"no neuron of {', '.join(silent)} could be made to fire: what it does when it "
                "fires was not compared; give a sample that makes it fire",
                stacklevel=5,
            )
        return declared | ({"ties": self.ties / self.total} if self.ties else {})

    def _first(self) -> Observed:
        """Run the model on the sample, repeated to some steps; else as far as it goes.

        Models that were written for one number of steps or sequences take no other.
        """
        batch = tuple(n if i else BATCH for i, n in enumerate(self._batch_axes()))
        length = 1 if self.calling.axis is None else self.lead[self.calling.axis]
        steps = min(max(length, STEPS[0]), STEPS[1])
        tries = [(steps, batch), (length, batch), (length, self._batch_axes())]
        if self.calling.axis is None:
            tries = [(steps, batch), (steps, self._batch_axes())]
        *some, whole = dict.fromkeys(tries)
        for steps, axes in some:
            try:
                return self._observe(self._tiled(steps, axes))
            except Exception:
                continue
        return self._observe(self._tiled(*whole))

    def _batch_axes(self) -> Shape:
        return tuple(n for i, n in enumerate(self.lead) if i != self.calling.axis)

    def _tiled(self, steps: int, batch: Shape) -> dict[str, Tensor]:
        """Return the sample as ``(T, *batch, ...)``, cut or repeated in time, by Input."""
        axis, found = self.calling.axis, {}
        for name, x in self.samples.items():
            timed = axis is not None and self.axes[name] == len(self.lead)
            x = x.movedim(axis, 0) if timed and axis is not None else x[None]
            if batch:
                x = x[:, torch.arange(batch[0], device=x.device) % x.shape[1]]
            if timed or (axis is None and not self.calling.repeated):
                x = x[torch.arange(steps, device=x.device) % len(x)]
            found[name] = x
        return found

    def _flat(self, fed: Mapping[str, Tensor], steps: int | None = None) -> dict[str, Tensor]:
        """Return what is fed as ``(T, B, ...)``, what is constant as often as there are steps."""
        length = steps or max(map(len, fed.values()))
        found = {}
        for name, x in fed.items():
            flat = x.reshape(len(x), -1, *self._shape(name))
            found[name] = (flat.expand(length, *flat.shape[1:]) if len(x) == 1 else flat)[:length]
        return found

    def _shape(self, name: str) -> Shape:
        """Return the shape of an input in a step."""
        return tuple(self.samples[name].shape[self.axes[name] :])

    def _inputs(self, x: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what the graph's Inputs receive of what the model gets."""
        if len(self.discrete.inputs) == len(x) == 1:
            return dict(zip(self.discrete.inputs, x.values(), strict=True))
        return {name: x[name] for name in self.discrete.inputs}

    def _drawn(self, seen: Observed) -> dict[str, Tensor]:
        """Return other values than the sample's: drawn from it, scaled until every layer fires.

        Some sequences get random signs, more, or less; three steps are silent.
        """
        source = torch.Generator().manual_seed(0)
        tried = min(TRIED, len(next(iter(seen.x.values()))))
        drawn = [self._draw(name, x, source) for name, x in self._flat(seen.fed).items()]
        widths = [prod(x.shape[2:]) for x in drawn]
        spiking = [name for name in self.net.names if self.discrete.spikes(name)]

        def split(x: Tensor) -> dict[str, Tensor]:
            """Return what is given for each input, ``(T, B, ...)``; what is constant has T = 1."""
            parts = zip(seen.fed.items(), torch.split(x, widths, -1), strict=True)
            return {
                name: part[: len(fed)]
                .reshape(-1, x.shape[1], *self._shape(name))
                .to(self.samples[name])
                for (name, fed), part in parts
            }

        def fired(x: Tensor) -> Mapping[str, float]:
            begin = {n: part[:tried] for n, part in self._flat(split(x), len(x)).items()}
            return shares_fired(self.net.run(self._inputs(begin), keep=spiking)[0])

        together = torch.cat([x.flatten(2) for x in drawn], -1)
        found = probe(fired, together.shape, given=together, tries=TRIES).x
        kept = split(found[:, : together.shape[1]])  # several may lie side by side
        return {name: part.reshape(seen.fed[name].shape) for name, part in kept.items()}

    def _draw(self, name: str, like: Tensor, source: torch.Generator) -> Tensor:
        """Return values drawn from an input, of the shape of ``like``, ``(T, B, ...)``."""
        values = self.samples[name].detach().flatten().cpu()
        shape, half = like.shape, len(like) // 2
        if bool(values.any()):
            drawn = values[torch.randint(len(values), shape, generator=source)].float()
        else:
            drawn = (torch.rand(shape, generator=source) < RATE).float()
        if values.is_floating_point():
            signs = torch.randint(0, 2, shape, generator=source) * 2 - 1
            drawn[half:, 0::4] *= signs[half:, 0::4]
            drawn[:, 1::4] *= signs[:, 1::4]
            drawn[:, 2::4] *= 4
            drawn[:, 3::4] *= 0.25
        if half > 3:
            drawn[half : half + 3] = 0
        return drawn

    @torch.no_grad()
    def _observe(self, fed: dict[str, Tensor]) -> Observed:
        """Run a copy of the model on what is ``fed``, from a reset."""
        model = detached_copy(self.model)
        for module in model.modules():
            module.training = False
        _reset(model, self.found)
        given: dict[str, list[Tensor]] = {}
        taken: dict[str, list[Tensor]] = {}
        for name, node in self.gives.items():

            def keep(module: nn.Module, args: Any, kwargs: Any, y: Any, node: str = node) -> None:
                first = next(tensors((*args, *kwargs.values())), None)
                if first is not None:
                    taken.setdefault(node, []).append(first.clone())
                given.setdefault(node, []).append(next(tensors(y)).clone())

            model.get_submodule(name).register_forward_hook(keep, prepend=True, with_kwargs=True)
        with undisturbed(model, *fed.values()):
            results = list(self._results(model, fed))
        batch, axis = next(iter(self._flat(fed).values())).shape[1], self.calling.axis
        outputs = dict[str, Tensor]()
        for name, shape in self.outputs.items():
            y = _in_time([result[name] for result in results], shape, batch, axis)
            if y is None:
                raise ValueError(
                    f"the model gives {tuple(results[0][name].shape)}; that are no steps of "
                    f"{batch} sequences of {shape}"
                )
            outputs[name] = y
        shapes, takes = self.discrete.shapes, self.discrete.input_shapes
        steps = {n: _in_time(c, shapes[n], batch, axis) for n, c in given.items()}
        inputs = {n: _in_time(c, takes[n], batch, axis) for n, c in taken.items()}
        length = max(
            [*map(len, outputs.values()), *(len(y) for y in steps.values() if y is not None)]
        )
        whole = self.lead[axis] if axis is not None else length
        first = {name: self._begins(name, len(y), length, whole) for name, y in outputs.items()}
        x = self._flat(fed, length)
        return Observed(fed, x, outputs, first, _whole(steps, length), _whole(inputs, length))

    def _begins(self, name: str, steps: int, length: int, whole: int) -> int:
        """Return the step that an output begins with, of a model that returns some steps only."""
        if steps == length:
            return 0
        last = self.found.last[name]
        return length - steps if last + steps == whole else last

    def _results(self, model: nn.Module, fed: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
        """Yield what each call of the model returns, by Output."""
        states: tuple[Any, ...] = ()
        for given in self._calls(fed):
            given = {name: x.clone() for name, x in given.items()}  # a model may write into it
            result = called_with(model, self.sample, given, states)
            states = carried_on(model, result) if isinstance(self.sample, Tensor) else ()
            held_none = any(not paths for paths in self.found.states.values())
            self.forgets = held_none and not states and len(list(tensors(result))) > 1
            found = returned(result)
            y = found.outputs | found.beside
            yield {name: y[name].clone() for name in self.outputs}

    def _calls(self, fed: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
        """Return what each call of the model gets."""
        axis = self.calling.axis
        if axis is not None:
            timed = {name for name in fed if self.axes[name] == len(self.lead)}
            return [{n: x.movedim(0, axis) if n in timed else x[0] for n, x in fed.items()}]
        steps = max(map(len, fed.values()))
        return [{name: x[t % len(x)] for name, x in fed.items()} for t in range(steps)]

    @torch.no_grad()
    def _compare(self, seen: Observed, what: str) -> None:
        """Raise where the graph gives something else than the model did."""
        x = self._inputs(seen.x)
        values, _ = self.net.run(x)
        spikes = {name: y for name, y in values.items() if self.discrete.spikes(name)}
        for name, share in shares_fired(spikes).items():
            self.fired[name] = max(share, self.fired.get(name, 0.0))
        expected = {
            self.node_of[name]: (values[self.node_of[name]][seen.first[name] :], y)
            for name, y in seen.y.items()
        } | {name: (values[name], y) for name, y in seen.given.items()}
        if all(torch.equal(own[: len(y)].to(y), y) for own, y in expected.values()):
            return
        given = {name: (0, y) for name, y in seen.given.items()}
        given |= {self.node_of[n]: (seen.first[n], y) for n, y in seen.y.items()}
        result = replay(self.discrete, x, given, seen.taken, self._rounding(), self._folded_sizes())
        self.ties, self.total = self.ties + result.ties, self.total + result.total
        if result.difference is None:
            return
        found = result.difference
        steps = len(next(iter(x.values())))
        raise Disagreement(
            f"the model and its graph disagree, first in step {found.step + 1} of {steps}, on "
            f"{what}: node {found.node!r} gives {found.expected:.6g}, the model "
            f"{found.actual:.6g}; {self._reason(found)}",
            found.step,
            [self._as_sample(given) for given in self._calls(seen.fed)],
        )

    def _as_sample(self, given: dict[str, Tensor]) -> Sample:
        """Return what a call gets as the sample is given."""
        if isinstance(self.sample, Mapping):
            return given
        return tuple(given.values()) if len(given) > 1 else next(iter(given.values()))

    def _rounding(self) -> float:
        """Return how the model's numbers are rounded: as the coarsest that it holds."""
        kept = [
            tensor
            for module in self.model.modules()
            for tensor in everything((*module.parameters(False), *vars(module).values()))
        ]
        eps = max(
            torch.finfo(x.dtype).eps for x in (*kept, self.net.anchor) if x.is_floating_point()
        )
        return max(eps, 2.0**-10) if self.first.device.type == "cuda" else eps

    def _folded_sizes(self) -> dict[str, Tensor]:
        """Return how large the terms of folded batch norms are, by node.

        The model adds and subtracts them one by one: their roundings stay where they cancel.
        """
        sizes = {}
        for name, node in self.gives.items():
            module = self.model.get_submodule(name)
            if isinstance(module, BATCH_NORMS) and module.running_mean is not None:
                assert module.running_var is not None
                scale = (module.running_var + module.eps).rsqrt()
                scale = scale if module.weight is None else scale * module.weight.abs()
                size = module.running_mean.abs() * scale
                size = size if module.bias is None else size + module.bias.abs()
                width = len(self.discrete.shapes[node]) - 1
                sizes[node] = 2 * size.detach().double().reshape(-1, *[1] * width)
        return sizes

    def _reason(self, found: Any) -> str:
        if self.forgets and found.step and self.calling.axis is None:
            return (
                "the model gives states and takes none, so that its neurons start anew in every "
                "call: let it take them, as a second argument that may be left out"
            )
        if found.input_differs:
            return "there the module receives something else than the outputs that the graph sums"
        if type(self.discrete.nodes[found.node]).__name__ in STATEFUL:
            if not found.step:
                return "the model begins with a state that the graph does not carry"
            return "the model's state is not the one that the step before left"
        return "the model computes it with other weights, or more than them, in that step"


def _longest_lead(found: Trace, sample: Sample) -> Shape:
    """Return the batch and time axes of the input that has most of them."""
    shapes = found.input_shapes
    leads = [x.shape[: x.dim() - len(shapes[n])] for n, x in by_name(sample).items() if n in shapes]
    return max((tuple(lead) for lead in leads), key=len)


def _modules(model: nn.Module, gives: Mapping[str, str], nodes: Sequence[str]) -> dict[str, str]:
    """Return the node of each module of a model, by names of what was traced.

    What an adapter split into parts gives what the last of them gives. A part that is a number is
    one of several that add up.
    """
    modules, found = dict(model.named_modules()), dict[str, str]()
    for name, node in gives.items():
        while name not in modules and not name.rpartition(".")[2].isdigit():
            name = name.rpartition(".")[0]
        if name in modules and node in nodes:
            found[name] = node
    return found


def _reset(model: nn.Module, found: Trace) -> None:
    """Put the states that a copy of the model holds from earlier use back to where they begin.

    Layers of snnTorch, and others after its example, have ``reset_mem`` for that.
    """
    modules = dict(model.named_modules())
    for module in modules.values():
        if callable(forget := getattr(module, "reset_mem", None)):
            forget()
    for name, paths in found.states.items():
        for path, tensor in held(modules[name]) if name in modules else ():
            if path in paths and not isinstance(tensor, nn.Parameter):
                tensor.zero_()


def _in_time(calls: Sequence[Tensor], shape: Shape, batch: int, axis: int | None) -> Tensor | None:
    """Return what some calls gave as ``(T, B, *shape)``; ``None`` if it cannot be laid out so."""
    parts = []
    for y in calls:
        lead = y.shape[: y.dim() - len(shape)]
        steps, left = divmod(prod(lead), batch)
        if left or tuple(y.shape[len(lead) :]) != shape or not steps:
            return None
        if steps > 1 and len(lead) == 1 and axis == 1:
            y, lead = y.reshape(batch, steps, *shape), torch.Size((batch, steps))
        if steps > 1 and len(lead) > 1 and lead[0] != steps and lead[1] == steps:
            y = y.movedim(1, 0)
        parts.append(y.reshape(steps, batch, *shape))
    return torch.cat(parts)


def _whole(signals: Mapping[str, Tensor | None], length: int) -> dict[str, Tensor]:
    """Return the signals that are known in every step."""
    return {name: y for name, y in signals.items() if y is not None and len(y) == length}
