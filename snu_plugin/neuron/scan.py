"""The front door to a whole sequence of SNU steps: checks the call, picks what runs it."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from snu_plugin.neuron import reference
from snu_plugin.neuron.config import SNUConfig
from snu_plugin.neuron.precision import HALF, NOTHING, full, halves, narrow, wide
from snu_plugin.neuron.reference import State


def _numba() -> ModuleType:
    from snu_plugin.neuron import numba_scan

    return numba_scan


def _triton() -> ModuleType:
    from snu_plugin.neuron import triton_scan

    return triton_scan


FUSED = {"numba": _numba, "triton": _triton}
"""Fused implementations, fastest first, each imported on first use. The module has ``missing()``,
why it cannot run on this machine, and ``snu_scan`` and ``euler_scan`` with ``refusal`` and
``euler_refusal``, why they cannot run a call; all reasons are ``""`` where there is none."""


class Implementation(NamedTuple):
    """Whether one implementation of the scan can run on this machine, or a call, and why not."""

    available: bool
    reason: str


def implementations(
    x: Tensor | None = None,
    config: SNUConfig | None = None,
    *,
    decay: Tensor | None = None,
    threshold: Tensor | None = None,
    recurrent: Tensor | None = None,
    state: State | None = None,
) -> dict[str, Implementation]:
    """Return every implementation of ``snu_scan`` by name, fastest first.

    Without arguments: which can run on this machine. With those of a call of ``snu_scan``: which
    can run that call; ``impl=None`` takes the first of them, but for a single step of a hard unit
    the reference, which gives the same bits sooner.

    >>> implementations()["reference"]
    Implementation(available=True, reason='')
    """
    found = {}
    given = recurrent, decay, threshold, *(state or ())
    for name in FUSED:
        module, found[name] = ready(name)
        if x is not None and module is not None:
            config = config or SNUConfig()
            found[name] = module.refusal(x, config, *given)
            if found[name] and halves(x, *given):
                found[name] = module.refusal(wide(x), config, *map(wide, given))
    return {n: Implementation(not why, why) for n, why in found.items()} | {
        "reference": Implementation(True, "")
    }


def snu_scan(
    x: Tensor,
    config: SNUConfig | None = None,
    *,
    decay: Tensor | None = None,
    threshold: Tensor | None = None,
    recurrent: Tensor | None = None,
    state: State | None = None,
    impl: str | None = None,
) -> tuple[Tensor, State]:
    """Run a layer of SNU or sSNU over a whole sequence of weighted inputs.

    Equations: see ``snu_step`` (Woźniak et al. 2020). Segments compose: a sequence run in two
    halves, the second from the state of the first, equals the whole.

    Where ``x`` is float16 or bfloat16, as autocast makes it, outputs are too; all in between, and
    the state that is returned, is float32; Triton alone rounds ``H y'`` to the precision of ``x``.

    Args:
        x: Weighted inputs, floating point, ``(T, B, ..., features)``.
        config: Settings; ``None`` is ``SNUConfig()``.
        decay: Decays in [0, 1] that replace ``config.decay``; broadcast to ``x.shape[1:]``.
        threshold: Thresholds that replace ``config.threshold``; broadcast to ``x.shape[1:]``.
        recurrent: Weights H, ``(features, features)``, row = receiving unit; acts on the last step.
        state: State to start from; ``None`` starts at zero.
        impl: Name from ``implementations()``; ``None`` takes the fastest that can run this call.

    Returns:
        Outputs ``(T, B, ..., features)`` and the state after the last step.

    Raises:
        ValueError: For contradicting shapes, or a named ``impl`` that cannot run this call.
        TypeError: If ``x`` is not floating point.
        LookupError: For an unknown ``impl``.

    >>> y, state = snu_scan(torch.full((6, 1, 1), 0.6))
    >>> y.flatten()
    tensor([0., 1., 0., 1., 0., 1.])
    """
    config = config or SNUConfig()
    _check(x, decay, threshold, recurrent, state)
    others = decay, threshold, *(state or ())
    brief = x.shape[0] == 1 and not config.soft

    def refusal(fused: ModuleType) -> str:
        return fused.refusal(x, config, recurrent, *others)  # type: ignore[no-any-return]

    if halves(x, recurrent, *others) and not takes_halves(x, impl, refusal, brief=brief):
        y, last = snu_scan(
            wide(x),
            config,
            decay=wide(decay),
            threshold=wide(threshold),
            recurrent=wide(recurrent),
            state=None if state is None else State(*map(wide, state)),
            impl=impl,
        )
        return narrow(y, x), last
    module = choose(impl, refusal, brief=brief)
    with NOTHING if recurrent is None else full(x):
        y, last = (module or reference).snu_scan(
            x, config, decay=decay, threshold=threshold, recurrent=recurrent, state=state
        )
    return y, last


def choose(
    impl: str | None, refusal: Callable[[ModuleType], str], *, brief: bool
) -> ModuleType | None:
    """Return the fused module that runs a call, or ``None`` for the reference.

    Args:
        impl: Name from ``implementations()``; ``None`` takes the fastest that can run.
        refusal: Asks a fused module why it cannot run this call.
        brief: The call is one step of bit-equal arithmetic, which the reference runs faster.

    Raises:
        ValueError: For a named ``impl`` that cannot run this call.
        LookupError: For an unknown ``impl``.
    """
    if impl is not None and impl not in (*FUSED, "reference"):
        raise LookupError(f"impl is {impl!r}; it must be one of {', '.join((*FUSED, 'reference'))}")
    if impl == "reference" or (impl is None and brief):
        return None
    for name in FUSED if impl is None else (impl,):
        module, reason = ready(name)
        reason = reason if module is None else refusal(module)
        if not reason:
            return module
        if impl is not None:
            raise ValueError(f"impl={impl!r} cannot run this call: {reason}")
    return None


def takes_halves(
    x: Tensor, impl: str | None, refusal: Callable[[ModuleType], str], *, brief: bool
) -> bool:
    """Tell whether what ``choose`` finds runs a call with half precision as it is.

    Only Triton does, where ``x`` has half precision; others are given float32.
    """
    asked = impl in (None, "triton") and x.dtype in HALF
    return asked and choose(impl, refusal, brief=brief) is not None


def ready(name: str) -> tuple[ModuleType | None, str]:
    """Return a fused implementation, or ``None`` and why this machine cannot run it."""
    try:
        module = FUSED[name]()
    except ImportError as error:
        return None, f"{error.name or name} is not installed: pip install 'snu-plugin[{name}]'"
    missing: str = module.missing()
    return (None, missing) if missing else (module, "")


def _check(
    x: Tensor,
    decay: Tensor | None,
    threshold: Tensor | None,
    recurrent: Tensor | None,
    state: State | None,
) -> None:
    if not x.is_floating_point():
        raise TypeError(f"x has dtype {x.dtype}; it must be floating point")
    if x.dim() < 2:
        raise ValueError(f"x has shape {tuple(x.shape)}; it must be (T, B, ..., features)")
    step = x.shape[1:]
    for name, value in (("decay", decay), ("threshold", threshold)):
        if value is not None and not broadcasts(value.shape, step):
            raise ValueError(
                f"{name} has shape {tuple(value.shape)}; it must broadcast to {tuple(step)}"
            )
    if recurrent is not None and recurrent.shape != (step[-1], step[-1]):
        raise ValueError(
            f"recurrent has shape {tuple(recurrent.shape)}; it must be {(step[-1], step[-1])}"
        )
    if state is not None and (state.s.shape != step or state.y.shape != step):
        raise ValueError(
            f"state has shapes {tuple(state.s.shape)} and {tuple(state.y.shape)}; "
            f"both must be {tuple(step)}"
        )


def broadcasts(shape: torch.Size, to: torch.Size) -> bool:
    if shape == to[len(to) - len(shape) :]:  # mostly so, and soon told
        return True
    return len(shape) <= len(to) and all(
        a in (1, b) for a, b in zip(reversed(shape), reversed(to), strict=False)
    )
