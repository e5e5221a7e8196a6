"""Pictures of a chip and its devices, as ``snu info`` and ``snu map`` leave them."""

import json
from itertools import pairwise
from pathlib import Path

import nir
import numpy as np
import pytest

from snu_plugin import cli, graph
from snu_plugin.accelerator import PCM, PCM_PULSED, Chip, device_model, generators
from snu_plugin.experiments.info import DEVICES, PULSED, pulse_response

pytest.importorskip("matplotlib", reason="needs matplotlib")


@pytest.mark.parametrize("chip", [PCM, PCM_PULSED])
def test_devices_answer_pulses_as_published(chip: Chip) -> None:
    mean, spread = pulse_response(device_model(chip), generators(3, "test"))
    for count, (published, sigma) in PULSED.items():
        scale = chip.pulse_scale
        error = 5 * sigma * scale / DEVICES**0.5
        assert float(mean[count]) == pytest.approx(published * scale, abs=error)
        assert float(spread[count]) == pytest.approx(sigma * scale, abs=error)


@pytest.mark.parametrize("chip", ["PCM", "PCM_PULSED", "HERMES", "IDEAL"])
def test_every_chip_is_drawn(chip: str, tmp_path: Path) -> None:
    assert cli.main(["info", "--chip", chip, "--out", str(tmp_path / "out")]) == 0
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert left == {"written.png", "drift.png", "pulses.png"}


def test_pictures_of_no_chip_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["info", "--out", str(tmp_path / "out")]) == 2
    assert "give --chip as well" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_map_leaves_the_plan_and_its_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes = {
        "in": nir.Input({"input": np.array([300])}),
        "fc": nir.Linear(np.random.default_rng(0).normal(size=(20, 300))),
        "out": nir.Output({"output": np.array([20])}),
    }
    graph.write(tmp_path / "graph.nir", nir.NIRGraph(nodes, list(pairwise(nodes))))
    arguments = ["map", str(tmp_path / "graph.nir"), "--steps", "50"]
    assert cli.main([*arguments, "--out", str(tmp_path / "out")]) == 0
    assert "inference of 50 steps" in capsys.readouterr().out
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert left == {"plan.json", "tiles.png", "energy.png"}
    plan = json.loads((tmp_path / "out" / "plan.json").read_text())
    assert plan["energy_nj_per_inference"]["total"] == pytest.approx(
        50 * plan["energy_nj_per_step"]["total"]
    )
    assert plan["programming"]["resets"] == plan["devices"]
    assert cli.main([*arguments, "--steps", "0"]) == 2
    assert "steps is 0" in capsys.readouterr().err
