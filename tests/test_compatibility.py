"""Code written for cvxpylayers 0.1 and 1.x: its positional arguments, its solver names and its options of solvers."""

import pickle

import cvxpy as cp
import numpy as np
import pytest

from cvxlayers import ProblemError, SolverError
from cvxlayers.layer import ConeLayer
from cvxlayers.solvers import SOLVERS

from .frameworks import FRAMEWORKS, numpy
from .support import largest

A = np.random.default_rng(0).standard_normal((3, 4, 2))  # a batch of 3
B = np.random.default_rng(1).standard_normal(4)
EXACT = np.linalg.solve(np.swapaxes(A, 1, 2) @ A + np.eye(2), np.swapaxes(A, 1, 2) @ B[:, None])[..., 0]


def least_squares():
    """min |Ax - b|^2 + |x|^2: its arguments for a layer."""
    a, b, x = cp.Parameter((4, 2)), cp.Parameter(4), cp.Variable(2)
    return cp.Problem(cp.Minimize(cp.sum_squares(a @ x - b) + cp.sum_squares(x))), [a, b], [x]


def geometric():
    """min x + a / x: x = sqrt(a)."""
    a, x = cp.Parameter(pos=True), cp.Variable(pos=True)
    return cp.Problem(cp.Minimize(x + a / x)), [a], [x]


def simplex(solver=None, args=None):
    """The distance to the simplex as a layer without a framework, with the price of the equality."""
    c, x = cp.Parameter(3), cp.Variable(3)
    total = cp.sum(x) == 1
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - c)), [x >= 0, total])
    return ConeLayer(problem, [c], [x, total.dual_variables[0]], solver=solver, solver_args=args)


# Constructors.


def test_positions_of_version_0(fw):
    assert np.allclose(numpy(fw.module.CvxpyLayer(*geometric(), True)(fw.array(4.0))[0]), 2)
    assert np.allclose(numpy(fw.module.CvxpyLayer(*least_squares(), False)(fw.array(A), fw.array(B))[0]), EXACT)
    with pytest.raises(ProblemError, match="custom_method is not available"):
        fw.module.CvxpyLayer(*least_squares(), False, (np.sin, np.cos))
    with pytest.raises(ProblemError, match="custom_method is not available"):
        fw.module.CvxpyLayer(*least_squares(), custom_method=(np.sin, np.cos))
    fw.module.CvxpyLayer(*least_squares(), gp=False, custom_method=None)


def test_positions_of_version_1(fw):
    layer = fw.module.CvxpyLayer(*geometric(), cp.CLARABEL, True, False, None, {"max_iter": 77})
    assert np.allclose(numpy(layer(fw.array(4.0))[0]), 2)
    core = layer._handle.map
    assert core.solvers[0].name == "clarabel" and core.solvers[0].settings["max_iter"] == 77


@pytest.mark.parametrize("name", [cp.DIFFCP, cp.SCS, cp.CLARABEL, cp.ECOS, "MOREAU", None])
def test_solver_names_of_cvxpy(fw, name):
    layer = fw.module.CvxpyLayer(*least_squares(), solver=name)
    assert np.allclose(numpy(layer(fw.array(A), fw.array(B))[0]), EXACT, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["CUCLARABEL", "MPAX"])
def test_solvers_that_are_not_here(fw, name):
    with pytest.raises(ProblemError, match=f"there is no solver '{name}'; there are: clarabel, "):
        fw.module.CvxpyLayer(*least_squares(), solver=name)


def test_the_solver_prints_if_asked(capfd):
    layer = FRAMEWORKS["torch"].module.CvxpyLayer(*least_squares(), "clarabel", False, True)
    layer(A, B)
    (line,) = capfd.readouterr().out.splitlines()
    assert line.startswith("cvxlayers: batch")
    layer(A, B, solver_args={"verbose": True})
    assert "Clarabel" in capfd.readouterr().out


# Options of solvers.

OPTIONS = {
    "eps": {"eps": 1e-10},
    "loose": {"eps": 1e-3},
    "beyond rounding": {"eps": 1e-14},
    "readme": {"eps": 1e-8, "max_iters": 10000, "acceleration_lookback": 0},
    "version 1": {"tol": 1e-12, "max_iters": 500},
    "scs": {"solve_method": "SCS", "eps_abs": 1e-9, "eps_rel": 1e-9, "max_iters": 5000, "acceleration_lookback": 0},
    "ecos": {"solve_method": "ECOS", "abstol": 1e-9, "reltol": 1e-9, "feastol": 1e-9, "max_iters": 200, "verbose": False},
    "clarabel": {"solve_method": cp.CLARABEL, "tol_gap_abs": 1e-9, "tol_gap_rel": 1e-9, "tol_feas": 1e-9, "max_iter": 99},
    "diffcp": {"mode": "dense", "n_jobs_forward": 1, "n_jobs_backward": 1},
    "moreau": {"ipm_settings": {"tol_gap_abs": 1e-8}, "max_iter": 300},
    "time": {"time_limit_secs": 60.0},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_with_and_without_gradients(fw, name):
    values = fw.array(A), fw.array(B)
    plain = fw.module.CvxpyLayer(*least_squares())
    fixed = fw.module.CvxpyLayer(*least_squares(), solver_args=OPTIONS[name])
    exact = [numpy(g) for g in fw.gradients(lambda a, b: fw.dot(plain(a, b)[0], EXACT), list(values))]
    for layer, args in ((plain, {"solver_args": OPTIONS[name]}), (fixed, {})):
        assert np.allclose(numpy(layer(*values, **args)[0]), EXACT, rtol=0, atol=1e-9)
        found = fw.gradients(lambda a, b, f=layer, args=args: fw.dot(f(a, b, **args)[0], EXACT), list(values))
        assert largest([numpy(g) for g in found], exact) < 1e-9


def settings(solver, args, **call):
    """What the solver gets: from the constructor, and from a call on top."""
    layer = simplex(solver, args)
    return (layer.with_options(call["solver_args"]) if call else layer).solvers[0].settings


@pytest.mark.parametrize(
    "solver, args, expected",
    [
        ("scs", {"eps": 1e-5}, {"eps_abs": 1e-5, "eps_rel": 1e-5}),
        ("scs", {"abstol": 1e-5, "feastol": 1e-6, "reltol": 1e-7}, {"eps_abs": 1e-6, "eps_rel": 1e-7}),
        ("scs", {"max_iter": 50, "time_limit": 3.0}, {"max_iters": 50, "time_limit_secs": 3.0}),
        ("scs", {"acceleration_lookback": 3}, {"acceleration_lookback": 3}),
        ("ecos", {"eps_abs": 1e-5, "eps_rel": 1e-6}, {"abstol": 1e-5, "feastol": 1e-5, "reltol": 1e-6}),
        ("ecos", {"tol_gap_abs": 1e-5, "max_iter": 50}, {"abstol": 1e-5, "max_iters": 50}),
        ("clarabel", {"eps": 1e-3, "feastol": 1e-6}, {"tol_gap_abs": 1e-3, "tol_gap_rel": 1e-3, "tol_feas": 1e-6}),
        ("clarabel", {"feastol": 1e-6, "eps": 1e-3}, {"tol_gap_abs": 1e-3, "tol_gap_rel": 1e-3, "tol_feas": 1e-6}),
        ("clarabel", {"max_iters": 50, "time_limit_secs": 3.0}, {"max_iter": 50, "time_limit": 3.0}),
        (
            "moreau",
            {"eps_abs": 1e-5, "max_iters": 50},
            {"tol_gap_abs": 1e-5, "tol_feas": 1e-5, "max_iter": 50, "iter_limit": 50},
        ),
        ("diffcp", {"abstol": 1e-5}, {"eps_abs": 1e-5}),
        ("diffcp", {"solve_method": "Clarabel", "abstol": 1e-5}, {"tol_gap_abs": 1e-5}),
    ],
    ids=str,
)
def test_spellings(solver, args, expected):
    found = settings(solver, args)
    assert {k: found[k] for k in expected} == expected
    rest = settings(solver, {k: v for k, v in args.items() if k == "solve_method"})
    assert {k: v for k, v in found.items() if k not in expected} == {k: v for k, v in rest.items() if k not in expected}


@pytest.mark.parametrize("name", sorted(SOLVERS))
def test_options_without_effect_leave_the_settings_alone(name):
    args = {"mode": "lsmr", "n_jobs_forward": 2, "n_jobs_backward": -1}
    assert settings(name, args) == settings(name, None)
    assert SOLVERS[name].options >= {"acceleration_lookback"} or settings(name, {"acceleration_lookback": 0}) == settings(
        name, None
    )


def test_a_call_goes_before_the_constructor():
    found = settings("clarabel", {"tol_feas": 1e-12, "max_iter": 10}, solver_args={"eps": 1e-5})
    assert (found["tol_feas"], found["tol_gap_abs"], found["max_iter"]) == (1e-5, 1e-5, 10)
    found = settings("clarabel", {"eps": 1e-12}, solver_args={"eps_rel": 1e-5})
    assert (found["tol_feas"], found["tol_gap_abs"], found["tol_gap_rel"]) == (1e-12, 1e-12, 1e-5)


def test_limits_hold_in_every_attempt():
    for solver in ("scs", "clarabel", "ecos", "moreau"):
        layer = simplex(solver, {"max_iters": 7})
        assert len(layer.solvers) > 1
        assert all(7 in (s.settings.get("max_iter"), s.settings.get("max_iters")) for s in layer.solvers)


def test_solve_method_chooses_the_solver():
    c, layer = np.array([[0.3, 2.0, -1.0]]), simplex()
    for method, name in (("SCS", "scs"), ("ECOS", "ecos"), ("Clarabel", "clarabel"), ("CLARABEL", "clarabel")):
        for chosen in (simplex(None, {"solve_method": method}), layer.with_options({"solve_method": method})):
            assert [s.name for s in chosen.solvers] == [name] * 2
            assert largest(chosen.forward(c)[0], layer.forward(c)[0]) < 1e-12
    by_constructor = simplex(None, {"solve_method": "SCS", "eps": 1e-4})
    assert by_constructor.with_options({"solve_method": "ECOS"}).solvers[0].name == "ecos"
    assert by_constructor.with_options({"eps": 1e-5}).solvers[0].settings["eps_abs"] == 1e-5
    reference = simplex("DIFFCP", {"solve_method": "Clarabel"})
    assert [s.method for s in (*reference.solvers, *reference.with_options({"solve_method": "SCS"}).solvers)] == (
        ["Clarabel"] * 2 + ["SCS"] * 2
    )
    assert simplex("scs", {"solve_method": "SCS"}).solvers[0].name == "scs"


@pytest.mark.parametrize(
    "solver, args, message",
    [
        (None, {"epsilon": 1}, "solver 'moreau' has no option 'epsilon'; it has: .*eps, eps_abs"),
        (None, {"rho_x": 1}, "solver 'moreau' has no option 'rho_x', which is one of: diffcp, scs; name the solver"),
        ("ecos", {"iter_limit": 1}, "solver 'ecos' has no option 'iter_limit', which is one of: moreau"),
        ("ecos", {"time_limit": 1}, "solver 'ecos' has no option 'time_limit'"),
        (None, {"solve_method": "MOSEK"}, "there is no solver 'MOSEK'; there are: clarabel"),
        ("moreau", {"solve_method": "SCS"}, "solver='moreau' and solve_method='SCS' are different solvers"),
        ("moreau", {"solver": "SCS"}, "solver='SCS', where moreau expects a method: auto, active_set, ipm; another"),
        (None, {"mode": "lpgd_left"}, "mode='lpgd_left'; write derivative='lpgd' in the constructor"),
        (None, {"mode": "qr"}, "mode='qr'; expected one of: lsqr, lsmr, dense"),
        (None, [("eps", 1)], "solver_args is a list; expected a dictionary"),
    ],
    ids=str,
)
def test_options_that_are_errors(solver, args, message):
    with pytest.raises(ProblemError, match=message):
        simplex(solver, args)
    if isinstance(args, dict):
        with pytest.raises(ProblemError, match=message):
            simplex(solver).with_options(args)


# A quadratic objective, and a solver without one, which the call chooses.


@pytest.mark.parametrize("method", ["ECOS", "SCS"])
def test_least_squares_without_constraints(method):
    layer = ConeLayer(*least_squares()).with_options({"solve_method": method})
    x = layer.forward(A.reshape(3, -1), B[None])[0][0]
    assert np.allclose(x, EXACT, rtol=0, atol=1e-12)


def test_bad_items_with_ecos():
    P, x = cp.Parameter((2, 2), PSD=True), cp.Variable(2)
    problem = cp.Problem(cp.Minimize(cp.quad_form(x, P)), [cp.sum(x) == 1])
    layer = ConeLayer(problem, [P], [x], on_error="nan").with_options({"solve_method": "ECOS"})
    values = np.tile(np.eye(2).ravel(), (3, 1))
    values[1, 0] = np.nan
    found = layer.forward(values)[0][0]
    assert np.isnan(found[1]).all() and np.allclose(found[[0, 2]], 0.5, rtol=0, atol=1e-12)


def test_failures_are_diffcps_errors_too(fw):
    diffcp = pytest.importorskip("diffcp", reason="the optional package diffcp is not installed")
    b, x = cp.Parameter(), cp.Variable()
    layer = fw.module.CvxpyLayer(cp.Problem(cp.Minimize(cp.square(x)), [x >= b, x <= 1]), [b], [x])
    with pytest.raises(diffcp.SolverError) as error:
        layer(fw.array(2.0))
    assert isinstance(error.value, SolverError) and isinstance(error.value, RuntimeError)
    again = pickle.loads(pickle.dumps(error.value))
    assert isinstance(again, diffcp.SolverError) and again.items == error.value.items == (0,) and str(again) == str(error.value)


def test_warm_starts_of_version_1(fw):
    b, x = cp.Parameter(), cp.Variable()
    layer = fw.module.CvxpyLayer(cp.Problem(cp.Minimize(cp.square(x)), [x >= b]), [b], [x])
    for start in (True, False):
        np.testing.assert_array_equal(numpy(layer(fw.array(2.0), warm_start=start)[0]), numpy(layer(fw.array(2.0))[0]))
