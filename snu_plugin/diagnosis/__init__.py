"""Why a network is silent, saturated or does not learn, and what to do about it."""

from snu_plugin.diagnosis.findings import Diagnosis, Finding, Layer
from snu_plugin.diagnosis.looking import diagnose

__all__ = ["Diagnosis", "Finding", "Layer", "diagnose"]
