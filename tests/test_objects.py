"""A layer as an object: copies, threads, what it leaves alone, and that it keeps nothing from call to call."""

import copy
import functools
import io
import pickle
import threading
from types import FunctionType, ModuleType

import cvxpy as cp
import numpy as np
import pytest
import torch

from cvxlayers import SolverError
from cvxlayers.layer import ConeLayer

from .frameworks import numpy
from .problems import CASES
from .support import assign, flat, tangents


def make(fw, name):
    """(layer, values as NumPy arrays) of a case."""
    case = CASES[name]()
    return fw.module.CvxpyLayer(case.problem, case.parameters, case.variables, gp=case.gp), case.values


def results(fw, layer, values):
    """Outputs, and gradients of the sum of their squares, as NumPy arrays."""
    arrays = [fw.array(v) for v in values]
    g = fw.gradients(lambda *a: sum(fw.dot(o * o, np.ones(tuple(o.shape))) for o in layer(*a)), arrays)
    return [numpy(a) for a in (*layer(*arrays), *g)]


def same(found, expected):
    """Whether lists of arrays are equal, to the last bit."""
    return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(found, expected, strict=True))


# Copies.


def _through_a_file(layer):
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


def _through_pickle(layer):
    return pickle.loads(pickle.dumps(layer))


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, _through_pickle, _through_a_file])
@pytest.mark.parametrize("name", ["qp", "geometric", "psd_variable"])
def test_copies(fw, name, duplicate):
    layer, values = make(fw, name)
    expected = results(fw, layer, values)
    twin = duplicate(layer)
    assert duplicate is copy.copy or twin._handle is not layer._handle
    del layer
    assert same(results(fw, twin, values), expected)


# Threads.


@pytest.mark.parametrize("name", ["qp", "entropy"])
def test_eight_threads_share_a_layer(fw, name):
    layer, values = make(fw, name)
    rng = np.random.default_rng(0)
    work = [[v * (1 + 0.01 * rng.random((1 + i % 3, *(1,) * v.ndim))) for v in values] for i in range(8)]
    expected, found = [results(fw, layer, own) for own in work], [None] * 8
    start = threading.Barrier(8)

    def run(i):
        with fw.session():
            start.wait()
            found[i] = [results(fw, layer, work[i]) for _ in range(3)]

    threads = [threading.Thread(target=run, args=(i,)) for i in range(8)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    for mine, alone in zip(found, expected, strict=True):
        assert all(same(once, alone) for once in mine)


# The problem stays the user's.


@pytest.mark.parametrize("solved", [False, True], ids=["without values", "with values"])
def test_the_problem_is_left_alone(fw, solved):
    case = CASES["qp"]()
    owned = [*case.problem.variables(), *case.problem.parameters(), *(c.dual_variables[0] for c in case.problem.constraints)]
    if solved:
        assign(case.parameters, case.values)
        case.problem.solve(solver=cp.CLARABEL)
    before = [v.value for v in owned]
    copies = [copy.copy(v) for v in before]
    facts = (case.problem.status, case.problem.value, case.problem.solution)
    layer = fw.module.CvxpyLayer(case.problem, case.parameters, case.variables)
    results(fw, layer, [2 * v for v in case.values])
    with pytest.raises(SolverError):  # G = 0 and h = -1
        layer(*map(fw.array, (case.values[0], case.values[1], 0 * case.values[2], 0 * case.values[3] - 1)))
    after = [v.value for v in owned]
    assert all((a is None) == (b is None) == (not solved) for a, b in zip(before, after, strict=True))
    assert not solved or same(after, copies)
    assert facts == (case.problem.status, case.problem.value, case.problem.solution)


# No state between calls.

WORKSPACES = {"_idle"}  # compiled solvers of Moreau, which each call sets up anew


def snapshot(thing, path=()):
    """Everything that a thing holds, down to the bytes of its arrays, without `WORKSPACES`."""
    if any(thing is other for other in path):
        return "cycle"
    path = (*path, thing)
    if isinstance(thing, np.ndarray):
        return (thing.dtype.str, thing.shape, thing.tobytes())
    if thing is None or isinstance(thing, (str, int, float, complex, bytes, type, FunctionType, ModuleType)):
        return thing
    if isinstance(thing, dict):
        return {k: snapshot(v, path) for k, v in thing.items() if k not in WORKSPACES}
    if isinstance(thing, (list, tuple, set, frozenset)):
        return [
            type(thing).__name__,
            *(snapshot(v, path) for v in (sorted(thing) if isinstance(thing, (set, frozenset)) else thing)),
        ]
    held = {k: getattr(thing, k) for kind in type(thing).__mro__ for k in getattr(kind, "__slots__", ()) if hasattr(thing, k)}
    return (type(thing).__name__, snapshot({**getattr(thing, "__dict__", {}), **held}, path))


def cached_names(thing, seen):
    """Names of the cached properties of everything inside: they depend on the structure alone, and appear when first used."""
    if id(thing) in seen:
        return set()
    seen.add(id(thing))
    inside = thing.values() if isinstance(thing, dict) else thing if isinstance(thing, (list, tuple)) else [vars(thing)]
    inside = [v for v in inside if isinstance(v, (dict, list, tuple)) or hasattr(v, "__dict__")]
    own = {k for kind in type(thing).__mro__ for k, v in vars(kind).items() if isinstance(v, functools.cached_property)}
    return own.union(*(cached_names(v, seen) for v in inside))


def without(held, names):
    """A snapshot without entries of these names."""
    if isinstance(held, dict):
        return {k: without(v, names) for k, v in held.items() if k not in names}
    return type(held)(without(v, names) for v in held) if isinstance(held, (list, tuple)) else held


def use(layer, theta, batch, seed):
    """Solve and differentiate at values near theta."""
    rng = np.random.default_rng(seed)
    values = [v * (1 + 0.05 * rng.random((batch, 1))) for v in theta]
    outputs, saved = layer.forward(*values)
    t, g = tangents(layer), [np.ones((1, k)) for k in layer.out_sizes]
    found = [outputs, layer.jvp(saved, *t), layer.vjp(saved, *g), layer.jvp2(saved, t, t), layer.vjp2(saved, t, g)]
    return [a for arrays in found for a in arrays]


@pytest.mark.parametrize("solver", [None, "clarabel", "scs"])
@pytest.mark.parametrize("name", ["qp", "socp", "psd_variable", "entropy", "geometric"])
def test_no_state_between_calls(name, solver):
    case = CASES[name]()
    layer = ConeLayer(case.problem, case.parameters, case.variables, gp=case.gp, solver=solver)
    other, theta = pickle.loads(pickle.dumps(layer)), flat(case.values)
    fresh = snapshot(layer)
    first = use(layer, theta, 1, 1)
    after_one = snapshot(layer)
    for batch, seed in ((3, 2), (1, 3), (4, 4)):
        use(layer, theta, batch, seed)
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="NaN or infinite"):
            layer.forward(*(np.full_like(v, bad) for v in theta))
    assert snapshot(layer) == after_one
    names = cached_names(layer, set())
    assert without(after_one, names) == without(fresh, names)
    use(other, theta, 5, 6)  # what a layer has cached does not depend on the values that it has seen
    assert snapshot(other) == after_one
    assert same(use(layer, theta, 1, 1), first) and same(use(other, theta, 1, 1), first)


def test_the_snapshot_sees_what_changes():
    layer = ConeLayer(*CASES["qp"]()[:3])
    fresh = snapshot(layer)
    layer.structure.P.rows.flags.writeable = True
    layer.structure.P.rows[0] += 1
    assert snapshot(layer) != fresh
    layer.structure.P.rows[0] -= 1
    assert snapshot(layer) == fresh
    layer.solvers[-1].last = 0
    assert snapshot(layer) != fresh and "upper" in cached_names(layer, set())


def test_an_adapter_keeps_only_the_options_of_calls(fw):
    layer, values = make(fw, "qp")
    expected, handle = results(fw, layer, values), layer._handle
    held, attributes, key = set(vars(layer)), set(vars(handle)), handle.key
    results(fw, layer, [np.stack([v, 1.1 * v]) for v in values])
    layer(*map(fw.array, values), solver_args={"solve_method": "SCS"})
    with pytest.raises(ValueError, match="NaN or infinite"):
        layer(*(fw.array(v * np.nan) for v in values))
    assert set(vars(layer)) == held and layer._handle is handle and handle.key == key
    assert set(vars(handle)) == attributes and len(handle.variants) == 1
    assert same(results(fw, layer, values), expected)
