"""Projections, with gradients in the parameters of the sets."""

import math

import numpy as np

from cvxlayers import sets

from .case import Case

RNG = np.random.default_rng(11)


def normal(*shape):
    return RNG.standard_normal(shape)


def near(*shape):
    """Vectors of length about 3, of which a part is inside of the sets and a part outside."""
    return [1.5 * normal(*shape) for _ in range(4)]


def case(make, items, **settings):
    """project onto the set that `make` makes of the arguments after the first."""

    def call(module, x, *parameters, **options):
        return module.project(x, make(*parameters), **options)

    settings = {"axis": True, "second": True, "along": (0,), **settings}
    return Case("project", tuple(items), call=call, **settings)


def ball(norm):
    return case(lambda r: sets.Ball(r, norm), [(x, np.array(r)) for x, r in zip(near(5), (0.5, 1.0, 1.5, 9.0), strict=True)])


CASES = {
    "hyperplane": case(sets.Hyperplane, [(x, normal(5), normal()) for x in near(5)]),
    "halfspace": case(sets.Halfspace, [(x, normal(5), normal()) for x in near(5)]),
    "box": case(sets.Box, [(x, -1 + 0.3 * normal(5), 1 + 0.3 * normal(5)) for x in near(5)]),
    "simplex": case(sets.Simplex, [(x, np.array(r)) for x, r in zip(near(5), (0.5, 1.0, 2.0, 5.0), strict=True)]),
    "capped simplex": case(
        sets.CappedSimplex,
        [(x, np.array(r), np.abs(normal(6)) + 0.4) for x, r in zip(near(6), (0.5, 1.0, 1.5, 2.0), strict=True)],
    ),
    "1-ball": ball(1),
    "2-ball": ball(2),
    "max-ball": ball(math.inf),
    "second-order cone": case(sets.SecondOrderCone, [(x,) for x in (*near(4), np.array([3.0, 1, 1, 1]))]),
    "psd": case(sets.PSD, [(x,) for x in (*near(3, 3), 4 * np.eye(3) + near(3, 3)[0])], axis=False),
    "birkhoff": case(sets.Birkhoff, [(x,) for x in (*near(4, 4), 0.1 * normal(4, 4))], axis=False),
    "polyhedron": case(sets.Polyhedron, [(x, normal(1, 4), normal(1), normal(3, 4), 0.5 + np.abs(normal(3))) for x in near(4)]),
}
