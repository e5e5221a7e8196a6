"""The state of a chip in one file: plain arrays and JSON, never a pickle."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import torch

from snu_plugin import archives, files
from snu_plugin.accelerator.chip import Chip, settings
from snu_plugin.accelerator.devices.flicker import SlowNoise
from snu_plugin.accelerator.devices.model import Cells
from snu_plugin.accelerator.devices.temperature import Climate
from snu_plugin.accelerator.energy import Spent
from snu_plugin.accelerator.noise import Bits, Fast
from snu_plugin.accelerator.program import Program, Range
from snu_plugin.accelerator.state import CPU, ChipState
from snu_plugin.accepted import path_of

VERSION = 8
WITHOUT_PULSES = 6
"""The last version whose sums were in inputs of 1 where data had set the ranges."""
WITHOUT_NOISE = 4
"""The last version whose read noise was drawn anew at every call; it is read with a warning."""
WITHOUT_DIGEST = 3
"""The last version that carried no digest; it is read with a warning."""
FIRST = "0/"
"""What the names of a chip's arrays begin with: files once held several chips."""
FORMATS = "snu_plugin.formats"
"""Entry points of exchange formats: modules with ``compile_source`` and ``restore``."""


def exchange(name: str) -> Any:
    """Return the module that turns graphs of the format ``name`` into programs and back."""
    for point in entry_points(group=FORMATS):
        if point.name == name:
            return point.load()
    known = ", ".join(sorted(point.name for point in entry_points(group=FORMATS)))
    raise LookupError(f"no exchange format {name!r}; installed: {known or 'none'}")


def describe_program(program: Program) -> dict[str, Any]:
    """Return what ``compile_again`` needs, besides the source, to make a program again; for JSON.

    Raises:
        ValueError: If a device is a class without a name.
    """
    for chip in program.chips.values():
        chip.check_named()
    return {
        "settings": {name: settings(chip) for name, chip in program.chips.items()},
        "scaling": program.scaling,
        "format": program.format,
        "dt": program.dt,
        "ranges": program.ranges,
        "outliers": program.outliers,
    }


def compile_again(header: dict[str, Any], source: bytes) -> Program:
    """Compile a graph as it was compiled before; the header is that of ``describe_program``."""
    # Files of older releases hold one chip for all nodes.
    chips = (
        Chip(**header["chip"])
        if "chip" in header
        else {name: Chip(**chip) for name, chip in header["settings"].items()}
    )
    kept = header.get("outliers", 0.0)  # not in files of older releases
    program: Program = exchange(header["format"]).compile_source(
        source, chips, header["scaling"], header["dt"], **({"outliers": kept} if kept else {})
    )
    if (ranges := header.get("ranges")) is not None:
        found = {name: Range(*ends) for name, ends in ranges.items()}
        if header.get("version", VERSION) <= WITHOUT_PULSES:
            found = {n: r._replace(adc_bound=r.adc_bound / r.dac_bound) for n, r in found.items()}
        program = program.with_ranges(found)
    return program


def save(path: str | Path, state: ChipState) -> None:
    """Write the state of a chip; the file appears whole or not at all.

    Of one on a GPU what it would be on the processor.
    """
    state = state.to(CPU)
    program = state.program
    header = {
        "version": VERSION,
        **describe_program(program),
        "chips": [
            {
                "seed": state.seed,
                "clock_s": state.clock_s,
                "programmed_s": state.written_s,
                "pulses": state.pulses,
                "turn": state.turn,
                "spent": state.spent,
                "climate": asdict(state.climate),
                "output_bits": _states(state.output_bits),
                "flicker_bits": _states(state.flicker_bits),
                "slow_clocks_s": {name: noise.clocks_s for name, noise in state.slow.items()},
                "slow_together": {
                    name: (noise.together, noise.together_s) for name, noise in state.slow.items()
                },
            }
        ],
    }
    arrays = {
        "header": np.array(json.dumps(header)),
        "source": np.frombuffer(program.source, np.uint8),
    }
    for name, streams in state.streams.items():
        for effect, stream in streams.items():
            arrays[f"{FIRST}stream/{name}/{effect}"] = stream.get_state().numpy()
    held = {
        "register": state.registers,
        "remembered": state.remembered,
        "baseline": state.baseline,
        "holds": state.holds,
        **{f"cells/{name}": cells._asdict() for name, cells in state.cells.items()},
        **{
            f"slow/{name}": {str(k): value for k, value in enumerate(noise.values)}
            for name, noise in state.slow.items()
        },
    }
    for group, values in held.items():
        arrays |= {f"{FIRST}{group}/{name}": value.numpy() for name, value in values.items()}
    with files.draft(path) as new:
        with new.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        files.add_digest(new)


def load(path: str | Path) -> ChipState:
    """Read a chip; raises ``ValueError`` in one line for a file that is not whole and unchanged.

    Warns of a file of an older version: what it says nothing of begins now, as on a chip whose
    past was not seen.
    """
    path = path_of(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give one that Accelerator.save wrote")
    try:
        digest = files.check_digest(path)
        arrays = archives.read_arrays(path)
        header = json.loads(str(arrays["header"]))
        version = header["version"]
        if version not in range(WITHOUT_DIGEST, VERSION + 1):
            raise ValueError(f"version {version}, this release reads {WITHOUT_DIGEST} to {VERSION}")
        if version > WITHOUT_DIGEST and not digest:
            raise ValueError("it should end with the digest of its content, and does not")
        program = compile_again(header, arrays["source"].tobytes())
        if len(header["chips"]) != 1:
            raise ValueError(f"it holds {len(header['chips'])} chips, this release reads one")
        state = ChipState(program, header["chips"][0]["seed"])
        _fill(state, header["chips"][0] | {"version": version}, arrays)
    except Exception as error:  # a header of another make raises nearly anything
        raise ValueError(
            f"{path}: not a chip that Accelerator.save wrote, or not whole "
            f"({' '.join(str(error).split()) or type(error).__name__}); save it again"
        ) from error
    if version <= WITHOUT_NOISE:
        lacking = "no read noise that goes on from call to call, which begins anew"
        if not digest:
            lacking = f"no digest: whether it was changed cannot be seen; {lacking}"
        warnings.warn(
            f"{path} is of an older version and carries {lacking}; save it again", stacklevel=3
        )
    return state


def _fill(state: ChipState, header: dict[str, Any], arrays: dict[str, Any]) -> None:
    """Put a saved state onto a fresh chip; every array must have the shape it had."""
    state.clock_s, state.written_s = header["clock_s"], header["programmed_s"]
    state.pulses, state.turn = header["pulses"], header["turn"]
    for name in ("clock_s", "programmed_s", "pulses", "turn"):
        value = header[name]
        if value is not None and not 0 <= value < float("inf"):
            raise ValueError(f"{name} is {value}; it must be a number of at least 0")
    booked = header.get("spent", {})  # not in files of older releases
    state.spent = {operation: Spent(*values) for operation, values in booked.items()}
    if (climate := header.get("climate")) is not None:  # likewise
        state.climate = Climate(tuple(climate["since_s"]), tuple(climate["kelvin"]))
    for name, streams in state.streams.items():
        for effect, stream in streams.items():
            key = f"{FIRST}stream/{name}/{effect}"
            if key in arrays or effect != "wear":  # not in files of older releases
                stream.set_state(torch.from_numpy(arrays[key]))
        state.output_bits[name] = _stream(header["output_bits"][name])
        if header["version"] > WITHOUT_NOISE:
            state.flicker_bits[name] = _stream(header["flicker_bits"][name])
    for name in state.program.products:
        adapter = arrays.get(f"{FIRST}register/{name}.adapter_in")
        if adapter is not None:
            state.set_adapter(name, len(adapter))
    state.set_registers(
        {name: torch.from_numpy(arrays[f"{FIRST}register/{name}"]) for name in state.registers}
    )
    for name, op in state.program.products.items():
        weights = op.weight.shape
        state.remembered[name] = _array(arrays, f"remembered/{name}", weights)
        if f"{FIRST}holds/{name}" in arrays:  # not in files of older releases
            state.holds[name] = _array(arrays, f"holds/{name}", state.holds[name].shape)
        if f"{FIRST}baseline/{name}" in arrays:
            rows = torch.Size((1 + len(op.row_blocks), weights[0]))
            state.baseline[name] = _array(arrays, f"baseline/{name}", rows)
        if state.written_s is not None:
            shape = op.layout.shape(weights)
            if header["version"] <= WITHOUT_NOISE:
                # Exponents that no SET pulse changed.
                arrays[f"{FIRST}cells/{name}/deviate"] = np.full(shape, np.nan, np.float32)
            fields = (_array(arrays, f"cells/{name}/{field}", shape) for field in Cells._fields)
            state.cells[name] = Cells(*fields)
            noisy = header["version"] > WITHOUT_NOISE
            clocks_s = header["slow_clocks_s"][name] if noisy else []
            values = [_array(arrays, f"slow/{name}/{k}", shape) for k in range(len(clocks_s))]
            # Up to version 7 nothing was drawn together.
            together = header.get("slow_together", {}).get(name, (0, 0.0))
            state.slow[name] = SlowNoise(values, clocks_s, *together)


def _states(streams: Mapping[str, Fast]) -> dict[str, Any]:
    """Return the states of streams on the processor, for JSON."""
    return {name: bits.state for name, bits in streams.items() if isinstance(bits, Bits)}


def _stream(state: Any) -> Bits:
    bits = Bits(0)
    bits.state = state
    return bits


def _array(arrays: dict[str, Any], key: str, shape: torch.Size) -> torch.Tensor:
    value = torch.from_numpy(arrays[FIRST + key])
    if value.shape != shape:
        raise ValueError(f"{key} has shape {tuple(value.shape)}, the graph needs {tuple(shape)}")
    # A deviate of NaN says that no SET pulse changed the exponent.
    if not key.endswith("/deviate") and not bool(value.isfinite().all()):
        raise ValueError(f"{key} holds values that are not finite")
    return value
