"""CVXPY problem -> structure, parameter map and recovery map: what compiles, by CVXPY's own reductions.

The route: a Solver object of our own (`_Capture`) receives the unformatted parametrized cone program at the end of
CVXPY's reduction chain. Its tensors give (P, q, A, b, d) as a linear function of [theta; 1]. Rows are ordered here, by an
index permutation (CVXPY's own formatting multiplies by a matrix with n * p columns: minutes and gigabytes for a
1000 x 1000 parameter). Parameters are unset while compiling, so that no value can be baked in. Whatever CVXPY hands over
beside A (bounds, direct cones, integrality) is an error.

CVXPY's layout: vectors and matrices in Fortran order; Ab = reshape(pp.A @ theta1, (m, n+1)), Ab[:, :n] x + Ab[:, n] in K;
P = reshape(pp.P @ theta1, (n, n)), with the factor 2 inside; objective = 1/2 x'Px + q'x + d.
"""

from __future__ import annotations

import math
import threading
import warnings
from typing import NamedTuple

import cvxpy as cp
import numpy as np
import scipy.sparse as sp
from cvxpy.constraints import SOC as SOCConstraint
from cvxpy.constraints import ExpCone, NonNeg, PowCone3D, PowConeND, SvecPSD, Zero
from cvxpy.reductions.dcp2cone.cone_matrix_stuffing import ConeMatrixStuffing
from cvxpy.reductions.dgp2dcp.dgp2dcp import Dgp2Dcp
from cvxpy.reductions.solvers.conic_solvers.clarabel_conif import CLARABEL
from cvxpy.reductions.solvers.solving_chain import resolve_and_build_chain
from cvxpy.settings import PARAM_PROB

from .checks import check_parametrization, check_problem, described, trusts_a_matrix
from .duals import Compiled, dual_matrix
from .errors import ProblemError
from .lifting import Lifted, lift
from .param_map import LinearTerm, ParamMap
from .parameters import DECLARED, ParameterInfo
from .program import ConeDims, Pattern, Structure
from .recover import Output, OutputInfo, Recovery

_LOCK = threading.Lock()  # parameters lose their values while a problem compiles
_CONES = (Zero, NonNeg, SOCConstraint, SvecPSD, ExpCone, PowCone3D)
_FIELDS = frozenset(
    "A P cone_dims constr_map constr_size constraints dir_cones formatted id_to_param id_to_var lb_tensor lower_bounds "
    "param_id_to_col param_id_to_size parameters q reduced_A reduced_P total_param_size ub_tensor upper_bounds "
    "var_id_to_col variables x".split()
)
_SIDE_REDUCTIONS = frozenset({"EvalParams", "ApproxCone2Cone", "Valinvec2mixedint", "ExtractDirectCones"})


class Canonical(NamedTuple):
    """A compiled problem. It holds arrays and names, no CVXPY objects: ids of unpickled CVXPY objects can clash.

    features: what is known about each feature of the parameter map, parameters of the user or lifted ones. convex: whether
    that makes P positive semidefinite.
    """

    structure: Structure
    param_map: ParamMap
    recovery: Recovery
    parameters: tuple[ParameterInfo, ...]
    outputs: tuple[OutputInfo, ...]
    objective: tuple[float, bool]  # the user's objective is sign f*, or exp(sign f*)
    features: tuple[ParameterInfo, ...]
    convex: bool
    lifted: tuple[Lifted, ...]


class _Capture(CLARABEL):
    """A solver that never solves: Clarabel's abilities without its n-dimensional power cone, and the raw program as data."""

    SUPPORTED_CONSTRAINTS = [c for c in CLARABEL.SUPPORTED_CONSTRAINTS if c is not PowConeND]

    def __init__(self, quadratic):
        super().__init__()
        self.quadratic = quadratic

    def name(self):
        return "CVXLAYERS"

    def is_installed(self):
        return True

    def import_solver(self):
        pass

    def supports_quad_obj(self):
        return self.quadratic

    def apply(self, problem):
        return {PARAM_PROB: problem}, {}


class _SplitStuffing(ConeMatrixStuffing):
    """CVXPY extracts a parametric linear term of a quadratic objective through a dense (variables x parameters) array.

    Here the affine summands take the sparse path, so that tens of thousands of variables compile at all.
    """

    def stuffed_objective(self, problem, extractor):
        expr = problem.objective.expr
        if not (self.quad_obj and type(expr) is cp.atoms.affine.add_expr.AddExpression and expr.parameters()):
            return super().stuffed_objective(problem, extractor)
        quadratic = [a for a in expr.args if not a.is_affine()]
        affine = [a for a in expr.args if a.is_affine()]
        if not quadratic or not affine:
            return super().stuffed_objective(problem, extractor)
        P, q = extractor.quad_form(sum(quadratic[1:], quadratic[0]).copy())
        return 2 * P, (q + extractor.affine(sum(affine[1:], affine[0]))).tocsr(), cp.Variable(extractor.x_length)


def canonicalize(problem, parameters, outputs, *, gp=False, quadratic=True) -> Canonical:
    """Compile `problem`.

    parameters: all of its cp.Parameter, in the order of the layer's inputs. outputs: cp.Variable of the problem, or dual
    variables of its constraints. quadratic=False compiles a quadratic objective into cones, for solvers that take no P.
    Raises ProblemError with the offending expression. The problem, its caches and its values are left as they are.
    """
    check_problem(problem, gp=gp)
    _check_arguments(problem, parameters, outputs)
    lifting = lift(problem, parameters, gp=gp, quadratic=quadratic)
    check_parametrization(lifting.problem, gp=gp, quadratic=quadratic)
    compiled = _compile(lifting.problem, gp, quadratic)
    pp, chain, _ = compiled
    features, sizes, selection = _selection(lifting.parameters, pp, chain)
    rows = _Rows(pp.constraints)
    structure, matrices = _tensors(pp, rows, selection)
    steps = lifting.steps
    nodes = [lifting.nodes[i] for i, _ in features]
    nodes = [steps.unary("log", n) if log else n for n, (_, log) in zip(nodes, features, strict=True)]
    param_map = ParamMap.from_matrices(steps.finish(nodes), sizes, matrices)
    logs = {i for i, log in features if log}
    infos = tuple(_parameter_info(i, p, i in logs) for i, p in enumerate(parameters))
    known = {p.id: info for p, info in zip(parameters, infos, strict=True)}
    known |= {p.id: _parameter_info(None, p, False) for p in lifting.parameters if p.id not in known}
    features = tuple(known[lifting.parameters[i].id] for i, _ in features)
    convex = not trusts_a_matrix(lifting.problem) and all(features[f].declared for f, _ in param_map.blocks[0].terms)
    solved = [lifting.replaced.get(o.id, o) for o in outputs]
    duals = {d.id: (c, k) for c in problem.constraints for k, d in enumerate(c.dual_variables)}
    recovery = Recovery([_output(o, duals, compiled, rows, gp) for o in solved])
    return Canonical(
        structure,
        param_map,
        recovery,
        infos,
        tuple(OutputInfo(o.name(), o.shape, duals.get(o.id, (o,))[0].is_complex()) for o in outputs),
        (-1.0 if isinstance(problem.objective, cp.Maximize) else 1.0, gp),
        features,
        convex,
        lifting.records,
    )


def _parameter_info(position, p, log):
    declared = tuple(a for a in DECLARED if p.attributes[a] is True)  # a list of boolean entries gives no sign
    return ParameterInfo(p.name(), position, p.shape, p.is_complex(), declared, log)


def _check_arguments(problem, parameters, outputs):
    for i, p in enumerate(parameters):
        if not isinstance(p, cp.Parameter):
            raise ProblemError(f"parameters[{i}] is {described(p)}; expected a cvxpy.Parameter")
        if any(p is other for other in parameters[:i]):
            raise ProblemError(f"parameters[{i}], {p.name()!r}, is listed twice")
    listed = {p.id for p in parameters}
    for p in problem.parameters():
        if p.id not in listed:
            raise ProblemError(
                f"the problem has the parameter {p.name()!r}, which is missing in parameters=[...]; "
                f"list every parameter, in the order of the layer's arguments"
            )
    inside = {p.id for p in problem.parameters()}
    for i, p in enumerate(parameters):
        if p.id not in inside:
            raise ProblemError(f"parameters[{i}], {p.name()!r}, does not occur in the problem")
    primal = {v.id for v in problem.variables()}
    dual = {d.id for c in problem.constraints for d in c.dual_variables}
    if not outputs:
        raise ProblemError("variables=[] is empty; list at least one variable, or dual variable of a constraint")
    for i, v in enumerate(outputs):
        if not isinstance(v, cp.Variable):
            near = isinstance(v, cp.Constraint) or (isinstance(v, list) and v and isinstance(v[0], cp.Variable))
            hint = "; write constraint.dual_variables[0]" if near else ""
            raise ProblemError(
                f"variables[{i}] is {described(v)}; expected a cvxpy.Variable or a constraint's dual variable{hint}"
            )
        if v.id not in primal | dual:
            raise ProblemError(f"variables[{i}], {v.name()!r}, does not occur in the problem")


def _compile(problem, gp, quadratic):
    parameters = problem.parameters()
    with _LOCK:
        values = [p._value for p in parameters]
        try:
            for p in parameters:
                p._value = None
            chain = resolve_and_build_chain(problem, solver=_Capture(quadratic), gp=gp, enforce_dpp=True, canon_backend="COO")
            chain.solver_context.solver_name = CLARABEL().name()  # by which `perspective` compiles its function
            chain.reductions = [
                _SplitStuffing(r.quad_obj, r.canon_backend) if type(r) is ConeMatrixStuffing else r for r in chain.reductions
            ]
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Reading from a sparse CVXPY expression")  # CVXPY's own reading
                data, inverse = chain.apply(problem)
        except (
            cp.error.DPPError,
            cp.error.DCPError,
            cp.error.DGPError,
            cp.error.SolverError,
            ValueError,
            TypeError,
            AssertionError,
        ) as error:
            reason = str(error) or "an assertion of its own fails"
            raise ProblemError(f"CVXPY cannot compile the problem with free parameters: {reason}") from error
        finally:
            for p, value in zip(parameters, values, strict=True):
                p._value = value
    pp = data[PARAM_PROB]
    side = [k for k in ("lower_bounds", "upper_bounds", "lb_tensor", "ub_tensor") if getattr(pp, k, None) is not None]
    side += ["dir_cones"] if getattr(pp, "dir_cones", None) else []
    side += ["integer variables"] if pp.is_mixed_integer() else []
    side += sorted(set(vars(pp)) - _FIELDS)
    side += [type(c).__name__ for c in pp.constraints if type(c) not in _CONES]
    side += [type(r).__name__ for r in chain.reductions if type(r).__name__ in _SIDE_REDUCTIONS]
    if side:
        raise ProblemError(f"the compiled problem has parts that a layer cannot represent: {', '.join(side)}")
    reached = set(pp.param_id_to_col)
    images = chain.compose_param_id_map()
    for p in parameters:
        if p.size and p.id not in reached and not reached.intersection(images.get(p.id, ())):
            raise ProblemError(f"CVXPY dropped the parameter {p.name()!r} while compiling: the solution would not depend on it")
    return Compiled(pp, chain, inverse)


class _Rows:
    """Where the rows of each final constraint go. CVXPY's raw row r becomes row perm[r], times sign[r].

    Raw blocks hold one argument after another; a cone program wants cone by cone. Equalities change sign, so that y is
    the multiplier of lhs - rhs == 0.
    """

    def __init__(self, constraints):
        perms, signs, self.start, start = [], [], {}, 0
        for c in constraints:
            sizes = [a.size for a in c.args]
            size = sum(sizes)
            if isinstance(c, SOCConstraint):
                k = sizes[0]
                d = size // k
                perm = np.concatenate([np.arange(k) * d, (np.arange(k)[:, None] * d + 1 + np.arange(d - 1)).ravel()])
            elif isinstance(c, (ExpCone, PowCone3D)):
                perm = np.concatenate([3 * np.arange(sizes[0]) + i for i in range(3)])
            else:
                perm = np.arange(size)
            perms.append(start + perm)
            signs.append(np.full(size, -1.0 if isinstance(c, Zero) else 1.0))
            self.start[c.id] = start
            start += size
        self.m = start
        self.perm = np.concatenate(perms) if perms else np.zeros(0, np.int64)
        self.sign = np.concatenate(signs) if signs else np.zeros(0)


def _tensors(pp, rows, selection):
    """Structure, and the matrices of P, q, A, b, d over [features; 1]."""
    n, m = pp.x.size, rows.m
    T = sp.coo_array(pp.A)
    i, j = (T.row.astype(np.int64) % m, T.row.astype(np.int64) // m) if m else (T.row, T.row)
    value = T.data * rows.sign[i] * np.where(j < n, -1.0, 1.0)
    i = rows.perm[i]
    inside = (j < n) & (value != 0)
    A, A_matrix = _on_pattern(i[inside], j[inside], T.col[inside], value[inside], (m, n), T.shape[1], selection)
    last = j == n
    b_matrix = sp.coo_array((value[last], (i[last], T.col[last])), shape=(m, T.shape[1])).tocsr() @ selection
    if pp.P is None:
        empty = np.zeros(0, np.int64)
        P, P_matrix = _on_pattern(empty, empty, empty, np.zeros(0), (n, n), selection.shape[0], selection)
    else:
        T = sp.coo_array(pp.P)
        i, j, keep = T.row.astype(np.int64) % n, T.row.astype(np.int64) // n, T.data != 0
        i, j, col, value = i[keep], j[keep], T.col[keep], T.data[keep] / 2  # (T + T')/2: psd_wrap(F) is not symmetric
        P, P_matrix = _on_pattern(np.r_[i, j], np.r_[j, i], np.r_[col, col], np.r_[value, value], (n, n), T.shape[1], selection)
    q_matrix = sp.csr_array(pp.q) @ selection
    dims = pp.cone_dims
    cones = ConeDims(dims.zero, dims.nonneg, tuple(dims.soc), tuple(dims.psd), dims.exp, tuple(float(a) for a in dims.p3d))
    return Structure(n, cones, P, A), (P_matrix, q_matrix[:n], A_matrix, b_matrix, q_matrix[n:])


def _on_pattern(i, j, col, value, shape, columns, selection):
    """Triplets (i, j, parameter column, value) -> the Pattern of the distinct (i, j), and their matrix."""
    key = i * max(shape[1], 1) + j
    distinct, entry = np.unique(key, return_inverse=True)
    pattern = Pattern(distinct // max(shape[1], 1), distinct % max(shape[1], 1), shape)
    return pattern, sp.coo_array((value, (entry, col)), shape=(distinct.size, columns)).tocsr() @ selection


def _selection(parameters, pp, chain):
    """Features (position of a parameter, whether it is its logarithm), their sizes, and E with [CVXPY's flat parameters; 1] =
    E [features; 1].

    Every entry of the user's tensors gets a number; CVXPY's own parameter hooks carry the numbers through its reductions,
    and what arrives tells the position. A complex entry counts as two, the real part and the imaginary part. Of a symmetric
    or hermitian parameter CVXPY reads one triangle; `twins` holds, by number, the mirrored entry with its sign, and each of
    the two counts one half.
    """
    features, sizes, codes, twins, total = [], [], {}, [np.zeros(1, np.int64)], 0

    def add(position, p, log):
        nonlocal total
        shape = (*p.shape, 2) if p.is_complex() else p.shape
        number = np.arange(total + 1, total + 1 + math.prod(shape)).reshape(shape)
        twin = np.zeros_like(number)
        if _mirrored(p):
            twin = number.swapaxes(p.ndim - 2, p.ndim - 1) * (np.array([1, -1]) if p.is_complex() else 1)
        twins.append(twin.ravel())
        features.append((position, log))
        sizes.append(number.size)
        total += number.size
        number = number.astype(np.float64)
        return number[..., 0] + 1j * number[..., 1] if p.is_complex() else number

    for position, p in enumerate(parameters):
        codes[p.id] = add(position, p, False)
    by_id = {p.id: (position, p) for position, p in enumerate(parameters)}
    for reduction in chain.reductions[:-1]:
        if isinstance(reduction, Dgp2Dcp):
            for old, new in reduction.param_id_map.items():
                codes[new[0]] = add(*by_id[old], True)
        else:
            codes = reduction.param_forward(codes)
    number, row = np.zeros(0, np.int64), np.zeros(0, np.int64)
    for pid, start in pp.param_id_to_col.items():
        if pid in pp.param_id_to_size:  # all but the constant
            code = np.asarray(codes[pid], np.float64).flatten(order="F").astype(np.int64)
            number, row = np.r_[number, code], np.r_[row, start + np.arange(code.size)]
    twin = np.concatenate(twins)[np.abs(number)] * np.sign(number)
    single, double = twin == 0, twin != 0
    number = np.r_[number[single], number[double], twin[double], total + 1]
    row = np.r_[row[single], row[double], row[double], pp.total_param_size]
    weight = np.r_[np.ones(single.sum()), np.full(2 * double.sum(), 0.5), 1.0] * np.sign(number)
    shape = (pp.total_param_size + 1, total + 1)
    return features, sizes, sp.csr_array((weight, (row, np.abs(number) - 1)), shape=shape)


def _mirrored(p):
    return p.size > 1 and any(p.attributes[kind] for kind in ("symmetric", "PSD", "NSD", "hermitian"))


def _output(variable, duals, compiled, rows, gp):
    if variable.id in duals:
        constraint, k = duals[variable.id]
        return Output(LinearTerm(dual_matrix(constraint, k, compiled, rows)), True, False)
    n = compiled.program.x.size
    value = _carry_back(np.arange(1, n + 1, dtype=np.float64), compiled.program, compiled.chain).get(variable.id)
    if value is None:
        if variable.size:
            raise ProblemError(
                f"CVXPY dropped the variable {variable.name()!r} while compiling: the problem does not determine it"
            )
        return Output(LinearTerm(sp.coo_array((0, n))), False, False)
    value = value.toarray() if sp.issparse(value) else np.asarray(value)
    code = value.reshape(variable.shape).ravel()
    if variable.is_complex():
        code = np.stack([np.real(code), np.imag(code)], -1).ravel()
    code = code.real
    nonzero = np.flatnonzero(code)
    matrix = sp.coo_array((np.sign(code[nonzero]), (nonzero, np.abs(code[nonzero]).astype(int) - 1)), shape=(code.size, n))
    return Output(LinearTerm(matrix), False, gp)


def _carry_back(x, pp, chain):
    """A solution vector through CVXPY's own variable hooks: {variable id: value}. Logarithms of gp stay logarithms."""
    values = pp.split_solution(x)
    for reduction in reversed(chain.reductions[:-1]):
        if isinstance(reduction, Dgp2Dcp):
            names = {new[0]: old for old, new in reduction.var_id_map.items()}
            values = {names.get(vid, vid): value for vid, value in values.items()}
        else:
            values = reduction.var_forward(values)
    return values
