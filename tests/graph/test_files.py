"""NIR files, whatever wrote them."""

from __future__ import annotations

import itertools
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import nir
import numpy as np
import pytest
from numpy.typing import NDArray

from snu_plugin.graph import check, declared, discretise, read, stamp, write
from snu_plugin.graph.hdf5 import LAST, MOST_OBJECTS, NAMES

Array = NDArray[Any]


def port(kind: str, *shape: int) -> nir.NIRNode:
    key = kind.lower()
    node: nir.NIRNode = getattr(nir, kind)(**{f"{key}_type": {key: np.array(shape)}})
    return node


def graph(**changes: nir.NIRNode) -> nir.NIRGraph:
    nodes = {
        "input": port("Input", 3),
        "fc": nir.Affine(np.arange(6.0).reshape(2, 3), np.array([0.5, -0.5])),
        "lif": nir.LIF(*(np.full(2, v) for v in (0.25, 4.0, 0.0, 1.0, 0.0))),
        "output": port("Output", 2),
    }
    edges = [("input", "fc"), ("fc", "lif"), ("lif", "output")]
    return nir.NIRGraph({**nodes, **changes}, edges, {}, type_check=False)


def convolutional(input_shape: Any = None) -> nir.NIRGraph:
    random = np.random.default_rng(0)
    nodes = {
        "input": port("Input", 2, 10, 10),
        "conv": nir.Conv2d(None, random.random((4, 2, 3, 5)), 1, 0, 1, 1, np.zeros(4)),
        "pool": nir.SumPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])),
        "flat": nir.Flatten({"input": None}, 0, -1),
        "fc": nir.Linear(random.random((5, 4 * 4 * 3))),
        "output": port("Output", 5),
    }
    nodes["conv"].input_shape = input_shape
    names = list(nodes)
    edges = list(itertools.pairwise(names))
    return nir.NIRGraph(nodes, edges, {}, type_check=False)


def nested() -> nir.NIRGraph:
    inner = nir.NIRGraph(
        {
            "input": port("Input", 2),
            "lif": graph().nodes["lif"],
            "rec": nir.Linear(np.eye(2)),
            "output": port("Output", 2),
        },
        [("input", "lif"), ("lif", "rec"), ("rec", "lif"), ("lif", "output")],
        {},
        type_check=False,
    )
    return graph(lif=inner)


def save(path: Path, spoil: Callable[[h5py.File], None], what: nir.NIRGraph | None = None) -> Path:
    """Write a graph, then change the file."""
    write(path, what or graph())
    with h5py.File(path, "r+") as file:
        spoil(file)
    return path


def put(place: str, value: Any) -> Callable[[h5py.File], None]:
    def spoil(file: h5py.File) -> None:
        if place in file:
            del file[place]
        if value is not None:
            file[place] = value

    return spoil


def same(a: nir.NIRNode, b: nir.NIRNode) -> bool:
    if isinstance(a, nir.NIRGraph):
        return (
            sorted(a.edges) == sorted(b.edges)
            and a.nodes.keys() == b.nodes.keys()
            and all(same(a.nodes[name], b.nodes[name]) for name in a.nodes)
        )
    one, two = a.to_dict(), b.to_dict()
    return one.keys() == two.keys() and all(np.array_equal(one[k], two[k]) for k in one)


@pytest.mark.parametrize("make", [graph, nested, convolutional])
def test_what_is_written_is_what_is_read(tmp_path: Path, make: Callable[[], nir.NIRGraph]) -> None:
    write(tmp_path / "once.nir", make())
    once = read(tmp_path / "once.nir")
    write(tmp_path / "twice.nir", once)
    assert same(once, read(tmp_path / "twice.nir"))
    assert declared(once) == {}
    for name, node in make().nodes.items():
        for field in ("weight", "bias", "tau", "r"):
            if hasattr(node, field):
                np.testing.assert_array_equal(
                    getattr(once.nodes[name], field), getattr(node, field)
                )


def test_what_is_written_is_standard_nir(tmp_path: Path) -> None:
    write(tmp_path / "graph.nir", nested())
    assert nir.read(tmp_path / "graph.nir").nodes.keys() == nested().nodes.keys()


def test_writing_changes_nothing(tmp_path: Path) -> None:
    given = convolutional()
    before = [(name, id(node), dict(node.output_type)) for name, node in given.nodes.items()]
    write(tmp_path / "graph.nir", given)
    assert [(n, id(node), dict(node.output_type)) for n, node in given.nodes.items()] == before
    assert given.metadata == {}


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4", ">f8"])
def test_float_types_survive(tmp_path: Path, dtype: str) -> None:
    weight = np.array([[1 / 3, -2.5, 1e-3]] * 2).astype(dtype)
    write(tmp_path / "graph.nir", graph(fc=nir.Affine(weight, np.zeros(2, dtype))))
    back = read(tmp_path / "graph.nir").nodes["fc"].weight
    np.testing.assert_array_equal(back, weight)
    assert back.dtype == np.dtype(dtype).newbyteorder("=")


def test_whole_numbers_become_float64(tmp_path: Path) -> None:
    lif = nir.LIF(*(np.full(2, v) for v in (2, 4, 0, 1, 0)))
    nir.write(tmp_path / "graph.nir", graph(lif=lif))
    assert read(tmp_path / "graph.nir").nodes["lif"].tau.dtype == np.float64


def test_single_numbers_take_the_shape_of_the_layer(tmp_path: Path) -> None:
    def spoil(file: h5py.File) -> None:
        for field, value in (("tau", 0.5), ("r", 2.0), ("v_leak", 0.0), ("v_threshold", 1.0)):
            put(f"node/nodes/lif/{field}", value)(file)
        del file["node/nodes/lif/v_reset"]

    lif = read(save(tmp_path / "graph.nir", spoil)).nodes["lif"]
    np.testing.assert_array_equal(lif.tau, [0.5, 0.5])
    np.testing.assert_array_equal(lif.v_reset, [0, 0])


def test_scalars_are_written_out_in_full(tmp_path: Path) -> None:
    lif = nir.LIF(*(np.array(v) for v in (0.5, 2.0, 0.0, 1.0, 0.0)))
    write(tmp_path / "graph.nir", graph(lif=lif))
    assert nir.read(tmp_path / "graph.nir").nodes["lif"].tau.shape == (2,)


def test_shapes_are_found_behind_kernels_that_are_not_square(tmp_path: Path) -> None:
    write(tmp_path / "graph.nir", convolutional())
    back = read(tmp_path / "graph.nir")
    assert tuple(back.nodes["conv"].output_type["output"]) == (4, 8, 6)
    assert back.nodes["conv"].input_shape == (10, 10)
    assert tuple(back.nodes["flat"].output_type["output"]) == (48,)


def test_missing_shapes_of_ports_are_found(tmp_path: Path) -> None:
    def spoil(file: h5py.File) -> None:
        del file["node/nodes/input/shape"]
        del file["node/nodes/output/shape"]

    back = read(save(tmp_path / "graph.nir", spoil))
    assert tuple(back.nodes["input"].input_type["input"]) == (3,)
    assert tuple(back.nodes["output"].input_type["input"]) == (2,)


def test_a_leading_batch_is_left_out_and_said(tmp_path: Path) -> None:
    lif = nir.LIF(*(np.full((1, 2), v) for v in (0.25, 4.0, 0.0, 1.0, 0.0)))
    nir.write(
        tmp_path / "graph.nir",
        graph(input=port("Input", 1, 3), lif=lif, output=port("Output", 1, 2)),
    )
    back = read(tmp_path / "graph.nir")
    assert declared(back)["repaired"] == [
        "the shapes of the graph carry a batch of 1; it was left out"
    ]
    assert back.nodes["lif"].tau.shape == (2,)


def test_repairs_are_not_written_back(tmp_path: Path) -> None:
    nir.write(tmp_path / "graph.nir", graph(output=port("Output", 7)))
    back = read(tmp_path / "graph.nir")
    assert "repaired" in declared(back)
    write(tmp_path / "again.nir", stamp(back, 0.125))
    assert "repaired" not in declared(read(tmp_path / "again.nir"))


def test_a_name_that_only_one_node_can_mean_is_repaired_and_said(tmp_path: Path) -> None:
    broken = nested()
    sub = broken.nodes["lif"]
    sub.edges = [("input", "x"), ("x", "rec"), ("rec", "x"), ("x", "output")]
    nir.write(tmp_path / "graph.nir", broken)
    back = read(tmp_path / "graph.nir")
    assert "read as 'lif', the only node it can mean" in declared(back)["repaired"][0]
    assert sorted(back.nodes["lif"].edges) == sorted(nested().nodes["lif"].edges)


def test_subgraphs_whose_types_disagree_are_read(tmp_path: Path) -> None:
    broken = nested()
    broken.nodes["lif"].nodes["input"] = port("Input", 5)
    nir.write(tmp_path / "graph.nir", broken)
    for flag in (True, False):
        with pytest.raises(ValueError, match="mismatch"):
            nir.read(tmp_path / "graph.nir", type_check=flag)
    assert discretise(read(tmp_path / "graph.nir"), dt=0.0625).shapes["lif.lif"] == (2,)


def test_metadata_of_other_tools_survives(tmp_path: Path) -> None:
    given = graph()
    given.metadata["tool"] = "theirs"
    given.nodes["fc"].metadata["layer"] = "first"
    write(tmp_path / "graph.nir", given)
    back = read(tmp_path / "graph.nir")
    assert back.metadata == {"tool": "theirs"}
    assert back.nodes["fc"].metadata == {"layer": "first"}


# ---- what is refused: one line that names the place ----

NOT_NIR: dict[str, tuple[bytes, str]] = {
    "text": (b"hello\n" * 100, "is not an HDF5 file"),
    "empty": (b"", "is not an HDF5 file"),
    "zip": (b"PK\x03\x04" + b"\0" * 600, "is not an HDF5 file"),
}


@pytest.mark.parametrize("kind", NOT_NIR)
def test_other_files_are_refused(tmp_path: Path, kind: str) -> None:
    data, message = NOT_NIR[kind]
    (tmp_path / "file.nir").write_bytes(data)
    with pytest.raises(ValueError, match=message) as caught:
        read(tmp_path / "file.nir")
    assert "\n" not in str(caught.value)
    assert "file.nir" in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.nir is not a file; give the path"):
        read(tmp_path / "none.nir")
    with pytest.raises(FileNotFoundError, match="is not a file"):
        read(tmp_path)


def test_wherever_the_writing_of_a_file_broke_off_it_is_said(tmp_path: Path) -> None:
    write(tmp_path / "whole.nir", graph())
    with h5py.File(tmp_path / "whole.nir") as whole:
        nodes = [f"node/{p}" for p in _datasets(whole["node"]) if p.startswith("nodes/")]
        written = ["version", *nodes, "node/edges", "node/type"]  # nir.write's order
        for count in range(len(written)):
            with h5py.File(tmp_path / "part.nir", "w") as part:
                for place in written[:count]:
                    folder, _, name = place.rpartition("/")
                    whole.copy(whole[place], part.require_group(folder or "/"), name=name)
            with pytest.raises(ValueError, match=r"part\.nir: .*(broke off|incomplete)"):
                read(tmp_path / "part.nir")
    (tmp_path / "part.nir").write_bytes((tmp_path / "whole.nir").read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"part\.nir: .*broken off"):
        read(tmp_path / "part.nir")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_a_truncated_file_is_refused(tmp_path: Path, share: float) -> None:
    write(tmp_path / "whole.nir", graph())
    data = (tmp_path / "whole.nir").read_bytes()
    (tmp_path / "part.nir").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ValueError, match=r"part\.nir.*(truncated|damaged)"):
        read(tmp_path / "part.nir")


SPOILT: dict[str, tuple[Callable[[h5py.File], None], str]] = {
    "no root": (put("node", None), "/node is missing"),
    "root is data": (put("node", 1.0), "/node is no group"),
    "no type": (put("node/nodes/fc/type", None), "node 'fc' has no type"),
    "odd root": (put("node/type", "LIF"), "its root has type 'LIF'"),
    "unknown type": (put("node/nodes/fc/type", "Spline"), "node 'fc' has type 'Spline', which has"),
    "no nodes": (put("node/nodes", None), "lacks the field 'nodes'"),
    "no edges": (put("node/edges", None), "lacks the field 'edges'"),
    "odd edges": (put("node/edges", np.ones((2, 2))), "must be pairs of names"),
    "no weight": (put("node/nodes/fc/weight", None), r"'fc' \(Affine\) lacks the field 'weight'"),
    "extra field": (
        put("node/nodes/fc/gain", 1.0),
        r"'fc' \(Affine\) has the unknown field 'gain'",
    ),
    "text weight": (put("node/nodes/fc/weight", "x"), "'fc': weight is 'x'; it must be an array"),
    "flat weight": (put("node/nodes/fc/weight", np.ones(3)), r"weight has shape \(3,\)"),
    "nan weight": (
        put("node/nodes/fc/weight", np.full((2, 3), np.nan)),
        "'fc': 6 of 6 values of weight are NaN or infinite",
    ),
    "inf threshold": (
        put("node/nodes/lif/v_threshold", np.array([1, np.inf])),
        "'lif': 1 of 2 values of v_threshold",
    ),
    "odd bias": (
        put("node/nodes/fc/bias", np.ones(5)),
        r"bias has shape \(5,\); it must be \(2,\)",
    ),
    "mixed shapes": (put("node/nodes/lif/r", 1.0), r"'lif' \(LIF\): its fields have different"),
    "contradiction": (
        put("node/nodes/fc/weight", np.ones((2, 4))),
        r"node 'input' \(Input\) gives \(3,\), but node 'fc' \(Affine\) takes \(4,\)",
    ),
    "missing target": (
        put("node/edges", np.array([[b"input", b"fc"], [b"fc", b"nowhere"], [b"x", b"lif"]])),
        "target 'nowhere' does not exist",
    ),
    "huge shape": (put("node/nodes/input/shape", np.array([10**9, 10**9])), "input.*shape"),
    "negative shape": (put("node/nodes/input/shape", np.array([-3])), "sizes must be positive"),
    "odd shape": (put("node/nodes/input/shape", "three"), "shape is 'three'"),
    "spoilt metadata": (put("node/metadata/snu", "{"), "metadata 'snu' is '{'"),
}


@pytest.mark.parametrize("kind", SPOILT)
def test_spoilt_files_are_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    spoil, message = SPOILT[kind]
    path = save(tmp_path / "file.nir", spoil)
    with pytest.raises(ValueError, match=message) as caught:
        discretise(read(path), dt=0.0625)
    assert "\n" not in str(caught.value)


CONVOLUTION: dict[str, tuple[str, Any, str]] = {
    "stride": ("stride", 0, r"stride is \(0,\); every number must lie in \[1"),
    "padding": ("padding", "around", "padding is 'around'"),
    "padding 2": ("padding", 10**8, "padding is"),
    "groups": ("groups", 3, "groups is 3; it must divide 4"),
    "kernel": ("weight", np.ones((4, 2, 11, 3)), "its kernel is larger than its input"),
    "channels": ("weight", np.ones((4, 3, 3, 3)), r"gives \(2, 10, 10\)|given \(2, 10, 10\)"),
    "dims": ("weight", np.ones((4, 2, 3)), "at least 4 dimensions"),
    "whole": ("dilation", 1.5, r"dilation is 1\.5; it must be whole numbers"),
}


@pytest.mark.parametrize("kind", CONVOLUTION)
def test_spoilt_convolutions_are_refused(tmp_path: Path, kind: str) -> None:
    field, value, message = CONVOLUTION[kind]
    path = save(tmp_path / "file.nir", put(f"node/nodes/conv/{field}", value), convolutional())
    with h5py.File(path, "r+") as file:
        del file["node/nodes/conv/input_shape"]
    with pytest.raises(ValueError, match=message):
        read(path)


def hostile_external(file: h5py.File) -> None:
    del file["node/nodes/fc"]
    file["node/nodes/fc"] = h5py.ExternalLink("/etc/other.h5", "/node")


def hostile_soft(file: h5py.File) -> None:
    del file["node/nodes/fc"]
    file["node/nodes/fc"] = h5py.SoftLink("/node/nodes/lif")


def hostile_cycle(file: h5py.File) -> None:
    file["node/nodes/again"] = file["node"]


def hostile_size(file: h5py.File) -> None:
    del file["node/nodes/fc/weight"]
    file.create_dataset("node/nodes/fc/weight", shape=(2**20, 2**20), dtype="f8", chunks=(16, 16))


def hostile_zeros(file: h5py.File) -> None:
    del file["node/nodes/fc/weight"]
    file.create_dataset("node/nodes/fc/weight", shape=(2**13, 2**13), dtype="f8")


def hostile_external_data(file: h5py.File) -> None:
    del file["node/nodes/fc/bias"]
    file.create_dataset("node/nodes/fc/bias", (2,), "f8", external=[("secret.bin", 0, 16)])


def hostile_compound(file: h5py.File) -> None:
    del file["node/nodes/fc/bias"]
    file["node/nodes/fc/bias"] = np.zeros(2, [("a", "f8"), ("b", "i4")])


def hostile_many(file: h5py.File) -> None:
    group = file["node/nodes"]
    node = group["fc"]
    for i in range(MOST_OBJECTS + 1):
        group.id.links.create_hard(f"n{i}".encode(), node.id, b".")


def hostile_depth(file: h5py.File) -> None:
    group = file["node/nodes/fc"]
    for _ in range(200):
        group = group.create_group("deeper")


def hostile_null(file: h5py.File) -> None:
    del file["node/nodes/fc/bias"]
    file["node/nodes/fc/bias"] = h5py.Empty("f8")


HOSTILE = {
    "external link": (hostile_external, "/node/nodes/fc is a link to another place"),
    "soft link": (hostile_soft, "/node/nodes/fc is a link to another place"),
    "cycle": (hostile_cycle, "/node/nodes/again is reached twice"),
    "declared size": (hostile_size, "weight declares far more values than a file of"),
    "unwritten size": (hostile_zeros, "weight declares far more values than a file of"),
    "external data": (hostile_external_data, "bias keeps its values in another file"),
    "compound": (hostile_compound, "bias has type .*; it must be numbers or text"),
    "many nodes": (hostile_many, "of more than 100000 objects|is reached twice"),
    "depth": (hostile_depth, "lies more than 64 groups deep"),
    "null": (hostile_null, "bias is empty"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_cost_little_and_end_in_one_line(tmp_path: Path, kind: str) -> None:
    spoil, message = HOSTILE[kind]
    path = save(tmp_path / "file.nir", spoil)
    start = time.perf_counter()
    with pytest.raises(ValueError, match=message) as caught:
        read(path)
    assert time.perf_counter() - start < 10
    assert "\n" not in str(caught.value)


def test_a_file_whose_writing_broke_off_says_so(tmp_path: Path) -> None:
    """``nir.write`` writes nodes, edges and type in this order, each node field by field."""
    tree = graph().to_dict()
    fields = [
        (f"node/nodes/{name}/{key}", value)
        for name, node in tree["nodes"].items()
        for key, value in node.items()
        if key != "metadata"
    ]
    fields += [("node/edges", tree["edges"]), ("node/type", tree["type"])]
    path = tmp_path / "x.nir"
    for count in range(len(fields)):
        with h5py.File(path, "w") as file:
            file["version"] = "1.0"
            for place, value in fields[:count]:
                file[place] = value
        with pytest.raises(ValueError, match="broke off; write it again"):
            read(path)


def test_names_whose_free_blocks_run_in_a_circle_never_reach_hdf5(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.nir"
    write(path, graph())
    data = bytearray(path.read_bytes())
    changed = 0
    for heap in NAMES.finditer(bytes(data)):
        _, free, begin = struct.unpack_from("<QQQ", data, heap.end())
        if free != LAST:
            struct.pack_into("<Q", data, begin + free, free)
            changed += 1
    assert changed
    path.write_bytes(data)
    monkeypatch.setattr(h5py, "File", None)
    with pytest.raises(ValueError, match=r"x\.nir: .* a heap of names run in a circle") as error:
        read(path)
    assert "\n" not in str(error.value)


def heaps(data: bytes) -> list[int]:
    starts = [data.find(b"GCOL")]
    while starts[-1] >= 0:
        starts.append(data.find(b"GCOL", starts[-1] + 1))
    return starts[:-1]


def test_a_heap_whose_objects_have_no_size_does_not_hang(tmp_path: Path) -> None:
    write(tmp_path / "file.nir", graph())
    data = bytearray((tmp_path / "file.nir").read_bytes())
    for start in heaps(bytes(data)):
        place, end = start + 16, start + int.from_bytes(data[start + 8 : start + 16], "little")
        while place < end:
            number = int.from_bytes(data[place : place + 2], "little")
            size = int.from_bytes(data[place + 8 : place + 16], "little")
            if number == 0:
                data[place + 8 : place + 16] = bytes(8)
                break
            place += 16 + (size + 7) // 8 * 8
    (tmp_path / "file.nir").write_bytes(data)
    assert same(read(tmp_path / "file.nir"), read(tmp_path / "file.nir"))


def test_texts_longer_than_their_heap_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "file.nir", graph())
    data = (tmp_path / "file.nir").read_bytes()
    for start in heaps(data):
        address = start.to_bytes(8, "little")
        place = data.find(address)
        while place >= 4:
            data = data[: place - 4] + b"\xff\xff\xff\x7f" + data[place:]
            place = data.find(address, place + 1)
    (tmp_path / "file.nir").write_bytes(data)
    with pytest.raises(ValueError, match="the file is damaged"):
        read(tmp_path / "file.nir")


def test_texts_of_fixed_length_are_read(tmp_path: Path) -> None:
    def spoil(file: h5py.File) -> None:
        edges = [[b"input", b"fc"], [b"fc", b"lif"], [b"lif", b"output"]]
        put("node/edges", np.array(edges, dtype="S6"))(file)
        put("node/nodes/fc/type", np.bytes_(b"Affine"))(file)

    assert same(
        read(save(tmp_path / "file.nir", spoil)), read(save(tmp_path / "a.nir", put("x", 1)))
    )


def test_single_numbers_for_huge_layers_are_refused(tmp_path: Path) -> None:
    lif = nir.LIF(*(np.array(v) for v in (0.5, 2.0, 0.0, 1.0, 0.0)))
    nodes = {"input": port("Input", 2**23), "lif": lif, "output": nir.Output({"output": None})}
    edges = [("input", "lif"), ("lif", "output")]
    with pytest.raises(ValueError, match="node 'lif': single numbers for layers like"):
        write(tmp_path / "x.nir", nir.NIRGraph(nodes, edges, {}, type_check=False))


def refusal(path: Path) -> str:
    try:
        read(path)
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.slow
def test_thousands_of_damaged_files_end_in_one_line(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    path = tmp_path / "file.nir"
    corpus = []
    for make in (graph, nested, convolutional):
        write(path, make())
        corpus.append(np.frombuffer(path.read_bytes(), np.uint8))
    read_well = 0
    for _ in range(2000):
        data = corpus[random.integers(3)].copy()
        places = random.integers(0, len(data), random.choice([1, 2, 4, 16, 64]))
        data[places] = random.integers(0, 256, len(places))
        path.write_bytes(data.tobytes())
        message = refusal(path)
        read_well += not message
        assert "\n" not in message
    assert 200 < read_well < 1800


def test_a_name_that_is_no_utf_8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "named.nir"
    write(path, graph())
    with h5py.File(path, "a") as file:
        nodes = file["node/nodes"].id
        nodes.links.move(b"output", nodes, b"output\xfb")
    with pytest.raises(ValueError, match="has a name that is no UTF-8: it is damaged") as told:
        read(path)
    assert str(told.value).count("\n") == 0


def test_long_texts_shared_by_many_edges_are_refused(tmp_path: Path) -> None:
    def spoil(file: h5py.File) -> None:
        del file["node/edges"]
        long = "x" * 500_000
        file["node/edges"] = np.array([[long, long]] * 400, dtype=object)

    path = save(tmp_path / "file.nir", spoil)
    with pytest.raises(ValueError, match=r"declares far more|does not exist"):
        read(path)


# ---- writing ----


def test_a_graph_that_cannot_be_read_back_is_not_written(tmp_path: Path) -> None:
    bad = graph(fc=nir.Affine(np.full((2, 3), np.nan), np.zeros(2)))
    with pytest.raises(ValueError, match="'fc': 6 of 6 values of weight"):
        write(tmp_path / "graph.nir", bad)
    assert os.listdir(tmp_path) == []


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "graph.nir", graph())
    before = (tmp_path / "graph.nir").read_bytes()

    def full(path: Path, *_: Any) -> None:
        path.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(nir, "write", full)
    with pytest.raises(OSError, match="no space left"):
        write(tmp_path / "graph.nir", nested())
    assert (tmp_path / "graph.nir").read_bytes() == before
    assert os.listdir(tmp_path) == ["graph.nir"]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder; create it first"):
        write(tmp_path / "nowhere" / "graph.nir", graph())


def test_what_is_no_graph_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"graph is a Linear; it must be a nir\.NIRGraph"):
        write(tmp_path / "graph.nir", nir.Linear(np.eye(2)))


def test_a_file_without_v_reset_is_read_as_reset_to_0_and_says_so(tmp_path: Path) -> None:
    lif = nir.LIF(*(np.full(2, v) for v in (4.0, 4.0, 0.0, 1.0, 0.0)))
    inner = nir.NIRGraph.from_list(nir.LI(*(np.full(2, v) for v in (4.0, 4.0, 0.0))), lif)
    write(tmp_path / "new.nir", nir.NIRGraph.from_list(inner, nir.Linear(np.eye(2)), lif))
    with h5py.File(tmp_path / "new.nir", "a") as file:
        paths = [p for p in _datasets(file) if p.endswith("v_reset")]
        assert len(paths) == 2
        for path in paths:
            del file[path]
    graph = read(tmp_path / "new.nir")
    old = declared(graph)["no_v_reset"]
    assert sorted(old) == ["lif", "nirgraph.lif"]
    reasons = {v.name: v.reason for v in check(graph)}
    assert all(reasons[name].endswith("the file has no v_reset, read as 0") for name in old)
    assert {v.verdict for v in check(graph)} == {"exact"}
    assert "gives no v_reset for 'lif', 'nirgraph.lif': read as 0" in discretise(graph).notes[0]


def _datasets(file: h5py.File) -> list[str]:
    found: list[str] = []
    file.visititems(lambda name, item: found.append(name) if hasattr(item, "shape") else None)
    return found
