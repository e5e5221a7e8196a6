"""Fine-tuning with the chip in the loop."""

from __future__ import annotations

import logging
import math
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import nir
import numpy as np
import torch
from torch import Tensor
from torch.optim import Adam

from snu_plugin.accelerator import Board
from snu_plugin.accepted import BELOW_1, shown, with_known_names
from snu_plugin.hil.adapters import shown_inputs
from snu_plugin.hil.digital import OptimizerFactory
from snu_plugin.hil.guard import FEWEST, answers
from snu_plugin.hil.guard import hold_back as divide
from snu_plugin.hil.loop import FIRST_STEP, Loop, UpdateRecord
from snu_plugin.hil.losses import Loss, Teacher, loss_of, taught_by
from snu_plugin.hil.online import Online
from snu_plugin.hil.preparing import drop_idle, prepared
from snu_plugin.hil.rewriting import Recalibrate, Refresh
from snu_plugin.hil.rules import DigitalOnly, Way, in_turn
from snu_plugin.hil.tuning import History, Tuning

LOGGER = logging.getLogger(__name__)
"""Tells before a rule with pulses begins what it may cost at worst."""

DEFAULT = (Recalibrate(), DigitalOnly())
"""What is done without a ``rule``, as ``snu tune`` does it. What recalibration does needs no
labels; it is what a tuning has to be better than."""

LOOKS, LOOKS_AT_PULSES = 8, 32
"""Times that a tuning is looked at on what is held back; more often where pulses are spent, since
these cannot be taken back."""
NO_PULSES = ", without pulses"
"""What is said where a rule that pulses may not."""


def _meant(name: str) -> str:
    """Return what to do instead of an argument that other trainers have."""
    if name in ("epochs", "passes"):
        return "give the batches as often as they are to be seen: batches * 8"
    return "did you mean digital_lr?" if name in ("lr", "learning_rate") else ""


@partial(with_known_names, otherwise=_meant)
def fine_tune(
    chip: Board,
    batches: Iterable[Any],
    loss: str | Loss | None = None,
    rule: Way | Sequence[Way] | None = None,
    *,
    teacher: nir.NIRGraph | Teacher | None = None,
    digital_lr: float | None = None,
    optimizer: OptimizerFactory = Adam,
    refresh: Refresh | None = None,
    read_every: int | None = None,
    host_s: float = 0.05,
    hold_back: float = 0.2,
    gradient: Online | None = None,
    seen: Callable[[UpdateRecord], None] | None = None,
    progress: Callable[[str], None] | bool = False,
) -> History:
    """Train a network where it stands: on the devices of a programmed, aged chip.

    Every batch runs on the chip; the gradient comes from a twin that multiplies by weights read
    back with noise (``forward``); ``rule`` turns it into SET pulses on the same devices. Gains,
    biases and thresholds are digital and follow their gradients. Weights are never assigned. Time
    advances with every run, reading and pulse, and by ``host_s`` per update. A ``rule`` of your own
    starts from a calibrated chip, or lets ``Recalibrate()`` begin. At the end the chip remembers
    its new weights for ``calibrate``, if it is another than before.

    It does not end worse than it began, as far as the batches that are held back can tell: they are
    run before, on the way and at the end, each several times, for the noise of the measurement.
    Several step sizes are tried on them first; a step that made them worse is taken back and made
    smaller; what does not help by more than that noise is not kept, nor what cannot tell one
    sequence's target from another's. Preparations are judged as well: what makes the chip worse by
    more than the noise is taken back, digital values and adapters; what is kept is the start that
    tuning is judged against. Pulses cannot be taken back: an update spends few at first (one for a
    thousand weights), and more after a look at which they did no harm; the most that a rule may
    spend is logged before it begins (``worst``), with what the first look can still prevent; once
    it is worse than before, a rule spends no more of them, and the digital values alone make up for
    what they did. Neither the scale of the loss matters nor whether it is a sum or a mean. An error
    or Ctrl-C on the way leaves the best digital values that a look found.

    Args:
        chip: The chip, or a board that offers the same operations.
        batches: Pairs of input ``(T, B, ...)`` and whatever ``loss`` takes as target; with a
            teacher inputs alone are enough.
        loss: ``loss(output, target)``, a scalar, where ``output`` is what the chip measured; or a
            name, see ``hil.LOSSES``; ``None``: cross-entropy of the outputs summed over time for
            whole numbers ``(B,)``, squared error for numbers ``(T, B, ...)``; with a teacher the
            distance to its outputs. A cross-entropy by name, or by default, takes outputs in the
            unit in which they are best as logits (Guo et al., ICML 2017).
        rule: How gradients become pulses, one value or several: preparations, done once before the
            first update, and behind them at most one update rule. ``None`` is ``[Recalibrate(),
            DigitalOnly()]``, which spends no pulse.
        teacher: A graph, e.g. of the float network, or a module, whose outputs are the targets.
        digital_lr: First step size of gains, biases and thresholds, in shares of their size;
            ``None`` chooses it by trial (0.01 where nothing is held back); 0 keeps them.
        optimizer: What steps them: a class of ``torch.optim``, or a ``partial`` of one.
        refresh: When worn pairs are written again; ``None`` is ``Refresh()``, without pulses never.
        read_every: Updates from one reading of the weights to the next; ``None``: 1 where the rule
            pulses, else 8, since devices that are not pulsed only drift.
        host_s: Seconds the host takes for one update.
        hold_back: Share of the distinct batches that judge and are not learned from, at least one,
            and up to half of them until they are 8 sequences (of the sequences, where all batches
            are one); of fewer nothing is kept, since a gain could be luck. 0 judges by nothing and
            keeps what the last update left.
        gradient: ``None`` propagates the loss back through time, which keeps all steps of a batch;
            ``Online()`` learns as the sequence goes by, in memory that does not grow with it.
        seen: Called with every record.
        progress: Called with a sentence on what is going on, such as ``3 of 20 updates, loss 1.2``;
            ``True`` shows it on standard error, with the time left.

    Returns:
        A record of every update, with the loss before and after on what was held back, what became
        of the preparations, and the most that the rule could have spent.

    Raises:
        LookupError: For a loss of an unknown name.
        TypeError: For values of ``rule`` in another order.
        ValueError: If a loss is not finite; if there is no batch, or none is known for such
            targets; or if weights are one device each and the rule spends pulses.
    """
    BELOW_1.check("hold_back", hold_back)
    if not hasattr(chip, "read_weights"):
        raise TypeError(
            f"chip is {shown(chip)}; give an Accelerator that holds a network, or another board"
        )
    if torch.is_inference_mode_enabled():
        raise RuntimeError(
            "torch.inference_mode() is on, in which no gradient is kept; call fine_tune outside it"
        )
    preparations, update_rule = in_turn(DEFAULT if rule is None else rule)
    taught = None if teacher is None else taught_by(teacher, chip.layout.dt)
    pairs = _pairs(batches, taught)
    judged = loss_of(loss, pairs[0][1], teacher is not None)
    held = doubt = None
    if hold_back:
        held, pairs = divide(pairs, hold_back)
        doubt = _doubt(held, pairs, "" if isinstance(update_rule, DigitalOnly) else NO_PULSES)
        if doubt is not None:
            update_rule = DigitalOnly()
    loop = Loop(
        rule=update_rule,
        digital_lr=FIRST_STEP if digital_lr is None else digital_lr,
        optimizer=optimizer,
        refresh=refresh or Refresh(),
        read_every=read_every,
        host_s=host_s,
        gradient=gradient,
    )
    loop.check(chip)
    if doubt is not None:
        warnings.warn(doubt, stacklevel=3)
    first = dict(chip.registers)

    def fit(by: Sequence[tuple[Tensor, Any]]) -> Loss:
        return judged.in_best_unit(lambda x: chip.run(x)[0], by)

    # Gradients of the twin are not rounded.
    with torch.autocast("cpu", enabled=False), _told(progress, len(pairs)) as say:
        say("prepares and scores what is held back")
        ways = [shown_inputs(way, pairs[0][0]) for way in preparations]
        done = prepared(chip, ways, held, lambda: fit([*(held or ()), *pairs]), gradient)
        tuning = Tuning.begin(chip, loop, fit(pairs), held)
        tuning.history.prepared, tuning.history.loss = done, judged.says
        if judged.logits:
            tuning.history.loss += ", in the unit in which they are best as logits"
        _learn(tuning, pairs, digital_lr is None, seen, say)
        drop_idle(chip, first)
    return tuning.history


def _learn(
    tuning: Tuning[Any],
    pairs: Sequence[tuple[Tensor, Any]],
    choose_step: bool,
    seen: Callable[[UpdateRecord], None] | None,
    say: Callable[[str], None],
) -> None:
    """Learn from every batch, look at what comes of it on the way, leave the chip at its best."""
    rule = tuning.loop.rule
    pulses = not isinstance(rule, DigitalOnly)
    every = math.ceil(len(pairs) / (LOOKS_AT_PULSES if pulses else LOOKS))
    bound = tuning.history.worst = tuning.worst(rule, len(pairs), every)
    if pulses and bound is not None:
        LOGGER.info(bound.text())
    try:
        if choose_step:
            say("tries steps of several sizes")
            tuning.choose_step(pairs)
        for number, (x, target) in enumerate(pairs, 1):
            record = tuning.update(x, target)
            if seen is not None:
                seen(record)
            say(f"{number} of {len(pairs)} updates, loss {record.loss:.4g}")
            if number % every == 0 or number == len(pairs):
                tuning.look()
        say("sees whether it helped")
        if tuning.settle():
            tuning.chip.remember()
    except BaseException:
        if tuning.guard is not None:
            tuning.guard.set_back()
        raise


def _doubt(
    held: Sequence[tuple[Tensor, Any]], learned: Sequence[tuple[Tensor, Any]], besides: str
) -> str | None:
    """Return why what is held back cannot judge, if so."""
    if (count := answers(held)) < FEWEST:
        return (
            f"{count} answers can be held back, too few to tell a gain from luck{besides}, so that "
            f"nothing learned will be kept; give {2 * FEWEST} or more distinct sequences, or "
            "hold_back=0 to judge by nothing"
        )
    if held[0] is learned[0]:
        return (
            "all batches are one that cannot be divided: it is learned from and judged by"
            f"{besides}, so that what is kept may not help with other data; give two or more"
        )
    return None


def _pairs(batches: Iterable[Any], taught: Teacher | None) -> list[tuple[Tensor, Any]]:
    """Return pairs of input and target, arrays of NumPy as tensors.

    Raises:
        TypeError: For what is no pair.
        ValueError: If there is none.
    """
    pairs: list[tuple[Tensor, Any]] = []
    for one in batches:
        if taught is not None:
            x, target = one if isinstance(one, Tensor | np.ndarray) else one[0], None
        elif isinstance(one, tuple | list) and len(one) == 2:
            x, target = one
        else:
            what = f"{type(one).__name__}s of {len(one)}" if hasattr(one, "__len__") else shown(one)
            raise TypeError(
                f"batches holds {what}; give pairs (x, target), as in (x, (y, weights)) where "
                "the loss takes more than one; or give a teacher to learn from x alone"
            )
        x = _tensor(x)
        if isinstance(x, Tensor) and not x.is_nested and x.layout != torch.strided:
            x = x.to_dense()  # numbers side by side, whatever the layout was
        pairs.append((x, _tensor(target) if taught is None else taught(x)))
    if not pairs:
        raise ValueError("batches holds none; give at least one pair of input and target")
    return pairs


def _tensor(value: Any) -> Any:
    """Return numbers in an array of NumPy as a tensor, all else as it is.

    Tensors made in ``torch.inference_mode()``, of which no gradient can be kept, are copied.
    """
    if isinstance(value, Tensor) and value.is_inference():
        return value.clone()
    numbers = isinstance(value, np.ndarray) and value.dtype.kind in "biufc"
    return torch.as_tensor(value) if numbers else value


@contextmanager
def _told(progress: Callable[[str], None] | bool, updates: int) -> Iterator[Callable[[str], None]]:
    """Return what is called with sentences; those that begin with ``3 of 20`` count updates.

    Args:
        progress: What is told them; ``True`` shows them on standard error, with the time left;
            ``False`` does nothing.
        updates: How many there will be.
    """
    if not isinstance(progress, bool):
        if not callable(progress):
            raise TypeError(
                f"progress is {shown(progress)}; give True, False, or what is called with sentences"
            )
        yield progress
        return
    if not progress:
        yield lambda text: None
        return
    from tqdm import tqdm

    with tqdm(total=updates, bar_format="{desc}, {elapsed} gone, {remaining} to go") as bar:

        def say(text: str) -> None:
            counted = re.match(r"(\d+) of \d+\b", text)
            bar.set_description_str(text, refresh=False)
            bar.update(0 if counted is None else int(counted[1]) - bar.n)
            bar.refresh()

        yield say
