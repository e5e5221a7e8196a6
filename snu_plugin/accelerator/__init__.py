"""A modelled phase-change-memory chip for in-memory computing."""

from snu_plugin.accelerator.batch import Batch
from snu_plugin.accelerator.board import Board
from snu_plugin.accelerator.chip import Chip, settings
from snu_plugin.accelerator.cost import (
    ASSUMPTIONS,
    Cost,
    Writing,
    cost,
    dense_parts,
    expected_writing,
    first_writing,
    writing,
)
from snu_plugin.accelerator.devices import Cells
from snu_plugin.accelerator.digital import node
from snu_plugin.accelerator.geometry import Convolution, Geometry, Plain, Stack
from snu_plugin.accelerator.machine import Accelerator
from snu_plugin.accelerator.presets import (
    CHIPS,
    HERMES,
    IDEAL,
    PCM,
    PCM_PULSED,
    describe,
    dump_chip,
    find_chip,
    load_chip,
)
from snu_plugin.accelerator.program import Digital, Neurons, Op, Product, Program, Scaling, Tile
from snu_plugin.accelerator.tile import Count
from snu_plugin.accelerator.trace import Trace

__all__ = [
    "ASSUMPTIONS",
    "CHIPS",
    "HERMES",
    "IDEAL",
    "PCM",
    "PCM_PULSED",
    "Accelerator",
    "Batch",
    "Board",
    "Cells",
    "Chip",
    "Convolution",
    "Cost",
    "Count",
    "Digital",
    "Geometry",
    "Neurons",
    "Op",
    "Plain",
    "Product",
    "Program",
    "Scaling",
    "Stack",
    "Tile",
    "Trace",
    "Writing",
    "cost",
    "dense_parts",
    "describe",
    "dump_chip",
    "expected_writing",
    "find_chip",
    "first_writing",
    "load_chip",
    "node",
    "settings",
    "writing",
]
