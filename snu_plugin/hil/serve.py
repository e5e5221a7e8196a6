"""A chip in a process of its own, as silicon would be: ``python -m snu_plugin.hil.serve CHIP``.

The process answers on the loopback interface of this machine, to whoever has the key, what
``Board`` offers, nothing else. It keeps the chip on disk after every operation, before it answers.
Killed at any moment and started again, it goes on where it was. Operations carry numbers: one that
is asked for again is answered from the journal and never done twice.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch

from snu_plugin import files
from snu_plugin.accelerator import Accelerator, Board, Writing, describe_program
from snu_plugin.hil.messages import LARGEST, Keys, make_keys, pack, unpack, zeromq

QUESTIONS = [n for n, what in vars(Board).items() if isinstance(what, property) and n != "layout"]
"""What stands in every answer, as it was after that operation."""
OPERATIONS = [n for n, what in vars(Board).items() if callable(what) and not n.startswith("_")]
"""What may change it: noise is drawn, and time passes."""
REFUSALS = (ValueError, TypeError, LookupError, RuntimeError)
"""What a chip raises on purpose; the host raises the same."""


class Entry(NamedTuple):
    """An operation that was done, as it stands in the journal."""

    request: str
    """Digest of what was asked."""
    before: str
    """Digest of the chip's file before it."""
    after: str
    """... and after it."""
    sizes: list[int]
    """Bytes of each part of the answer; the parts follow."""


class KeptChip:
    """A chip on disk, and a journal of what was answered, in ``CHIP.journal``.

    Of an operation the entry is written first, then the chip, each whole or not at all. So after a
    kill the chip's digest says whether the last entry came to be; if not, it goes.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._folder = path.with_name(f"{path.name}.journal")
        self._chip, self._digest = Accelerator.load(path), files.sha256(path)
        self._folder.mkdir(exist_ok=True)
        self._kept = sorted(int(one.name) for one in self._folder.iterdir() if one.name.isdigit())
        self.done = 0
        """Number of the last operation."""
        if not self._kept:  # where the host begins
            self._kept.append(0)
            answer = pack({"value": None, "warnings": [], "standing": self._standing()})
            self._note(0, "", "", answer)
            return
        self.done = self._kept[-1]
        entry = self._entry(self.done)[0]
        if entry.after != self._digest and entry.before == self._digest:
            (self._folder / f"{self._kept.pop()}").unlink()
            self.done -= 1
        elif entry.after != self._digest:
            raise ValueError(
                f"{path} is not as operation {self.done} left it; bring that chip back, or remove "
                f"{self._folder} to begin anew with this one"
            )

    def answer(self, question: str, at: int | None) -> Any:
        """Answer what changes nothing: the layout, or how all stood after operation ``at``."""
        if question == "layout":
            program = self._chip.layout
            source = torch.frombuffer(bytearray(program.source), dtype=torch.uint8)
            return {"header": json.dumps(describe_program(program)), "source": source}
        if question != "standing":
            raise LookupError(f"no question {question!r}; a board answers layout and standing")
        at = self.done if at is None else at
        if at not in self._kept:
            raise RuntimeError(self._lacks(at))
        _, answer = self._entry(at)
        with self._as_noted(self._folder / f"{at}"):
            return {"done": at, "standing": unpack(answer)["standing"]}

    def do(self, number: int, operation: str, given: Sequence[bytes]) -> list[bytes]:
        """Return the answer to an operation: done now, or from the journal if it was before."""
        request = hashlib.sha256(b"\0".join([operation.encode(), *given])).hexdigest()
        if number != self.done + 1:
            return self._again(number, operation, request)
        before = self._digest
        answer = pack(self._perform(operation, given))
        new = self._folder / "next.npz"
        self._chip.save(new)
        self._digest = files.sha256(new)
        self._note(number, request, before, answer)
        new.replace(self._path)
        self._kept.append(number)
        self.done = number
        return answer

    def forget(self, number: int) -> None:
        """Remove what was answered before an operation, but for the last."""
        while len(self._kept) > 1 and self._kept[0] < number:
            (self._folder / f"{self._kept.pop(0)}").unlink()

    def _again(self, number: int, operation: str, request: str) -> list[bytes]:
        if number not in self._kept:
            raise RuntimeError(self._lacks(number))
        entry, answer = self._entry(number)
        if entry.request != request:
            raise RuntimeError(
                f"operation {number} ({operation}) was another when it was done: another host "
                "has used the chip since, or this one goes on differently; begin anew from the "
                "chip as it is"
            )
        return answer

    def _lacks(self, number: int) -> str:
        return (
            f"operation {number} was asked for, the chip has done {self.done} and knows answers "
            f"from {self._kept[0]} on; a tuning cannot go on from there, begin it anew from the "
            "chip as it is"
        )

    def _standing(self) -> dict[str, Any]:
        return {name: getattr(self._chip, name) for name in QUESTIONS}

    def _note(self, number: int, request: str, before: str, answer: list[bytes]) -> None:
        entry = Entry(request, before, self._digest, [len(part) for part in answer])
        line = json.dumps(entry).encode() + b"\n"
        with files.draft(self._folder / f"{number}") as new:
            new.write_bytes(line + b"".join(answer))
            files.add_digest(new)

    def _entry(self, number: int) -> tuple[Entry, list[bytes]]:
        """Return what ``_note`` wrote; ``ValueError`` in one line if it is not that any more."""
        file = self._folder / f"{number}"
        with self._as_noted(file):
            if not files.check_digest(file):
                raise ValueError("it should end with the digest of its content, and does not")
            line, _, rest = file.read_bytes()[: -files.DIGEST_SIZE].partition(b"\n")
            entry, parts = Entry(*json.loads(line)), list[bytes]()
            for size in entry.sizes:
                parts.append(rest[:size])
                rest = rest[size:]
        return entry, parts

    @contextmanager
    def _as_noted(self, file: Path) -> Iterator[None]:
        """Say of a file of the journal that it is not what was noted, where its content is not."""
        try:
            yield
        except Exception as error:  # a file of another make raises nearly anything
            why = " ".join(str(error).split())[:300] or type(error).__name__
            raise ValueError(
                f"{file} is not an operation as the board noted it ({why}); remove "
                f"{self._folder} to begin anew with the chip as it is"
            ) from error

    def _perform(self, operation: str, message: Sequence[bytes]) -> dict[str, Any]:
        """Let the chip do it; what it refuses is an answer too, as it may have taken time."""
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            try:
                if operation not in OPERATIONS:
                    known = ", ".join(OPERATIONS)
                    raise LookupError(f"no operation {operation!r}; a board has {known}")
                given = unpack(message)
                found = getattr(self._chip, operation)(*given["args"], **given["options"])
            except REFUSALS as error:
                return _refusal(error) | {"standing": self._standing()}
        if operation == "run":
            out, trace = found
            found = {
                "output": out,
                "counts": {name: asdict(count) for name, count in trace.counts.items()},
                "spikes_per_step": trace.spikes_per_step,
                "seconds": trace.seconds,
                "products": trace.products,
                "steps": trace.steps,
                "batch": trace.batch,
            }
        elif isinstance(found, Writing):
            found = found._asdict()
        told = [str(one.message) for one in said]
        return {"value": found, "warnings": told, "standing": self._standing()}


def serve(chip: Path, keys: Keys, port: int = 0, *, ready: Any = print) -> None:
    """Answer hosts that have the keys, on 127.0.0.1, until the process ends.

    Args:
        chip: A file that ``Accelerator.save`` wrote; it changes with every operation.
        keys: See ``make_keys``.
        port: Of TCP; 0 takes a free one.
        ready: Called with the address as soon as hosts may connect.

    Raises:
        ImportError: Without pyzmq.
        OSError: If the port is taken, or another process serves the chip.
        ValueError: If the file holds no chip, or one that another process has changed.
    """
    zmq = zeromq()
    with files.claim(chip):
        kept = KeptChip(chip)
        with _listening(zmq, keys, port) as socket:
            ready(socket.getsockopt(zmq.LAST_ENDPOINT).decode().rstrip("\0"))
            while True:
                socket.send_multipart(_answered(kept, socket.recv_multipart()))


def _answered(kept: KeptChip, asked: Sequence[bytes]) -> list[bytes]:
    """Return the answer to a question, or to an operation, which has a number."""
    try:
        head = unpack(asked[:1])
        if head["number"] is None:
            value = kept.answer(str(head["what"]), head["at"])
            return pack({"value": value, "warnings": []})
        kept.forget(int(head["forget"]))
        return kept.do(int(head["number"]), str(head["what"]), asked[1:])
    except REFUSALS as error:
        return pack(_refusal(error))


def _refusal(error: Exception) -> dict[str, Any]:
    kind = next(one.__name__ for one in REFUSALS if isinstance(error, one))
    return {"error": kind, "message": " ".join(str(error).split())}


@contextmanager
def _listening(zmq: Any, keys: Keys, port: int) -> Any:
    """Open the socket, which lets in nobody but the host with the key."""
    from zmq.auth.thread import ThreadAuthenticator

    host, _ = keys.public()

    class OneHost:
        """Says who may connect."""

        def callback(self, domain: str, key: bytes) -> bool:
            return key == host

    with zmq.Context() as context:
        guard = ThreadAuthenticator(context)
        guard.start()
        try:
            guard.configure_curve_callback("*", OneHost())
            with context.socket(zmq.REP) as socket:
                socket.setsockopt(zmq.LINGER, 0)
                socket.setsockopt(zmq.MAXMSGSIZE, LARGEST)
                socket.curve_server = True
                socket.curve_secretkey = keys.board.encode()
                socket.curve_publickey = keys.public()[1]
                try:
                    socket.bind(f"tcp://127.0.0.1:{port or '*'}")
                except zmq.ZMQError as error:
                    raise OSError(f"port {port} cannot be taken ({error}); give another") from error
                yield socket
        finally:
            guard.stop()


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve a chip until the process is stopped."""
    parser = argparse.ArgumentParser("python -m snu_plugin.hil.serve", description=__doc__)
    parser.add_argument("chip", type=Path, help="what Accelerator.save wrote; it is changed")
    parser.add_argument("--port", type=int, default=0, help="of TCP on 127.0.0.1; 0: a free one")
    parser.add_argument(
        "--key", type=Path, help="file of the keys, made if missing; default CHIP.key"
    )
    given = parser.parse_args(arguments)
    key = given.key or given.chip.with_name(f"{given.chip.name}.key")

    def ready(address: str) -> None:
        print(f"{given.chip} on {address}, key in {key}", flush=True)

    try:
        if not given.chip.is_file():
            raise FileNotFoundError(f"{given.chip}: no such file; give a chip that was saved")
        serve(given.chip, make_keys(key), given.port, ready=ready)
    except KeyboardInterrupt:
        return 130
    except (OSError, ValueError, ImportError) as error:
        print(f"snu_plugin.hil.serve: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
