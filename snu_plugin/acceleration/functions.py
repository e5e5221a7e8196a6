"""What is known of functions of torch: who draws numbers, tells values, writes in place."""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

RANDOM = frozenset((
    "dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout",
    "bernoulli", "bernoulli_", "rand", "randn", "randint", "rand_like", "randn_like",
    "randint_like", "randperm", "normal", "normal_", "uniform_", "poisson", "multinomial",
    "exponential_", "rrelu", "gumbel_softmax", "random_", "log_normal_", "cauchy_", "geometric_",
))  # fmt: skip
"""Functions that draw random numbers."""

KNOWN_SHAPE = frozenset((
    "shape", "size", "dim", "ndim", "ndimension", "dtype", "device", "numel", "nelement", "stride",
    "is_contiguous", "element_size", "is_floating_point", "is_complex", "is_cuda", "is_cpu",
    "is_sparse", "is_leaf", "requires_grad", "layout", "names", "__len__", "__hash__", "__repr__",
    "__format__", "get_device", "type", "is_tensor", "grad_fn", "grad", "_version",
    "storage_offset", "is_quantized", "is_meta", "is_nested", "data_ptr", "untyped_storage",
    "is_same_size", "__dir__", "register_hook", "is_inference", "is_conj", "is_neg", "itemsize",
    "nbytes", "retains_grad", "requires_grad_", "retain_grad",
))  # fmt: skip
"""Functions that tell nothing of a tensor's values."""

OUT_OF_PLACE = {
    "__iadd__": "__add__", "__isub__": "__sub__", "__imul__": "__mul__",
    "__itruediv__": "__truediv__", "__ipow__": "__pow__", "__iand__": "__and__",
    "__ior__": "__or__", "__ixor__": "__xor__",
}  # fmt: skip

ZEROS = frozenset(["zeros", "zeros_like", "new_zeros"])


def written(base: Tensor, index: Any, value: Any) -> Tensor:
    """Return a copy of ``base`` with ``value`` at ``index``."""
    copy = base.clone()
    copy[index] = value
    return copy


def name_of(func: Any) -> str:
    """Return the name under which users know a function of torch."""
    name = getattr(func, "__name__", str(func))
    if name == "__get__":
        return str(getattr(func.__self__, "__name__", name))
    return name


def draws(name: str, func: Callable[..., Any], args: Any, kwargs: Any) -> bool:
    """Tell whether a call of a function draws random numbers."""
    if name not in RANDOM:
        return False
    if "dropout" in name:
        bound = inspect.signature(func).bind(*args, **kwargs)
        bound.apply_defaults()
        return bool(bound.arguments.get("training", True)) and bound.arguments.get("p") != 0
    return kwargs.get("training", True) is not False


@functools.cache
def anew(name: str) -> Callable[..., Any]:
    """Return what makes anew what a method such as ``normal_`` writes over all of a tensor."""

    def made(base: Tensor, *args: Any, **kwargs: Any) -> Any:
        return getattr(torch.empty_like(base), name)(*args, **kwargs)

    made.__name__ = name
    return made


def out_of_place(
    name: str, func: Callable[..., Any], args: Any, kwargs: Any
) -> tuple[Callable[..., Any], Any, Any] | None:
    """Return the call that gives what a call writes into its first tensor, ``None``: none known."""
    if name == "__setitem__":
        return written, args, kwargs
    if name in OUT_OF_PLACE or (name.endswith("_") and not name.endswith("__")):
        if name in RANDOM or name in ("zero_", "fill_", "copy_"):
            return anew(name), args, kwargs
        pure = getattr(Tensor, OUT_OF_PLACE.get(name, name[:-1]), None)
        return None if pure is None else (pure, args, kwargs)
    try:  # such as relu(x, inplace=True)
        bound = inspect.signature(func).bind(*args, **kwargs)
    except (TypeError, ValueError):
        return None
    bound.arguments["inplace"] = False
    return func, bound.args, bound.kwargs


class Taken(NamedTuple):
    """What a call takes out of its first tensor: some places along an axis, then a part of each."""

    axis: int
    places: list[int]
    rest: tuple[Any, ...] = ()
    """The index of that part; empty: all of it."""


class Windows(NamedTuple):
    """What a call takes out of its first tensor: some of the windows that an axis falls into."""

    axis: int
    size: int
    places: list[int]


def rows_taken(name: str, args: Any, kwargs: Any) -> Taken | None:
    """Return what ``x[t]``, ``x[:, t, 2:]``, ``x.select(0, t)`` or ``x.unbind()`` takes out of x.

    ``None`` for other calls. Of several numbers in an index the first counts; see ``windowed``.
    """
    if not args or not isinstance(args[0], Tensor):
        return None
    shape = args[0].shape
    if name == "unbind" and not kwargs.keys() - {"dim"}:
        axis = kwargs.get("dim", args[1] if len(args) > 1 else 0) % len(shape)
        return Taken(axis, list(range(shape[axis])))
    if name == "select" and len(args) == 3:
        axis = args[1] % len(shape)
        return Taken(axis, [args[2] % shape[axis]])
    if name != "__getitem__":
        return None
    index = args[1] if isinstance(args[1], tuple) else (args[1],)
    if not all(i is None or i is Ellipsis or type(i) in (int, slice) for i in index):
        return None
    if any(i is Ellipsis for i in index):
        place = [i is Ellipsis for i in index].index(True)
        whole = (slice(None),) * (len(shape) - sum(i is not None for i in index) + 1)
        index = *index[:place], *whole, *index[place + 1 :]
    numbers = [n for n, i in enumerate(index) if type(i) is int]
    if not numbers:
        return None
    first = numbers[0]
    axis = sum(i is not None for i in index[:first])
    rest = *index[:first], *index[first + 1 :]
    plain = all(type(i) is slice and i == slice(None) for i in rest)
    return Taken(axis, [index[first] % shape[axis]], () if plain else rest)


def windowed(name: str, args: Any, kwargs: Any) -> Windows | None:
    """Return the windows that ``x.split(n)``, ``x.chunk(n)`` or ``x[:, t : t + n]`` takes.

    ``None`` for other calls, and where the axis is no whole number of windows.
    """
    if not args or not isinstance(args[0], Tensor):
        return None
    shape = args[0].shape
    if name in ("split", "chunk") and len(args) > 1 and type(args[1]) is int:
        axis = kwargs.get("dim", args[2] if len(args) > 2 else 0) % len(shape)
        size = args[1] if name == "split" else -(-shape[axis] // args[1])
        if not size or shape[axis] % size:
            return None
        return Windows(axis, size, list(range(shape[axis] // size)))
    index = args[1] if name == "__getitem__" else None
    index = index if isinstance(index, tuple) else (index,)
    if not all(type(i) is slice for i in index):
        return None
    cut = [axis for axis, i in enumerate(index) if i != slice(None)]
    if len(cut) != 1:
        return None
    (axis,) = cut
    begin, end, step = index[axis].indices(shape[axis])
    size = end - begin
    if step != 1 or size < 1 or begin % size or shape[axis] % size or size == shape[axis]:
        return None
    return Windows(axis, size, [begin // size])


@contextmanager
def autograd_functions(call: Callable[..., Any]) -> Iterator[None]:
    """Have ``call(class, forward, *args)`` stand for ``forward`` of every autograd.Function.

    Torch shows them to no mode: else what they do forward would be noted, and their gradients lost.
    Watched is ``forward`` itself, as networks hold ``Mine.apply`` under names of their own; calls
    of other threads are their own.
    """
    kinds, thread = _derived(torch.autograd.Function), threading.get_ident()
    own = {kind: vars(kind).get("forward") for kind in kinds}

    def watched(kind: Any, forward: Any, *args: Any) -> Any:
        here = threading.get_ident() == thread
        return call(kind, forward, *args) if here else forward(*args)

    calls = {kind: staticmethod(partial(watched, kind, kind.forward)) for kind in kinds}
    for kind, stand_in in calls.items():
        kind.forward = stand_in
    try:
        yield
    finally:
        for kind, forward in own.items():
            if forward is None:
                del kind.forward
            else:
                kind.forward = forward


def _derived(kind: Any) -> list[Any]:
    """Return all classes below one."""
    return [c for below in kind.__subclasses__() for c in (below, *_derived(below))]
