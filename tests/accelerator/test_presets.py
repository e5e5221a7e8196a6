"""Chips by name and in files."""

from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from forked import Process
from snu_plugin import files
from snu_plugin.accelerator import (
    CHIPS,
    PCM,
    Accelerator,
    Chip,
    describe,
    dump_chip,
    find_chip,
    load_chip,
)


@pytest.mark.parametrize("name", CHIPS)
def test_a_chip_comes_back_from_its_file(tmp_path: Path, name: str) -> None:
    dump_chip(CHIPS[name], tmp_path / "chip.toml")
    assert load_chip(tmp_path / "chip.toml") == CHIPS[name]
    assert list(tmp_path.iterdir()) == [tmp_path / "chip.toml"]


def test_a_file_starts_from_a_preset_and_says_ideal_for_none(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('like = "PCM"\nadc_bits = 6\nread_noise = "ideal"\n')
    assert load_chip(path) == replace(PCM, name="mine", adc_bits=6, read_noise=None)
    assert find_chip(str(path)) == load_chip(path)


def test_a_file_that_starts_from_nothing_says_what_is_ideal_in_it(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('adc_bits = 6\nwire_ohm = "ideal"\n')
    with pytest.warns(UserWarning, match="ideal: device, dac_bits, output_noise; give them"):
        assert load_chip(path) == Chip(name="mine", adc_bits=6)


def test_old_names_are_read_as_what_they_meant_with_a_notice_for_files(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('like = "PCM"\nfit = "ideal"\n')
    with pytest.warns(UserWarning, match="fit is called device now"):
        assert load_chip(path) == replace(PCM, name="mine", device=None)
    assert replace(PCM, fit=None) == replace(PCM, device=None)  # type: ignore[call-arg]
    old = Chip(fit="joshi2020")  # type: ignore[call-arg]
    assert old == Chip(device="joshi2020", pulse="linear")
    assert old.fit == "joshi2020"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("adc_bit = 6", r"unknown field 'adc_bit'; did you mean adc_bits\?"),
        ("g_max_ns = 6", r"unknown field 'g_max_ns'; did you mean g_max_us\?"),
        ("colour = 6", "unknown field 'colour'; a chip has name, device, g_max_us"),
        ("g_max_us = '25 µS'", "g_max_us is '25 µS'; give a plain number in µS"),
        ("adc_bits = 6.5", "adc_bits is 6.5; it must be a whole number from 2 to 16"),
        ("tiles = true", "tiles is True; it must be a positive whole number"),
        ("tiles = 'ideal'", "tiles is None; it must be a positive whole number"),
        ("stuck_at_set = 1.5", "stuck_at_set is 1.5; it must be a number from 0 to 1"),
        ("device = 'joshi'", "device is 'joshi'; it must be one of joshi2020"),
        ("g_min_us = -1", "g_min_us is -1; it must be a number of at least 0"),
        ("g_min_us = 25", "g_min_us is 25; it must be below g_max_us, 25.0 µS"),
        ("devices_per_weight = 3", "devices_per_weight is 3; it must be 1, 2, 4, 6 or 8"),
        ("significance = 0.5", "significance is 0.5; it must be a number of at least 1"),
        ("noise_of = 'both'", "noise_of is 'both'; it must be one of target, written"),
        ("device = 'hermes2'", r"g_max_us is 25.0; hermes2 was measured up to 20.7"),
        ("like = 'XYZ'", "like is 'XYZ'; it must be one of IDEAL, PCM"),
        ("adc_bits = = 3", "not TOML"),
    ],
)
def test_a_wrong_line_is_named_with_file_and_field(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "chip.toml"
    path.write_text(line)
    with pytest.raises(ValueError, match=said) as error:
        load_chip(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_an_unknown_chip_lists_what_there_is() -> None:
    with pytest.raises(LookupError, match="no chip and no file 'PCN'; give IDEAL, PCM"):
        find_chip("PCN")


def test_every_field_is_described_with_default_range_and_source() -> None:
    rows = {row["field"]: row for row in describe(PCM)}
    assert set(rows) == {field.name for field in fields(Chip)}
    assert rows["g_max_us"]["unit"] == "µS"
    assert rows["step_ns"]["unit"] == "ns"
    assert rows["adc_bits"]["value"] == 8
    assert rows["adc_bits"]["default"] is None
    for name, row in rows.items():
        assert row["meaning"], name
        assert row["source"] or name == "name", name
        assert "Source" not in row["meaning"], name


WITHOUT_DOCSTRINGS = """
from importlib.machinery import SourceFileLoader

def code(self, name):
    return compile(self.get_data(self.path), self.path, "exec", dont_inherit=True, optimize=2)

SourceFileLoader.get_code = code  # what -OO does, of us alone
from snu_plugin import accelerator
print(accelerator.describe(accelerator.PCM)[2]["meaning"], accelerator.describe.__doc__)
"""


def test_settings_are_described_without_docstrings() -> None:
    ran = Process(WITHOUT_DOCSTRINGS)
    assert ran.wait() == 0, ran.err
    assert ran.out.strip() == "Conductance of the largest weight on one device None"


def test_a_chip_whose_file_is_missing_is_refused_with_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.toml: no such file; give .* IDEAL, PCM"):
        load_chip(tmp_path / "none.toml")


@pytest.mark.parametrize("take", [load_chip, Accelerator.load, partial(files.write, content=b"")])
def test_what_is_no_path_is_refused_in_the_same_words(take: Callable[[Any], object]) -> None:
    with pytest.raises(TypeError, match=r"path is 3; give the path of a file, as a text or a"):
        take(3)


def test_a_file_may_begin_with_the_mark_of_editors_on_windows(tmp_path: Path) -> None:
    file = tmp_path / "chip.toml"
    file.write_bytes(b'\xef\xbb\xbflike = "PCM"\r\nadc_bits = 6\r\n')
    assert load_chip(file).adc_bits == 6
