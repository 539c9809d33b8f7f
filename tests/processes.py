"""Layers in other processes, for test_processes.py.

This is a module of its own so that a new interpreter imports one framework only. Forks happen in an interpreter without
JAX and TensorFlow, whose threads do not survive them: `python -m tests.processes NAME ...`.
"""

from __future__ import annotations

import datetime
import importlib
import multiprocessing
import os
import socket
import sys
import tempfile
import threading

import cvxpy as cp
import numpy as np

TIME = 60  # seconds after which a process counts as hanging


def distances(curved=False):
    """Projection onto a simplex, in a ball if curved."""
    b, x = cp.Parameter(4), cp.Variable(4)
    constraints = [x >= 0, cp.sum(x) <= 1] + [cp.norm(x) <= 0.7] * curved
    return cp.Problem(cp.Minimize(cp.sum_squares(x - b)), constraints), [b], [x]


def batch(seed, size=32):
    """Values for `distances`."""
    return np.random.default_rng(seed).standard_normal((size, 4))


def by_torch(layer, value):
    """(solution, gradient of its squares) as NumPy arrays."""
    import torch

    v = torch.tensor(value, requires_grad=True)
    (x,) = layer(v)
    x.square().sum().backward()
    return x.detach().numpy(), v.grad.numpy()


def by_jax(layer, value):
    """(solution, gradient of its squares) as NumPy arrays."""
    import jax

    with jax.enable_x64(True):
        return np.asarray(layer(value)[0]), np.asarray(jax.grad(lambda v: (layer(v)[0] ** 2).sum())(value))


def by_tensorflow(layer, value):
    """(solution, gradient of its squares) as NumPy arrays."""
    import tensorflow as tf

    v = tf.constant(value)
    with tf.GradientTape() as tape:
        tape.watch(v)
        (x,) = layer(v)
        loss = tf.reduce_sum(x**2)
    return x.numpy(), tape.gradient(loss, v).numpy()


WAYS = {"torch": by_torch, "jax": by_jax, "tensorflow": by_tensorflow}


def same(found, expected):
    """Whether arrays are equal, to the last bit."""
    return all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def answer(way, layer, value, queue):
    """The whole work of a process."""
    queue.put(WAYS[way](layer, value))


def in_a_process(context, way, layer, value):
    """What `answer` finds in another process. Raises queue.Empty if it hangs."""
    queue = context.Queue()
    process = context.Process(target=answer, args=(way, layer, value, queue), daemon=True)
    process.start()
    found = queue.get(timeout=TIME)
    process.join(TIME)
    assert process.exitcode == 0
    return found


def spawn(way):
    """A layer goes to a new interpreter, and gives the same results there."""
    layer = importlib.import_module(f"cvxlayers.{way}").CvxpyLayer(*distances(curved=True))
    expected = WAYS[way](layer, batch(0))
    assert same(in_a_process(multiprocessing.get_context("spawn"), way, layer, batch(0)), expected)


def fork():
    """A process forks after the thread pool and the solvers have been used, with each solver."""
    from cvxlayers.torch import CvxpyLayer

    for solver in (None, "clarabel", "scs", "ecos"):
        for curved in (False, True):
            layer = CvxpyLayer(*distances(curved), solver=solver)
            expected = by_torch(layer, batch(1))
            assert same(in_a_process(multiprocessing.get_context("fork"), "torch", layer, batch(1)), expected)


def fork_while_threads_work():
    """A process forks while other threads are in the middle of calls, and may hold the library's locks."""
    from cvxlayers.torch import CvxpyLayer

    layer, stop = CvxpyLayer(*distances()), threading.Event()
    expected = by_torch(layer, batch(2))

    def work(seed):
        while not stop.is_set():
            by_torch(layer, batch(seed, 1 + seed))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    [t.start() for t in threads]
    try:
        for _ in range(20):
            assert same(in_a_process(multiprocessing.get_context("fork"), "torch", layer, batch(2)), expected)
    finally:
        stop.set()
        [t.join() for t in threads]


def fork_with_a_lock_held():
    """A lock on idle solvers that another thread holds during the fork is held for good in the child."""
    from cvxlayers.solvers import SOLVERS
    from cvxlayers.torch import CvxpyLayer

    if not SOLVERS["moreau"].installed():
        return
    layer = CvxpyLayer(*distances(), solver="moreau")
    expected = by_torch(layer, batch(2))
    with layer._handle.map.solvers[0]._lock:
        found = in_a_process(multiprocessing.get_context("fork"), "torch", layer, batch(2))
    assert same(found, expected)


class Solved:
    """A data set whose items are solutions."""

    def __init__(self, layer, values):
        self.layer, self.values = layer, values

    def __len__(self):
        return len(self.values)

    def __getitem__(self, i):
        return self.layer(self.values[i])[0]


def loader():
    """Workers of a DataLoader solve, item by item or batch by batch."""
    import torch

    from cvxlayers.torch import CvxpyLayer

    layer = CvxpyLayer(*distances(curved=True))
    values = torch.tensor(batch(3, 12))
    expected = layer(values)[0]
    data = torch.utils.data.DataLoader
    for loaded in (
        data(Solved(layer, values), batch_size=4, num_workers=2, timeout=TIME),
        data(values, batch_size=4, num_workers=2, timeout=TIME, collate_fn=Collate(layer)),
    ):
        assert torch.allclose(torch.cat(list(loaded)), expected, rtol=0, atol=1e-14)


class Collate:
    """Items to a batch of solutions."""

    def __init__(self, layer):
        self.layer = layer

    def __call__(self, items):
        import torch

        return self.layer(torch.stack(items))[0]


def model():
    """A linear map before a layer; the same weights every time."""
    import torch

    from cvxlayers.torch import CvxpyLayer

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.layer = torch.nn.Linear(3, 4, dtype=torch.float64), CvxpyLayer(*distances(curved=True))

        def forward(self, z):
            return self.layer(self.linear(z))[0]

    torch.manual_seed(0)
    return Model(), torch.randn(8, 3, dtype=torch.float64)


def gradients(module, inputs):
    """Gradients of the mean of squares, in the order of the parameters."""
    module(inputs).square().mean().backward()
    return [p.grad.numpy() for p in module.parameters()]


def rank(number, port, folder):
    """One of two: half of the batch; the gradients that DistributedDataParallel leaves."""
    import torch

    distributed, limit = torch.distributed, datetime.timedelta(seconds=TIME)
    distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", limit, rank=number, world_size=2)
    module, inputs = model()
    module = torch.nn.parallel.DistributedDataParallel(module)
    np.savez(os.path.join(folder, f"{number}.npz"), *gradients(module, inputs[4 * number : 4 * number + 4]))
    distributed.barrier()  # rank 0 has the store, which must outlive what rank 1 asks of it
    distributed.destroy_process_group()


def distributed():
    """Two ranks with half of the batch each have the gradients of one process with all of it."""
    import torch

    expected = gradients(*model())
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.start_processes(rank, (port, folder), nprocs=2, start_method="fork")
        for number in range(2):
            found = np.load(os.path.join(folder, f"{number}.npz"))
            for a, b in zip(found.values(), expected, strict=True):
                assert np.abs(b).max() > 1e-3
                np.testing.assert_allclose(a, b, rtol=0, atol=1e-15)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        globals()[name]()
