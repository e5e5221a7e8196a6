"""The chip in the training loop."""

from snu_plugin.hil.adapters import Adapter, Correct, Prior, shown_inputs
from snu_plugin.hil.aware import HardwareAware, hardware_aware
from snu_plugin.hil.budget import Worst, first_pulses, worst
from snu_plugin.hil.loop import READ_EVERY, Loop, TrainerState, UpdateRecord
from snu_plugin.hil.losses import (
    LOSSES,
    Described,
    Loss,
    Teacher,
    loss_of,
    taught_by,
    temperature,
)
from snu_plugin.hil.metrics import METRICS, Metric, metric_of, silent
from snu_plugin.hil.online import Online
from snu_plugin.hil.preparing import Prepared, drop_idle, prepared
from snu_plugin.hil.pulses import (
    Accumulated,
    MixedPrecision,
    ProgramVerify,
    SignPulses,
    StochasticPulses,
    ThinnedPulses,
)
from snu_plugin.hil.remote import BoardLost, RemoteBoard, connect
from snu_plugin.hil.rewriting import Recalibrate, Refresh, Rewrite
from snu_plugin.hil.rules import DigitalOnly, Preparation, Rule, Way, in_turn
from snu_plugin.hil.schedule import Every, Look, Remembered, Schedule, WhenWorse
from snu_plugin.hil.trainer import LOOKS, LOOKS_AT_PULSES, fine_tune
from snu_plugin.hil.tuning import TRIED, History, Tuning

__all__ = [
    "LOOKS",
    "LOOKS_AT_PULSES",
    "LOSSES",
    "METRICS",
    "READ_EVERY",
    "TRIED",
    "Accumulated",
    "Adapter",
    "BoardLost",
    "Correct",
    "Described",
    "DigitalOnly",
    "Every",
    "HardwareAware",
    "History",
    "Look",
    "Loop",
    "Loss",
    "Metric",
    "MixedPrecision",
    "Online",
    "Preparation",
    "Prepared",
    "Prior",
    "ProgramVerify",
    "Recalibrate",
    "Refresh",
    "Remembered",
    "RemoteBoard",
    "Rewrite",
    "Rule",
    "Schedule",
    "SignPulses",
    "StochasticPulses",
    "Teacher",
    "ThinnedPulses",
    "TrainerState",
    "Tuning",
    "UpdateRecord",
    "Way",
    "WhenWorse",
    "Worst",
    "connect",
    "drop_idle",
    "fine_tune",
    "first_pulses",
    "hardware_aware",
    "in_turn",
    "loss_of",
    "metric_of",
    "prepared",
    "shown_inputs",
    "silent",
    "taught_by",
    "temperature",
    "worst",
]
