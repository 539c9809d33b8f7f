// LANES problems of one pattern: their data, scaled; products with P and A; K for given W, factorized; solves with it.
#pragma once
#include <cstring>

#include "kernels.h"

namespace cvxlayers {
namespace {

constexpr double REGULARIZATION = 1e-7;  // d; refinement against K itself takes its effect away

class System {
 public:
  const Plan& plan;
  const int n, m, zero, nodes;
  Lanes P, A, q, b;
  Lanes D, E;      // x = D x', y = E y' / cost, s = s' / E; powers of two, so that scaling is exact
  V cost;          // residuals of stationarity are measured in its unit, in which P, or else q, is of size one
  V gauge;         // y is about as large as `gauge`, where s and x are of size one
  Lanes active;    // by row: 1 or 0; which rows of K are there where it is masked

  explicit System(const Plan& p)
      : plan(p), n(p.pattern.n), m(p.pattern.m), zero(p.pattern.zero), nodes(p.nodes), P(p.pattern.P_row.size()),
        A(p.pattern.A_col.size()), q(n), b(m), D(n), E(m), active(m), L_(p.values), suffix_(p.values - p.prefix_values),
        inverse_(p.nodes), t_(std::size_t(p.nodes) * 4), keep_(p.nodes), bound_weight_(m), var_weight_(n), var_entry_(n),
        column_(n), row_(m) {}

  // Ruiz' equilibration of [P A'; A 0], four passes, rounded to powers of two. The unit of the cost comes from P, or from
  // q where P is zero: then K does not depend on it. So P, A, D, E and the prefix are the same for all q and b.
  // Lanes of `keep` stay in their own units.
  void scale(Mask keep) {
    const Pattern& p = plan.pattern;
    const int nP = int(p.P_row.size());
    for (int j = 0; j < n; j++) D[j] = all(1);
    for (int i = 0; i < m; i++) E[i] = all(1);
    cost = unit_ = largest_P_ = all(1);
    constant_ = false;
    if (!any(~keep)) return;
    for (int pass = 0; pass < 4; pass++) {
      for (int j = 0; j < n; j++) column_[j] = all(0);
      for (int k = 0; k < nP; k++) {
        int i = p.P_row[k], j = p.P_col[k];
        V v = magnitude(P[k]) * D[i] * D[j];
        column_[i] = larger(column_[i], v), column_[j] = larger(column_[j], v);
      }
      for (int i = 0; i < m; i++) {
        V largest_entry = all(0);
        for (int k = p.A_ptr[i]; k < p.A_ptr[i + 1]; k++) {
          int j = p.A_col[k];
          V v = magnitude(A[k]) * E[i] * D[j];
          largest_entry = larger(largest_entry, v), column_[j] = larger(column_[j], v);
        }
        row_[i] = largest_entry;
      }
      for (int j = 0; j < n; j++) D[j] = clipped(D[j] / root(gentle(column_[j])));
      for (int i = 0; i < m; i++) E[i] = clipped(E[i] / root(gentle(row_[i])));
    }
    for (int j = 0; j < n; j++) D[j] = select(keep, all(1), power_of_two(D[j]));
    for (int i = 0; i < m; i++) E[i] = select(keep, all(1), power_of_two(E[i]));
    largest_P_ = all(0);
    for (int k = 0; k < nP; k++) largest_P_ = larger(largest_P_, magnitude(P[k]) * D[p.P_row[k]] * D[p.P_col[k]]);
    cost = unit_ = select(keep, all(1), unit(largest_P_));
    for (int k = 0; k < nP; k++) P[k] *= D[p.P_row[k]] * D[p.P_col[k]] * unit_;
    for (int i = 0; i < m; i++)
      for (int k = p.A_ptr[i]; k < p.A_ptr[i + 1]; k++) A[k] *= E[i] * D[p.A_col[k]];
  }

  // Whether the largest entries of all columns and rows of [P A'; A 0] are within a factor of 100 of one.
  Mask even() {
    const Pattern& p = plan.pattern;
    for (int j = 0; j < n; j++) column_[j] = all(0);
    for (std::size_t k = 0; k < p.P_row.size(); k++) {
      const int i = p.P_row[k], j = p.P_col[k];
      column_[i] = larger(column_[i], magnitude(P[k])), column_[j] = larger(column_[j], magnitude(P[k]));
    }
    Mask is_even = ~none();
    auto look = [&](V size) { is_even &= ((size >= 0.01) & (size <= 100.)) | (size == 0.); };
    for (int i = 0; i < m; i++) {
      V size = all(0);
      for (int k = p.A_ptr[i]; k < p.A_ptr[i + 1]; k++) {
        size = larger(size, magnitude(A[k]));
        column_[p.A_col[k]] = larger(column_[p.A_col[k]], magnitude(A[k]));
      }
      look(size);
    }
    for (int j = 0; j < n; j++) look(column_[j]);
    return is_even;
  }

  // q and b, after `scale`.
  void scale_vectors() {
    V size = all(0);
    for (int j = 0; j < n; j++) size = larger(size, magnitude(q[j] * D[j]));
    cost = select(largest_P_ > 0., unit_, unit(size));
    for (int j = 0; j < n; j++) q[j] *= D[j] * cost;
    for (int i = 0; i < m; i++) b[i] *= E[i];
    gauge = power_of_two(smaller(larger(largest(q, n), all(1)), all(1e8)));
  }

  // Px = P x, Ay = A'y, Ax = A x.
  void multiply(const V* x, const V* y, V* Px, V* Ay, V* Ax) const {
    const Pattern& p = plan.pattern;
    for (int j = 0; j < n; j++) Px[j] = Ay[j] = all(0);
    for (int k = 0, nP = int(p.P_row.size()); k < nP;) {
      const int i = p.P_row[k];
      V sum = all(0), xi = x[i];
      for (; k < nP && p.P_row[k] == i; k++) {
        const int j = p.P_col[k];
        sum += P[k] * x[j];
        if (j != i) Px[j] += P[k] * xi;
      }
      Px[i] += sum;
    }
    for (int i = 0; i < m; i++) {
      V sum = all(0), yi = y[i];
      for (int k = p.A_ptr[i]; k < p.A_ptr[i + 1]; k++) {
        const int j = p.A_col[k];
        sum += A[k] * x[j], Ay[j] += A[k] * yi;
      }
      Ax[i] = sum;
    }
  }

  // Factorize K with the given W (by row, inequalities); masked: without the rows that are not `active`. Returns the
  // smallest pivot of what depends on W and the activity.
  V factorize(const V* W, bool masked) {
    restore();
    const Pattern& p = plan.pattern;
    for (int j = 0; j < n; j++)
      if (varies(j)) var_weight_[j] = P[plan.P_diagonal[j]] + REGULARIZATION;
    for (int i = zero; i < m; i++) {
      const int j = plan.bound_of[i];
      if (j < 0) {
        L_[plan.diagonal[plan.node_of_row[i]]] -= W[i];
        continue;
      }
      V a = A[p.A_ptr[i]], weight = 1. / (W[i] + REGULARIZATION);
      if (masked) weight *= active[i];
      bound_weight_[i] = weight;
      (plan.node_of_var[j] >= 0 ? L_[plan.diagonal[plan.node_of_var[j]]] : var_weight_[j]) += a * a * weight;
    }
    V smallest = smaller(prefix_pivot_, condensed_pivot_);
    for (int j = 0; j < n; j++)
      if (varies(j)) {
        const int row = plan.row_of_var[j];
        V a = A[plan.entry_of_var[j]];
        if (masked && row >= zero) a *= active[row];
        smallest = smaller(var_weight_[j], smallest);
        condense(j, a, var_weight_[j]);
      }
    masked_ = masked;
    if (masked) mask();
    return smaller(smallest, Factorization(plan, L_, inverse_).run(plan.prefix, int(plan.fronts.size())));
  }

  // Solve K_d [dx; dy] = [rx; ry] for NR right-hand sides.
  template <int NR>
  void solve(const V* const (&rx)[NR], const V* const (&ry)[NR], V* const (&dx)[NR], V* const (&dy)[NR]) {
    const Pattern& p = plan.pattern;
    V* t = t_;
    auto at = [&](int node, int e) -> V& { return t[std::size_t(plan.place[node]) * NR + e]; };
    for (int j = 0; j < n; j++)
      for (int e = 0; e < NR; e++) (plan.node_of_var[j] >= 0 ? at(plan.node_of_var[j], e) : dx[e][j]) = rx[e][j];
    for (int i = 0; i < m; i++) {
      const int j = plan.bound_of[i];
      for (int e = 0; e < NR; e++) {
        if (j < 0) at(plan.node_of_row[i], e) = ry[e][i];
        else (plan.node_of_var[j] >= 0 ? at(plan.node_of_var[j], e) : dx[e][j]) += A[p.A_ptr[i]] * bound_weight_[i] * ry[e][i];
      }
    }
    for (int j = 0; j < n; j++)
      if (plan.row_of_var[j] >= 0)
        for (int e = 0; e < NR; e++) at(plan.node_of_row[plan.row_of_var[j]], e) -= var_entry_[j] * var_weight_[j] * dx[e][j];
    const int fronts = int(plan.fronts.size());
    solve_lower<NR>(plan, L_, inverse_, t, 0, plan.prefix);
    if (masked_)
      for (int i = zero; i < m; i++)
        if (plan.node_of_row[i] >= 0)
          for (int e = 0; e < NR; e++) at(plan.node_of_row[i], e) *= active[i];
    solve_lower<NR>(plan, L_, inverse_, t, plan.prefix, fronts);
    solve_upper<NR>(plan, L_, inverse_, t, 0, fronts);
    for (int j = 0; j < n; j++)
      for (int e = 0; e < NR; e++)
        dx[e][j] = plan.node_of_var[j] >= 0
                       ? at(plan.node_of_var[j], e)
                       : var_weight_[j] * (dx[e][j] - var_entry_[j] * at(plan.node_of_row[plan.row_of_var[j]], e));
    for (int i = 0; i < m; i++) {
      const int j = plan.bound_of[i];
      for (int e = 0; e < NR; e++)
        dy[e][i] = j < 0 ? at(plan.node_of_row[i], e) : bound_weight_[i] * (A[p.A_ptr[i]] * dx[e][j] - ry[e][i]);
    }
  }
  void solve(const V* rx, const V* ry, V* dx, V* dy) { solve<1>({rx}, {ry}, {dx}, {dy}); }

  // Variables at active bounds, a x_j = b_i, are there to the last bit. Where a is 0 the row says nothing of x_j.
  void snap(const V* right_y, V* x, Mask lanes) const {
    for (int i = zero; i < m; i++)
      if (const int j = plan.bound_of[i]; j >= 0) {
        const V a = A[plan.pattern.A_ptr[i]];
        x[j] = select(lanes & (active[i] > 0.) & (a != 0.), right_y[i] / a, x[j]);
      }
  }

  // What the complementarity problem works on (see complementarity.h): the suffix by itself. c: the forward sweep of
  // [-q; b] through the prefix. base: the panels of -(M + d I). All vectors by position, from plan.prefix_columns on.
  void reduce(V* c) {
    restore();
    masked_ = false;
    V* t = t_;
    auto at = [&](int node) -> V& { return t[plan.place[node]]; };
    for (int j = 0; j < n; j++)
      if (plan.node_of_var[j] >= 0) at(plan.node_of_var[j]) = -q[j];
    for (int i = 0; i < m; i++) at(plan.node_of_row[i]) = b[i];
    for (int j = 0; j < n; j++)
      if (plan.row_of_var[j] >= 0) at(plan.node_of_row[plan.row_of_var[j]]) += var_entry_[j] * var_weight_[j] * q[j];
    solve_lower<1>(plan, L_, inverse_, t, 0, plan.prefix);
    std::memcpy(static_cast<void*>(c), t + plan.prefix_columns, (nodes - plan.prefix_columns) * sizeof(V));
  }

  // Factorize -(M + diag(W) + d I).
  void factorize_suffix(const V* W) {
    restore();
    for (int i = 0; i < nodes - plan.prefix_columns; i++) L_[plan.suffix_diagonal[i]] -= W[i];
    Factorization(plan, L_, inverse_).run(plan.prefix, int(plan.fronts.size()));
  }

  // r := -(M + diag(W) + d I)^-1 r. The entries of t_ for the prefix stay.
  void solve_suffix(V* r) {
    V* t = t_ + nodes;
    const std::size_t size = (nodes - plan.prefix_columns) * sizeof(V);
    std::memcpy(static_cast<void*>(t + plan.prefix_columns), r, size);
    solve_lower<1>(plan, L_, inverse_, t, plan.prefix, int(plan.fronts.size()));
    solve_upper<1>(plan, L_, inverse_, t, plan.prefix, int(plan.fronts.size()));
    std::memcpy(static_cast<void*>(r), t + plan.prefix_columns, size);
  }

  // out := M y.
  void multiply_suffix(const V* y, V* out) const {
    for (int i = 0; i < nodes - plan.prefix_columns; i++) out[i] = all(0);
    for (int f = plan.prefix; f < int(plan.fronts.size()); f++)
      for (int k = plan.fronts[f].begin; k < plan.fronts[f].end; k++) {
        const Panel& panel = plan.panels[k];
        const int w = panel.width, first = panel.first - plan.prefix_columns;
        const V* X = suffix_ + (panel.offset - plan.prefix_values);
        if (plan.fronts[f].diagonal) {
          for (int c = 0; c < w; c++) out[first + c] -= X[c] * y[first + c];
          X += w;
        } else {
          for (int i = 0; i < w; i++) {
            V sum = X[i * w + i] * y[first + i], yi = y[first + i];
            for (int c = 0; c < i; c++) sum += X[i * w + c] * y[first + c], out[first + c] -= X[i * w + c] * yi;
            out[first + i] -= sum;
          }
          X += std::size_t(w) * w;
        }
        for (int i = 0; i < panel.below; i++) {
          const int row = plan.row[panel.rows + i] - plan.prefix_columns;
          V sum = all(0), yi = y[row];
          const V* Xi = X + std::size_t(i) * w;
          for (int c = 0; c < w; c++) sum += Xi[c] * y[first + c], out[first + c] -= Xi[c] * yi;
          out[row] -= sum;
        }
      }
  }

  // x and the multipliers of all rows, from the multipliers y of the suffix; after `reduce`.
  void extend(const V* y, V* x, V* multipliers) {
    V* t = t_;
    std::memcpy(static_cast<void*>(t + plan.prefix_columns), y, (nodes - plan.prefix_columns) * sizeof(V));
    solve_upper<1>(plan, L_, inverse_, t, 0, plan.prefix);
    for (int i = 0; i < m; i++) multipliers[i] = t[plan.place[plan.node_of_row[i]]];
    for (int j = 0; j < n; j++)
      x[j] = plan.node_of_var[j] >= 0 ? t[plan.place[plan.node_of_var[j]]]
                                      : -var_weight_[j] * (q[j] + var_entry_[j] * multipliers[plan.row_of_var[j]]);
  }

 private:
  Lanes L_, suffix_, inverse_, t_, keep_, bound_weight_, var_weight_, var_entry_, column_, row_;
  V prefix_pivot_, condensed_pivot_, largest_P_, unit_;  // the second: of condensed variables that do not vary
  bool constant_ = false, masked_ = false;

  static V gentle(V size) { return select(size < 1e-12, all(1), smaller(larger(size, all(1e-4)), all(1e4))); }
  static V unit(V size) {
    return power_of_two(smaller(larger(1. / select(size > 0., size, all(1)), all(1e-15)), all(1e15)));
  }
  static V clipped(V x) { return smaller(larger(x, all(1e-4)), all(1e4)); }

  // Whether j is a condensed variable whose weight depends on W or on the activity.
  bool varies(int j) const { return plan.row_of_var[j] >= 0 && plan.varies[plan.node_of_row[plan.row_of_var[j]]]; }

  // Variable j, with the pivot `weight` and the entry a, into the diagonal of its row.
  void condense(int j, V a, V weight) {
    var_weight_[j] = 1. / weight, var_entry_[j] = a;
    L_[plan.diagonal[plan.node_of_row[plan.row_of_var[j]]]] -= a * a * var_weight_[j];
  }

  // K without W: the prefix factorized, the suffix as the prefix leaves it. Computed once, then copied.
  void restore() {
    V* suffix = L_ + plan.prefix_values;
    const std::size_t size = (plan.values - plan.prefix_values) * sizeof(V);
    if (constant_) {
      std::memcpy(static_cast<void*>(suffix), suffix_, size);
      return;
    }
    condensed_pivot_ = all(1e300);
    for (std::int64_t d : plan.zeros) L_[d] = all(0);
    for (std::int64_t d : plan.diagonal) L_[d] = all(0);
    for (std::size_t k = 0; k < plan.P_dest.size(); k++)
      if (plan.P_dest[k] >= 0) L_[plan.P_dest[k]] = P[k];
    for (std::size_t k = 0; k < plan.A_dest.size(); k++)
      if (plan.A_dest[k] >= 0) L_[plan.A_dest[k]] = A[k];
    for (int j = 0; j < n; j++)
      if (plan.node_of_var[j] >= 0) L_[plan.diagonal[plan.node_of_var[j]]] += REGULARIZATION;
    for (int i = 0; i < m; i++)
      if (plan.node_of_row[i] >= 0) L_[plan.diagonal[plan.node_of_row[i]]] -= REGULARIZATION;
    for (int j = 0; j < n; j++)
      if (plan.row_of_var[j] >= 0 && !varies(j)) {
        const V weight = P[plan.P_diagonal[j]] + REGULARIZATION;
        condensed_pivot_ = smaller(weight, condensed_pivot_);
        condense(j, A[plan.entry_of_var[j]], weight);
      }
    prefix_pivot_ = Factorization(plan, L_, inverse_).run(0, plan.prefix);
    std::memcpy(static_cast<void*>(suffix_), suffix, size);
    constant_ = true;
  }

  // Rows and columns that are not active become those of -I.
  void mask() {
    V* keep = keep_;
    for (int u = 0; u < nodes; u++) keep[u] = all(1);
    for (int i = zero; i < m; i++)
      if (plan.node_of_row[i] >= 0) keep[plan.place[plan.node_of_row[i]]] = active[i];
    for (int f = plan.prefix; f < int(plan.fronts.size()); f++)
      for (int k = plan.fronts[f].begin; k < plan.fronts[f].end; k++) {
        const Panel& panel = plan.panels[k];
        const int w = panel.width;
        const V* column = keep + panel.first;
        V* X = L_ + panel.offset;
        if (plan.fronts[f].diagonal) {
          for (int c = 0; c < w; c++) X[c] *= column[c];
          X += w;
        } else {
          for (int i = 0; i < w; i++)
            for (int c = 0; c <= i; c++) X[i * w + c] *= column[i] * column[c];
          X += std::size_t(w) * w;
        }
        for (int i = 0; i < panel.below; i++) {
          V row = keep[plan.row[panel.rows + i]];
          for (int c = 0; c < w; c++) X[std::size_t(i) * w + c] *= row * column[c];
        }
      }
    for (int i = zero; i < m; i++)
      if (plan.node_of_row[i] >= 0) L_[plan.diagonal[plan.node_of_row[i]]] -= 1. - active[i];
  }
};

}  // namespace
}  // namespace cvxlayers
