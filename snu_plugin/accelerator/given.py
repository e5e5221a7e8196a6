"""What a host hands to a chip, checked against the network on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from snu_plugin.accelerator.program import Neurons, Product, Program


def inputs(layout: Program, x: Any) -> dict[str, Tensor]:
    """Return inputs ``(T, B, ...)`` by node, float32; raises ``ValueError`` for other shapes."""
    names = layout.inputs
    found = dict(x) if isinstance(x, Mapping) else {names[0]: x}
    if set(found) != set(names):
        raise ValueError(f"inputs are {', '.join(found)}; the graph has {', '.join(names)}")
    for name, value in found.items():
        shape = layout.shapes[name]
        if value.shape[2:] != shape or 0 in value.shape[:2]:
            raise ValueError(
                f"input {name} has shape {tuple(value.shape)}; it must be (T, B, "
                f"{', '.join(map(str, shape))}) with at least one step and one sequence"
            )
    return {name: value.float() for name, value in found.items()}


def by_crossbar(layout: Program, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return one value per weight, ``(out, in)``, given like that or in the graph's shapes."""
    products = layout.products
    for name, value in values.items():
        op = products.get(name)
        if op is None or value.shape not in (op.weight.shape, op.geometry.shape):
            known = ", ".join(f"{n} {op.geometry.shape}" for n, op in products.items())
            raise ValueError(
                f"no crossbar {name} of shape {tuple(value.shape)}; the chip has {known}"
            )
    return {n: value.reshape(products[n].weight.shape) for n, value in values.items()}


def registers(old: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return digital values as registers hold them, of the shapes of the ``old`` ones."""
    taken = {}
    for name, value in values.items():
        held = old.get(name)
        if held is None or held.shape != value.shape:
            known = ", ".join(f"{n} {tuple(v.shape)}" for n, v in old.items())
            raise ValueError(
                f"no register {name} of shape {tuple(value.shape)}; the chip has {known}"
            )
        if not bool(value.isfinite().all()):
            raise ValueError(f"register {name} would hold values that are not finite")
        taken[name] = value.detach().clone().to(held)
    return taken


def compiled_registers(program: Program) -> dict[str, Tensor]:
    """Return the digital values that the graph gives."""
    registers: dict[str, Tensor] = {}
    for name, op in program.ops.items():
        if isinstance(op, Product):
            registers[f"{name}.gain"] = torch.ones(len(op.weight))
            if len(op.row_blocks) > 1:
                registers[f"{name}.tile_gain"] = torch.ones(len(op.row_blocks), len(op.weight))
            if op.bias is not None:
                registers[f"{name}.bias"] = op.bias.clone()
        elif isinstance(op, Neurons) and op.euler.threshold is not None:
            registers[f"{name}.threshold"] = op.euler.threshold.clone()
    return registers
