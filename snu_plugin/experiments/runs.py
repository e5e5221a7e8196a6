"""How a study runs: on which processes, how it is taken up after a stop, what it says meanwhile."""

from __future__ import annotations

import re
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from snu_plugin.accepted import shown
from snu_plugin.durations import span
from snu_plugin.origin import how_to_install

Say = Callable[[str], None]
"""What is told, in a sentence, what is going on; one that begins with ``3 of 10`` counts."""

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Hosts whose traffic no other machine sees."""


@dataclass(frozen=True, kw_only=True)
class Running:
    """How a study runs, and is taken up: bit for bit with what it gives without interruption.

    Raises:
        ValueError: For no job, and for an address that is none or that others could listen to.
        ImportError: If Dask is asked for and not installed.
    """

    jobs: int = 1
    """Processes of this machine (-1: one per core); they change nothing but the time."""
    scheduler: str | None = None
    """Address of a Dask cluster whose workers take all calls instead, such as
    ``tcp://127.0.0.1:8786``. They see the files of this machine under the same names. Dask
    unpickles what it is sent: the address is on this machine, or ``tls://``. Nothing is connected
    to before there are calls."""
    inputs: Mapping[str, Path] = field(default_factory=dict)
    """Files whose content must be the same when it is taken up, by name."""
    resume: bool = False
    """Take up what its checkpoints hold."""
    progress: Say = lambda text: None
    """Called with a sentence on what is going on."""

    def __post_init__(self) -> None:
        if self.jobs == 0:
            raise ValueError("jobs is 0; give a number of processes, or -1 for one per core")
        scheduler = self.scheduler
        if scheduler is None:
            return
        try:
            found = urlsplit(scheduler)
            host, port, scheme = found.hostname, found.port, found.scheme
        except ValueError:
            host = port = scheme = None
        if scheme not in ("tcp", "tls") or not host or not port:
            raise ValueError(
                f"scheduler is {shown(scheduler)}; give the address of a Dask scheduler, such as "
                "tcp://127.0.0.1:8786 or tls://HOST:8786"
            )
        if scheme == "tcp" and host not in LOOPBACK:
            raise ValueError(
                f"scheduler is {scheduler}, on another machine and not encrypted, and its workers "
                "unpickle what they are sent; give tls://HOST:PORT, or a tunnel to 127.0.0.1"
            )
        try:
            import distributed  # noqa: F401
        except ImportError:
            raise ImportError(
                f"a scheduler needs Dask; {how_to_install('dask')}, or give --jobs"
            ) from None

    def spread(self, calls: Iterable[Any]) -> Iterator[Any]:
        """Yield what calls return, in their order, each as soon as it is there if that is possible.

        Inside ``joblib.parallel_config(backend=...)`` that backend is used.

        Args:
            calls: Made by ``joblib.delayed``; what they return depends on their arguments alone.

        Raises:
            OSError: If no scheduler answers at its address.
        """
        from joblib import Parallel
        from joblib.parallel import get_active_backend

        with _cluster(self.scheduler):
            one_by_one = get_active_backend()[0].supports_return_generator
            if not one_by_one:
                yield from Parallel(n_jobs=-1 if self.scheduler else self.jobs)(calls)
                return
            with _without_interrupts():
                done = Parallel(n_jobs=self.jobs, return_as="generator")(calls)
            yield from done


ALONE = Running()
"""One call after the other, from the beginning."""


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Have processes that begin meanwhile never see Ctrl-C: it reaches all of a terminal's.

    The first of them sees it, as soon as this is over, and ends the others; a process that has
    only begun to load would answer it with a traceback.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # which unblocks the signal, up to Python 3.11
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _cluster(scheduler: str | None) -> Iterator[None]:
    """Let joblib send its calls to a Dask cluster, or leave it as it is."""
    if scheduler is None:
        yield
        return
    from distributed import Client
    from joblib import parallel_config

    # Certificates are those of Dask's own configuration (distributed.comm.tls).
    with Client(scheduler, set_as_default=False) as client, parallel_config("dask", client=client):
        yield


EVERY_S = 5.0
"""Seconds from one checkpoint to the next, at least; the last one is always written."""


def check_resumable(folder: Path, resume: bool) -> None:
    """Raise a ``ValueError`` if a run is to be taken up and ``folder`` holds no checkpoint."""
    if resume and not holds(folder):
        raise ValueError(f"{folder} holds no checkpoint; leave out --resume to start anew")


def check_checkpoint(file: Path, resume: bool) -> None:
    """Raise a ``ValueError`` if a run is to be taken up and its only checkpoint is not there."""
    if resume and not file.is_file():
        raise ValueError(f"{file} does not exist; leave out --resume to start anew")


def holds(folder: Path) -> bool:
    """Return whether there is a checkpoint to take up."""
    return any(folder.glob("*.checkpoint"))


def left_in(folder: Path | None) -> str:
    """Say what an interrupted run left; ``None``: it was given no place to keep anything."""
    if folder is None:
        return "nothing was kept, as there is no --out to keep it beside"
    return "--resume goes on where the checkpoints stand" if holds(folder) else "nothing was kept"


@contextmanager
def checkpoints(folder: Path, resume: bool) -> Iterator[None]:
    """Hold the checkpoints of a run: those of another go first, and all of them at its end.

    An error or a signal leaves them. Whoever calls has claimed what the run writes.
    """
    if not resume:
        _remove(folder)
    yield
    _remove(folder)


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)  # with what a killed process began to write there


class Left:
    """The time left, from sentences that count: ``3 of 10 chips done``.

    It counts from the first such sentence, so that what a run taken up had done takes no time.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._first: tuple[float, int] | None = None
        self.told = ""
        """What is left in words; empty until two sentences have counted."""

    def hear(self, text: str) -> None:
        """Take up a sentence; most say nothing of how much is done."""
        counted = re.match(r"(\d+) of (\d+)\b", text)
        if counted is None:
            return
        done, whole = int(counted[1]), int(counted[2])
        if self._first is None or done < self._first[1]:
            self._first = self._now(), done
        began, first = self._first
        if done > first:
            seconds = (self._now() - began) / (done - first) * (whole - done)
            self.told = f"about {span(max(1.0, round(seconds)))} to go" if whole > done else ""


class Progress:
    """``with Progress() as progress: progress("half done")``; shows nothing without a terminal."""

    def __enter__(self) -> Say:
        from tqdm import tqdm

        # disable=None: tqdm shows nothing where standard error is not a terminal.
        self.bar = tqdm(bar_format="{elapsed} {desc}", disable=None, leave=False)
        self.left = Left()
        return self._say

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def _say(self, text: str) -> None:
        self.left.hear(text)
        self.bar.set_description_str(", ".join(filter(None, (text, self.left.told))))
        self.bar.refresh()


def remaining(progress: Say, name: str, epochs: int) -> Callable[[float], None]:
    """Return what is called with the epochs gone and tells, every other second, how long it takes.

    The estimate counts from the second call: a run taken up is told right, and what is compiled for
    the first batch is not taken for the time of a batch.
    """
    calls: list[tuple[float, float]] = []
    last = time.monotonic()

    def tell(gone: float) -> None:
        nonlocal last
        now = time.monotonic()
        if len(calls) < 2:
            calls.append((now, gone))
            return
        began, first = calls[1]
        if gone > first and now - last >= 2:
            last = now
            left = (now - began) / (gone - first) * (epochs - gone)
            progress(f"{name}, {gone:.2f} of {epochs} epochs, about {left / 60:.0f} min to go")

    return tell
