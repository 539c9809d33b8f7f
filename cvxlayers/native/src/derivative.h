// The linear system behind refinement and both modes of differentiation: the KKT matrix of an active set,
//
//     [ P    A_a' ] [ux ]   [rx  ]
//     [ A_a  0    ] [uy_a] = [ry_a]        a: equalities, and the inequalities with v > 0; uy is zero elsewhere
//
// for many right-hand sides. Solved with the regularized factor and residuals of the system itself, to rounding. Where the
// matrix is singular, or so nearly that this does not converge, the item is marked, and the caller does it another way.
#pragma once
#include "group.h"

namespace cvxlayers {
namespace {

constexpr double SUSPICIOUS = 1e-5;  // a pivot below it is a reason to look at the rank
constexpr double ROUNDING = 1e-15;

inline void Group::linear(const double* v, std::ptrdiff_t v_stride, const double* right, double* out, std::uint8_t* good,
                          std::ptrdiff_t columns, int rows) {
  pack(ty_, v, v_stride, m_, rows);
  for (int i = 0; i < m_; i++) {
    W_[i] = all(0);
    K.active[i] = select((ty_[i] > 0.) | (i < zero_ ? ~none() : none()), all(1), all(0));
  }
  const V pivot = K.factorize(W_, true);
  const Mask suspicious = finite_matrices_ & ~(pivot > SUSPICIOUS);
  Mask fine = finite_matrices_;
  if (any(suspicious)) fine &= ~suspicious | probe();
  const std::ptrdiff_t stride = columns * (n_ + m_);
  std::ptrdiff_t c = 0;
  for (; c + 4 <= columns; c += 4) fine &= linear_columns<4>(right + c * (n_ + m_), out + c * (n_ + m_), stride, rows);
  for (; c + 2 <= columns; c += 2) fine &= linear_columns<2>(right + c * (n_ + m_), out + c * (n_ + m_), stride, rows);
  for (; c < columns; c++) fine &= linear_columns<1>(right + c * (n_ + m_), out + c * (n_ + m_), stride, rows);
  for (int l = 0; l < rows; l++) good[l] = fine[l] != 0;
}

// NR right-hand sides; returns the lanes in which all of them are solved.
template <int NR>
Mask Group::linear_columns(const double* right, double* out, std::ptrdiff_t stride, int rows) {
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
    cbx[e] = bx[e], cby[e] = by[e], cux[e] = ux[e], cuy[e] = uy[e];
  }
  K.solve<NR>(cbx, cby, cux, cuy);
  Mask solved = ~none();
  for (int e = 0; e < NR; e++) {
    for (int i = 0; i < m_; i++) uy[e][i] *= K.active[i];
    K.snap(by[e], ux[e], ~none());
    // The two parts of the right-hand side may be of very different size. Each is solved to its own rounding; then what is
    // left of it must not disturb the other.
    V before_x = all(1e300), before_y = before_x, error_x, error_y;
    for (int step = 0;; step++) {
      K.multiply(ux[e], uy[e], Px_, Ay_, Ax_);
      for (int j = 0; j < n_; j++) ex_[j] = bx[e][j] - Px_[j] - Ay_[j];
      for (int i = 0; i < m_; i++) ey_[i] = by[e][i] - Ax_[i] * K.active[i];
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
      K.snap(by[e], ux[e], moving);
    }
    const V size_u = worse(largest(ux[e], n_), largest(uy[e], m_));
    solved &= (error_x <= 1e-9 * size_x[e] + 1e-13 * size_u) & (error_y <= 1e-9 * size_y[e] + 1e-13 * size_u);  // not for NaN
    solved &= size_u - size_u == 0.;
    for (int j = 0; j < n_; j++) ux[e][j] *= K.D[j];
    for (int i = 0; i < m_; i++) uy[e][i] *= K.E[i] / K.cost;
    unpack(out + e * (n_ + m_), ux[e], stride, n_, rows), unpack(out + e * (n_ + m_) + n_, uy[e], stride, m_, rows);
  }
  return solved;
}

// Whether a known vector z comes back from K z: in a direction that is (nearly) in the null space it does not.
inline Mask Group::probe() {
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
  for (int i = 0; i < m_; i++) ry_[i] = Ax_[i] * K.active[i];
  for (int step = 0; step <= REFINEMENTS; step++) {
    K.multiply(ux, uy, Px_, Ay_, Ax_);
    for (int j = 0; j < n_; j++) ex_[j] = rx_[j] - Px_[j] - Ay_[j];
    for (int i = 0; i < m_; i++) ey_[i] = ry_[i] - Ax_[i] * K.active[i];
    K.solve(ex_, ey_, tx_, ty_);
    for (int j = 0; j < n_; j++) ux[j] += tx_[j];
    for (int i = 0; i < m_; i++) uy[i] += ty_[i] * K.active[i];
  }
  V error = all(0);
  for (int j = 0; j < n_; j++) error += (ux[j] - zx[j]) * (ux[j] - zx[j]);
  for (int i = 0; i < m_; i++) error += (uy[i] - zy[i]) * (uy[i] - zy[i]);
  return error <= 1e-6 * (n_ + m_);
}

}  // namespace
}  // namespace cvxlayers
