// Dense QPs without bounds: what remains when variables and equalities are eliminated is a linear complementarity problem,
//
//     s = c + M y,   s >= 0,  y >= 0,  s'y = 0,       M = A_I K0^-1 A_I',   K0 = [P + dI, A_E'; A_E, -dI]
//
// in the multipliers y of the inequalities. M comes from the constant prefix once; a step costs one factorization of
// M + diag(s/y), a third of that of K at n = m. Mehrotra's predictor-corrector, one step length for both.
#pragma once
#include "group.h"

namespace cvxlayers {
namespace {

// Iterates until the lanes reach the tolerance. Returns those that did, with x_, y_, s_ set.
inline Mask Group::complementarity(double tolerance, int max_iterations) {
  const int size = K.nodes - K.plan.prefix_columns;  // the inequalities, in the order of the factor
  V *c = right_y_, *y = y1_, *s = ds_, *r = ry_, *My = ey_, *affine = dy_, *dy = y2_, *W = W_;
  K.reduce(c);
  const V per_gauge = 1. / K.gauge, size_c = largest(c, size);
  for (int i = 0; i < size; i++) W[i] = per_gauge, y[i] = c[i];
  K.factorize_suffix(W), K.solve_suffix(y);
  V least_s = all(1e300), least_y = least_s;
  for (int i = 0; i < size; i++) s[i] = -y[i] * per_gauge, least_s = smaller(least_s, s[i]), least_y = smaller(least_y, -s[i]);
  const V shift_s = select(least_s < 1e-8, 1. - least_s, all(0)), shift_y = select(least_y < 1e-8, 1. - least_y, all(0));
  for (int i = 0; i < size; i++) s[i] += shift_s, y[i] += shift_y * K.gauge;

  Mask running = finite_, reached = none();
  V best = all(1e300), idle = all(0);
  for (int step = 0;; step++) {
    K.multiply_suffix(y, My);
    V error = all(0), size_My = all(0), mu = all(0), size_y = all(0);
    for (int i = 0; i < size; i++) {
      r[i] = c[i] + My[i] - s[i];
      error = larger(error, magnitude(r[i])), size_My = larger(size_My, magnitude(My[i])), mu += s[i] * y[i];
      size_y = larger(size_y, y[i]);
    }
    mu *= per_gauge / double(size);
    const V unit = larger(all(1), larger(size_c, size_My));
    const Mask arrived = running & (error <= tolerance * unit) & (mu <= 0.1 * tolerance);
    reached |= arrived;
    running &= ~arrived & (error + mu + size_y < 1e200);
    const V merit = larger(error / unit, mu);
    idle = select(merit < 0.9 * best, all(0), idle + 1.), best = smaller(best, merit);
    running &= ~Mask(idle >= 5.);
    if (!any(running) || step == max_iterations) break;
    iterations_ = select(running, iterations_ + 1., iterations_);

    for (int i = 0; i < size; i++) W[i] = s[i] / y[i], affine[i] = r[i] + s[i];
    K.factorize_suffix(W), K.solve_suffix(affine);
    V length = all(1);
    for (int i = 0; i < size; i++) {
      V ds = -s[i] - W[i] * affine[i];
      dy[i] = ds * affine[i];
      length = smaller(length, select(affine[i] < 0., -y[i] / affine[i], length));
      length = smaller(length, select(ds < 0., -s[i] / ds, length));
    }
    V sigma = 1. - length;
    sigma = sigma * sigma * sigma;
    for (int i = 0; i < size; i++) My[i] = s[i] + (dy[i] - sigma * mu * K.gauge) / y[i], dy[i] = r[i] + My[i];
    K.solve_suffix(dy);
    length = all(1e300);
    for (int i = 0; i < size; i++) {
      V ds = -My[i] - W[i] * dy[i];
      My[i] = ds;
      length = smaller(length, select(dy[i] < 0., -y[i] / dy[i], length));
      length = smaller(length, select(ds < 0., -s[i] / ds, length));
    }
    length = smaller(all(1), larger(all(0.99), 1. - mu) * length);
    for (int i = 0; i < size; i++) {
      y[i] = select(running, y[i] + length * dy[i], y[i]);
      s[i] = select(running, s[i] + length * My[i], s[i]);
    }
  }
  K.extend(y, x_, y_);
  for (int j = 0; j < n_; j++) x_[j] = select(reached, x_[j], all(0));
  for (int i = 0; i < m_; i++) {
    const int place = K.plan.place[K.plan.node_of_row[i]] - K.plan.prefix_columns;
    y_[i] = select(reached, y_[i], all(0));
    s_[i] = i < zero_ ? all(0) : select(reached, s[place], all(0));
  }
  return reached;
}

}  // namespace
}  // namespace cvxlayers
