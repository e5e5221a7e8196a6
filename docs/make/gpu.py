"""All that can be checked and timed on an NVIDIA GPU, in under five minutes, as a page.

``python docs/make/gpu.py DIR`` runs the tests marked ``gpu``, then times neurons beside their
product and beside other simulators' fused kernels, where those are installed, and chips beside
theirs, and writes ``DIR/gpu.md``. Without a GPU it says so and ends with 2; where a test fails,
with 1, and the page says which.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import warnings
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch

from snu_plugin import files
from snu_plugin.bench import chip, neuron
from snu_plugin.bench.candidates import Workload
from snu_plugin.experiments.runs import Progress
from snu_plugin.experiments.settings import PACKAGES, listed, versions
from speed_page import machine

HOUSE = Path(__file__).parents[2]
OTHERS = ("triton", "spikingjelly", "sinabs", "sinabs-exodus", "cupy")
TIMED = ("triton", "reference", "ReLU", "SpikingJelly", "sinabs", "snnTorch Leaky")
"""Parts of the names of who is timed beside the product."""
WORKLOADS = (
    Workload(100, 64, (784, 256)),
    Workload(100, 16, (256, 1024)),
    Workload(500, 1, (512, 512)),
)
"""Sizes; batches on a GPU are 16 times these."""
TESTS_S = 150
"""Seconds after which the tests are stopped."""


def checks() -> tuple[int, str]:
    """Run the tests marked ``gpu``; return their exit status and the last lines they said."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests", "-p", "no:cacheprovider"]
    try:
        done = subprocess.run(
            command, cwd=HOUSE, capture_output=True, text=True, timeout=TESTS_S, check=False
        )
    except subprocess.TimeoutExpired:
        return 1, f"stopped after {TESTS_S} s"
    said = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return done.returncode, "\n".join([*said, *done.stdout.splitlines()[-1:]])


def document(parts: dict[str, Any]) -> str:
    """Return the page of what was found: ``tests`` (status, text), ``neuron``, ``chip``, ``cpu``.

    ``chip`` and ``cpu`` are answers of ``bench.chip.run`` on the GPU and on the processor.
    """
    installed = listed(versions((*PACKAGES, *OTHERS)))
    status, said = parts["tests"]
    verdict = "all pass" if status == 0 else f"they do not all pass (status {status})"
    return f"""# On a GPU

Made by `python docs/make/gpu.py DIR` in one run on {date.today().isoformat()}: {machine()};
{installed}.

## Tests marked `gpu`

`pytest -m gpu tests`: {verdict}.

```
{said}
```

## Neurons beside their product

Forward and backward, float32, at 16 times the batch of the page on [speed](speed.md); candidates
take turns.

{neuron.text(parts["neuron"])}

## Chips

Beside a folded `nn.Linear` on the same device; candidates take turns.

```
{chip.text(parts["chip"])}
```

The same on the processor:

```
{chip.text(parts["cpu"])}
```
"""


def measured(seconds: float, progress: Callable[[str], None]) -> dict[str, Any]:
    """Run everything; ``seconds`` is about how long each of four timings takes."""
    progress("tests marked gpu")
    found: dict[str, Any] = {"tests": checks()}
    found["neuron"] = neuron.run(
        seconds, only=TIMED, workloads=WORKLOADS, device="cuda", progress=progress
    )
    for name, device in (("chip", "cuda"), ("cpu", "cpu")):
        progress(f"chips on {device}")
        found[name] = chip.run(seconds, device=device)
    return found


def main(arguments: list[str] | None = None) -> int:
    """Run everything and write the page into a folder."""
    parser = argparse.ArgumentParser(description="checks and timings on a GPU, as docs/gpu.md")
    parser.add_argument("out", type=Path, metavar="DIR", help="folder for gpu.md")
    parser.add_argument("--seconds", type=float, default=15.0, help="for each timing (15)")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("gpu.py: torch finds no NVIDIA GPU here; run it where there is one", file=sys.stderr)
        return 2
    with warnings.catch_warnings(), Progress() as progress:
        warnings.simplefilter("ignore")  # what hosts warn of is not the question here
        found = measured(options.seconds, progress)
    options.out.mkdir(parents=True, exist_ok=True)
    files.write(options.out / "gpu.md", document(found).encode())
    return 0 if found["tests"][0] == 0 else 1


if __name__ == "__main__":
    raise SystemExit(main())
