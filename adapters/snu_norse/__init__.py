"""Spiking Neural Units for Norse."""

from snu_norse.exchange import to_nir
from snu_norse.exhibits import exhibits
from snu_norse.imported import NodeCell, from_nir
from snu_norse.neurons import SNU, SNUCell, SNUState, snu_feed_forward_step, sSNU, sSNUCell
from snu_norse.parameters import SNUParameters, SNUParametersTuple
from snu_norse.recurrent import (
    SNUFeedbackCell,
    SNURecurrent,
    SNURecurrentCell,
    snu_recurrent_step,
    sSNURecurrent,
    sSNURecurrentCell,
)
from snu_norse.registration import register, registered, unregister
from snu_norse.simulation import simulate, simulate_stock
from snu_norse.wired import Wired

__all__ = [
    "SNU",
    "NodeCell",
    "SNUCell",
    "SNUFeedbackCell",
    "SNUParameters",
    "SNUParametersTuple",
    "SNURecurrent",
    "SNURecurrentCell",
    "SNUState",
    "Wired",
    "exhibits",
    "from_nir",
    "register",
    "registered",
    "sSNU",
    "sSNUCell",
    "sSNURecurrent",
    "sSNURecurrentCell",
    "simulate",
    "simulate_stock",
    "snu_feed_forward_step",
    "snu_recurrent_step",
    "to_nir",
    "unregister",
]
