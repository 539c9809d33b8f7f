"""The quadratic program on the host, by the native engine, or where there is none by the other solvers.

    z = argmin 1/2 z'Qz + p'z   subject to  Az = b,  Gz <= h

It is a cone program whose data are the arguments themselves, so nothing is compiled: P is the symmetric part of Q, the rows
are those of A and then those of G. What follows, from the test of each answer to the second derivatives, is `ConeLayer`.
"""

from __future__ import annotations

import functools

import numpy as np
import scipy.sparse as sp

from ..canonicalize import Canonical
from ..formulas import Formulas
from ..layer import ConeLayer
from ..param_map import LinearTerm, ParamMap
from ..parameters import ParameterInfo
from ..program import ConeDims, Pattern, Structure
from ..recover import Output, OutputInfo, Recovery


@functools.lru_cache(maxsize=64)
def host_qp(n, equalities, inequalities, duals=False, on_error="raise") -> ConeLayer:
    """(Q, p, A, b, G, h) -> z, or (z, nu, lam) with the multipliers of the two kinds of rows.

    Arguments and multipliers of a kind of rows that there is not, 0, are left out. All are flattened in C order.
    """
    m = equalities + inequalities
    shapes = {"Q": (n, n), "p": (n,)}
    first = {"p": 0}  # row of a block that a parameter goes to
    if equalities:
        shapes |= {"A": (equalities, n), "b": (equalities,)}
        first |= {"A": 0, "b": 0}
    if inequalities:
        shapes |= {"G": (inequalities, n), "h": (inequalities,)}
        first |= {"G": equalities * n, "h": equalities}
    parameters = tuple(ParameterInfo(name, k, shape) for k, (name, shape) in enumerate(shapes.items()))

    def block(rows, *names):
        """A block over all parameters, and 1: those of these names are copied into it."""
        parts = [
            sp.eye_array(rows, p.size, k=-first[p.name]) if p.name in names else sp.coo_array((rows, p.size))
            for p in parameters
        ]
        return sp.hstack([*parts, sp.coo_array((rows, 1))])

    mirrored = sp.eye_array(n * n).tocsr()[np.arange(n * n).reshape(n, n).T.ravel()]
    others = sum(p.size for p in parameters[1:]) + 1
    symmetric = sp.hstack([(sp.eye_array(n * n) + mirrored) / 2, sp.coo_array((n * n, others))])
    formulas = Formulas([p.size for p in parameters], (), range(len(parameters)))
    blocks = [symmetric, block(n, "p"), block(m * n, "A", "G"), block(m, "b", "h"), block(1)]
    param_map = ParamMap.from_matrices(formulas, formulas.sizes, blocks)
    structure = Structure(n, ConeDims(equalities, inequalities), _full(n, n), _full(m, n))
    results = [("z", n, Output(LinearTerm(sp.eye_array(n)), False, False))]
    for name, start, count in (("nu", 0, equalities), ("lam", equalities, inequalities)):
        if duals and count:
            results.append((name, count, Output(LinearTerm(sp.eye_array(count, m, k=start)), True, False)))
    infos, recovery = tuple(OutputInfo(name, (k,), False) for name, k, _ in results), Recovery(o for _, _, o in results)
    program = Canonical(structure, param_map, recovery, parameters, infos, (1.0, False), parameters, False, ())
    return ConeLayer.of(program, on_error=on_error)


def _full(rows, cols):
    """The pattern of a full matrix."""
    return Pattern(np.repeat(np.arange(rows), cols), np.tile(np.arange(cols), rows), (rows, cols))
