// The state of LANES problems while they are solved, and the order of events:
//
//     complementarity   where the plan allows it, else the first phase of the interior point
//     polish            guess the active set, solve for it exactly, verify; what verifies is done
//     interior point    for the lanes that are left, to a tighter tolerance; then polish again
//
// Polishing early, at 1e-5, is what makes the engine fast as well as exact: the last steps of an interior-point method are
// those in which lanes wait for each other.
#pragma once
#include "system.h"

namespace cvxlayers {
namespace {

// What a lane ends with; numbers of cvxlayers.program.Status.
enum Status { SOLVED = 0, INFEASIBLE = 1, UNBOUNDED = 2, INACCURATE = 3, FAILED = 4 };

constexpr double PHASES[] = {1e-5, 1e-7, 1e-9};  // tolerances after which lanes are polished
constexpr double VERIFIED = 1e-11;               // residual of the conditions of optimality, relative
constexpr double EXACT = 2e-15;                  // the same, scaled and row by row, at which iterative refinement stops
constexpr double CERTIFICATE = 1e-6;
constexpr int POLISH_ROUNDS = 3, REFINEMENTS = 8;

class Group {
 public:
  System K;

  explicit Group(const Plan& plan)
      : K(plan), n_(K.n), m_(K.m), zero_(K.zero), x_(n_), y_(m_), s_(m_), best_x_(n_), best_y_(m_), W_(m_),
        Px_(n_), Ay_(n_), Ax_(m_), rx_(n_), ry_(m_), x1_(n_), y1_(m_), x2_(n_), y2_(m_), right_x_(n_), right_y_(m_),
        dx_(n_), dy_(m_), ds_(m_), ex_(n_), ey_(m_), tx_(n_), ty_(m_), minus_q_(n_), products_(m_) {}

  // Read P and A of `rows` problems; a lane with a number that is not finite becomes a problem of zeros.
  // own_units: do not scale them if that is good enough for linear systems, in all lanes.
  void load_matrices(const double* P, std::ptrdiff_t P_stride, const double* A, std::ptrdiff_t A_stride, int rows,
                     bool own_units = false) {
    const std::ptrdiff_t nP = std::ptrdiff_t(K.plan.pattern.P_row.size()), nA = std::ptrdiff_t(K.plan.pattern.A_col.size());
    pack_at(K.P, P, P_stride, K.plan.pattern.P_index.data(), nP, rows), pack(K.A, A, A_stride, nA, rows);
    finite_matrices_ = finite(K.P, nP) & finite(K.A, nA);
    clear(K.P, nP, finite_matrices_), clear(K.A, nA, finite_matrices_);
    K.scale(own_units ? K.even() : none());
  }

  // Then q and b; P and A may be those of the group before.
  void load_vectors(const double* q, std::ptrdiff_t q_stride, const double* b, std::ptrdiff_t b_stride, int rows) {
    pack(K.q, q, q_stride, n_, rows), pack(K.b, b, b_stride, m_, rows);
    finite_ = finite_matrices_ & finite(K.q, n_) & finite(K.b, m_);
    clear(K.q, n_, finite_), clear(K.b, m_, finite_);
    size_q_ = largest(K.q, n_), size_b_ = largest(K.b, m_);
    K.scale_vectors();
    size_q_ *= K.cost;
  }

  void solve(int max_iterations) {
    for (int j = 0; j < n_; j++) minus_q_[j] = -K.q[j];
    for (int i = 0; i < m_; i++) K.active[i] = all(i < zero_ ? 1 : 0);
    for (int i = 0; i < m_; i++) best_y_[i] = y_[i] = s_[i] = all(0);
    for (int j = 0; j < n_; j++) best_x_[j] = x_[j] = all(0);
    done_ = infeasible_ = unbounded_ = none();
    best_ = all(1e300), tau_ = all(1), iterations_ = all(0);
    if (m_ == zero_) polish(finite_);  // nothing to guess
    else if (K.plan.complementarity) polish(complementarity(PHASES[0], std::min(max_iterations, 25)));
    if (!any(finite_ & ~done_)) return;
    start(finite_ & ~done_);
    for (double tolerance : PHASES) {
      Mask reached = interior_point(tolerance, max_iterations);
      polish((reached | (merit_ < 1e-5)) & open_ & ~(infeasible_ | unbounded_));
      open_ = open_ & reached & ~done_;
      if (!any(open_)) break;
    }
    keep_rough(finite_ & ~(done_ | infeasible_ | unbounded_));
  }

  // x, y, s of the problem as it came, and statuses.
  void store(double* x, double* y, double* s, std::int32_t* status, std::int32_t* iterations, int rows) {
    measure(best_x_, best_y_);
    for (int j = 0; j < n_; j++) tx_[j] = best_x_[j] * K.D[j];
    unpack(x, tx_, n_, n_, rows);
    const V per_dual = unit_primal_ / unit_dual_, rounding = EXACT * unit_primal_;
    for (int i = zero_; i < m_; i++) {  // where it has been verified that one of the two is zero, and it is the slack
      V slack = larger(K.b[i] - Ax_[i], all(0)) / K.E[i], multiplier = larger(best_y_[i], all(0));
      s_[i] = select(done_ & (multiplier > 0.) & (slack <= larger(multiplier * K.E[i] * per_dual, rounding)), all(0), slack);
      best_y_[i] = multiplier;
    }
    for (int i = 0; i < zero_; i++) s_[i] = all(0);
    for (int i = 0; i < m_; i++) ty_[i] = best_y_[i] * K.E[i] / K.cost;
    unpack(y, ty_, m_, m_, rows), unpack(s, s_, m_, m_, rows);
    const Mask usable = finite_ & finite(tx_, n_) & finite(ty_, m_) & finite(s_, m_);  // not if it overflows in its own units
    for (int l = 0; l < rows; l++) {
      status[l] = !usable[l] ? FAILED : done_[l] ? SOLVED : infeasible_[l] ? INFEASIBLE : unbounded_[l] ? UNBOUNDED
                  : at(best_, l) < 1e300 ? INACCURATE : FAILED;
      iterations[l] = std::int32_t(at(iterations_, l));
    }
  }

  // K [ux; uy] = [rx; ry] without the rows whose v is not positive; see derivative.h.
  void linear(const double* v, std::ptrdiff_t v_stride, const double* right, double* out, std::uint8_t* rank,
              std::ptrdiff_t columns, int rows);

 private:
  const int n_, m_, zero_;
  Lanes x_, y_, s_, best_x_, best_y_, W_, Px_, Ay_, Ax_, rx_, ry_, x1_, y1_, x2_, y2_, right_x_, right_y_, dx_, dy_, ds_, ex_, ey_,
      tx_, ty_, minus_q_, products_;
  V tau_, kappa_, size_q_, size_b_;          // sizes before scaling, but for the unit of the cost
  V unit_dual_, unit_primal_;                // of the residuals at the point that was measured last
  V predicted_;                              // residual that the last step of the interior point should have left
  V best_, merit_, iterations_;              // residual of the best point; of the interior point, relative
  Mask finite_, finite_matrices_, open_, done_, infeasible_, unbounded_, refining_;

  Mask complementarity(double tolerance, int max_iterations);
  void start(Mask lanes);
  Mask interior_point(double tolerance, int max_iterations);
  void improve(const V* right_x, const V* right_y, V* dx, V* dy);
  void polish(Mask candidates);
  void keep(Mask lanes, const V* x, const V* y, V error);
  void keep_rough(Mask lanes);
  void measure(const V* x, const V* y);
  V optimality(const V* x, const V* y, V* slack);
  template <int NR>
  Mask linear_columns(const double* right, double* out, std::ptrdiff_t stride, int rows, Mask singular);
  Mask probe(Mask suspicious, Mask& solved);
  void null_part(V* x, V* y, V* null_x, V* null_y);

  static Mask finite(const V* a, std::ptrdiff_t size) {
    Mask ok = ~none();
    for (std::ptrdiff_t k = 0; k < size; k++) ok &= a[k] - a[k] == 0.;
    return ok;
  }
  static void clear(V* a, std::ptrdiff_t size, Mask keep) {
    if (!any(~keep)) return;
    for (std::ptrdiff_t k = 0; k < size; k++) a[k] = select(keep, a[k], all(0));
  }
};

}  // namespace
}  // namespace cvxlayers
