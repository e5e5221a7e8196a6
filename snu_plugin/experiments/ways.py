"""Ways to change a chip by name, as commands take them: ``recalibrate,adapter:8,digital``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
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

    make: Callable[..., Way]
    """Returns the way, by default or with its number."""
    takes: tuple[str, Accepted] | None = None
    """What the number behind the name is, and may be; ``None``: there is none."""
    argument: str = ""
    """How ``make`` calls that number, where it is otherwise."""


RANK, RATE = ("rank", COUNT), ("lr", POSITIVE)
PULSES = partial(SignPulses, threshold=0.03)
"""In tuning chorales and digits about a gradient in a thousand is larger."""

NAMED: Mapping[str, Named] = {
    "recalibrate": Named(Recalibrate),
    "rewrite": Named(Rewrite, ("worst", SHARE)),
    "adapter": Named(Adapter, RANK),
    "adapters": Named(partial(Adapter, where="all"), RANK),
    "correct": Named(Correct, RANK),
    "digital": Named(DigitalOnly),
    "mixed": Named(partial(replace, MIXED), RATE),
    "pulses": Named(PULSES, RATE, "threshold"),
    "stochastic": Named(StochasticPulses, RATE),
    "thinned": Named(ThinnedPulses, ("share", SHARE)),
    "verify": Named(ProgramVerify, RATE),
}
"""Preparations, then update rules, by name."""


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
    make, takes, argument = NAMED[name]
    if colon:
        try:
            number = float(behind)
        except ValueError:
            said = f", its {takes[0]}" if takes else ", or no colon"
            raise ValueError(f"{text.strip()} needs a number behind the colon{said}") from None
    if number is None:
        return make()
    if takes is None:
        raise ValueError(f"{name!r} takes no number; {number:g} was given, leave it out")
    called, accepted = takes
    whole = int(number) if float(number).is_integer() else number
    accepted.check(f"{called} of {name}", whole)
    return make(**{argument or called: whole if accepted is COUNT else number})


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
