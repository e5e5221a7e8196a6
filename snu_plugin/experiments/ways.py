"""Ways to change a chip by name, as commands take them: ``recalibrate,adapter:8,digital``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

from snu_plugin.accepted import COUNT, POSITIVE, SHARE, Accepted, hint
from snu_plugin.hil import (
    Adapter,
    Correct,
    DigitalOnly,
    MixedPrecision,
    ProgramVerify,
    Recalibrate,
    Rewrite,
    Rule,
    SignPulses,
    StochasticPulses,
    ThinnedPulses,
    Way,
    in_turn,
)

MIXED = MixedPrecision(lr=3.0, evidence=5.0)
"""Chosen on the validation chorales, where it is 0.01 nats better than no pulses at all; the plain
rule is worse than none, since a pulse is about as noisy as it is large."""


class Named(NamedTuple):
    """A way that a name stands for."""

    says: str
    """What it does, for help and errors."""
    takes: tuple[str, Accepted] | None
    """What the number behind the name is, and may be; ``None``: there is none."""
    make: Callable[[float | None], Way]
    """Returns the way, given that number; ``None``: the default."""


NAMED: Mapping[str, Named] = {
    "recalibrate": Named("gains fitted anew, no labels", None, lambda _: Recalibrate()),
    "rewrite": Named(
        "weights written again, all or the worst share",
        ("worst", SHARE),
        lambda worst: Rewrite(worst=worst),
    ),
    "adapter": Named(
        "a digital adapter of low rank at the read-out",
        ("rank", COUNT),
        lambda rank: Adapter(rank=int(rank or Adapter.rank)),
    ),
    "adapters": Named(
        "the same beside every layer",
        ("rank", COUNT),
        lambda rank: Adapter(rank=int(rank or Adapter.rank), where="all"),
    ),
    "correct": Named(
        "adapters that add what read-back weights lack, no labels",
        ("rank", COUNT),
        lambda rank: Correct(rank=int(rank or Correct.rank)),
    ),
    "digital": Named("gains, biases, thresholds, no pulse", None, lambda _: DigitalOnly()),
    "mixed": Named(
        "add up gradients, pulse where they agree",
        ("lr", POSITIVE),
        lambda lr: replace(MIXED, lr=lr or MIXED.lr),
    ),
    "pulses": Named(
        "one pulse by the sign of every large gradient",
        ("lr", POSITIVE),
        lambda least: SignPulses(threshold=least or 0.03),
    ),
    "stochastic": Named(
        "pulses drawn by chance",
        ("lr", POSITIVE),
        lambda lr: StochasticPulses(lr=lr or StochasticPulses.lr),
    ),
    "thinned": Named(
        "pulses for the largest gradients, a share of a layer",
        ("share", SHARE),
        lambda share: ThinnedPulses(share=share or ThinnedPulses.share),
    ),
    "verify": Named(
        "follow digital copies, reading before every pulse",
        ("lr", POSITIVE),
        lambda lr: ProgramVerify(lr=lr or ProgramVerify.lr),
    ),
}
"""Preparations, then update rules, by name. In tuning chorales and digits about a gradient in a
thousand is larger than the 0.03 of ``pulses``."""


def way(text: str, number: float | None = None) -> Way:
    """Return a way by its name, such as ``"adapter"`` or ``"adapter:4"``.

    Args:
        text: A name of ``NAMED``, with a number behind a colon where it takes one.
        number: That number where the text has none.

    Raises:
        LookupError: For a name that nothing has.
        ValueError: For a number that the way does not take.
    """
    name, colon, behind = text.strip().partition(":")
    if name not in NAMED:
        raise LookupError(
            f"no way {name!r} to change a chip; give {', '.join(NAMED)}{hint(name, NAMED)}"
        )
    takes = NAMED[name].takes
    if colon:
        try:
            number = float(behind)
        except ValueError:
            said = f", its {takes[0]}" if takes else ", or no colon"
            raise ValueError(f"{text.strip()} needs a number behind the colon{said}") from None
    if number is not None and takes is None:
        raise ValueError(f"{name!r} takes no number; {number:g} was given, leave it out")
    if number is not None and takes is not None:
        called, accepted = takes
        whole = int(number) if float(number).is_integer() else number
        accepted.check(f"{called} of {name}", whole)
    return NAMED[name].make(number)


def ways(text: str, lr: float | None = None) -> list[Way]:
    """Return a sequence of ways, such as ``"recalibrate,adapter:8,digital"``.

    Args:
        text: Names, separated by commas or plus signs: preparations, then at most one update rule.
        lr: Number of the update rule, if it has none behind its name.

    Raises:
        LookupError: For a name that nothing has.
        TypeError: For names in another order.
        ValueError: For a number that is not taken.

    >>> ways("recalibrate,adapter:4")
    [Recalibrate(), Adapter(rank=4, where='readout', seed=0)]
    """
    names = re.split("[+,]", text)
    found = [way(name) for name in names]
    if lr is not None:
        POSITIVE.check("lr", lr)
        if not isinstance(found[-1], Rule):
            raise ValueError(f"lr is {lr:g} and {names[-1].strip()!r} takes none; leave it out")
        found[-1] = way(names[-1], None if ":" in names[-1] else lr)
    in_turn(found)
    return found
