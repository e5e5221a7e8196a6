"""The chip in the training loop."""

from snu_plugin.hil.online import Online
from snu_plugin.hil.pulses import StochasticPulses, ThinnedPulses
from snu_plugin.hil.schedule import Every, Look, Remembered, Schedule, WhenWorse
from snu_plugin.hil.trainer import History, Loop, Moments, TrainerState, UpdateRecord, fine_tune
from snu_plugin.hil.update import (
    Accumulated,
    DigitalOnly,
    MixedPrecision,
    ProgramVerify,
    Refresh,
    Rule,
    SignPulses,
)
from snu_plugin.hil.ways import Adapter, Recalibrate, Rewrite

__all__ = [
    "Accumulated",
    "Adapter",
    "DigitalOnly",
    "Every",
    "History",
    "Look",
    "Loop",
    "MixedPrecision",
    "Moments",
    "Online",
    "ProgramVerify",
    "Recalibrate",
    "Refresh",
    "Remembered",
    "Rewrite",
    "Rule",
    "Schedule",
    "SignPulses",
    "StochasticPulses",
    "ThinnedPulses",
    "TrainerState",
    "UpdateRecord",
    "WhenWorse",
    "fine_tune",
]
