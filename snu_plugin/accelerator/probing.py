"""What a chip's own products show of its weights, and what they should show."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from snu_plugin.accelerator import calibration
from snu_plugin.accelerator.calibration import Evidence, Method, Scope

if TYPE_CHECKING:
    from snu_plugin.accelerator.machine import Accelerator


def evidence(
    chip: Accelerator, name: str, scope: Scope, method: Method, probe_count: int, reads: int
) -> Evidence:
    """Return how much the outputs of a crossbar lack; see ``Accelerator.calibrate``."""
    op = chip.layout.products[name]
    inputs = op.weight.shape[1]
    # Drawn whatever the method, so that methods change no other draw.
    x = calibration.probes(inputs, probe_count, chip.streams[name]["probe"])
    if method == "mean":
        seen = calibration.parts(probe(chip, name, torch.eye(inputs), reads), scope)
        return calibration.mean(seen, _remembered(chip, name, scope))
    weight = chip._remembered[name]
    expected = torch.stack([x[:, a:b] @ weight[:, a:b].T for a, b in op.row_blocks])
    if method == "ideal":
        seen = chip._observe(name, 0.0, exact=True).exact(x)
    else:
        seen = probe(chip, name, x, reads)
    return calibration.fit(calibration.parts(seen, scope), calibration.parts(expected, scope))


def baseline(chip: Accelerator, name: str, reads: int) -> Tensor:
    """Return mean magnitudes for one input at a time: of the sums, then of each row of tiles.

    ``(1 + rows of tiles, out)``, digital gains included.
    """
    seen = probe(chip, name, torch.eye(chip.layout.products[name].weight.shape[1]), reads)
    seen = seen * chip._gain(name)[:, None]
    return torch.cat((seen.sum(0, keepdim=True), seen)).abs().mean(1)


def probe(chip: Accelerator, name: str, x: Tensor, reads: int) -> Tensor:
    """Return what each row of tiles gives for ``(n, in)`` before its gain, mean of ``reads``.

    ``(rows of tiles, n, out)``; takes the chip's time.
    """
    seconds = len(x) * chip.layout.chip.step_ns * 1e-9
    seen = []
    for _ in range(reads):
        seen.append(chip._observe(name, seconds).probe(x))
        chip.clock_s += seconds
    return torch.stack(seen).mean(0)


def _remembered(chip: Accelerator, name: str, scope: Scope) -> Tensor:
    if name not in chip._baseline:
        raise RuntimeError(
            "method mean compares with an earlier time; call remember() right after program()"
        )
    return chip._baseline[name][1:] if scope == "tile" else chip._baseline[name][:1]
