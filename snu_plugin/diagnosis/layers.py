"""What is wrong with layers of neurons, by what they do on inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from snu_plugin.diagnosis.activity import SILENT, Activity, Looked, Signal
from snu_plugin.diagnosis.findings import Finding
from snu_plugin.neuron import Euler

MOST = 0.9
"""Share of a layer's neurons that must be silent, or always fire, to be told."""
FEW = 8
"""In fewer sequences than that neurons may well be silent: a class has neurons of its own."""
TINY, LARGE = 0.01, 10.0
"""Largest inputs below the one, or above the other, are named as the cause where layers are silent
or driven too much: inputs are usually spikes, or lie between -1 and 1."""
STRONG = 10.0
"""A layer whose typical drive of one step is more than so many thresholds decides by the sign of
that step alone, far from where a surrogate has a gradient."""
WEAK = 0.2
"""What moves potentials by less than that share of a threshold has hardly an effect."""
KEPT = 0.01
"""A neuron that keeps less of its potential from step to step has no memory."""
LONG = 10
"""A time constant of more than so many sequences neither charges a membrane within one, nor forgets
anything."""
SAME = 1e-4
"""What neurons receive differs by less than that share of how much it changes: rounding."""
AGAIN = 4
"""A silent layer is given the inputs so many times in a row, to see whether they are too short."""


@torch.no_grad()
def without_effect(looked: Looked, seen: list[Activity], x: Signal) -> Iterator[Finding]:
    """Yield the first layer whose potentials ``x`` hardly moves, although it fires."""
    largest = _largest(x)
    if not largest:
        return
    moved = set[str]()
    for one, alone in zip(seen, looked.at(_each(x, torch.zeros_like)), strict=True):
        shares = (one.potential - alone.potential).abs() / one.threshold.abs().clamp(min=1e-9)
        share, before = float(shares.max()), _before(looked, one, seen)
        if share >= WEAK:
            moved |= {one.name} if one.y.any() else set()
        elif one.y.any() and not before:
            yield Finding(
                "inputs without effect",
                "inputs",
                f"they reach {largest:.2g} and move the potentials of {one.name} by {share:.2g} of "
                "its threshold at most, so that it does the same without them",
                "scale them, or the weights of the first layer, up against its biases and "
                "thresholds",
            )
            return
        elif one.y.any() and before <= moved:
            yield one.finding(
                "inputs without effect",
                f"what the layers before it do moves its potentials by {share:.2g} of its "
                "threshold at most, so that it does the same for all inputs",
                "give larger weights before it, or smaller biases",
            )
            return


def _before(looked: Looked, one: Activity, seen: list[Activity]) -> set[str]:
    """Return which layers that fire stand before one."""
    return {other.name for other in seen} & looked.before(one.name)


def _each(x: Signal, change: Callable[[Tensor], Tensor]) -> Signal:
    return {n: change(part) for n, part in x.items()} if isinstance(x, dict) else change(x)


def _largest(x: Signal) -> float:
    parts = x.values() if isinstance(x, dict) else [x]
    return max(float(part.abs().max()) for part in parts)


def wrong(looked: Looked, seen: list[Activity], x: Signal, drawn: bool) -> Iterator[Finding]:
    """Yield what is wrong with layers; of those that follow a silent one, nothing.

    Args:
        looked: How they were seen.
        seen: What they do on ``x``.
        x: The inputs.
        drawn: Whether they were drawn for it: then their scale is not asked for.
    """
    largest = _largest(x)
    if not drawn and not largest:
        yield Finding("no input", "inputs", "they are zero at every step", "give other data")
        return
    mute: set[str] = set()
    for one in seen:
        if one.silent.all() and mute & looked.before(one.name):
            mute.add(one.name)
            continue
        if one.is_anew:
            mute.add(one.name)
            yield one.finding(
                "no memory",
                "its state is made anew at every step",
                "make states once, before the loop over time, and hand on what each call returns",
            )
            continue
        yield from _of_time(one)
        silent, always = (float(part.double().mean()) for part in (one.silent, one.always))
        first = not drawn and not _before(looked, one, seen)
        if silent == 1:
            yield _silent(looked, one, x, drawn)
            mute.add(one.name)
        elif below := _below_rest(one):
            yield below
        elif always >= MOST or one.push > STRONG:
            yield _driven(one, largest if first else 0.0)
        elif silent >= MOST and one.y.shape[1] >= FEW:
            yield one.finding(
                "silent neurons",
                f"{silent:.0%} of its {one.silent.numel()} neurons never fire, the nearest of them "
                + _nearest(one, one.silent),
                "give larger weights before it, or a lower threshold",
            )
        if not mute & {one.name, *looked.before(one.name)}:
            yield from _alike(one)


def _of_time(one: Activity) -> Iterator[Finding]:
    """Yield that constants of a membrane do not fit the time step, or the length of the inputs."""
    if one.membrane is None or len(one.y) < 2:
        return
    decay = one.membrane.decay
    only_sums = (decay < 1) & (decay > 1 - 1 / (LONG * len(one.y)))  # who never leaks is meant to
    if bool((decay < KEPT).all()):
        kept = float(decay.max())
        yield one.finding(
            "no memory",
            f"its neurons keep {kept:.2g} of their potential from step to step, so that the time "
            "step is as long as their time constant",
            "give a larger decay (beta, tau), or a smaller time step",
        )
    elif not one.silent.all() and float(only_sums.double().mean()) >= MOST:
        yield one.finding(
            "time step",
            f"its time constant is {_about(_steps_of_memory(one.membrane))} steps, the inputs have "
            f"{len(one.y)}: within them it forgets nothing and only sums",
            "give a smaller decay (beta, tau) or longer inputs, and see whether dt and tau are in "
            "the same unit",
        )


def _alike(one: Activity) -> Iterator[Finding]:
    """Yield that all neurons of a layer receive the same, but for a constant of each."""
    each = one.drive.flatten(2)
    moved = each - each[:1, :1]
    apart = (moved - moved[..., :1]).abs().max()
    same = bool((each == each[..., :1]).all()) or float(apart) < SAME * float(moved.abs().max())
    if each.shape[-1] > 1 and same:
        yield one.finding(
            "neurons alike",
            f"all its {each.shape[-1]} neurons receive the same at every step, but for a constant, "
            "and would learn the same",
            "give the weights before it random values: constants make one neuron of all",
        )


def _silent(looked: Looked, one: Activity, x: Signal, drawn: bool) -> Finding:
    """Say why no neuron of a layer fires."""
    if not drawn and _largest(x) < TINY:
        return Finding(
            "scale of inputs",
            "inputs",
            f"they reach {_largest(x):.2g} at most, and {one.name} never fires",
            f"scale them to about 1: x / {_largest(x):.2g}",
        )
    steps = len(one.y)
    if one.membrane is not None:
        longest = _steps_of_memory(one.membrane)
        ends = one.settled(one.drive.mean(0).amax(0))
        if longest > LONG * steps and bool((ends > one.threshold).any()):
            return one.finding(
                "time step",
                f"its time constant is {_about(longest)} steps, the inputs have {steps}: "
                "within them its membrane never charges",
                "see whether dt and tau are in the same unit, or give longer inputs",
            )
    again = looked.at(_each(x, lambda part: torch.cat([part] * AGAIN)))
    later = next(other.y for other in again if other.name == one.name)
    fired = later.flatten(1).amax(1) > SILENT
    if fired.any():
        return one.finding(
            "too few steps",
            f"it does not fire within the {steps} steps of the inputs; with these in a row "
            f"{AGAIN} times, first at step {int(fired.nonzero()[0]) + 1}",
            "give longer inputs, larger weights before it, or a lower threshold",
        )
    if not one.drive.any():
        return one.finding(
            "no input",
            "what it receives is zero at every step",
            "look at the weights before it, which are zero, and at pools or masks",
        )
    return one.finding(
        "threshold out of reach",
        f"none of its {one.silent.numel()} neurons fires, the nearest of them "
        + _nearest(one, one.silent),
        _remedy(one),
    )


def _steps_of_memory(membrane: Euler) -> float:
    """Return the longest time constant in steps, of those that leak."""
    decays = [d for d in (membrane.decay, membrane.synapse_decay) if d is not None]
    rates = torch.cat([1 - d.double().flatten() for d in decays])
    rates = rates[rates > 0]
    return float(1 / rates.min()) if len(rates) else 0.0


def _about(steps: float) -> str:
    """Write steps with three digits that count, as in 20,000."""
    return f"{float(f'{steps:.3g}'):,.0f}"


def _nearest(one: Activity, which: Tensor) -> str:
    """Say how near the nearest of some neurons comes to its threshold."""
    place = (one.peak - one.threshold)[which].argmax()
    peak, threshold = float(one.peak[which][place]), float(one.threshold[which][place])
    return f"comes to {peak:.3g} where its threshold is {threshold:.3g}"


def _remedy(one: Activity) -> str:
    place = (one.peak - one.threshold).argmax()
    peak, threshold = float(one.peak.flatten()[place]), float(one.threshold.flatten()[place])
    if peak > 0 and threshold > 0:
        return f"give weights more than {threshold / peak:.2g} times as large, or a lower threshold"
    return "its inputs hold it down: give other weights or biases before it, or a lower threshold"


def _below_rest(one: Activity) -> Finding | None:
    """Say that no neuron of a layer needs an input to fire; soft outputs have no threshold."""
    soft = one.membrane is None or one.membrane.config.soft
    if soft or bool((one.threshold > one.rest).any()):
        return None
    least, rest = float(one.threshold.max()), float(one.rest.min())
    return one.finding(
        "threshold below rest",
        f"its neurons fire without input, or with the least: their threshold is {least:.3g} and "
        f"they rest at {rest:.3g}",
        "give a positive threshold",
    )


def _driven(one: Activity, largest: float) -> Finding:
    """Say why a layer does at each step what the drive of that step has it do."""
    always = float(one.always.double().mean())
    share = f"{always:.0%} of its neurons fire at every step"
    push = f"the drive of a step is {one.push:.3g} times its threshold"
    told = push if one.push > STRONG else share
    if largest > LARGE:
        return Finding(
            "scale of inputs",
            "inputs",
            f"they reach {largest:.3g}, and of {one.name} {told}",
            f"scale them to about 1: x / {largest:.3g}",
        )
    return one.finding(
        "too much drive",
        f"{share}; {push}",
        "give smaller weights or biases before it, or a higher threshold",
    )
