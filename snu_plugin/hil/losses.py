"""Losses by name, what is taken where none is given, and how far outputs are from a teacher's."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import nir
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snu_plugin import graph
from snu_plugin.accepted import hint, shown

Loss = Callable[[Tensor, Any], Tensor]
"""Outputs ``(T, B, ...)`` and a target to a scalar."""
Teacher = Callable[[Tensor], Tensor]
"""Inputs ``(T, B, ...)`` to outputs ``(T, B, ...)``."""

UNIT_FROM = 64
"""Sequences that the unit of logits is found on, where the first batches have so many."""
WINDOW = 20.0
"""Steps in which a spike is forgotten when spike trains are compared. Ours."""


def classes(output: Tensor, target: Tensor) -> Tensor:
    """Return the cross-entropy of the outputs, summed over time; targets ``(B,)``, whole numbers.

    Of spikes this is snnTorch's ``ce_count_loss``; of membranes the sum is the logit. Targets
    shaped as the outputs are a teacher's, whose sums give the odds.
    """
    if target.shape == output.shape:
        return F.cross_entropy(output.sum(0).flatten(1), target.sum(0).flatten(1).softmax(1))
    return _of_classes(output.sum(0).flatten(1), target)


def last(output: Tensor, target: Tensor) -> Tensor:
    """Return the cross-entropy of the outputs of the last step; targets ``(B,)``."""
    return _of_classes(output[-1].flatten(1), target)


def count(output: Tensor, target: Tensor) -> Tensor:
    """Return the squared error of rates: 1 for the class, 0 for the others; targets ``(B,)``.

    snnTorch's ``mse_count_loss`` for all steps and none, but for a factor of T.
    """
    rates = output.mean(0).flatten(1)
    return F.mse_loss(rates, F.one_hot(target.long(), rates.shape[1]).to(rates))


def _of_classes(logits: Tensor, target: Tensor) -> Tensor:
    """Return the cross-entropy of logits ``(B, classes)``; torch takes int64 alone."""
    return F.cross_entropy(logits, target if target.is_floating_point() else target.long())


def shaped_as(output: Tensor, target: Tensor) -> Tensor:
    """Return targets of the type of the outputs, whose shape they must have.

    Torch would spread smaller ones over steps, so that one-hot classes ask for spikes at each.

    Raises:
        ValueError: For another shape.
    """
    if target.shape != output.shape:
        raise ValueError(
            f"targets have the shape {tuple(target.shape)}, outputs {tuple(output.shape)}; give "
            "a target for each step, sequence and output, or classes (B,) as whole numbers"
        )
    return target.to(output)


def population(number: int) -> Loss:
    """Return the cross-entropy of classes that several outputs side by side stand for.

    Args:
        number: Of classes; the outputs are divided among them evenly, as snnTorch does.

    Raises:
        ValueError: If ``number`` is below 1; when called, for outputs it does not divide.
    """
    if number < 1:
        raise ValueError(f"population takes {number} classes; give a whole number from 1")
    return lambda output, target: _of_classes(population_sums(output, number), target)


def population_sums(output: Tensor, number: int) -> Tensor:
    """Return the sums of so many groups of outputs side by side, over time, ``(B, number)``.

    Raises:
        ValueError: For outputs that so many groups do not share evenly.
    """
    counts = output.sum(0).flatten(1)
    if number < 1 or counts.shape[1] % number:
        raise ValueError(
            f"{counts.shape[1]} outputs are no population of {number} classes; give a number "
            "that divides them"
        )
    return counts.reshape(len(counts), number, -1).sum(2)


def regression(output: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared error; targets ``(T, B, ...)``, shaped as the outputs."""
    return F.mse_loss(output, shaped_as(output, target))


def likelihood(output: Tensor, target: Tensor) -> Tensor:
    """Return the binary cross-entropy of outputs as logits; targets ``(T, B, ...)`` in [0, 1]."""
    return F.binary_cross_entropy_with_logits(output, shaped_as(output, target))


def distance(output: Tensor, taught: Tensor) -> Tensor:
    """Return how far outputs are from a teacher's ``(T, B, ...)``, in shares of its power.

    Spikes (a teacher's outputs are all 0 or 1): the squared difference of the trains, each
    smoothed by an exponential of ``WINDOW`` steps (van Rossum, Neural Comput. 13, 2001), since
    spikes that come a step late are nearly right. Other outputs: the squared difference.
    """
    output, taught = smoothed(output, shaped_as(output, taught))
    power = taught.square().mean()
    return F.mse_loss(output, taught) / torch.where(power > 0, power, 1.0)


def smoothed(output: Tensor, taught: Tensor) -> tuple[Tensor, Tensor]:
    """Return outputs and a teacher's; of spikes what ``exp(-t / WINDOW)`` leaves of both."""
    if not bool(((taught == 0) | (taught == 1)).all()):
        return output, taught

    def filtered(spikes: Tensor) -> Tensor:
        left, kept = [], torch.zeros_like(spikes[0])
        for step in spikes:
            kept = kept * math.exp(-1 / WINDOW) + step
            left.append(kept)
        return torch.stack(left)

    return filtered(output), filtered(taught)


class Described(NamedTuple):
    """A loss, and what it is."""

    function: Loss
    says: str
    """In words."""
    logits: bool = False
    """Whether it takes outputs for logits, so that their unit matters; see ``temperature``."""

    def in_best_unit(self, run: Teacher, pairs: Sequence[tuple[Tensor, Any]]) -> Loss:
        """Return the loss of outputs in the unit in which they are best as logits.

        That of the first batches alone: a few sequences may all be told right, and then ask for
        logits as large as can be.

        Args:
            run: From inputs to outputs.
            pairs: Inputs and targets.
        """
        if not self.logits:
            return self.function
        found, count = list[tuple[Tensor, Any]](), 0
        for x, target in pairs:
            found.append((run(x), target))
            count += x.shape[1]
            if count >= UNIT_FROM:
                break
        unit = unit_of_logits(self.function, found)
        return lambda output, target: self.function(output / unit, target)


LOSSES: Mapping[str, Described] = {
    "rate": Described(classes, "cross-entropy of the spike counts", True),
    "membrane": Described(classes, "cross-entropy of the outputs, summed over time", True),
    "last": Described(last, "cross-entropy of the outputs of the last step", True),
    "count": Described(
        count, "squared error of the firing rates: 1 for the class, 0 for the others"
    ),
    "regression": Described(regression, "mean squared error of the outputs"),
    "likelihood": Described(likelihood, "binary cross-entropy of the outputs as logits"),
}
"""What each name computes; ``population:10`` besides, for 10 classes."""


def _odds(output: Tensor, taught: Tensor) -> Tensor:
    return likelihood(output, taught.sigmoid())


TAUGHT: Mapping[str, Loss] = {
    "rate": classes,
    "membrane": classes,
    "regression": regression,
    "likelihood": _odds,
}
"""What a name computes where targets are a teacher's outputs; others need labels."""


def temperature(loss: Loss, output: Tensor, target: Any) -> float:
    """Return the unit in which outputs are best as the logits that ``loss`` takes them for.

    The temperature of Guo et al., ICML 2017, to a factor of 2: whatever loss a network was trained
    with, in this unit it is neither too sure of itself nor too unsure. 1 for outputs that are all
    alike.
    """
    return unit_of_logits(loss, [(output, target)])


def unit_of_logits(loss: Loss, pairs: Sequence[tuple[Tensor, Any]]) -> float:
    """Return the ``temperature`` of outputs in several batches; each counts by its sequences."""
    outputs = [output.detach() for output, _ in pairs]
    sums = torch.cat([output.sum(0).flatten() for output in outputs])
    spread = float(sums.std()) if len(sums) > 1 else 0.0
    units = [spread * 2.0**n for n in range(6, -13, -1)] if 0 < spread < math.inf else [1.0]

    def total(unit: float) -> float:
        losses = (float(loss(y / unit, t)) for y, (_, t) in zip(outputs, pairs, strict=True))
        return sum(y.shape[1] * each for y, each in zip(outputs, losses, strict=True))

    return min(units, key=total)


def loss_of(loss: str | Loss | None, target: Any, taught: bool) -> Described:
    """Return a loss and what it is.

    Args:
        loss: A function, a name of ``LOSSES``, ``"population:CLASSES"``, or ``None``: from the
            target, whole numbers ``(B,)`` are classes, numbers for every output a regression.
        target: The first one.
        taught: Whether targets are a teacher's outputs; ``None`` is then ``distance``.

    Raises:
        LookupError: For another name, or one that needs labels where a teacher is given.
        ValueError: If ``None`` cannot be told from the target.
    """
    found = _found(loss, target, taught)
    if isinstance(loss, str) and not isinstance(target, Tensor):
        raise TypeError(
            f"targets are of type {type(target).__name__}, and the loss {loss!r} takes tensors; "
            "give torch.tensor(target), an array of NumPy, or a loss of your own"
        )
    return found._replace(function=partial(_asked, found.function))


def _found(loss: str | Loss | None, target: Any, taught: bool) -> Described:
    """Return a loss as it is; see ``loss_of``."""
    if callable(loss):
        return Described(loss, f"{getattr(loss, '__name__', type(loss).__name__)}, as given")
    if loss is None:
        if taught:
            says = "distance to the teacher's outputs, in shares of their power"
            return Described(distance, says)
        if isinstance(target, Tensor) and not target.is_floating_point() and target.dim() == 1:
            found = LOSSES["membrane"]
            return found._replace(says=f"{found.says}, taken since targets are classes")
        if isinstance(target, Tensor) and target.is_floating_point() and target.dim() > 1:
            found = LOSSES["regression"]
            return found._replace(says=f"{found.says}, taken since targets are real numbers")
        shown = (
            f"{target.dtype} {tuple(target.shape)}" if isinstance(target, Tensor) else type(target)
        )
        raise ValueError(
            f"no loss is known for targets of {shown}; give loss=, a function or one of "
            f"{', '.join(LOSSES)}, population:CLASSES"
        )
    if taught:
        if loss not in TAUGHT:
            raise LookupError(
                f"no loss {loss!r} for a teacher's outputs; give a function, {', '.join(TAUGHT)}, "
                "or none for the distance to them"
            )
        return Described(TAUGHT[loss], f"{LOSSES[loss].says}, towards the teacher's")
    if not isinstance(loss, str):
        raise TypeError(f"loss is a {type(loss).__name__}; give a function, or a name")
    name, _, number = loss.partition(":")
    if name == "population" and number.isdigit():
        says = f"cross-entropy of populations that code {number} classes"
        return Described(population(int(number)), says, True)
    if loss not in LOSSES:
        raise LookupError(
            f"no loss {loss!r}; give {', '.join(LOSSES)}, or population:CLASSES{hint(loss, LOSSES)}"
        )
    return LOSSES[loss]


def _asked(loss: Loss, output: Tensor, target: Any) -> Tensor:
    """Return what a loss says, which must be one number; where it fails, of which shapes."""
    try:
        value: Any = loss(output, target)
    except (IndexError, RuntimeError, TypeError, ValueError) as error:
        if type(error) not in (IndexError, RuntimeError, TypeError, ValueError):
            raise
        given, first = shown(target), ""
        if isinstance(target, Tensor):
            given = f"{target.dtype} of shape {tuple(target.shape)}"
            turned = target.dim() == 1 and output.shape[1] != len(target) == len(output)
            first = " (inputs are (T, B, ...), time first: x.transpose(0, 1)?)" if turned else ""
        raise type(error)(
            f"the loss failed on outputs (T, B, ...) of shape {tuple(output.shape)} and targets "
            f"{given}{first}: {' '.join(str(error).split())}"
        ) from error
    if not isinstance(value, Tensor) or value.numel() != 1:
        given = str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(
            f"the loss returned {given}; it must return a tensor of one number, such as a mean"
        )
    return value


def taught_by(teacher: nir.NIRGraph | Teacher, dt: float | None = None) -> Teacher:
    """Return a function from inputs to the outputs of a teacher, without gradients.

    Args:
        teacher: A graph, run by the strict reference; or a module or function, whose first output
            is taken where it returns several. A module runs as in ``eval()``, and stays as it was.
        dt: Time step of a graph; the chip's, if its own is not to count.
    """
    if not isinstance(teacher, nir.NIRGraph) and not callable(teacher):
        raise TypeError(
            f"teacher is {shown(teacher)}; it must be a nir.NIRGraph, module or function"
        )
    model = graph.network(teacher, dt) if isinstance(teacher, nir.NIRGraph) else teacher

    @torch.no_grad()
    def outputs(x: Tensor) -> Tensor:
        with evaluating(model):
            given: Any = model(x)
        first = given[0] if isinstance(given, tuple) else given
        if not isinstance(first, Tensor):
            raise TypeError(
                f"the teacher returned {shown(first)}; it must return outputs (T, B, ...), or "
                "several values of which they are the first"
            )
        return first

    return outputs


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Have a module run as in ``eval()``, without dropout; afterwards it is as before."""
    learning = [m for m in model.modules() if m.training] if isinstance(model, nn.Module) else []
    for module in learning:
        module.training = False
    try:
        yield
    finally:
        for module in learning:
            module.training = True
