"""Gradients of networks of SNU and sSNU as a sequence goes by, in memory that does not grow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, NoReturn, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from snu_plugin.accepted import one_of
from snu_plugin.neuron import Engine, SNUConfig, State, fire, full, observed, snu_scan, wide
from snu_plugin.training.traces import PerUnit, Source, Traces, Weights, carry, recall

Method = Literal["ostl", "eprop"]


class OnlineState(NamedTuple):
    """What goes from one segment to the next: states and eligibility traces, nothing older."""

    layers: tuple[Traces, ...]
    """Of every layer of units, in the order in which they run."""

    @property
    def numbers(self) -> int:
        """How many numbers that is."""
        return sum(
            t.numel()
            for layer in self.layers
            for t in (*layer.state, *(e for each in layer.of for e in each))
        )


def online(
    network: Callable[..., Any],
    x: Tensor,
    state: OnlineState | None = None,
    *,
    method: Method = "ostl",
    last: bool = False,
) -> tuple[Any, OnlineState]:
    """Run a segment of a sequence so that ``backward`` reaches all segments before it.

    Call it with one segment after the other, each with a loss of its own, and ``.grad`` grows as
    by back-propagation through time over the whole sequence, while nothing but states and
    eligibility traces is kept from segment to segment::

        state = None
        for x_t, target in zip(x.split(1), targets.split(1)):
            y, state = online(net, x_t, state)
            loss(y, target).backward()      # an optimiser may step here too

    **Exact** for networks with one layer of units, whatever comes after it without states, and for
    all networks inside a segment. With several layers the residual from one segment to the next is
    left out: segments of one step are OSTL as published (Bohnstingl et al. 2022, arXiv
    2007.12723), longer ones come closer to the gradient through time. A step of an optimiser
    between segments leaves the traces with what the weights were, as online learning does.

    Args:
        network: Any module or function whose units run by ``sp.SNU``, ``sp.sSNU`` or ``snu_scan``,
            as the layers for sequences of both adapters do, each behind an ``nn.Linear`` (or sums
            of these); called as ``network(x)``. Its units start from ``state``, not from what
            the network hands them. In an ``nn.Sequential`` units may stand among other layers.
        x: The segment, ``(K, B, ...)``; K = 1 is a step.
        state: What the last segment returned; ``None`` begins a sequence.
        method: What layers that are recurrent, or inhibit each other, trace. ``"ostl"``: what each
            unit does to each, exact and dear: ``B n P`` numbers for a layer of n units and P
            parameters, which multiply an n × n matrix in every segment. ``"eprop"``: what each
            unit does to itself (Bellec et al., Nat. Commun. 11, 3625, 2020, eqs. 13 and 14):
            ``B P`` numbers, and from one segment to the next nothing of what went through
            recurrent weights. Other layers are the same with both.
        last: Whether no segment follows. Then nothing is carried on, which saves its time, and the
            state that is returned is empty.

    Returns:
        What the network returned for this segment, without the states of its units if these came
        with it, and what the next segment needs.

    Equations: docs/neurons.md, online learning.

    Raises:
        ValueError: For a network whose gradient traces would miss a part of: a layer of units that
            is driven through something else than products, units of another kind; for an unknown
            method; where gradients are switched off.
    """
    one_of(*get_args(Method)).check("method", method)
    if not torch.is_grad_enabled():
        raise ValueError("gradients are switched off; call online where they are on")
    if isinstance(network, nn.Module):
        others = [type(m).__name__ for m in network.modules() if isinstance(m, nn.RNNBase)]
        if others:
            _refuse(f"torch's {others[0]}")
    learner = _Learner(method, None if state is None else state.layers, last)
    with observed(learner), _Products(learner):
        if isinstance(network, nn.Sequential):
            y = x
            for module in network:
                y = module(y)
                y = y[0] if isinstance(y, tuple) else y
        else:
            y = network(x)
            y = y[0] if isinstance(y, tuple) else y
    learner.finish()
    return y, OnlineState(() if last else tuple(learner.after))


@dataclass(frozen=True)
class _SNUCells:
    """A layer of SNU or sSNU; its states are the potential, and the output, which follows it."""

    config: SNUConfig
    decay: Tensor | None
    threshold: Tensor | None
    recurrent: Tensor | None
    impl: str | Engine | None
    fresh: bool
    """Whether this is the beginning, where the output is 0 whatever the potential."""
    cut: bool = False
    """Whether what recurrent weights bring from before the segment has no gradient."""
    carried = 1

    def __call__(
        self, drive: Tensor, start: tuple[Tensor, ...], constants: Mapping[str, Tensor], /
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        s, y = start
        decay = constants.get("decay", self.decay)
        threshold = constants.get("threshold", self.threshold)
        if not self.fresh:
            follows = fire(
                s - (self.config.threshold if threshold is None else threshold), self.config
            )
            y = y + (follows - follows.detach())  # the value as it was, the gradient as it follows
        if self.cut and self.recurrent is not None:
            with full(drive.device):
                # Adds 0, and takes the gradient away that the scan will send through H.
                none = F.linear(y.detach() - y, self.recurrent.detach())
            drive = torch.cat([drive[:1] + none, drive[1:]])
        outputs, last = snu_scan(
            drive,
            self.config,
            decay=decay,
            threshold=threshold,
            recurrent=self.recurrent,
            state=State(s, y),
            impl=self.impl,
        )
        return outputs, (last.s, last.y)


class _Learner:
    """Runs the layers of units of one segment, and finds out what drives each."""

    def __init__(self, method: Method, before: Sequence[Traces] | None, last: bool) -> None:
        self.method, self.before, self.last = method, before, last
        self.after: list[Traces] = []
        self._known: dict[int, tuple[Tensor, list[Source]]] = {}

    def dense(self, weight: Tensor) -> bool:
        """Return False: ``linear`` takes note of a product however it is computed."""
        return False

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None, y: Tensor) -> None:
        """Note what the product ``y`` was made of."""
        parts: list[Source] = []
        if weight.requires_grad and y.dim() > 2:
            rows = wide(x.detach()).flatten(1, -2)
            parts.append(Weights(weight, rows, lambda of: of.flatten(1, -2)))
        if bias is not None and bias.requires_grad:
            parts.append(PerUnit(bias))
        self._known[id(y)] = y, parts

    def add(self, a: Any, b: Any, y: Tensor) -> None:
        """Note what the sum ``y`` was made of, if it is known of its terms."""
        if all(isinstance(t, Tensor) and t.shape == y.shape for t in (a, b)):
            terms = [self._parts(t) for t in (a, b)]
            if None not in terms:
                self._known[id(y)] = y, [part for term in terms for part in term or ()]

    def _parts(self, x: Tensor) -> list[Source] | None:
        """Return the trained parts of ``x``; ``None``: they are not known."""
        if not x.requires_grad:
            return []
        return self._known[id(x)][1] if id(x) in self._known else None

    def refuse(self, what: str) -> None:
        """Refuse units without a rule."""
        _refuse(what)

    def snu(
        self,
        x: Tensor,
        config: SNUConfig,
        *,
        decay: Tensor | None,
        threshold: Tensor | None,
        recurrent: Tensor | None,
        state: State | None,
        impl: str | Engine | None,
    ) -> tuple[Tensor, State]:
        """Run a layer from where its traces are, and carry them on."""
        number = len(self.after)
        parts = self._parts(x)
        if parts is None:
            raise ValueError(
                f"what drives layer {number} of units comes neither from a Linear nor a sum of "
                "some, so that its traces would miss the parameters on the way; put nothing "
                "between them"
            )
        mixed = recurrent is not None or config.lateral_inhibition is not None
        everything = mixed and self.method == "ostl"
        if config.lateral_inhibition == "batch" or (config.lateral_inhibition and not everything):
            raise ValueError(
                f"layer {number} of units has lateral_inhibition={config.lateral_inhibition!r}, "
                "by which others reset a unit; online learning takes 'sample', by method 'ostl'"
            )
        if everything and x.dim() != 3:
            raise ValueError(
                f"x of layer {number} of units has shape {tuple(x.shape)}; where units act on "
                "each other it must be (K, B, features)"
            )
        trained = {"decay": decay, "threshold": threshold}
        constants = {n: v for n, v in trained.items() if v is not None and v.requires_grad}
        before = None
        if self.before is not None and number < len(self.before):
            before = self.before[number]
            if before.state[0].shape != x.shape[1:]:
                raise ValueError(
                    f"x of layer {number} of units has shape {tuple(x.shape)}, its state is of "
                    f"{tuple(before.state[0].shape)}; begin another sequence with state=None"
                )
        if recurrent is not None and recurrent.requires_grad:
            parts = [*parts, Weights(recurrent, x)]  # its rows are outputs, not there yet
        cells = _SNUCells(
            config, decay, threshold, recurrent, impl, before is None, cut=not everything
        )
        zeros = torch.zeros_like(wide(x.detach()[0]))
        start = (zeros, zeros) if before is None else before.state
        begin = start if before is None else recall(before, parts, constants)
        with observed(None):
            y, end = cells(x, begin, constants)
            if self.last:
                self.after.append(Traces(end, (), everything))
            else:
                self.after.append(self._carried(cells, x, start, end, y, before, parts, constants))
        self._known[id(y)] = y, []
        return y, State(*end)

    def _carried(
        self,
        cells: _SNUCells,
        x: Tensor,
        start: tuple[Tensor, ...],
        end: tuple[Tensor, ...],
        y: Tensor,
        before: Traces | None,
        parts: list[Source],
        constants: Mapping[str, Tensor],
    ) -> Traces:
        """Carry the traces of a layer over a segment of which ``y`` came."""
        drive = wide(x.detach())
        if cells.recurrent is not None:
            echo = torch.cat([start[1][None], wide(y.detach())[:-1]])
            if cells.recurrent.requires_grad:
                parts = [*parts[:-1], Weights(cells.recurrent, echo)]
            if cells.cut:  # each unit by itself: what recurrent weights bring is given
                with full(drive.device):
                    drive = drive + F.linear(echo, cells.recurrent.detach())
                cells = replace(cells, recurrent=None)
        return carry(before, cells, drive, start, end, parts, constants, full=not cells.cut)

    def finish(self) -> None:
        """Check that the network ran what it ran in the last segment."""
        count = len(self.after)
        if not count:
            raise ValueError(
                "the network ran no layer of SNU or sSNU over a sequence; units that take one "
                "step a call keep their own states, use those for sequences"
            )
        if self.before is not None and len(self.before) != count:
            raise ValueError(
                f"the network ran {count} layers of units, the state is of {len(self.before)}; "
                "begin with state=None"
            )


def _refuse(what: str) -> NoReturn:
    raise ValueError(
        f"the network holds {what}, whose past no trace keeps; online learning takes layers of "
        "SNU and sSNU"
    )


class _Products(TorchFunctionMode):
    """Tells a learner of products and sums."""

    def __init__(self, learner: _Learner) -> None:
        super().__init__()
        self._learner = learner

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        y = func(*args, **(kwargs or {}))
        if func is F.linear:
            given = dict(zip(("input", "weight", "bias"), args, strict=False)) | (kwargs or {})
            self._learner.linear(given["input"], given["weight"], given.get("bias"), y)
        elif func in _SUMS and len(args) == 2 and not kwargs:
            self._learner.add(*args, y)
        return y


_SUMS = {torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__}
