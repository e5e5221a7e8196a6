"""Neurons of Norse and of ours, at random: what random networks of it are made of."""

from __future__ import annotations

from typing import Any

import norse.torch as norse
import torch
from norse.torch.functional.reset import reset_subtract, reset_value
from torch import Tensor, nn

from snu_norse.neurons import SNUCell, SNURecurrentCell, sSNUCell
from snu_norse.parameters import SNUParameters
from snu_norse.src import SRCCell, SRCParameters
from snu_plugin.testing import Choices, Neuron

KINDS = ("LIFBoxCell", "LIFCell", "LICell", "LIBoxCell", "IAFCell", "LIFRefracCell", "SNUCell")
WIDE = ("LIFRecurrentCell", "LIFRefracRecurrentCell", "SNURecurrentCell", "sSNUCell", "SRCCell")
"""Offered for what has one dimension."""


def random_neuron(choices: Choices, shape: tuple[int, ...], holds: bool) -> Neuron:
    """Return a cell for currents of ``shape``, any class and setting that leaves.

    Args:
        choices: Draws.
        shape: Of a step, without the batch.
        holds: Norse's cells hand out their states, so it changes nothing.
    """
    kind = choices.pick(*KINDS, *(WIDE if len(shape) == 1 else ()))
    told = kind
    dt = choices.dt
    rate = 1 / dt * (1 - choices.decay(choices.per_neuron(shape)))
    synapse = 1 / dt * (1 - choices.decay(choices.per_neuron(shape)))
    threshold = choices.numbers(0.25, 0.75, choices.per_neuron(shape))
    leak = choices.numbers(-0.25, 0.25) if choices.chance(0.3) else torch.zeros(())
    reset = choices.numbers(-0.25, 0.25) if choices.chance(0.3) else torch.zeros(())
    way = choices.pick(reset_value, reset_value, reset_subtract)
    learned = choices.chance(0.3)
    if learned:
        rate = nn.Parameter(rate)
        threshold = nn.Parameter(threshold)
    method = way if kind == "LIFBoxCell" else reset_value
    lif = norse.LIFParameters(synapse, rate, leak, threshold, reset)
    refrac = norse.LIFRefracParameters(lif, torch.tensor(float(choices.pick(0, 1, 3))))
    box = norse.LIFBoxParameters(rate, leak, threshold, reset, reset_method=method)
    p = SNUParameters(choices.decay(choices.per_neuron(shape)), threshold.detach())
    made: dict[str, Any] = {
        "LIFBoxCell": lambda: norse.LIFBoxCell(box, dt=dt),
        "LIFCell": lambda: norse.LIFCell(lif, dt=dt),
        "LICell": lambda: norse.LICell(norse.LIParameters(synapse, rate, leak), dt=dt),
        "LIBoxCell": lambda: norse.LIBoxCell(norse.LIBoxParameters(rate, leak), dt=dt),
        "IAFCell": lambda: norse.IAFCell(norse.IAFParameters(threshold, reset), dt=dt),
        "LIFRefracCell": lambda: norse.LIFRefracCell(refrac, dt=dt),
        "LIFRecurrentCell": lambda: norse.LIFRecurrentCell(*shape, *shape, lif, dt=dt),
        "LIFRefracRecurrentCell": lambda: norse.LIFRefracRecurrentCell(
            *shape, *shape, refrac, dt=dt
        ),
        "SNUCell": lambda: SNUCell(p),
        "SNURecurrentCell": lambda: SNURecurrentCell(shape[0], shape[0], p),
        "sSNUCell": lambda: sSNUCell(p),
        "SRCCell": lambda: SRCCell(SRCParameters(-4.0)),
    }
    module: nn.Module = made[kind]()
    for name, value in module.named_parameters():
        if name.endswith("weights"):
            value.data = choices.numbers(-0.75, 1, tuple(value.shape))
    told = f"{kind} {method.__name__} dt {dt} {'learned' if learned else ''}".rstrip()
    return Neuron(module, told, _step, spikes=kind not in ("LICell", "LIBoxCell", "sSNUCell"))


def _step(module: nn.Module, x: Tensor, state: Any) -> tuple[Tensor, Any]:
    y, state = module(x, state)
    return y, state
