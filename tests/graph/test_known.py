"""How simulators read nodes, against what docs/hosts.md says of them."""

from __future__ import annotations

from typing import Any

import nir
import numpy as np
import pytest

from snu_plugin.graph import SNU, stamp, verify
from snu_plugin.graph.readers import RULES, UNKNOWN, known
from snu_plugin.simulators import SIMULATORS, installed

DT = 2.0**-10


def lif(**fields: Any) -> nir.LIF:
    usual = {"tau": 4 * DT, "r": 4.0, "v_leak": 0.0, "v_threshold": 1.0, "v_reset": 0.0}
    full = {name: np.zeros(3) + value for name, value in (usual | fields).items()}
    return nir.LIF(**full)


def full(*values: float) -> list[Any]:
    return [np.full(3, value) for value in values]


@pytest.mark.parametrize(
    ("node", "spikingjelly", "sinabs", "rockpool", "spyx", "sc_neurocore", "nirtorch"),
    [
        (lif(), "exact", "crashes", "crashes", "differs", "exact", "refused"),
        (lif(r=1.0), "exact", "crashes", "crashes", "differs", "exact", "refused"),
        (
            lif(r=np.array([1.0, 2.0, 4.0])),
            "refused",
            "crashes",
            "crashes",
            "differs",
            "exact",
            "refused",
        ),
        (lif(r=2.0), "refused", "crashes", "crashes", "differs", "exact", "refused"),
        (lif(v_leak=0.2), "refused", "crashes", "crashes", "differs", "differs", "refused"),
        (lif(v_reset=-0.5), "refused", "crashes", "crashes", "differs", "exact", "refused"),
        (nir.IF(*full(1 / DT, 1)), "exact", "crashes", UNKNOWN, "differs", "exact", "refused"),
        (nir.IF(*full(1, 1)), "refused", "crashes", UNKNOWN, "differs", "exact", "refused"),
        (
            nir.CubaLIF(*full(DT, 4 * DT, 4, 0, 1)),
            "exact",
            "crashes",
            *["differs"] * 2,
            "exact",
            "refused",
        ),
        (nir.Scale(np.ones(3)), UNKNOWN, "left out", UNKNOWN, "left out", UNKNOWN, "refused"),
        (nir.Linear(np.eye(3)), UNKNOWN, "left out", *[UNKNOWN] * 4),
        (SNU(*full(0.5, 1), "relu"), *["refused"] * 6),
        (nir.Affine(np.eye(3), np.ones(3)), *[UNKNOWN] * 5, "differs"),
    ],
)
def test_what_is_known_is_what_was_measured(
    node: nir.NIRNode,
    spikingjelly: str,
    sinabs: str,
    rockpool: str,
    spyx: str,
    sc_neurocore: str,
    nirtorch: str,
) -> None:
    said = (spikingjelly, sinabs, rockpool, spyx, sc_neurocore, nirtorch)
    for name, begins in zip(SIMULATORS, said, strict=True):
        assert known(name, node, DT).startswith(begins), name


def test_every_simulator_has_a_rule() -> None:
    assert RULES.keys() == SIMULATORS.keys()


def test_the_report_tells_what_is_known_of_simulators_that_are_not_here() -> None:
    absent = next((name for name in SIMULATORS if name not in installed()), None)
    if absent is None:
        pytest.skip("all simulators are installed here")
    graph = stamp(nir.NIRGraph.from_list(nir.Linear(np.eye(3)), lif()), DT)
    report = verify(graph, simulators=[])
    assert report.known[absent].keys() == {"lif"}
    assert f"{absent}  " in str(report)
    assert report.to_dict()["known"] == report.known
