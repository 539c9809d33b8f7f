"""Programs with a known solution: draw x and v, take y = proj_K*(v), s = y - v, P = F'F or none, A at random, and then
b = Ax + s, q = -Px - A'y.
"""

import numpy as np

from cvxlayers.program import ConeData, ConeProgram, Pattern, Structure


def dense(rows, cols):
    i, j = np.indices((rows, cols))
    return Pattern(i.ravel(), j.ravel(), (rows, cols))


def frozen(*arrays):
    for a in arrays:
        a.flags.writeable = False
    return arrays


def make_program(rng, cones, n, batch=1, *, quadratic=True, shared=(), sparse=False):
    """A program with a known solution, and its (x, y, s). shared: blocks that are the same for all items."""
    P = dense(n, n) if quadratic else Pattern([], [], (n, n))
    A = dense(cones.rows, n)
    if sparse:
        keep = rng.random(A.nnz) < 0.4
        A = Pattern(A.rows[keep], A.cols[keep], A.shape)
    S = Structure(n, cones, P, A)
    F = rng.standard_normal((1 if "P" in shared else batch, n, n))
    P_values = (np.swapaxes(F, 1, 2) @ F + 0.1 * np.eye(n)).reshape(-1, n * n)[:, : P.nnz]
    A_values = rng.standard_normal((1 if "A" in shared else batch, A.nnz))
    one_point = "q" in shared
    x, v = (rng.standard_normal((1 if one_point else batch, k)) for k in (n, S.m))
    y = S.K.project(v)
    s = y - v
    q = -S.P.matvec(P_values, x) - S.A.rmatvec(A_values, y)
    b = S.A.matvec(A_values, x) + s
    return ConeProgram(S, ConeData(*frozen(P_values, q, A_values, b))), (x, y, s)
