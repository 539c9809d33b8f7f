"""Maps of rows: by the native library, in every build of it, and with array operations, to the same numbers."""

import numpy as np
import pytest

from cvxlayers import native
from cvxlayers.layers.lml import LML
from cvxlayers.layers.simplex import CappedSimplex, Simplex
from cvxlayers.layers.softmax import CappedSoftmax
from cvxlayers.native import rows

RNG = np.random.default_rng(3)
BUILDS = [b for b in native.builds() if b.endswith(("v4_8", "v3_4", "v2_2", "base_2"))]


def scores(b, n, wide=1.0):
    """Normal ones, with ties, and with some -inf."""
    x = wide * RNG.standard_normal((b, n))
    x[:, : n // 3] = np.round(x[:, : n // 3], 1)
    x[:, ::7] = -np.inf
    x[:, 0] = 0.3
    return x


def bounds(x):
    u = RNG.uniform(0, 1, x.shape)
    room = np.where(np.isfinite(x), u, 0).sum(-1, keepdims=True)
    return u * np.maximum(1.0, 1.5 / room)


def chosen(x):
    """k between 0 and the number of scores that are not -inf."""
    return RNG.uniform(0, 1, (len(x), 1)) * np.isfinite(x).sum(-1, keepdims=True)


MAPS = {
    "simplex": (Simplex, lambda x: (x, RNG.uniform(0.1, 3, (len(x), 1)))),
    "distribution": (lambda n: Simplex(n, 1.0), lambda x: (x,)),
    "capped": (CappedSimplex, lambda x: (x, bounds(x), np.ones((len(x), 1)))),
    "top-k": (CappedSimplex, lambda x: (x, np.ones(x.shape), chosen(x))),
    "whole top-k": (CappedSimplex, lambda x: (x, np.ones(x.shape), np.floor(chosen(x)))),
    "softmax": (CappedSoftmax, lambda x: (x, bounds(x))),
    "lml": (LML, lambda x: (x, chosen(x), RNG.uniform(0.1, 2, (len(x), 1)))),
    "whole lml": (LML, lambda x: (x, np.floor(chosen(x)), np.ones((len(x), 1)))),
}
each = pytest.mark.parametrize("name", MAPS)


def both(name, args, monkeypatch, build):
    """(results of forward, of vjp) by the library and by array operations."""
    diffmap = MAPS[name][0](args[0].shape[-1])
    run, found = rows.run, []
    c = np.random.default_rng(0).standard_normal(args[0].shape).astype(args[0].dtype)
    for way in ("native", "arrays"):
        with monkeypatch.context() as m:
            if way == "native":
                m.setattr(rows, "run", lambda *a: run(*a, build=build.encode()))
            else:
                m.setattr(rows, "takes", lambda a: False)
            with np.errstate(all="raise", under="ignore", over="ignore"):
                (y,), saved = diffmap.forward(*args)
            found.append((y, *diffmap.vjp(saved, c)))
    return found


@each
@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_both_ways_agree(name, build, dtype, monkeypatch):
    for n, wide in ((1, 1), (2, 1), (7, 3), (16, 1), (33, 10), (100, 0.1), (1000, 1), (257, 100)):
        args = [np.asarray(a, dtype) for a in MAPS[name][1](scores(5, n, wide))]
        found, expected = both(name, args, monkeypatch, build)
        tolerance = 1e-12 if dtype == "float64" else 2e-5  # ten times what is seen, and more
        for a, b in zip(found, expected, strict=True):
            assert a.dtype == b.dtype == dtype
            np.testing.assert_allclose(a, b, atol=tolerance * (1 + np.abs(b).max()), err_msg=f"n = {n}")
