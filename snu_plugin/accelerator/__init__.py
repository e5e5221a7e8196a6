"""A modelled phase-change-memory chip for in-memory computing."""

from snu_plugin.accelerator.batch import Batch
from snu_plugin.accelerator.board import Board
from snu_plugin.accelerator.chip import Chip
from snu_plugin.accelerator.cost import Cost
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
from snu_plugin.accelerator.program import Digital, Neurons, Product, Program, Tile
from snu_plugin.accelerator.trace import Trace

__all__ = [
    "CHIPS",
    "HERMES",
    "IDEAL",
    "PCM",
    "PCM_PULSED",
    "Accelerator",
    "Batch",
    "Board",
    "Chip",
    "Cost",
    "Digital",
    "Neurons",
    "Product",
    "Program",
    "Tile",
    "Trace",
    "describe",
    "dump_chip",
    "find_chip",
    "load_chip",
]
