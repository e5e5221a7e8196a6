"""What an argument may be, in words and as a test: the same sentence wherever one is refused."""

from __future__ import annotations

import difflib
import functools
import inspect
import math
from collections.abc import Callable, Collection, Iterable
from numbers import Integral, Real
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec, TypeVar

Made = TypeVar("Made")
Taken = ParamSpec("Taken")

LONGEST = 60
"""Signs that an error shows of a value."""


class Accepted(NamedTuple):
    """What a value may be, in words and as a test.

    >>> COUNT.check("reads", 0)
    Traceback (most recent call last):
    ...
    ValueError: reads is 0; it must be a positive whole number
    """

    words: str
    holds: Callable[[Any], bool]
    options: tuple[str, ...] = ()
    """Names of which it is one; a name that is none of them is answered with the nearest."""

    def check(self, name: str, value: object) -> None:
        """Refuse a value that is not accepted; raises ``ValueError``."""
        if not self.holds(value):
            near = hint(value, self.options)
            raise ValueError(f"{name} is {shown(value)}; it must be {self.words}{near}")


def shown(value: object) -> str:
    """Return a value as an error shows it, on one line: arrays by their shape, what is long cut.

    >>> shown("mean"), shown(["a line"] * 100)
    ("'mean'", "['a line', 'a line', 'a line', 'a line', 'a line', 'a li ...")
    """
    shape = getattr(value, "shape", None)
    if shape:
        return f"{type(value).__name__} of shape {tuple(shape)}"
    text = " ".join(repr(value).split())
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 4]} ..."


def path_of(value: object) -> Path:
    """Return the path that a text or path-like object names.

    >>> path_of(3)
    Traceback (most recent call last):
    ...
    TypeError: path is 3; give the path of a file, as a text or a pathlib.Path
    """
    if not isinstance(value, str | PathLike):
        raise TypeError(
            f"path is {shown(value)}; give the path of a file, as a text or a pathlib.Path"
        )
    return Path(value)


def is_number(value: object) -> bool:
    """Tell whether a value is a finite real number, and no bool."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def is_whole(value: object) -> bool:
    """Tell whether a value is a whole number, and no bool."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def nearest(name: str, known: Iterable[str], otherwise: str) -> str:
    """Return a question whether the nearest of the known names was meant, or else a text."""
    near = near_name(name, known)
    return f"did you mean {near}?" if near else otherwise


def hint(name: object, known: Iterable[str]) -> str:
    """Return the end of an error that has told the known names: the nearest, if one is near.

    >>> hint("PMC", ["IDEAL", "PCM"]), hint("--chpi", ["--chip"]), hint("x", ["IDEAL", "PCM"])
    ('; the nearest is PCM', '; the nearest is --chip', '')
    """
    near = near_name(name, known) if isinstance(name, str) else None
    return f"; the nearest is {near}" if near else ""


def near_name(name: str, known: Iterable[str]) -> str | None:
    """Return the nearest of known names, small and large letters alike, if one is near.

    >>> near_name("SNNtorch", ["norse", "snntorch"])
    'snntorch'
    """
    small = {one.casefold(): one for one in known}
    found = difflib.get_close_matches(name.casefold(), list(small), 1)
    return small[found[0]] if found else None


def by_known_names(
    kind: type[Made], otherwise: Callable[[str], str | None] | None = None
) -> type[Made]:
    """Have a class refuse arguments of a name that it does not have by the nearest that it has.

    Args:
        kind: The class; it is changed and returned.
        otherwise: What to say of a name that is meant for something else, nothing for all others.

    >>> @by_known_names
    ... class Rule:
    ...     def __init__(self, *, rate: float = 1.0) -> None: ...
    >>> Rule(rats=2.0)
    Traceback (most recent call last):
    ...
    TypeError: Rule has no argument 'rats'; did you mean rate?
    """
    begin: Any = kind.__init__
    known = [name for name in inspect.signature(begin).parameters if name != "self"]
    if any(p.kind is p.VAR_KEYWORD for p in inspect.signature(begin).parameters.values()):
        return kind  # it passes them on, to what knows their names

    @functools.wraps(begin)
    def checked(self: Any, *args: Any, **named: Any) -> None:
        check_names(type(self).__name__, named, known, otherwise)
        begin(self, *args, **named)

    kind.__init__ = checked  # type: ignore[method-assign]
    return kind


def with_known_names(
    called: Callable[Taken, Made], otherwise: Callable[[str], str | None] | None = None
) -> Callable[Taken, Made]:
    """Return a function that refuses arguments as ``by_known_names`` has a class refuse them.

    Warnings that it raises for its caller come from one call further up.
    """
    known = dict.fromkeys(name for name in inspect.signature(called).parameters if name != "self")

    @functools.wraps(called)
    def checked(*args: Taken.args, **named: Taken.kwargs) -> Made:
        if not named.keys() <= known.keys():
            check_names(called.__name__, named, known, otherwise)
        return called(*args, **named)

    return checked


def check_names(
    owner: str,
    given: Iterable[str],
    known: Collection[str],
    otherwise: Callable[[str], str | None] | None = None,
) -> None:
    """Refuse arguments of names that are not known; see ``by_known_names``."""
    for name in given:
        if name not in known:
            said = otherwise(name) if otherwise is not None else None
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise TypeError(
                f"{owner} has no argument {name!r}; {said or nearest(name, known, has)}"
            )


def or_ideal(accepted: Accepted) -> Accepted:
    """Return the same, or ``None`` for what a chip does ideally."""
    words = f"{accepted.words}, or None for ideal"
    return Accepted(words, lambda v: v is None or accepted.holds(v))


def one_of(*options: object) -> Accepted:
    """Return that a value is one of some."""
    words = f"one of {', '.join(map(str, options))}"
    names = tuple(o for o in options if isinstance(o, str))
    return Accepted(words, lambda v: any(isinstance(v, type(o)) and v == o for o in options), names)


NUMBER = Accepted("a finite number", is_number)
POSITIVE = Accepted("a positive number", lambda v: is_number(v) and v > 0)
LEVEL = Accepted("a number of at least 0", lambda v: is_number(v) and v >= 0)
UNIT = Accepted("a number in [0, 1]", lambda v: is_number(v) and 0 <= v <= 1)
SHARE = Accepted("a share above 0 and at most 1", lambda v: is_number(v) and 0 < v <= 1)
BELOW_1 = Accepted("a share of at least 0 and below 1", lambda v: is_number(v) and 0 <= v < 1)
COUNT = Accepted("a positive whole number", lambda v: is_whole(v) and v > 0)
OFTEN = Accepted("at least 1 and at most 100000", lambda v: is_whole(v) and 1 <= v <= 100_000)
SEED = Accepted(
    "a whole number of at least 0 and below 2**63", lambda v: is_whole(v) and 0 <= v < 2**63
)
TEXT = Accepted("a text", lambda v: isinstance(v, str))
