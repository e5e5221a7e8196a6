"""Spiking Neural Units and Spiking Recurrent Cells for Norse."""

from snu_norse.accelerating import neuron_rule
from snu_norse.conformance import conformance_classes, conformance_networks
from snu_norse.exchange import to_nir
from snu_norse.importing import GraphCell, NodeCell, from_nir, simulate, simulate_stock
from snu_norse.neurons import (
    SNU,
    SNUCell,
    SNUFeedbackCell,
    SNURecurrent,
    SNURecurrentCell,
    SNUState,
    snu_feed_forward_step,
    snu_recurrent_step,
    sSNU,
    sSNUCell,
    sSNURecurrent,
    sSNURecurrentCell,
)
from snu_norse.offered import random_neuron
from snu_norse.parameters import SNUParameters, SNUParametersTuple
from snu_norse.registration import register, registered, unregister
from snu_norse.src import SRC, SRCCell, SRCParameters, src_feed_forward_step
from snu_plugin.neuron import SRCState

__all__ = [
    "SNU", "SRC", "GraphCell", "NodeCell", "SNUCell", "SNUFeedbackCell", "SNUParameters",
    "SNUParametersTuple", "SNURecurrent", "SNURecurrentCell", "SNUState", "SRCCell",
    "SRCParameters", "SRCState", "conformance_classes", "conformance_networks", "from_nir",
    "neuron_rule", "random_neuron", "register", "registered", "sSNU", "sSNUCell", "sSNURecurrent",
    "sSNURecurrentCell", "simulate", "simulate_stock", "snu_feed_forward_step",
    "snu_recurrent_step", "src_feed_forward_step", "to_nir", "unregister",
]  # fmt: skip
