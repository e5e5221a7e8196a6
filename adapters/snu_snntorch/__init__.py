"""SNU, sSNU and SRC for snnTorch: neurons, exchange through NIR, registration."""

from snu_snntorch.accelerating import neuron_rule
from snu_snntorch.conformance import conformance_classes, conformance_networks
from snu_snntorch.exchange import to_nir
from snu_snntorch.importing import from_nir, simulate, simulate_stock
from snu_snntorch.neurons import RSNU, SNU, RsSNU, SNUSequence, sSNU, sSNUSequence
from snu_snntorch.offered import random_neuron
from snu_snntorch.registration import register, registered, unregister
from snu_snntorch.src import SRC, SRCSequence
from snu_snntorch.unit import reset

__all__ = [
    "RSNU", "SNU", "SRC", "RsSNU", "SNUSequence", "SRCSequence", "conformance_classes",
    "conformance_networks", "from_nir", "neuron_rule", "random_neuron", "register", "registered",
    "reset", "sSNU", "sSNUSequence", "simulate", "simulate_stock", "to_nir", "unregister",
]  # fmt: skip
