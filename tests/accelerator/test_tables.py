"""Devices of one's own, from tables: as the tables say, or refused in one line."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch

from snu_plugin.accelerator import (
    IDEAL,
    PCM,
    Accelerator,
    Cells,
    Chip,
    DeviceTables,
    describe,
    device_model,
    dump_chip,
    generators,
    load_chip,
)
from snu_plugin.compiler import compile

MINE = DeviceTables(
    name="mine",
    writing=((0, 0.5, 0.1), (10, 9.0, 0.3), (20, 19.0, 0.5)),
    drift=((0, 0.1, 0.01), (20, 0.05, 0.01)),
    drift_from_s=10.0,
    read_noise=((0, 0.1), (20, 0.5)),
    pulses=((0, 2.0, 0.4), (20, 0.0, 0.1)),
    reset_us=0.5,
)
CHIP = Chip(name="own", device=MINE, g_max_us=20.0)
N = 20000


def graph(weight: np.ndarray) -> nir.NIRGraph:
    nodes = {
        "in": nir.Input({"input": np.array([weight.shape[1]])}),
        "fc": nir.Linear(weight),
        "out": nir.Output({"output": np.array([weight.shape[0]])}),
    }
    return nir.NIRGraph(nodes, [("in", "fc"), ("fc", "out")])


def written(chip: Chip, target_us: float) -> Cells:
    target = torch.full((N,), target_us, dtype=torch.float64)
    return device_model(chip).write(target, 0.0, generators(1, "test"))


@pytest.mark.parametrize(
    ("target", "mean", "sd", "nu"), [(5.0, 4.75, 0.2, 0.0875), (20.0, 19.0, 0.5, 0.05)]
)
def test_devices_are_written_and_age_as_between_the_rows_of_their_tables(
    target: float, mean: float, sd: float, nu: float
) -> None:
    cells = written(CHIP, target)
    assert float(cells.g_us.mean()) == pytest.approx(mean, abs=5 * sd / N**0.5)
    assert float(cells.g_us.std()) == pytest.approx(sd, rel=5 / (2 * N) ** 0.5)
    assert float(cells.nu.mean()) == pytest.approx(nu, abs=5 * 0.01 / N**0.5)
    age_s = torch.tensor(1e5, dtype=torch.float64)
    aged = device_model(CHIP).drift(cells, age_s)
    torch.testing.assert_close(aged, cells.g_us * 1e4 ** -cells.nu.double(), rtol=1e-5, atol=0)


def test_readings_scatter_as_the_table_says_where_devices_stand_now() -> None:
    chip = replace(CHIP, programming_noise=None, drift=None)
    model, cells = device_model(chip), written(chip, 10.0)
    seen = model.read(cells, 1e6, generators(2, "test")["read"])
    assert float(seen.std()) == pytest.approx(0.3, rel=5 / (2 * N) ** 0.5)


def test_read_noise_with_the_width_of_a_pulse_is_that_of_the_table_first_and_grows_with_age() -> (
    None
):
    chip = replace(CHIP, device=replace(MINE, read_pulse_s=1e-6), drift=None)
    model, cells = device_model(chip), written(chip, 10.0)
    for age_s in (10.0, 1e5):
        sigma = model.read_sigma(cells, torch.full((N,), 10.0), torch.tensor(age_s))
        grown = np.sqrt(np.log(age_s / 2e-6) / np.log(10 / 2e-6))
        assert float(sigma[0]) == pytest.approx(0.3 * grown, rel=1e-5)
    assert model.spectrum is not None


def test_pulses_step_as_the_table_says() -> None:
    model, streams = device_model(CHIP), generators(3, "test")
    cells = model.reset(written(CHIP, 0.0), torch.ones(N, dtype=torch.bool), 0.0, streams)
    after = model.pulse(cells, torch.ones(N, dtype=torch.int32), 0.0, streams)
    moved = after.g_us - 0.5
    assert float(moved.mean()) == pytest.approx(1.95, abs=5 * 0.4 / N**0.5)
    assert float(moved.std()) == pytest.approx(0.3925, rel=5 / (2 * N) ** 0.5)
    at = torch.tensor([10.0])
    mean, sigma = model.response.step(at)
    unit = 0.75 / model.response.credit_us
    assert (float(mean), float(sigma)) == pytest.approx((1.0 * unit, 0.25 * unit))


def test_without_tables_a_device_is_exact() -> None:
    chip = replace(IDEAL, device=DeviceTables())
    target = torch.linspace(0, 25, 50, dtype=torch.float64)
    model = device_model(chip)
    cells = model.write(target, 0.0, generators(0, "test"))
    assert torch.equal(model.read(cells, 1e9, generators(0, "test")["read"]), target)


def test_a_chip_of_tables_comes_back_from_its_file_and_goes_on_from_a_saved_state(
    tmp_path: Path,
) -> None:
    dump_chip(CHIP, tmp_path / "own.toml")
    assert load_chip(tmp_path / "own.toml") == CHIP
    made = Accelerator(compile(graph(np.eye(3)), CHIP, dt=1.0))
    made.program()
    made.pulse({"fc": torch.ones(3, 3, dtype=torch.int32)})
    made.write({"fc": torch.eye(3)}, {"fc": torch.eye(3, dtype=torch.bool)})
    made.save(tmp_path / "chip.npz")
    again = Accelerator.load(tmp_path / "chip.npz")
    assert again.layout.chip == CHIP
    assert torch.equal(again.read_weights()["fc"], made.read_weights()["fc"])


def test_tables_lie_in_csv_files_beside_their_toml_or_the_device_in_a_toml_of_its_own(
    tmp_path: Path,
) -> None:
    rows = "0,0,0.1,0.2\n0.05,0.05,0.1,0.2\n"
    (tmp_path / "all.csv").write_text(f"# ours\ng_us, mean_us, sd_us, read_sd_us\n{rows}")
    (tmp_path / "noise.csv").write_text("g_us,read_sd_us\n0,0.3\n")
    keys = 'table = "all.csv"\nread_noise = "noise.csv"\nname = "mine"\ndrift = [[0, 0.1, 0]]\n'
    (tmp_path / "chip.toml").write_text(f'like = "IDEAL"\ng_max_us = 0.1\n[device]\n{keys}')
    (tmp_path / "mine.toml").write_text(keys)
    (tmp_path / "other.toml").write_text('like = "IDEAL"\ndevice = "mine.toml"\n')
    with pytest.raises(ValueError, match=r"g_max_us is 0.1; mine was measured up to 0"):
        load_chip(tmp_path / "chip.toml")
    for file in ("all.csv", "noise.csv"):
        with (tmp_path / file).open("a") as end:
            end.write("25,25,1,2\n" if file == "all.csv" else "25,0.4\n")
    with (tmp_path / "mine.toml").open("a") as end:
        end.write("reset_us = 1\n")
    keys = keys.replace("[[0, 0.1, 0]]", "[[0, 0.1, 0], [25, 0.1, 0]]")
    (tmp_path / "mine.toml").write_text(keys)
    device = load_chip(tmp_path / "other.toml").device
    assert device.writing == ((0, 0, 0.1), (0.05, 0.05, 0.1), (25, 25, 1))
    assert device.read_noise == ((0, 0.3), (25, 0.4))
    assert device.drift == ((0, 0.1, 0), (25, 0.1, 0))
    assert device.pulses == ()


@pytest.mark.parametrize(
    ("keys", "table", "said"),
    [
        ("writng = 1", "", r"chip.toml: unknown field 'device.writng'; did you mean writing\?"),
        ("colour = 1", "", "chip.toml: unknown field 'device.colour'; a device has name, writing"),
        ("writing = 3", "", "device.writing is 3; give rows of g_us, mean_us, sd_us, or a CSV"),
        ("writing = [[0, 1]]", "", "device.writing: row 1 has 2 values; give g_us, mean_us, sd_us"),
        ("writing = [[0, 1, -1]]", "", "row 1 has sd_us -1; give a finite number of at least 0"),
        ("writing = [[0, 1, 'a']]", "", "row 1 has sd_us 'a'; give a number"),
        ("writing = [[5, 1, 1], [5, 1, 1]]", "", "row 2 has g_us 5 after 5; g_us must rise"),
        ("drift_from_s = 0", "", "device.drift_from_s is 0; it must be a positive number"),
        ("pulses = [[0, 0, 1]]", "", "pulses: the step at 12.5 µS, half of the range, is not abov"),
        ("table = 'no.csv'", "", "device.table is 'no.csv', and there is no file"),
        ("table = 'a.csv'", "", "a.csv: no rows; give a line of names"),
        (
            "table = 'a.csv'",
            "g_us,sd_u\n1,2",
            r"a.csv: unknown column 'sd_u'; did you mean sd_us\?",
        ),
        (
            "table = 'a.csv'",
            "g_us;mean_us;sd_us\n1;2;3",
            "; commas separate columns, a point stands",
        ),
        ("table = 'a.csv'", "g_us,sd_us,sd_us\n1,2,3", "a.csv: 2 columns sd_us; give each once"),
        ("table = 'a.csv'", "g_us,mean_us\n1,2", "a.csv: no column sd_us"),
        ("table = 'a.csv'", "g_us,mean_us,sd_us\n1,2", "line 2 has 2 values; the first line names"),
        ("table = 'a.csv'", "g_us,mean_us,sd_us\n1,2,x", "line 2 has sd_us 'x'; give a plain num"),
        ("table = 'a.csv'", "g_us,mean_us,sd_us\n1,2,nan", "row 1 has sd_us nan; give a finite"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_with_the_file(
    tmp_path: Path, keys: str, table: str, said: str
) -> None:
    (tmp_path / "a.csv").write_text(table)
    (tmp_path / "chip.toml").write_text(f'like = "IDEAL"\n[device]\n{keys}\n')
    with pytest.raises(ValueError, match=said) as error:
        load_chip(tmp_path / "chip.toml")
    assert str(error.value).startswith(str(tmp_path))
    assert "\n" not in str(error.value)


def test_what_is_wrong_in_a_csv_file_is_told_with_the_name_of_that_file(tmp_path: Path) -> None:
    table = tmp_path / "a.csv"
    (tmp_path / "chip.toml").write_text('like = "IDEAL"\n[device]\ntable = "a.csv"\n')
    table.write_text("g_us,step_us,step_sd_us\n0,1,0.1\n5,1,inf\n")
    with pytest.raises(ValueError, match=r"a\.csv: pulses: row 2 has step_sd_us inf; give a fin"):
        load_chip(tmp_path / "chip.toml")
    table.write_text("g_us,step_us,step_sd_us\n" + "0,1,0.1\n" * 150_000)
    with pytest.raises(ValueError, match=r"a\.csv: longer than 1048576 bytes; give a table"):
        load_chip(tmp_path / "chip.toml")


def test_every_key_of_a_device_is_described_with_unit_range_default_and_source() -> None:
    rows = {row["field"]: row for row in describe(CHIP)}
    assert rows["device"]["value"] == "mine"
    assert rows["device.writing"]["value"] == "3 rows"
    assert rows["device.drift_from_s"]["unit"] == "s"
    own = {name: row for name, row in rows.items() if name.startswith("device.")}
    for name, row in own.items():
        assert row["meaning"], name
        assert row["accepted"], name
        assert row["source"], name


def mean_curve(device: str, counts: list[int]) -> np.ndarray:
    chip = replace(PCM, device=device, programming_noise=None)
    model, streams = device_model(chip), generators(0, "test")
    start = torch.zeros(len(counts), dtype=torch.float64)
    counted = torch.tensor(counts)
    moved = model.response.set(start, 0 * counted, counted, streams["pulse"])
    return np.asarray(moved.numpy())


def test_soft_bounds_steps_shrink_with_the_room_that_is_left() -> None:
    counts = [1, 5, 50, 200]
    expected = 25 * (1 - (1 - 0.5 / 25) ** np.array(counts))
    np.testing.assert_allclose(mean_curve("soft_bounds", counts), expected, rtol=1e-9)


def test_exponential_steps_are_those_of_the_preset_of_aihwkit() -> None:
    counts = [1, 2, 3, 4, 5, 10, 20]
    weights = np.array([0.2824, 0.4268, 0.5305, 0.6128, 0.6817, 0.9244, 1.2174])
    np.testing.assert_allclose(mean_curve("exponential", counts) / 12.5, weights, atol=1e-4)
    model, streams = device_model(replace(PCM, device="exponential")), generators(0, "test")
    zero, one = torch.zeros(N, dtype=torch.float64), torch.ones(N, dtype=torch.int32)
    # From w = 0.9606 the tool's devices, which differ among each other too, step by 0.112 around.
    moved = model.response.set(zero + 0.9606 * 12.5, zero, one, streams["pulse"]) / 12.5 - 0.9606
    assert float(moved.std()) == pytest.approx(0.108, abs=0.003)


def test_the_reram_of_wan_2022_spreads_as_published_and_does_not_drift() -> None:
    chip = replace(PCM, device="wan2022", g_max_us=40.0)
    for share in (0.25, 0.5, 1.0):
        cells = written(chip, 40 * share)
        powers = share ** np.arange(5)
        sigma = float(powers @ [0.701, 22.086, -50.773, 47.095, -16.458])
        assert float(cells.g_us.std()) == pytest.approx(sigma, rel=5 / (2 * N) ** 0.5)
        year = torch.tensor(3e7, dtype=torch.float64)
        assert torch.equal(device_model(chip).drift(cells, year), cells.g_us)
    with pytest.raises(ValueError, match="wan2022 was measured up to 40"):
        replace(chip, g_max_us=41.0)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"writing": ((25, 24.0, 0.5),)}, "mean_us is 24 in the first row and 24 in the last"),
        ({"writing": ((0, 5, 0.1), (25, 5, 0.1))}, "it must rise with g_us"),
        ({"writing": ((0, 0, 0.0), (25, 0, 0.0))}, "it must rise with g_us"),
        ({"writing": ((0, 20, 0.1), (25, 1, 0.1))}, "it must rise with g_us"),
        ({"writing": [0, 0.1, 0.2]}, "give rows of g_us, mean_us, sd_us"),
        ({"writing": None}, "writing is None; give rows of"),
        ({"read_noise": ((0, 0.1), (25, 0.1)), "read_pulse_s": 2.0}, "read_pulse_s is 2; a read"),
        ({"reset_us": 100.0}, "reset_us is 100; devices reach 25 µS"),
    ],
)
def test_tables_that_no_device_can_follow_are_refused(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        DeviceTables(**fields)


def test_a_field_that_tables_do_not_have_is_refused_with_the_nearest() -> None:
    with pytest.raises(TypeError, match="no argument 'writng'; did you mean writing"):
        DeviceTables(writng=())  # type: ignore[call-arg]


def test_arrays_and_tensors_are_tables_too() -> None:
    rows = [[0.0, 0.1, 0.2], [25.0, 24.0, 0.5]]
    makers: list[Callable[[Any], Any]] = [np.array, torch.tensor, list]
    tables = [DeviceTables(writing=made(rows)) for made in makers]
    assert [len(one.writing) for one in tables] == [2, 2, 2]
    assert tables[0] == tables[2]


def test_devices_are_not_written_below_the_first_row_of_their_table() -> None:
    high = DeviceTables(writing=((5, 5.0, 0.1), (25, 25.0, 0.1)))
    with pytest.raises(ValueError, match="written to from 5 µS on: add a row, or set g_min_us"):
        Chip(device=high)
    assert Chip(device=high, g_min_us=5.0).g_min_us == 5.0


def test_a_file_of_conductances_alone_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("g_us\n0\n25\n")
    (tmp_path / "mine.toml").write_text('like = "PCM"\n[device]\ntable = "mine.csv"\n')
    with pytest.raises(ValueError, match="g_us alone says nothing; give columns beside it"):
        load_chip(tmp_path / "mine.toml")
