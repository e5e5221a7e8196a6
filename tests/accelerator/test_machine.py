"""The chip as its host meets it: programmed, aged, run, read, pulsed, saved."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from snu_plugin import files, graph
from snu_plugin.accelerator import IDEAL, PCM, PCM_PULSED, Accelerator, Chip
from snu_plugin.compiler import compile
from snu_plugin.graph import encode_snu, stamp
from snu_plugin.neuron import SNUConfig

DT = 2.0**-10


def small(
    inputs: int = 12,
    hidden: int = 9,
    outputs: int = 5,
    *,
    seed: int = 0,
    recurrent: bool = False,
    soft: bool = False,
) -> nir.NIRGraph:
    """A network with random weights, thresholds and biases."""
    draw = np.random.default_rng(seed)
    unit = encode_snu(
        SNUConfig(soft=soft), draw.uniform(0.3, 0.9, hidden), draw.uniform(0.5, 1.2, hidden), dt=DT
    )
    nodes = {
        "in": nir.Input({"input": np.array([inputs])}),
        "fc1": nir.Linear(draw.normal(0, 0.6, (hidden, inputs))),
        "snu": unit,
        "fc2": nir.Affine(draw.normal(0, 0.6, (outputs, hidden)), draw.normal(0, 0.3, outputs)),
        "out": nir.Output({"output": np.array([outputs])}),
    }
    edges = [("in", "fc1"), ("fc1", "snu"), ("snu", "fc2"), ("fc2", "out")]
    if recurrent:
        nodes["rec"] = nir.Linear(draw.normal(0, 0.5, (hidden, hidden)))
        edges += [("snu", "rec"), ("rec", "snu")]
    return stamp(nir.NIRGraph(nodes, edges), DT)


def chip_of(g: nir.NIRGraph, chip: Chip, seed: int = 0) -> Accelerator:
    made = Accelerator(compile(g, chip), seed)
    made.program()
    return made


def spikes(*shape: int, seed: int = 0, rate: float = 0.3) -> Tensor:
    return (torch.rand(shape, generator=Generator().manual_seed(seed)) < rate).float()


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("soft", [False, True])
def test_an_ideal_chip_equals_the_strict_reference(recurrent: bool, soft: bool) -> None:
    g = small(recurrent=recurrent, soft=soft)
    x = spikes(25, 7, 12)
    out, _ = chip_of(g, IDEAL).run(x)
    expected, _ = graph.network(g)(x)
    assert torch.equal(out, expected.detach())


@pytest.mark.parametrize("scaling", ["layer", "tile", "column"])
def test_an_ideal_chip_of_small_tiles_differs_by_rounding_only(scaling: str) -> None:
    g = small(inputs=50, soft=True)
    chip = replace(IDEAL, tile_rows=7, tile_columns=4, tiles=100)
    made = Accelerator(compile(g, chip, scaling))  # type: ignore[arg-type]
    made.program()
    x = spikes(10, 3, 50)
    torch.testing.assert_close(made.run(x)[0], graph.network(g)(x)[0].detach(), atol=1e-5, rtol=0)


def test_the_same_seed_gives_the_same_chip_and_another_seed_another() -> None:
    x = spikes(20, 4, 12)
    runs = [chip_of(small(), PCM, seed).run(x)[0] for seed in (1, 1, 2)]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


@pytest.mark.parametrize("field", ["programming_noise", "drift", "read_noise", "output_noise"])
def test_switching_one_effect_off_leaves_the_draws_of_the_others(field: str) -> None:
    full = chip_of(small(), PCM, 5)
    off: dict[str, Any] = {field: None}
    less = chip_of(small(), replace(PCM, **off), 5)
    other = {"programming_noise": "nu", "drift": "g_us", "read_noise": "nu", "output_noise": "g_us"}
    for name in ("fc1", "fc2"):
        kept = other[field]
        assert torch.equal(
            getattr(full.state.cells[name], kept), getattr(less.state.cells[name], kept)
        )
    x = spikes(20, 4, 12)
    full.wait(1e5)
    less.wait(1e5)
    assert not torch.equal(full.run(x)[0], less.run(x)[0])


def test_read_noise_on_outputs_has_the_variance_of_noisy_devices() -> None:
    chip = replace(PCM_PULSED, adc_bits=None, output_noise=None)
    made = chip_of(small(), chip)
    x = spikes(1, 1, 12, rate=0.6)
    batch = x.expand(1, 20_000, 12)
    _, trace = made.run(batch, record=True)
    readings = torch.stack([made.read_weights()["fc1"] for _ in range(4000)])
    from_devices = readings.double() @ x[0, 0].double()
    seen = trace.products["fc1"][0].double()
    torch.testing.assert_close(seen.std(0), from_devices.std(0), rtol=0.06, atol=0)


def test_slow_read_noise_stays_for_a_run_and_changes_with_the_next() -> None:
    chip = replace(PCM, adc_bits=None, output_noise=None, programming_noise=None)
    made = chip_of(small(), chip)
    made.wait(1e6)
    x = torch.ones(1, 3000, 12)
    means = torch.stack(
        [made.run(x, record=True)[1].products["fc1"].double().mean((0, 1)) for _ in range(50)]
    )
    _, trace = made.run(x, record=True)
    within = trace.products["fc1"][0].double().std(0) / 3000**0.5
    assert (means.std(0) > 5 * within).all()


def test_drift_lowers_the_weights_and_calibration_brings_them_back() -> None:
    g = small(inputs=60, hidden=40, outputs=20)
    made = chip_of(g, PCM)
    target = torch.from_numpy(g.nodes["fc1"].weight).float()

    def scale() -> float:
        seen = torch.stack([made.read_weights()["fc1"] for _ in range(8)]).mean(0)
        return float((seen * target).sum() / target.square().sum())

    fresh = scale()
    made.wait(86_400.0)
    aged = scale()
    made.calibrate()
    assert fresh == pytest.approx(1, abs=0.03)
    assert aged < 0.75
    assert scale() == pytest.approx(1, abs=0.03)


def test_conductances_fall_with_time_on_average() -> None:
    made = chip_of(small(60, 60, 60), PCM)
    levels = []
    for seconds in (0, 3600, 86_400, 3e7):
        made.wait(seconds)
        levels.append(float(made.read_conductances()["fc1"].mean()))
    assert levels == sorted(levels, reverse=True)


def test_nothing_ages_unless_the_clock_moved() -> None:
    made = chip_of(small(), replace(PCM, read_noise=None))
    before = made.state.cells["fc1"]
    assert made.age_s == 20.0
    made.read_weights()
    assert made.age_s > 20.0
    assert made.state.cells["fc1"] is before


def test_every_operation_takes_time() -> None:
    made = chip_of(small(), PCM)
    operations = (
        lambda: made.run(spikes(5, 2, 12)),
        made.read_weights,
        lambda: made.pulse({"fc1": torch.ones(9, 12, dtype=torch.int32)}),
        lambda: made.reset({"fc1": torch.ones(9, 12, dtype=torch.bool)}),
        made.calibrate,
        lambda: made.wait(1.0),
    )
    for operation in operations:
        clock = made.clock_s
        operation()
        assert made.clock_s > clock


def test_pulses_of_either_sign_move_the_weight_their_way() -> None:
    made = chip_of(small(), replace(IDEAL, pulse_step_us=0.5))
    counts = torch.zeros(9, 12, dtype=torch.int32)
    counts[0, 0], counts[1, 1] = 2, -3
    before = made.read_weights()["fc1"]
    made.pulse({"fc1": counts})
    moved = made.read_weights()["fc1"] - before
    per_us = made.layout.products["fc1"].weight_per_us
    room = counts != 0
    expected = (counts * 0.5 * per_us).float()
    saturated = made.state.cells["fc1"].g_us.amax(0) >= 25.0
    torch.testing.assert_close(moved[room & ~saturated], expected[room & ~saturated])
    assert not bool(moved[~room].any())
    assert made.pulses == 5


def test_a_saved_chip_goes_on_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    made = chip_of(small(recurrent=True), PCM, 3)
    made.wait(5000)
    made.calibrate()
    made.pulse({"fc1": torch.ones(9, 12, dtype=torch.int32)})
    made.save(tmp_path / "chip.npz")
    again = Accelerator.load(tmp_path / "chip.npz")
    x = spikes(10, 4, 12)
    for chip in (made, again):
        chip.wait(100)
        chip.pulse({"rec": torch.ones(9, 9, dtype=torch.int32)})
        chip.calibrate()
    assert torch.equal(made.run(x)[0], again.run(x)[0])
    assert torch.equal(made.read_weights()["fc2"], again.read_weights()["fc2"])
    assert made.clock_s == again.clock_s
    assert made.pulses == again.pulses
    assert list(tmp_path.iterdir()) == [tmp_path / "chip.npz"]


@pytest.mark.parametrize("damage", ["cut", "text", "other"])
def test_a_damaged_chip_file_is_one_clear_line(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "chip.npz"
    chip_of(small(), PCM).save(path)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:3000])
    elif damage == "text":
        path.write_text("not a chip")
    else:
        np.savez(path, header=np.array("{}"))
    with pytest.raises(ValueError, match=r"not a chip that Accelerator\.save wrote") as error:
        Accelerator.load(path)
    assert "\n" not in str(error.value)


def test_a_chip_file_with_a_flipped_bit_or_another_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "chip.npz"
    chip_of(small(), PCM, 1).save(path)
    other = path.read_bytes()
    chip_of(small(), PCM).save(path)
    whole = path.read_bytes()
    damaged = [whole + b"\0", whole + other, whole[:-1], whole[: -files.DIGEST_SIZE]]
    damaged += [whole[:middle] + other[middle:] for middle in (5000, len(whole) - 70)]
    for bit in range(0, 8 * len(whole), 797):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        damaged.append(bytes(changed))
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"not a chip that Accelerator\.save wrote") as error:
            Accelerator.load(path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("version", "lacks"), [(3, "no digest"), (4, "no read noise that goes on")]
)
def test_a_chip_file_of_an_older_version_is_read_with_a_warning(
    tmp_path: Path, version: int, lacks: str
) -> None:
    made = chip_of(small(), PCM)
    made.save(tmp_path / "chip.npz")
    with np.load(tmp_path / "chip.npz") as archive:
        arrays = {name: a for name, a in archive.items() if "deviate" not in name}
    header = json.loads(str(arrays["header"])) | {"version": version}
    for later in ("slow_clocks_s", "flicker_bits"):
        del header["chips"][0][later]
    with (tmp_path / "old.npz").open("wb") as file:
        np.savez(file, **arrays | {"header": np.array(json.dumps(header))})
    if version == 4:
        files.add_digest(tmp_path / "old.npz")
    with pytest.warns(UserWarning, match=rf"old\.npz is of an older version and carries {lacks}"):
        old = Accelerator.load(tmp_path / "old.npz")
    x = spikes(10, 4, 12)
    assert torch.equal(old.run(x)[0], made.run(x)[0])


def test_a_chip_file_of_a_version_to_come_is_refused_by_its_number(tmp_path: Path) -> None:
    chip_of(small(), PCM).save(tmp_path / "chip.npz")
    with np.load(tmp_path / "chip.npz") as archive:
        arrays = dict(archive)
    header = json.loads(str(arrays["header"])) | {"version": 99}
    np.savez(tmp_path / "new.npz", **arrays | {"header": np.array(json.dumps(header))})
    with pytest.raises(ValueError, match="version 99, this release reads 3 to 8"):
        Accelerator.load(tmp_path / "new.npz")


@pytest.mark.parametrize(
    ("place", "value", "complaint"),
    [
        ("cells/fc1/g_us", np.nan, "cells/fc1/g_us holds values that are not finite"),
        ("clock_s", -1.0, "clock_s is -1.0; it must be a number of at least 0"),
        ("clock_s", float("nan"), "clock_s is nan"),
        ("pulses", -3, "pulses is -3"),
    ],
)
def test_a_chip_file_with_values_that_make_no_sense_is_refused(
    tmp_path: Path, place: str, value: float, complaint: str
) -> None:
    path = tmp_path / "chip.npz"
    chip_of(small(), PCM).save(path)
    with np.load(path) as archive:
        arrays = dict(archive)
    header = json.loads(str(arrays["header"]))
    if place in header["chips"][0]:
        header["chips"][0][place] = value
        arrays["header"] = np.array(json.dumps(header))
    else:
        arrays[f"0/{place}"].flat[0] = value
    np.savez(path, **arrays)
    files.add_digest(path)
    with pytest.raises(ValueError, match=complaint):
        Accelerator.load(path)


def test_a_missing_chip_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file"):
        Accelerator.load(tmp_path / "none.npz")


def test_the_graph_of_an_ideal_chip_is_the_graph_it_was_given(tmp_path: Path) -> None:
    g = small(recurrent=True)
    back = chip_of(g, IDEAL).to_nir()
    graph.write(tmp_path / "back.nir", back)
    x = spikes(20, 4, 12)
    expected, _ = graph.network(g)(x)
    found, _ = graph.network(graph.read(tmp_path / "back.nir"))(x)
    assert torch.equal(found, expected)


def test_the_graph_of_a_real_chip_holds_what_was_read_back() -> None:
    g = small()
    made = chip_of(g, PCM)
    made.set_registers({"snu.threshold": torch.full((9,), 0.7), "fc2.bias": torch.ones(5)})
    back = made.to_nir(reads=64)
    seen = torch.stack([made.read_weights()["fc1"] for _ in range(64)]).mean(0)
    # 1/f noise averaged over one time and over as long a time right after differs by a variance of
    # 4 ln 2 in units of (G Q)², besides 1/64 of what is new at every reading.
    sigma = 0.0088 * np.abs(g.nodes["fc1"].weight).max() * (4 * np.log(2) + 2 * 4.83 / 64) ** 0.5
    torch.testing.assert_close(
        torch.from_numpy(back.nodes["fc1"].weight).float(), seen, atol=4 * sigma, rtol=0
    )
    assert np.allclose(back.nodes["snu"].v_threshold, np.float32(0.7))
    assert np.array_equal(back.nodes["fc2"].bias, np.ones(5))


def test_a_chip_without_weights_says_so() -> None:
    made = Accelerator(compile(small(), PCM))
    for operation in (made.read_weights, made.calibrate, lambda: made.run(spikes(2, 1, 12))):
        with pytest.raises(RuntimeError, match=r"call program\(\) first"):
            operation()


@pytest.mark.parametrize("shape", [(5, 2, 11), (5, 12), (0, 2, 12), (5, 0, 12)])
def test_inputs_of_a_wrong_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"it must be \(T, B, 12\)"):
        chip_of(small(), IDEAL).run(torch.zeros(shape))


def test_unknown_names_and_shapes_are_refused_with_what_there_is() -> None:
    made = chip_of(small(), IDEAL)
    with pytest.raises(ValueError, match=r"no crossbar fc3 .*fc1 \(9, 12\)"):
        made.pulse({"fc3": torch.ones(9, 12)})
    with pytest.raises(ValueError, match=r"no register fc1.gain of shape \(3,\)"):
        made.set_registers({"fc1.gain": torch.ones(3)})
    with pytest.raises(ValueError, match="not finite"):
        made.set_registers({"fc1.gain": torch.full((9,), torch.nan)})
    with pytest.raises(ValueError, match="it must be a number of at least 0"):
        made.wait(-1)


def test_silent_steps_and_zero_weights_give_finite_values() -> None:
    g = small()
    g.nodes["fc1"].weight[:] = 0
    made = chip_of(g, PCM)
    made.calibrate()
    out, trace = made.run(torch.zeros(5, 2, 12))
    assert bool(out.isfinite().all())
    assert bool(made.registers["fc1.gain"].eq(1).all())
    assert trace.counts["fc1"].active_rows == 0


@pytest.mark.filterwarnings("ignore:more than 1%")
def test_saturated_conversions_are_counted() -> None:
    made = chip_of(small(), replace(PCM, adc_bound=0.05))
    _, trace = made.run(torch.ones(5, 2, 12))
    assert trace.saturated > 0.3


def test_energy_of_a_dense_product_is_the_anchor() -> None:
    draw = np.random.default_rng(0)
    nodes = {
        "in": nir.Input({"input": np.array([256])}),
        "fc": nir.Linear(draw.normal(size=(256, 256))),
        "out": nir.Output({"output": np.array([256])}),
    }
    made = chip_of(nir.NIRGraph(nodes, [("in", "fc"), ("fc", "out")]), PCM)
    _, trace = made.run(torch.full((3, 2, 256), 0.5))
    assert trace.cost.total_nj == pytest.approx(12.5, rel=0.01)
    assert trace.cost.dense_nj == pytest.approx(12.5)
    _, silent = made.run(torch.zeros(3, 2, 256))
    assert silent.cost.array_nj == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("adc_bits", 1),
        ("g_max_us", -1.0),
        ("device", "hermes9"),
        ("tile_rows", 0),
        ("read_noise", -0.1),
        ("g_max_us", float("nan")),
    ],
)
def test_a_chip_with_an_impossible_setting_names_the_field(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{field} is"):
        replace(PCM, **{field: value})


def test_a_fit_is_not_stretched_beyond_what_was_measured() -> None:
    with pytest.raises(ValueError, match=r"measured up to 20\.7"):
        Chip(device="hermes2", g_max_us=25.0)
