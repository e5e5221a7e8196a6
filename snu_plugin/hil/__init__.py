"""The chip in the training loop."""

from snu_plugin.hil.online import Online
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

__all__ = [
    "Accumulated",
    "DigitalOnly",
    "History",
    "Loop",
    "MixedPrecision",
    "Moments",
    "Online",
    "ProgramVerify",
    "Refresh",
    "Rule",
    "SignPulses",
    "TrainerState",
    "UpdateRecord",
    "fine_tune",
]
