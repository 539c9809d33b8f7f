"""The options of a solve, in every spelling that cvxpylayers, diffcp and the solvers have for them.

One vocabulary stands for what all solvers have: tol_gap_abs, tol_gap_rel and tol_feas, the tolerances of the duality gap
and of feasibility, max_iter, and time_limit in seconds. Each solver says in `Solver.spelled` what it calls them; all its
other options keep their names. diffcp's options of how to run are understood by every solver.
"""

from __future__ import annotations

from ..errors import ProblemError

_ALL = ("tol_gap_abs", "tol_gap_rel", "tol_feas")
SPELLINGS = {
    "eps": _ALL,
    "tol": _ALL,
    "eps_abs": ("tol_gap_abs", "tol_feas"),  # SCS
    "eps_rel": ("tol_gap_rel",),
    "abstol": ("tol_gap_abs",),  # ECOS
    "reltol": ("tol_gap_rel",),
    "feastol": ("tol_feas",),
    "max_iters": ("max_iter",),
    "time_limit_secs": ("time_limit",),
}

# The linear algebra and the threads of diffcp's derivative, and a cure for stalls of SCS: where a solver has no option of
# this name, there is nothing to set, and the solution is the same.
WITHOUT_EFFECT = frozenset({"mode", "n_jobs_forward", "n_jobs_backward", "acceleration_lookback"})
_MODES = ("lsqr", "lsmr", "dense")


def neutral(args) -> dict:
    """Options in the vocabulary above; of several spellings of one option the most specific one counts, then the last.

    Raises ProblemError if they are no dictionary, and for what diffcp has and this library has elsewhere.
    """
    if args is not None and not isinstance(args, dict):
        raise ProblemError(f"solver_args is a {type(args).__name__}; expected a dictionary of options")
    args = dict(args or {})
    for group in ("ipm_settings", "active_set_settings"):  # Moreau's, where cvxpylayers 1.x takes them
        if isinstance(args.get(group), dict):
            args |= args.pop(group)
    mode = args.get("mode", _MODES[0])
    if isinstance(mode, str) and mode.startswith("lpgd"):
        raise ProblemError(f"solver_args has mode={mode!r}; write derivative='lpgd' in the constructor of the layer instead")
    if mode not in _MODES:
        raise ProblemError(f"solver_args has mode={mode!r}; expected one of: {', '.join(_MODES)}")
    out = {}
    for key in sorted(args, key=lambda k: -len(SPELLINGS.get(k, (k,)))):
        out.update(dict.fromkeys(SPELLINGS.get(key, (key,)), args[key]))
    return out


def native(args, options, spelled) -> dict:
    """Options of the vocabulary in the names of one solver; where two become one, the smaller one counts."""
    out: dict = {}
    for key, value in args.items():
        for name in spelled.get(key, (key,) if key in options else ()):
            out[name] = min(out[name], value) if name in out else value
    return out


def known(options, spelled) -> list[str]:
    """Every name that a solver understands."""
    own = set(options) | set(spelled)
    return sorted(own | {key for key, names in SPELLINGS.items() if own.issuperset(names)} | WITHOUT_EFFECT)


def requested(solver, args):
    """(name of the solver or None, options): diffcp's option solve_method chooses the solver.

    Raises ProblemError if `solver` and solve_method are different solvers.
    """
    args = neutral(args)
    method = args.get("solve_method")
    if method is None or str(solver).lower() == "diffcp":  # which has this option itself
        return solver, args
    if solver is not None and str(solver).lower() != str(method).lower():
        raise ProblemError(f"solver={solver!r} and solve_method={method!r} are different solvers; write only one of them")
    return str(method), {k: v for k, v in args.items() if k != "solve_method"}
