"""Sequences in NIR's own data format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import nir
import numpy as np
import pytest
import torch

from snu_plugin.graph import from_data, read_data, to_data

DT = 2.0**-10
GRID = np.zeros((3, 7, 4))
SPIKES = (torch.rand(7, 3, 4, generator=torch.Generator().manual_seed(0)) < 0.4).float()


def events(dt: float = DT, **more: Any) -> nir.NIRGraphData:
    """SPIKES as events: some in the middle of a step, padded with -1."""
    grid = SPIKES.numpy().swapaxes(0, 1)
    count = int(grid.sum((1, 2)).max())
    idx, time = np.full((3, count), -1), np.full((3, count), np.inf)
    for b, sample in enumerate(grid):
        at, who = np.nonzero(sample)
        idx[b, : len(at)], time[b, : len(at)] = who, (at + 0.5 * (who % 2)) * dt
    kind = nir.ValuedEventData if "value" in more else nir.EventData
    data = kind(idx=idx, time=time, n_neurons=4, t_max=7 * dt, **more)
    return nir.NIRGraphData({"input": nir.NIRNodeData({"spikes": data})})


def node(**observables: Any) -> nir.NIRGraphData:
    return nir.NIRGraphData({"n": nir.NIRNodeData(observables)})


def grids(data: Any = GRID, **steps: float) -> nir.NIRGraphData:
    """Data on a grid, of one node or of several with a time step each."""
    return nir.NIRGraphData(
        {
            name: nir.NIRNodeData({"input": nir.TimeGriddedData(data, dt)})
            for name, dt in (steps or {"input": DT}).items()
        }
    )


def named(*names: str) -> nir.NIRGraphData:
    return node(**dict.fromkeys(names, nir.TimeGriddedData(GRID, DT)))


@pytest.mark.parametrize(
    "x",
    [SPIKES, SPIKES - 0.5, SPIKES.double() / 3, SPIKES.bool(), SPIKES.int() * 2, SPIKES.numpy()],
    ids=["spikes", "real", "double", "bool", "whole", "numpy"],
)
def test_sequences_come_back_from_nirs_own_file(tmp_path: Path, x: Any) -> None:
    nir.write_data(tmp_path / "x.nir", to_data(x, DT))
    for data in (nir.read_data(tmp_path / "x.nir"), read_data(tmp_path / "x.nir")):
        back, dt = from_data(data)
        assert dt == DT
        assert torch.equal(back, torch.as_tensor(x).to(back.dtype))
    assert to_data(SPIKES, DT).nodes["input"].observables["input"].data.dtype == bool


def test_layers_of_several_axes_and_several_inputs_come_back(tmp_path: Path) -> None:
    x = {"a": torch.arange(48.0).reshape(3, 2, 2, 4), "b": SPIKES[:3, :2]}
    nir.write_data(tmp_path / "x.nir", to_data(x, 0.1))
    back, dt = from_data(read_data(tmp_path / "x.nir"), shapes={"a": (2, 4)})
    assert dt == 0.1
    assert back.keys() == {"a", "b"}
    assert all(torch.equal(back[name], x[name]) for name in x)
    assert from_data(to_data({"a": x["a"]}, 0.1)).x.shape == (3, 2, 8)


@pytest.mark.parametrize("dt", [DT, 0.1, 0.003])
def test_events_fall_into_the_steps_they_belong_to(tmp_path: Path, dt: float) -> None:
    nir.write_data(tmp_path / "x.nir", events(dt))
    assert torch.equal(from_data(read_data(tmp_path / "x.nir"), dt).x, SPIKES)
    assert torch.equal(from_data(events(dt), dt).x, SPIKES)


def test_events_carry_their_values() -> None:
    shape = events().nodes["input"].observables["spikes"].idx.shape
    data = events(value=np.full(shape, 2.5))
    assert torch.equal(from_data(data, DT).x, 2.5 * SPIKES.double())


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: to_data(SPIKES[0], DT), r"it must be finite numbers \(T, B, neurons\)"),
        (lambda: to_data(SPIKES / 0, DT), "must be finite numbers"),
        (lambda: to_data(SPIKES, 0), "dt is 0"),
        (lambda: to_data({}, DT), "x is an empty dict"),
        (lambda: from_data(nir.NIRGraphData({})), "the data hold no node"),
        (lambda: from_data(to_data(SPIKES, DT), 0.5), "time step 0.000976562 s and dt is 0.5 s"),
        (lambda: from_data(events()), "the data are events, which belong to no step; give dt"),
        (lambda: from_data(events(), 3 * DT), "two events of one neuron .* give a smaller dt"),
        (lambda: from_data(events(), 1e-12), "at most 268435456 values"),
        (lambda: from_data(to_data(SPIKES, DT), shapes={"input": (3,)}), "have 4 neurons; the"),
        (lambda: from_data(grids(a=DT, b=2 * DT)), "they must have one"),
        (lambda: from_data(grids(np.full((1, 2, 3), np.nan))), "they must be finite numbers"),
        (lambda: from_data(named("voltage", "current")), "hold 'voltage', 'current'; one must be"),
        (lambda: from_data(node(input=3.0)), "are float; give steps or events"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(call: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        call()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda: to_data(dict[str, Any]({"in": [1.0]}), DT),
            "x of 'in' is list; it must be a tensor or array",
        ),
        (lambda: from_data(SPIKES), "data is Tensor; it must be a nir.NIRGraphData"),
    ],
)
def test_what_is_no_sequence_is_refused_by_its_type(call: Any, said: str) -> None:
    with pytest.raises(TypeError, match=said):
        call()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"idx": np.array([[9]])}, "idx of 'input' must be whole numbers from 0 to 3"),
        ({"idx": np.array([[-2]])}, "idx of 'input' must be whole numbers from 0 to 3"),
        ({"time": np.array([[-1.0]])}, "lies outside of 0 to t_max"),
        ({"time": np.array([[np.nan]])}, "lies outside of 0 to t_max"),
        ({"time": np.array([[1e9]])}, "lies outside of 0 to t_max"),
        ({"t_max": np.inf}, "t_max inf"),
        ({"n_neurons": -1}, "-1 neurons"),
    ],
)
def test_events_that_cannot_be_are_refused(change: dict[str, Any], said: str) -> None:
    fields = {"idx": np.array([[0]]), "time": np.array([[0.0]]), "n_neurons": 4, "t_max": 1.0}
    one = nir.EventData(**(fields | change))
    with pytest.raises(ValueError, match=said):
        from_data(nir.NIRGraphData({"input": nir.NIRNodeData({"spikes": one})}), 0.5)


def broken_off(file: h5py.File) -> None:
    del file["nodes/input/observables/input/data"]


def half_a_tree(file: h5py.File) -> None:
    del file["nodes/input/observables"]


def nothing(file: h5py.File) -> None:
    del file["nodes"]


def without_dt(file: h5py.File) -> None:
    del file["nodes/input/observables/input"].attrs["dt"]


def flattened(file: h5py.File) -> None:
    del file["nodes/input/observables/input/data"]
    file["nodes/input/observables/input/data"] = np.zeros((3, 28))


def elsewhere(file: h5py.File) -> None:
    del file["nodes/input/observables/input/data"]
    file["nodes/input/observables/input/data"] = h5py.ExternalLink("/etc/passwd", "/")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (broken_off, "incomplete, as where the writing of a file broke off"),
        (half_a_tree, "whose writing broke off; give a file from nir.write_data"),
        (nothing, "/nodes is missing"),
        (without_dt, "it must have data and dt"),
        (flattened, r"have the shape \(3, 28\); it must be \(samples, steps, neurons\)"),
        (elsewhere, "is a link to another place"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, damage: Any, said: str) -> None:
    path = tmp_path / "x.nir"
    nir.write_data(path, to_data(SPIKES, DT))
    with h5py.File(path, "a") as file:
        damage(file)
    with pytest.raises(ValueError, match=said) as error:
        read_data(path)
    assert str(error.value).startswith(str(path))


def test_data_in_groups_of_groups_have_dotted_names() -> None:
    inner = to_data({"a": SPIKES, "b": SPIKES}, DT)
    assert from_data(nir.NIRGraphData({"sub": inner})).x.keys() == {"sub.a", "sub.b"}
