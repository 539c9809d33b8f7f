"""The contract of `cvxlayers.solvers.base.Solver`, for every file in the folder: a new one is tested without a change.

An answer to a program with a known solution is judged by the residual map, at the accuracy of the solver itself.
"""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from cvxlayers.errors import MissingDependencyError, ProblemError
from cvxlayers.program import ConeData, ConeDims, ConeProgram, Pattern, Status, Structure
from cvxlayers.solvers import SOLVERS, choose, ladder, solver_named
from cvxlayers.solvers.epigraph import Epigraph
from cvxlayers.threads import each_item

from .programs import frozen, make_program

# An interior-point method stops at y's = 1e-10; where the cone is curved, that leaves y and s 1e-5 from optimal.
# SCS stops at residuals of 1e-8, and diffcp's default is SCS; what those leave in y - s is 1e-8 to 1e-6.
ACCURACY = {"scs": 1e-5, "diffcp": 1e-5}
OTHERS = 1e-4

CONES = {
    "zero": ConeDims(zero=4),
    "nonneg": ConeDims(nonneg=12),
    "zero-nonneg": ConeDims(zero=3, nonneg=12),
    "soc": ConeDims(soc=(3, 4, 2)),
    "psd": ConeDims(psd=(4, 1, 3)),
    "exp": ConeDims(exp=3),
    "power": ConeDims(power=(0.3, 0.6)),
    "nonneg-soc-exp": ConeDims(nonneg=4, soc=(3,), exp=2),
    "all-symmetric": ConeDims(zero=2, nonneg=6, soc=(3, 5), psd=(4, 2)),
    "all": ConeDims(zero=2, nonneg=6, soc=(3, 5), psd=(4, 2), exp=2, power=(0.4,)),
}
KINDS = ("zero", "nonneg", "soc", "psd", "exp", "power")


def residual(program, solution):
    """Size of the residual map (B,), relative to the data."""
    S, d = program
    x, y, s = solution[:3]
    r = [S.P.matvec(d.P, x) + d.q + S.A.rmatvec(d.A, y), S.A.matvec(d.A, x) + s - d.b, S.K.project(y - s) - y]
    scale = 1 + max(np.abs(d.q).max(), np.abs(d.b).max(initial=0))
    return np.max([np.abs(a).max(-1, initial=0) for a in r], axis=0) / scale


@pytest.fixture(params=sorted(SOLVERS))
def kind(request):
    solver = SOLVERS[request.param]
    if not solver.installed():
        pytest.skip(f"solver {solver.name!r}: the package {solver.package!r} is not installed")
    return solver


def skip_unless_able(kind, dims):
    missing = dims.kinds - kind.cones
    if missing:
        pytest.skip(f"{kind.name} has no {', '.join(sorted(missing))} cone")


def quadratic_or_not(kind):
    return (True, False) if kind.quadratic else (False,)


def a_program(kind, rng, batch=3):
    """A small program that every solver takes."""
    return make_program(rng, CONES["zero-nonneg"], 6, batch, quadratic=kind.quadratic)


def check(kind, program, answer):
    solved = np.isin(answer.status, (Status.SOLVED, Status.INACCURATE))
    assert solved.all(), [str(Status(s)) for s in answer.status]
    assert residual(program, answer).max() < ACCURACY.get(kind.name, OTHERS)


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("cones", CONES)
def test_optimal(kind, cones, batch):
    dims = CONES[cones]
    skip_unless_able(kind, dims)
    for quadratic in quadratic_or_not(kind):
        program, _ = make_program(np.random.default_rng(batch), dims, 7 if quadratic else 4, batch, quadratic=quadratic)
        answer = kind(program.structure).solve(program)
        assert answer.x.shape == (batch, program.structure.n) and answer.y.shape == answer.s.shape == (batch, dims.rows)
        assert answer.status.shape == answer.iterations.shape == (batch,)
        check(kind, program, answer)


@pytest.mark.parametrize("shared", ["P", "A", "PA", "PAq"])
@pytest.mark.parametrize("cones", ["zero-nonneg", "soc"])
def test_shared_blocks(kind, cones, shared):
    skip_unless_able(kind, CONES[cones])
    for quadratic in quadratic_or_not(kind):
        rng = np.random.default_rng(1)
        program, _ = make_program(rng, CONES[cones], 6, 5, quadratic=quadratic, shared=tuple(shared))
        if "q" in shared:  # the same P, q, A for all; b moves
            d = program.data
            program = program._replace(data=d._replace(b=d.b + [[0.0], [0.01], [0.02]] * (d.b != 0)))
        check(kind, program, kind(program.structure).solve(program))


def test_sparse(kind):
    cones = ConeDims(1, 20, (6,) if "soc" in kind.cones else (), (5,) if "psd" in kind.cones else ())
    for quadratic in quadratic_or_not(kind):
        program, _ = make_program(np.random.default_rng(2), cones, 8, 3, quadratic=quadratic, sparse=True)
        check(kind, program, kind(program.structure).solve(program))


def test_known_solution(kind):
    program, (x, _, s) = a_program(kind, np.random.default_rng(3), 4)
    answer = kind(program.structure).solve(program)
    if kind.quadratic:  # strictly convex: one x
        np.testing.assert_allclose(answer.x, x, atol=1e-4)
        np.testing.assert_allclose(answer.s, s, atol=1e-4)
    np.testing.assert_allclose((program.data.q * answer.x).sum(1), (program.data.q * x).sum(1), atol=1e-4)


def test_no_constraints(kind):
    if not kind.quadratic:
        pytest.skip(f"{kind.name} has no quadratic objective, and without one there must be constraints")
    program, (x, _, _) = make_program(np.random.default_rng(4), ConeDims(), 5, 3)
    if kind.needs_rows:
        with pytest.raises(ProblemError, match="at least one constraint"):
            kind(program.structure)
        return
    answer = kind(program.structure).solve(program)
    np.testing.assert_allclose(answer.x, x, atol=1e-6)
    assert answer.y.shape == (3, 0)


def test_empty_batch(kind):
    program, _ = a_program(kind, np.random.default_rng(5))
    program = program._replace(data=ConeData(*(a[:0] for a in program.data)))
    assert kind(program.structure).solve(program).x.shape == (0, 6)


@pytest.mark.parametrize("quadratic", [False, True])
def test_infeasible_and_unbounded_items(kind, quadratic):
    if quadratic and not kind.quadratic:
        pytest.skip(f"{kind.name} has no quadratic objective")
    n, cones, rng = 6, ConeDims(zero=2, nonneg=10), np.random.default_rng(6)
    program, (x, _, _) = make_program(rng, cones, n, 4, quadratic=False)
    S, d = program
    A, q, b = d.A.reshape(4, cones.rows, n).copy(), d.q.copy(), d.b.copy()
    A[1, 5], b[1, 5] = 0, -1  # 0 + s = -1, s >= 0
    if not quadratic:
        b[2] -= A[2, :, -1] * x[2, -1]  # feasible: of a linear program that is neither, either is the truth
    A[2, :, -1], q[2, -1] = 0, 1  # the last variable is free and has a price
    if quadratic:
        S = Structure(n, cones, Pattern(np.arange(n - 1), np.arange(n - 1), (n, n)), S.A)
    data = ConeData(*frozen(np.ones((4, S.P.nnz)), q, A.reshape(4, -1), b))
    answer = kind(S).solve(ConeProgram(S, data))
    assert answer.status[1] == Status.INFEASIBLE and answer.status[2] == Status.UNBOUNDED
    assert all(np.isnan(a[1:3]).all() for a in answer[:3])
    good = ConeProgram(S, data.take(np.array([0, 3])))
    check(kind, good, type(answer)(*(a[[0, 3]] for a in answer)))


def test_bad_numbers_stay_in_their_item(kind):
    for block in range(4):
        program, _ = a_program(kind, np.random.default_rng(7))
        arrays = [a.copy() for a in program.data]
        if not arrays[block].size:
            continue
        arrays[block][1, 0] = np.nan
        answer = kind(program.structure).solve(program._replace(data=ConeData(*arrays)))
        assert answer.status[1] != Status.SOLVED
        rest = program._replace(data=program.data.take(np.array([0, 2])))
        check(kind, rest, type(answer)(*(a[[0, 2]] for a in answer)))


def test_inputs_are_left_alone(kind):
    program, _ = a_program(kind, np.random.default_rng(8), 2)
    d = program.data
    before = [a.tobytes() for a in d]
    kind(program.structure).solve(program)
    assert [a.tobytes() for a in d] == before
    strided = ConeData(*(np.asfortranarray(np.repeat(a, 2, axis=1))[:, ::2] for a in d))  # views, not contiguous
    broadcast = ConeData(*(np.broadcast_to(a[:1], a.shape) for a in d))
    kept = [a.tobytes() for a in strided]
    check(kind, program, kind(program.structure).solve(program._replace(data=strided)))
    check(kind, program._replace(data=broadcast), kind(program.structure).solve(program._replace(data=broadcast)))
    assert [a.tobytes() for a in strided] == kept


def same(a, b):
    assert a.status.tolist() == b.status.tolist()
    for one, other in zip(a[:3], b[:3], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-11)


def test_repeatable(kind):
    rng = np.random.default_rng(9)
    program, _ = a_program(kind, rng)
    other = program._replace(data=ConeData(*(a * 1.5 for a in program.data)))
    solver = kind(program.structure)
    first = solver.solve(program)
    for batch in ([0], [0, 1], [0, 1, 2]):  # other data and other batch sizes in between leave no trace
        solver.solve(other._replace(data=other.data.take(np.array(batch))))
    same(solver.solve(program), first)


def test_threads(kind):
    program, _ = a_program(kind, np.random.default_rng(10), 5)
    solver = kind(program.structure)
    first = solver.solve(program)
    with ThreadPoolExecutor(4) as pool:
        for answer in pool.map(lambda _: solver.solve(program), range(12)):
            same(answer, first)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))], ids=["deepcopy", "pickle"])
def test_copies(kind, clone):
    program, _ = a_program(kind, np.random.default_rng(11))
    solver = kind(program.structure, {"eps": 1e-9})
    first = solver.solve(program)
    same(clone(solver).solve(program), first)


def test_options(kind):
    program, _ = a_program(kind, np.random.default_rng(12))
    with pytest.raises(ProblemError, match=r"no option 'epsilon'.*max_iter"):
        kind(program.structure, {"epsilon": 1e-3})
    with pytest.raises(ProblemError, match="does not accept the options"):
        kind(program.structure, {"eps": "small"})
    check(kind, program, kind(program.structure, {"eps": 1e-9, "max_iters": 10_000}).solve(program))


def test_tighter(kind):
    program, _ = a_program(kind, np.random.default_rng(13))
    tight = kind(program.structure, {"eps": 1e-3}).tighter()
    if tight is None:  # it is as tight as it gets
        assert kind.name == "native"
        return
    assert type(tight) is kind and tight.tighter() is None
    check(kind, program, tight.solve(program))


@pytest.mark.parametrize("cone", KINDS)
def test_missing_cone(kind, cone):
    program, _ = make_program(np.random.default_rng(14), CONES[cone], 4, quadratic=False)
    if cone in kind.cones:
        kind(program.structure)
    else:
        with pytest.raises(ProblemError, match=f"{kind.name!r} has no {cone} cone"):
            kind(program.structure)


def test_missing_quadratic(kind):
    program, _ = make_program(np.random.default_rng(15), CONES["nonneg"], 4)
    if kind.quadratic:
        kind(program.structure)
    else:
        with pytest.raises(ProblemError, match="no quadratic objective"):
            kind(program.structure)


@pytest.mark.parametrize("shared", ["", "P", "A", "PA"])
@pytest.mark.parametrize("cones", ["nonneg", "soc", "nonneg-soc-exp", "all-symmetric"])
def test_epigraph(kind, cones, shared):
    """A quadratic objective as a cone, with any solver below that has this cone."""
    dims = CONES[cones]
    skip_unless_able(kind, ConeDims(soc=(3,)))
    skip_unless_able(kind, dims)
    program, (x, _, s) = make_program(np.random.default_rng(16), dims, 7, 3, shared=tuple(shared))
    accurate = {"eps": 1e-10} if kind.name == "moreau" else None  # else its points are rough
    tight = pickle.loads(pickle.dumps(Epigraph(kind, program.structure).tighter()))
    for solver in (Epigraph(kind, program.structure, accurate), tight):
        answer = solver.solve(program)
        check(kind, program, answer)
        np.testing.assert_allclose(answer.x, x, atol=1e-3)
        np.testing.assert_allclose(answer.s, s, atol=1e-3)
    empty = program._replace(data=ConeData(*(a[:0] for a in program.data)))
    assert [a.shape for a in solver.solve(empty)] == [(0, 7), (0, dims.rows), (0, dims.rows), (0,), (0,)]
    with_nan = program.data.P.copy()
    with_nan[:, 0] = np.nan
    nothing = solver.solve(program._replace(data=program.data._replace(P=with_nan)))
    assert (nothing.status != Status.SOLVED).all()


def test_not_installed(kind, monkeypatch):
    program, _ = a_program(kind, np.random.default_rng(16))
    monkeypatch.setattr(kind, "installed", classmethod(lambda cls: False))
    cure = "a C\\+\\+ compiler at installation builds it" if kind.name == "native" else f"pip install {kind.package}"
    with pytest.raises(MissingDependencyError, match=f"solver '{kind.name}' needs the .*; {cure}"):
        kind(program.structure)
    assert kind.name not in choose(program.structure.cones, quadratic=False)
    with pytest.raises(ProblemError, match=rf"no solver 'gurobi'.*{kind.name} \(not installed\)"):
        solver_named("gurobi")


def test_choose():
    ranked = [SOLVERS[name].rank for name in choose(CONES["all"])]
    assert ranked == sorted(ranked) and None not in ranked
    assert choose(CONES["soc"], "Clarabel") == ["clarabel"]
    assert not any(SOLVERS[name].needs_rows for name in choose(ConeDims()))


@pytest.mark.parametrize("name", sorted(SOLVERS))
def test_every_solver_takes_a_quadratic_objective(name):
    if not (SOLVERS[name].quadratic or "soc" in SOLVERS[name].cones):
        pytest.skip(f"{name} is for linear programs")
    program, (x, _, _) = make_program(np.random.default_rng(17), ConeDims(), 4)
    np.testing.assert_allclose(ladder(program.structure, name)[0].solve(program).x, x, atol=1e-4)


def test_ladder():
    program, _ = make_program(np.random.default_rng(17), CONES["nonneg"], 4)
    steps = ladder(program.structure, None, {"eps": 1e-4})
    names = choose(CONES["nonneg"])
    assert [s.name for s in steps[: len(names)]] == names and len(steps) > len(names)
    with pytest.raises(ProblemError, match="no option"):
        ladder(program.structure, None, {"epsilon": 1e-4})


def test_singular_quadratic_is_caught_by_the_tighter_moreau():
    """On a singular P the active-set method gives up, or returns a wrong point as solved."""
    kind = SOLVERS["moreau"]
    if not kind.installed():
        pytest.skip("moreau is not installed")
    rng = np.random.default_rng(18)
    S = make_program(rng, ConeDims(zero=3, nonneg=12), 8)[0].structure
    F = rng.standard_normal((20, 4, 8))
    P = (np.swapaxes(F, 1, 2) @ F).reshape(20, -1)
    A, x, v = rng.standard_normal((20, S.A.nnz)), rng.standard_normal((20, 8)), rng.standard_normal((20, S.m))
    y = S.K.project(v)
    program = ConeProgram(S, ConeData(P, -S.P.matvec(P, x) - S.A.rmatvec(A, y), A, S.A.matvec(A, x) + y - v))
    assert kind(S).active_set and not (residual(program, kind(S).solve(program)) < OTHERS).all()
    check(kind, program, kind(S).tighter().solve(program))


@pytest.mark.parametrize("method", ["SCS", "ECOS", "Clarabel"])
def test_diffcp_methods(method):
    kind = SOLVERS["diffcp"]
    if not kind.installed() or not SOLVERS[method.lower()].installed():
        pytest.skip(f"diffcp or {method} is not installed")
    cones = ConeDims(2, 6, (3,), (), 1) if method == "ECOS" else ConeDims(2, 6, (3,), (3,), 1)
    program, _ = make_program(np.random.default_rng(19), cones, 5, 3, quadratic=False)
    answer = kind(program.structure, {"solve_method": method}).solve(program)
    assert residual(program, answer).max() < OTHERS
    with pytest.raises(ProblemError, match="no option"):
        kind(program.structure, {"solve_method": method, "presolve_enable" if method != "Clarabel" else "rho_x": True})


def test_each_item_raises_and_finishes():
    seen = []

    def work(i):
        seen.append(i)
        if i == 3:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        each_item(work, 8)
    assert len(set(seen)) == len(seen)
