"""Threads: one pool for the library, and its truce with the threads of BLAS.

BLAS threads and a pool of our own fight (8x slower, and without limit on a busy machine): inside, BLAS keeps to one.
"""

from __future__ import annotations

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from threadpoolctl import ThreadpoolController


class _Threads:
    """The thread pool of this process, and its hold on the threads of BLAS."""

    def __init__(self):
        self.pid, self.workers = os.getpid(), os.cpu_count() or 1
        self.pool = ThreadPoolExecutor(self.workers, thread_name_prefix="cvxlayers")
        self.lock, self.users, self.limit, self.modules = threading.Lock(), 0, None, 0


_THREADS = None


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
                t.modules, t.controller = len(sys.modules), ThreadpoolController()
            t.limit = t.controller.limit(limits=1, user_api="blas")
        t.users += 1
    try:
        yield
    finally:
        with t.lock:
            t.users -= 1
            if t.users == 0:
                t.limit.restore_original_limits()


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
