"""Rules that spend few pulses without an accumulator: by chance, or where gradients are largest."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from snu_plugin.accelerator import Board, device_model
from snu_plugin.accepted import SHARE, by_known_names
from snu_plugin.hil.budget import pulsed
from snu_plugin.hil.update import Weights, most_of, steps, weights_of


@by_known_names
@dataclass(frozen=True, kw_only=True)
class StochasticPulses:
    """As many pulses as the gradient asks for on average, drawn anew at every update.

    ``n = floor(lr |D| / eps + u)``, ``u`` uniform in 0 to 1, ``eps`` the credited step: a gradient
    too small for a pulse causes one now and then, so that no memory is needed. Stochastic update:
    Gokmen and Vlasov, Front. Neurosci. 10:333, 2016, without their coincidence of pulse trains.

    Costs: every gradient may cause a pulse, also the noise between batches; about ``lr |D| / eps``
    pulses a weight and update. After calibration a pulse is about as large as what a weight is off
    by (docs/devices.md), and as noisy as it is large: on chorales it loses to recalibration alone
    (docs/results.md, ways to change a chip).
    """

    lr: float = 0.1
    """Weight per unit of gradient."""
    seed: int = 0
    """Of the draws."""

    def start(self, board: Board) -> dict[str, Tensor]:
        """Return the number of updates so far."""
        return {"updates": torch.zeros((), dtype=torch.int64)}

    def update(self, board: Board, memory: Weights, gradients: Weights) -> dict[str, Tensor]:
        """Draw the pulses and apply them."""
        number, counts = int(memory["updates"]), {}
        generator = Generator().manual_seed((self.seed << 32) + number)
        for name, step in steps(board).items():
            wanted = self.lr * gradients[name] / step.abs().clamp_min(1e-30)
            u = torch.rand(wanted.shape, generator=generator, dtype=torch.float32)
            most = device_model(board.layout.products[name].chip).response.full
            drawn = torch.floor(wanted.abs() + u).clamp_max(most)
            counts[name] = (-torch.sign(wanted) * drawn).int()
        pulsed(board, counts)
        return {"updates": memory["updates"] + 1}

    def worst(self, board: Board) -> dict[str, int]:
        """Return the most pulses of an update, by node."""
        return {n: count * most_of(board, n) for n, count in weights_of(board).items()}


@by_known_names
@dataclass(frozen=True, kw_only=True)
class ThinnedPulses:
    """One pulse against the sign of the largest gradients only: of a share of each layer.

    Costs at most ``share`` pulses a weight and update, whatever the scale of the loss; no memory.
    A weight that is pulsed where gradients are large has the best odds to deserve it, and still
    most do not: after calibration one in a thousand would with perfect knowledge. On chorales it
    loses to recalibration alone (docs/results.md, ways to change a chip).
    """

    share: float = 1e-4
    """Of the weights of each layer, at least one weight."""

    def __post_init__(self) -> None:
        SHARE.check("share", self.share)

    def start(self, board: Board) -> dict[str, Tensor]:
        """Return no memory: the rule keeps none."""
        return {}

    def update(self, board: Board, memory: Weights, gradients: Weights) -> dict[str, Tensor]:
        """Pulse where the gradient is among the largest and not 0."""
        counts = {}
        for name, d in gradients.items():
            size = d.abs()
            least = size.flatten().topk(self._of(d.numel())).values[-1]
            counts[name] = -torch.sign(d).int() * (size >= least)
        pulsed(board, counts)
        return {}

    def worst(self, board: Board) -> dict[str, int]:
        """Return the most pulses of an update, by node, where no gradients are equal."""
        return {n: self._of(count) for n, count in weights_of(board).items()}

    def _of(self, count: int) -> int:
        return max(1, round(self.share * count))
