"""Chips, rules and seeds spread over processes of this machine, or over a Dask cluster."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import Any
from urllib.parse import urlsplit

from snu_plugin.accepted import shown
from snu_plugin.origin import how_to_install

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Hosts whose traffic no other machine sees."""


def spread(calls: Iterable[Any], *, jobs: int = 1, scheduler: str | None = None) -> Iterator[Any]:
    """Yield what calls return, in their order, each as soon as it is there where that is possible.

    Args:
        calls: Made by ``joblib.delayed``; what they return depends on their arguments alone.
        jobs: Processes of this machine (-1: one per core). Inside
            ``joblib.parallel_config(backend=...)`` that backend is used.
        scheduler: Address of a Dask cluster whose workers take all calls instead, such as
            ``tcp://127.0.0.1:8786``. They see the files of this machine under the same names. Dask
            unpickles what it is sent: the address is on this machine, or ``tls://``.

    Raises:
        ValueError: For no job, and for another address.
        ImportError: If Dask is asked for and not installed.
        OSError: If no scheduler answers there.
    """
    check_spread(jobs, scheduler)
    from joblib import Parallel
    from joblib.parallel import get_active_backend

    with _cluster(scheduler):
        one_by_one = get_active_backend()[0].supports_return_generator
        if not one_by_one:
            yield from Parallel(n_jobs=-1 if scheduler else jobs)(calls)
            return
        with _without_interrupts():
            done = Parallel(n_jobs=jobs, return_as="generator")(calls)
        yield from done


def check_spread(jobs: int, scheduler: str | None) -> None:
    """Raise as ``spread`` does, before anything is computed; nothing is connected to."""
    if jobs == 0:
        raise ValueError("jobs is 0; give a number of processes, or -1 for one per core")
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
