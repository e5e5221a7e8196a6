"""What a layer carries from call to call, and whether it goes in as it came out."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

Path = tuple[str, ...]
Origin = Callable[[Tensor], Tensor | None]
"""Gives the tensor that a tensor is an untouched copy of; a tensor itself if it is none, ``None``
where nothing is known of it: what went through NumPy is as it was if its values are."""

ALONE = (
    "NIR carries states on as they are, from a fresh start: leave them alone in between, or let "
    "the layer itself do it"
)
STATES = ("state", "mem", "syn", "spk")
"""How the arguments that hosts carry states by begin."""


class StepError(ValueError):
    """A later step does something else than the first."""


class UnstackedError(ValueError):
    """What a model returns is steps, and not one behind the other along axis 0 or 1."""


class Snapshot(NamedTuple):
    """A tensor as it was at some time."""

    tensor: Tensor
    version: int
    values: Tensor


def snapshot(tensor: Tensor) -> Snapshot:
    return Snapshot(tensor, tensor._version, tensor.detach().clone())


class LayerState:
    """The states and constants of one layer.

    A state is what the layer takes and gives beside its signal, or a tensor that it holds and
    changes itself; what else it holds is a constant.
    """

    def __init__(self, name: str, module: nn.Module) -> None:
        self.name, self.module = name, module
        self.signature = inspect.signature(module.forward)
        self.beside = list(self.signature.parameters.values())[1:]
        """The arguments that it takes beside its signal."""
        self.takes_state = any(p.name.startswith(STATES) for p in self.beside)
        self.stateful = self.takes_state
        self.begins = True
        """Whether the next call is the first of a sequence."""
        self.took_states = False
        """Whether the last call was given states."""
        self.before = {
            path: snapshot(t) for path, t in held(module) if not isinstance(t, nn.Parameter)
        }
        self.constants: dict[Path, Snapshot] = {}
        self.entered: dict[Path, tuple[Tensor, int]] = {}
        self.states: dict[Path, Snapshot] = {}
        self.out: list[Snapshot] = []

    def arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        """Return what the layer is called with, in the order in which its ``forward`` names it."""
        try:
            return list(self.signature.bind(*args, **kwargs).arguments.values())
        except TypeError:
            return [*args, *kwargs.values()]  # The call itself says what is wrong.

    def enter(
        self, given: Sequence[Tensor], fresh: Sequence[Tensor], origin: Origin, step: int
    ) -> None:
        """Look at what goes into a call.

        Args:
            given: The states given, in the order of the layer's arguments.
            fresh: The states that the layer itself begins with; empty if they are zero.
            origin: See there.
            step: Counted from 0.

        Raises:
            StepError: If a state or a constant is not what it was.
        """
        now = dict(held(self.module))
        if not self.out:
            self.constants = {path: snapshot(tensor) for path, tensor in now.items()}
        for path, constant in self.constants.items():
            if path not in now or not equal(now[path], constant.values):
                raise StepError(
                    f"{self.name!r} has another {'.'.join(path)} in step {step + 1} than in its "
                    "first; NIR's nodes are the same in every step: leave it alone"
                )
        if given:
            self._check_given(given, fresh, origin, step)
        elif self.states:
            for path, state in self.states.items():
                value = now.get(path)
                goes_on = value is not None and _same(value, state, origin)
                if not goes_on and not (self.begins and (value is None or _is_zero(value))):
                    raise StepError(self._changed(f"{'.'.join(path)}", step))
        elif self.takes_state and not self.begins:
            raise StepError(
                f"{self.name!r} is called without its state in step {step + 1}, and starts anew; "
                f"{ALONE}"
            )
        self.took_states = bool(given)
        self.entered = {path: (tensor, tensor._version) for path, tensor in now.items()}

    def leave(self, result: Sequence[Tensor]) -> None:
        """Keep what comes out of a call.

        Raises:
            StepError: If the layer held a state at the start that was put there.
        """
        now = dict(held(self.module))
        for path, tensor in now.items():
            entered, version = self.entered.get(path, (None, 0))
            if entered is tensor and version == tensor._version:
                continue
            self.states[path] = snapshot(tensor)
            start, before = self.constants.pop(path, None), self.before.get(path)
            if start is None or self.took_states or isinstance(start.tensor, nn.Parameter):
                continue
            alone = before is not None and (
                before.tensor is start.tensor and equal(start.values, before.values)
            )
            if not alone and not _is_zero(start.values):
                raise StepError(self._started(".".join(path)))
        self.states = {path: snapshot(now[path]) for path in self.states if path in now}
        self.out = [snapshot(tensor) for tensor in result]
        self.stateful = self.stateful or self.took_states or bool(self.states)
        self.begins = False

    def named_states(self, result: Any) -> dict[int, str]:
        """Return the name of each state among what came out of a call, by the tensor's id.

        It is that of the argument that takes it, of its field in a named tuple, or of the attribute
        that holds it.
        """
        names = {id(state.tensor): path[-1] for path, state in self.states.items()}
        names |= dict(_fields(result))
        given = list(result)[1:] if isinstance(result, (tuple, list)) else []
        if len(given) == len(self.beside):
            names |= {id(x): p.name for x, p in zip(given, self.beside, strict=True)}
        return names

    def _check_given(
        self, given: Sequence[Tensor], fresh: Sequence[Tensor], origin: Origin, step: int
    ) -> None:
        last = self.out[len(self.out) - len(given) :] if len(self.out) >= len(given) else []
        zeros = len(fresh) != len(given)
        for place, value in enumerate(given):
            if last and _same(value, last[place], origin):
                continue
            if not self.begins:
                raise StepError(self._changed("the state", step))
            left = any(
                value is k.tensor and value._version == k.version and equal(value, k.values)
                for k in self.before.values()
            )
            new = _is_zero(value) if zeros else not value.numel() or _is(value, fresh[place])
            if not left and not new:
                raise StepError(self._started("the state"))

    def _changed(self, what: str, step: int) -> str:
        return (
            f"{self.name!r}: {what} that goes into step {step + 1} is not as it came out of the "
            f"step before; {ALONE}"
        )

    def _started(self, what: str) -> str:
        return (
            f"{self.name!r}: {what} that the first step begins with is none of its own (zero, or "
            f"what the layer makes itself); {ALONE}"
        )


def held(module: nn.Module) -> Iterator[tuple[Path, Tensor]]:
    """Yield the tensors that a module and its parts hold, by path."""
    for name, part in module.named_modules():
        start = tuple(name.split(".")) if name else ()
        for key, value in vars(part).items():
            if isinstance(value, Tensor) or (isinstance(value, (tuple, list, dict)) and value):
                place = () if key in ("_parameters", "_buffers") else (key,)
                yield from _inside(value, (*start, *place))


def everything(value: Any) -> list[Tensor]:
    """Return the tensors in a value, however deep in tuples, lists and dicts."""
    return [tensor for _, tensor in _inside(value, ())]


def _inside(value: Any, path: Path) -> Iterator[tuple[Path, Tensor]]:
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, (tuple, list, dict)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            if isinstance(item, (Tensor, tuple, list, dict)):
                yield from _inside(item, (*path, str(key)))


def _fields(value: Any) -> Iterator[tuple[int, str]]:
    """Yield the tensors in named tuples, by id, and the names of their fields."""
    if isinstance(value, (tuple, list)):
        fields = getattr(value, "_fields", ("",) * len(value))
        for name, item in zip(fields, value, strict=True):
            if isinstance(item, Tensor) and name:
                yield id(item), name
            yield from _fields(item)


def _same(value: Tensor, state: Snapshot, origin: Origin) -> bool:
    """Tell whether a tensor is what a layer gave, or an untouched copy of it."""
    itself = value is state.tensor and value._version == state.version
    source = origin(value)
    return (itself or source is None or source is state.tensor) and equal(value, state.values)


def equal(a: Tensor, b: Tensor) -> bool:
    """Tell whether two tensors are the same; NaN is NaN."""
    return a.shape == b.shape and _is(a, b)


def _is(a: Tensor, b: Tensor) -> bool:
    """Tell whether the values are the same, where one may have to be spread over the other."""
    try:
        if a.dtype == b.dtype and a.device == b.device and torch.equal(a, b):
            return True  # sooner, but knows no NaN
        return bool(((a == b) | (a.isnan() & b.isnan())).all())
    except RuntimeError:
        return False


def _is_zero(value: Tensor) -> bool:
    return not bool(value.any())
