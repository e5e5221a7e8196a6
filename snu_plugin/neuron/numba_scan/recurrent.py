"""The scan of recurrent units on processors as a torch operator."""

from snu_plugin.neuron.numba_scan.loops import (
    recurrent_scan,
    recurrent_scan_backward,
    recurrent_states,
)
from snu_plugin.neuron.recurrent import Recurrent

SCAN = Recurrent("recurrent_scan", "cpu", recurrent_scan, recurrent_scan_backward, recurrent_states)
