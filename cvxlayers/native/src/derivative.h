// The linear system behind refinement and both modes of differentiation: the KKT matrix of an active set,
//
//     [ P    A_a' ] [ux ]   [rx  ]
//     [ A_a  0    ] [uy_a] = [ry_a]        a: equalities, and the inequalities with v > 0; uy is zero elsewhere
//
// or, where rows have weights, with all rows and -diag(weights) in place of 0; for many right-hand sides. Solved with the
// regularized factor and residuals of the system itself, to rounding.
//
// Where the matrix is singular, right-hand sides and solutions are freed of their parts in its null space, which makes the
// answer the least-squares solution of least norm. With S = diag(I, -I), d (K + dS)^-1 S leaves vectors of the null space
// alone and all but annihilates what is orthogonal to it: P >= 0 makes the null space a product of one in x and one in y.
#pragma once
#include "group.h"

namespace cvxlayers {
namespace {

constexpr double SUSPICIOUS = 1e-5;  // a pivot below it is a reason to look at the rank
constexpr double ROUNDING = 1e-15;
constexpr int PROJECTIONS = 4, PROBES = 3;

// What `linear` says of an item.
enum Rank { UNSOLVED = 0, REGULAR = 1, SINGULAR = 2, SINGULAR_SCALED = 3 };  // the last: of least norm in scaled units

inline void Group::linear(const double* v, std::ptrdiff_t v_stride, const double* right, double* out, std::uint8_t* rank,
                          std::ptrdiff_t columns, int rows) {
  const bool weighted = K.plan.pattern.weighted;
  pack(ty_, v, v_stride, m_, rows);
  for (int i = 0; i < m_; i++) {
    W_[i] = weighted ? ty_[i] * K.E[i] * K.E[i] / K.cost : all(0);
    K.active[i] = select((ty_[i] > 0.) | (i < zero_ || weighted ? ~none() : none()), all(1), all(0));
  }
  const V pivot = K.factorize(W_, !weighted);
  const Mask suspicious = finite_matrices_ & ~Mask(pivot > SUSPICIOUS);
  Mask singular = none(), solved = finite_matrices_;
  if (any(suspicious)) singular = probe(suspicious, solved);
  const std::ptrdiff_t size = n_ + m_, stride = columns * size;
  std::ptrdiff_t c = 0;
  for (; c + 4 <= columns; c += 4) solved &= linear_columns<4>(right + c * size, out + c * size, stride, rows, singular);
  for (; c + 2 <= columns; c += 2) solved &= linear_columns<2>(right + c * size, out + c * size, stride, rows, singular);
  for (; c < columns; c++) solved &= linear_columns<1>(right + c * size, out + c * size, stride, rows, singular);
  Mask scaled = none();
  for (int j = 0; j < n_; j++) scaled |= K.D[j] != 1.;
  for (int i = 0; i < m_; i++) scaled |= K.E[i] != 1.;
  for (int l = 0; l < rows; l++)
    rank[l] = std::uint8_t(!solved[l] ? UNSOLVED : !singular[l] ? REGULAR : scaled[l] ? SINGULAR_SCALED : SINGULAR);
}

// The part of (x, y) in the null space, for all lanes.
inline void Group::null_part(V* x, V* y, V* null_x, V* null_y) {
  for (int j = 0; j < n_; j++) ex_[j] = x[j];
  for (int i = 0; i < m_; i++) ey_[i] = y[i];
  for (int k = 0; k < PROJECTIONS; k++) {
    for (int j = 0; j < n_; j++) ex_[j] *= REGULARIZATION;
    for (int i = 0; i < m_; i++) ey_[i] *= -REGULARIZATION;
    K.solve(ex_, ey_, null_x, null_y);
    for (int j = 0; j < n_; j++) ex_[j] = null_x[j];
    for (int i = 0; i < m_; i++) ey_[i] = null_y[i] = null_y[i] * K.active[i];
  }
}

// NR right-hand sides; returns the lanes in which all of them are solved.
template <int NR>
Mask Group::linear_columns(const double* right, double* out, std::ptrdiff_t stride, int rows, Mask singular) {
  V* bx[4] = {rx_, x1_, x2_, right_x_};
  V* by[4] = {ry_, y1_, y2_, right_y_};
  V* ux[4] = {x_, best_x_, dx_, minus_q_};
  V* uy[4] = {y_, best_y_, dy_, products_};
  const V *cbx[NR], *cby[NR];
  V *cux[NR], *cuy[NR], size_x[NR], size_y[NR];
  for (int e = 0; e < NR; e++) {
    pack(bx[e], right + e * (n_ + m_), stride, n_, rows), pack(by[e], right + e * (n_ + m_) + n_, stride, m_, rows);
    for (int j = 0; j < n_; j++) bx[e][j] *= K.D[j] * K.cost;
    for (int i = 0; i < m_; i++) by[e][i] *= K.E[i] * K.active[i];
    size_x[e] = largest(bx[e], n_), size_y[e] = largest(by[e], m_);
    if (any(singular)) {
      null_part(bx[e], by[e], tx_, ty_);
      for (int j = 0; j < n_; j++) bx[e][j] -= select(singular, tx_[j], all(0));
      for (int i = 0; i < m_; i++) by[e][i] -= select(singular, ty_[i], all(0));
    }
    cbx[e] = bx[e], cby[e] = by[e], cux[e] = ux[e], cuy[e] = uy[e];
  }
  K.solve<NR>(cbx, cby, cux, cuy);
  Mask solved = ~none();
  for (int e = 0; e < NR; e++) {
    for (int i = 0; i < m_; i++) uy[e][i] *= K.active[i];
    if (!K.plan.pattern.weighted) K.snap(by[e], ux[e], ~singular);
    // The two parts of the right-hand side may be of very different size. Each is solved to its own rounding; then what is
    // left of it must not disturb the other.
    V before_x = all(1e300), before_y = before_x, error_x, error_y;
    for (int step = 0;; step++) {
      K.multiply(ux[e], uy[e], Px_, Ay_, Ax_);
      for (int j = 0; j < n_; j++) ex_[j] = bx[e][j] - Px_[j] - Ay_[j];
      for (int i = 0; i < m_; i++) ey_[i] = by[e][i] - (Ax_[i] - W_[i] * uy[e][i]) * K.active[i];
      error_x = largest(ex_, n_), error_y = largest(ey_, m_);
      const Mask moving_x = (error_x > ROUNDING * size_x[e]) & (error_x < 0.5 * before_x);
      const Mask moving_y = (error_y > ROUNDING * size_y[e]) & (error_y < 0.5 * before_y), moving = moving_x | moving_y;
      before_x = error_x, before_y = error_y;
      if (step == REFINEMENTS || !any(moving)) break;
      for (int j = 0; j < n_; j++) ex_[j] = select(moving_x, ex_[j], all(0));
      for (int i = 0; i < m_; i++) ey_[i] = select(moving_y, ey_[i], all(0));
      K.solve(ex_, ey_, tx_, ty_);
      for (int j = 0; j < n_; j++) ux[e][j] = select(moving, ux[e][j] + tx_[j], ux[e][j]);
      for (int i = 0; i < m_; i++) uy[e][i] = select(moving, uy[e][i] + ty_[i] * K.active[i], uy[e][i]);
      if (!K.plan.pattern.weighted) K.snap(by[e], ux[e], moving & ~singular);
    }
    const V size_u = worse(largest(ux[e], n_), largest(uy[e], m_));
    solved &= (error_x <= 1e-9 * size_x[e] + 1e-13 * size_u) & (error_y <= 1e-9 * size_y[e] + 1e-13 * size_u);  // not for NaN
    solved &= size_u - size_u == 0.;
    if (any(singular)) {
      null_part(ux[e], uy[e], tx_, ty_);
      for (int j = 0; j < n_; j++) ux[e][j] -= select(singular, tx_[j], all(0));
      for (int i = 0; i < m_; i++) uy[e][i] -= select(singular, ty_[i], all(0));
    }
    for (int j = 0; j < n_; j++) ux[e][j] *= K.D[j];
    for (int i = 0; i < m_; i++) uy[e][i] *= K.E[i] / K.cost;
    unpack(out + e * (n_ + m_), ux[e], stride, n_, rows), unpack(out + e * (n_ + m_) + n_, uy[e], stride, m_, rows);
  }
  return solved;
}

// The lanes where K is singular. A known vector z comes back from K z, unless parts of it are in the null space, or nearly
// so. K of those parts tells which: where it is more than rounding, nothing is clear, and the lane counts as unsolved.
inline Mask Group::probe(Mask suspicious, Mask& solved) {
  std::uint64_t state = 0x9e3779b97f4a7c15ULL;
  auto number = [&] {  // in [-1, 1], the same for every lane
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return double(std::int64_t(state)) / 9.3e18;
  };
  V *zx = x_, *zy = y_, *ux = x1_, *uy = y1_;
  for (int j = 0; j < n_; j++) zx[j] = all(number()), ux[j] = all(0);
  for (int i = 0; i < m_; i++) zy[i] = number() * K.active[i], uy[i] = all(0);
  K.multiply(zx, zy, Px_, Ay_, Ax_);
  for (int j = 0; j < n_; j++) rx_[j] = Px_[j] + Ay_[j];
  for (int i = 0; i < m_; i++) ry_[i] = (Ax_[i] - W_[i] * zy[i]) * K.active[i];
  Mask regular = ~suspicious;
  for (int step = 0; step < PROBES && any(~regular); step++) {
    K.multiply(ux, uy, Px_, Ay_, Ax_);
    for (int j = 0; j < n_; j++) ex_[j] = rx_[j] - Px_[j] - Ay_[j];
    for (int i = 0; i < m_; i++) ey_[i] = ry_[i] - (Ax_[i] - W_[i] * uy[i]) * K.active[i];
    K.solve(ex_, ey_, tx_, ty_);
    V error = all(0);
    for (int j = 0; j < n_; j++) ux[j] += tx_[j], error = larger(error, magnitude(ux[j] - zx[j]));
    for (int i = 0; i < m_; i++) uy[i] += ty_[i] * K.active[i], error = larger(error, magnitude(uy[i] - zy[i]));
    regular |= error <= 1e-3;
  }
  if (!any(~regular)) return none();
  null_part(zx, zy, ux, uy);
  K.multiply(ux, uy, Px_, Ay_, Ax_);
  V size = all(0), image = all(0);
  for (int j = 0; j < n_; j++) size = larger(size, magnitude(ux[j])), image = larger(image, magnitude(Px_[j] + Ay_[j]));
  for (int i = 0; i < m_; i++) size = larger(size, magnitude(uy[i])), image = larger(image, magnitude((Ax_[i] - W_[i] * uy[i]) * K.active[i]));
  const Mask null = ~regular & (image <= 1e-11 * size);
  solved &= regular | null;
  return null;
}

}  // namespace
}  // namespace cvxlayers
