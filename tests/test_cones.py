"""Contract of every cone: y = proj_K*(v) and s = y - v obey Moreau's decomposition, and D is the derivative of y.

Membership is written again here, from the definitions of the cones; a point is accepted if it lies inside after a shift
by the tolerance along an interior direction. The references for small components are computed with 80 digits.
"""

import itertools

import mpmath as mp
import numpy as np
import pytest

from cvxlayers.cones import PSD, SOC, Exp, NonNeg, Power, ProductCone, Zero
from cvxlayers.program import ConeDims

MIXED = ConeDims(zero=2, nonneg=3, soc=(3, 3, 4), psd=(2,), exp=2, power=(0.3, 0.3, 0.6))
CASES = {
    "zero": (Zero(3), ConeDims(zero=3)),
    "nonneg": (NonNeg(4), ConeDims(nonneg=4)),
    **{f"soc{n}": (SOC(n), ConeDims(soc=(n,))) for n in (2, 3, 7)},
    **{f"psd{k}": (PSD(k), ConeDims(psd=(k,))) for k in (1, 2, 5)},
    "exp": (Exp(), ConeDims(exp=1)),
    **{f"power{a}": (Power(a), ConeDims(power=(a,))) for a in (0.5, 0.3, 0.9)},
    "product": (ProductCone(MIXED), MIXED),
}
SCALES = (1e-8, 1.0, 1e8)
pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(params=CASES, ids=str)
def case(request):
    return CASES[request.param]


@pytest.fixture
def cone(case):
    return case[0]


@pytest.fixture(params=[0.0, 3.0], ids=["even", "spread"])
def v(cone, request):
    return points(cone, 200, request.param)


def points(cone, count, spread):
    """Random points of all scales; with spread, rows of very different size."""
    rng = np.random.default_rng(0)
    v = rng.standard_normal((len(SCALES), count, cone.dim)) * np.exp(spread * rng.standard_normal((1, count, cone.dim)))
    return (v * np.reshape(SCALES, (-1, 1, 1))).reshape(-1, cone.dim)


def hard_points(cone, values):
    """Every combination of the values in up to three rows, random ones in more."""
    if cone.dim <= 3:
        return np.array(list(itertools.product(values, repeat=cone.dim)))
    return np.random.default_rng(1).choice(values, (400, cone.dim))


def normal(cone, count, *columns, many=1):
    return np.random.default_rng(2).standard_normal((many, count, cone.dim) + columns)


def size(v):
    return np.abs(v).max(-1)


def blocks(dims):
    """(kind, key, rows) of each cone."""
    cones = [("zero", None, 1)] * dims.zero + [("nonneg", None, 1)] * dims.nonneg + [("soc", None, n) for n in dims.soc]
    cones += [("psd", k, k * (k + 1) // 2) for k in dims.psd] + [("exp", None, 3)] * dims.exp
    cones += [("power", a, 3) for a in dims.power]
    ends = np.cumsum([0] + [rows for _, _, rows in cones])
    return [(kind, key, slice(i, j)) for (kind, key, _), i, j in zip(cones, ends[:-1], ends[1:], strict=True)]


def matrix(k, x):
    """The symmetric matrix whose upper triangle, column by column, is x, off-diagonal entries times sqrt2."""
    X, (j, i) = np.zeros(x.shape[:-1] + (k, k)), np.tril_indices(k)
    X[..., i, j] = X[..., j, i] = x / np.where(i == j, 1.0, np.sqrt(2.0))
    return X


def belongs(kind, key, x, tol, dual):
    """Is x + tol e in K, or in K*, for the interior direction e of that cone? x (N, rows), tol (N,)."""
    if kind == "zero":
        return np.full(tol.shape, True) if dual else (np.abs(x) <= tol[:, None]).all(-1)
    if kind == "nonneg":
        return (x >= -tol[:, None]).all(-1)
    if kind == "soc":
        return np.linalg.norm(x[:, 1:], axis=-1) <= x[:, 0] + tol
    if kind == "psd":
        return np.linalg.eigvalsh(matrix(key, x))[:, 0] >= -tol
    with np.errstate(all="ignore"):
        if kind == "exp":
            x, y, z = (x + tol[:, None] * [-1.0, 1.0, 1.0]).T
            if dual:
                return (x < 0) & (-x * np.exp(y / x) <= np.e * z) | (x == 0) & (y >= 0) & (z >= 0)
            return (y > 0) & (y * np.exp(x / y) <= z) | (y == 0) & (x <= 0) & (z >= 0)
        x, y, z = (x + tol[:, None] * [1.0, 1.0, 0.0]).T
        if dual:
            x, y = x / key, y / (1.0 - key)
        return (x >= 0) & (y >= 0) & (np.abs(x) ** key * np.abs(y) ** (1.0 - key) >= np.abs(z))


def all_belong(dims, x, tol, dual):
    return all(belongs(kind, key, x[:, rows], tol, dual).all() for kind, key, rows in blocks(dims))


@pytest.mark.parametrize("dual", [True, False], ids=["y", "s"])
def test_part_is_in_its_cone(case, v, dual):
    cone, dims = case
    y = cone.project(v)
    assert all_belong(dims, y if dual else y - v, 1e-14 * size(v), dual)


def test_y_and_s_are_complementary(cone, v):
    y = cone.project(v)
    assert (np.abs((y * (y - v)).sum(-1)) <= 1e-14 * size(v) ** 2).all()


def test_projection_is_idempotent(cone, v):
    y = cone.project(v)
    assert (size(cone.project(y) - y) <= 1e-14 * size(y)).all()


def test_projection_is_firmly_nonexpansive(cone, v):
    u = v + np.roll(v, 1, axis=0) * np.logspace(-6, 0, v.shape[0])[:, None]
    dv, dy = u - v, cone.project(u) - cone.project(v)
    noise = 1e-14 * (size(u) + size(v)) * size(dv)
    assert ((dy * dv).sum(-1) >= (dy * dy).sum(-1) - noise).all()


@pytest.mark.parametrize("scale", SCALES)
def test_derivative_is_the_limit_of_differences(cone, scale):
    (v, h), step = scale * normal(cone, 300, many=2), 1e-6
    difference = (cone.project(v + step * h) - cone.project(v - step * h)) / (2 * step)
    ends = [cone.spectrum(v + k * step * h).apply(h) for k in (-10.0, 10.0)]
    smooth = size(ends[0] - ends[1]) <= 1e-3 * scale  # no kink in between, and little curvature
    assert smooth.mean() > 0.9
    assert size(cone.spectrum(v).apply(h) - difference)[smooth].max() <= 1e-7 * scale


def test_derivative_reproduces_y(cone, v):
    """The projection is positively homogeneous: D(v) v = y, to the last digits."""
    assert (size(cone.spectrum(v).apply(v) - cone.project(v)) <= 2e-14 * size(v)).all()


def test_eigenvalues_are_between_0_and_1(cone, v):
    d = cone.spectrum(v).d
    assert d.shape[-1] == cone.dim and (d >= 0).all() and (d <= 1).all()


def test_basis_is_orthogonal(cone, v):
    spec, (M,) = cone.spectrum(v), normal(cone, 600, 2)
    np.testing.assert_allclose(spec.back(spec.to(M)), M, rtol=0, atol=1e-13)


def test_to_is_the_transpose_of_back(cone, v):
    spec, (M, N) = cone.spectrum(v), normal(cone, 600, 2, many=2)
    np.testing.assert_allclose((spec.to(M) * N).sum((1, 2)), (M * spec.back(N)).sum((1, 2)), rtol=0, atol=1e-12)


def test_derivative_is_symmetric(cone, v):
    spec, (g, h) = cone.spectrum(v), normal(cone, 600, many=2)
    np.testing.assert_allclose((spec.apply(g) * h).sum(-1), (g * spec.apply(h)).sum(-1), rtol=0, atol=1e-13)


def test_batch_is_the_loop_over_items(cone):
    v, h = points(cone, 8, 2.0).reshape(2, 12, cone.dim), normal(cone, 24).reshape(2, 12, cone.dim)
    y, dy = cone.project(v), cone.spectrum(v).apply(h)
    for i in np.ndindex(v.shape[:-1]):
        assert size(cone.project(v[i]) - y[i]) <= 1e-14 * size(v[i])
        np.testing.assert_allclose(cone.spectrum(v[i]).apply(h[i]), dy[i], rtol=0, atol=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_items_that_are_not_finite_stay_by_themselves(cone, bad):
    v = np.random.default_rng(0).standard_normal((3, cone.dim))
    alone = cone.project(v[[0, 2]])
    v[1, -1] = bad
    with np.errstate(invalid="ignore"):
        y, d = cone.project(v), cone.spectrum(v).d
    assert np.array_equal(y[[0, 2]], alone) and np.array_equal(d[[0, 2]], cone.spectrum(v[[0, 2]]).d)


def test_empty_batch(cone):
    v = np.zeros((0, cone.dim))
    assert cone.project(v).shape == cone.spectrum(v).d.shape == cone.spectrum(v).apply(v).shape == v.shape


def test_hard_points_are_decomposed(case):
    """Zeros, faces, boundary rays, and entries next to which others vanish."""
    cone, dims = case
    v = hard_points(cone, [0.0, 1.0, -1.0, 1e-8, -1e-8, 1e-300, -1e-300, 1e4, -1e4])
    y, tol = cone.project(v), 4e-14 * size(v)
    assert all_belong(dims, y, tol, dual=True) and all_belong(dims, y - v, tol, dual=False)
    assert (np.abs((y * (y - v)).sum(-1)) <= tol * size(v)).all()
    spec = cone.spectrum(v)
    assert (spec.d >= 0).all() and (spec.d <= 1).all()
    assert (size(spec.apply(v) - y) <= tol).all()


def test_extreme_points_are_finite(cone):
    v = hard_points(cone, [0.0, 1.0, -1.0, 5e-324, -1e-310, 1e-160, -1e-160, 1e150, -1e150])
    spec = cone.spectrum(v)
    assert np.isfinite(cone.project(v)).all() and np.isfinite(spec.d).all() and np.isfinite(spec.apply(v)).all()


@pytest.mark.parametrize("name", ["exp", "power0.5", "power0.3", "power0.9"])
def test_boundary_rays(name):
    """-v on the boundary of K: y = 0. v on the boundary of K*: s = 0. Neither may depend on which side rounding is."""
    cone, dims = CASES[name]
    t, one = np.linspace(-12.0, 12.0, 49), np.ones(49)
    s, y = [t, one, np.exp(t)], [-one, t - 1, np.exp(-t)]
    if name != "exp":
        a = dims.power[0]
        s, y = [np.exp((1 - a) * t), np.exp(-a * t), one], [a * np.exp((a - 1) * t), (1 - a) * np.exp(a * t), -one]
    s, y = np.stack(s, -1), np.stack(y, -1)
    for v, part in ((-s, 0 * s), (y, y)):
        assert (size(cone.project(v) - part) <= 1e-14 * size(v)).all()
        assert (size(cone.spectrum(v).apply(v) - part) <= 1e-14 * size(v)).all()


def exp_reference(v):
    """y and s of the exponential cone, by bisection for the ratio rho = s_x / s_y."""
    r, q, t = (-mp.mpf(x) for x in v)
    lo, hi = (1 - q / r if r > 0 else mp.mpf(-200)), (r / q if q > 0 else mp.mpf(200))
    for _ in range(300):
        rho = (lo + hi) / 2
        a, b = ((rho - 1) * r + q) / (rho**2 - rho + 1), (r - rho * q) / (rho**2 - rho + 1)
        lo, hi = (lo, rho) if a * mp.exp(rho) - b * mp.exp(-rho) > t else (rho, hi)
    return [-b, b * (rho - 1), b * mp.exp(-rho)], [a * rho, a, a * mp.exp(rho)]


def power_reference(v, alpha):
    """y and s of the power cone, by bisection for s_z / |v_z| in the logit."""
    x, y, z = (-mp.mpf(e) for e in v)
    sign, z, weights = mp.sign(z), abs(z), (mp.mpf(alpha), 1 - mp.mpf(alpha))
    lo, hi = mp.mpf(-200), mp.mpf(200)
    for _ in range(300):
        w = (lo + hi) / 2
        a, b = z / (1 + mp.exp(-w)), z / (1 + mp.exp(w))
        s = [(x0 + mp.sqrt(x0**2 + 4 * c * a * b)) / 2 for c, x0 in zip(weights, (x, y), strict=True)]
        lo, hi = (w, hi) if s[0] ** weights[0] * s[1] ** weights[1] > a else (lo, w)
    return [c * a * b / e for c, e in zip(weights, s, strict=True)] + [-sign * b], [*s, sign * a]


def relative_errors(parts, references, v):
    """Errors of the components, relative to the components, in units of the condition number |v| / |part|."""
    return [
        abs(float((x - e) / e)) * np.abs(part).max() / np.abs(v).max()
        for part, reference in zip(parts, references, strict=True)
        for x, e in zip(part, reference, strict=True)
    ]


# rho, and |y| / |s|. Softmax near a vertex: rho = log p, s = (rho, 1, p), y = p (-1, rho - 1, 1/p).
EXP_POINTS = [(rho, ratio) for rho in (-18.0, -8.0, -1.0, 0.3, 3.0, 8.0, 18.0) for ratio in (1e-8, 1e-3, 1.0, 1e3, 1e8)]


@pytest.mark.parametrize("rho, ratio", EXP_POINTS)
def test_exp_small_components(rho, ratio):
    s, y = np.array([rho, 1.0, np.exp(rho)]), np.array([-1.0, rho - 1.0, np.exp(-rho)])
    v = ratio * y / np.linalg.norm(y) - s / np.linalg.norm(s)
    with mp.workdps(80):
        references = exp_reference(v)
    # an error of one unit in v moves rho by up to 1 + rho^2 units, and rho enters in the exponent
    assert max(relative_errors(Exp().split(v), references, v)) <= 2e-15 * (1 + rho**2)


POWER_POINTS = [
    (-1.0, 2.0, 1e-6),
    (-1.0, 1e-4, 1e-4),
    (3.0, -1e-6, 1e-3),
    (1e-3, 1e-3, 1.0),
    (-1.0, -1.0, -1.001),
    (1e-8, 1.0, 0.5),
    (0.0, 1.0, 1e-3),
    (-1e-8, 0.0, 1.0),
    (1.0, 1.0, 3.0),
    (-1e-3, -1e-3, 0.5),
]


@pytest.mark.parametrize("alpha", [0.5, 0.3, 0.9])
@pytest.mark.parametrize("v", POWER_POINTS, ids=str)
def test_power_small_components(alpha, v):
    with mp.workdps(80):
        references = power_reference(v, alpha)
    assert max(relative_errors(Power(alpha).split(np.array(v)), references, v)) <= 1e-14


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.5, 2.0, float("nan")])
def test_power_rejects_alpha_outside_0_1(alpha):
    with pytest.raises(ValueError, match="alpha"):
        Power(alpha)
