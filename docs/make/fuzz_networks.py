"""Random networks, each through a file and everywhere: ``python docs/make/fuzz_networks.py``.

A journal keeps a line of JSON for each network; run again with the same journal it goes on behind
what is there. The table of docs/fuzzing.md is what it prints at its end::

    python docs/make/fuzz_networks.py --count 10000 --seed 0 --journal networks.jsonl
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import nir
import torch
from torch import Tensor

import page_tables
from snu_plugin import simulators
from snu_plugin.accelerator import IDEAL, Accelerator
from snu_plugin.compiler import compile
from snu_plugin.testing import Runner, exchanged, random_network, side_by_side

HOSTS = ("snntorch", "norse")


def runners() -> dict[str, Runner]:
    """Return who runs each file beside the strict reference: both adapters, and an ideal chip."""
    found: dict[str, Runner] = {name: _simulator(simulators.adapter(name)) for name in HOSTS}
    return found | {"chip": _chip}


def _simulator(adapter: Any) -> Runner:
    return lambda g, x: torch.as_tensor(adapter.simulate(g, x.numpy(), None))


def _chip(g: nir.NIRGraph, x: Tensor) -> Tensor:
    chip = Accelerator(compile(g, IDEAL), 0)
    chip.program()
    return side_by_side(chip.run(x)[0])


def entry(host: str, adapter: ModuleType, seed: int, everyone: dict[str, Runner]) -> dict[str, Any]:
    """Return the journal's line for one network."""
    network = random_network(adapter, seed)
    verdict = exchanged(network, adapter, everyone)
    line = {"host": host, "seed": seed, "status": verdict.status, "fired": verdict.fired}
    if verdict.status != "equal":
        line |= {"said": verdict.message, "network": network.told}
    return line


def table(lines: list[dict[str, Any]]) -> str:
    """Return the figures of a journal, in Markdown."""
    kinds = sorted({line["status"] for line in lines})
    rows = []
    for host in HOSTS:
        own = [line for line in lines if line["host"] == host]
        counts = Counter(line["status"] for line in own)
        fired = sum(line["fired"] for line in own)
        rows.append((host, len(own), fired, *(counts[kind] for kind in kinds)))
    return page_tables.table(("host", "networks", "that fire", *kinds), rows)


def main() -> int:
    """Run what the journal does not have yet; 1 if anything differs or crashes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=1000, help="networks, of both hosts in turn")
    parser.add_argument("--seed", type=int, default=0, help="of the first network")
    parser.add_argument("--journal", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # layers that stay silent are said so; that is counted here
    adapters, everyone = {name: simulators.adapter(name) for name in HOSTS}, runners()
    old = options.journal.read_text().splitlines() if options.journal.exists() else []
    lines = [json.loads(line) for line in old]
    done = {(line["host"], line["seed"]) for line in lines}
    with options.journal.open("a") as journal:
        for number in range(options.count):
            host, seed = HOSTS[number % 2], options.seed + number // 2
            if (host, seed) in done:
                continue
            lines.append(entry(host, adapters[host], seed, everyone))
            journal.write(json.dumps(lines[-1]) + "\n")
            journal.flush()
    print(table(lines))
    return int(any(line["status"] in ("different", "crash") for line in lines))


if __name__ == "__main__":
    raise SystemExit(main())
