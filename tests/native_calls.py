"""Calls of the engine's C interface with whatever a caller can get wrong: `python -m tests.native_calls SEED CASES`.

A malformed pattern must give an error code, and nothing else. What C cannot see, arrays shorter than is said, is not tried;
all outputs have guards behind them. A crash ends this process, which is how test_native_abi.py sees it.
"""

from __future__ import annotations

import ctypes
import sys
from itertools import pairwise

import numpy as np

from cvxlayers import native

BIG, GUARD, PAD, SPARE = 2**31 - 1, -77.0, 16, 3
ODD = (-BIG - 1, -BIG, -2, -1, 0, 1, 2, 7, 100, 2**20, BIG - 1, BIG)
NAMES = (b"", None, b"none", b"v4_8 v4_4", b"v4", b"x" * 5000, b"\xff\xfe", b"%s%n")


def pattern(rng):
    """Arguments of cvxlayers_plan, well formed; arrays are PAD longer than is said."""
    n, m = int(rng.integers(1, 9)), int(rng.integers(0, 9))
    weighted = int(rng.random() < 0.25)
    zero = 0 if weighted else int(rng.integers(0, m + 1))
    rows, cols = np.nonzero(np.triu(rng.random((n, n)) < rng.random()))
    A = rng.random((m, n)) < rng.random()
    extra = int(rng.integers(0, 3))
    index = rng.integers(0, rows.size + extra, rows.size) if rows.size else rows
    ptr = np.r_[0, A.sum(1).cumsum()]
    arrays = (np.pad(a, (0, PAD)).astype(np.int32) for a in (rows, cols, index, ptr, np.nonzero(A)[1]))
    names = ("P_row", "P_col", "P_index", "A_ptr", "A_col")
    sizes = {
        "n": n,
        "m": m,
        "zero": zero,
        "nP": rows.size,
        "P_values": rows.size + extra,
        "nA": int(A.sum()),
        "weighted": weighted,
    }
    return {**sizes, **dict(zip(names, arrays, strict=True))}


def spoil(p, rng):
    """One thing, perhaps, goes wrong in a pattern."""
    name = rng.choice(["none", "size", "entry", "swap", "repeat", "null"])
    array = rng.choice(["P_row", "P_col", "P_index", "A_ptr", "A_col"])
    if p[array] is None:
        return
    size = {"A_ptr": p["m"] + 1, "A_col": p["nA"]}.get(array, p["nP"])
    size = min(max(size, 1), len(p[array]))
    i, j = rng.integers(size, size=2)
    if name == "size":
        which = rng.choice(["n", "m", "zero", "nP", "P_values", "nA"])
        value = int(rng.choice(ODD)) if rng.random() < 0.5 else p[which] + int(rng.choice([-1, 1]))
        longest = {"m": len(p["A_ptr"]) - 1 if p["A_ptr"] is not None else 0, "nP": PAD, "nA": PAD}
        too_long = which in longest and longest[which] < value < 2**20  # this C could not know
        p[which] = p[which] if too_long else value
    elif name == "entry":
        p[array][i] = rng.choice(ODD) if rng.random() < 0.7 else p[array][i] + rng.choice([-1, 1])
    elif name == "swap":
        p[array][[i, j]] = p[array][[j, i]]
    elif name == "repeat":
        p[array][i] = p[array][j]
    elif name == "null":
        p[array] = None


def well_formed(p):
    """What cvxlayers_plan asks for, written out once more."""
    n, m, nP, nA = (int(p[k]) for k in ("n", "m", "nP", "nA"))
    if p["weighted"] and p["zero"]:
        return False
    if n < 1 or m < 0 or not 0 <= p["zero"] <= m or min(nP, nA, p["P_values"]) < 0 or n + m > 2**20 or p["A_ptr"] is None:
        return False
    if (nP and any(p[k] is None for k in ("P_row", "P_col", "P_index"))) or (nA and p["A_col"] is None) or max(nP, nA) > PAD**3:
        return False
    ptr = p["A_ptr"][: m + 1].astype(int)
    if ptr[0] != 0 or ptr[-1] != nA or (np.diff(ptr) < 0).any():
        return False
    if nP:
        rows, cols, index = (p[k][:nP].astype(int) for k in ("P_row", "P_col", "P_index"))
        if rows.min() < 0 or cols.max() >= n or (rows > cols).any() or (np.diff(rows * n + cols) <= 0).any():
            return False
        if index.min() < 0 or index.max() >= p["P_values"]:
            return False
    parts = [p["A_col"][a:b].astype(int) for a, b in pairwise(ptr) if b > a]
    return all(c[0] >= 0 and c[-1] < n and (np.diff(c) > 0).all() for c in parts)


def at(a):
    return a.ctypes.data if isinstance(a, np.ndarray) else a


def plan(library, p, out):
    return library.cvxlayers_plan(
        p["n"], p["m"], p["zero"], p["nP"], at(p["P_row"]), at(p["P_col"]), at(p["P_index"]), p["P_values"], p["nA"],
        at(p["A_ptr"]), at(p["A_col"]), p["weighted"], out,
    )  # fmt: skip


def values(rng, count, size):
    """Rows of numbers, some of them strange."""
    a = rng.standard_normal((count, size + SPARE))
    odd = rng.random(a.shape) < rng.choice([0, 0, 0.1])
    a[odd] = rng.choice([np.nan, np.inf, -np.inf, 0, 1e300, -1e-320], odd.sum())
    return a


def guarded(shape, dtype=float):
    return np.full(int(np.prod(shape)) + PAD, GUARD, dtype)


def arguments(p, handle, rng):
    """(arguments of cvxlayers_solve, of cvxlayers_linear, outputs): well formed."""
    B, columns, n, m = int(rng.integers(0, 20)), int(rng.integers(0, 6)), p["n"], p["m"]
    data = {k: values(rng, B, s) for k, s in (("P", p["P_values"]), ("A", p["nA"]), ("q", n), ("b", m), ("v", m), ("w", m))}
    strides = {k: rng.choice([a.shape[1], 0]) for k, a in data.items()}
    head = [handle, rng.choice([b"", *(b.encode() for b in native.builds())]), int(rng.integers(1, 5)), B]
    rows = {k: [a, int(strides[k])] for k, a in data.items()}
    x, y, s, status, its = guarded((B, n)), guarded((B, m)), guarded((B, m)), guarded(B, np.int32), guarded(B, np.int32)
    right, out, rank = rng.standard_normal(B * columns * (n + m)), guarded((B, columns, n + m)), guarded(B, np.int8)
    solve = [*head, *rows["P"], *rows["A"], *rows["q"], *rows["b"], int(rng.integers(0, 80)), x, y, s, status, its]
    weights = rows["w"] if p["weighted"] else [None, 0]
    linear = [*head, *rows["P"], *rows["A"], *rows["v"], *weights, columns, right, out, rank]
    return solve, linear, (x, y, s, status, its, out, rank)


def spoil_call(call, p, rng):
    """One thing goes wrong in a call; whether it is one that makes it malformed."""
    i, B = int(rng.integers(0, len(call))), call[3]
    old = call[i]
    if i == 0:
        call[i] = None
        return True
    if i == 1:
        call[i] = NAMES[rng.integers(len(NAMES))]
        return call[i] not in (b"", None)
    if old is None:
        return False
    if isinstance(old, np.ndarray):
        call[i] = None
        used = old.shape[1] - SPARE if old.ndim == 2 else old.size - PAD * (GUARD in old[-1:])
        return B > 0 and used > 0  # something would have been read or written
    if i == 3:
        call[i] = int(rng.choice([-1, -5, -BIG]))
        return True
    if i in (2, len(call) - 6):  # threads; max_iter
        call[i] = int(rng.choice([-BIG, -1, BIG if i == 2 else 3]))
        return call[i] < 0
    if len(call) == 17 and i == 10:
        call[i] = int(rng.choice([-1, -BIG]))
        return True
    call[i] = -1 if old == 0 else int(rng.choice([-old, -1]))  # a stride
    return True


def use(library, p, handle, rng):
    """Calls with a plan, half of them malformed; how many were refused."""
    refused = 0
    for k in range(4):
        *calls, outputs = arguments(p, handle, rng)
        call, function = calls[k % 2], (library.cvxlayers_solve, library.cvxlayers_linear)[k % 2]
        wrong = spoil_call(call, p, rng) if k >= 2 else False
        wrong = wrong or (p["weighted"] and k % 2 == 0)  # there are no programs with weights
        code = function(*map(at, call))
        assert code == wrong, (code, [a.shape if isinstance(a, np.ndarray) else a for a in call])
        refused += code == 1
        for a in outputs:
            assert (a[-PAD:] == GUARD).all()
        status = outputs[3][:-PAD]
        assert not code or (status == GUARD).all()
        assert code or k % 2 or not status.size or (0 <= status.min() and status.max() <= 4)
    return refused


def main(seed, cases):
    library, rng = native.library(), np.random.default_rng(seed)
    text = ctypes.create_string_buffer(8)
    for size in (-1, 0):
        assert library.cvxlayers_builds(text, size) == 1
    assert library.cvxlayers_builds(None, 5) == 1
    for size in (1, 2, 8):
        assert library.cvxlayers_builds(text, size) == 0 and len(text.value) < size
    assert library.cvxlayers_describe(None, text) == 1
    library.cvxlayers_free(None)
    made = refused = calls = 0
    for _ in range(cases):
        p, handle = pattern(rng), ctypes.c_void_p(5)
        for _ in range(rng.integers(0, 3)):
            spoil(p, rng)
        code = plan(library, p, ctypes.byref(handle))
        assert code in (0, 1, 2, 3, 4)
        assert (code == 0) == well_formed(p), (code, p)
        if code:
            refused += 1
            assert code == 1 or not handle.value
            continue
        made += 1
        assert plan(library, p, None) == 1
        assert library.cvxlayers_describe(handle, None) == 1
        if p["P_values"] < PAD**3:  # or rows of this length would have to be made
            calls += use(library, p, handle, rng)
        library.cvxlayers_free(handle)
    print(made, refused, calls)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
