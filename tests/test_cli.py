"""The command as a user types it."""

import errno
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import h5py
import nir
import numpy as np
import pytest

from same_process import simulators_forked, simulators_here
from snu_plugin import cli, graph
from snu_plugin.bench import chip as chip_timings
from snu_plugin.commands import COMMANDS, parser
from snu_plugin.commands.shared import followed
from snu_plugin.experiments import data_files
from snu_plugin.graph import encode_snu, stamp
from snu_plugin.neuron import SNUConfig
from snu_plugin.usage import Parser

DT = 2.0**-10


def write_graph(path: Path, *, units: int = 6, config: SNUConfig | None = None) -> Path:
    draw = np.random.default_rng(0)
    nodes = {
        "in": nir.Input({"input": np.array([4])}),
        "fc": nir.Linear(draw.normal(size=(units, 4))),
        "snu": encode_snu(config or SNUConfig(), 0.8, np.ones(units), dt=DT),
        "out": nir.Output({"output": np.array([units])}),
    }
    edges = [("in", "fc"), ("fc", "snu"), ("snu", "out")]
    graph.write(path, stamp(nir.NIRGraph(nodes, edges), DT))
    return path


def missing(path: Path) -> None:
    path.unlink()


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:2000])


def text(path: Path) -> None:
    path.write_text("this is no graph")


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def nan_weights(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["node/nodes/fc/weight"][0, 0] = np.nan


def wrong_shapes(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["node/nodes/fc/weight"]
        file["node/nodes/fc"]["weight"] = np.ones((6, 5))


def decay_of_one_point_two(path: Path) -> None:
    write_graph(path, config=SNUConfig(g="relu"))
    with h5py.File(path, "r+") as file:
        file["node/nodes/snu/decay"][...] = 1.2


def negative_time_constant(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["node/nodes/snu/tau"][...] = -0.1


@pytest.mark.parametrize("command", ["verify", "map"])
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (missing, "graph.nir"),
        (truncated, "truncated"),
        (text, "not an HDF5 file"),
        (a_folder, "graph.nir"),
        (nan_weights, "'fc': 1 of 24 values of weight are NaN"),
        (wrong_shapes, "fc"),
        (decay_of_one_point_two, "decay is 1.2"),
        (negative_time_constant, "tau"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_bad_graphs_are_one_clear_line_and_exit_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, damage: object, said: str
) -> None:
    path = write_graph(tmp_path / "graph.nir")
    damage(path)  # type: ignore[operator]
    assert cli.main([command, str(path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"snu {command}: ")
    assert said in err
    assert err.count("\n") == 1


def test_a_wrong_checksum_stops_the_demo_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "JSB_Chorales.mat"
    data.write_bytes(b"MATLAB 5.0 MAT-file" + bytes(500))
    out = tmp_path / "out"
    assert cli.main(["demo", "--data", str(data), "--out", str(out)]) == 2
    err = capsys.readouterr().err
    assert "JSB_Chorales.mat" in err
    assert "sha256" in err
    assert err.count("\n") == 1
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["demo", "--data", "nowhere.mat"], "nowhere.mat"),
        (["demo", "--epochs", "0"], "epochs is 0"),
    ],
)
def test_bad_arguments_are_one_clear_line_and_exit_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert cli.main([*arguments, "--out", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_an_unknown_simulator_or_chip_lists_those_that_exist(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(write_graph(tmp_path / "graph.nir"))
    assert cli.main(["verify", path, "--simulators", "brian"]) == 2
    assert "norse" in capsys.readouterr().err
    assert cli.main(["map", path, "--chip", "HERMES9"]) == 2
    assert "PCM_PULSED" in capsys.readouterr().err


def test_map_says_what_fits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(write_graph(tmp_path / "graph.nir"))
    assert cli.main(["map", path]) == 0
    assert "fits PCM: 48 devices on 1 of 64 tiles" in capsys.readouterr().out
    assert cli.main(["map", path, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["devices"] == 48


def test_map_says_everything_that_does_not_fit_and_exits_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "graph.nir"
    nodes = {
        "in": nir.Input({"input": np.array([1, 8, 8])}),
        "pool": nir.SumPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])),
        "scale": nir.Scale(np.full((1, 4, 4), 1e300)),
        "out": nir.Output({"output": np.array([1, 4, 4])}),
    }
    edges = [("in", "pool"), ("pool", "scale"), ("scale", "out")]
    graph.write(path, nir.NIRGraph(nodes, edges))
    assert cli.main(["map", str(path)]) == 1
    out = capsys.readouterr().out
    assert "scale: 16 of 16 values of scale are beyond" in out
    assert "nothing to put on devices" in out


def test_verify_says_exact_and_exits_0(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    simulators_forked(monkeypatch)
    path = str(write_graph(tmp_path / "graph.nir"))
    assert cli.main(["verify", path, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["exact"]
    ours = {r["simulator"]: r["status"] for r in report["runs"] if r["importer"] == "plugin"}
    assert ours == {"norse": "exact", "snntorch": "exact"}
    norse = next(r for r in report["runs"] if (r["simulator"], r["importer"]) == ("norse", "stock"))
    assert norse["status"] == "approximate"
    assert norse["differing"] > 0.05


def test_verify_takes_the_users_own_inputs_and_exits_1_where_nothing_fires(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    simulators_here(monkeypatch)
    path, data = str(write_graph(tmp_path / "graph.nir")), tmp_path / "data.npz"
    command = ["verify", path, str(data), "--simulators", "snntorch"]
    np.savez(data, x=np.ones((7, 2, 4)))
    assert cli.main([*command, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["steps"], report["batch"], report["inputs"]) == (7, 2, "as given")
    assert report["fired"]["snu"] > 0
    np.savez(data, x=np.zeros((7, 2, 4)))
    assert cli.main(command) == 1
    assert "not exact: nothing fired, so that silence was compared" in capsys.readouterr().out


def test_verify_takes_an_npz_with_what_each_of_several_inputs_receives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    simulators_here(monkeypatch)
    nodes = {
        **{name: nir.Input({"input": np.array([6])}) for name in ("left", "right")},
        "snu": encode_snu(SNUConfig(), 0.8, np.ones(6), dt=DT),
        "out": nir.Output({"output": np.array([6])}),
    }
    edges = [("left", "snu"), ("right", "snu"), ("snu", "out")]
    graph.write(tmp_path / "two.nir", stamp(nir.NIRGraph(nodes, edges), DT))
    data = tmp_path / "data.npz"
    command = ["verify", str(tmp_path / "two.nir"), str(data), "--simulators", "snntorch", "--json"]
    np.savez(data, left=np.ones((7, 2, 6)), right=np.full((7, 2, 6), 0.5))
    assert cli.main(command) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["steps"], report["batch"], report["inputs"]) == (7, 2, "as given")
    np.savez(data, left=np.ones((7, 2, 6)))
    assert cli.main(command) == 2
    assert "must be named right" in capsys.readouterr().err


def test_verify_takes_data_in_nirs_own_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    simulators_here(monkeypatch)
    path, data = str(write_graph(tmp_path / "graph.nir")), tmp_path / "data.nir"
    command = ["verify", path, str(data), "--simulators", "snntorch", "--json"]
    nir.write_data(data, graph.to_data({"in": np.ones((7, 2, 4)), "snu": np.ones((7, 2, 6))}, DT))
    assert cli.main(command) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["steps"], report["batch"], report["inputs"]) == (7, 2, "as given")
    for given, said in (
        (graph.to_data(np.ones((7, 2, 4)), 0.5), "the data have the time step 0.5 s and dt is"),
        (graph.to_data(np.ones((7, 2, 5)), DT), "the data of 'input' have 5 neurons"),
        (graph.to_data({"a": np.ones((7, 2, 4)), "b": np.ones((7, 2, 4))}, DT), "called 'in'"),
    ):
        capsys.readouterr()
        nir.write_data(data, given)
        assert cli.main(command) == 2
        assert said in capsys.readouterr().err


@pytest.mark.parametrize("command", ["verify", "map", "run", "tune"])
def test_a_feedback_that_does_not_exist_is_refused_wherever_it_can_be_chosen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    path = str(write_graph(tmp_path / "graph.nir"))
    data = ["d.npz"] if command in ("run", "tune") else []
    assert cli.main([command, path, *data, "--feedback=now"]) == 2
    assert "silent" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ([], "snu: COMMAND is missing; snu --help says more"),
        (["tun"], "snu: COMMAND is 'tun'; give one of demo, verify,"),
        (
            ["tune"],
            "snu tune: GRAPH and DATA are missing; example: snu tune net.nir data.npz --at 30d",
        ),
        (["map", "g.nir", "--ship", "P"], "snu map: '--ship' is not known here; the nearest is"),
        (["run", "g.nir", "d.npz", "--chip"], "snu run: --chip: expected one argument"),
        (["run", "g.nir", "d.npz", "--chips=few"], "--chips is 'few'; give a whole number"),
        (["info", "PCM"], "snu info: 'PCM' is not known here; snu info --help says more"),
        (["info", "g.nir"], "snu info: 'g.nir' is not known here; snu doctor and snu verify look"),
        (["map", "nowhere.nir"], "snu map: nowhere.nir is not a file; give the path of a .nir"),
    ],
)
def test_what_is_typed_wrongly_is_one_line_with_what_may_be_meant(
    capsys: pytest.CaptureFixture[str], typed: list[str], said: str
) -> None:
    assert cli.main(typed) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("typed", [["verify", "nowhere.nir"], ["verify"], ["tun"], []])
def test_with_json_errors_are_json_too(
    capsys: pytest.CaptureFixture[str], typed: list[str]
) -> None:
    assert cli.main([*typed, "--json"]) == 2
    out, err = capsys.readouterr()
    error = json.loads(out)["error"]
    assert error["status"] == 2
    assert err == f"{' '.join(['snu', *filter(None, [error['command']])])}: {error['message']}\n"


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"y": np.ones((7, 2, 4))}, "data.npz holds y; inputs (T, N, ...) must be named x"),
        ({"x": np.array(["a"])}, "it must be numbers (T, N, ...)"),
        ({"x": np.ones((7, 2, 5))}, "x has shape (7, 2, 5); it must be (T, B, 4)"),
        ({"x": np.full((7, 2, 4), np.inf)}, "56 of 56 values of x are not finite"),
    ],
)
def test_inputs_that_do_not_fit_are_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arrays: dict[str, np.ndarray], said: str
) -> None:
    path, data = str(write_graph(tmp_path / "graph.nir")), tmp_path / "data.npz"
    np.savez(data, **arrays)  # type: ignore[arg-type]  # its stub wants bools
    assert cli.main(["verify", path, str(data)]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


def test_of_many_sequences_the_first_are_verified_and_that_is_said(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=np.ones((2, 501, 4)))
    with pytest.warns(UserWarning, match="holds 501 sequences; the first 500 are taken"):
        assert data_files.load_inputs(tmp_path / "data.npz").shape == (2, 500, 4)


def test_verify_draws_the_first_divergence_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    simulators_here(monkeypatch)
    path, picture = str(write_graph(tmp_path / "graph.nir")), tmp_path / "first.png"
    assert cli.main(["verify", path, "--simulators", "norse", "--picture", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "norse" in capsys.readouterr().out


def test_info_names_what_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["simulators"] == {"norse": "ready", "snntorch": "ready"}
    assert found["implementations"]["reference"] == "ready"
    assert "PCM" in found["chips"]
    assert cli.main(["info"]) == 0
    assert "torch" in capsys.readouterr().out


def test_info_lists_and_clears_what_is_kept_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    own = tmp_path / "snu-plugin"
    (own / "simulators" / "sinabs" / "lib").mkdir(parents=True)
    (own / "simulators" / "sinabs" / "lib" / "a.py").write_bytes(bytes(2_000_000))
    (own / "chorales-music21-9-recipe1.npz").write_bytes(bytes(100_000))
    (own / "other").write_bytes(b"not ours to clear")
    assert cli.main(["info", "--json"]) == 0
    kept = json.loads(capsys.readouterr().out)["kept"]
    assert kept["chorales"] == f"1 file, 0.1 MB in {own}"
    assert kept["simulators"] == f"1 file, 2.0 MB in {own / 'simulators'}"
    assert cli.main(["info", "--clear", "chorales"]) == 0
    assert "removed of chorales: 1 file, 0.1 MB" in capsys.readouterr().out
    assert cli.main(["info", "--clear", "simulators", "--json"]) == 0
    assert "2.0 MB" in json.loads(capsys.readouterr().out)["removed"]["simulators"]
    assert sorted(path.name for path in own.iterdir()) == ["other", "simulators"]
    assert cli.main(["info", "--clear", "simulators"]) == 0
    assert "removed of simulators: nothing" in capsys.readouterr().out


def test_compiled_loops_are_found_beside_their_sources_or_where_numba_is_told_to_keep_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numba = pytest.importorskip("numba")
    from snu_plugin.neuron.numba_scan import kept_loops

    package = tmp_path / "package"
    (package / "room" / "__pycache__").mkdir(parents=True)
    (package / "room" / "loops.py").write_text("")
    for name in ("loops.f-1.py311.nbi", "loops.f-1.py311.1.nbc", "loops.cpython-311.pyc"):
        (package / "room" / "__pycache__" / name).write_bytes(b"")
    assert [p.suffix for p in kept_loops(package)] == [".nbc", ".nbi"]
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "told"))
    from numba.core.caching import _CacheLocator

    told = (
        tmp_path
        / "told"
        / _CacheLocator.get_suitable_cache_subpath(str(package / "room" / "loops.py"))
    )
    told.mkdir(parents=True)
    (told / "loops.g-2.py311.nbi").write_bytes(b"")
    assert told / "loops.g-2.py311.nbi" in kept_loops(package)


def test_info_explains_every_setting_of_a_chip(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "coarse.toml"
    file.write_text('like = "PCM"\nadc_bits = 5\n')
    assert cli.main(["info", "--chip", str(file), "--json"]) == 0
    rows = {row["field"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["adc_bits"]["value"] == 5
    assert rows["g_max_us"]["unit"] == "µS"
    assert all(row["meaning"] and row["accepted"] for row in rows.values())
    assert cli.main(["info", "--chip", "PCM"]) == 0
    assert "g_max_us = 25.0 µS" in capsys.readouterr().out
    file.write_text("adc_bit = 5\n")
    assert cli.main(["info", "--chip", str(file)]) == 2
    assert "adc_bit" in capsys.readouterr().err


def test_map_takes_a_chip_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(write_graph(tmp_path / "graph.nir"))
    file = tmp_path / "tiny.toml"
    file.write_text("tile_rows = 2\ntile_columns = 2\ntiles = 3\n")
    assert cli.main(["map", path, "--chip", str(file)]) == 1
    said = capsys.readouterr()
    assert "6 tiles of 2 x 2 are needed (fc 6), tiny has 3" in said.out
    assert "tiny.toml starts from nothing, so that these are ideal: device" in said.err
    assert cli.main(["map", path, "--activity", "1", "--json"]) == 0
    dense = json.loads(capsys.readouterr().out)["energy_nj_per_step"]
    assert cli.main(["map", path, "--activity", "0", "--json"]) == 0
    silent = json.loads(capsys.readouterr().out)["energy_nj_per_step"]
    assert dense["array"] > silent["array"] == 0
    assert cli.main(["map", path, "--activity", "2"]) == 2
    assert "activity is 2.0" in capsys.readouterr().err


def test_the_command_runs_as_a_module_and_explains_itself() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "snu_plugin.cli", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    for command in ("demo", "verify", "map", "run", "info"):
        assert command in ran.stdout


def test_help_lists_every_command_once_under_what_it_is_about() -> None:
    text = parser().format_help()
    listed = [line.split()[0] for line in text.splitlines() if re.match(r"  [a-z]", line)]
    assert sorted(listed) == sorted(COMMANDS)
    assert "a network on chips:\n  map " in text
    assert all(len(line) <= 80 for line in text.splitlines())


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_tells_every_argument_once(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        cli.main([name, "--help"])
    told = capsys.readouterr().out.partition("\n\n")[2]  # behind the usage
    options = Parser()
    COMMANDS[name].arguments(options)
    for option in options.options():
        assert len(re.findall(rf"^  (?:-\w, )?{option}\b(?!-)", told, re.MULTILINE)) == 1, option
    assert "example: snu" in told


def test_a_long_help_has_titles_and_a_short_one_has_none(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, titles in (("tune", True), ("zoo", False)):
        with pytest.raises(SystemExit):
            cli.main([name, "--help"])
        assert ("\nthe chips:\n" in capsys.readouterr().out) == titles


def test_bench_shows_every_candidate_beside_the_product(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chip_timings, "SHAPES", ((88, 150),))
    quick = ["bench", "chip", "--seconds", "0.01"]
    assert cli.main([*quick, "--parts", "layers,devices"]) == 0
    out = capsys.readouterr().out
    assert "88x150: folded nn.Linear" in out
    assert "bytes a device" in out
    assert cli.main([*quick, "--parts", "layers", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["layers"]["88x150"]["linear_ms"] > 0


def test_bench_shows_how_a_chip_grows(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chip_timings, "SIZES", (1000, 4000))
    assert cli.main(["bench", "chip", "--parts", "growth", "--json"]) == 0
    small, large = json.loads(capsys.readouterr().out)["growth"]
    assert (small["devices"], large["devices"]) == (1000, 4000)
    # 41 bytes of its own, and 4 for each of its relaxations: 8 at 20 s, 18 at ten years.
    assert small["fresh_bytes"] == large["fresh_bytes"] == 41 + 8 * 4
    assert small["old_bytes"] == 41 + 18 * 4
    assert cli.main(["bench", "chip", "--parts", "growth"]) == 0
    assert "bytes when new" in capsys.readouterr().out
    assert cli.main(["bench", "chip", "--parts", "speed"]) == 2
    assert "the parts: layers, devices, tuning, growth" in capsys.readouterr().err


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Tests that a shell runs in the background ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(
    ("sent", "status", "said"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
def test_a_signal_ends_a_command_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    sent: signal.Signals,
    status: int,
    said: str,
) -> None:
    def work(options: object) -> int:
        signal.raise_signal(sent)
        time.sleep(5)
        pytest.fail("the work went on")

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setitem(COMMANDS, "info", COMMANDS["info"]._replace(run=work))
    assert cli.main(["info"]) == status
    assert capsys.readouterr().err == f"snu info: {said}; what was written so far is whole\n"
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.usefixtures("interruptible")
def test_a_signal_that_compiled_code_made_an_error_of_is_one_line_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Numba's dispatchers raise a SystemError from what a signal raised within them."""

    def work(options: object) -> int:
        with followed(lambda: "all of it is kept"):
            try:
                signal.raise_signal(signal.SIGINT)
            except KeyboardInterrupt as error:
                raise SystemError("returned a result with an exception set") from error
        return 0

    monkeypatch.setitem(COMMANDS, "info", COMMANDS["info"]._replace(run=work))
    assert cli.main(["info"]) == 130
    assert capsys.readouterr().err == "snu info: interrupted; all of it is kept\n"


@pytest.mark.usefixtures("interruptible")
def test_a_signal_while_the_command_line_is_read_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "parser", lambda: signal.raise_signal(signal.SIGINT))
    assert cli.main(["info"]) == 130
    assert capsys.readouterr().err == ("snu info: interrupted; what was written so far is whole\n")
    assert cli.main([]) == 130
    assert capsys.readouterr().err.startswith("snu: interrupted; ")


@pytest.mark.parametrize(("number", "status"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_while_the_command_loads_is_one_line(number: str, status: int) -> None:
    program = (
        "import signal, sys\n"
        "from snu_plugin.__main__ import main\n"
        "class Killer:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name == 'argparse': signal.raise_signal(signal.{number})\n"
        "sys.meta_path.insert(0, Killer())\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # also in the background
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == status
    assert done.stderr.endswith("ed; what was written so far is whole\n")
    assert done.stderr.count("\n") == 1


def test_the_command_takes_its_signals_before_it_loads_anything_large() -> None:
    program = (
        "import sys; before = set(sys.modules); import snu_plugin.__main__; "
        "print(sorted({'typing', 'argparse', 'torch', 'numpy'} & set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "[]\n"


def test_a_signal_before_main_is_called_is_one_line_of_the_command_alone() -> None:
    """A process of its pool imports the script too, with the same ``sys.argv``."""
    program = (
        "import signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "sys.argv, sys.orig_argv = ['/bin/snu', 'info'], {typed}\n"
        "import snu_plugin.__main__\n"
        "try: signal.raise_signal(signal.SIGINT)\n"
        "except KeyboardInterrupt: print('as ever')\n"
    )
    done = [
        subprocess.run(
            [sys.executable, "-c", program.format(typed=typed)], capture_output=True, text=True
        )
        for typed in (["python", "/bin/snu", "info"], ["python", "-c", "--multiprocessing-fork"])
    ]
    assert [one.returncode for one in done] == [130, 0]
    assert done[0].stderr == "snu: interrupted; what was written so far is whole\n"
    assert (done[1].stdout, done[1].stderr) == ("as ever\n", "")


@pytest.mark.parametrize(
    ("said", "typed"),
    [
        ("dt is -1.0; it must be positive", "--dt is -1.0; it must be positive"),
        ("node 'i' (IF) needs a dt; give dt", "node 'i' (IF) needs a dt; give --dt"),
        ("as b: give feedback='silent' or 'biased'", "as b: give --feedback 'silent' or 'biased'"),
        ("give dt (dt=1 adds r)", "give dt (--dt 1 adds r)"),
        ("holds A(dt=3.0); give every name once", "holds A(dt=3.0); give every name once"),
        ("give reading='step' or 'ode'", "give reading='step' or 'ode'"),
    ],
)
def test_what_python_asks_for_is_called_as_the_command_has_it(
    said: str, typed: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(options: object) -> int:
        raise ValueError(said)

    monkeypatch.setitem(COMMANDS, "life", COMMANDS["life"]._replace(run=work))
    assert cli.main(["life", __file__, "d.npz"]) == 2
    assert capsys.readouterr().err == f"snu life: {typed}\n"


def test_a_file_that_may_not_be_read_is_one_line_that_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(options: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied", "net.nir")

    monkeypatch.setitem(COMMANDS, "info", COMMANDS["info"]._replace(run=work))
    assert cli.main(["info"]) == 2
    assert capsys.readouterr().err == (
        "snu info: net.nir: Permission denied; give one that you may read, and write where "
        "something is left\n"
    )


def test_a_folder_that_is_gone_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert cli.main(["map", "net.nir"]) == 2
    assert capsys.readouterr().err == (
        "snu map: the folder that you are in is gone; change to another\n"
    )


def test_with_standard_error_closed_nothing_is_said_elsewhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    assert cli.main(["map", "nowhere.nir"]) == 2
    assert capsys.readouterr().out == ""


def test_a_full_disk_is_one_line_that_says_what_stays(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(options: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", "out/scores.csv")

    monkeypatch.setitem(COMMANDS, "info", COMMANDS["info"]._replace(run=work))
    assert cli.main(["info"]) == 2
    err = capsys.readouterr().err
    assert "no room left on the disk" in err
    assert "scores.csv" in err
    assert "--resume" in err
    assert err.count("\n") == 1


def test_too_little_memory_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(options: object) -> int:
        raise MemoryError

    monkeypatch.setitem(COMMANDS, "info", COMMANDS["info"]._replace(run=work))
    assert cli.main(["info"]) == 2
    assert "snu info: there is not enough memory" in capsys.readouterr().err
