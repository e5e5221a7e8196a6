"""The state of one or more chips in one file: plain arrays and JSON, never a pickle."""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from snu_plugin import files
from snu_plugin.accelerator import synapse
from snu_plugin.accelerator.chip import Chip, settings
from snu_plugin.accelerator.devices import Cells

if TYPE_CHECKING:
    from snu_plugin.accelerator.machine import Accelerator

VERSION = 4
WITHOUT_DIGEST = 3
"""The last version that carried no digest; it is read with a warning."""
FORMATS = "snu_plugin.formats"
"""Entry points of exchange formats: modules with ``compile_source`` and ``restore``."""


def exchange(name: str) -> Any:
    """Return the module that turns graphs of the format ``name`` into programs and back."""
    for point in entry_points(group=FORMATS):
        if point.name == name:
            return point.load()
    known = ", ".join(sorted(point.name for point in entry_points(group=FORMATS)))
    raise LookupError(f"no exchange format {name!r}; installed: {known or 'none'}")


def save(path: str | Path, chips: Sequence[Accelerator]) -> None:
    """Write chips that hold the same network; the file appears whole or not at all."""
    layout = chips[0].layout
    header = {
        "version": VERSION,
        "chip": settings(layout.chip),
        "scaling": layout.scaling,
        "format": layout.format,
        "dt": layout.dt,
        "chips": [_header(chip) for chip in chips],
    }
    arrays = {
        "header": np.array(json.dumps(header)),
        "source": np.frombuffer(layout.source, np.uint8),
    }
    for n, chip in enumerate(chips):
        arrays |= {f"{n}/{key}": value for key, value in _arrays(chip)}
    with files.draft(path) as new:
        with new.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        files.add_digest(new)


def load(path: str | Path, kind: type[Accelerator]) -> list[Accelerator]:
    """Read chips; raises ``ValueError`` in one line for a file that is not whole and unchanged.

    Warns of a file of an older version, which carries no digest.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give one that Accelerator.save wrote")
    try:
        digest = files.check_digest(path)
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = dict(archive)
        header = json.loads(str(arrays["header"]))
        if header["version"] not in (VERSION, WITHOUT_DIGEST):
            raise ValueError(f"version {header['version']}, this release reads {VERSION}")
        if header["version"] == VERSION and not digest:
            raise ValueError("it should end with the digest of its content, and does not")
        source = arrays["source"].tobytes()
        layout = exchange(header["format"]).compile_source(
            source, Chip(**header["chip"]), header["scaling"], header["dt"]
        )
        chips = []
        for n, own in enumerate(header["chips"]):
            chips.append(kind(layout, own["seed"]))
            _fill(chips[n], own, arrays, f"{n}/")
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile, EOFError) as error:
        raise ValueError(
            f"{path}: not a chip that Accelerator.save wrote, or not whole ({error})"
        ) from error
    if not digest:
        warnings.warn(
            f"{path} is of an older version and carries no digest: whether it was changed cannot "
            "be seen; save it again",
            stacklevel=3,
        )
    return chips


def _header(chip: Accelerator) -> dict[str, Any]:
    """Return the single values of a chip's state."""
    return {
        "seed": chip.seed,
        "clock_s": chip.clock_s,
        "programmed_s": chip.programmed_s,
        "pulses": chip.pulses,
        "turn": chip.turn,
        "output_bits": {name: bits.state for name, bits in chip.output_bits.items()},
    }


def _arrays(chip: Accelerator) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield the arrays of a chip's state by name."""
    for name, streams in chip.streams.items():
        for effect, stream in streams.items():
            yield f"stream/{name}/{effect}", stream.get_state().numpy()
    held = {
        "register": chip._registers,
        "remembered": chip._remembered,
        "baseline": chip._baseline,
        **{f"cells/{name}": cells._asdict() for name, cells in chip._cells.items()},
    }
    for group, values in held.items():
        for name, value in values.items():
            yield f"{group}/{name}", value.numpy()


def _fill(chip: Accelerator, header: dict[str, Any], arrays: dict[str, Any], place: str) -> None:
    """Put a saved state onto a fresh chip; every array must have the shape it had."""
    chip.clock_s = header["clock_s"]
    chip.programmed_s = header["programmed_s"]
    chip.pulses = header["pulses"]
    chip.turn = header["turn"]
    for name, streams in chip.streams.items():
        for effect, stream in streams.items():
            stream.set_state(torch.from_numpy(arrays[f"{place}stream/{name}/{effect}"]))
        chip.output_bits[name].state = header["output_bits"][name]
    chip.set_registers(
        {name: torch.from_numpy(arrays[f"{place}register/{name}"]) for name in chip._registers}
    )
    for name, op in chip.layout.products.items():
        remembered = _array(arrays, f"{place}remembered/{name}", op.weight.shape)
        chip._remembered[name] = remembered
        if f"{place}baseline/{name}" in arrays:
            shape = torch.Size((1 + len(op.row_blocks), len(op.weight)))
            chip._baseline[name] = _array(arrays, f"{place}baseline/{name}", shape)
        if header["programmed_s"] is not None:
            shape = synapse.shape(op.weight.shape, chip.layout.chip, op.reference)
            chip._cells[name] = Cells(
                *(_array(arrays, f"{place}cells/{name}/{field}", shape) for field in Cells._fields)
            )


def _array(arrays: dict[str, Any], key: str, shape: torch.Size) -> torch.Tensor:
    value = torch.from_numpy(arrays[key])
    if value.shape != shape:
        raise ValueError(f"{key} has shape {tuple(value.shape)}, the graph needs {tuple(shape)}")
    return value
