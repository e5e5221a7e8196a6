"""Rules that turn a wanted change of the weights into pulses on the devices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from snu_plugin.accelerator import CREDIT_US, Board, device_model
from snu_plugin.accepted import COUNT, LEVEL, POSITIVE, SHARE, by_known_names
from snu_plugin.hil.budget import pulsed
from snu_plugin.hil.digital import OptimizerFactory, OptimizerState, optimised
from snu_plugin.hil.rules import Weights, most_of, weights_of


def steps(board: Board, size_us: float | None = None) -> dict[str, Tensor]:
    """Return the weight that a pulse of ``size_us`` (None: as credited) moves, by node.

    As ``read_weights`` counts it, digital gains included. A pulse moves one of the devices of a
    polarity, and a weight by the mean of their shares.
    """
    registers = board.registers
    moved = {}
    for name, op in board.layout.products.items():
        by_us = device_model(op.chip).response.credit_us if size_us is None else size_us
        step = (op.weight_per_us * (by_us / op.layout.per_polarity)).float()
        step = step * registers[f"{name}.gain"][:, None]
        of_tiles = registers.get(f"{name}.tile_gain")
        if of_tiles is not None:
            inputs = torch.tensor([end - first for first, end in op.row_blocks])
            step = step * of_tiles.repeat_interleave(inputs, 0).T
        moved[name] = step.reshape(op.geometry.shape)
    return moved


class Credit(NamedTuple):
    """What one more pulse is counted as, in weights, and the change that makes it worthwhile."""

    step: Tensor
    least: Tensor


def expected(board: Board, wanted: Weights) -> dict[str, Credit]:
    """Return the credit of a pulse on the device that moves each weight the ``wanted`` way.

    From one reading of the devices and the published response (``Response.step``): the mean step
    ``m`` where the device stands. A pulse of standard deviation ``s`` lowers the expected squared
    error of a weight that is off by ``e`` only if ``e > (m² + s²) / (2 m)``, which is its
    ``least``; never below ``m``. Linear pulses have ``m`` exact and ``s = 0``.
    """
    products, unit = board.layout.products, steps(board)
    responses = {name: device_model(op.chip).response for name, op in products.items()}
    credits = {n: Credit(unit[n], unit[n]) for n, r in responses.items() if r.exact}
    if len(credits) == len(unit):
        return credits
    for name, g in board.read_conductances().items():
        if name in credits:
            continue
        response = responses[name]
        up = wanted[name].reshape(g[0].shape) >= 0
        mean, sigma = response.step(torch.where(up, g[0], g[1]))
        mean = mean.clamp_min(1e-3)  # a full device hardly moves any more
        least = torch.maximum(mean, (mean.square() + sigma.square()) / (2 * mean))
        weight = unit[name] / CREDIT_US  # per µS of the devices that were measured
        credits[name] = Credit(
            mean.float().reshape(weight.shape) * weight,
            least.float().reshape(weight.shape) * weight,
        )
    return credits


class Accumulated(NamedTuple):
    """What mixed precision keeps in digital for each weight, by node."""

    chi: dict[str, Tensor]
    """Change still to be written, in weights."""
    total: dict[str, Tensor]
    """Sum of the gradients since the last pulse."""
    power: dict[str, Tensor]
    """Sum of their squares."""
    state: OptimizerState
    """Of the optimiser that wants the change; empty for plain gradients."""


@by_known_names
@dataclass(frozen=True, kw_only=True)
class MixedPrecision:
    """Accumulate in digital, transfer whole pulses: Nandakumar et al., Front. Neurosci. 14, 2020.

    ``chi -= lr D``; ``n = trunc(chi / eps)``; ``chi -= n eps``; ``|n|`` SET pulses on G+ (n > 0)
    or G- (n < 0), ``eps`` the credited step (docs/devices.md, mixed precision). With
    ``eps_us=None`` the credit is the step expected where the device stands, and a pulse waits until
    ``chi`` makes it worthwhile (``expected``): a fixed credit is off several-fold on a device near
    RESET, and every pulse that was not worth it writes more error than it removes.
    """

    lr: float = 0.1
    """Learning rate of the weights, in weight per unit of gradient."""
    eps_us: float | None = None
    """Fixed credit of a pulse in µS, blind to where the device stands; None expects. 0.75 µS on
    devices of 12 µS in srnn-pcm."""
    evidence: float = 0.0
    """A weight is pulsed, once, only when the sum of its gradients exceeds this many times the
    root of the sum of their squares, and starts from nothing afterwards; 0 is the published rule.
    Near an optimum gradients are mostly noise between batches, which ``chi`` sums to pulses. Ours.
    """
    optimizer: OptimizerFactory | None = None
    """What turns gradients into the wanted change, with ``lr`` as its own: a class of
    ``torch.optim``, or a ``partial`` of one, e.g. ``Adam`` with an ``lr`` of 1e-3. It steps a
    change from 0, so that decay of weights does nothing. ``None``: the gradient itself."""

    def __post_init__(self) -> None:
        POSITIVE.check("lr", self.lr)
        if self.eps_us is not None:
            POSITIVE.check("eps_us", self.eps_us)
        LEVEL.check("evidence", self.evidence)

    def start(self, board: Board) -> Accumulated:
        """Return an empty accumulator for every weight."""
        shapes = {n: op.geometry.shape for n, op in board.layout.products.items()}
        chi, total, power = (
            {n: torch.zeros(s, dtype=torch.float32) for n, s in shapes.items()} for _ in range(3)
        )
        return Accumulated(chi, total, power, {})

    def update(self, board: Board, memory: Accumulated, gradients: Weights) -> Accumulated:
        """Accumulate, transfer whole steps as pulses, keep the remainder."""
        change, state = self._wanted(gradients, memory.state)
        new = Accumulated(
            {n: chi + change[n] for n, chi in memory.chi.items()},
            {n: total + gradients[n] for n, total in memory.total.items()},
            {n: power + gradients[n].square() for n, power in memory.power.items()},
            state,
        )
        if self.eps_us is None:
            credit = expected(board, new.chi)
        else:
            credit = {n: Credit(eps, eps) for n, eps in steps(board, self.eps_us).items()}
        most = {n: device_model(op.chip).response.full for n, op in board.layout.products.items()}
        counts = {
            n: torch.trunc(chi / credit[n].least).clamp(-most[n], most[n])
            for n, chi in new.chi.items()
        }
        if self.evidence:
            # At most one pulse, where the gradients agree well enough.
            agree = {n: v.abs() > self.evidence * new.power[n].sqrt() for n, v in new.total.items()}
            counts = {n: count.clamp(-1, 1) * agree[n] for n, count in counts.items()}
        counts = dict(pulsed(board, {n: count.int() for n, count in counts.items()}))
        if self.evidence:
            kept = {n: count == 0 for n, count in counts.items()}
            chi, total, power = ({n: v * kept[n] for n, v in p.items()} for p in new[:3])
            return Accumulated(chi, total, power, state)
        chi = {n: chi - counts[n] * credit[n].step for n, chi in new.chi.items()}
        return new._replace(chi=chi)

    def _wanted(self, gradients: Weights, state: OptimizerState) -> tuple[Weights, OptimizerState]:
        """Return the change of the weights that the gradients ask for."""
        if self.optimizer is None:
            return {n: -self.lr * d for n, d in gradients.items()}, state
        still = {n: torch.zeros_like(d) for n, d in gradients.items()}
        return optimised(still, gradients, state, self.lr, self.optimizer)

    def worst(self, board: Board) -> dict[str, int]:
        """Return the most pulses of an update, by node."""
        return {
            n: count * (1 if self.evidence else most_of(board, n))
            for n, count in weights_of(board).items()
        }


@by_known_names
@dataclass(frozen=True, kw_only=True)
class SignPulses:
    """One pulse against the sign of every gradient larger than ``threshold`` (srnn-pcm).

    It loses on chorales (docs/results.md, ways to change a chip): about a gradient in a thousand is
    larger than 0.03, and its pulse writes more error than it removes; the likelihood of a
    recalibrated chip became 1 nat worse before the loop, which then looked only after a
    thirty-second of the updates, stopped it.
    """

    threshold: float = 0.0
    """Least magnitude of the gradient that causes a pulse."""

    def __post_init__(self) -> None:
        LEVEL.check("threshold", self.threshold)

    def start(self, board: Board) -> dict[str, Tensor]:
        """Return no memory: the rule keeps none."""
        return {}

    def update(self, board: Board, memory: Weights, gradients: Weights) -> dict[str, Tensor]:
        """Pulse G+ where the gradient is below -threshold, G- where it is above threshold."""
        board.pulse(
            {n: -torch.sign(d).int() * (d.abs() > self.threshold) for n, d in gradients.items()}
        )
        return {}

    def worst(self, board: Board) -> dict[str, int]:
        """Return the most pulses of an update, by node: one a weight.

        >>> import torch
        >>> from snu_plugin import graph
        >>> from snu_plugin.accelerator import PCM, Accelerator
        >>> from snu_plugin.compiler import compile
        >>> g = graph.to_nir(torch.nn.Linear(3, 2, bias=False), torch.ones(1, 1, 3), dt=1.0)
        >>> chip = Accelerator(compile(g, PCM), seed=0)
        >>> list(SignPulses().worst(chip).values())
        [6]
        """
        return weights_of(board)


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


@by_known_names
@dataclass(frozen=True, kw_only=True)
class ProgramVerify:
    """Train digital copies of the weights and pulse the devices after them, reading each time.

    The worst cost: every update reads all weights back. A device is pulsed where it lags behind
    its copy by more than makes a pulse worthwhile (``expected``).
    """

    lr: float = 0.1
    """Learning rate of the digital copies."""
    most: int = 3
    """Most pulses a device gets in one update."""
    reads: int = 4
    """Readings that are averaged, since one is about as noisy as a pulse is large. Ours."""

    def __post_init__(self) -> None:
        POSITIVE.check("lr", self.lr)
        COUNT.check("most", self.most)
        COUNT.check("reads", self.reads)

    def start(self, board: Board) -> dict[str, Tensor]:
        """Return a first reading as the digital copies."""
        return mean_reading(board, self.reads)

    def update(self, board: Board, memory: Weights, gradients: Weights) -> dict[str, Tensor]:
        """Move the copies, read the chip, and pulse what lags far enough behind."""
        wanted = {name: memory[name] - self.lr * gradients[name] for name in memory}
        lag = {name: wanted[name] - seen for name, seen in mean_reading(board, self.reads).items()}
        credit = expected(board, lag)
        counts = {
            n: torch.trunc(lag[n] / credit[n].least).clamp(-self.most, self.most).int() for n in lag
        }
        board.pulse(counts)
        return wanted

    def worst(self, board: Board) -> dict[str, int]:
        """Return the most pulses of an update, by node."""
        return {n: count * self.most for n, count in weights_of(board).items()}


def mean_reading(board: Board, reads: int) -> dict[str, Tensor]:
    """Return the mean of several readings of the weights."""
    readings = [board.read_weights() for _ in range(reads)]
    return {n: torch.stack([r[n] for r in readings]).mean(0) for n in readings[0]}
