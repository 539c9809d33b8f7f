"""Batches on several workers: data parallel training with torch.distributed, and solving with Ray; the same numbers as alone.

A layer is a function of one item, so a batch can be cut anywhere. The model learns the prices p(u) = W u at which a buyer with
known taste for goods in a budget set chooses what was observed:

    x(u) = argmin_x  1/2 |x|^2 - (taste - p(u))'x    subject to  0 <= x <= 1,  sum x <= 2

1. torch.distributed: each worker has its part of the data; DistributedDataParallel averages the gradients, which pass through
   the layer. After all steps the weights are those of one process with the whole batch, up to the order of summation.
2. Ray: the batch goes in parts to workers that hold a layer each, for example on several machines. The solutions
   are those of one process, to the last bit: an item's answer does not depend on its neighbours.
"""

import argparse
import importlib.util
import os
import socket
import sys
import tempfile

os.environ.setdefault("CVXLAYERS_NUM_THREADS", "1")  # in the workers, too: the processes share the processors

import cvxpy as cp
import numpy as np
import torch
import torch.distributed
import torch.multiprocessing
from torch.nn.parallel import DistributedDataParallel

from cvxlayers.torch import CvxpyLayer

GOODS, FEATURES, RATE = 8, 5, 0.3


class Buyer(torch.nn.Module):
    """u (batch, FEATURES) -> the chosen amounts (batch, GOODS)."""

    def __init__(self):
        super().__init__()
        x, q = cp.Variable(GOODS), cp.Parameter(GOODS)
        problem = cp.Problem(cp.Minimize(cp.sum_squares(x) / 2 - q @ x), [x >= 0, x <= 1, cp.sum(x) <= 2])
        self.layer = CvxpyLayer(problem, [q], [x])
        self.prices = torch.nn.Linear(FEATURES, GOODS, bias=False, dtype=torch.float64)
        torch.nn.init.normal_(self.prices.weight, std=0.1, generator=torch.Generator().manual_seed(1))
        self.register_buffer("taste", torch.linspace(0.2, 1.6, GOODS, dtype=torch.float64))

    def forward(self, u):
        return self.layer(self.taste - self.prices(u))[0]


def data(items):
    """Features and observed choices."""
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(items, FEATURES, generator=generator, dtype=torch.float64)
    truth = Buyer()
    with torch.no_grad():
        truth.prices.weight.copy_(0.5 * torch.randn(GOODS, FEATURES, generator=generator, dtype=torch.float64))
        return u, truth(u)


def train(model, u, x, steps):
    """Gradient descent on the mean squared error; the losses."""
    optimizer = torch.optim.SGD(model.parameters(), RATE)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (model(u) - x).square().sum(-1).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def trained(rank, workers, items, steps):
    """The weights after training on every `workers`-th item, in step with the other processes."""
    u, x = (a[rank::workers] for a in data(items))
    model = DistributedDataParallel(Buyer())
    train(model, u, x, steps)
    return model.module.prices.weight.detach().numpy().copy()


def worker(rank, workers, port, items, steps, path):
    """One process of the group; the first one leaves the weights at the path."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=workers)
    weights = trained(rank, workers, items, steps)
    torch.distributed.destroy_process_group()  # after the model is gone: with it in hand, this can wait forever
    if rank == 0:
        np.save(path, weights)


def with_torch(workers, items, steps):
    """The largest difference between the weights of a group of processes and those of one."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "weights.npy")
        torch.multiprocessing.spawn(worker, (workers, port, items, steps, path), nprocs=workers)
        found = np.load(path)
    model, (u, x) = Buyer(), data(items)
    losses = train(model, u, x, steps)
    difference = float(np.abs(found - model.prices.weight.detach().numpy()).max())
    print(f"torch.distributed: {workers} workers, {steps} steps, loss {losses[0]:.4f} -> {losses[-1]:.4f}; "
          f"largest difference from one process {difference:.0e}")  # fmt: skip
    return difference


class Solver:
    """What a worker of Ray has: a layer of its own."""

    def __init__(self):
        self.layer = Buyer().layer

    def solve(self, q):
        """The choices for values of the goods (items, GOODS)."""
        return self.layer(torch.tensor(q))[0].numpy()


def with_ray(workers, items):
    """Whether the solutions that Ray's workers find are those of one process, to the last bit."""
    import ray

    ray.init(num_cpus=workers, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    try:
        q = np.random.default_rng(1).standard_normal((items, GOODS))
        solvers = [ray.remote(Solver).remote() for _ in range(workers)]
        parts = [solvers[k % workers].solve.remote(part) for k, part in enumerate(np.array_split(q, 2 * workers))]
        same = np.array_equal(np.concatenate(ray.get(parts)), Solver().solve(q))
        print(f"Ray: {workers} workers, {items} items; the same solutions to the last bit: {same}")
        return same
    finally:
        ray.shutdown()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--items", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=60)
    given = parser.parse_args()
    good = with_torch(given.workers, given.items, given.steps) < 1e-9
    if importlib.util.find_spec("ray"):
        good &= with_ray(given.workers, given.items)
    else:
        print("Ray is not installed; pip install ray for the second part")
    sys.exit(0 if good else "the results differ")
