"""A network of Spiking Neural Units that learns to continue chorales, in snnTorch."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

from snu_plugin import simulators
from snu_plugin.neuron import SNUConfig
from snu_plugin.tasks import chorales
from snu_plugin.tasks.chorales import Batch, Chorales
from snu_plugin.training import Epoch, Robustness, TrainingState, train

LAYERS = (88, 150, 88)
"""Keys, units, keys: with two devices a weight, the 52,800 devices of the published experiment."""

RECIPE = SNUConfig(decay=0.6, threshold=1.0)
"""Decay and threshold of the best verified SNU on this task (docs/neurons.md#bach-chorales)."""

LR = 1e-3
ROBUST = Robustness(weight_limit=1.0, weight_noise=0.06)
"""Ours, chosen on validation: without it outliers waste the range of the devices."""

Model = Callable[[Tensor], Tensor]
"""Inputs ``(T, B, 88)`` to logits ``(T, B, 88)``."""


def build(seed: int) -> nn.Sequential:
    """Return the untrained network: Linear without bias, SNU, Linear; Glorot-uniform weights."""
    st = simulators.adapter("snntorch")
    inputs, units, outputs = LAYERS
    unit = st.SNUSequence(
        beta=RECIPE.decay, threshold=torch.full((units,), RECIPE.threshold), learn_threshold=True
    )
    first, last = nn.Linear(inputs, units, bias=False), nn.Linear(units, outputs)
    generator = Generator().manual_seed(seed)
    for layer in (first, last):
        nn.init.xavier_uniform_(layer.weight, generator=generator)
    nn.init.zeros_(last.bias)
    return nn.Sequential(OrderedDict(fc1=first, snu=unit, fc2=last))


def learn(
    data: Chorales,
    *,
    epochs: int,
    seed: int,
    checkpoint: Path | None = None,
    resume: bool = False,
    settings: Mapping[str, Any] | None = None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> tuple[nn.Sequential, TrainingState]:
    """Train on every chorale in turn with Adam; keep the epoch that is best on validation.

    ``checkpoint``, ``resume`` and ``settings`` are those of ``snu_plugin.training.train``.
    """
    network, order = build(seed), Generator().manual_seed(seed)
    pieces, valid = [chorales.pad([piece]) for piece in data.train], chorales.pad(data.valid)
    state = train(
        network,
        torch.optim.Adam(network.parameters(), lr=LR, eps=1e-7, fused=True),
        epochs,
        batches=lambda: [pieces[i] for i in torch.randperm(len(pieces), generator=order).tolist()],
        loss=lambda batch: chorales.nll(network(batch.x), batch.target) / LAYERS[-1],
        score=lambda: score(network, valid),
        generator=order,
        robustness=ROBUST,
        checkpoint=checkpoint,
        resume=resume,
        settings=settings,
        on_epoch=on_epoch,
    )
    return network, state


def score(model: Model, batch: Batch) -> float:
    """Return the pooled negative log-likelihood of a batch, nats per time step."""
    with torch.no_grad():
        return float(chorales.nll(model(batch.x), batch.target, batch.mask))


def continuation(model: Model, start: Tensor, steps: int, generator: Generator) -> Tensor:
    """Let the network play on: sample every next chord from its predictions.

    Args:
        model: Logits of the next chord from all chords so far.
        start: Chords that are given, ``(T, 88)``.
        steps: Chords to add.
        generator: Source of the samples.

    Returns:
        ``(T + steps, 88)`` of 0 and 1.
    """
    roll = start
    for _ in range(steps):
        with torch.no_grad():
            odds = torch.sigmoid(model(roll[:, None])[-1, 0])
        roll = torch.cat((roll, torch.bernoulli(odds, generator=generator)[None]))
    return roll
