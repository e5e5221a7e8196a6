"""The chip in the training loop."""

from snu_plugin.hil.trainer import Course, Loop, Record, fine_tune
from snu_plugin.hil.update import MixedPrecision, ProgramVerify, Refresh, Rule, SignPulses

__all__ = [
    "Course",
    "Loop",
    "MixedPrecision",
    "ProgramVerify",
    "Record",
    "Refresh",
    "Rule",
    "SignPulses",
    "fine_tune",
]
