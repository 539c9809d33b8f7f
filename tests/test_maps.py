"""The parameter map and the recovery map are linear, their adjoints are exact, and they agree with differences."""

import numpy as np
import pytest

from .problems import CASES
from .support import compiled, tangents

RNG = np.random.default_rng(0)


def inner(a, b):
    return sum(float((x * y).sum()) for x, y in zip(a, b, strict=True) if y is not None)


@pytest.mark.parametrize("name", CASES)
def test_parameter_map_adjoint(name):
    _, layer, theta, *_ = compiled(name)
    t = tangents(layer)
    data = layer.param_map.jvp(theta, t)
    c = [RNG.standard_normal(d.shape) for d in data]
    left, right = inner(c, data), inner(t, layer.param_map.vjp(theta, c))
    assert left == pytest.approx(right, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_parameter_map_tangent(name):
    _, layer, theta, *_ = compiled(name)
    t, e = tangents(layer), 1e-6
    up, down = (layer.param_map.apply([x + s * e * d for x, d in zip(theta, t, strict=True)]) for s in (1, -1))
    for a, b, d in zip(up, down, layer.param_map.jvp(theta, t), strict=True):
        assert np.allclose((a - b) / (2 * e), d, atol=1e-7)


@pytest.mark.parametrize("name", CASES)
def test_recovery_adjoint(name):
    _, layer, _, _, saved = compiled(name)
    x = layer._point(saved).x
    dx, dy = RNG.standard_normal((1, layer.structure.n)), RNG.standard_normal((1, layer.structure.m))
    out = layer.recovery.jvp(x, dx, dy)
    c = [RNG.standard_normal(o.shape) for o in out]
    assert inner(c, out) == pytest.approx(inner((dx, dy), layer.recovery.vjp(x, c)), rel=1e-12, abs=1e-12)


def test_shared_parameters_are_not_copied():
    _, layer, theta, *_ = compiled("qp")
    batch = [theta[0], np.repeat(theta[1], 5, 0), theta[2], theta[3]]
    P, q, A, b, _ = layer.param_map.apply(batch)
    assert [a.shape[0] for a in (P, q, A, b)] == [1, 5, 1, 1]
