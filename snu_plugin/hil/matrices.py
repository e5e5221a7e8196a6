"""Which parameters of a host's network lie on devices, or why they cannot, and a chip with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from snu_plugin.accelerator import (
    Accelerator,
    Chip,
    Crossbar,
    Range,
    Scaling,
    device_model,
    observe,
)
from snu_plugin.accepted import COUNT, LEVEL, POSITIVE
from snu_plugin.compiler import CannotMap, crossbars

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)
LOOSE = ("input_weights", "recurrent_weights", "recurrent")
"""What hosts call matrices that belong to a neuron instead of a layer: Norse, and ours."""
REFUSED = (
    nn.Conv3d,
    nn.modules.conv._ConvTransposeNd,
    nn.Bilinear,
    nn.RNNBase,
    nn.RNNCellBase,
    nn.MultiheadAttention,
    nn.Embedding,
    nn.EmbeddingBag,
)
"""Modules with matrices that no rule of the compiler puts on devices."""


Noise = float | Callable[[float], float]
"""A factor on the chip's noise, or a function from the progress of training, 0 to 1, to one."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What ``hardware_aware`` is asked for, as it says there."""

    chip: Chip
    scaling: Scaling
    noise: Noise
    every: int
    seed: int
    age_s: float
    limit: float | None
    store_limit: bool
    in_eval: bool

    def __post_init__(self) -> None:
        if not isinstance(self.chip, Chip):
            raise TypeError(f"chip is {self.chip!r:.60}; give a Chip, such as PCM")
        COUNT.check("every", self.every)
        LEVEL.check("age_s", self.age_s)
        if self.limit is not None:
            POSITIVE.check("limit", self.limit)
        if self.store_limit and self.limit is None:
            raise ValueError("store_limit needs a limit; give one, such as limit=1.0")


@dataclass(eq=False)
class Matrix:
    """A parameter that will lie on devices."""

    name: str
    parameter: nn.Parameter
    groups: int = 1
    no_diagonal: bool = False
    """Whether the host holds its diagonal at 0."""
    crossbar: Crossbar | None = None
    """Where it lies now; ``None``: not drawn yet."""
    held: Tensor | None = None
    """What the devices hold, of the parameter's shape, float32; ``None``: exactly the weights."""
    range: Range | None = None
    """What its converters were set to by a sample; ``None``: the chip's own."""
    met: bool = False
    """Whether a product with it was seen."""


def matrices_of(net: nn.Module, asked: Settings) -> list[Matrix]:
    """Return the parameters of a network that lie on devices, or say why they cannot."""
    found: dict[int, Matrix] = {}
    reasons = []
    for path, module in net.named_modules():
        kind = type(module).__name__
        place = path or kind
        if isinstance(module, REFUSED):
            reasons.append(f"{place}: {kind} has no NIR rule; no chip holds its weights")
        if isinstance(module, nn.DataParallel):
            reasons.append(
                f"{place}: DataParallel copies the network into threads; take "
                "DistributedDataParallel"
            )
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and asked.scaling != "column":
            reasons.append(
                f"{place}: {kind} is folded into weights, which changes their scale by "
                f"{asked.scaling!r} but not by column; take scaling='column'"
            )
        if isinstance(module, LAYERS):
            weight = module._parameters.get("weight")
            if weight is None or is_parametrized(module):
                reasons.append(
                    f"{place}: its weight is computed by a parametrisation; remove that first"
                )
            else:
                groups = getattr(module, "groups", 1)
                name = f"{path}.weight" if path else "weight"
                found.setdefault(id(weight), Matrix(name, weight, groups))
            continue
        for name, parameter in module.named_parameters(recurse=False):
            if name in LOOSE and parameter.dim() == 2:
                whole = f"{path}.{name}" if path else name
                diagonal = name == "recurrent_weights" and not getattr(module, "autapses", True)
                found.setdefault(id(parameter), Matrix(whole, parameter, 1, diagonal))
    if reasons:
        raise CannotMap(asked.chip, reasons)
    matrices = list(found.values())
    crossbars(
        {m.name: m.parameter for m in matrices},
        {m.name: m.groups for m in matrices},
        asked.chip,
        asked.scaling,
    )
    return matrices


def draw(
    matrices: Sequence[Matrix],
    chip: Chip,
    asked: Settings,
    *,
    noise: float,
    seed: int,
    ranged: bool,
) -> None:
    """Write matrices onto a chip; each then knows its crossbar and what its devices hold.

    Args:
        matrices: All that lie on it.
        chip: Its settings.
        asked: How old it is when it is used, how weights are scaled and clipped.
        noise: Factor on programming, read and output noise.
        seed: Of the chip.
        ranged: Whether converters take the ranges that matrices know.
    """
    changes: dict[str, Any] = {
        name: None if (own := getattr(chip, name)) is None else own * noise
        for name in ("programming_noise", "read_noise", "output_noise")
    }
    if not asked.age_s:
        changes["drift"] = None  # which would be drawn in vain
    by_statistics = device_model(chip).written_sigma(torch.zeros(1)) is not None
    if by_statistics and not chip.stuck_at_reset:
        changes["pulse"] = "linear"  # none is given, and its history is quicker told
    program = crossbars(
        {m.name: _target(m, asked.limit) for m in matrices},
        {m.name: m.groups for m in matrices},
        replace(chip, **changes),
        asked.scaling,
    )
    ranges = {m.name: m.range for m in matrices if m.range is not None}
    if ranged and ranges:
        program = program.with_ranges(ranges)
    made = Accelerator(program, seed)
    made.program()
    if asked.age_s:
        made.wait(asked.age_s)
        made.calibrate()
    for m in matrices:
        array = observe(made.state, m.name, 0.0)
        held = array.weights().reshape(m.parameter.shape).to(m.parameter.device)
        same = array.exact is not None and asked.limit is None
        m.held = None if same and bool((held == m.parameter).all()) else held
        m.crossbar = array


def _target(m: Matrix, limit: float | None) -> Tensor:
    weight = m.parameter.detach()
    if m.no_diagonal:
        weight = weight.clone().fill_diagonal_(0)
    return weight if limit is None else weight.clamp(-limit, limit)
