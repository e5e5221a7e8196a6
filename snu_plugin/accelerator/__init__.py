"""A modelled phase-change-memory chip for in-memory computing."""

from snu_plugin.accelerator.board import Board
from snu_plugin.accelerator.chip import CHIPS, HERMES, IDEAL, PCM, PCM_PULSED, Chip
from snu_plugin.accelerator.cost import Cost
from snu_plugin.accelerator.machine import Accelerator
from snu_plugin.accelerator.program import Neurons, Product, Program, Relay, Tile
from snu_plugin.accelerator.trace import Trace

__all__ = [
    "CHIPS",
    "HERMES",
    "IDEAL",
    "PCM",
    "PCM_PULSED",
    "Accelerator",
    "Board",
    "Chip",
    "Cost",
    "Neurons",
    "Product",
    "Program",
    "Relay",
    "Tile",
    "Trace",
]
