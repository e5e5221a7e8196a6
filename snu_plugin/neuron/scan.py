"""The front doors to whole sequences of steps: they check the call and pick what runs it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from snu_plugin.accepted import hint, shown, with_known_names
from snu_plugin.neuron import reference
from snu_plugin.neuron.config import SNUConfig
from snu_plugin.neuron.engine import Engine
from snu_plugin.neuron.euler import Euler, EulerState, advance, initial
from snu_plugin.neuron.fitting import check_tensor
from snu_plugin.neuron.memory import Order
from snu_plugin.neuron.observer import OBSERVER
from snu_plugin.neuron.operators import is_eager
from snu_plugin.neuron.precision import HALF, NOTHING, full, halves, in_float32, wide
from snu_plugin.neuron.reference import State
from snu_plugin.neuron.segments import Tensors, in_segments
from snu_plugin.origin import how_to_install

S = TypeVar("S")


ENGINES = "numba", "triton"
"""Names of what runs fused scans, fastest first."""

_MISSING: dict[str, str] = {}
"""What could not be imported, and why: to look for it again takes 3 ms, each time."""


def find(name: str) -> Engine | str:
    """Return an engine, imported on first use, or why this machine cannot run it."""
    if name in _MISSING:
        return _MISSING[name]
    try:
        if name == "numba":
            from snu_plugin.neuron.numba_scan import ENGINE
        else:
            from snu_plugin.neuron.triton_scan.scan import ENGINE
    except ImportError as error:
        _MISSING[name] = f"{error.name or name} is not installed: {how_to_install(name)}"
        return _MISSING[name]
    return ENGINE.missing() or ENGINE


class Implementation(NamedTuple):
    """Whether one implementation of the scan can run on this machine, or a call, and why not."""

    available: bool
    reason: str


@with_known_names
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
    settings = checked_config(config)
    if x is not None:
        check_sequence(x, (), decay, threshold, recurrent, state)
    others = decay, threshold, *(state or ())
    for name in ENGINES:
        engine = find(name)
        why = engine if isinstance(engine, str) else ""
        if x is not None and isinstance(engine, Engine):
            why = engine.refusal(x, settings, recurrent, others)
            if why and halves(x, recurrent, *others):
                why = engine.refusal(wide(x), settings, wide(recurrent), [*map(wide, others)])
        found[name] = Implementation(not why, why)
    return found | {"reference": Implementation(True, "")}


def no_engine() -> str:
    """Return why only the reference runs a scan on this machine, ``""`` where an engine does."""
    engines = [one for name, one in implementations().items() if name != "reference"]
    return "" if any(one.available for one in engines) else engines[0].reason


def snu_scan(
    x: Tensor,
    config: SNUConfig | None = None,
    *,
    decay: Tensor | None = None,
    threshold: Tensor | None = None,
    recurrent: Tensor | None = None,
    state: State | None = None,
    impl: str | Engine | None = None,
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
        impl: Name from ``implementations()``, or an ``Engine`` of your own; ``None`` takes the
            fastest that can run this call.

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
    return run_units(x, (), checked_config(config), decay, threshold, recurrent, state, impl)


def run_units(
    x: Tensor,
    features: tuple[int, ...],
    config: SNUConfig,
    decay: Tensor | None,
    threshold: Tensor | None,
    recurrent: Tensor | None,
    state: State | None,
    impl: str | Engine | None,
) -> tuple[Tensor, State]:
    """Run ``snu_scan`` of a sequence that ends with these axes of a layer."""
    check_sequence(x, features, decay, threshold, recurrent, state)
    eager = not torch.compiler.is_compiling()
    if eager and (watching := OBSERVER.get()) is not None:
        given: Any = {"decay": decay, "threshold": threshold, "recurrent": recurrent}
        return watching.snu(x, config, **given, state=state, impl=impl)
    # A compiled graph may be asked to serve any number of steps, so it must not look.
    single_step = eager and not config.soft and x.shape[0] == 1
    others = decay, threshold, *(state or ())
    refusal = lambda engine: engine.refusal(x, config, recurrent, others)  # noqa: E731
    half = any([t.dtype in HALF for t in (x, recurrent, *others) if t is not None])
    if half and not _takes_halves(x, impl, single_step, refusal):
        constants = decay, threshold, recurrent
        return in_float32(run_units, x, features, config, *constants, state, impl)
    engine = choose(impl, single_step, refusal)
    run = reference.snu_scan if engine is None or not x.shape[0] else engine.snu
    apart = eager and recurrent is None and not config.lateral_inhibition and not x.is_contiguous()
    if apart and engine is not None and is_eager(x, *others) and (order := Order.of(x)) is not None:
        decay, threshold = (None if c is None else order.lay_step(c) for c in (decay, threshold))
        begin = None if state is None else State(*map(order.lay_step, state))
        y, last = run(order.lay(x), config, decay=decay, threshold=threshold, state=begin)
        return order.stand(y), State(*map(order.stand_step, last))
    with NOTHING if recurrent is None else full(x.device):
        return run(x, config, decay=decay, threshold=threshold, recurrent=recurrent, state=state)


def euler_scan(
    x: Tensor, neuron: Euler, state: EulerState | None = None, *, impl: str | Engine | None = None
) -> tuple[Tensor, EulerState]:
    """Run ``euler_step`` over the first axis of ``x``, ``(T, B, ..., features)``.

    Where ``x`` is float16 or bfloat16 outputs are too, and all else is float32.

    Args:
        x: Inputs.
        neuron: Constants of the layer.
        state: State to start from; ``None`` is ``neuron.start`` without current.
        impl: As in ``snu_scan``; outputs of neurons that fire or only leak are bit by bit the same.

    Returns:
        Outputs ``(T, B, ..., features)`` and the state after the last step.

    Raises:
        ValueError: For a named ``impl`` that cannot run this call.
        LookupError: For an unknown ``impl``.

    >>> leaky = Euler(decay=torch.tensor(0.5), threshold=torch.tensor(1.0))
    >>> euler_scan(torch.full((3, 1, 1), 0.75), leaky)[0].flatten()
    tensor([0., 1., 0.])
    """
    eager = not torch.compiler.is_compiling()
    if eager and (watching := OBSERVER.get()) is not None:
        watching.refuse("a neuron of NIR")
    single_step = eager and not neuron.config.soft and x.shape[0] == 1
    others = [*neuron.tensors(), *(t for t in state or () if t is not None)]
    refusal = lambda engine: _euler_refusal(engine, x, neuron, others)  # noqa: E731
    half = any([t.dtype in HALF for t in (x, *others)])
    if half and not _takes_halves(x, impl, single_step, refusal):
        return in_float32(euler_scan, x, neuron, state, impl=impl)
    engine = choose(impl, single_step, refusal)
    if engine is not None and engine.euler is not None and x.shape[0]:
        if neuron.synapse_decay is None and neuron.gain is None and neuron.offset is None:
            return engine.euler(x, neuron, state)
        return _in_segments(engine.euler, x, neuron, state)
    if state is None:
        state = initial(x.new_zeros(x.shape[1:]), neuron)
    return run_steps(lambda x_t, last: advance(x_t, last, neuron), x, state)


def choose(
    impl: str | Engine | None,
    prefer_reference: bool,
    refusal: Callable[[Engine], str],
    engines: Collection[str] = ENGINES,
) -> Engine | None:
    """Return the engine that runs a call, or ``None`` for the reference.

    Args:
        impl: An engine, its name, or ``reference``; ``None`` takes the first that can run the
            call.
        prefer_reference: Whether ``None`` takes the reference, which is as exact and here faster.
        refusal: Asks an engine why it cannot run this call.
        engines: Names of those that have such a scan.

    Raises:
        ValueError: For a named ``impl`` that cannot run this call.
        LookupError: For an unknown ``impl``.
    """
    if isinstance(impl, Engine):
        if why := impl.missing() or refusal(impl):
            raise ValueError(f"the engine {impl.name!r} cannot run this call: {why}")
        return impl
    if impl is not None and impl not in (*engines, "reference"):
        raise LookupError(
            f"impl is {shown(impl)}; it must be one of {', '.join((*engines, 'reference'))}"
            f"{hint(impl, (*engines, 'reference'))}"
        )
    if impl == "reference" or (impl is None and prefer_reference):
        return None
    for name in engines if impl is None else (impl,):
        engine = find(name)
        reason = engine if isinstance(engine, str) else refusal(engine)
        if isinstance(engine, Engine) and not reason:
            return engine
        if impl is not None:
            raise ValueError(f"impl={impl!r} cannot run this call: {reason}")
    return None


def _takes_halves(
    x: Tensor, impl: str | Engine | None, prefer_reference: bool, refusal: Callable[[Engine], str]
) -> bool:
    """Tell whether what ``choose`` finds runs a call with half precision as it is.

    Only Triton does, where ``x`` has half precision; others are given float32.
    """
    asked = impl in (None, "triton") and x.dtype in HALF and x.shape[0] > 0
    return asked and choose(impl, prefer_reference, refusal) is not None


def run_steps(
    step: Callable[[Tensor, S], tuple[Tensor, S]], x: Tensor, state: S
) -> tuple[Tensor, S]:
    """Run a step of plain torch over the first axis of ``x``."""
    outputs = []
    for x_t in x:
        y, state = step(x_t, state)
        outputs.append(y)
    return torch.stack(outputs) if outputs else step(x, state)[0], state


def _in_segments(
    scan: Callable[[Tensor, Euler, EulerState | None], tuple[Tensor, EulerState]],
    x: Tensor,
    neuron: Euler,
    state: EulerState | None,
) -> tuple[Tensor, EulerState]:
    """Run an engine's scan, so that what it makes of ``x`` first is not kept whole."""
    names = [name for name, value in vars(neuron).items() if isinstance(value, Tensor)]

    def run(x: Tensor, states: Tensors, constants: Tensors) -> tuple[Tensors, Tensors]:
        v, i = states
        given: dict[str, Any] = dict(zip(names, constants, strict=True))
        now = replace(neuron, **given)
        y, last = scan(x, now, state if v is None else EulerState(v, i))
        return (y,), last

    (y,), last = in_segments(run, x, state or (None, None), neuron.tensors())
    return y, EulerState(*last)  # type: ignore[arg-type, return-value]  # both are there


def _euler_refusal(engine: Engine, x: Tensor, neuron: Euler, others: Sequence[Tensor]) -> str:
    if engine.euler is None:
        return f"{engine.name} has no scan of NIR's neurons"
    step = x.shape[1:]
    if not all([t.shape in (step, step[-1:]) or broadcasts(t.shape, step) for t in others]):
        return f"constants or state are larger than one step of x, {tuple(step)}"
    if neuron.drop is not None:
        return "what a neuron loses after a spike is not fused"
    if neuron.reset is not None and neuron.reset.requires_grad:
        return "a trained reset is not fused"
    config = neuron.config
    if config.lateral_inhibition:  # which neurons of NIR do not have
        config = replace(config, lateral_inhibition=None)
    return engine.refusal(x, config, None, others)


def checked_config(config: object) -> SNUConfig:
    """Return the settings of a layer, the usual ones for ``None``."""
    if not isinstance(config, (SNUConfig, type(None))):
        raise TypeError(f"config is {type(config).__name__}; it must be an SNUConfig, or None")
    return config or SNUConfig()


def check_sequence(
    x: object,
    features: tuple[int, ...] = (),
    decay: Tensor | None = None,
    threshold: Tensor | None = None,
    recurrent: Tensor | None = None,
    state: State | None = None,
) -> None:
    """Refuse what is no sequence ``(T, B, ..., *features)`` of floating-point numbers.

    And what does not fit its steps: constants and weights of units, and the state before.
    """
    if not isinstance(x, Tensor):
        raise TypeError(
            f"x is {type(x).__name__}; it must be a tensor (T, B, ..., features), such as "
            "torch.as_tensor makes"
        )
    if not x.is_floating_point():
        raise TypeError(f"x has dtype {x.dtype}; it must be floating point")
    if x.is_sparse:
        raise TypeError("x is a sparse tensor; give x.to_dense()")
    if x.dim() < 2 + len(features) or (features and x.shape[-len(features) :] != features):
        last = ", ".join(map(str, features)) or "features"
        raise ValueError(f"x has shape {tuple(x.shape)}; it must be (T, B, ..., {last})")

    step = x.shape[1:]
    for name, value in (("decay", decay), ("threshold", threshold)):
        if value is not None and not isinstance(value, Tensor):
            check_tensor(name, value)
        if value is not None and value.shape != step[-1:] and not broadcasts(value.shape, step):
            raise ValueError(
                f"{name} has shape {tuple(value.shape)}; it must broadcast to {tuple(step)}"
            )
    if recurrent is not None and not isinstance(recurrent, Tensor):
        check_tensor("recurrent", recurrent)
    if recurrent is not None and recurrent.shape != (step[-1], step[-1]):
        raise ValueError(
            f"recurrent has shape {tuple(recurrent.shape)}; it must be {(step[-1], step[-1])}"
        )
    if state is not None and not (hasattr(state, "s") and hasattr(state, "y")):
        raise TypeError(
            f"state is {type(state).__name__}; it must be a State(s, y), such as the last call "
            "returned, or None"
        )
    if state is not None:
        check_tensor("state.s", state.s)
        check_tensor("state.y", state.y)
    if state is not None and (state.s.shape != step or state.y.shape != step):
        raise ValueError(
            f"state has shapes {tuple(state.s.shape)} and {tuple(state.y.shape)}; "
            f"both must be {tuple(step)}"
        )


def broadcasts(shape: torch.Size, to: torch.Size) -> bool:
    """Tell whether a tensor of this shape broadcasts to another, without making that larger."""
    if shape == to[len(to) - len(shape) :]:  # mostly so, and soon told
        return True
    return len(shape) <= len(to) and all(
        a in (1, b) for a, b in zip(reversed(shape), reversed(to), strict=False)
    )
