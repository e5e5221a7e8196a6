"""Devices described by a few tables, as measured: the value, and how a file says it."""

from __future__ import annotations

import csv
import math
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from snu_plugin.accelerator.chip import About, setting
from snu_plugin.accepted import LEVEL, POSITIVE, TEXT, Accepted, by_known_names, nearest, shown

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

COLUMNS = {
    "writing": ("g_us", "mean_us", "sd_us"),
    "drift": ("g_us", "nu_mean", "nu_sd"),
    "read_noise": ("g_us", "read_sd_us"),
    "pulses": ("g_us", "step_us", "step_sd_us"),
}
"""The columns of every table, by its key."""
LONGEST_FILE = 2**20
"""Bytes of a file of settings; one with all fields and their meaning has under 20,000."""
OF_ALL = "table"
"""The key of one CSV file that several tables are taken from."""
SIGNED = {"step_us", "nu_mean", "mean_us"}
"""Columns that may be negative."""

Rows = tuple[tuple[float, ...], ...]


def _rows(table: str) -> Accepted:
    words = f"rows of {', '.join(COLUMNS[table])}, or a CSV file with these columns"
    return Accepted(words, lambda value: isinstance(value, tuple))


@by_known_names
@dataclass(frozen=True, kw_only=True)
class DeviceTables:
    """What devices do, by tables; ``Chip(device=DeviceTables(...))`` takes it.

    Between the rows of a table values lie on straight lines, beyond its ends they stay. Without a
    table that effect is ideal: written exactly, no drift, no read noise, equal exact pulses. A chip
    whose ``g_max_us`` is beyond the end of ``writing``, ``drift`` or ``read_noise`` is refused.

    Raises:
        ValueError: For a value outside its range, or a table that cannot be one.

    >>> DeviceTables(writing=((0, 0, 0.2), (0, 10, 0.3)))
    Traceback (most recent call last):
    ...
    ValueError: writing: row 2 has g_us 0 after 0; g_us must rise from row to row
    """

    # fmt: off
    name: str = setting("device", TEXT, "", "What reports and pictures call the device", "ours")
    writing: Rows = setting((), _rows("writing"), "µS",
        "Mean and standard deviation of what devices hold that were written to g_us", "yours")
    drift: Rows = setting((), _rows("drift"), "(g_us in µS)",
        "Mean and standard deviation of the normal whose magnitude is the drift exponent ν of "
        "devices written to g_us: G(t) = G (t / drift_from_s)^-ν", "yours")
    drift_from_s: float = setting(1.0, POSITIVE, "s",
        "Time from writing to when the table writing holds, from which on devices drift; writing "
        "takes so long", "ours: 1")
    read_noise: Rows = setting((), _rows("read_noise"), "µS",
        "Standard deviation of one reading of devices that hold g_us", "yours")
    read_pulse_s: float = setting(0.0, LEVEL, "s",
        "Width of a read pulse; where it is given read noise is 1/f, and its table is that at "
        "drift_from_s (or 1 s, if that is later); 0: every reading draws anew", "ours: 0")
    pulses: Rows = setting((), _rows("pulses"), "µS",
        "Mean and standard deviation of the step of a SET pulse on devices that hold g_us",
        "yours")
    reset_us: float = setting(0.0, LEVEL, "µS", "Mean conductance after a RESET pulse", "ours: 0")
    reset_sd_us: float = setting(0.0, LEVEL, "µS",
        "Standard deviation of the conductance after a RESET pulse", "ours: 0")
    set_pj: float = setting(4.5, LEVEL, "pJ", "Energy of a SET pulse",
        "assumed, as for phase-change memory")
    reset_pj: float = setting(30.0, LEVEL, "pJ", "Energy of a RESET pulse",
        "assumed, as for phase-change memory")
    source: str = setting("", TEXT, "", "Where the numbers are from", "yours")
    status: str = setting("not calibrated", TEXT, "", "How far they are to be trusted", "ours")
    # fmt: on

    def __post_init__(self) -> None:
        for name in COLUMNS:
            object.__setattr__(self, name, _as_rows(name, getattr(self, name)))
            _check(name, getattr(self, name))
        for name, said in about_tables().items():
            value = getattr(self, name)
            if not said.accepted.holds(value):
                raise ValueError(f"{name} is {value!r:.60}; it must be {said.accepted.words}")
        if self.writing and not self.writing[-1][1] > max(self.writing[0][1], 0.0):
            raise ValueError(
                f"writing: mean_us is {self.writing[0][1]:g} in the first row and "
                f"{self.writing[-1][1]:g} in the last; it must rise with g_us, else devices hold "
                "the same whatever is written"
            )
        if self.read_noise and self.read_pulse_s >= max(self.drift_from_s, 1.0):
            raise ValueError(
                f"read_pulse_s is {self.read_pulse_s:g}; a read pulse must be shorter than the age "
                f"at which its noise is given, {max(self.drift_from_s, 1.0):g} s"
            )
        top = self.limit_us or 25.0
        if self.reset_us > top:
            raise ValueError(f"reset_us is {self.reset_us:g}; devices reach {top:g} µS")
        if self.pulses and interpolated(self.pulses, 1, top / 2) <= 0:
            raise ValueError(
                f"pulses: the step at {top / 2:g} µS, half of the range, is not above 0; a SET "
                "pulse must raise a device there"
            )

    def __str__(self) -> str:
        return self.name

    @property
    def limit_us(self) -> float | None:
        """Largest conductance that was measured, µS; ``None``: no table says."""
        ends = [rows[-1][0] for rows in (self.writing, self.drift, self.read_noise) if rows]
        return min(ends) if ends else None

    @property
    def lowest_us(self) -> float | None:
        """Smallest conductance that was written, µS; ``None``: no table says."""
        return self.writing[0][0] if self.writing else None

    def to_dict(self) -> dict[str, Any]:
        """Return every field by name, as JSON can hold it."""
        return {one.name: getattr(self, one.name) for one in fields(self)}


def about_tables() -> dict[str, About]:
    """Return what is said of every field of ``DeviceTables``."""
    return {one.name: one.metadata["about"] for one in fields(DeviceTables)}


def interpolated(rows: Rows, column: int, at: float) -> float:
    """Return a column of a table at one value of its first."""
    low = max((row for row in rows if row[0] <= at), default=rows[0])
    high = min((row for row in rows if row[0] >= at), default=rows[-1])
    share = 0.0 if high[0] == low[0] else (at - low[0]) / (high[0] - low[0])
    return low[column] + share * (high[column] - low[column])


def read_tables(path: Path) -> DeviceTables:
    """Read devices from a TOML file of their own; raises as ``load_chip`` does."""
    return from_keys(read_toml(path), path)


def read_toml(path: Path) -> dict[str, Any]:
    """Return what a TOML file says; ``ValueError`` names the file where it is none."""
    try:
        with path.open("rb") as file:
            text = file.read(LONGEST_FILE + 1)
        if len(text) > LONGEST_FILE:
            raise ValueError(f"it is longer than {LONGEST_FILE} bytes")
        return tomllib.loads(text.decode("utf-8-sig"))  # editors on Windows begin with a mark
    except (ValueError, RecursionError) as error:  # the second where it is nested too deep
        why = " ".join(str(error).split())[:300]
        raise ValueError(f"{path}: not TOML ({why}); give lines such as adc_bits = 8") from error


def from_keys(keys: dict[str, Any], path: Path, under: str = "") -> DeviceTables:
    """Return the devices that the keys of a TOML file describe.

    Args:
        keys: As TOML gives them; a table is a list of rows, or the name of a CSV file that lies
            beside the TOML file; ``table`` is one such file for all tables whose columns it has.
        path: The TOML file.
        under: What stands before the keys in messages.

    Raises:
        ValueError: In one line, with the file, what was expected and what to do.
    """
    known = [*about_tables(), OF_ALL]
    values: dict[str, Any] = {"name": path.stem}
    for key, value in keys.items():
        if key not in known:
            has = f"a device has {', '.join(known)}"
            raise ValueError(
                f"{path}: unknown field {under + key!r:.60}; {nearest(key, known, has)}"
            )
        if key == OF_ALL:
            found = _csv(path, under + key, value)
            for name, columns in COLUMNS.items():
                if set(columns[1:]) & set(found):
                    values.setdefault(name, _picked(found, name, path.parent / value))
        elif key in COLUMNS and isinstance(value, str):
            found = _csv(path, under + key, value)
            values[key] = _picked(found, key, path.parent / value)
        elif key in COLUMNS:
            if not isinstance(value, list) or not all(isinstance(row, list) for row in value):
                expected = about_tables()[key].accepted.words
                raise ValueError(f"{path}: {under}{key} is {value!r:.60}; give {expected}")
            values[key] = value
        else:
            values[key] = value
    try:
        return DeviceTables(**values)
    except ValueError as error:
        raise ValueError(f"{path}: {under}{error}") from error


def _as_rows(name: str, given: Any) -> Rows:
    """Return rows as tuples; arrays and tensors as the numbers in them."""
    rows = given.tolist() if hasattr(given, "tolist") else given
    if not isinstance(rows, list | tuple) or not all(isinstance(r, list | tuple) for r in rows):
        raise ValueError(f"{name} is {shown(given)}; give rows of {', '.join(COLUMNS[name])}")
    return tuple(tuple(row) for row in rows)


def _check(name: str, rows: Rows) -> None:
    """Raise ``ValueError`` unless these rows can be the table of that name."""
    columns = COLUMNS[name]
    for number, row in enumerate(rows, 1):
        if len(row) != len(columns):
            raise ValueError(
                f"{name}: row {number} has {len(row)} values; give {', '.join(columns)}"
            )
        for column, value in zip(columns, row, strict=True):
            least = -math.inf if column in SIGNED else 0.0
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ValueError(f"{name}: row {number} has {column} {value!r:.60}; give a number")
            if not math.isfinite(value) or value < least:
                bound = "" if column in SIGNED else " of at least 0"
                raise ValueError(
                    f"{name}: row {number} has {column} {value:g}; give a finite number{bound}"
                )
        if number > 1 and row[0] <= rows[number - 2][0]:
            raise ValueError(
                f"{name}: row {number} has g_us {row[0]:g} after {rows[number - 2][0]:g}; g_us "
                "must rise from row to row"
            )


def _csv(path: Path, key: str, name: Any) -> dict[str, list[float]]:
    """Return the columns of a CSV file beside ``path`` by the names in its first line."""
    if not isinstance(name, str):
        raise ValueError(f"{path}: {key} is {name!r:.60}; give the name of a CSV file beside it")
    file = path.parent / name
    if not file.is_file():
        raise ValueError(f"{path}: {key} is {name!r:.60}, and there is no file {file}")
    known = sorted({column for columns in COLUMNS.values() for column in columns})
    if file.stat().st_size > LONGEST_FILE:
        raise ValueError(f"{file}: longer than {LONGEST_FILE} bytes; give a table of fewer rows")
    try:
        text = file.read_text(encoding="utf-8-sig")
        lines = [
            (number, [cell.strip() for cell in cells])
            for number, cells in enumerate(csv.reader(text.splitlines()), 1)
            if any(cell.strip() for cell in cells) and not cells[0].lstrip().startswith("#")
        ]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{file}: not a CSV file in UTF-8 ({error})") from error
    if len(lines) < 2:
        raise ValueError(
            f"{file}: no rows; give a line of names, such as g_us,mean_us,sd_us, then numbers"
        )
    (_, names), *rows = lines
    for column in names:
        if column not in known:
            has = f"columns are {', '.join(known)}"
            if len(names) == 1 and any(mark in column for mark in ";\t"):
                has = f"commas separate columns, a point stands before decimals; {has}"
            raise ValueError(
                f"{file}: unknown column {column!r:.60}; {nearest(column, known, has)}"
            )
        if names.count(column) > 1:
            raise ValueError(f"{file}: {names.count(column)} columns {column}; give each once")
    if names == ["g_us"]:
        raise ValueError(
            f"{file}: g_us alone says nothing; give columns beside it, of {', '.join(known[1:])}"
        )
    found: dict[str, list[float]] = {column: [] for column in names}
    for number, cells in rows:
        if len(cells) != len(names):
            raise ValueError(
                f"{file}: line {number} has {len(cells)} values; the first line names {len(names)}"
            )
        for column, cell in zip(names, cells, strict=True):
            try:
                found[column].append(float(cell))
            except ValueError:
                raise ValueError(
                    f"{file}: line {number} has {column} {cell!r:.60}; give a plain number"
                ) from None
    return found


def _picked(found: dict[str, list[float]], name: str, file: Path) -> Rows:
    """Return the table of a name out of the columns of a file, checked."""
    columns = COLUMNS[name]
    lacking = [column for column in columns if column not in found]
    if lacking:
        raise ValueError(
            f"{file}: no column {lacking[0]}, which {columns[1]} needs; give {', '.join(columns)}"
            if lacking[0] != columns[1]
            else f"{file}: no column {lacking[0]}; give {', '.join(columns)}"
        )
    rows = tuple(zip(*(found[column] for column in columns), strict=True))
    try:
        _check(name, rows)
    except ValueError as error:  # here it is known which file the row stands in
        raise ValueError(f"{file}: {error}") from error
    return rows
