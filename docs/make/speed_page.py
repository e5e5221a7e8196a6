"""The page on speed.

``python docs/make/speed_page.py DIR`` runs everything, about half an hour, and writes
``DIR/speed.md`` and ``DIR/speed.png``.
"""

from __future__ import annotations

import argparse
import os
import platform
import warnings
from datetime import date
from pathlib import Path
from typing import Any

import torch

from snu_plugin import files
from snu_plugin.bench import neuron, simulators, spikes
from snu_plugin.experiments import pictures
from snu_plugin.experiments.runs import Progress
from snu_plugin.experiments.settings import PACKAGES, listed, versions

OTHERS = ("nirtorch", "triton", "spikingjelly", "sinabs", "jax", "spyx", "neurobench")


def machine() -> str:
    """Return the kind of processor and GPU, without the name of the machine."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    gpus = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
    kind = next(named, platform.processor() or platform.machine())
    return ", ".join([f"{kind}, {os.cpu_count()} cores", *(gpus or ["no GPU"])])


def document(parts: dict[str, Any]) -> str:
    """Return the page: what was run, what columns mean, and every table.

    Args:
        parts: Answers of ``neuron.run``, of its part ``spikes``, of ``simulators.run`` and, where
            there is a GPU, of ``neuron.run`` there, as ``neuron``, ``spikes``, ``simulators`` and
            ``gpu``; and as ``load`` how many processes wanted a core before.
    """
    installed = listed(versions((*PACKAGES, *OTHERS)))
    busy = f"load average {parts['load']:.1f} before the run"
    if parts["load"] > 1:
        busy += " (a busy machine: run it again on a quiet one)"
    made = f"Made by one run on {date.today().isoformat()}: {machine()}, {busy}; {installed}."
    gpu = neuron.text(parts["gpu"]) if "gpu" in parts else WITHOUT_GPU
    sections = (
        (None, f"{ABOUT}\n\n{made}"),
        ("Beside the product", f"{LAYERS}\n\n{neuron.text(parts['neuron'])}"),
        ("Spikes as inputs", f"{SPIKES}\n\n{spikes.text(parts['spikes'])}"),
        ("On a GPU", gpu),
        (
            "The same graph in every simulator",
            f"{SIMULATORS}\n\n{simulators.text(parts['simulators'])}",
        ),
    )
    return (
        "\n\n".join(f"## {title}\n\n{text}" if title else text for title, text in sections) + "\n"
    )


ABOUT = """# Speed

| to run | command |
|:-------|:--------|
| neurons beside their product | `snu bench neuron` |
| a few of them, quickly | `snu bench neuron --only numba,leaky --parts layers` |
| a layer by the share of its inputs that are spikes | `snu bench neuron --parts spikes` |
| on a GPU, at 16 times the batch | `snu bench neuron --device cuda` |
| a chip beside its products | `snu bench chip` |
| [chips as they grow](devices.md#how-large-a-chip-may-be) | `snu bench chip --parts growth` |
| your graph in every simulator | `snu bench simulators GRAPH DATA` |
| this page and its picture | `python docs/make/speed_page.py docs` |

Candidates take turns, round by round, so that what else the machine does hits all alike. Everything
is float32, forward and backward, with the gradients of all weights and thresholds. `snu info` says
which implementations can run here and why others cannot."""

LAYERS = """A workload is steps x batch, inputs -> neurons of each layer.

* *ms*, *quartiles*: median, and first to third quartile, over all rounds.
* *x product*: the median, over rounds, of the time in units of the products alone.
* *x bytes*: the same in units of three copies of `(T, B, N)`. They move six tensors, the least that
  a neuron must move: input and output forward; both gradients, input and output backward.
* *nn.ReLU*: what the least of layers costs after a product here; it knows no time.
* Our outputs and gradients of 4 MB and more lie in huge pages, where Linux has them for the asking.
  glibc's settings are left alone: where pages are dear, a step takes 3 to 8 % longer than it would
  if freed memory were kept.
* With two threads after a product, 64 x 256 neurons took 0.38 ms forward in torch's own OpenMP
  team, 0.65 ms in a pool of threads and 0.56 ms in one thread; so there is no pool, and where torch
  brings no OpenMP one thread runs (`snu info` says so).
* *by steps*: the loop over time holds every layer, as snnTorch's tutorials write it. The others
  multiply all steps at once.
* *power*: time grows with this power of the size between the two largest sizes; the blank cells
  took more than a second at a smaller size. Only our neurons alone run the largest sizes.
* *seconds to the first result*: from the start of Python to the end of the first pass, imports and
  compilation included. *peak*: memory at the peak of a later pass besides inputs and weights, in
  tensors `(T, B, N)`; the output is one of them.
* JAX uses threads of its own, whatever the number above the table.

![time against size](speed.png)"""

WITHOUT_GPU = """Not measured: this machine has none. The kernels (`impl="triton"`) are tested in
Triton's interpreter against the reference, forward and gradients, and compiled for compute
capability 9.0, where loads of later steps are started ahead and no product is fused with its sum,
so that spikes are the reference's."""

SIMULATORS = """\
Each simulator lives in a process of its own; rounds go from one to the next. *ms*: reading the
graph into the simulator and running it; *1 step*: the same for one step only, so mostly the
reading; *x*: in units of the strict reference. *plugin* is this package's importer, *stock* the
host's own. Measures: Yik et al. 2025; the library counts on the graph imported into snnTorch,
whose modules hold a few more constants, and does not count a loop's products of the last step."""

SPIKES = """\
`sp.Linear` is `nn.Linear`, cheaper where its input is 0 and 1 and mostly 0. Tables give a training
step in units of `nn.Linear` alone; an inner layer has a gradient of its input, a first layer none;
*gather* finds the spikes and adds up their weights with `embedding_bag`. Weights of a network are 5
times those that torch draws, so that its hidden neurons fire: how many in each layer stands at the
end of a row. Why it beats BLAS:

* A dense product multiplies and adds every input. Spikes need no multiplication, and only those
  that are 1 an addition: at 10 %, a tenth of the work, before what finding them costs.
* Gathering loses that gain to memory: each spike fetches a row of W from a far cache. Here 64 rows
  of W, 8 registers wide, lie side by side in the first cache while up to 1024 samples meet them.
* 64 inputs are one word of bits, which one wide comparison makes. The next spike is an instruction
  away (`cttz`), and 64 inputs without a spike cost one test.
* Sums stay in 8 registers while a word is walked; an addition takes its number from the cache.
* The gradient of W is the same walk over the same bits, turned over.
* The input's gradient stays dense, a third of a step: inner layers cannot come below 0.33.
* How much is gained depends on the BLAS. MKL leaves half of the registers of AMD's Zen 4 and 5
  unused; on an Intel Xeon with AVX-512 a prototype of this walk in C took, for 784 -> 256 at 10 %,
  0.49 for a first and 0.67 for an inner layer, SNU included.

Who multiplies is a fixed rule, in `snu_plugin.neuron.spike_linear`. That an input is none of spikes
is found out in about 15 microseconds. Convolutions, trained networks and other machines:
[walking spikes](spikes.md). SparseTrain (arXiv 1911.10175) skipped zeros of ReLU so, in
convolutions; that sparse ways lose to dense ones (arXiv 2603.13810) holds for *gather* here
from 10 % on."""


def main(arguments: list[str] | None = None) -> int:
    """Run everything and write the page and its picture into a folder."""
    parser = argparse.ArgumentParser(description="everything that docs/speed.md shows, in one run")
    parser.add_argument("out", type=Path, metavar="DIR", help="folder for speed.md and speed.png")
    parser.add_argument("--seconds", type=float, default=20.0, help="time for each workload (20)")
    parser.add_argument("--threads", type=int, help="of torch; default: 1, then all")
    parser.add_argument("--compiled", action="store_true", help="torch.compile too, for minutes")
    options = parser.parse_args(arguments)
    pictures.check_folder(options.out)
    with warnings.catch_warnings(), Progress() as progress:
        warnings.simplefilter("ignore")  # what hosts warn of is not the question here
        parts: dict[str, Any] = {
            "load": os.getloadavg()[0],
            "neuron": neuron.run(
                options.seconds,
                threads=options.threads,
                compiled=options.compiled,
                progress=progress,
            ),
            "simulators": simulators.run(seconds=options.seconds),
        }
        parts["spikes"] = parts["neuron"].pop("spikes")
        if torch.cuda.is_available():
            parts["gpu"] = neuron.run(options.seconds, device="cuda", progress=progress)
    pictures.folder(options.out)
    pictures.growth(options.out / "speed.png", parts["neuron"]["growth"])
    files.write(options.out / "speed.md", document(parts).encode())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
