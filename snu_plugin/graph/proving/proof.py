"""Proof before a file leaves: a model as its user calls it, beside its graph's strict reference.

It runs over several steps, on the sample's values and again, from a reset, on drawn ones that make
every layer fire. What each of its modules gives is compared with what the node gives for the same
input from the same state: a rounding counts once, and not for the steps after it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import nir
import torch
from torch import Tensor, nn

from snu_plugin.graph.discretisation import DiscreteGraph, discretise_checked
from snu_plugin.graph.flattening import checked_graph
from snu_plugin.graph.proving.observation import Observed, Observer
from snu_plugin.graph.proving.probe import shares_fired
from snu_plugin.graph.proving.replay import ModelRun, replay_one
from snu_plugin.graph.proving.sample_layout import SampleLayout, callings, other_inputs
from snu_plugin.graph.proving.settled import settled
from snu_plugin.graph.reference_network import Network
from snu_plugin.graph.rules.torch_rules import BATCH_NORMS, start
from snu_plugin.graph.tracing.calling import Sample
from snu_plugin.graph.tracing.layer_state import StepError, everything
from snu_plugin.graph.tracing.trace import Trace
from snu_plugin.graph.validate import STATEFUL

STEPS_OF_A_MEAN = 3
"""Steps at least, of which one less tells whether something depends on their number."""


class Disagreement(ValueError):
    """The model gives something else than its graph."""

    def __init__(self, message: str, step: int, calls: list[Sample]) -> None:
        super().__init__(message)
        self.step, self.calls = step, calls


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
    discrete, worst, proofs = discretise_checked(checked_graph(graph)), None, list[_Proof]()
    for calling in callings(found, sample):
        proofs.append(_Proof(model, discrete, found, gives, SampleLayout(found, sample, calling)))
        try:
            return proofs[-1].run()
        except Disagreement as error:
            worst = error if worst is None or error.step >= worst.step else worst
    assert worst is not None
    try:
        again(worst.calls[0], worst.calls[1:])
    except StepError:
        raise
    except (TypeError, ValueError):
        pass  # No step that differs: the disagreement itself says where.
    for steps in filter(None, (proof.steps_alone() for proof in proofs)):
        raise Disagreement(
            f"the model and its graph agree over the {steps} steps of the sample, and not over "
            "one less, or more: what it gives depends on how many there are, as a mean over time "
            "does; return the sum, and divide outside",
            worst.step,
            worst.calls,
        )
    raise worst


class Compared(NamedTuple):
    """What a model and its graph were compared on."""

    steps: int
    batch: int
    fired: dict[str, float]
    """Share of the neurons of each layer that fired."""
    ties: int = 0
    """Spikes that a rounding decides."""
    total: int = 0
    """Spikes of which that was asked."""

    def and_then(self, other: Compared) -> Compared:
        """Return what was compared here and there."""
        fired = {name: max(share, self.fired[name]) for name, share in other.fired.items()}
        return other._replace(
            fired=fired, ties=self.ties + other.ties, total=self.total + other.total
        )


class _Proof:
    """One way to call a model, and what came of it."""

    def __init__(
        self,
        model: nn.Module,
        discrete: DiscreteGraph,
        found: Trace,
        gives: Mapping[str, str],
        layout: SampleLayout,
    ) -> None:
        self.model, self.layout, self.discrete = model, layout, discrete
        self.given = next(iter(layout.samples.values()))
        like = next((p for p in model.parameters() if p.is_floating_point()), self.given)
        kind = like.dtype if like.is_floating_point() else torch.get_default_dtype()
        dtype = torch.float32 if kind.itemsize < 4 else kind
        self.net = Network(self.discrete, dtype).to(self.given.device)
        self.gives = _modules(model, gives, self.net.names)
        self.node_of = {
            output.name: node
            for output in found.outputs
            if (node := output.name.replace("/", "_")) in self.discrete.outputs
        }
        """The Output of each tensor that the model returns and that leaves."""
        shapes = {o.name: o.shape for o in found.outputs if o.name in self.node_of}
        self.observer = Observer(model, found, self.gives, shapes, self.discrete, layout)

    def run(self) -> dict[str, Any]:
        """Compare on the sample's values and on drawn ones; return what to declare."""
        disagreement, found = None, None
        try:
            found = self._together()
        except Disagreement as error:
            disagreement = error
        if found is None:
            seen = self.observer.first()
            drawn = self.observer.observe(self._driven(seen.fed))
            found = self._compare(seen, "the sample's values")
            found = found.and_then(self._compare(drawn, "drawn values"))
        if disagreement is not None:
            raise Disagreement(
                f"the model and its graph agree on {found.batch} sequences, and not on more: what "
                "it gives one depends on how many there are, or on the others; compute each of "
                f"them alone ({disagreement})",
                disagreement.step,
                disagreement.calls,
            )
        if self.observer.again:
            raise StepError(self.observer.again)
        declared = {"steps": found.steps, "batch": found.batch, "fired": found.fired}
        if silent := [name for name, share in found.fired.items() if not share]:
            declared["silent"] = silent
            warnings.warn(
                f"no neuron of {', '.join(silent)} could be made to fire: what it does when it "
                "fires was not compared; give a sample that makes it fire",
                stacklevel=6,
            )
        return declared | ({"ties": found.ties / found.total} if found.ties else {})

    def steps_alone(self) -> int | None:
        """Return how many steps the sample has, if they agree over so many, and not over less."""
        own = self.observer.samples()[-1]
        steps = len(next(iter(own.values())))
        if self.layout.calling.axis is None or steps < STEPS_OF_A_MEAN:
            return None
        less = {name: x[:-1] if len(x) == steps else x for name, x in own.items()}
        try:
            self._compare(self.observer.observe(own), "the sample's values")
            self._compare(self.observer.observe(self._driven(own)), "drawn values")
            self._compare(self.observer.observe(less), "fewer steps")
        except Disagreement as error:
            return steps if "fewer steps" in str(error) else None
        except Exception:
            pass  # It runs over no other number of steps.
        return None

    @torch.no_grad()
    def _driven(self, fed: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return other values than those fed, which make every layer of the graph fire."""
        fires = [name for name in self.net.names if self.discrete.spikes(name)]
        return other_inputs(
            self.layout, fed, lambda x: self.net.run(self._inputs(x), keep=fires)[0]
        )

    def _together(self) -> Compared | None:
        """Compare on both in one run, side by side; ``None`` where the model does not take that.

        Then each is run alone: a model may be written for one number of sequences. If they
        disagree, the sample's values are told of first. Some steps are silent in all sequences:
        models may do something else then.
        """
        fed, *_ = self.observer.samples()
        if not self.layout.batch:
            return None
        other = self._driven(fed)
        both = {name: torch.cat([x, other[name]], 1) for name, x in fed.items()}
        for name, x in other.items():
            both[name][~x.flatten(1).any(1)] = 0
        try:
            seen = self.observer.observe(both, taking=False)
            found = self._compare(seen, "the sample's values, or drawn ones")
        except Disagreement:
            raise
        except Exception:
            return None
        return found._replace(batch=found.batch // 2)

    def _inputs(self, x: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what the graph's Inputs receive of what the model gets."""
        if len(self.discrete.inputs) == len(x) == 1:
            return dict(zip(self.discrete.inputs, x.values(), strict=True))
        return {name: x[name] for name in self.discrete.inputs}

    @torch.no_grad()
    def _compare(self, seen: Observed, what: str) -> Compared:
        """Raise where the graph gives something else than the model did."""
        x = self._inputs(seen.x)
        given = {name: (0, y) for name, y in seen.given.items()}
        given |= {self.node_of[n]: (seen.first[n], y) for n, y in seen.y.items()}
        own = settled(self.net, x, given)
        steps, batch = next(iter(x.values())).shape[:2]
        compared = Compared(steps, batch, shares_fired(own.spikes))
        if not own.apart:
            return compared
        sizes = self._folded_sizes() | self._beginnings()
        run = ModelRun(self.discrete, x, given, seen.taken, self._rounding(), sizes)
        results = [replay_one(name, where, run) for name, where in own.apart.items()]
        found = min(
            (r.difference for r in results if r.difference),
            key=lambda difference: difference.step,
            default=None,
        )
        if found is None:
            total = sum(y.numel() for name, (_, y) in given.items() if name in own.spikes)
            ties = sum(result.ties for result in results)
            return compared._replace(ties=ties, total=total if ties else 0)
        raise Disagreement(
            f"the model and its graph disagree, first in step {found.step + 1} of {steps}, on "
            f"{what}: node {found.node!r} gives {found.expected:.6g}, the model "
            f"{found.actual:.6g}; {self._reason(found)}",
            found.step,
            [self.layout.as_sample(given) for given in self.layout.calls(seen.fed)],
        )

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
        return max(eps, 2.0**-10) if self.given.device.type == "cuda" else eps

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

    def _beginnings(self) -> dict[str, Tensor]:
        """Return how far from zero the neurons of a module begin, by node.

        A graph counts their potentials from there, and the module adds numbers of that size.
        """
        sizes = dict[str, Tensor]()
        for name, node in self.gives.items():
            module, shape = self.model.get_submodule(name), self.discrete.input_shapes[node]
            states = everything(start(module, self.given.new_zeros((1, *shape))))
            if largest := max((float(x.abs().max()) for x in states if x.numel()), default=0.0):
                parts = {n for n in self.discrete.neurons if n.startswith(f"{name}.")} | {node}
                sizes |= {part: torch.tensor(largest) for part in parts}
        return sizes

    def _reason(self, found: Any) -> str:
        if self.observer.again:
            return self.observer.again
        if self.observer.forgets and found.step and self.layout.calling.axis is None:
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
