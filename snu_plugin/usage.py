"""How ``snu`` reads its arguments, and what ends it: one line, and near names are told."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from snu_plugin.accepted import hint, near_name

ASKED = r"\b((?:give|pass)(?: a \w+| another)? |leave out |or |with )"
"""What an error says before the name of an argument that it asks for."""


MISSING = "the following arguments are required: "
"""How argparse begins to say so."""
UNIT = re.compile(r"(s|sec|second|min|minute|h|hour|d|day|week|month|y|year)s?")
"""What stands behind a number where somebody wrote a time with a space."""

FEW = 10
"""Options that a help lists without titles."""

ABOUT = {
    "the network": ("--dt", "--feedback", "--outliers"),
    "the chips": (
        "--chip", "--chips", "--at", "--for", "--every", "--when", "--do", "--reads", "--activity",
        "--steps",
    ),
    "what is learned": (
        "--rule", "--lr", "--digital-lr", "--epochs", "--optimizer", "--hardware-aware", "--loss",
        "--metric", "--teacher", "--tuned", "--compare", "--ways",
    ),
    "the answer": ("--out", "--report", "--picture", "--json"),
    "how it runs": ("--seed", "--seeds", "--jobs", "--scheduler", "--resume", "--no-verify"),
}  # fmt: skip
"""Titles of a long help, and the options that stand under each; others come last."""


class Misuse(Exception):
    """Arguments that mean nothing, in one line; ``command`` is what was called, if anything."""

    def __init__(self, command: str, said: str) -> None:
        super().__init__(said)
        self.command = command


def path(typed: str) -> Path:
    """Return a path that was typed, and refuse what an unset variable of a shell leaves."""
    if not typed.strip():
        raise argparse.ArgumentTypeError("no path is given, but an empty text; give one, or .")
    return Path(typed)


def again(typed: Sequence[str]) -> str:
    """Return what was typed as a shell takes it, from the beginning: without ``--resume``.

    >>> again(["run", "my net.nir", "d.npz", "--at", "1h,1 d", "--resume"])
    "snu run 'my net.nir' d.npz --at '1h,1 d'"
    """
    kept = (word for word in typed if len(word) < 5 or not "--resume".startswith(word))
    return shlex.join(["snu", *kept])


class Parser(argparse.ArgumentParser):
    """Answers what it cannot take with ``Misuse``: one line, as the commands have it themselves.

    >>> parser = Parser(prog="snu demo")
    >>> _ = parser.add_argument("--chips", type=int)
    >>> parser.parse_args(["--chops", "3"])
    Traceback (most recent call last):
    ...
    snu_plugin.usage.Misuse: '--chops' is not known here; the nearest is --chips; snu demo --help says more
    """  # noqa: E501  (a line is a line)

    def parse_known_args(  # type: ignore[override]  # argparse has overloads for any namespace
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        first = next(iter(args or ()), "")
        if self._subparsers is not None and first.startswith("-"):
            self._check_option(first)
        options, extra = super().parse_known_args(args, namespace)
        if extra:
            near = _near_option(extra[0], self.options())
            asked = (
                "; snu doctor and snu verify look into a graph" if extra[0].endswith(".nir") else ""
            )
            if UNIT.fullmatch(extra[0]):
                near = "; a time is written without a space, such as 30d or 2y, or in quotes"
            self.error(f"{extra[0]!r} is not known here{near or asked}")
        return options, extra

    def _check_option(self, typed: str) -> None:
        """Refuse what stands where a command is expected, before that is called missing."""
        if not any(name.startswith(typed) for name in self._option_string_actions):
            self.error(f"{typed!r} is not known here{_near_option(typed, self.options())}")

    def format_help(self) -> str:
        """Return the help; many options stand under what they are about."""
        # Commands are listed by who has them; argparse would say them once more.
        shown = [action for action in self._actions if action.nargs != argparse.PARSER]
        about = {name: title for title, names in ABOUT.items() for name in names}
        sections: dict[str, list[argparse.Action]] = {"arguments": []}
        sections |= {title: [] for title in (*ABOUT, "options")}
        few = len(shown) <= FEW
        for action in shown:
            names = [about[name] for name in action.option_strings if name in about and not few]
            here = "options" if action.option_strings else "arguments"
            sections[next(iter(names), here)].append(action)
        text = self._get_formatter()
        text.add_usage(self.usage, self._actions, self._mutually_exclusive_groups)
        text.add_text(self.description)
        for title, actions in sections.items():
            text.start_section(title)
            text.add_arguments(actions)
            text.end_section()
        text.add_text(self.epilog)
        return text.format_help()

    def options(self) -> list[str]:
        """Return what of options can be typed, such as ``--chips``."""
        return [name for name in self._option_string_actions if name.startswith("--")]

    def as_typed(self, message: str) -> str:
        """Return an error of Python with arguments called as the options here are.

        >>> parser = Parser(prog="snu demo")
        >>> _ = parser.add_argument("--digital-lr", type=float)
        >>> parser.as_typed("digital_lr is -1.0; give digital_lr, or leave out digital_lr=")
        '--digital-lr is -1.0; give --digital-lr, or leave out --digital-lr'
        >>> parser.as_typed("digital_lr is not declared; give digital_lr")
        'digital_lr is not declared; give --digital-lr'
        """
        for option in self.options():
            name = option.removeprefix("--").replace("-", "[_-]")
            # What a graph does not declare is no option that was given.
            message = re.sub(rf"^{name}(?= (is|are) (?!not declared))", option, message)
            message = re.sub(rf"{ASKED}{name}(?=[,;)]|$| (in|or|as) )", rf"\1{option}", message)
            message = re.sub(rf"{ASKED}{name}=(?=')", rf"\1{option} ", message)
            message = re.sub(rf"{ASKED}{name}=(?=[,;)]|$)", rf"\1{option}", message)
            message = re.sub(rf"(?<=\s\(){name}=(?=\d)", f"{option} ", message)
        return message

    def error(self, message: str) -> NoReturn:
        """Say what is accepted."""
        said = f"{_said(message)}{self._choices(message)}; {self.prog} --help says more"
        raise Misuse(self.prog.removeprefix("snu").strip(), " ".join(said.split()))

    def _choices(self, message: str) -> str:
        """Return what can be given for a missing argument, if it is one of some words."""
        missing = message.partition(MISSING)[2].split(", ")
        told = [
            f"; {action.dest} is one of {', '.join(action.choices)}"
            for action in self._actions
            if isinstance(action.choices, list | tuple) and action.dest in missing
        ]
        shown = [f"; {self.epilog}"] if MISSING in message and self._subparsers is None else []
        return "".join([*told, *(shown if self.epilog else [])])


def _said(message: str) -> str:
    """Return an error of argparse in our words: what was given, what is accepted."""
    if found := re.fullmatch(r"argument (.+?): invalid choice: (.*) \(choose from (.*)\)", message):
        name, given, names = found[1], found[2].strip("'\""), re.findall(r"[\w-]+", found[3])
        return f"{name} is {given!r}; give one of {', '.join(names)}{hint(given, names)}"
    if found := re.fullmatch(r"argument (.+?): invalid (int|float) value: (.*)", message):
        kind = {"int": "a whole number", "float": "a number"}[found[2]]
        return f"{found[1]} is {found[3]}; give {kind}"
    if found := re.fullmatch(r"argument (.+?): ignored explicit argument (.*)", message):
        return f"{found[1]} takes no value; {found[2]} was given, leave it out"
    if message.startswith(MISSING):
        given = message.removeprefix(MISSING).split(", ")
        names = [name if name.startswith("-") else name.upper() for name in given]
        return f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} missing"
    return message.removeprefix("argument ")


def _near_option(given: str, known: Collection[str]) -> str:
    """Return the nearest option, by what stands behind its dashes: all have those."""
    names = {name.lstrip("-"): name for name in known}
    near = near_name(given.partition("=")[0].lstrip("-"), names)
    return f"; the nearest is {names[near]}" if near else ""


INTERRUPTED, TERMINATED = 130, 143
"""Exit statuses after Ctrl-C and SIGTERM."""


class Ended(Exception):
    """A command that was stopped: what is left, in a line, and the exit status."""

    def __init__(self, left: str, status: int) -> None:
        super().__init__(left)
        self.status = status


class Terminated(KeyboardInterrupt):
    """SIGTERM, answered as Ctrl-C is: what was written so far is whole."""


def stopped(left: str, error: KeyboardInterrupt) -> Ended:
    """Return what ``snu`` says of a command that a signal ended, and its exit status."""
    if isinstance(error, Terminated):
        return Ended(f"terminated; {left}", TERMINATED)
    return Ended(f"interrupted; {left}", INTERRUPTED)


@contextmanager
def signals_as_themselves() -> Iterator[None]:
    """Raise the signal itself out of an error that came of it.

    Compiled code that a signal meets while it calls Python, such as Numba's, answers with an error
    of its own.
    """
    try:
        yield
    except Ended:
        raise
    except Exception as error:
        behind: BaseException | None = error
        while behind is not None and not isinstance(behind, KeyboardInterrupt):
            behind = behind.__cause__ or behind.__context__
        if behind is None:
            raise
        raise behind from None
