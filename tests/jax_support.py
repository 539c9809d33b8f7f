"""What the JAX tests share: 64-bit numbers as a fixture, layers of the cases, and the QP as a function of one parameter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvxlayers.jax import CvxpyLayer

from .problems import CASES
from .support import Calculus


@pytest.fixture(autouse=True)
def float64(request):
    """Every test has 64-bit numbers unless it is marked with float32."""
    with jax.enable_x64(request.node.get_closest_marker("float32") is None):
        yield


def make(name):
    """(layer, values) of a case."""
    case = CASES[name]()
    return CvxpyLayer(case.problem, case.parameters, case.variables, gp=case.gp), [jnp.asarray(v) for v in case.values]


class QP:
    """One output of the QP as a function of p, a loss with random weights, and a batch of p."""

    def __init__(self, layer, dtype):
        self.layer = layer
        self.values = [jnp.asarray(v, dtype) for v in CASES["qp"]().values]
        self.L, self.p, self.G, self.h = self.values
        self.w = jnp.asarray(np.random.default_rng(0).standard_normal(5), dtype)
        calculus = Calculus(layer._handle.map, self.values, self.w)  # what the transformations are compared with
        self.solution, self.jacobian = calculus.solution, calculus.jacobian
        self.gradient, self.hessian = calculus.gradient, calculus.hessian
        self.batch = self.p + jnp.asarray(0.1 * np.random.default_rng(1).standard_normal((4, 5)), dtype)

    def all(self, L, p, G, h):
        return self.layer(L, p, G, h)[0]

    def f(self, p):
        return self.all(self.L, p, self.G, self.h)

    def loss(self, p):
        return jnp.sum(jnp.sin(self.f(p)) * self.w)

    def each(self, function):
        return jnp.stack([function(p) for p in self.batch])
