"""The Spiking Neural Unit in plain torch: the specification of every faster form."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from snu_plugin.accepted import shown
from snu_plugin.neuron.config import SNUConfig
from snu_plugin.neuron.fitting import check_step, check_tensor, fits
from snu_plugin.neuron.precision import full, halves, in_float32
from snu_plugin.neuron.surrogate import step


class State(NamedTuple):
    """What a unit carries from one step to the next, each of shape ``(B, ..., features)``."""

    s: Tensor
    """Membrane potential, before the reset that the output causes in the next step."""
    y: Tensor
    """Output: 0 or 1 (SNU), or a number in (0, 1) (sSNU)."""

    @property
    def v(self) -> Tensor:
        """The potential ``s`` under the name that Norse's users and tools ask for."""
        return self.s

    @property
    def z(self) -> Tensor:
        """The output ``y`` under the name that Norse's recurrent neurons have for it."""
        return self.y


_NAMES = {"v": "s", "z": "y"}
_by_fields = State._replace


def _replace(self: State, **changed: Tensor) -> State:
    return _by_fields(self, **{_NAMES.get(name, name): value for name, value in changed.items()})


# Norse's users write state._replace(v=...). A NamedTuple's body may not say so, and torch takes
# one that is derived for no named tuple.
State._replace = _replace  # type: ignore[assignment]


def activate(a: Tensor, config: SNUConfig) -> Tensor:
    """Apply the state activation g."""
    if config.g == "relu":
        return F.relu(a)
    return F.leaky_relu(a, config.slope) if config.g == "leaky_relu" else a


def fire(v: Tensor, config: SNUConfig) -> Tensor:
    """Apply the output activation h to ``v = s + b``."""
    return torch.sigmoid(v) if config.soft else step(v, config.surrogate)


def remaining(state: State, config: SNUConfig) -> Tensor:
    """Return what resets leave of the last potentials.

    An output resets its own share of its potential, with lateral inhibition the largest one over
    the last axis, or over everything, that of all.
    """
    y = state.y.detach() if config.detach_reset else state.y
    if config.lateral_inhibition and y.numel():
        y = y.amax(-1, keepdim=True) if config.lateral_inhibition == "sample" else y.amax()
    return state.s * (1 - y)


def snu_step(
    x: Tensor,
    state: State | None = None,
    config: SNUConfig | None = None,
    *,
    decay: Tensor | None = None,
    threshold: Tensor | None = None,
    recurrent: Tensor | None = None,
) -> tuple[Tensor, State]:
    """Advance one step: ``s = g(x + H y' + l s' (1 - y'))``, ``y = h(s - threshold)``.

    Source: Woźniak et al. 2020, eq. 1; the reset acts on the last state, so ``s`` keeps its value
    above the threshold in the step in which the unit fires. ``x`` is the weighted input. Where it
    is float16 or bfloat16, as autocast makes it, ``y`` is too, and all else is float32.

    Args:
        x: Weighted input, ``(B, ..., features)``.
        state: The last step's ``State``; ``None`` is ``s = y = 0``.
        config: Settings; ``None`` is ``SNUConfig()``.
        decay: Decays that replace ``config.decay``; must broadcast to ``x``.
        threshold: Thresholds that replace ``config.threshold``; must broadcast to ``x``.
        recurrent: Weights H, ``(features, features)`` as in ``nn.Linear``: row = receiving unit.

    Returns:
        The output ``y`` and the new ``State``.

    >>> y, state = snu_step(torch.tensor([[1.5, 0.5]]))
    >>> y, state.s
    (tensor([[1., 0.]]), tensor([[1.5000, 0.5000]]))
    """
    _check(x, state, config, decay, threshold, recurrent)
    config = config or SNUConfig()
    if halves(x, decay, threshold, recurrent, *(state or ())):
        return in_float32(_advance, x, state, config, decay, threshold, recurrent)
    return _advance(x, state, config, decay, threshold, recurrent)


def _check(
    x: Tensor,
    state: State | None,
    config: SNUConfig | None,
    decay: Tensor | None,
    threshold: Tensor | None,
    recurrent: Tensor | None,
) -> None:
    """Refuse what is of another kind, or does not fit."""
    if config is not None and not isinstance(config, SNUConfig):
        raise TypeError(f"config is {shown(config)}; it must be an SNUConfig, or None")
    if state is not None and not (hasattr(state, "s") and hasattr(state, "y")):
        raise TypeError(
            f"state is {shown(state)}; it must be a State(s, y), such as the last call returned, "
            "or None"
        )
    s, y = (None, None) if state is None else (state.s, state.y)
    if not fits(x, decay, threshold, s, y):
        check_step(x, decay=decay, threshold=threshold, **{"state.s": s, "state.y": y})
    if recurrent is not None:
        check_tensor("recurrent", recurrent)
        if recurrent.shape != (x.shape[-1],) * 2:
            raise ValueError(
                f"recurrent has shape {tuple(recurrent.shape)}; it must be {(x.shape[-1],) * 2}"
            )


def _advance(
    x: Tensor,
    state: State | None,
    config: SNUConfig,
    decay: Tensor | None,
    threshold: Tensor | None,
    recurrent: Tensor | None,
) -> tuple[Tensor, State]:
    l = config.decay if decay is None else decay
    theta = config.threshold if threshold is None else threshold
    last = State(torch.zeros_like(x), torch.zeros_like(x)) if state is None else state
    drive = x
    if recurrent is not None:
        with full(x.device):
            drive = x + F.linear(last.y, recurrent)
    s = activate(drive + l * remaining(last, config), config)
    y = fire(s - theta, config)
    return y, State(s, y)


def snu_scan(
    x: Tensor,
    config: SNUConfig,
    *,
    decay: Tensor | None = None,
    threshold: Tensor | None = None,
    recurrent: Tensor | None = None,
    state: State | None = None,
) -> tuple[Tensor, State]:
    """Run ``snu_step`` over the first axis of ``x``; see ``snu_plugin.snu_scan``."""
    if state is None:
        zeros = x.new_zeros(x.shape[1:])
        state = State(zeros, zeros)
    outputs = []
    for x_t in x:
        y, state = _advance(x_t, state, config, decay, threshold, recurrent)
        outputs.append(y)
    if not outputs:  # x itself is an empty step: so its outputs hang on what all others hang on
        return _advance(x, state, config, decay, threshold, recurrent)[0], state
    return torch.stack(outputs), state


def snu_states(
    x: Tensor,
    config: SNUConfig,
    *,
    decay: Tensor | None = None,
    threshold: Tensor | None = None,
    recurrent: Tensor | None = None,
    state: State | None = None,
) -> State:
    """Run ``snu_step`` over the first axis of ``x``; return the states of all steps, one each.

    Arguments are those of ``snu_plugin.snu_scan``, which gives the state after the last step alone,
    sooner. Both parts are ``(T, B, ..., features)``, float32 where ``x`` has half precision.
    """
    states = []
    for x_t in x if len(x) else (x,):  # of no steps, x itself is an empty one
        _, state = snu_step(
            x_t, state, config, decay=decay, threshold=threshold, recurrent=recurrent
        )
        states.append(state)
    return State(*(torch.stack(v) if len(x) else v[0] for v in zip(*states, strict=True)))
