"""A modelled phase-change-memory chip for in-memory computing."""

from snu_plugin.accelerator.beside import adapter_of, adapter_output, outlier_values
from snu_plugin.accelerator.board import Board
from snu_plugin.accelerator.calibration import DENSITY
from snu_plugin.accelerator.checkpoint import compile_again, describe_program
from snu_plugin.accelerator.chip import Chip, settings
from snu_plugin.accelerator.crossbar import Count, Crossbar
from snu_plugin.accelerator.devices.flicker import Flicker
from snu_plugin.accelerator.devices.from_tables import Tabulated
from snu_plugin.accelerator.devices.model import Cells, DeviceModel, device_model
from snu_plugin.accelerator.devices.pulses import CREDIT_US
from snu_plugin.accelerator.devices.tables import DeviceTables
from snu_plugin.accelerator.energy import (
    ASSUMPTIONS,
    Cost,
    Spent,
    Writing,
    cost,
    dense_parts,
    expected_writing,
    first_writing,
    writing,
)
from snu_plugin.accelerator.geometry import Convolution, Geometry, Stack
from snu_plugin.accelerator.inference import (
    SATURATED,
    Saturation,
    Trace,
    checked_inputs,
    digital_node,
    observe,
)
from snu_plugin.accelerator.machine import Accelerator
from snu_plugin.accelerator.noise import generators
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
from snu_plugin.accelerator.program import (
    Digital,
    Neurons,
    Op,
    Product,
    Program,
    Range,
    Scaling,
    Tile,
)
from snu_plugin.accelerator.ranges import Magnitudes, range_of, set_ranges
from snu_plugin.accelerator.synapse import WeightLayout

__all__ = [
    "ASSUMPTIONS",
    "CHIPS",
    "CREDIT_US",
    "DENSITY",
    "HERMES",
    "IDEAL",
    "PCM",
    "PCM_PULSED",
    "SATURATED",
    "Accelerator",
    "Board",
    "Cells",
    "Chip",
    "Convolution",
    "Cost",
    "Count",
    "Crossbar",
    "DeviceModel",
    "DeviceTables",
    "Digital",
    "Flicker",
    "Geometry",
    "Magnitudes",
    "Neurons",
    "Op",
    "Product",
    "Program",
    "Range",
    "Saturation",
    "Scaling",
    "Spent",
    "Stack",
    "Tabulated",
    "Tile",
    "Trace",
    "WeightLayout",
    "Writing",
    "adapter_of",
    "adapter_output",
    "checked_inputs",
    "compile_again",
    "cost",
    "dense_parts",
    "describe",
    "describe_program",
    "device_model",
    "digital_node",
    "dump_chip",
    "expected_writing",
    "find_chip",
    "first_writing",
    "generators",
    "load_chip",
    "observe",
    "outlier_values",
    "range_of",
    "set_ranges",
    "settings",
    "writing",
]
