"""How devices make a weight: a pair, several pairs, or one device less a reference."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import pad

from snu_plugin.accelerator.chip import Chip


@dataclass(frozen=True, eq=False)
class WeightLayout:
    """The devices behind a matrix ``(out, in)``: ``(devices_per_weight, rows, in)``, G+ first.

    The rows are the outputs; of weights of a single device, one row more follows for each
    reference column of the tiles.
    """

    low_us: float
    """Least conductance of a device."""
    width_us: float
    """By how much the largest exceeds it."""
    shares: tuple[float, ...]
    """What each device of a weight counts in G+ - G-, both polarities summing to 1:
    ``F_k / Σ F`` with ``F_k = significance^k``; a device with a reference counts whole."""
    reference: Tensor | None
    """Reference column of each output, ``(out,)``; ``None`` for pairs."""

    @classmethod
    def of(cls, chip: Chip, columns: tuple[tuple[int, int], ...]) -> WeightLayout:
        """Return the layout on a chip of outputs that lie in ``columns`` of tiles (first, end)."""
        low, width = chip.g_min_us, chip.g_max_us - chip.g_min_us
        if chip.has_reference:
            sizes = torch.tensor([end - first for first, end in columns])
            reference = torch.arange(len(sizes)).repeat_interleave(sizes)
            return cls(low, width, (1.0,), reference)
        factors = [chip.significance**k for k in range(chip.per_polarity)]
        plus = tuple(factor / sum(factors) for factor in factors)
        return cls(low, width, (*plus, *(-share for share in plus)), None)

    def to(self, device: torch.device) -> WeightLayout:
        """Return the same layout on another device."""
        if self.reference is None:
            return self
        return replace(self, reference=self.reference.to(device))

    @property
    def per_polarity(self) -> int:
        """Devices of one polarity of a weight."""
        return max(1, len(self.shares) // 2)

    @cached_property
    def references(self) -> int:
        """Reference columns."""
        return 0 if self.reference is None else int(self.reference.max()) + 1

    def fill(self, targets: Tensor) -> Tensor:
        """Return the targets of all devices for what G+ and G- must have more, ``(2, out, in)``.

        The first device of a polarity is filled from ``g_min_us`` up to ``g_max_us``, then the
        next (docs/devices.md, weights on pairs). A single device lies around the middle of the
        range, where the reference columns are.
        """
        if self.reference is not None:
            middle = self.low_us + self.width_us / 2
            columns = targets.new_full((self.references, targets.shape[2]), middle)
            return torch.cat((middle + targets[0] - targets[1], columns))[None]
        if self.per_polarity == 1:
            return targets + self.low_us if self.low_us else targets
        filled, parts = 0.0, []
        for share in self.shares[: self.per_polarity]:
            parts.append(((targets - filled) / share).clamp(0, self.width_us))
            filled += share * self.width_us
        return torch.stack(parts, 1).flatten(0, 1) + self.low_us

    def shape(self, weights: torch.Size) -> torch.Size:
        """Return the shape of the devices of a matrix ``(out, in)``."""
        return torch.Size((len(self.shares), weights[0] + self.references, weights[1]))

    def pulses(self, counts: Tensor, turn: int) -> Tensor:
        """Return the pulses on each device for ``(out, in)`` of them: positive ones on G+."""
        pair = torch.stack((counts.clamp_min(0), (-counts).clamp_min(0))).int()
        return self.select_device(pair, turn % self.per_polarity)

    def select_device(self, pair: Tensor, turn: int) -> Tensor:
        """Give the pulses of ``(2, out, in)`` to the device of each polarity whose turn it is.

        One selection counter, ``turn``, serves the whole chip: Boybat et al., Nat. Commun. 9:2514,
        2018.

        Raises:
            ValueError: For pulses on G- where a weight has one device: a SET pulse only raises it.
        """
        if self.reference is None:
            counts = pair.new_zeros(2, self.per_polarity, *pair.shape[1:])
            counts[:, turn] = pair
            return counts.flatten(0, 1)
        if bool(pair[1].any()):
            raise ValueError(
                "a negative count would lower a weight of one device, and a SET pulse only raises "
                "it; give 0 or more, or take a chip with devices_per_weight 2"
            )
        return self.every_device(pair[0])

    def every_device(self, value: Tensor) -> Tensor:
        """Return what applies to all devices of each weight ``(out, in)``, 0 for references."""
        return pad(value, (0, 0, 0, self.references)).expand(len(self.shares), -1, -1)

    def by_polarity(self, g: Tensor) -> Tensor:
        """Return what counts as G+ and as G- of the devices, ``(2, out, in)``.

        The mean of the devices of a polarity by their ``shares``, or a device and its reference.
        """
        if self.reference is not None:
            out = len(self.reference)
            return torch.stack((g[0, :out], g[0, out:][self.reference]))
        if len(self.shares) == 2:
            return g
        share = g.new_tensor(self.shares[: self.per_polarity]).view(-1, 1, 1)
        return (g.reshape(2, -1, *g.shape[1:]) * share).sum(1)
