"""Where the kernels for GPUs run in tests: on one, or in Triton's interpreter."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

import pytest
import torch

ON_A_GPU = pytest.param("cuda", marks=pytest.mark.gpu)


@pytest.fixture(params=[ON_A_GPU if torch.cuda.is_available() else "interpreter"])
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    """The device of tensors; without a GPU the kernels are read again by the interpreter.

    Then their operators take tensors on processors, too.
    """
    if request.param == "cuda":
        yield "cuda"
        return
    triton = pytest.importorskip("triton")
    from snu_plugin.neuron.triton_scan import kernels
    from snu_plugin.neuron.triton_scan.scan import SCANS

    with triton.knobs.runtime.scope(), torch.library._scoped_library("snu_plugin", "IMPL") as here:
        for scan in (SCANS.plain, SCANS.recurrent):
            here.impl(scan.name, scan.flat_forward, "CPU")
            here.impl(f"{scan.name}_backward", scan.flat_backward, "CPU")
        triton.knobs.runtime.interpret = True
        importlib.reload(kernels)
        yield "cpu"
    importlib.reload(kernels)
