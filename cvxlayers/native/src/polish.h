// From a rough point to a solution: guess which rows are active (y > s), solve for that active set, verify, mend the guess.
//
// The system of an active set is solved with the regularized factor and residuals of the system itself: the proximal-point
// method. It converges for redundant and degenerate active sets, too, to the solution nearest to the rough point.
#pragma once
#include "group.h"

namespace cvxlayers {
namespace {

// Products with a point, and what its residuals are relative to: the terms of the sums, but at least 1; for the dual ones 1
// in the units of the problem or of its cost, what is less. All of one side, so that neither hides behind the other.
inline void Group::measure(const V* x, const V* y) {
  K.multiply(x, y, Px_, Ay_, Ax_);
  unit_dual_ = larger(smaller(K.cost, all(1)), size_q_), unit_primal_ = larger(all(1), size_b_);
  for (int j = 0; j < n_; j++) unit_dual_ = larger(larger(magnitude(Px_[j]), magnitude(Ay_[j])) / K.D[j], unit_dual_);
  for (int i = 0; i < m_; i++) unit_primal_ = larger(magnitude(Ax_[i]) / K.E[i], unit_primal_);
}

// The largest violation of the conditions of optimality, relative; slack = b - Ax, scaled.
inline V Group::optimality(const V* x, const V* y, V* slack) {
  measure(x, y);
  const V per_dual = 1. / unit_dual_, per_primal = 1. / unit_primal_;
  V error = all(0);
  for (int j = 0; j < n_; j++) error = worse(magnitude(Px_[j] + Ay_[j] + K.q[j]) * per_dual / K.D[j], error);
  for (int i = 0; i < m_; i++) {
    slack[i] = K.b[i] - Ax_[i];
    const V s = slack[i] * per_primal / K.E[i], multiplier = y[i] * K.E[i] * per_dual;
    if (i < zero_) error = worse(magnitude(s), error);
    else error = worse(worse(worse(-s, -multiplier), smaller(magnitude(s), magnitude(multiplier))), error);
  }
  return error;
}

inline void Group::keep(Mask lanes, const V* x, const V* y, V error) {
  for (int j = 0; j < n_; j++) best_x_[j] = select(lanes, x[j], best_x_[j]);
  for (int i = 0; i < m_; i++) best_y_[i] = select(lanes, y[i], best_y_[i]);
  best_ = select(lanes, error, best_);
}

// The point where the interior-point method has stopped, for lanes that have no better one.
inline void Group::keep_rough(Mask lanes) {
  if (!any(lanes)) return;
  const V per_tau = 1. / tau_;
  for (int j = 0; j < n_; j++) dx_[j] = x_[j] * per_tau;
  for (int i = 0; i < m_; i++) dy_[i] = y_[i] * per_tau;
  const V error = optimality(dx_, dy_, ds_);
  keep(lanes & (error < best_), dx_, dy_, error);
}

inline void Group::polish(Mask candidates) {
  if (!any(candidates)) return;
  const V per_tau = 1. / tau_;
  V *active = K.active, *x = dx_, *y = dy_, *slack = ds_;
  for (int i = 0; i < m_; i++) {
    W_[i] = all(0);
    if (i >= zero_) active[i] = select(candidates, select(y_[i] > K.gauge * s_[i], all(1), all(0)), active[i]);
  }
  for (int j = 0; j < n_; j++) x[j] = x_[j] * per_tau;
  for (int i = 0; i < m_; i++) y[i] = y_[i] * per_tau;
  const V rough = optimality(x, y, slack);
  keep(candidates & (rough < best_), x, y, rough);
  Mask open = candidates;
  for (int round = 0; round < POLISH_ROUNDS; round++) {
    K.factorize(W_, true);
    for (int j = 0; j < n_; j++) x[j] = x_[j] * per_tau;
    for (int i = 0; i < m_; i++) y[i] = y_[i] * per_tau * active[i];
    K.snap(K.b, x, open);
    V before = all(1e300);
    for (int step = 0; step < REFINEMENTS; step++) {
      K.multiply(x, y, Px_, Ay_, Ax_);
      V error = all(0);  // each row relative to its own right-hand side, if it has one: large ones do not excuse others
      auto own = [](V size) { return select(size > 0., size, all(1)); };
      for (int j = 0; j < n_; j++) {
        ex_[j] = -(Px_[j] + Ay_[j] + K.q[j]);
        error = worse(magnitude(ex_[j]) / own(magnitude(K.q[j])), error);
      }
      for (int i = 0; i < m_; i++) {
        ey_[i] = (K.b[i] - Ax_[i]) * active[i];
        error = worse(magnitude(ey_[i]) / own(magnitude(K.b[i])), error);
      }
      const Mask moving = open & (error > EXACT) & (error < 0.5 * before);
      before = error;
      if (!any(moving)) break;
      K.solve(ex_, ey_, tx_, ty_);
      for (int j = 0; j < n_; j++) x[j] = select(moving, x[j] + tx_[j], x[j]);
      for (int i = 0; i < m_; i++) y[i] = select(moving, y[i] + ty_[i] * active[i], y[i]);
      K.snap(K.b, x, moving);
    }
    const V error = optimality(x, y, slack);
    keep(open & (error < best_), x, y, error);
    const Mask verified = open & (best_ <= VERIFIED);
    done_ |= verified, open &= ~verified;
    if (!any(open)) return;
    Mask changed = none();
    for (int i = zero_; i < m_; i++) {
      const Mask on = active[i] > 0.5;
      const Mask flip = open & ((on & (y[i] < -1e-12)) | (~on & (slack[i] < -1e-12)));
      active[i] = select(flip, 1. - active[i], active[i]);
      changed |= flip;
    }
    open &= changed;
    if (!any(open)) return;
  }
}

}  // namespace
}  // namespace cvxlayers
