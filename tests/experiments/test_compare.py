"""Every way to change a chip on the same aged chips, as ``snu tune --compare`` does it."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest

import results_page
from snu_plugin import cli, graph
from snu_plugin.accelerator import PCM
from snu_plugin.experiments import compare, data_files
from snu_plugin.experiments.compare import CompareSettings
from snu_plugin.experiments.runs import Running
from snu_plugin.graph import encode_snu, stamp
from snu_plugin.neuron import SNUConfig

SETTINGS = CompareSettings(chips=2, passes=1, ways=("adapter", "thinned pulses"))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    draw = np.random.default_rng(0)
    nodes = {
        "in": nir.Input({"input": np.array([8])}),
        "fc1": nir.Linear(draw.uniform(-0.5, 0.8, (10, 8))),
        "snu": encode_snu(SNUConfig(), 0.5, np.full(10, 0.6), dt=2.0**-10),
        "fc2": nir.Linear(draw.uniform(-0.5, 0.5, (3, 10))),
        "out": nir.Output({"output": np.array([3])}),
    }
    g = stamp(nir.NIRGraph(nodes, list(pairwise(nodes))), 2.0**-10)
    graph.write(folder / "graph.nir", g)
    arrays: dict[str, Any] = {}
    for part, count in (("train_", 64), ("valid_", 16), ("", 24)):
        labels = draw.integers(0, 3, count)
        rate = np.where(np.arange(8) % 3 == labels[:, None], 0.6, 0.2)
        arrays |= {f"{part}x": draw.random((5, count, 8)) < rate, f"{part}labels": labels}
    np.savez(folder / "data.npz", **arrays)
    return {"graph": folder / "graph.nir", "data": folder / "data.npz"}


def compared(files: dict[str, Path], out: Path, **how: Any) -> dict[str, Any]:
    return compare.compare(
        graph.read(files["graph"]),
        lambda *shapes: data_files.load_tuning(files["data"], *shapes),
        PCM,
        how.pop("settings", SETTINGS),
        out,
        Running(inputs=files, **how),
    )


@pytest.fixture(scope="module")
def out(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The record of one comparison, among those that make a page of results."""
    folder = tmp_path_factory.mktemp("results") / "compare"
    folder.mkdir()
    compared(files, folder / "jsb.json")
    return folder / "jsb.json"


@pytest.fixture
def whole(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def test_recalibration_and_rewriting_are_always_compared_and_costs_are_told(
    whole: dict[str, Any], out: Path
) -> None:
    record = whole
    assert list(record["ways"]) == ["recalibrated", "rewritten", "adapter", "thinned pulses"]
    cost = {way: found["cost"] for way, found in record["ways"].items()}
    assert cost["recalibrated"]["pulses"] == cost["adapter"]["pulses"] == 0
    assert cost["rewritten"]["pulses"] > record["devices"]
    assert cost["rewritten"]["wear"] == cost["rewritten"]["pulses"] / record["devices"]
    # The adapter at the read-out holds 3 (10 + 3) values: its rank is that of 3 outputs.
    assert cost["adapter"]["digital_values"] == cost["thinned pulses"]["digital_values"] + 39
    assert cost["adapter"]["energy_uj"] > cost["recalibrated"]["energy_uj"] > 0
    shown = compare.text(record)
    assert all(way in shown for way in record["ways"])
    assert not out.with_suffix(".checkpoint").exists()


def test_corrections_count_their_digital_values_though_nothing_is_tuned(
    files: dict[str, Path], tmp_path: Path
) -> None:
    settings = CompareSettings(chips=1, passes=1, ways=("corrected",))
    record = compared(files, tmp_path / "table.json", settings=settings)
    cost = {way: found["cost"] for way, found in record["ways"].items()}
    # Of rank 8 beside 10 x 8 weights, and of rank 3 beside 3 x 10.
    more = 8 * (10 + 8) + 3 * (3 + 10)
    assert cost["corrected"]["digital_values"] == cost["recalibrated"]["digital_values"] + more
    assert cost["corrected"]["pulses"] == 0
    assert cost["corrected"]["readings"] == 16 * record["devices"]


def test_a_record_becomes_a_table_of_the_page_of_results(whole: dict[str, Any], out: Path) -> None:
    page = "\n".join(results_page.compare_sections(out.parents[1]))
    for way, found in whole["ways"].items():
        now = found["scores"]["now"]
        assert f"| {way} | {now['mean']:.4f} ± {now['std']:.4f} |" in page
    assert '--chips 2 --epochs 1 --ways "recalibrated,rewritten,adapter,thinned pulses"' in page
    assert "2 chips of seeds 0 to 1" in page


class Interrupted(Exception):
    """Stands for a kill."""


def test_a_run_that_broke_off_is_taken_up_bit_for_bit(
    files: dict[str, Path], tmp_path: Path, whole: dict[str, Any]
) -> None:
    def stop(text: str) -> None:
        if text.startswith("3 of"):
            raise Interrupted

    with pytest.raises(Interrupted):
        compared(files, tmp_path / "broken.json", progress=stop)
    assert (tmp_path / "broken.checkpoint").exists()
    said: list[str] = []
    again = compared(files, tmp_path / "broken.json", resume=True, progress=said.append)
    assert len(said) == 8 - 3
    assert again["values"] == whole["values"]
    assert again["best"] == whole["best"]
    assert json.loads((tmp_path / "broken.json").read_text())["best"] == again["best"]


def test_a_checkpoint_of_other_settings_is_not_taken_up(
    files: dict[str, Path], tmp_path: Path
) -> None:
    def stop(text: str) -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        compared(files, tmp_path / "a.json", progress=stop)
    with pytest.raises(ValueError, match="chips"):
        compared(files, tmp_path / "a.json", resume=True, settings=replace(SETTINGS, chips=1))
    with pytest.raises(ValueError, match="does not exist"):
        compared(files, tmp_path / "b.json", resume=True)


def test_the_command_prints_the_table(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "tuned.nir")
    argv = ["tune", str(files["graph"]), str(files["data"]), "--compare", "--chips", "1"]
    assert cli.main([*argv, "--ways", "digital", "--epochs", "1", "--out", out]) == 0
    shown = capsys.readouterr().out
    assert "recalibrated" in shown
    assert "digital" in shown
    assert (tmp_path / "tuned.compare.json").exists()


def test_unknown_ways_and_counts_are_refused() -> None:
    with pytest.raises(LookupError, match="no way 'magic'"):
        CompareSettings(ways=("magic",))
    with pytest.raises(ValueError, match="chips is 0"):
        CompareSettings(chips=0)
