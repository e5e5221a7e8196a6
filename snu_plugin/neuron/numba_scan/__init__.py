"""The engine on processors, compiled by Numba; importing it needs Numba."""

from functools import partial

from snu_plugin.neuron.engine import Engine
from snu_plugin.neuron.numba_scan import simd
from snu_plugin.neuron.numba_scan.bit_kernels import WORD, bits_set
from snu_plugin.neuron.numba_scan.fed import snu_linear
from snu_plugin.neuron.numba_scan.inhibition import INHIBITED
from snu_plugin.neuron.numba_scan.jit import compiled, kept_loops, parallel, run, team, threads
from snu_plugin.neuron.numba_scan.lif import lif_scan
from snu_plugin.neuron.numba_scan.loops import (
    marks_of,
    recurrent_marks,
    recurrent_scan,
    recurrent_scan_backward,
    refusal,
    scan,
    scan_backward,
)
from snu_plugin.neuron.numba_scan.pool import max_pool2d
from snu_plugin.neuron.numba_scan.pooled import lif_pooled, pooled_refusal, snu_pooled
from snu_plugin.neuron.numba_scan.simd import Flag, Rows, Vector
from snu_plugin.neuron.numba_scan.spike_kernels import VECTORS, copied, walked
from snu_plugin.neuron.numba_scan.spike_product import SPIKES
from snu_plugin.neuron.numba_scan.src import src_scan
from snu_plugin.neuron.operators import ScanOperator, Scans

__all__ = [
    "ENGINE", "VECTORS", "WORD", "Flag", "Rows", "Vector", "bits_set", "compiled", "copied",
    "kept_loops", "parallel", "run", "simd", "team", "threads", "walked",
]  # fmt: skip

SCANS = Scans(
    plain=ScanOperator(
        name="scan",
        device="cpu",
        forward=scan,
        eagerly=partial(scan, segment=None),
        backward=scan_backward,
        kept={"marks": marks_of},
        saved=("x", "soft_y", "marks"),
    ),
    recurrent=ScanOperator(
        name="recurrent_scan",
        device="cpu",
        recurrent=True,
        forward=recurrent_scan,
        backward=recurrent_scan_backward,
        kept={"marks": recurrent_marks},
        saved=("x", "y", "y_before", "marks"),
    ),
    inhibited=INHIBITED,
)


ENGINE = Engine(
    name="numba",
    missing=lambda: "",  # to import this file needs Numba
    refusal=refusal,
    snu=SCANS.snu,
    euler=SCANS.euler,
    src=src_scan,
    lif=lif_scan,
    lif_pooled=lif_pooled,
    max_pool2d=max_pool2d,
    snu_pooled=snu_pooled,
    snu_linear=snu_linear,
    pooled_refusal=pooled_refusal,
    spikes=SPIKES,
)
