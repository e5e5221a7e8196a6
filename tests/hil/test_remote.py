"""A chip in another process: the same numbers, killed or not, and nothing past the protocol."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from threading import Thread
from typing import Any

import nir
import numpy as np
import pytest
import torch
from torch import Tensor

from forked import Process
from snu_plugin import archives
from snu_plugin.accelerator import PCM, Accelerator, Board
from snu_plugin.compiler import compile
from snu_plugin.graph import encode_snu, stamp
from snu_plugin.hil import BoardLost, Loop, SignPulses, TrainerState, connect, fine_tune
from snu_plugin.hil.messages import pack, unpack
from snu_plugin.neuron import SNUConfig

pytest.importorskip("zmq")

DT = 2.0**-10
START = """
import json, sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
from faulty_board import serve_faulty
serve_faulty(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4]))
"""
MODULE = "import runpy; runpy.run_module('snu_plugin.hil.serve', run_name='__main__')"


def network() -> nir.NIRGraph:
    draw = np.random.default_rng(0)
    nodes = {
        "in": nir.Input({"input": np.array([5])}),
        "fc1": nir.Linear(draw.normal(size=(8, 5)) / 2),
        "snu": encode_snu(SNUConfig(), 0.5, np.full(8, 0.4), dt=DT),
        "fc2": nir.Affine(draw.normal(size=(3, 8)) / 2, draw.normal(size=3) / 10),
        "out": nir.Output({"output": np.array([3])}),
    }
    return stamp(nir.NIRGraph(nodes, list(pairwise(nodes))), DT)


def chip() -> Accelerator:
    made = Accelerator(compile(network(), PCM), seed=3)
    made.program()
    made.wait(3600.0)
    made.calibrate()
    return made


def batches(count: int) -> list[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(1)
    x = (torch.rand(count, 6, 10, 5, generator=draw) < 0.4).float()
    target = torch.randn(count, 10, 3, generator=draw)
    return list(zip(x, target, strict=True))


def squared(output: Tensor, target: Tensor) -> Tensor:
    return (output.mean(0) - target).square().mean()


@dataclass
class Service:
    """A board's process, which is started again on the same port with the same key."""

    chip: Path
    port: int
    process: Process | None = None

    @property
    def key(self) -> Path:
        return self.chip.with_name("key")

    @property
    def address(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"

    def start(self, **faults: Any) -> None:
        told = str(self.chip), str(self.key), str(self.port), json.dumps(faults)
        self.process = Process(START, *told, ours=True)
        while not (said := self.process.out).endswith("\n"):
            assert self.process.runs, self.process.err
            time.sleep(0.01)
        assert said.strip() == self.address

    @contextmanager
    def started_again(self, *faults: dict[str, Any]) -> Iterator[None]:
        """Start the process again whenever it died, as often as there are faults to give it."""

        def keep_alive() -> None:
            for one in faults:
                assert self.process is not None
                assert self.process.wait() == -signal.SIGKILL
                self.start(**one)

        guard = Thread(target=keep_alive)
        guard.start()
        yield
        guard.join()

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()

    def connect(self, **options: Any) -> Any:
        return connect(self.address, self.key, **({"timeout_s": 20.0} | options))


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    chip().save(tmp_path / "chip.npz")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    made = Service(tmp_path / "chip.npz", port)
    yield made
    if made.process is not None:
        made.kill()


def same_state(path: Path, other: Accelerator, tmp_path: Path) -> bool:
    """Whether a chip's file is, bit for bit, what another chip saves."""
    other.save(tmp_path / "other.npz")
    one, two = (archives.read_arrays(file) for file in (path, tmp_path / "other.npz"))
    return {n: v.tobytes() for n, v in one.items()} == {n: v.tobytes() for n, v in two.items()}


def test_what_host_and_board_say_arrives_as_it_was_said() -> None:
    said = {"a": [1, 2.5, None, "x", True], "t": torch.arange(6).reshape(2, 3), "none": {}}
    said |= {
        "empty": torch.empty(0, 3),
        "mask": torch.tensor([True, False]),
        "tensor": float("inf"),
    }
    heard = unpack(pack(said))
    assert list(heard) == list(said)
    for name, value in said.items():
        if isinstance(value, Tensor):
            assert heard[name].dtype == value.dtype
            assert torch.equal(heard[name], value)
        else:
            assert heard[name] == value


@pytest.mark.parametrize(
    "message",
    [
        [b"{"],
        [b'["tensor", "float32", 3]'],
        [b'["tensor", "float32", 3]', b"1234"],
        [b'["tensor", "object", 1]', b"12345678"],
        [b"[]"],
        [b"1", b"more"],
        [b"\xff"],
        [b"[" * 100_000],
        [b'["tensor", "float32", -1, -1]', b"1234"],
        [],
    ],
)
def test_a_message_that_is_not_whole_is_refused_in_one_line(message: list[bytes]) -> None:
    with pytest.raises(ValueError, match="not a message between host and board") as refused:
        unpack(message)
    assert "\n" not in str(refused.value)


def test_a_chip_in_another_process_is_tuned_to_the_same_bits(
    service: Service, tmp_path: Path
) -> None:
    here = Accelerator.load(service.chip)
    rule = SignPulses(threshold=1e-3)
    wanted = fine_tune(here, batches(3), squared, rule)
    service.start()
    with service.connect() as board:
        found = fine_tune(board, batches(3), squared, rule)
        assert board.pulses == here.pulses > 0
        assert board.clock_s == here.clock_s
    assert list(found) == list(wanted)
    assert (found.before, found.after) == (wanted.before, wanted.after)
    assert same_state(service.chip, here, tmp_path)


def test_every_operation_answers_what_the_chip_here_answers(service: Service) -> None:
    here = Accelerator.load(service.chip)
    service.start()
    with service.connect() as there:
        both: tuple[Board, Board] = (here, there)
        x = batches(1)[0][0]
        runs = [board.run(x, record=True) for board in both]
        carried = [board.run(x, carry=True) for board in both]
        for (out, trace), (out2, trace2) in (runs, carried):
            assert torch.equal(out, out2)
            assert trace.counts == trace2.counts
            assert trace.cost == trace2.cost
            assert all(torch.equal(v, trace2.products[n]) for n, v in trace.products.items())
        for what in ("read_weights", "read_conductances"):
            seen, seen2 = (getattr(board, what)() for board in both)
            assert all(torch.equal(value, seen2[name]) for name, value in seen.items())
        weights = here.layout.products["fc1"].weight
        masks = weights > 0.4
        for board in both:
            board.pulse({"fc1": (weights > 0).int()})
            board.reset({"fc1": masks})
        assert here.write({"fc1": weights}, {"fc1": masks}) == there.write(
            {"fc1": weights}, {"fc1": masks}
        )
        for board in both:
            board.remember(2)
            board.calibrate()
            board.set_adapter("fc1", 2)
            board.wait(5.0)
        assert all(torch.equal(v, there.registers[n]) for n, v in here.registers.items())
        assert (here.clock_s, here.pulses) == (there.clock_s, there.pulses)
        assert there.spent == here.spent
        assert there.spent["run"].energy_nj > 0 == there.spent["run"].sets
        assert {"pulse", "reset", "write", "read", "calibration", "wait"} <= set(there.spent)


def test_what_the_chip_refuses_the_board_refuses_in_the_same_words(service: Service) -> None:
    service.start()
    with service.connect() as board:
        refusals: tuple[Callable[[Any], Any], ...] = (
            lambda b: b.set_registers({"nothing.gain": torch.ones(1)}),
            lambda b: b.pulse({"fc1": torch.ones(2, 2)}),
            lambda b: b.run(torch.ones(3, 2, 7)),
            lambda b: b.wait(-1.0),
        )
        for refused in refusals:
            with pytest.raises(ValueError) as here:  # noqa: PT011
                refused(Accelerator.load(service.chip))
            with pytest.raises(ValueError) as there:  # noqa: PT011
                refused(board)
            assert str(there.value) == str(here.value)
        board.wait(1.0)  # it goes on afterwards


def test_the_host_gets_the_graph_and_no_conductance(service: Service) -> None:
    service.start()
    with service.connect() as board:
        layout, here = board.layout, Accelerator.load(service.chip)
        assert not hasattr(board, "state")
        for name, op in layout.products.items():
            assert torch.equal(op.weight, here.layout.products[name].weight)  # as it was compiled
        with pytest.raises(LookupError, match="no question 'state'"):
            board._ask("state")
        with pytest.raises(LookupError, match="no operation 'save'"):
            board._operate("save", "/tmp/elsewhere")


def test_nobody_without_the_key_is_answered(service: Service, tmp_path: Path) -> None:
    from snu_plugin.hil.messages import Keys, make_keys, read_keys

    service.start()
    stranger, mine = make_keys(tmp_path / "other"), read_keys(service.key)
    (tmp_path / "mixed").write_text(json.dumps(Keys(stranger.host, mine.board)._asdict()))
    (tmp_path / "mixed").chmod(0o600)
    for name in ("other", "mixed"):
        with pytest.raises(BoardLost, match="has not answered standing for 1 s"):
            connect(service.address, tmp_path / name, patience_s=1.0)
    assert service.key.stat().st_mode & 0o077 == 0
    service.key.chmod(0o644)
    with pytest.raises(ValueError, match="can be read by others"):
        service.connect()


def pulsed_twice(board: Board, counts: dict[str, Tensor]) -> None:
    board.pulse(counts)
    board.pulse(counts)


@pytest.mark.parametrize("moment", ["before", "between", "after"])
def test_a_board_killed_in_an_operation_does_it_once(
    service: Service, tmp_path: Path, moment: str
) -> None:
    here = Accelerator.load(service.chip)
    counts = {"fc1": torch.ones(8, 5, dtype=torch.int32)}
    here.pulse(counts)
    here.pulse(counts)
    service.start(dies={2: moment})
    with service.started_again({}), service.connect(timeout_s=0.5) as board:
        with pytest.warns(UserWarning, match="nothing was done twice"):
            pulsed_twice(board, counts)  # on a busy machine the first may be late, too
        assert board.pulses == here.pulses
    assert same_state(service.chip, here, tmp_path)


def waited(service: Service) -> None:
    with service.connect(timeout_s=0.2) as board:
        board.wait(5.0)


def test_a_slow_board_is_asked_again_and_does_nothing_twice(
    service: Service, tmp_path: Path
) -> None:
    here = Accelerator.load(service.chip)
    here.wait(5.0)
    service.start(delay_s=0.3)
    with pytest.warns(UserWarning, match="nothing was done twice"):
        waited(service)
    assert same_state(service.chip, here, tmp_path)


def test_an_answer_of_a_wrong_shape_is_seen_and_the_answer_can_be_had_again(
    service: Service,
) -> None:
    wanted = Accelerator.load(service.chip).read_weights()
    service.start(wrong_shape=1)
    with service.connect() as board:
        with pytest.raises(BoardLost, match=r"operation 1 \(read_weights\) with .*\(9, 5\)"):
            board.read_weights()
        service.kill()
        service.start()
        read = board.read_weights()
        assert all(torch.equal(read[n], w) for n, w in wanted.items())


def test_a_board_that_is_gone_for_good_is_told_in_one_line(service: Service) -> None:
    service.start(silent_from=1)
    with service.connect() as board:
        board._patience_s = 1.0
        with pytest.raises(BoardLost, match="start it again with") as lost:
            board.wait(1.0)
        assert "\n" not in str(lost.value)


def refusal(service: Service) -> str:
    """What the command of a board says, in one line, of a chip that it does not serve."""
    process = Process(MODULE, str(service.chip), ours=True)
    assert process.wait() == 2
    assert process.err.count("\n") == 1
    return process.err


def test_a_chip_changed_behind_the_journal_is_refused(service: Service) -> None:
    service.start()
    with service.connect() as board:
        board.wait(1.0)
    service.kill()
    other = chip()
    other.wait(7.0)
    other.save(service.chip)
    assert "is not as operation 1 left it" in refusal(service)


def test_a_journal_of_which_a_bit_was_changed_is_refused(service: Service) -> None:
    service.start()
    with service.connect() as board:
        board.wait(1.0)
    service.kill()
    noted = service.chip.with_name(f"{service.chip.name}.journal") / "1"
    content = bytearray(noted.read_bytes())
    content[len(content) // 2] ^= 1
    noted.write_bytes(content)
    assert "1 is not an operation as the board noted it (it was changed" in refusal(service)


def tuned_with_checkpoints(
    service: Service, updates: int, dies: Sequence[int]
) -> tuple[TrainerState, list[Any]]:
    """Tune through the board, from checkpoint to checkpoint, by a host that dies in some updates.

    It goes on from its last checkpoint, which it takes every third update.
    """
    loop, data = Loop(rule=SignPulses(threshold=1e-3)), batches(updates)
    records: list[Any] = []
    kept: tuple[int, TrainerState | None, int] = (0, None, 0)
    for death in (*dies, updates):
        with service.connect(at=kept[0], timeout_s=3.0) as board:
            state = loop.start(board) if kept[1] is None else kept[1]
            for number in range(kept[2], min(death + 1, updates)):
                state, record = loop.update(board, state, *data[number], squared)
                records = [*records[:number], record]
                if number % 3 == 2 and number != death:
                    kept = (board.done, state, number + 1)
                    board.settle(board.done)
    return state, records


def undisturbed(path: Path, updates: int) -> tuple[Accelerator, TrainerState, list[Any]]:
    loop, made, records = Loop(rule=SignPulses(threshold=1e-3)), Accelerator.load(path), []
    state = loop.start(made)
    for x, target in batches(updates):
        state, record = loop.update(made, state, x, target, squared)
        records.append(record)
    return made, state, records


def equal_states(one: TrainerState, other: TrainerState) -> bool:
    return pack([one.moments, one.weights]) == pack([other.moments, other.weights])


@pytest.mark.filterwarnings("ignore:the board at .* nothing was done twice")  # on a busy machine
def test_a_host_that_dies_goes_on_from_its_checkpoint_and_pulses_nothing_twice(
    service: Service, tmp_path: Path
) -> None:
    made, wanted, records = undisturbed(service.chip, 7)
    service.start()
    state, found = tuned_with_checkpoints(service, 7, dies=[1, 4])
    assert found == records
    assert equal_states(state, wanted)
    assert same_state(service.chip, made, tmp_path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the board at .* nothing was done twice")
def test_a_board_killed_twenty_times_in_a_tuning_loses_nothing(
    service: Service, tmp_path: Path
) -> None:
    updates = 25  # of about five operations each
    made, wanted, records = undisturbed(service.chip, updates)
    draw = np.random.default_rng(7)
    numbers = np.sort(draw.choice(np.arange(2, 4 * updates), 20, replace=False))
    moments = [["before", "between", "after"][k] for k in draw.integers(3, size=20)]
    faults = [{"dies": {int(n): moment}} for n, moment in zip(numbers, moments, strict=True)]
    service.start(**faults[0])
    with service.started_again(*faults[1:], {}):  # which waits for all twenty
        state, found = tuned_with_checkpoints(service, updates, dies=[4, 13, 19])
    assert found == records
    assert equal_states(state, wanted)
    assert same_state(service.chip, made, tmp_path)
