"""What a layer of SNUs in Norse is parametrised by."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, Protocol

import torch
from norse.torch.utils import pytree
from torch import Tensor, nn

from snu_plugin.accepted import COUNT, check_names
from snu_plugin.neuron import SNUConfig, check_tensor, hold_decay

VALUES = ("decay", "threshold")


class Parameters(Protocol):
    """What the step functions read: ``SNUParameters``, or a value with the same names."""

    @property
    def decay(self) -> Tensor: ...
    @property
    def threshold(self) -> Tensor: ...
    @property
    def config(self) -> SNUConfig: ...


class SNUParameters(nn.Module):
    """The parameters of a layer, given to a module as ``p`` like Norse's own.

    A module where Norse has tuples, so that what it holds is in ``parameters()`` and
    ``state_dict()``, moves with ``.to()`` and pickles.

    Args:
        decay: Share of the potential kept from step to step, in [0, 1]: a number, or a tensor that
            broadcasts to the layer, e.g. ``(features,)``. Trained if it is an ``nn.Parameter`` or
            with ``learn_decay=True``, and then held inside [0, 1).
        threshold: Potential above which a unit fires; as ``decay``, but trained unless
            ``learn_threshold=False``.
        settings: The other settings of ``snu_plugin.SNUConfig``, by name.

    Raises:
        ValueError: For values outside their range; of a decay that is trained, what is held counts.
        TypeError: For a setting that does not exist, or a tensor that is not floating point.

    >>> SNUParameters(decay=0.5, learn_decay=True).decay
    Parameter containing:
    tensor(0.5000, requires_grad=True)
    """

    decay: Tensor
    threshold: Tensor
    config: SNUConfig
    """The settings; where a value is a tensor of several numbers, that tensor rules."""

    def __init__(
        self, decay: float | Tensor = 0.8, threshold: float | Tensor = 1.0, **settings: Any
    ) -> None:
        super().__init__()
        known = ["decay", "threshold", *other_settings(SNUConfig())]
        check_names("SNUParameters", settings, known)
        values = {"decay": decay, "threshold": threshold}
        for name, value in values.items():
            if (number := _number(value)) is not None:
                settings[name] = number
        self.config = SNUConfig(**settings)
        learned = {"decay": self.config.learn_decay, "threshold": self.config.learn_threshold}
        for name, value in values.items():
            tensor = _tensor(name, value, learn=learned[name])
            if isinstance(tensor, nn.Parameter):
                self.register_parameter(name, tensor)
            else:
                self.register_buffer(name, tensor)
        check(self)

    def extra_repr(self) -> str:
        shown: dict[str, Any] = {}
        for name in VALUES:
            tensor = getattr(self, name)
            shown[name] = tuple(tensor.shape) if (n := _number(tensor)) is None else n
        default = other_settings(SNUConfig())
        shown |= {n: v for n, v in other_settings(self.config).items() if v != default[n]}
        return ", ".join(f"{name}={value}" for name, value in shown.items())


class SNUParametersTuple(pytree.StateTuple, metaclass=pytree.MultipleInheritanceNamedTupleMeta):
    """The same as one of Norse's tuples, for code that maps over those.

    What such a tuple holds is, as with Norse's own, not registered with the module that has it,
    does not move with it and does not pickle.
    """

    decay: Tensor = torch.as_tensor(0.8)
    threshold: Tensor = torch.as_tensor(1.0)
    config: SNUConfig = SNUConfig()


def other_settings(config: SNUConfig) -> dict[str, Any]:
    """Return all settings but decay and threshold, by name."""
    return {f.name: getattr(config, f.name) for f in fields(config) if f.name not in VALUES}


def held_decay(p: Parameters) -> Tensor:
    """Return the decays that a step uses: those that are trained are held inside [0, 1)."""
    learned = p.config.learn_decay or p.decay.requires_grad
    trained = learned or isinstance(p.decay, nn.Parameter)
    return hold_decay(p.decay) if trained else p.decay


def check_kind(p: object) -> None:
    """Raise ``TypeError`` unless ``p`` holds what a step reads."""
    if not isinstance(getattr(p, "config", None), SNUConfig):
        how = "; units need no number of features here, and a decay is SNUParameters(decay=0.9)"
        how = how if isinstance(p, int | float) else ""
        raise TypeError(
            f"p is {type(p).__name__}; it must be SNUParameters, or have the same decay, "
            f"threshold and config{how}"
        )


def check(p: Parameters) -> None:
    """Raise ``TypeError`` or ``ValueError`` unless ``p`` can parametrise a layer."""
    check_kind(p)
    for name in VALUES:
        value = getattr(p, name)
        if not isinstance(value, Tensor) or not value.is_floating_point():
            raise TypeError(f"p.{name} is {value!r}; it must be a tensor of floating point numbers")
    decay = held_decay(p)
    if not bool(((decay >= 0) & (decay <= 1)).all()):
        raise ValueError(f"p.decay is {p.decay.tolist()}; every decay must be in [0, 1]")
    if not bool(p.threshold.isfinite().all()):
        raise ValueError(f"p.threshold is {p.threshold.tolist()}; every threshold must be finite")


def parameters_for(p: Parameters | None, *, soft: bool) -> Parameters:
    """Return ``p`` for a soft or a firing layer; trained tensors stay the same objects.

    Raises:
        ValueError: If ``p`` is soft and the layer is not.
    """
    if p is None:
        return SNUParameters(soft=soft)
    check(p)
    if p.config.soft == soft:
        return p
    if p.config.soft:
        raise ValueError("p.config.soft is True; SNU fires steps, use sSNU for soft outputs")
    if isinstance(p, SNUParameters):
        return SNUParameters(p.decay, p.threshold, **other_settings(p.config) | {"soft": True})
    named_tuple: Any = p  # SNUParametersTuple, or one of the user's
    softened: Parameters = named_tuple._replace(config=replace(p.config, soft=True))
    return softened


def weights(
    input_size: int, hidden_size: int, w: Tensor | None, h: Tensor | None
) -> tuple[nn.Parameter, nn.Parameter]:
    """Return W and H of a recurrent layer as parameters; ``None`` is drawn as Norse draws them.

    Raises:
        ValueError: For sizes below 1 and weights of another shape.
    """
    COUNT.check("input_size", input_size)
    COUNT.check("hidden_size", hidden_size)
    return (
        weight("input_weights", w, (hidden_size, input_size)),
        weight("recurrent_weights", h, (hidden_size, hidden_size)),
    )


def weight(name: str, value: Tensor | None, shape: tuple[int, int]) -> nn.Parameter:
    """Return ``value`` itself if it is a parameter, else a copy; ``None`` is drawn."""
    if value is None:
        return nn.Parameter(torch.randn(shape) * (2 / shape[0]) ** 0.5)
    check_tensor(name, value)
    if value.shape != shape:
        raise ValueError(f"{name} has shape {tuple(value.shape)}; it must be {shape}")
    return value if isinstance(value, nn.Parameter) else nn.Parameter(value.detach().clone())


def feedback(recurrent_weights: Tensor, autapses: bool) -> Tensor:
    """Return the recurrent weights that act: without autapses the diagonal does not."""
    if autapses:
        return recurrent_weights
    size = len(recurrent_weights)
    itself = torch.eye(size, dtype=torch.bool, device=recurrent_weights.device)
    return recurrent_weights.masked_fill(itself, 0)


def _number(value: float | Tensor) -> float | None:
    if isinstance(value, Tensor):
        return float(value.detach()) if value.numel() == 1 else None
    return value


def _tensor(name: str, value: float | Tensor, *, learn: bool) -> Tensor:
    if isinstance(value, nn.Parameter):
        return value
    if not isinstance(value, Tensor):
        value = torch.tensor(value, dtype=torch.get_default_dtype())
    if value.requires_grad:
        raise ValueError(
            f"{name} is computed from other tensors that require gradients; give an nn.Parameter, "
            "or use SNUParametersTuple"
        )
    return nn.Parameter(value.detach().clone()) if learn else value.detach().clone()
