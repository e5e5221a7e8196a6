"""The page on GPUs is made from answers that a processor gives too."""

from pathlib import Path
from typing import Any

import pytest
import torch

import gpu
from snu_plugin.bench import chip, neuron
from snu_plugin.bench.candidates import Workload


def test_without_a_gpu_it_says_so_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([str(tmp_path / "new")]) == 2
    assert "no NVIDIA GPU here" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_the_page_says_what_passed_and_how_long_all_took(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chip, "SHAPES", ((8, 4),))
    monkeypatch.setattr(chip, "STEPS", 3)
    monkeypatch.setattr(chip, "TUNED", (12, 8, 10))
    timed = chip.run(1e-3)
    parts: dict[str, Any] = {
        "tests": (0, "33 passed"),
        "neuron": neuron.run(
            1e-3,
            threads=1,
            only=["relu"],
            parts=["layers"],
            workloads=(Workload(3, 2, (4, 3)),),
        ),
        "chip": timed | {"device": "cuda"},
        "cpu": timed,
    }
    page = gpu.document(parts)
    for said in ("all pass", "33 passed", "nn.ReLU", "batch 64, cuda", "batch 64, one thread"):
        assert said in page
    failed = gpu.document(parts | {"tests": (1, "FAILED tests/a.py::test_b")})
    assert "do not all pass (status 1)" in failed
    assert "FAILED tests/a.py::test_b" in failed


def test_who_is_timed_on_a_gpu_exists() -> None:
    from snu_plugin.bench.candidates import candidates

    names = candidates(gpu.TIMED)
    assert {"SNU (triton)", "SpikingJelly LIFNode", "sinabs-EXODUS LIF"} <= set(names)
