// An interior-point method on the homogeneous embedding, with Mehrotra's predictor and corrector:
//
//     rx = Px + A'y + q tau,   ry = Ax + s - b tau,   rt = q'x + b'y + x'Px/tau + kappa,   mu = (s'y + tau kappa)/(k + 1)
//
// A step costs one factorization of K with W = s/y, one solve with two right-hand sides, [-q; b] and the affine one, and
// one for the corrector. Sources: Mehrotra (1992); Andersen and Ye (1999); Goulart and Chen, arXiv 2405.12762.
#pragma once
#include "group.h"

namespace cvxlayers {
namespace {

// The first point: the solution with s = -y in their units, shifted into the cone.
inline void Group::start(Mask lanes) {
  const V per_gauge = 1. / K.gauge;
  open_ = lanes;
  merit_ = all(1e300);
  for (int i = 0; i < m_; i++) W_[i] = i < zero_ ? all(0) : per_gauge;
  K.factorize(W_, false);
  K.solve(minus_q_, K.b, x_, y_);
  V least_s = all(1e300), least_y = least_s;
  for (int i = zero_; i < m_; i++) {
    s_[i] = -y_[i] * per_gauge;
    least_s = smaller(least_s, s_[i]), least_y = smaller(least_y, -s_[i]);
  }
  const V shift_s = select(least_s < 1e-8, 1. - least_s, all(0)), shift_y = select(least_y < 1e-8, 1. - least_y, all(0));
  for (int i = zero_; i < m_; i++) s_[i] += shift_s, y_[i] += shift_y * K.gauge;
  for (int i = 0; i < zero_; i++) s_[i] = all(0);
  tau_ = all(1), kappa_ = K.gauge;
  refining_ = none(), predicted_ = all(1e300);
}

// Steps of the open lanes until they reach the tolerance. Returns those that did; certificates end lanes as well.
inline Mask Group::interior_point(double tolerance, int max_iterations) {
  const V* q = K.q;
  const V* b = K.b;
  V *rx = rx_, *ry = ry_, *W = W_;
  Mask running = open_, reached = none();
  V idle = all(0);
  for (;;) {
    K.multiply(x_, y_, Px_, Ay_, Ax_);
    const V xPx = dot(x_, Px_, n_), qx = dot(q, x_, n_), by = dot(b, y_, m_), per_tau = 1. / tau_;
    V dual = all(0), primal = all(0), size_Px = all(0), size_Ay = all(0), size_Ax = all(0), size_s = all(0), size_Axs = all(0);
    for (int j = 0; j < n_; j++) {
      const V unit = 1. / K.D[j];
      rx[j] = Px_[j] + Ay_[j] + q[j] * tau_;
      dual = larger(dual, magnitude(rx[j]) * unit);
      size_Px = larger(size_Px, magnitude(Px_[j]) * unit), size_Ay = larger(size_Ay, magnitude(Ay_[j]) * unit);
    }
    for (int i = 0; i < m_; i++) {
      const V unit = 1. / K.E[i], Axs = Ax_[i] + s_[i];
      ry[i] = Axs - b[i] * tau_;
      primal = larger(primal, magnitude(ry[i]) * unit), size_Axs = larger(size_Axs, magnitude(Axs) * unit);
      size_Ax = larger(size_Ax, magnitude(Ax_[i]) * unit), size_s = larger(size_s, magnitude(s_[i]) * unit);
    }
    const int k = m_ - zero_;
    const V product = rounded(tau_ * kappa_), curvature = rounded(xPx * per_tau);
    const V mu = (dot(s_ + zero_, y_ + zero_, k) + product) / (k + 1.);
    const V above = rounded((0.5 * curvature + qx) * per_tau), below = rounded((-0.5 * curvature - by) * per_tau);
    const V unit_primal = larger(all(1), larger(size_b_, larger(size_Ax, size_s) * per_tau));
    const V unit_dual = larger(all(1), larger(size_q_, larger(size_Px, size_Ay) * per_tau));
    const V unit_gap = larger(all(1), smaller(magnitude(above), magnitude(below)));
    const V merit = larger(primal * per_tau / unit_primal, larger(dual * per_tau / unit_dual, magnitude(above - below) / unit_gap));
    const Mask arrived = running & (merit <= tolerance);
    const Mask homogeneous = running & ~arrived & (kappa_ > tau_ * K.gauge);
    const Mask no_point = homogeneous & (by < -1e-12) & (size_Ay <= CERTIFICATE * -by);
    const Mask no_bound =
        homogeneous & ~no_point & (qx < -1e-12) & (size_Px <= CERTIFICATE * -qx) & (size_Axs <= CERTIFICATE * -qx);
    idle = select(merit < 0.9 * merit_, all(0), idle + 1.);
    merit_ = select(running & (merit < merit_), merit, merit_);
    reached |= arrived, infeasible_ |= no_point, unbounded_ |= no_bound;
    running &= ~(arrived | no_point | no_bound) & (merit < 1e300) & ~Mask((idle >= 12.) & (merit_ < 1e-6));
    running &= iterations_ < double(max_iterations);
    if (!any(running)) break;
    iterations_ = select(running, iterations_ + 1., iterations_);
    // Refinement of the directions is worth its time only after a step that did not do what was predicted.
    refining_ |= running & (merit > 0.1 * tolerance) & (larger(dual, primal) * per_tau > 10. * predicted_ + 0.1 * tolerance);

    for (int i = zero_; i < m_; i++) W[i] = s_[i] / y_[i];
    K.factorize(W, false);
    for (int j = 0; j < n_; j++) right_x_[j] = -rx[j];
    for (int i = 0; i < m_; i++) right_y_[i] = (i < zero_ ? all(0) : s_[i]) - ry[i];
    K.solve<2>({minus_q_, right_x_}, {b, right_y_}, {x1_, x2_}, {y1_, y2_});
    if (any(running & refining_)) improve(minus_q_, b, x1_, y1_);
    const V slope = dot(q, x1_, n_) + dot(b, y1_, m_) + 2. * per_tau * dot(Px_, x1_, n_) - curvature * per_tau - kappa_ * per_tau;
    const V rt = qx + by + kappa_ + curvature;
    auto tau_step = [&](V eta, V dk) {
      return (rounded(-eta * rt) + dk * per_tau - dot(q, x2_, n_) - dot(b, y2_, m_) - 2. * per_tau * dot(Px_, x2_, n_)) / slope;
    };
    V dtau = tau_step(all(1), product), dkappa = -kappa_ * (tau_ + dtau) * per_tau, length = all(1);
    auto shorten = [&](V value, V change) { length = smaller(length, select(change < 0., -value / change, length)); };
    shorten(tau_, dtau), shorten(kappa_, dkappa);
    for (int i = zero_; i < m_; i++) {
      const V dy = y2_[i] + dtau * y1_[i], ds = -s_[i] - W[i] * dy;
      products_[i] = ds * dy;
      shorten(y_[i], dy), shorten(s_[i], ds);
    }
    const V sigma = rounded((1. - length) * (1. - length) * (1. - length)), eta = 1. - sigma;
    const V target = rounded(sigma * mu), dk = product + rounded(dtau * dkappa) - target;
    for (int j = 0; j < n_; j++) right_x_[j] = -eta * rx[j];
    for (int i = 0; i < zero_; i++) right_y_[i] = -eta * ry[i];
    for (int i = zero_; i < m_; i++) {
      ds_[i] = (s_[i] * y_[i] + products_[i] - target) / y_[i];
      right_y_[i] = ds_[i] - eta * ry[i];
    }
    K.solve(right_x_, right_y_, x2_, y2_);
    if (any(running & refining_)) improve(right_x_, right_y_, x2_, y2_);
    dtau = tau_step(eta, dk), dkappa = -(dk + kappa_ * dtau) * per_tau, length = all(1e300);
    shorten(tau_, dtau), shorten(kappa_, dkappa);
    for (int i = zero_; i < m_; i++) {
      dy_[i] = y2_[i] + dtau * y1_[i], ds_[i] = -ds_[i] - W[i] * dy_[i];
      shorten(y_[i], dy_[i]), shorten(s_[i], ds_[i]);
    }
    length = smaller(all(1), larger(all(0.99), 1. - mu / K.gauge) * length);
    predicted_ = select(running, (1. - length * eta) * larger(dual, primal) * per_tau, predicted_);
    for (int j = 0; j < n_; j++) x_[j] = select(running, x_[j] + length * (x2_[j] + dtau * x1_[j]), x_[j]);
    for (int i = 0; i < zero_; i++) y_[i] = select(running, y_[i] + length * (y2_[i] + dtau * y1_[i]), y_[i]);
    for (int i = zero_; i < m_; i++) {
      y_[i] = select(running, y_[i] + length * dy_[i], y_[i]);
      s_[i] = select(running, s_[i] + length * ds_[i], s_[i]);
    }
    tau_ = select(running, tau_ + rounded(length * dtau), tau_);
    kappa_ = select(running, kappa_ + rounded(length * dkappa), kappa_);
    const V size = larger(tau_, kappa_ / K.gauge);
    const Mask far = running & ((size > 1e4) | (size < 1e-4));
    if (any(far)) {
      const V factor = select(far, 1. / size, all(1));
      for (int j = 0; j < n_; j++) x_[j] *= factor;
      for (int i = 0; i < m_; i++) y_[i] *= factor, s_[i] *= factor;
      tau_ *= factor, kappa_ *= factor;
    }
  }
  return reached;
}

// One step of iterative refinement of K(W) [dx; dy] = [right_x; right_y], without the regularization, for the lanes that
// ask for it.
inline void Group::improve(const V* right_x, const V* right_y, V* dx, V* dy) {
  K.multiply(dx, dy, tx_, ex_, ey_);
  for (int j = 0; j < n_; j++) ex_[j] = right_x[j] - tx_[j] - ex_[j];
  for (int i = 0; i < m_; i++) ey_[i] = right_y[i] - ey_[i] + (i < zero_ ? all(0) : W_[i] * dy[i]);
  K.solve(ex_, ey_, tx_, ty_);
  for (int j = 0; j < n_; j++) dx[j] = select(refining_, dx[j] + tx_[j], dx[j]);
  for (int i = 0; i < m_; i++) dy[i] = select(refining_, dy[i] + ty_[i], dy[i]);
}

}  // namespace
}  // namespace cvxlayers
