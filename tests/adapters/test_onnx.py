"""Networks of our neurons as ONNX, run by onnxruntime: a step a call, states in and out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import snu_snntorch as st

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # what the exporter warns of changes with its version
]

UNITS: dict[str, Any] = {
    "SNU": lambda n: st.SNU(0.8, 0.3),
    "sSNU": lambda n: st.sSNU(0.8, 0.3),
    "RSNU": lambda n: st.RSNU(0.8, linear_features=n, threshold=0.3),
}


class Step(nn.Module):
    """Two layers for one step."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(12, 16), nn.Linear(16, 5)
        self.one, self.two = UNITS[kind](16), UNITS[kind](5)
        self.count = 2 if kind == "RSNU" else 1

    def forward(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        first = self.one(self.fc1(x), *states[: self.count])
        second = self.two(self.fc2(first[0]), *states[self.count :])
        return second[0], *first[-self.count :], *second[-self.count :]


@pytest.mark.slow
@pytest.mark.parametrize("kind", UNITS)
def test_a_step_runs_in_onnxruntime_with_the_same_spikes(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    net = Step(kind).eval()
    states = [torch.zeros(4, n) for n in (16, 5) for _ in range(net.count)]
    x = torch.rand(7, 4, 12)
    path = tmp_path / "step.onnx"
    torch.onnx.export(net, (x[0], *states), path, dynamo=True, verbose=False)
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]
    carried, fired = [state.numpy() for state in states], 0.0
    with torch.no_grad():
        for x_t in x:
            y, *states = net(x_t, *states)
            given = dict(zip(names, [x_t.numpy(), *carried], strict=True))
            found, *carried = session.run(None, given)
            torch.testing.assert_close(torch.as_tensor(found), y, rtol=1e-5, atol=1e-6)
            fired += y.sum().item()
    assert fired > 0
