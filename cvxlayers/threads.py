"""Threads: one pool for the library, and its truce with the threads of BLAS.

BLAS threads and a pool of our own fight (8x slower, and without limit on a busy machine): inside, BLAS keeps to one.
"""

from __future__ import annotations

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext

from threadpoolctl import ThreadpoolController


class _Threads:
    """The thread pool of this process, and its hold on the threads of BLAS."""

    def __init__(self):
        self.pid, self.workers = os.getpid(), _allowed()
        self.pool = ThreadPoolExecutor(self.workers, thread_name_prefix="cvxlayers")
        self.lock, self.users, self.modules = threading.Lock(), 0, 0
        self.blas: list = []  # the libraries, and those that are limited now, with their numbers of threads
        self.limited: list[tuple] = []


_THREADS = None


def _allowed():
    """CVXLAYERS_NUM_THREADS, or the processors that this process may use."""
    limit = os.environ.get("CVXLAYERS_NUM_THREADS", "")
    if limit.isdigit() and int(limit):
        return int(limit)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _threads():
    global _THREADS
    if _THREADS is None or _THREADS.pid != os.getpid():  # threads do not survive a fork
        _THREADS = _Threads()
    return _THREADS


@contextmanager
def single_threaded_blas():
    """BLAS keeps to one thread inside, in the whole process; else its threads and the pool's fight (8x slower).

    The last one out restores: with a plain `threadpool_limits`, two overlapping calls leave the limit on for good.
    """
    t = _threads()
    with t.lock:
        if t.users == 0:
            if t.modules != len(sys.modules):  # finding the libraries takes 0.7 ms: again only after further imports
                t.modules, t.blas = len(sys.modules), ThreadpoolController().select(user_api="blas").lib_controllers
            t.limited = [(library, threads) for library in t.blas if (threads := library.get_num_threads()) > 1]
            for library, _ in t.limited:  # by hand: threadpoolctl's own context takes three times as long
                library.set_num_threads(1)
        t.users += 1
    try:
        yield
    finally:
        with t.lock:
            t.users -= 1
            if t.users == 0:
                for library, threads in t.limited:
                    library.set_num_threads(threads)


def blas_for(size: int):
    """The context for linear algebra with matrices of this size: one thread up to 600.

    Measured: no slower there on a quiet machine, and on a busy one, where the threads of BLAS wait for each other in a
    loop, a call that takes 7 ms stays at 8 ms instead of 150 ms.
    """
    return single_threaded_blas() if size <= 600 else nullcontext()


def workers() -> int:
    """How many threads the library uses."""
    return _threads().workers


def each_item(function, batch: int) -> None:
    """function(i) for each item: the caller and the pool take the next item until none is left."""
    if batch == 1:
        function(0)
        return
    items = iter(range(batch))

    def work():
        for i in items:
            function(i)

    t = _threads()
    with single_threaded_blas():
        others = [t.pool.submit(work) for _ in range(min(batch, t.workers) - 1)]
        try:
            work()
        finally:
            for other in others:  # what has not started is not needed any more
                if not other.cancel():
                    other.result()


def each_slice(function, batch: int) -> None:
    """function(slice) for slices that cover the batch, in parallel: for array functions that release the interpreter lock."""
    parts = min(batch, 2 * _threads().workers)
    edges = [batch * k // parts for k in range(parts + 1)]
    each_item(lambda k: function(slice(edges[k], edges[k + 1])), parts)
