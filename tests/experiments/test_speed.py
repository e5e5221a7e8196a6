"""The page on speed is made from recorded answers."""

from __future__ import annotations

import platform
from typing import Any

import torch

import speed_page as speed
from snu_plugin.bench import neuron
from snu_plugin.bench.candidates import Workload


def test_the_page_says_machine_date_versions_and_every_table() -> None:
    work = (Workload(3, 2, (4, 3)),)
    asked: dict[str, Any] = {"only": ["gru"], "parts": ["layers", "spikes"], "workloads": work}
    timed = neuron.run(1e-3, threads=1, **asked)
    parts: dict[str, Any] = {
        "load": 0.25,
        "spikes": timed.pop("spikes"),
        "neuron": timed,
        "simulators": SIMULATORS,
    }
    page = speed.document(parts)
    for said in (
        f"torch {torch.__version__}".split("+")[0],
        "load average 0.2",
        speed.machine(),
        "3 x 2, 4 -> 3, ",
    ):
        assert said in page
    assert platform.node() == "" or platform.node() not in page
    for title in ("Beside the product", "On a GPU", "in every simulator", "Spikes as inputs"):
        assert f"{title}\n\n" in page
    assert speed.WITHOUT_GPU in page
    assert speed.WITHOUT_GPU not in speed.document(parts | {"gpu": parts["neuron"]})


SIMULATORS = {
    "graph": "as given",
    "steps": 3,
    "batch": 2,
    "active": 0.5,
    "threads": None,
    "runs": [
        {
            "simulator": "strict reference",
            "importer": "reference",
            "status": "exact",
            "differing": 0.0,
            "message": "",
            "ms": [1.0, 2.0, 3.0],
            "first_step_ms": 0.5,
            "ratio": 1.0,
        },
        {
            "simulator": "brian",
            "importer": "stock",
            "status": "refused",
            "differing": None,
            "message": "knows no loops",
        },
    ],
    "complexity": {"our count": {"dense": 12.0}, "neurobench": {"missing": "not installed"}},
}
