"""Neurons of snnTorch and of ours, at random: what random networks of it are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import snntorch
import torch
from torch import Tensor, nn

from snu_plugin.testing import Choices, Neuron
from snu_snntorch.neurons import RSNU, SNU, sSNU
from snu_snntorch.src import SRC

FEEDBACK = ("RLeaky", "RSynaptic", "RSNU")
"""Classes that take their own spikes back as the first of their states."""


def random_neuron(choices: Choices, shape: tuple[int, ...], holds: bool) -> Neuron:
    """Return a neuron for currents of ``shape``, any class and setting that leaves.

    Args:
        choices: Draws.
        shape: Of a step, without the batch.
        holds: Whether it keeps its state itself, ``init_hidden=True``.
    """
    kinds = ["Leaky", "Leaky", "Leaky", "Synaptic", "Lapicque", "RLeaky", "RSynaptic", "SNU"]
    kinds += ["sSNU", "DeltaLeaky", "SRC", "RSNU"] if len(shape) == 1 else []
    kinds += [] if choices.fractions else ["Alpha"]
    kind = choices.pick(*kinds)
    if kind in ("SNU", "sSNU", "RSNU", "SRC"):
        return _ours(kind, choices, shape, holds)
    settings: dict[str, Any] = {
        "reset_mechanism": choices.pick("subtract", "zero", "none"),
        "threshold": choices.numbers(0.5, 1.25, choices.per_neuron(shape)),
        "init_hidden": holds or kind == "DeltaLeaky",
        "learn_threshold": choices.chance(0.3),
    }
    if kind in ("Alpha", "DeltaLeaky"):
        settings["reset_mechanism"] = "none" if kind == "Alpha" else "subtract"
    if kind in ("Leaky", "RLeaky", "Synaptic"):
        settings["reset_delay"] = choices.chance(0.6)
    if kind == "Leaky" and choices.chance(0.15):
        settings["graded_spikes_factor"] = float(choices.numbers(0.5, 2.5))
    if kind in FEEDBACK:
        settings |= _feedback(choices, shape)
    if kind not in ("Alpha", "DeltaLeaky", "Lapicque"):
        settings["learn_beta"] = choices.chance(0.3)
    values = [choices.decay(choices.per_neuron(shape))]
    if kind in ("Synaptic", "RSynaptic"):
        values.insert(0, choices.decay(choices.per_neuron(shape)))
        settings["learn_alpha"] = choices.chance(0.3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module: nn.Module = _make(kind, choices, values, settings)
    for parameter in (m for m in module.modules() if isinstance(m, (nn.Linear, nn.Conv2d))):
        for value in parameter.parameters():
            value.data = choices.numbers(-0.5, 0.5, tuple(value.shape))
    delayed = settings.get("reset_delay", True)
    leads = settings["reset_mechanism"] == "none" or (
        settings["reset_mechanism"] == "subtract" and delayed
    )
    graded = "graded_spikes_factor" in settings
    told = {k: v for k, v in settings.items() if not isinstance(v, Tensor)}
    if kind == "DeltaLeaky":
        return Neuron(module, f"{kind} {told}", _delta, holds=True)
    return Neuron(
        module,
        f"{kind} {told}",
        _held if holds else _handed,
        holds,
        spikes=not graded,
        membrane=_last if leads and not graded and kind in ("Leaky", "RLeaky") else None,
    )


def _make(kind: str, choices: Choices, values: list[Tensor], settings: dict[str, Any]) -> nn.Module:
    if kind == "Alpha":
        alpha = choices.numbers(0.8, 0.95)
        made: nn.Module = snntorch.Alpha(alpha, alpha - 0.2, **settings)
    elif kind == "Lapicque":
        made = snntorch.Lapicque(R=1.0, C=choices.pick(2.0, 4.0), time_step=1, **settings)
    elif kind == "DeltaLeaky":
        made = snntorch.DeltaLeaky(0.25, beta=values[0], **settings)
    else:
        made = getattr(snntorch, kind)(*values, **settings)
    return made


def _feedback(choices: Choices, shape: tuple[int, ...]) -> dict[str, Any]:
    """Return how a recurrent neuron feeds back: one to one, through weights or a convolution."""
    if choices.chance(0.3):
        return {"all_to_all": False, "V": choices.numbers(-0.5, 0.5, choices.per_neuron(shape))}
    if len(shape) == 1:
        return {"linear_features": shape[0]}
    if len(shape) == 3:
        return {"conv2d_channels": shape[0], "kernel_size": choices.pick(1, 3)}
    return {"all_to_all": False, "V": choices.numbers(-0.5, 0.5)}


def _ours(kind: str, choices: Choices, shape: tuple[int, ...], holds: bool) -> Neuron:
    settings: dict[str, Any] = {"init_hidden": holds}
    if kind == "SRC":
        module: nn.Module = SRC(-4.0, init_hidden=holds)
        return Neuron(module, "SRC", _held if holds else _handed, holds)
    threshold = choices.numbers(0.5, 1.25, choices.per_neuron(shape))
    settings |= {"beta": choices.decay(choices.per_neuron(shape)), "threshold": threshold}
    makers: dict[str, Callable[..., nn.Module]] = {"SNU": SNU, "sSNU": sSNU, "RSNU": RSNU}
    if kind == "RSNU":
        settings["linear_features"] = shape[0]
    told = kind
    if kind == "SNU" and choices.chance(0.5):
        settings["g"] = choices.pick("relu", "identity")
        told = f"SNU {settings['g']}"
    module = makers[kind](**settings)
    for value in (v for m in module.modules() if isinstance(m, nn.Linear) for v in m.parameters()):
        value.data = choices.numbers(-0.5, 0.5, tuple(value.shape))
    return Neuron(module, told, _held if holds else _handed, holds, spikes=kind != "sSNU")


def _held(module: nn.Module, x: Tensor, state: Any) -> tuple[Tensor, Any]:
    y: Tensor = module(x)
    return y, None


def _delta(module: nn.Module, x: Tensor, state: Any) -> tuple[Tensor, Any]:
    y, _ = module(x)
    return y, None


def _handed(module: nn.Module, x: Tensor, state: Any) -> tuple[Tensor, Any]:
    if state is None:
        begin = module.reset_mem()  # type: ignore[operator]
        state = begin if isinstance(begin, tuple) else (begin,)
    y, *after = module(x, *state)
    return y, (y, *after) if type(module).__name__ in FEEDBACK else tuple(after)


def _last(state: Any) -> Tensor:
    membrane: Tensor = state[-1]
    return membrane
