"""Work spread over processes, or over a Dask cluster by the address of its scheduler."""

import json
import signal
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
from joblib import delayed
from joblib.externals.loky import get_reusable_executor

from snu_plugin import cli, graph
from snu_plugin.accelerator import PCM, Accelerator
from snu_plugin.experiments import ageing, compare, data_files, life, lives
from snu_plugin.experiments.runs import Running
from snu_plugin.graph import encode_snu, stamp
from snu_plugin.neuron import SNUConfig
from snu_plugin.origin import how_to_install


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A graph whose first matrix has outliers, and data for it."""
    draw = np.random.default_rng(0)
    first = draw.uniform(-0.5, 0.8, (10, 8))
    first[::5, 0] = 9.0
    nodes = {
        "in": nir.Input({"input": np.array([8])}),
        "fc1": nir.Linear(first),
        "snu": encode_snu(SNUConfig(), 0.5, np.full(10, 0.6), dt=2.0**-10),
        "fc2": nir.Linear(draw.uniform(-0.5, 0.5, (3, 10))),
        "out": nir.Output({"output": np.array([3])}),
    }
    graph.write(tmp_path / "g.nir", stamp(nir.NIRGraph(nodes, list(pairwise(nodes))), 2.0**-10))
    arrays: dict[str, Any] = {}
    for part, count in (("train_", 24), ("valid_", 12), ("", 16)):
        labels = draw.integers(0, 3, count)
        rate = np.where(np.arange(8) % 3 == labels[:, None], 0.6, 0.2)
        arrays |= {f"{part}x": draw.random((5, count, 8)) < rate, f"{part}labels": labels}
    np.savez(tmp_path / "d.npz", **arrays)
    return {"graph": tmp_path / "g.nir", "data": tmp_path / "d.npz"}


@pytest.fixture(autouse=True)
def processes_of_its_own() -> None:
    """End the processes that joblib keeps from tests before: they began as those had it."""
    get_reusable_executor().shutdown(wait=True, kill_workers=True)


@pytest.mark.skipif(sys.platform == "win32", reason="processes cannot be kept from signals there")
def test_ctrl_c_reaches_the_first_process_alone() -> None:
    """All processes of a terminal get it; one that only begins would answer in a traceback."""
    calls = [delayed(signal.pthread_sigmask)(signal.SIG_BLOCK, ()) for _ in range(2)]
    assert all(signal.SIGINT in kept for kept in Running(jobs=2).spread(calls))
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    """The address of a cluster of two workers, each a process."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None
    ) as cluster:
        yield cluster.scheduler_address


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_two_workers_of_a_cluster_give_what_one_process_gives(
    files: dict[str, Path], scheduler: str, tmp_path: Path
) -> None:
    g = graph.read(files["graph"])

    def scored(**how: Any) -> Any:
        return ageing.run(
            g, lambda *shapes: data_files.load_scored(files["data"], *shapes), PCM,
            ageing.RunSettings(at={"1d": 86_400.0}, chips=3, reads=1), running=Running(**how),
        )[1]  # fmt: skip

    def table(out: str, **how: Any) -> Any:
        settings = compare.CompareSettings(chips=2, passes=1, ways=("digital",))
        return compare.compare(
            g, lambda *shapes: data_files.load_tuning(files["data"], *shapes), PCM, settings,
            tmp_path / out, Running(**how),
        )["values"]  # fmt: skip

    def lived(out: str, **how: Any) -> Any:
        settings = lives.LifeSettings(seconds=2e7, do=("none", "calibrate"), chips=2, reads=1)
        return life.life(
            g, lambda *shapes: data_files.load_scored(files["data"], *shapes), PCM, settings,
            tmp_path / out, sample=lambda: data_files.load_sample(files["data"]),
            running=Running(**how),
        )["visits"]  # fmt: skip

    assert scored(scheduler=scheduler) == scored()
    assert table("a.json", scheduler=scheduler) == table("b.json")
    assert lived("a", scheduler=scheduler) == lived("b")


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("tcp://10.0.0.1:8786", "not encrypted, and its workers unpickle .* give tls://HOST:PORT"),
        ("inproc://127.0.0.1/1", "give the address of a Dask scheduler, such as tcp://127.0.0.1"),
        ("127.0.0.1:8786", "give the address of a Dask scheduler"),
        ("tcp://127.0.0.1", "give the address of a Dask scheduler"),
        ("tcp://127.0.0.1:port", "give the address of a Dask scheduler"),
    ],
)
def test_an_address_that_is_none_or_that_others_could_listen_to_is_refused(
    address: str, says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        Running(scheduler=address)


def test_without_dask_a_scheduler_is_refused_in_a_line_that_says_what_to_install(
    files: dict[str, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    typed = ["run", str(files["graph"]), str(files["data"]), "--chips", "1"]
    assert cli.main([*typed, "--scheduler", "tcp://127.0.0.1:8786"]) == 2
    error = capsys.readouterr().err
    assert how_to_install("dask") in error
    assert len(error.strip().splitlines()) == 1


@pytest.mark.parametrize("command", ["tune", "tune --compare --ways digital --chips 1", "life"])
def test_outliers_may_stay_in_digital_wherever_a_chip_is_tuned_or_looked_after(
    files: dict[str, Path], tmp_path: Path, command: str
) -> None:
    out = tmp_path / "out"
    typed = command.split()
    own = (
        ["--for", "60d", "--do", "none", "--chips", "1", "--reads", "1"]
        if command == "life"
        else ["--epochs", "1"]
    )
    typed[1:1] = [str(files["graph"]), str(files["data"])]
    assert cli.main([*typed, *own, "--outliers", "0.03", "--out", str(out)]) == 0
    name = {"tune": "tuning.json", "life": "life.json"}.get(command, "compare.json")
    record = json.loads((out / name).read_text())
    assert record["outliers"] == 0.03
    if command == "tune":
        (op, _) = Accelerator.load(out / "chip.npz").layout.products.values()
        assert op.outliers is not None
        assert set(op.outliers.flatten().tolist()) == {0.0, 9.0}
