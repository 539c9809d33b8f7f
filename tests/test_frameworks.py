"""One body of tests for the three frameworks: the same numbers, shapes, dtypes and errors in all of them."""

import re
import subprocess
import sys

import cvxpy as cp
import numpy as np
import pytest

from cvxlayers import MissingDependencyError, ProblemError, ShapeError, SolverError

from .custom_maps import Product
from .frameworks import FRAMEWORKS, numpy
from .problems import CASES
from .support import cvxpy_solution, flat, largest

RNG = np.random.default_rng(0)


def make(fw, name):
    """(layer, values as NumPy arrays) of a case."""
    case = CASES[name]()
    return fw.module.CvxpyLayer(case.problem, case.parameters, case.variables, gp=case.gp), case.values


def loss(fw, layer):
    """A weighted sum of all outputs."""

    def function(*values):
        outputs = layer(*values)
        return sum(fw.dot(o, w) for o, w in zip(outputs, weights_of(layer, outputs), strict=True))

    return function


def weights_of(layer, outputs):
    """A random cotangent for each output, the same in every framework."""
    rng, out = np.random.default_rng(3), []
    for o, info in zip(outputs, layer._handle.map.outputs, strict=True):
        shape = tuple(o.shape)
        out.append(rng.standard_normal(shape) + (1j * rng.standard_normal(shape) if info.complex else 0))
    return out


def results(fw, name, values=None):
    """Outputs and gradients of a case as NumPy arrays."""
    layer, own = make(fw, name)
    arrays = [fw.array(v) for v in (own if values is None else values)]
    outputs = [numpy(o) for o in layer(*arrays)]
    return outputs, [numpy(g) for g in fw.gradients(loss(fw, layer), arrays)]


@pytest.mark.parametrize("name", CASES)
def test_all_frameworks_have_the_same_values_and_gradients(name):
    found = {}
    for framework in FRAMEWORKS.values():
        with framework.session():
            found[framework.name] = results(framework, name)
    for other in ("jax", "tensorflow"):
        for mine, theirs in zip(found["torch"], found[other], strict=True):
            assert [a.shape for a in mine] == [a.shape for a in theirs] and [a.dtype for a in mine] == [a.dtype for a in theirs]
            assert largest(theirs, mine) <= 1e-10


@pytest.mark.parametrize("name", CASES)
def test_values_are_those_of_the_core(fw, name):
    layer, values = make(fw, name)
    outputs = layer(*map(fw.array, values))
    core, _ = layer._handle.map.forward(*flat(values))
    for out, expected, info in zip(outputs, core, layer._handle.map.outputs, strict=True):
        assert tuple(out.shape) == info.shape
        assert largest(flat([numpy(out)]), [expected]) <= 1e-12


@pytest.mark.parametrize("name", ["qp", "socp", "psd_variable", "entropy", "geometric", "complex_least_squares"])
def test_batches(fw, name):
    """Two leading dimensions, broadcast against one and against none, are the items one by one."""
    layer, values = make(fw, name)
    grid = [1 + 0.02 * RNG.random((*lead, *(1,) * np.ndim(v))) for v, lead in zip(values, _leads(values), strict=True)]
    batch = [v * g for v, g in zip(values, grid, strict=True)]
    outputs = [numpy(o) for o in layer(*map(fw.array, batch))]
    gradients = [numpy(g) for g in fw.gradients(loss(fw, layer), [fw.array(b) for b in batch])]
    assert [g.shape for g in gradients] == [b.shape for b in batch]
    w = weights_of(layer, outputs)
    total = [np.zeros(b.shape, b.dtype) for b in batch]
    for i in np.ndindex(2, 3):
        at = [_at(b, v, i) for b, v in zip(batch, values, strict=True)]
        item = [fw.array(b[k]) for b, k in zip(batch, at, strict=True)]
        for out, one in zip(outputs, layer(*item), strict=True):
            np.testing.assert_allclose(out[i], numpy(one), rtol=1e-9, atol=1e-11)
        own = fw.gradients(lambda *v, i=i: sum(fw.dot(o, k[i]) for o, k in zip(layer(*v), w, strict=True)), item)
        for sum_, k, g in zip(total, at, own, strict=True):
            sum_[k] += numpy(g)
    assert largest(gradients, total) <= 1e-9


def _leads(values):
    return [((2, 3), (1, 3), (), (2, 1))[k % 4] for k in range(len(values))]


def _at(array, value, i):
    """The index of item i = (i0, i1) in an array with the leading dimensions of `_leads`."""
    lead = array.shape[: array.ndim - np.ndim(value)]
    return tuple(min(k, size - 1) for k, size in zip(i[len(i) - len(lead) :], lead, strict=True))


def test_an_empty_batch(fw):
    layer, (L, p, G, h) = make(fw, "qp")
    arrays = [fw.array(v) for v in (L, np.zeros((0, *p.shape)), G, h)]
    outputs = layer(*arrays)
    assert [tuple(o.shape) for o in outputs] == [(0, 5), (0, 7)]
    gradients = fw.gradients(loss(fw, layer), arrays)
    assert [tuple(g.shape) for g in gradients] == [(5, 5), (0, 5), (7, 5), (7,)]
    assert not numpy(gradients[0]).any()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["qp", "geometric", "psd_variable"])
def test_dtypes(fw, name, dtype):
    layer, values = make(fw, name)
    arrays = [fw.array(v, dtype) for v in values]
    outputs, exact = layer(*arrays), layer(*(fw.array(v) for v in values))
    gradients = fw.gradients(loss(fw, layer), arrays)
    assert {numpy(a).dtype for a in (*outputs, *gradients)} == {np.dtype(dtype)}
    assert largest([numpy(o) for o in outputs], [numpy(o) for o in exact]) <= (1e-5 if dtype == "float32" else 1e-12)


def test_mixed_dtypes_are_promoted(fw):
    layer, values = make(fw, "qp")
    arrays = [fw.array(v, d) for v, d in zip(values, ("float32", "float64", "float32", "float32"), strict=True)]
    assert numpy(layer(*arrays)[0]).dtype == np.float64
    assert [numpy(g).dtype.itemsize for g in fw.gradients(loss(fw, layer), arrays)] == [4, 8, 4, 4]


def test_python_numbers_take_the_dtype_of_the_arrays_beside_them(fw):
    x, b, k = cp.Variable(3), cp.Parameter(3), cp.Parameter(pos=True)
    layer = fw.module.CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - b)), [cp.norm(x) <= k]), [b, k], [x])
    for dtype in ("float32", "float64"):
        value = fw.array([1.0, 2.0, -1.0], dtype)
        exact = numpy(layer(value, fw.array(1.3, dtype))[0])
        for number in (1.3, np.array(1.3, dtype)):
            found = numpy(layer(value, number)[0])
            assert found.dtype == np.dtype(dtype) and np.array_equal(found, exact)
    assert np.array_equal(numpy(layer([1.0, 2.0, -1.0], fw.array(1.3, "float64"))[0]), exact)
    half = numpy(layer(fw.array([1.0, 2.0, -1.0], "float16"), 1.3)[0])
    assert half.dtype == np.float32 and np.allclose(half, exact, atol=1e-6)


def test_options_of_calls_are_not_kept_forever(fw):
    layer, values = make(fw, "maximize")
    for k in range(40):
        layer(*map(fw.array, values), solver_args={"max_iter": 100 + k})
    assert len(layer._handle.variants) <= 16


class Wrong(Product):
    """A vjp of the wrong size."""

    def vjp(self, saved, c):
        return (saved[1] * c).sum(-1, keepdims=True), saved[0] * c


@pytest.mark.parametrize("native", [False, True], ids=["host", "native"])
def test_lift_checks_shapes_of_inputs_and_results(fw, native):
    f, a = fw.module.lift(Product(native)), fw.array(np.ones((4, 3)))
    assert np.array_equal(numpy(f(a, a)[0]), np.ones((4, 3)))
    for inputs in ((a,), (a, fw.array(np.ones((1, 1)))), (a, fw.array(np.ones(3)))):
        with pytest.raises(ShapeError, match="Product got"):
            f(*inputs)
    with pytest.raises(ShapeError, match=r"Wrong: what `vjp` returns has the sizes \[1, 3\] .* expected \[3, 3\]"):
        fw.gradients(lambda a: fw.dot(fw.module.lift(Wrong(native))(a, a)[0], np.ones((4, 3))), [a])


def test_what_is_no_map_is_not_lifted(fw):
    for thing, text in ((Product, "the class Product"), (abs, "a builtin_function_or_method")):
        with pytest.raises(ProblemError, match=f"lift got {text}; expected an instance of a subclass of cvxlayers.DiffMap"):
            fw.module.lift(thing)


def test_a_parameter_without_effect_has_zero_gradient(fw):
    b, k, x = cp.Parameter(2), cp.Parameter(), cp.Variable(2)
    layer = fw.module.CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - b) + k)), [b, k], [x])
    g = fw.gradients(loss(fw, layer), [fw.array(np.ones(2)), fw.array(np.ones(3))])
    assert numpy(layer(fw.array(np.ones(2)), fw.array(np.ones(3)))[0]).shape == (3, 2)
    assert not numpy(g[1]).any() and numpy(g[0]).any()


@pytest.mark.parametrize("name", ["socp", "complex_least_squares", "hermitian_variable", "power_nd"])
def test_duals_have_cvxpys_values(fw, name):
    layer, values = make(fw, name)
    for out, expected in zip(layer(*map(fw.array, values)), cvxpy_solution(CASES[name]()), strict=True):
        np.testing.assert_allclose(numpy(out), expected, atol=2e-5)  # Clarabel's own accuracy in x
        assert numpy(out).dtype == expected.dtype and numpy(out).shape == expected.shape


ERRORS = [
    (ShapeError, r"parameter 'p' .* has shape \(4,\); expected \(5,\), or \(..., 5\)", lambda v: (v[0], v[1][:4], v[2], v[3])),
    (ShapeError, "the layer got 3 values; expected 4", lambda v: v[:3]),
    (ShapeError, "do not broadcast", lambda v: (v[0], np.stack([v[1]] * 2), v[2], np.stack([v[3]] * 3))),
    (ShapeError, "got a complex value; expected a real one", lambda v: (v[0], v[1] + 1j, v[2], v[3])),
    (
        ProblemError,
        "parameter 'p' .* NaN or infinite in batch items 1",
        lambda v: (v[0], np.stack([v[1], v[1] * np.nan]), *v[2:]),
    ),
    (
        SolverError,
        "item 1: infeasible",
        lambda v: (v[0], v[1], v[2] * [[1], [-1], [0], [0], [0], [0], [0]], np.stack([v[3], -v[3]])),
    ),
]


@pytest.mark.parametrize("kind, message, change", ERRORS, ids=[m for _, m, _ in ERRORS])
def test_errors(fw, kind, message, change):
    case = CASES["qp"]()
    for parameter, name in zip(case.parameters, "LpGh", strict=True):
        parameter._name = name
    layer = fw.module.CvxpyLayer(case.problem, case.parameters, case.variables)
    with pytest.raises(kind, match=message):
        layer(*map(fw.array, change(case.values)))


def test_a_problem_that_has_no_layer(fw):
    S, x = cp.Parameter((2, 2), symmetric=True), cp.Variable()
    with pytest.raises(ProblemError, match="not DPP"):
        fw.module.CvxpyLayer(cp.Problem(cp.Minimize(cp.lambda_max(S) * x + x**2)), [S], [x])
    with pytest.raises(ProblemError, match=r"pass parameters=\[...\] once"):
        fw.module.CvxpyLayer(cp.Problem(cp.Minimize(x**2)), variables=[x])


def test_spellings_and_text(fw):
    b, x = cp.Parameter(2, name="b"), cp.Variable(2, name="x")
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - b)), [x >= 0])
    for names in ({"parameters": [b], "variables": [x]}, {"params": [b], "out": [x]}, {"parameters": [b], "out_vars": [x]}):
        layer = fw.module.CvxpyLayer(problem, solver="clarabel", **names)
        assert re.search(r"CvxpyLayer\(.*b\[2\].*x\[2\].*clarabel", repr(layer).replace("\n", ""))
    np.testing.assert_allclose(numpy(layer(np.array([1.0, -1.0]))[0]), [1, 0], atol=1e-9)
    np.testing.assert_allclose(numpy(layer([1.0, -1.0], solver_args={"max_iter": 99})[0]), [1, 0], atol=1e-6)


# Isolation, in fresh interpreters.

IMPORT = """
import sys, cvxpy, {module}
before = set(sys.modules)
import cvxlayers.{module}
print(*sorted(m for m in set(sys.modules) - before if m.split(".")[0] not in sys.stdlib_module_names))
"""
OURS = {"cvxlayers", "array_api_compat", "threadpoolctl"}  # what an adapter adds to CVXPY and to its framework: 0.1 s

PACKAGES = {"torch": "torch", "jax": "jax", "tensorflow": "tensorflow", "keras": "tensorflow"}


@pytest.mark.parametrize("module", PACKAGES)
def test_an_import_takes_little_time(module):
    """It brings in no other framework, no solver, and nothing else that CVXPY and the framework do without. JAX has parts that
    are imported where they are used; those of torch would take seconds."""
    out = run(IMPORT, module=module)
    found = {m for m in out.stdout.split() if m.split(".")[0] not in OURS}
    assert "cvxlayers.layer" in out.stdout.split(), out.stderr
    assert {m for m in found if not (module == "jax" and m.startswith("jax."))} == set()


HIDE = """
import sys
from importlib.machinery import PathFinder

class Visible:
    def find_spec(name, path=None, target=None):
        return None if name.split(".")[0] in {hidden} else PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Visible
"""

MISSING = """
import cvxlayers
try:
    import cvxlayers.{module}
except cvxlayers.MissingDependencyError as error:
    print(error)
"""

WITHOUT = """
import cvxpy as cp, numpy as np
from cvxlayers.{module} import CvxpyLayer
x, b = cp.Variable(2), cp.Parameter(2)
layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - b)), [x >= 0]), [b], [x])
print(np.abs(np.asarray(layer(np.array([1.0, -1.0]))[0])).round(6).tolist())
"""


def run(code, **fields):
    return subprocess.run([sys.executable, "-c", code.format(**fields)], capture_output=True, text=True)


@pytest.mark.parametrize("module", PACKAGES)
def test_a_missing_framework_is_an_error_that_says_what_to_install(module):
    assert issubclass(MissingDependencyError, ImportError)
    out = run(HIDE + MISSING, hidden={module}, module=module)
    assert "pip install 'cvxlayers[" in out.stdout, out.stderr


@pytest.mark.parametrize("module", ["torch", "jax", "tensorflow"])
def test_an_adapter_works_where_the_others_are_not_installed(module):
    out = run(HIDE + WITHOUT, hidden={"torch", "jax", "tensorflow"} - {module}, module=module)
    assert out.stdout.strip() == "[1.0, 0.0]", out.stderr
