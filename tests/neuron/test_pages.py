"""Memory of large results: in huge pages where Linux has them, no other advised."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from snu_plugin import SNUConfig, snu_scan
from snu_plugin.neuron import memory, src_scan

SMAPS = Path("/proc/self/smaps")
Advice = tuple[int, int, int]


@pytest.fixture
def advice(monkeypatch: pytest.MonkeyPatch) -> list[Advice]:
    """What the system is told, as address, bytes and kind of advice; here it never hears it."""
    told: list[Advice] = []

    def advise(*of: int) -> int:
        told.append(of)  # type: ignore[arg-type]
        return -1

    monkeypatch.setattr(memory, "_madvise", lambda: advise)
    return told


needs_huge_pages = pytest.mark.skipif(
    not hasattr(mmap, "MADV_HUGEPAGE"), reason="this system has no huge pages to ask for"
)


@needs_huge_pages
@pytest.mark.parametrize("cut", [0, 1, 1000])
def test_the_pages_that_lie_whole_in_a_large_tensor_are_advised(
    cut: int, advice: list[Advice]
) -> None:
    tensor = torch.empty(2**20 + 5000)[cut:]
    assert memory.paged(tensor) is tensor
    ((address, size, kind),) = advice
    assert kind == mmap.MADV_HUGEPAGE
    assert address % mmap.PAGESIZE == size % mmap.PAGESIZE == 0
    before, after = address - tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes - address - size
    assert 0 <= before < mmap.PAGESIZE
    assert 0 <= after < mmap.PAGESIZE


def test_small_tensors_are_left_alone(advice: list[Advice]) -> None:
    memory.paged(torch.empty(2**20 - 1))
    memory.paged(torch.empty(0))
    assert not advice


def test_a_system_without_huge_pages_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(mmap, "MADV_HUGEPAGE", raising=False)
    memory._madvise.cache_clear()
    try:
        assert memory.paged(torch.zeros(2**20)).sum() == 0
    finally:
        memory._madvise.cache_clear()


def in_huge_pages(tensor: Tensor) -> bool:
    """Tell whether the middle of a tensor is in memory that was advised so."""
    middle, here = tensor.data_ptr() + tensor.nbytes // 2, False
    for line in SMAPS.read_text().splitlines():
        first, *rest = line.split()
        if first == "VmFlags:" and here:
            return "hg" in rest
        if "-" in first and not first.endswith(":"):
            start, stop = (int(end, 16) for end in first.split("-"))
            here = start <= middle < stop
    raise LookupError("the tensor is in no mapping")


@needs_huge_pages
def test_linux_takes_the_advice() -> None:
    if not SMAPS.exists() or "VmFlags" not in SMAPS.read_text():
        pytest.skip("this system does not say what its memory is")
    if not Path("/sys/kernel/mm/transparent_hugepage").exists():
        pytest.skip("this system has no huge pages")
    assert in_huge_pages(memory.paged(torch.empty(10**7)))


SCANS: dict[str, Callable[[Tensor], Tensor]] = {
    "SNU": lambda x: snu_scan(x, impl="numba")[0],
    "recurrent": lambda x: snu_scan(x, recurrent=torch.zeros(x.shape[-1:] * 2), impl="numba")[0],
    "inhibited": lambda x: snu_scan(x, SNUConfig(lateral_inhibition="sample"), impl="numba")[0],
    "SRC": lambda x: src_scan(x, impl="numba")[0],
}


@needs_huge_pages
@pytest.mark.parametrize("name", SCANS)
def test_outputs_and_gradients_of_fused_scans_are_advised_and_inputs_are_not(
    name: str, advice: list[Advice]
) -> None:
    pytest.importorskip("numba")
    x = torch.ones(1000, 100, 100, requires_grad=True)
    y = SCANS[name](x)
    (grad,) = torch.autograd.grad(y, x, torch.ones_like(y))

    def advised(tensor: Tensor) -> bool:
        middle = tensor.data_ptr() + tensor.nbytes // 2
        return any(address <= middle < address + size for address, size, _ in advice)

    assert advised(y)
    assert advised(grad)
    assert not advised(x)
