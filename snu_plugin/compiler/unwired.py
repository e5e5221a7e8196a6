"""Matrices laid out on a chip without the graph that they stand in."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import get_args

from torch import Tensor

from snu_plugin.accelerator import Chip, Geometry, Program, Scaling
from snu_plugin.accepted import one_of
from snu_plugin.compiler.compilation import CannotMap
from snu_plugin.compiler.lower import on_devices
from snu_plugin.compiler.rules import lacking_tiles
from snu_plugin.compiler.tiling import Matrix, arrange_on
from snu_plugin.schedule import Wiring


def crossbars(
    weights: Mapping[str, Tensor], groups: Mapping[str, int], chip: Chip, scaling: Scaling
) -> Program:
    """Return a program that holds these matrices as ``compile`` would lay them out, unwired.

    Args:
        weights: By name, ``(out, ...)``; axes after the first are inputs, as in ``nn.Linear`` and
            in convolutions.
        groups: Groups of outputs with inputs of their own, by name.
        chip: Where all of them lie.
        scaling: As in ``compile``.

    Raises:
        ValueError: For a scaling that does not exist.
        CannotMap: If there are none, if they need more tiles than the chip has, or hold what
            float32 cannot.
    """
    one_of(*get_args(Scaling)).check("scaling", scaling)
    matrices = [Matrix(n, (len(w), prod(w.shape[1:])), groups[n]) for n, w in weights.items()]
    chips = {matrix.node: chip for matrix in matrices}
    reasons = list(lacking_tiles(matrices, chips))
    for name, w in weights.items():
        if not bool(w.float().isfinite().all()):
            reasons.append(f"{name}: values that are not finite, or beyond float32")
    if not weights:
        reasons.append("the network has no matrix to put on devices")
    if reasons:
        raise CannotMap(chip, reasons)
    ops = {}
    for name, (out, inputs), count in matrices:
        weight = weights[name].detach().cpu().double().reshape(out, inputs)
        shaped = Geometry(shape=tuple(weights[name].shape), groups=count)
        ops[name] = on_devices(weight, shaped, chip, scaling)
    return Program(
        chips=chips,
        scaling=scaling,
        ops=ops,
        wiring=Wiring((), {}),
        inputs=(),
        outputs=(),
        shapes={},
        tiles=arrange_on(matrices, chips),
        dt=None,
        source=b"",
    )
