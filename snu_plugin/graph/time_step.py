"""The time step that a graph was made for, found or asked for, never guessed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import nir
import numpy as np
from numpy.typing import NDArray

from snu_plugin.graph.metadata import check_agreement, check_dt

GAINS: dict[str, tuple[tuple[str | None, str], ...]] = {
    "I": ((None, "r"),),
    "IF": ((None, "r"),),
    "LI": (("tau", "r"),),
    "LIF": (("tau", "r"),),
    "CubaLI": (("tau_mem", "r"), ("tau_syn", "w_in")),
    "CubaLIF": (("tau_mem", "r"), ("tau_syn", "w_in")),
    "Delay": (),
}
"""For each node type whose update depends on dt, the fields tau (None: 1) and gain whose quotient
is dt where the input gain of a step is 1."""

SAME = 1e-5
"""Relative difference below which two float32 quotients count as equal."""


class TimeStep(NamedTuple):
    """A time step in seconds (None: nothing depends on it) and a sentence on where it is from."""

    dt: float | None
    source: str


def time_step(
    nodes: Mapping[str, nir.NIRNode],
    dt: float | None,
    declared: Mapping[str, Any],
    per_step: bool = False,
) -> TimeStep:
    """Return the dt to run flat ``nodes`` with: the argument, the metadata, or a convention.

    The convention is an input gain that is exactly 1 per step: ``r = tau/dt`` (LI, LIF),
    ``r = tau_mem/dt`` and ``w_in = tau_syn/dt`` (CubaLI, CubaLIF), ``r = 1/dt`` (I, IF), as
    snnTorch and spikingjelly write. It is recognised where every gain that is not 1 says the same
    dt and either several time constants agree on it or it is a round number. ``r = 1`` says
    nothing: tools read it in different ways. With ``per_step``, I and IF do not depend on dt.

    Raises:
        ValueError: If ``dt`` is not a positive number, or is needed and cannot be found.
    """
    if dt is not None:
        check_dt(dt)
        return TimeStep(float(dt), "given as argument")
    if "dt" in declared:
        return TimeStep(float(declared["dt"]), "declared in the metadata of the graph")
    check_agreement(declared, "dt", "give dt, which then holds for all, or export them at one dt")
    kinds = GAINS.keys() - ({"I", "IF"} if per_step else set())
    timed = {name: node for name, node in nodes.items() if type(node).__name__ in kinds}
    if not timed:
        return TimeStep(None, "no node depends on it")
    return _recognise(timed)


def _recognise(nodes: Mapping[str, nir.NIRNode]) -> TimeStep:
    every = [(name, *found) for name, node in nodes.items() for found in _gains(node)]
    least = min((float(tau.min()) for _, _, tau, _ in every), default=None)
    known = [item for item in every if (np.abs(item[3] - 1) > SAME).any()]
    ask = "; give dt, in the unit of the graph's time constants"
    if not known:
        name, node = next(iter(nodes.items()))
        if isinstance(node, (nir.I, nir.IF)):
            ask += " (dt=1 reads r as an addition per step)"
        ask += "" if least is None else f", and below the shortest of them, {least:.4g}"
        raise ValueError(
            "dt is not declared, and cannot be read off the neurons either: the input gains of the "
            f"graph are all 1 (node {name!r}), which fits any dt{ask}"
        )
    if any((gain <= 0).any() for *_, gain in known):
        raise ValueError(f"dt is not declared, and an input gain is not positive{ask}")
    steps = np.concatenate([(tau / gain).reshape(-1) for *_, tau, gain in known])
    taus = np.concatenate([tau.reshape(-1) for *_, tau, _ in known])
    called = " and ".join(dict.fromkeys(quotient for _, quotient, *_ in known))
    dt = float(np.median(steps))
    if (np.abs(steps - dt) > SAME * dt).any():
        low, high = steps.min(), steps.max()
        raise ValueError(
            f"dt is not declared, and the quotients {called} of the graph run from {low:.4g} to "
            f"{high:.4g} (nodes {', '.join(repr(n) for n in sorted({t[0] for t in known})[:6])}), "
            f"so no convention fits{ask}"
        )
    near = _round(dt)
    if near is None and taus.max() - taus.min() <= SAME * taus.max():
        raise ValueError(
            f"dt is not declared, and {called} is {dt:.6g} (node {known[0][0]!r}), "
            f"which is no usual time step{ask}"
        )
    longer = least is not None and (near or dt) > least * (1 + SAME)
    if longer and any(hasattr(node, "tau") for node in nodes.values()):
        raise ValueError(f"dt is not declared, and {called} is longer than the time constants{ask}")
    return TimeStep(near or dt, "recognised from the input gains: r = tau/dt in every node")


def _gains(node: nir.NIRNode) -> list[tuple[str, NDArray[Any], NDArray[Any]]]:
    """Return (name, tau, gain), float64: of quotients tau/gain that are dt where a gain is 1."""
    pairs = []
    for tau, gain in GAINS[type(node).__name__]:
        r = np.asarray(getattr(node, gain), dtype=np.float64)
        over = np.asarray(getattr(node, tau), np.float64) if tau else np.ones(r.shape)
        pairs.append((f"{tau or 1}/{gain}", over, r))
    return pairs


def _round(dt: float) -> float | None:
    """Return the power of two, or 1, 2 or 5 times a power of ten, that ``dt`` is but for float32.

    >>> _round(9.9999997e-05), _round(0.0009765625), _round(0.0025)
    (0.0001, 0.0009765625, None)
    """
    ten = math.floor(math.log10(dt))
    usual = [float(f"{m}e{ten + k}") for m in (1, 2, 5) for k in (0, 1)]
    usual += [2.0 ** round(math.log2(dt))]
    return next((u for u in usual if abs(u - dt) <= SAME * dt), None)
