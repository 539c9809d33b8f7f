"""Right or loud: every row of the tables is the error it says, in every framework, with every solver, or the right answer.

The tables: `bad_problems` (what goes into the constructor), `bad_calls` (what is passed to a layer), `bad_values` (values
without a solution) and `degenerate` (what looks bad and has one).
"""

import re

import cvxpy as cp
import jax
import numpy as np
import pytest
import tensorflow as tf

from cvxlayers import ConeLayer, ProblemError, ShapeError, SolverError
from cvxlayers.solvers import SOLVERS
from cvxlayers.torch import CvxpyLayer

from .bad_calls import ARRAYS, FINE, OBJECTS, OWN, box
from .bad_problems import ROWS
from .bad_values import VALUES
from .degenerate import DEGENERATE
from .frameworks import FRAMEWORKS, numpy
from .problems import CASES
from .support import flat

SOLVER_NAMES = [None, *sorted(SOLVERS)]
MODES = {"torch": ["eager"], "jax": ["eager", "compiled"], "tensorflow": ["eager", "compiled"]}
# A callback cannot choose the type; JAX has ValueError where the result is waited for.
WRAPPED = {"jax": (jax.errors.JaxRuntimeError, ValueError), "tensorflow": tf.errors.OpError}


@pytest.fixture(params=[f"{name}-{mode}" for name in FRAMEWORKS for mode in MODES[name]])
def run(request):
    """(framework, a function that runs another one in some mode, the type that errors of the computation have there)."""
    name, mode = request.param.split("-")
    framework, compiled = FRAMEWORKS[name], mode == "compiled"
    compiler = {"jax": jax.jit, "tensorflow": tf.function}.get(name)
    with framework.session():
        yield framework, (lambda f, *values: (compiler(f) if compiled else f)(*values)), WRAPPED[name] if compiled else None


def core(row, solver):
    """The ConeLayer of a row; skips if the solver does not take the problem."""
    if solver and not SOLVERS[solver].installed():
        pytest.skip(f"the optional package {SOLVERS[solver].package} is not installed")
    try:
        return ConeLayer(row.problem, row.parameters, row.variables, gp=row.gp, solver=solver)
    except ProblemError as error:
        if not re.search("has no .* cone|takes no quadratic|needs at least one constraint", str(error)):
            raise
        pytest.skip(f"{solver} does not take the problem")


def stacked(*items):
    """Values of several items as inputs of a ConeLayer."""
    return [np.concatenate(values) for values in zip(*map(flat, items), strict=True)]


# The constructor.


@pytest.mark.parametrize("make", [ConeLayer, CvxpyLayer], ids=["core", "torch"])
@pytest.mark.parametrize("name", ROWS)
def test_problems_without_a_layer(name, make):
    arguments, options, kind, message = ROWS[name]()
    with pytest.raises(kind, match=message) as error:
        make(*arguments, **options)
    assert kind in type(error.value).__mro__[:2]  # where diffcp is loaded, a SolverError is its error, too


SPELLINGS = {
    "no parameters": (lambda p, b, x: ((p,), {"variables": [x]}), r"pass parameters=\[...\] once; got it 0 times"),
    "no variables": (lambda p, b, x: ((p, [b]), {}), r"pass variables=\[...\] once; got it 0 times"),
    "parameters twice": (lambda p, b, x: ((p, [b], [x]), {"params": [b]}), r"pass parameters=\[...\] once; got it 2 times"),
    "variables twice": (lambda p, b, x: ((p, [b], [x]), {"out": [x]}), r"pass variables=\[...\] once; got it 2 times"),
    "a parameter alone": (lambda p, b, x: ((p, b, [x]), {}), "parameters is a Parameter; expected a list"),
    "a variable alone": (lambda p, b, x: ((p, [b], x), {}), "variables is a Variable; expected a list"),
    "a set": (lambda p, b, x: ((p, {b}, [x]), {}), "parameters is a set; expected a list"),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_the_lists_of_the_constructor(fw, name):
    build, message = SPELLINGS[name]
    x, b = cp.Variable(2), cp.Parameter(2)
    arguments, options = build(cp.Problem(cp.Minimize(cp.sum_squares(x - b))), b, x)
    with pytest.raises(ProblemError, match=message):
        fw.module.CvxpyLayer(*arguments, **options)


# The call.


@pytest.mark.parametrize("name", ARRAYS)
def test_calls_with_arrays(run, name):
    fw, execute, wrapped = run
    make, options, kind, message = ARRAYS[name]
    layer = fw.module.CvxpyLayer(*box())
    traced = fw.name == "tensorflow" and wrapped  # there AutoGraph chooses the type
    with pytest.raises(Exception if traced else kind, match=message) as error:
        execute(lambda *values: layer(*values, **options), *make(fw))
    assert kind.__name__ in str(error.value) if traced else type(error.value) is kind


@pytest.mark.parametrize("name", OBJECTS)
def test_calls_with_objects(fw, name):
    make, options, kind, message = OBJECTS[name]
    with pytest.raises(kind, match=message) as error:
        fw.module.CvxpyLayer(*box())(*make(fw), **options)
    assert kind in type(error.value).__mro__[:2]  # where diffcp is loaded, a SolverError is its error, too


@pytest.mark.parametrize("framework, name", [(f, name) for f, kinds in OWN.items() for name in kinds])
def test_calls_with_what_only_this_framework_has(framework, name):
    fw = FRAMEWORKS[framework]
    with fw.session():
        layer = fw.module.CvxpyLayer(*box())
        with pytest.raises(ShapeError, match=r"parameter 'c' \(position 0\)") as error:
            layer(OWN[framework][name](), fw.array(np.zeros(2)))
        assert type(error.value) is ShapeError


@pytest.mark.parametrize("name", FINE)
def test_odd_values_that_are_fine(fw, name):
    make, expected = FINE[name]
    (x,) = fw.module.CvxpyLayer(*box())(make(fw), fw.array(np.full(2, -3.0)))
    np.testing.assert_allclose(numpy(x), expected, atol=1e-6)


# Values without a solution.


@pytest.mark.parametrize("solver", SOLVER_NAMES)
@pytest.mark.parametrize("name", VALUES)
def test_bad_values_with_every_solver(name, solver):
    row = VALUES[name]()
    layer = core(row, solver)
    batch = stacked(row.good, row.bad, row.good)
    with pytest.raises(row.error, match=row.message.format(1)) as error:
        layer.forward(*batch)
    assert row.error in type(error.value).__mro__[:2] and "item 0" not in str(error.value)
    nan = layer.with_options(on_error="nan")
    outputs, saved = nan.forward(*batch)
    alone, own = layer.forward(*stacked(row.good, row.good))
    for out, expected in zip(outputs, alone, strict=True):
        assert np.isnan(out[1]).all()
        np.testing.assert_array_equal(out[[0, 2]], expected)
    c = [np.random.default_rng(0).standard_normal(o.shape) for o in outputs]
    for g, expected in zip(nan.vjp(saved, *c), layer.vjp(own, *(a[[0, 2]] for a in c)), strict=True):
        assert not g[1].any()
        np.testing.assert_allclose(g[[0, 2]], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("solver", [None, "clarabel"])
@pytest.mark.parametrize("name", VALUES)
def test_bad_values_in_every_framework(run, name, solver):
    fw, execute, wrapped = run
    if solver and wrapped:
        pytest.skip("compiled code does the same with every solver")
    row = VALUES[name]()
    layer = fw.module.CvxpyLayer(row.problem, row.parameters, row.variables, gp=row.gp, solver=solver)
    batch = [fw.array(np.stack(values)) for values in zip(row.good, row.bad, row.good, strict=True)]
    with pytest.raises(wrapped or row.error, match=row.message.rstrip("$").format(1)) as error:
        numpy(execute(layer, *batch)[0])  # compiled JAX may raise when the result is waited for
    assert wrapped or row.error in type(error.value).__mro__[:2]
    outputs = execute(lambda *values: layer(*values, on_error="nan"), *batch)
    alone = layer(*(fw.array(np.stack(values)) for values in zip(row.good, row.good, strict=True)))
    for out, expected in zip(outputs, alone, strict=True):
        assert np.isnan(numpy(out)[1]).all()
        np.testing.assert_allclose(numpy(out)[[0, 2]], numpy(expected), rtol=1e-12, atol=1e-12)


# Limits of the solvers.

LIMITS = {
    None: [{"max_iter": 1}],
    "native": [{"max_iter": 1}],  # from its first point Newton's method arrives, on these
    "moreau": [{"max_iter": 1}, {"max_iter": 1, "solver": "ipm"}, {"time_limit": 1e-9}],
    "clarabel": [{"max_iter": 1}, {"time_limit": 1e-9}],
    "scs": [{"max_iters": 1}, {"time_limit_secs": 1e-9}],  # so it does from the last one of SCS
    "ecos": [{"max_iters": 1}],
    "diffcp": [{"solve_method": "Clarabel", "max_iter": 1}],
}


@pytest.mark.parametrize("solver", SOLVER_NAMES)
def test_a_solver_that_is_stopped_early(solver):
    """After one iteration the answer is an error, or Newton's method has made it right."""
    if solver and not SOLVERS[solver].installed():
        pytest.skip(f"the optional package {SOLVERS[solver].package} is not installed")
    stopped = 0
    for args in LIMITS[solver]:
        for case in ("lp", "qp", "socp", "psd_variable", "entropy", "power_constraint"):
            problem, parameters, variables, values, _ = CASES[case]()
            expected = ConeLayer(problem, parameters, variables[:1]).forward(*flat(values))[0][0]
            try:
                layer = ConeLayer(problem, parameters, variables[:1], solver=solver, solver_args=args)
            except ProblemError:
                continue  # the solver lacks something, which other tests are about
            try:
                outputs, _ = layer.forward(*flat(values))
            except SolverError as error:
                stopped += error.items == (0,)
            else:
                np.testing.assert_allclose(outputs[0], expected, rtol=1e-7, atol=1e-8)
    assert stopped or solver in ("native", "scs")


# What looks bad and has a solution.

# Solvers that are not in the default ladder may give up in odd units.
MAY_GIVE_UP = {"scs": "scaled_rows", "ecos": "scaled", "diffcp": "scaled"}


@pytest.mark.parametrize("solver", SOLVER_NAMES)
@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_problems_with_every_solver(name, solver):
    row = DEGENERATE[name]()
    layer = core(row, solver)
    try:
        outputs, saved = layer.forward(*flat(row.values))
    except SolverError:
        assert solver in MAY_GIVE_UP and MAY_GIVE_UP[solver] in name
        return
    _compare(outputs, row, 1e-9)
    rng = np.random.default_rng(0)
    c, t = [rng.standard_normal(o.shape) for o in outputs], [rng.standard_normal((1, k)) for k in layer.in_sizes]
    g, d = layer.vjp(saved, *c), layer.jvp(saved, *t)
    assert all(np.isfinite(a).all() for a in (*g, *d))
    left, right = (sum((a * b).sum() for a, b in zip(*pair, strict=True)) for pair in ((c, d), (g, t)))
    size = sum(np.abs(a).sum() for a in (*g, *d))
    assert abs(left - right) <= 1e-10 * size + 1e-13  # where the derivative is zero: rounding


@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_problems_in_every_framework(fw, name):
    row = DEGENERATE[name]()
    layer = fw.module.CvxpyLayer(row.problem, row.parameters, row.variables, gp=row.gp)
    values = [fw.array(v) for v in row.values]
    _compare([numpy(o) for o in layer(*values)], row, 1e-9)
    g = fw.gradients(lambda *v: sum(fw.dot(o, np.ones(tuple(o.shape))) for o in layer(*v)), values)
    assert all(np.isfinite(numpy(a)).all() for a in g)


def _compare(outputs, row, tolerance):
    """Values that the problem does not determine are NaN in the table."""
    for out, expected in zip(outputs, row.expected, strict=False):
        expected = np.asarray(expected, np.float64).ravel()
        known = ~np.isnan(expected)
        size = np.abs(expected[known]).max()
        assert np.isfinite(out).all()
        assert np.abs(out.ravel() - expected)[known].max() <= tolerance * (size if size > 0 else 1)
