"""How devices make a weight: a pair, several pairs, or one device less a reference."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from snu_plugin.accelerator.chip import Chip


def shares(chip: Chip) -> tuple[float, ...]:
    """Return what each device of a weight counts in G+ - G-, both polarities summing to 1.

    ``F_k / Σ F`` with ``F_k = significance^k``; a device with a reference counts whole.
    """
    if chip.has_reference:
        return (1.0,)
    factors = [chip.significance**k for k in range(chip.per_polarity)]
    plus = tuple(factor / sum(factors) for factor in factors)
    return (*plus, *(-share for share in plus))


def fill(targets: Tensor, chip: Chip, reference: Tensor) -> Tensor:
    """Return the targets of all devices, ``(devices_per_weight, rows, in)`` µS, G+ first.

    The first device of a polarity is filled from ``g_min_us`` up to ``g_max_us``, then the next
    (``pcm_accelerator`` section 7). A single device lies around the middle of the range, where
    the reference columns are: one row more for each, after the outputs.

    Args:
        targets: What G+ and G- must have more than each other, ``(2, out, in)`` µS.
        chip: Its settings.
        reference: Reference column of each output, ``(out,)``.
    """
    low, width = chip.g_min_us, chip.g_max_us - chip.g_min_us
    if chip.has_reference:
        middle = low + width / 2
        columns = targets.new_full((int(reference.max()) + 1, targets.shape[2]), middle)
        return torch.cat((middle + targets[0] - targets[1], columns))[None]
    if chip.per_polarity == 1:
        return targets + low if low else targets
    filled, parts = 0.0, []
    for share in shares(chip)[: chip.per_polarity]:
        parts.append(((targets - filled) / share).clamp(0, width))
        filled += share * width
    return torch.stack(parts, 1).flatten(0, 1) + low


def shape(weights: torch.Size, chip: Chip, reference: Tensor) -> torch.Size:
    """Return the shape of the devices of a matrix ``(out, in)``; see ``fill``."""
    columns = (int(reference.max()) + 1) * chip.has_reference
    return torch.Size((chip.devices_per_weight, weights[0] + columns, weights[1]))


def in_turn(pair: Tensor, turn: int, chip: Chip, reference: Tensor) -> Tensor:
    """Give the pulses of ``(2, out, in)`` to the device of each polarity whose turn it is.

    One selection counter, ``turn``, serves the whole chip: Boybat et al., Nat. Commun. 9:2514,
    2018.

    Raises:
        ValueError: For pulses on G- where a weight has one device: a SET pulse only raises it.
    """
    if chip.has_reference:
        if bool(pair[1].any()):
            raise ValueError(
                "a negative count would lower a weight of one device, and a SET pulse only raises "
                "it; give 0 or more, or take a chip with devices_per_weight 2"
            )
        return with_reference(pair[0], reference)
    counts = torch.zeros(2, chip.per_polarity, *pair.shape[1:], dtype=pair.dtype)
    counts[:, turn] = pair
    return counts.flatten(0, 1)


def with_reference(value: Tensor, reference: Tensor) -> Tensor:
    """Return ``(1, rows, in)``: the values ``(out, in)`` of single devices, 0 for references."""
    return pad(value, (0, 0, 0, int(reference.max()) + 1))[None]


def by_polarity(g: Tensor, chip: Chip, reference: Tensor) -> Tensor:
    """Return what counts as G+ and as G- of devices ``(devices, rows, in)``, ``(2, out, in)``.

    The mean of the devices of a polarity by their ``shares``, or a device and its reference.
    """
    if chip.has_reference:
        out = len(reference)
        return torch.stack((g[0, :out], g[0, out:][reference]))
    if chip.devices_per_weight == 2:
        return g
    share = torch.tensor(shares(chip)[: chip.per_polarity], dtype=g.dtype).view(-1, 1, 1)
    return (g.reshape(2, -1, *g.shape[1:]) * share).sum(1)
