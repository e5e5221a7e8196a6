"""The chip in the training loop."""

from snu_plugin.hil.adam import Moments
from snu_plugin.hil.trainer import Course, History, Loop, Record, fine_tune
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
    "Course",
    "DigitalOnly",
    "History",
    "Loop",
    "MixedPrecision",
    "Moments",
    "ProgramVerify",
    "Record",
    "Refresh",
    "Rule",
    "SignPulses",
    "fine_tune",
]
