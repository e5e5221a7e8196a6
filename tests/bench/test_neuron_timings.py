"""The timings of neurons: every candidate runs, in turns, and is told in a table or in JSON."""

from __future__ import annotations

import functools
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from snu_plugin import cli, implementations, snu_scan
from snu_plugin.bench import candidates, growth, isolated, neuron, spikes
from snu_plugin.bench.candidates import Workload, leaky, snu_sequence
from snu_plugin.bench.timing import FEWEST_ROUNDS, Timing, time_in_turns

TINY = Workload(4, 2, (5, 3))
DEEP = Workload(4, 2, (5, 3, 2))
OURS = ("SNU (", "nn.LSTM")

layers = functools.partial(
    neuron.run, 1e-3, threads=1, only=OURS, parts=("layers",), workloads=(TINY, DEEP)
)


def test_candidates_take_turns() -> None:
    order: list[str] = []
    timings = time_in_turns({n: functools.partial(order.append, n) for n in "ab"}, 1e-9)
    assert order == ["a", "a", "b", "b"] + ["a", "b"] * FEWEST_ROUNDS
    assert timings["a"].rounds == FEWEST_ROUNDS == len(timings["a"].times)
    assert timings["a"].low <= timings["a"].median <= timings["a"].high


def test_no_time_is_refused() -> None:
    with pytest.raises(ValueError, match="seconds is 0"):
        time_in_turns({}, 0)


def test_ratios_compare_the_same_round() -> None:
    slow = Timing(3.0, 3.0, 3.0, 3, (2.0, 20.0, 3.0))
    fast = Timing(1.0, 1.0, 1.0, 3, (1.0, 10.0, 1.0))
    assert slow.over(fast) == 2.0


def test_every_implementation_is_timed_beside_its_product() -> None:
    answer = json.loads(json.dumps(layers()))
    assert answer["threads"] == [1]
    found = {(row["workload"], row["candidate"]): row for row in answer["layers"]}
    for name, implementation in implementations().items():
        timed = (str(TINY), f"SNU ({name})") in found
        assert timed == implementation.available
        assert timed or answer["absent"][f"SNU ({name})"] == implementation.reason
    assert found[str(TINY), "product alone"]["ratio"] == 1
    assert found[str(TINY), "nn.LSTM"]["median"] > 0
    assert found[str(TINY), "three copies"]["bytes_per_s"] > 0
    assert (str(DEEP), "SNU (reference)") in found
    assert "| SNU (reference) |" in " ".join(neuron.text(answer).split())


def test_neurons_alone_are_compared_with_the_bytes_that_they_move() -> None:
    pytest.importorskip("numba")
    rows = {(row["workload"], row["candidate"]): row for row in layers()["layers"]}
    alone = "SNU (numba), no product"
    assert rows[str(TINY), alone]["bytes_ratio"] > 0
    assert rows[str(TINY), "SNU (numba)"]["bytes_ratio"] is None
    assert (str(DEEP), alone) not in rows


NEURONS: dict[str, Callable[[Workload], object]] = {
    name: make for name, make in candidates.candidates().items() if "compile" not in name
}


@pytest.mark.parametrize("name", NEURONS)
def test_everybody_who_is_installed_runs(name: str) -> None:
    try:
        call = NEURONS[name](TINY)
    except ImportError as error:
        pytest.skip(str(error))
    assert callable(call)
    call()


@pytest.mark.parametrize("layer", [leaky, snu_sequence], ids=["Leaky", "SNUSequence"])
def test_the_others_neuron_is_the_snu(layer: Callable[[int], torch.nn.Module]) -> None:
    pytest.importorskip("snntorch")
    x = torch.randn(30, 2, 5, generator=torch.Generator().manual_seed(0)) + 0.5
    expected = snu_scan(x, impl="reference")[0]
    assert expected.any()
    assert torch.equal(layer(5)(x), expected)


def test_who_is_not_asked_for_is_not_timed() -> None:
    assert set(candidates.candidates(["lstm"])) == {"product alone", "three copies", "nn.LSTM"}
    with pytest.raises(LookupError, match="no candidate 'brian'; the candidates: product alone"):
        candidates.candidates(["brian"])


def test_who_is_not_installed_is_named() -> None:
    def missing(work: Workload) -> Callable[[], object]:
        raise ModuleNotFoundError("No module named 'brian'", name="brian")

    absent: dict[str, str] = {}
    assert candidates.ready(TINY, {"brian": missing}, absent) == {}
    assert absent == {"brian": "brian is not installed"}


def test_an_error_of_a_host_is_told_and_one_of_ours_is_raised() -> None:
    def broken(work: Workload) -> Callable[[], object]:
        raise TypeError("another\nversion")

    absent: dict[str, str] = {}
    assert candidates.ready(TINY, {"sinabs LIF": broken}, absent) == {}
    assert absent == {"sinabs LIF": "TypeError: another version"}
    with pytest.raises(TypeError, match="another"):
        candidates.ready(TINY, {"SNU (numba)": broken}, {})


def test_the_number_of_threads_is_left_as_it_was() -> None:
    before = torch.get_num_threads()
    layers()
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threads": 0}, "threads is 0"),
        ({"seconds": -1.0}, "seconds is -1.0"),
        ({"parts": ("speed",)}, "part 'speed' is unknown; the parts: layers, spikes, growth"),
        ({"device": "abacus"}, "device is 'abacus'; it must be cpu"),
    ],
)
def test_bad_settings_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        neuron.run(**arguments)  # type: ignore[arg-type]


def test_growth_leaves_out_who_has_become_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "SIZES", {"steps": (1, 2), "depth": (1, 2)})
    monkeypatch.setattr(growth, "FAR", {"steps": (4,)})
    monkeypatch.setattr(growth, "LONGEST_S", 0.0)
    makers = candidates.candidates(["SNU (numba)", "lstm"])
    makers = {name: make for name, make in makers.items() if not name.startswith("sSNU")}
    rows = growth.run(makers, 1e-3, {})
    assert {row["size"] for row in rows} == {1}
    assert not any(candidates.ALONE in row["candidate"] for row in rows if row["axis"] == "depth")


def test_gathering_is_the_product() -> None:
    x = (torch.rand(9, 3, 20, generator=torch.Generator().manual_seed(0)) < 0.2).float()
    layer = spikes.Gather(20, 4)
    torch.testing.assert_close(layer(x), x @ layer.columns)


def test_every_share_of_spikes_is_timed_beside_the_product() -> None:
    rows = spikes.run([TINY, DEEP], [1], 1e-3)
    found = {
        (row["workload"], row["layer"], row["share"], row["candidate"]): row["ratio"]
        for row in rows
    }
    places = *((str(TINY), layer) for layer in spikes.LAYERS), (str(DEEP), "network")
    for (work, layer), share in itertools.product(places, spikes.SHARES):
        assert found[work, layer, share, "product alone"] == 1
        assert found[work, layer, share, "SNU, sp.Linear"] > 0
    assert (str(TINY), "first layer", 0.1, "gather") in found
    assert (str(TINY), "inner layer", 0.1, "gather") not in found
    told = spikes.text(rows)
    assert "4 x 2, 5 -> 3, inner layer, 1 thread" in told
    assert "| 50%" in told
    assert "neurons that fire |" in told


def test_a_network_of_either_layer_fires_alike() -> None:
    nets = spikes._network(Workload(20, 8, (784, 256, 10)))
    x = (torch.rand(20, 8, 784, generator=torch.Generator().manual_seed(0)) < 0.1).float()
    shares = spikes._firing(nets["SNU"], x)
    assert shares == spikes._firing(nets["SNU, sp.Linear"], x)
    assert all(0.02 < share < 0.4 for share in shares)


def test_only_our_neurons_alone_run_the_largest_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    monkeypatch.setattr(growth, "SIZES", {"batch": (1, 2)})
    monkeypatch.setattr(growth, "FAR", {"batch": (4,)})
    rows = growth.run(candidates.candidates(["SNU (numba)"]), 1e-3, {})
    assert {row["candidate"] for row in rows if row["size"] == 4} == {"SNU (numba), no product"}
    assert "Milliseconds by batch (50 steps, 128 neurons):" in growth.text(rows)


def test_the_power_is_that_between_the_largest_sizes() -> None:
    rows = [
        {"axis": "steps", "size": size, "candidate": "a", "median": seconds}
        for size, seconds in ((1, 5.0), (10, 1.0), (100, 100.0))
    ]
    assert growth.exponent(rows, "steps", "a") == pytest.approx(2)
    assert math.isnan(growth.exponent(rows, "batch", "a"))


@pytest.mark.slow
def test_a_process_of_its_own_tells_the_first_result_and_the_peak() -> None:
    work = Workload(50, 64, (8, 256))
    answer = isolated.run(["SNU (reference)", "three copies", "nobody"], work, 1)
    ran, failed = answer["rows"]
    assert ran["candidate"] == "SNU (reference)"
    assert ran["first_s"] > 0
    assert ran["peak_tensors"] is None or 2 < ran["peak_tensors"] < 30
    assert "KeyError" in failed["error"]
    assert "KeyError" in isolated.text(answer)


def test_the_command_leaves_its_results_in_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(growth, "SIZES", {"steps": (1, 2)})
    monkeypatch.setattr(growth, "FAR", {})
    arguments = ["bench", "neuron", "--seconds", "0.001", "--threads", "1", "--only", "lstm"]
    out = tmp_path / "new"
    assert cli.main([*arguments, "--parts", "growth", "--out", str(out)]) == 0
    assert "nn.LSTM" in capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == ["growth.png", "neuron.json", "neuron.md"]
    assert cli.main([*arguments, "--parts", "all"]) == 2
    assert "part 'all' is unknown" in capsys.readouterr().err
    graph = tmp_path / "graph.nir"
    graph.touch()
    assert cli.main(["bench", "chip", str(graph)]) == 2
    assert "that is for snu bench simulators" in capsys.readouterr().err
