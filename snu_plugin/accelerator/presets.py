"""Chips by name, chips in files, and what their settings mean."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from snu_plugin.accelerator.chip import OLD_NAMES, About, Chip, about, settings
from snu_plugin.accelerator.devices.tables import (
    COLUMNS,
    DeviceTables,
    about_tables,
    from_keys,
    read_tables,
    read_toml,
)
from snu_plugin.accepted import hint, nearest, path_of, shown
from snu_plugin.files import near_file, write

IDEAL = Chip(name="IDEAL")
"""Exact weights, no drift, no noise, no converters, equal exact pulses."""

PCM = Chip(
    name="PCM",
    device="joshi2020",
    wire_ohm=0.35,
    dac_bits=8,
    adc_bits=8,
    output_noise=0.04,
)
"""Written with the statistics of Joshi et al. 2020 (model A), pulsed with the step response of
Nandakumar et al. 2018 (model C) bridged by the ratio of their largest conductances."""

PCM_PULSED = replace(PCM, name="PCM_PULSED", device="nandakumar2018", g_max_us=12.0)
"""Nandakumar et al. 2018 (model C) for its whole life, first writing included."""

HERMES = replace(PCM, name="HERMES", device="hermes2", g_max_us=20.7, noise_of="written")
"""Written with the two-device HERMES fit (model B, aihwkit 1.2.0), pulsed as ``PCM`` is."""

CHIPS = {chip.name: chip for chip in (IDEAL, PCM, PCM_PULSED, HERMES)}
"""The presets by name."""

NONE = "ideal"
"""How a file says ``None``, which TOML has not."""


def find_chip(name_or_path: str) -> Chip:
    """Return the preset of that name, or else the chip in the TOML file of that path.

    Raises:
        LookupError: If there is neither.
    """
    if not isinstance(name_or_path, (str, Path)):
        raise TypeError(f"chip is {shown(name_or_path)}; give a name, or the path of a TOML file")
    if name_or_path in CHIPS:
        return CHIPS[name_or_path]
    if Path(name_or_path).is_file():
        return load_chip(name_or_path)
    raise LookupError(
        f"no chip and no file {str(name_or_path)!r}; give {', '.join(CHIPS)} or a TOML file"
        f"{hint(str(name_or_path), CHIPS)}"
    )


def load_chip(path: str | Path) -> Chip:
    """Read a chip from a TOML file of ``field = value`` lines.

    ``like = "PCM"`` starts from a preset instead of the defaults; ``"ideal"`` stands for ``None``.
    The chip is called after the file unless it has a ``name``. Its ``device`` is a name, a table
    ``[device]`` with the fields of ``DeviceTables``, or a TOML file of these that lies beside it.

    Raises:
        OSError: If there is no such file.
        TypeError: If ``path`` is no text or path.
        ValueError: For text that is not TOML, an unknown field, a wrong type or an impossible
            value; names the file and the field.

    Warns:
        UserWarning: Of what is ideal where a file starts from nothing and does not say so, and of
            the old name of a field.
    """
    path = path_of(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file; give a TOML file of a chip, or take a preset: "
            f"{', '.join(CHIPS)}{near_file(path, '.toml')}"
        )
    found = read_toml(path)
    like = found.pop("like", None)
    if like is not None and (not isinstance(like, str) or like not in CHIPS):
        raise ValueError(
            f"{path}: like is {like!r:.60}; it must be one of {', '.join(CHIPS)}{hint(like, CHIPS)}"
        )
    known, defaults = about(), settings(Chip())
    values: dict[str, Any] = {"name": path.stem}
    for name, value in found.items():
        if name in OLD_NAMES:
            values[name] = None if value == NONE else value
            continue
        if name not in known:
            names = [*known, "like"]
            said = nearest(name, names, f"a chip has {', '.join(names)}")
            raise ValueError(f"{path}: unknown field {name!r:.60}; {said}")
        if name == "device" and isinstance(value, dict):
            values[name] = from_keys(value, path, under="device.")
            continue
        if name == "device" and isinstance(value, str) and value.endswith(".toml"):
            values[name] = _device_in(path, value)
            continue
        unit = known[name].unit
        if isinstance(value, str) and value != NONE and isinstance(defaults[name], (int, float)):
            in_unit = f" in {unit}" if unit else ""
            raise ValueError(f"{path}: {name} is {value!r:.60}; give a plain number{in_unit}")
        values[name] = None if value == NONE and name != "name" else value
    try:
        chip = replace(CHIPS[like], **values) if like else Chip(**values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    for old, new in OLD_NAMES.items():
        if old in found:
            warnings.warn(f"{path}: {old} is called {new} now; rename it", stacklevel=2)
            found[new] = found.pop(old)
    unsaid = [
        name
        for name, usual in settings(PCM).items()
        if name not in found and usual is not None and getattr(chip, name) is None
    ]
    if not like and unsaid:
        warnings.warn(
            f"{path} starts from nothing, so that these are ideal: {', '.join(unsaid)}; give them, "
            f'as "{NONE}" if that is meant, or start from a chip by like = "PCM"',
            stacklevel=2,
        )
    return chip


def dump_chip(chip: Chip, path: str | Path) -> None:
    """Write every field of ``chip`` to a TOML file, with meaning and unit as comments.

    Raises:
        ValueError: If its device is a class without a name.
    """
    if not isinstance(chip, Chip):
        raise TypeError(f"chip is {shown(chip)}; it must be a Chip, such as PCM")
    chip.check_named()
    lines = [*_lines(about(), settings(chip) | {"device": chip.device})]
    if isinstance(chip.device, DeviceTables):
        lines += ["[device]", *_lines(about_tables(), chip.device.to_dict())]
    write(path, ("\n".join(lines) + "\n").encode())


def describe(chip: Chip) -> list[dict[str, Any]]:
    """Return a row for every setting: field, value, unit, default, accepted, meaning, source.

    Where the device is described by tables, their fields follow as ``device.writing`` and so on,
    with the number of their rows as values.
    """
    values: dict[str, Any] = settings(chip)
    rows = []
    if isinstance(chip.device, DeviceTables):
        values["device"] = chip.device.name
        held = chip.device.to_dict()
        held |= {name: f"{len(held[name])} rows" if held[name] else None for name in COLUMNS}
        unset = DeviceTables().to_dict() | dict.fromkeys(COLUMNS)
        rows = _described(about_tables(), held, unset, "device.")
    return _described(about(), values, settings(Chip())) + rows


def _described(
    known: dict[str, About], values: dict[str, Any], defaults: dict[str, Any], under: str = ""
) -> list[dict[str, Any]]:
    return [
        {
            "field": under + name,
            "value": values[name],
            "unit": said.unit,
            "default": defaults[name],
            "accepted": said.accepted.words,
            "meaning": said.meaning,
            "source": said.source,
        }
        for name, said in known.items()
    ]


def _device_in(path: Path, name: str) -> DeviceTables:
    """Return the devices of a TOML file beside that of a chip."""
    file = path.parent / name
    if not file.is_file():
        raise ValueError(f"{path}: device is {name!r:.60}, and there is no file {file}")
    return read_tables(file)


def _lines(known: dict[str, About], values: dict[str, Any]) -> Iterator[str]:
    """Return what a TOML file says of each field, meaning first; no tables of devices."""
    for name, said in known.items():
        if isinstance(values[name], DeviceTables) or values[name] == ():
            continue
        unit = f" [{said.unit}]" if said.unit else ""
        yield f"# {said.meaning}{unit}: {said.accepted.words}."
        yield f"{name} = {_toml(values[name])}"


def _toml(value: Any) -> str:
    if value is None:
        return f'"{NONE}"'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    if isinstance(value, tuple):
        return f"[{', '.join(_toml(one) for one in value)}]"
    return repr(value)
