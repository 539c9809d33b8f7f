"""project: nearest points, properties of every projection, kinks, empty sets, and sets as arguments."""

import math

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf
import torch
from scipy.optimize import linear_sum_assignment

import cvxlayers.jax
import cvxlayers.tensorflow
from cvxlayers import ProblemError, ShapeError, SolverError, sets
from cvxlayers.torch import project

RNG = np.random.default_rng(3)
A, G = RNG.standard_normal((1, 4)), RNG.standard_normal((3, 4))
UPPER = np.array([0.5, 1.0, 0.7, 0.2])


def _birkhoff(X):
    return [X >= 0, cp.sum(X, 0) == 1, cp.sum(X, 1) == 1]


SETS = {  # the set, the shape of its elements, the same in CVXPY
    "hyperplane": (sets.Hyperplane(A[0], 0.3), 4, lambda x: [A @ x == 0.3]),
    "halfspace": (sets.Halfspace(A[0], -0.3), 4, lambda x: [A @ x <= -0.3]),
    "box": (sets.Box(-0.5, UPPER), 4, lambda x: [x >= -0.5, x <= UPPER]),
    "simplex": (sets.Simplex(2), 4, lambda x: [x >= 0, cp.sum(x) == 2]),
    "capped simplex": (sets.CappedSimplex(1.5, UPPER), 4, lambda x: [x >= 0, x <= UPPER, cp.sum(x) == 1.5]),
    "1-ball": (sets.Ball(norm=1), 4, lambda x: [cp.norm1(x) <= 1]),
    "2-ball": (sets.Ball(), 4, lambda x: [cp.norm2(x) <= 1]),
    "max-ball": (sets.Ball(0.5, math.inf), 4, lambda x: [cp.norm_inf(x) <= 0.5]),
    "second-order cone": (sets.SecondOrderCone(), 4, lambda x: [cp.SOC(x[0], x[1:])]),
    "psd": (sets.PSD(), (3, 3), lambda X: [X >> 0]),
    "birkhoff": (sets.Birkhoff(), (4, 4), _birkhoff),
    "polyhedron": (sets.Polyhedron(A, [0.3], G, np.ones(3)), 4, lambda x: [A @ x == 0.3, G @ x <= 1]),
}
each = pytest.mark.parametrize("name", SETS)


def tensor(x):
    return torch.as_tensor(x, dtype=torch.float64)


def points(name, count):
    """Some inside, some outside, some with ties."""
    shape = SETS[name][1]
    x = 1.5 * RNG.standard_normal((count, *((shape,) if isinstance(shape, int) else shape)))
    x[::3] = np.round(x[::3])
    return tensor(x)


def jacobian(x, set):
    J = torch.func.jacrev(lambda x: project(x, set))(tensor(x))
    return J.reshape(math.prod(J.shape[: J.ndim // 2]), -1)


@each
def test_it_is_the_nearest_point(name):
    set, shape, constraints = SETS[name]
    for x in points(name, 3):
        y = cp.Variable(shape, symmetric=name == "psd")
        cp.Problem(cp.Minimize(cp.sum_squares(y - x.numpy())), constraints(y)).solve(
            solver=cp.CLARABEL, tol_gap_abs=1e-10, tol_gap_rel=1e-10, tol_feas=1e-10
        )
        np.testing.assert_allclose(project(x, set), y.value, atol=1e-5)


@each
def test_every_projection_is_idempotent_and_contracts(name):
    set, x = SETS[name][0], points(name, 100)
    y = project(x, set)
    torch.testing.assert_close(project(y, set), y, rtol=0, atol=1e-10)
    a, b = x.flatten(1), y.flatten(1)
    if name == "psd":
        a = ((x + x.mT) / 2).flatten(1)
    assert ((b[:50] - b[50:]).norm(dim=1) <= (a[:50] - a[50:]).norm(dim=1) + 1e-10).all()


@each
def test_every_jacobian_is_symmetric_between_0_and_1(name):
    for x in points(name, 7):
        J = jacobian(x, SETS[name][0]).numpy()
        np.testing.assert_allclose(J, J.T, atol=1e-9)
        l = np.linalg.eigvalsh(J)
        assert l.min() > -1e-9 and l.max() < 1 + 1e-9


def test_a_quadratic_form_of_second_derivatives_is_that_of_differences():
    e = [tensor(v).requires_grad_() for v in (1.5 * RNG.standard_normal((2, 4)), A[0], 0.3)]
    cases = [
        (lambda x, a, b: project(x, sets.Hyperplane(a, b)), e),
        (lambda x, a, b: project(x, sets.Halfspace(a, b)), e),
        (lambda x, r: project(x, sets.Ball(r)), e[::2]),
        (lambda x, r: project(x, sets.Ball(r, 1)), e[::2]),
        (lambda x: project(x, sets.SecondOrderCone()), e[:1]),
        (lambda x: project(x.reshape(2, 2, 2), sets.PSD()), e[:1]),
    ]
    for function, inputs in cases:
        assert torch.autograd.gradcheck(function, inputs, check_forward_ad=True)
        assert torch.autograd.gradgradcheck(function, inputs)


TIES = {  # a set, a point without a derivative, the point's projection, the Jacobian that is taken
    "the 2-ball's boundary": (sets.Ball(), [1, 0], [1, 0], [[0, 0], [0, 1]]),
    "the 1-ball's boundary": (sets.Ball(norm=1), [0.5, 0.5], [0.5, 0.5], [[0.5, -0.5], [-0.5, 0.5]]),
    "the max-ball's boundary": (sets.Ball(norm=math.inf), [1, 0], [1, 0], [[0, 0], [0, 1]]),
    "the halfspace's boundary": (sets.Halfspace([1.0, 0]), [0, 3], [0, 3], [[0, 0], [0, 1]]),
    "a bound": (sets.Box(0.0), [0, 1], [0, 1], [[0, 0], [0, 1]]),
    "a box that is a point": (sets.Box(1.0, 1.0), [1, 2], [1, 1], [[0, 0], [0, 0]]),
    "the simplex' vertex": (sets.Simplex(), [1, 0], [1, 0], [[0, 0], [0, 0]]),
    "a subset": (sets.CappedSimplex(1.0), [1, 0], [1, 0], [[0, 0], [0, 0]]),
    "the second-order cone's boundary": (sets.SecondOrderCone(), [1, 1], [1, 1], [[0.5, 0.5], [0.5, 0.5]]),
    "the polar cone's boundary": (sets.SecondOrderCone(), [-1, 1], [0, 0], [[0, 0], [0, 0]]),
    "the apex": (sets.SecondOrderCone(), [0, 0], [0, 0], [[0, 0], [0, 0]]),
    "the matrix 0": (sets.PSD(), [[0, 0], [0, 0]], [[0, 0], [0, 0]], np.zeros((4, 4))),
    "a permutation": (sets.Birkhoff(), [[0, 1], [1, 0]], [[0, 1], [1, 0]], np.zeros((4, 4))),
}


@pytest.mark.parametrize("name", TIES)
def test_at_a_kink_the_derivative_is_that_of_the_smaller_face(name):
    set, x, y, J = TIES[name]
    np.testing.assert_allclose(project(tensor(x), set), y, atol=1e-15)
    np.testing.assert_allclose(jacobian(x, set), J, atol=1e-15)


def test_smooth_points_that_look_like_kinks():
    same = np.full((2, 2), 0.5)
    np.testing.assert_array_equal(jacobian([0, 0], sets.Ball()), np.eye(2))
    np.testing.assert_allclose(jacobian([3, 3], sets.Simplex()), np.eye(2) - same)  # equal scores
    np.testing.assert_array_equal(jacobian(np.eye(2), sets.PSD())[1], [0, 0.5, 0.5, 0])  # equal eigenvalues
    np.testing.assert_array_equal(jacobian([1], sets.SecondOrderCone()), [[1]])


@pytest.mark.parametrize("norm", [1, 2, math.inf])
def test_a_ball_of_radius_0_is_a_point(norm):
    for x in ([0.0, 0, 0], [1.0, -2, 0], [1e-300, 0, 0]):
        np.testing.assert_array_equal(project(tensor(x), sets.Ball(0.0, norm)), np.zeros(3))
        np.testing.assert_allclose(jacobian(x, sets.Ball(0.0, norm)), np.zeros((3, 3)), atol=1e-15)


def test_infinite_bounds_and_radii_do_not_bind():
    x = tensor(RNG.standard_normal(4))
    free = [sets.Box(-math.inf), sets.Halfspace(A[0], math.inf), *(sets.Ball(math.inf, norm) for norm in (1, 2, math.inf))]
    for set in free:
        torch.testing.assert_close(project(x, set), x)
        np.testing.assert_array_equal(jacobian(x, set), np.eye(4))
    torch.testing.assert_close(project(x, sets.CappedSimplex(1.0, math.inf)), project(x, sets.Simplex()))


def test_the_derivative_of_a_semidefinite_projection_across_signs():
    E = tensor([[0, 1], [1, 0]])
    _, along = torch.func.jvp(lambda X: project(X, sets.PSD()), (torch.diag(tensor([2, -1])),), (E,))
    torch.testing.assert_close(along, 2 / 3 * E)  # 2 / (2 - -1)


def test_huge_and_tiny_numbers_in_single_precision():
    for scale in (1e-30, 1e30):
        x = torch.tensor([3.0, 4.0]) * scale
        np.testing.assert_allclose(project(x, sets.Ball(scale)) / scale, [0.6, 0.8], rtol=1e-6)
        np.testing.assert_allclose(project(x, sets.Hyperplane(x)) / scale, [0, 0], atol=1e-6)
        np.testing.assert_allclose(project(x, sets.SecondOrderCone()) / scale, [3.5, 3.5], rtol=1e-6)


class TestBirkhoff:
    def test_two_by_two(self):
        X = tensor(RNG.standard_normal((20, 2, 2)))
        p = (0.5 + (X[:, 0, 0] + X[:, 1, 1] - X[:, 0, 1] - X[:, 1, 0]) / 4).clip(0, 1)
        torch.testing.assert_close(project(X, sets.Birkhoff())[:, 0, 0], p, rtol=0, atol=1e-14)

    def test_shifts_of_rows_and_columns_do_not_matter(self):
        X, r, c = (tensor(RNG.standard_normal(s)) for s in ((5, 5), (5, 1), (1, 5)))
        P = project(X, sets.Birkhoff())
        torch.testing.assert_close(project(X + r + c, sets.Birkhoff()), P, rtol=0, atol=1e-13)
        J = torch.func.jacrev(lambda X: project(X, sets.Birkhoff()))(X)
        assert J.sum(-1).abs().max() < 1e-12 and J.sum(-2).abs().max() < 1e-12
        torch.testing.assert_close(project(r + c, sets.Birkhoff()), torch.full_like(X, 0.2))

    @pytest.mark.parametrize("scale", [1e-2, 1, 1e2, 1e4])
    @pytest.mark.parametrize(("dtype", "unit"), [(torch.float64, 1e-13), (torch.float32, 1e-5)])
    def test_sums_are_1_and_no_vertex_is_nearer_at_all_scales(self, scale, dtype, unit):
        X = (scale * tensor(RNG.standard_normal((8, 12, 12)))).to(dtype)
        P = project(X, sets.Birkhoff())
        assert max(float((P.sum(d) - 1).abs().max()) for d in (-1, -2)) < unit
        assert P.min() >= 0
        for x, p in zip(X.double().numpy(), P.double().numpy(), strict=True):  # <x - p, v - p> <= 0 for all v of the polytope
            best = linear_sum_assignment(x - p, maximize=True)
            assert (x - p)[best].sum() - ((x - p) * p).sum() < 10 * unit * max(scale, 1)

    def test_blocks_that_do_not_touch(self):
        blocks = torch.block_diag(*tensor(0.3 * RNG.standard_normal((3, 3, 3)))) + 9 * torch.block_diag(*torch.ones(3, 3, 3))
        P, J = project(blocks, sets.Birkhoff()), jacobian(blocks, sets.Birkhoff())
        assert int((P > 0).sum()) <= 27
        torch.testing.assert_close(J @ J, J, rtol=0, atol=1e-12)
        assert torch.linalg.matrix_rank(J, atol=1e-6) == int((P > 0).sum()) - 18 + 3  # three components


EMPTY = {
    "negative radius": (lambda v: sets.Ball(v), "Ball.*radius is negative"),
    "negative radius of the 1-norm": (lambda v: sets.Ball(v, 1), "Ball.*radius is negative"),
    "negative radius of the inf-norm": (lambda v: sets.Ball(v, math.inf), "Ball.*radius is negative"),
    "negative total": (lambda v: sets.Simplex(v), "total is negative"),
    "bounds that cross": (lambda v: sets.Box(-v[:, None] - 0.5, 0.0), "low is greater than high"),
    "too little room": (lambda v: sets.CappedSimplex(1 - v, 0.4), "asked for"),
    "a is 0": (lambda v: sets.Halfspace(torch.zeros(3), v), "a is 0"),
}


@pytest.mark.parametrize("name", EMPTY)
def test_empty_sets_are_errors_that_name_the_items(name):
    make, message = EMPTY[name]
    value = tensor([1, -1, 0, -2, 1])
    with pytest.raises(SolverError, match=message) as error:
        project(torch.zeros(5, 3, dtype=torch.float64), make(value))
    assert error.value.items == (1, 3)
    with jax.enable_x64(True):
        y = jax.jit(cvxlayers.jax.project)(jnp.zeros((5, 3)), jax.tree.map(jnp.asarray, make(value.numpy())))
        np.testing.assert_array_equal(np.isnan(y).all(-1), [False, True, False, True, False])


@each
def test_what_is_not_finite_stays_in_its_row(name):
    if name == "polyhedron":
        pytest.skip("qp refuses it")
    set, x = SETS[name][0], points(name, 3)
    y = project(x, set)
    x[1].view(-1)[1] = math.nan
    found = project(x, set)
    torch.testing.assert_close(found[[0, 2]], y[[0, 2]])
    assert found[1].isnan().any()


def test_parameters_take_the_dtype_of_x():
    x = torch.zeros(2, 3, dtype=torch.float32)
    for set in (sets.Hyperplane(np.ones(3), 1), sets.Box(np.zeros(3), [1.0, 2.0, 3.0]), sets.CappedSimplex(2, np.ones((2, 1)))):
        assert project(x, set).dtype == torch.float32
    assert project(np.zeros((2, 3)), sets.Simplex()).shape == (2, 3)


def test_calls_that_are_wrong():
    x = torch.zeros(2, 3)
    for call, error, message in [
        (lambda: project(x, "simplex"), ProblemError, "expected one of cvxlayers.sets"),
        (lambda: sets.Ball(1, norm=3), ProblemError, "norm=3"),
        (lambda: project(x, sets.Halfspace(np.ones(2))), ShapeError, "'a' has vectors of length 2; expected 3"),
        (lambda: project(x, sets.Ball([1.0, 2, 3])), ShapeError, "do not broadcast"),
        (lambda: project(x, sets.PSD()), ShapeError, r"shape \(2, 3\); expected"),
        (lambda: project(torch.eye(3), sets.PSD(), dim=0), ShapeError, "leave out axis and dim"),
        (lambda: project(x, sets.Simplex(), axis=2), ShapeError, "no axis 2"),
    ]:
        with pytest.raises(error, match=message):
            call()


def test_sets_show_what_they_are():
    assert repr(sets.Ball(2.0, 1)) == "Ball(radius=2.0, norm=1)"
    assert repr(sets.Halfspace(np.zeros((5, 3)), 1)) == "Halfspace(a=<array (5, 3)>, b=1)"
    assert repr(sets.PSD()) == "PSD()"
    assert all(c.__doc__.startswith(("{", "The ")) for c in sets.SETS.values())


class TestSetsAreArguments:
    x = RNG.standard_normal((3, 4))
    r = np.array([0.5, 0.7, 0.9])

    def expect(self):
        """Values, and the gradient of their squares' sum in the radii: twice the radii."""
        return project(tensor(self.x), sets.Ball(tensor(self.r))).numpy(), 2 * self.r

    def test_torch(self):
        y, g = self.expect()
        x, set = tensor(self.x), sets.Ball(tensor(self.r))
        np.testing.assert_allclose(torch.func.vmap(project)(x, set), y)
        found = torch.func.grad(lambda set: (project(x, set) ** 2).sum())(set)
        assert isinstance(found, sets.Ball) and found.norm == 2
        np.testing.assert_allclose(found.radius, g)

    def test_torch_compile(self):
        torch._dynamo.reset()
        function = torch.compile(lambda x, set: (project(x, set) ** 2).sum(), fullgraph=True, backend="aot_eager")
        r = tensor(self.r).requires_grad_()
        function(tensor(self.x), sets.Ball(r)).backward()
        np.testing.assert_allclose(r.grad, self.expect()[1])

    def test_jax(self):
        with jax.enable_x64(True):
            y, g = self.expect()
            x, set = jnp.asarray(self.x), sets.Ball(jnp.asarray(self.r))
            np.testing.assert_allclose(jax.jit(jax.vmap(cvxlayers.jax.project))(x, set), y)
            found = jax.jit(jax.grad(lambda set: jnp.sum(cvxlayers.jax.project(x, set) ** 2)))(set)
            assert isinstance(found, sets.Ball) and found.norm == 2
            np.testing.assert_allclose(found.radius, g)

    def test_tensorflow(self):
        y, g = self.expect()
        x, r = tf.constant(self.x), tf.Variable(self.r)

        @tf.function
        def function(x):
            return cvxlayers.tensorflow.project(x, sets.Ball(r))

        with tf.GradientTape() as tape:
            found = function(x)
            loss = tf.reduce_sum(found**2)
        np.testing.assert_allclose(found, y)
        np.testing.assert_allclose(tape.gradient(loss, r), g)


class TestPolyhedron:
    def test_what_has_a_closed_form(self):
        x, I = points("box", 10), np.eye(4)
        pairs = [
            (sets.Polyhedron(A, [0.3]), sets.Hyperplane(A[0], 0.3)),
            (sets.Polyhedron(G=A, h=[-0.3]), sets.Halfspace(A[0], -0.3)),
            (sets.Polyhedron(G=np.vstack([I, -I]), h=np.ones(8)), sets.Box(-1.0, 1.0)),
            (sets.Polyhedron(np.ones((1, 4)), [2.0], -I, np.zeros(4)), sets.Simplex(2)),
        ]
        for polyhedron, set in pairs:
            torch.testing.assert_close(project(x, polyhedron), project(x, set), rtol=0, atol=1e-8)
            np.testing.assert_allclose(jacobian(x[1], polyhedron), jacobian(x[1], set), atol=1e-7)

    def test_gradients_in_its_parameters(self):
        x = tensor([1.0, 2, -1, 0.5])
        parameters = [tensor(v).requires_grad_() for v in (A, [0.3], G, np.ones(3))]
        assert torch.autograd.gradcheck(lambda *p: project(x, sets.Polyhedron(*p)), parameters, atol=1e-4)

    def test_an_empty_one_is_an_error_that_names_the_item(self):
        h = tensor([[1, 1], [-1, -1]])
        with pytest.raises(SolverError) as error:
            project(torch.zeros(2, 1, dtype=torch.float64), sets.Polyhedron(G=[[1.0], [-1.0]], h=h))
        assert error.value.items == (1,)

    def test_an_axis(self):
        x = points("box", 5)
        y = project(x, SETS["polyhedron"][0])
        torch.testing.assert_close(project(x.mT, SETS["polyhedron"][0], dim=0).mT, y)
