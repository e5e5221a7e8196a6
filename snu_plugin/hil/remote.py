"""A board in another process, as its host sees it."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from snu_plugin.accelerator import (
    Count,
    Program,
    Spent,
    Trace,
    Writing,
    checked_inputs,
    compile_again,
)
from snu_plugin.hil.messages import LARGEST, Keys, pack, read_keys, unpack, zeromq

ERRORS = {one.__name__: one for one in (ValueError, TypeError, LookupError, RuntimeError)}


class BoardLost(ConnectionError):
    """A board that does not answer, or answers what cannot be; the host goes on once it is back."""


def connect(
    address: str,
    key: str | Path,
    *,
    at: int | None = None,
    timeout_s: float = 10.0,
    patience_s: float = 60.0,
) -> RemoteBoard:
    """Return the board that ``python -m snu_plugin.hil.serve CHIP`` serves.

    Args:
        address: As the server prints it, ``tcp://127.0.0.1:PORT``.
        key: The file of keys that the server prints.
        at: Go on after so many operations, as a checkpoint says (``RemoteBoard.done``): what was
            done since is answered from the board's journal and not done again. ``None``: go on
            with the chip as it is.
        timeout_s: After how many seconds without an answer an operation is asked for again; twice
            as many each time.
        patience_s: After how many the board counts as lost.

    Raises:
        BoardLost: If nothing answers, or the key is not the board's.
        OSError, ValueError: For a key that cannot be read.
        ImportError: Without pyzmq, ``pip install 'snu-plugin[board]'``.
    """
    return RemoteBoard(address, read_keys(Path(key)), at, timeout_s, patience_s)


class RemoteBoard:
    """A ``Board`` behind a connection; see ``connect``. Close it, or use ``with``."""

    def __init__(
        self, address: str, keys: Keys, at: int | None, timeout_s: float, patience_s: float
    ) -> None:
        self._address, self._keys = address, keys
        self._timeout_s, self._patience_s = timeout_s, patience_s
        self._zmq = zeromq()
        self._context = self._zmq.Context()
        self._socket: Any = None
        try:
            found = self._ask("standing", at)
            self._done: int = found["done"]
            self._standing: dict[str, Any] = found["standing"]
            # Of a checkpoint, all answers since are needed; else the last one, for asking again.
            self._settled = at
            header = self._ask("layout")
            self._layout = compile_again(
                json.loads(header["header"]), header["source"].numpy().tobytes()
            )
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> RemoteBoard:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection; the board stays as it is."""
        self._hang_up()
        self._context.term()

    @property
    def done(self) -> int:
        """Operations so far, by which a checkpoint says where the host stands: ``connect(at=)``."""
        return self._done

    def settle(self, done: int) -> None:
        """Say that a checkpoint says ``done``: later answers are kept, earlier ones may go."""
        self._settled = done

    @property
    def layout(self) -> Program:
        """The program the chip was made for."""
        return self._layout

    @property
    def pulses(self) -> int:
        """SET and RESET pulses so far."""
        return int(self._standing["pulses"])

    @property
    def clock_s(self) -> float:
        """Seconds on the chip's clock."""
        return float(self._standing["clock_s"])

    @property
    def registers(self) -> Mapping[str, Tensor]:
        """Digital values by name."""
        return dict(self._standing["registers"])

    @property
    def spent(self) -> Mapping[str, Spent]:
        """What was spent so far, by operation."""
        return {what: Spent(*fields) for what, fields in self._standing["spent"].items()}

    def set_registers(self, values: Mapping[str, Tensor]) -> None:
        """Replace digital values by name."""
        self._operate("set_registers", dict(values))

    def set_adapter(self, node: str, rank: int) -> None:
        """Put a digital low-rank adapter of zeros beside a node; rank 0 takes it away."""
        self._operate("set_adapter", node, rank)

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self._operate("wait", seconds)

    def run(self, x: Any, *, record: bool = False, carry: bool = False) -> tuple[Any, Trace]:
        """Run sequences ``(T, B, ...)``; see ``Accelerator.run``.

        Where its neurons stand is lost with the board's process: ``carry`` is refused after that.
        """
        inputs = checked_inputs(self.layout, x)
        steps, batch = next(iter(inputs.values())).shape[:2]
        shapes, outputs = self.layout.shapes, self.layout.outputs

        def fits(found: dict[str, Any]) -> None:
            out = found["output"]
            seen = out if isinstance(out, dict) else {outputs[0]: out}
            recorded = list(self.layout.products) if record else []
            self._check("run", {n: (steps, batch, *shapes[n]) for n in outputs}, seen)
            wanted = {n: (steps, batch, *shapes[n]) for n in recorded}
            self._check("run", wanted, found["products"])

        found = self._operate("run", inputs, record=record, carry=carry, fits=fits)
        trace = Trace(
            self.layout,
            {name: Count(**count) for name, count in found["counts"].items()},
            found["spikes_per_step"],
            found["seconds"],
            found["products"],
            found["steps"],
            found["batch"],
        )
        return found["output"], trace

    def read_weights(self) -> dict[str, Tensor]:
        """Read the weights back, once, with noise, in the graph's units and shapes."""
        wanted = {name: op.geometry.shape for name, op in self.layout.products.items()}
        found: dict[str, Tensor] = self._operate(
            "read_weights", fits=lambda found: self._check("read_weights", wanted, found)
        )
        return found

    def read_conductances(self) -> dict[str, Tensor]:
        """Read every device, once, with noise: ``(2, out, in)``, G+ and G-, µS."""
        wanted = {name: (2, *op.weight.shape) for name, op in self.layout.products.items()}
        found: dict[str, Tensor] = self._operate(
            "read_conductances", fits=lambda found: self._check("read_conductances", wanted, found)
        )
        return found

    def pulse(self, counts: Mapping[str, Tensor]) -> None:
        """Apply SET pulses: positive counts to G+, negative to G-; shaped as weights."""
        self._operate("pulse", dict(counts))

    def reset(self, pairs: Mapping[str, Tensor]) -> None:
        """RESET both devices of the pairs where a mask, shaped as the weights, is true."""
        self._operate("reset", dict(pairs))

    def write(self, targets: Mapping[str, Any], where: Mapping[str, Any] | None = None) -> Writing:
        """Write weights again in a closed loop, all or those where a mask is true; say the cost."""
        return Writing(**self._operate("write", targets, where))

    def calibrate(self) -> None:
        """Fit the digital gains so that the products match the remembered weights again."""
        self._operate("calibrate")

    def remember(self, reads: int = 16) -> None:
        """Take what ``reads`` readings show on average as the weights to calibrate to."""
        self._operate("remember", reads)

    def _operate(self, what: str, *args: Any, fits: Any = None, **options: Any) -> Any:
        """Let the board do the next operation; it counts once the answer is there and fits."""
        number = self._done + 1
        settled = number - 1 if self._settled is None else min(self._settled, number - 1)
        head = {"number": number, "what": what, "forget": settled}
        given = pack({"args": args, "options": options})
        answer = self._exchange(f"operation {number} ({what})", [*pack(head), *given])
        if "error" not in answer and fits is not None:
            fits(answer["value"])
        if "standing" in answer:  # else it was not done
            self._done, self._standing = number, answer["standing"]
        return self._value(answer)

    def _ask(self, what: str, at: int | None = None) -> Any:
        head = {"number": None, "what": what, "at": at}
        return self._value(self._exchange(what, pack(head)))

    def _value(self, answer: dict[str, Any]) -> Any:
        if "error" in answer:
            raise ERRORS[answer["error"]](answer["message"])
        for sentence in answer["warnings"]:
            warnings.warn(sentence, stacklevel=5)
        return answer["value"]

    def _exchange(self, what: str, message: list[bytes]) -> dict[str, Any]:
        """Ask until there is an answer: the same again never does anything twice."""
        end, asked = time.monotonic() + self._patience_s, 0
        while time.monotonic() < end:
            socket = self._socket if self._socket is not None else self._call()
            socket.send_multipart(message)
            # Longer each time: a slow board would never get to what was asked last.
            left_s = min(self._timeout_s * 2**asked, end - time.monotonic())
            asked += 1
            if socket.poll(max(1, int(1000 * left_s))):
                try:
                    answer: dict[str, Any] = unpack(socket.recv_multipart())
                except ValueError as error:
                    raise BoardLost(f"{self._address} answered {what} with {error}") from error
                if asked > 1:
                    warnings.warn(
                        f"the board at {self._address} did not answer {what} at once; it was asked "
                        f"{asked} times and nothing was done twice",
                        stacklevel=6,
                    )
                return answer
            self._hang_up()
        raise BoardLost(
            f"the board at {self._address} has not answered {what} for {self._patience_s:g} s; "
            "start it again with python -m snu_plugin.hil.serve CHIP --port PORT and the same key, "
            "then go on: nothing is done twice"
        )

    def _call(self) -> Any:
        zmq = self._zmq
        host, board = self._keys.public()
        self._socket = socket = self._context.socket(zmq.REQ)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.MAXMSGSIZE, LARGEST)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
        socket.curve_secretkey = self._keys.host.encode()
        socket.curve_publickey = host
        socket.curve_serverkey = board
        socket.connect(self._address)
        return socket

    def _hang_up(self) -> None:
        """Close the socket: one that waits for an answer cannot ask again."""
        if self._socket is not None:
            self._socket.close(linger=0)
            self._socket = None

    def _check(self, what: str, wanted: Mapping[str, Any], found: Any) -> None:
        """Raise unless there is a tensor of the right shape for each name."""
        shapes = {n: tuple(v.shape) for n, v in found.items() if isinstance(v, torch.Tensor)}
        if shapes != {name: tuple(shape) for name, shape in wanted.items()}:
            raise BoardLost(
                f"the board at {self._address} answered operation {self._done + 1} ({what}) with "
                f"{shapes}; the program has {dict(wanted)}: ask again, or look at the board"
            )
