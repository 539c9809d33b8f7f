// A layer whose program is a QP in two calls: from its parameters to an accepted solution, and from cotangents back to the
// parameters. It is what `layer.py` does with NumPy, for batches so small that the calls of NumPy take longer than the work.
//
//     parameters theta  ->  blocks P, q, A, b (affine)  ->  x, y, s  ->  v = y - s,  y = proj(v)  ->  outputs (linear in x or y)
//
// Nothing is judged here. What is not plainly in order (a value that breaks what is declared of it, units other than one, a
// residual above the limits) is answered with NOT_HERE, and the general path starts from the beginning.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <vector>

#include "api.h"

namespace cvxlayers {
namespace {

using Index = std::int64_t;
enum Code { OK = 0, BAD_ARGUMENT = 1, NO_MEMORY = 4, NOT_HERE = 5 };
enum Block { P_BLOCK, Q_BLOCK, A_BLOCK, B_BLOCK, BLOCKS };

// What is known of a parameter. sign: +1 or -1 where no entry may have the other sign. order: of a square matrix whose
// `definite` (+1 or -1) multiple is positive semidefinite; 0 where nothing of the kind is declared.
struct Parameter {
  Index size, sign, order, definite;
};

// target[to[k]] += values[k] source[from[k]] for the entries [begin, end). target: a block, or BLOCKS + number of an output.
// source: a parameter, or for outputs 0 for x and 1 for y.
struct Term {
  Index target, source, begin, end;
};

// The constants of `residual.py` and `units.py`: |R| at which Newton stops, and from which on a step that brings nothing is the last
// one; how far an equation may be off, relative to its terms, and to the rounding of x and y; the least size of those; what
// counts as zero in v; the range of ordinary units.
struct Limits {
  double target, rounding, of_terms, of_rounding, smallest, nothing, unit;
};

struct Shortcut {
  Index n, m, zero, size[BLOCKS];
  int outputs;
  std::vector<Index> output_sizes;
  Limits limits;
  std::vector<Parameter> parameters;
  std::vector<Term> terms;
  std::vector<Index> to, from, P_row, P_col, A_row, A_col;
  std::vector<double> values, constant[BLOCKS];

  void add(const Term& t, const double* source, double* target) const {
    for (Index k = t.begin; k < t.end; k++) target[to[k]] += values[k] * source[from[k]];
  }
  void add_transposed(const Term& t, const double* target, double* source) const {
    for (Index k = t.begin; k < t.end; k++) source[from[k]] += values[k] * target[to[k]];
  }
};

bool inside(Index k, Index size) { return k >= 0 && k < size; }

double largest(const double* a, Index size) {
  double most = 0;
  for (Index k = 0; k < size; k++) most = std::max(most, std::fabs(a[k]));
  return most;
}

// Whether the Cholesky factorization of the symmetric part of `definite` M exists; work (order^2).
bool factorizes(const Parameter& p, const double* M, double* work) {
  const Index k = p.order;
  for (Index j = 0; j < k; j++)
    for (Index i = j; i < k; i++) {
      double sum = 0.5 * double(p.definite) * (M[i * k + j] + M[j * k + i]);
      for (Index l = 0; l < j; l++) sum -= work[i * k + l] * work[j * k + l];
      if (i == j && !(sum > 0)) return false;
      work[i * k + j] = i == j ? std::sqrt(sum) : sum / work[j * k + j];
    }
  return true;
}

bool in_order(const Parameter& p, const double* value, double* work) {
  bool good = true;
  for (Index k = 0; k < p.size; k++) good &= value[k] - value[k] == 0 && double(p.sign) * value[k] >= 0;
  return good && (!p.order || factorizes(p, value, work));
}

// The median of the entries that are not zero, 0 if there are none; work (size).
double median(const double* a, Index size, double* work) {
  double* end = work;
  for (Index k = 0; k < size; k++)
    if (a[k] != 0) *end++ = std::fabs(a[k]);
  if (end == work) return 0;
  std::nth_element(work, work + (end - work) / 2, end);
  return work[(end - work) / 2];
}

// Whether the units of an item with these data are one, where its q or b is not ordinary (`units.py`).
bool unit_is_one(const Shortcut& s, const double* P, const double* q, const double* b, double* work) {
  double beta = median(b, s.m, work), gamma = median(q, s.n, work);
  const double curvature = largest(P, s.size[P_BLOCK]), ratio = curvature > 0 ? curvature : 1;
  if (!(beta > 0)) beta = curvature > 0 && gamma > 0 ? gamma / ratio : 1;
  if (!(gamma > 0)) gamma = curvature > 0 ? ratio * beta : 1;
  const double high = s.limits.unit, low = 1 / high;
  return beta >= low && beta <= high && gamma >= low && gamma <= high;
}

bool ordinary(const Shortcut& s, const double* a, Index size) {
  const double most = largest(a, size);
  return most <= s.limits.unit && most >= 1 / s.limits.unit;
}

// The data of one item, and a point of it: the size of its residual, and whether every equation holds relative to its own terms.
struct Item {
  const double *P, *q, *A, *b;
};
struct Size {
  double relative;
  bool holds;
};

// The residual r (n + m) at (x, v) as in `residual.py`; work (4n + 4m).
Size residual(const Shortcut& s, const Item& item, const double* x, const double* v, double* r, double* work) {
  const Index n = s.n, m = s.m;
  const Limits& limits = s.limits;
  double *Px = work, *Ay = Px + n, *dual = Ay + n, *Ax = dual + n, *primal = Ax + m, *y = primal + m, *slack = y + m;
  std::fill(work, y, 0.0);
  for (Index i = 0; i < m; i++) y[i] = i < s.zero ? v[i] : std::max(v[i], 0.0), slack[i] = y[i] - v[i];
  const double x1 = std::max(largest(x, n), limits.smallest), y1 = std::max(largest(y, m), limits.smallest);
  // dual, primal: by how much each equation may be off
  auto allowed = [&](double a, double term, double most) {
    return std::fabs(a) * (limits.of_terms * std::fabs(term) + limits.of_rounding * most);
  };
  for (Index k = 0; k < s.size[P_BLOCK]; k++) {
    const Index i = s.P_row[k], j = s.P_col[k];
    Px[i] += item.P[k] * x[j], dual[i] += allowed(item.P[k], x[j], x1);
  }
  for (Index k = 0; k < s.size[A_BLOCK]; k++) {
    const Index i = s.A_row[k], j = s.A_col[k];
    const double a = item.A[k];
    Ax[i] += a * x[j], primal[i] += allowed(a, x[j], x1);
    Ay[j] += a * y[i], dual[j] += allowed(a, y[i], y1);
  }
  double error1 = 0, error2 = 0;
  bool holds = true;
  for (Index j = 0; j < n; j++) {
    r[j] = Px[j] + item.q[j] + Ay[j];
    error1 = std::max(error1, std::fabs(r[j])), holds &= std::fabs(r[j]) <= dual[j] + limits.of_terms * std::fabs(item.q[j]);
  }
  for (Index i = 0; i < m; i++) {
    r[n + i] = Ax[i] + slack[i] - item.b[i];
    error2 = std::max(error2, std::fabs(r[n + i]));
    holds &= std::fabs(r[n + i]) <= primal[i] + limits.of_terms * (std::fabs(item.b[i]) + slack[i]);
  }
  error1 /= 1 + std::max({largest(Px, n), largest(item.q, n), largest(Ay, n)});
  error2 /= 1 + std::max({largest(Ax, m), largest(slack, m), largest(item.b, m)});
  return {std::max(error1, error2), holds};
}

// Newton's method from (x, v), as in `residual.py`, where the point is a solution up to rounding: it stops at the target, or at
// the first step that brings nothing. Whether the point is accepted. work (8n + 8m).
bool refine(const Shortcut& s, void* plan, const char* build, const Item& item, double* x, double* v, double* work) {
  const Index n = s.n, m = s.m, N = n + m;
  double *r = work, *next = r + N, *step = next + N, *next_r = step + N;
  work = next_r + N;
  Size best = residual(s, item, x, v, r, work);
  while (best.relative > s.limits.target) {
    std::uint8_t rank;
    if (!(best.relative <= s.limits.rounding)) return false;
    for (Index k = 0; k < N; k++) next[k] = -r[k];
    if (cvxlayers_linear(plan, build, 1, 1, item.P, 0, item.A, 0, v, 0, nullptr, 0, 1, next, step, &rank) || rank != 1) return false;
    for (Index j = 0; j < n; j++) next[j] = x[j] + step[j];
    for (Index i = 0; i < m; i++) next[n + i] = v[i] + step[n + i] + r[n + i];  // dv = dy + r2 + A dx
    for (Index k = 0; k < s.size[A_BLOCK]; k++) next[n + s.A_row[k]] += item.A[k] * step[s.A_col[k]];
    const Size size = residual(s, item, next, next + n, next_r, work);
    if (!(size.relative < best.relative)) break;
    best = size, std::copy(next, next + n, x), std::copy(next + n, next + N, v), std::swap(r, next_r);
  }
  return best.holds;
}

// The calls of one batch: where its arrays are.
struct Forward {
  const Shortcut& s;
  Index batch;
  const double* const* theta;
  const std::int32_t* varies;  // by parameter: a row for each item, or one
  double* block[BLOCKS];
  Index rows[BLOCKS];

  bool parameters_in_order(double* work) const {
    for (std::size_t i = 0; i < s.parameters.size(); i++)
      for (Index b = 0; b < (varies[i] ? batch : 1); b++)
        if (!in_order(s.parameters[i], theta[i] + b * s.parameters[i].size, work)) return false;
    return true;
  }
  void assemble() {
    for (int k = 0; k < BLOCKS; k++)
      for (Index b = 0; b < rows[k]; b++) std::copy(s.constant[k].begin(), s.constant[k].end(), block[k] + b * s.size[k]);
    for (const Term& t : s.terms)
      if (t.target < BLOCKS)
        for (Index b = 0; b < rows[t.target]; b++)
          s.add(t, theta[t.source] + (varies[t.source] ? b * s.parameters[t.source].size : 0), block[t.target] + b * s.size[t.target]);
  }
  std::ptrdiff_t stride(int k) const { return rows[k] > 1 ? s.size[k] : 0; }
  const double* at(int k, Index b) const { return block[k] + b * stride(k); }
  bool units_are_one(double* work) const {
    bool all = true;
    for (Index b = 0; b < batch && all; b++) all = ordinary(s, at(Q_BLOCK, b), s.n) && ordinary(s, at(B_BLOCK, b), s.m);
    for (Index b = 0; b < batch && !all; b++)
      if (!unit_is_one(s, at(P_BLOCK, b), at(Q_BLOCK, b), at(B_BLOCK, b), work)) return false;
    return true;
  }
};

std::unique_ptr<double[]> numbers(Index count) { return std::unique_ptr<double[]>(new (std::nothrow) double[std::size_t(count) + 1]); }

}  // namespace
}  // namespace cvxlayers

using namespace cvxlayers;

// The pattern of the program: P with both triangles, A, in the order of their values. constants: of P, q, A and b, one after the
// other. parameters: `Parameter`s; terms: `Term`s; to, from, values: their entries. limits: `Limits`.
EXPORT int cvxlayers_shortcut(Index n, Index m, Index zero, Index nP, const Index* P_row, const Index* P_col, Index nA, const Index* A_row,
                              const Index* A_col, const double* constants, int parameters, const Index* parameter, int outputs,
                              const Index* output_sizes, int terms, const Index* term, Index entries, const Index* to,
                              const Index* from, const double* values, const double* limits, void** out) {
  if (!out || n < 1 || m < 0 || zero < 0 || zero > m || nP < 0 || nA < 0) return BAD_ARGUMENT;
  if (parameters < 0 || outputs < 0 || terms < 0 || entries < 0) return BAD_ARGUMENT;
  *out = nullptr;
  try {
    auto made = std::make_unique<Shortcut>();
    Shortcut& s = *made;
    s.n = n, s.m = m, s.zero = zero, s.outputs = outputs;
    const Index sizes[BLOCKS] = {nP, n, nA, m};
    for (int k = 0; k < BLOCKS; constants += s.size[k++]) s.size[k] = sizes[k], s.constant[k].assign(constants, constants + sizes[k]);
    s.P_row.assign(P_row, P_row + nP), s.P_col.assign(P_col, P_col + nP);
    s.A_row.assign(A_row, A_row + nA), s.A_col.assign(A_col, A_col + nA);
    for (Index k = 0; k < nP; k++)
      if (!inside(P_row[k], n) || !inside(P_col[k], n)) return BAD_ARGUMENT;
    for (Index k = 0; k < nA; k++)
      if (!inside(A_row[k], m) || !inside(A_col[k], n)) return BAD_ARGUMENT;
    for (int i = 0; i < parameters; i++, parameter += 4) {
      s.parameters.push_back({parameter[0], parameter[1], parameter[2], parameter[3]});
      const Parameter& p = s.parameters.back();
      if (p.size < 0 || p.order < 0 || (p.order && p.order * p.order != p.size)) return BAD_ARGUMENT;
    }
    s.to.assign(to, to + entries), s.from.assign(from, from + entries), s.values.assign(values, values + entries);
    for (int i = 0; i < terms; i++, term += 4) {
      const Term t{term[0], term[1], term[2], term[3]};
      const bool is_output = t.target >= BLOCKS;
      if (!inside(t.target, BLOCKS + outputs) || !inside(t.source, is_output ? 2 : parameters)) return BAD_ARGUMENT;
      if (t.begin < 0 || t.end < t.begin || t.end > entries) return BAD_ARGUMENT;
      const Index target = is_output ? output_sizes[t.target - BLOCKS] : s.size[t.target];
      const Index source = is_output ? (t.source ? m : n) : s.parameters[t.source].size;
      for (Index k = t.begin; k < t.end; k++)
        if (!inside(to[k], target) || !inside(from[k], source)) return BAD_ARGUMENT;
      s.terms.push_back(t);
    }
    s.output_sizes.assign(output_sizes, output_sizes + outputs);
    s.limits = {limits[0], limits[1], limits[2], limits[3], limits[4], limits[5], limits[6]};
    *out = made.release();
    return OK;
  } catch (const std::bad_alloc&) {
    return NO_MEMORY;
  }
}

EXPORT void cvxlayers_shortcut_free(void* shortcut) { delete static_cast<Shortcut*>(shortcut); }

// Solve a batch, with the plan of the same pattern. theta: the values of each parameter, for each item or (varies 0) for all. P and
// A: P_rows and A_rows are 1 where no parameter in them varies, else `batch`. state (batch, state_size): x, v, y, and ones to the end.
EXPORT int cvxlayers_shortcut_forward(const void* shortcut, void* plan, const char* build, int threads, std::ptrdiff_t batch,
                                      int max_iterations, const double* const* theta, const std::int32_t* varies, double* P,
                                      std::ptrdiff_t P_rows, double* A, std::ptrdiff_t A_rows, double* state, std::ptrdiff_t state_size,
                                      double* const* outputs) {
  if (!shortcut || batch < 1) return BAD_ARGUMENT;
  const Shortcut& s = *static_cast<const Shortcut*>(shortcut);
  const Index n = s.n, m = s.m;
  if (state_size < n + 2 * m) return BAD_ARGUMENT;
  Index rows[BLOCKS] = {1, 1, 1, 1};
  for (const Term& t : s.terms)
    if (t.target < BLOCKS && varies[t.source]) rows[t.target] = batch;
  if (rows[P_BLOCK] != P_rows || rows[A_BLOCK] != A_rows) return BAD_ARGUMENT;
  Index scratch = 8 * (n + m);
  for (const Parameter& p : s.parameters) scratch = std::max(scratch, p.order * p.order);
  auto memory = numbers(rows[Q_BLOCK] * n + rows[B_BLOCK] * m + batch * (n + 2 * m) + scratch);
  std::unique_ptr<std::int32_t[]> words(new (std::nothrow) std::int32_t[2 * std::size_t(batch)]);
  if (!memory || !words) return NO_MEMORY;
  double *q = memory.get(), *b = q + rows[Q_BLOCK] * n, *x = b + rows[B_BLOCK] * m, *y = x + batch * n, *slack = y + batch * m;
  double* work = slack + batch * m;
  std::int32_t* status = words.get();
  Forward call{s, batch, theta, varies, {P, q, A, b}, {rows[0], rows[1], rows[2], rows[3]}};
  if (!call.parameters_in_order(work)) return NOT_HERE;
  call.assemble();
  if (!call.units_are_one(work)) return NOT_HERE;
  if (int code = cvxlayers_solve(plan, build, threads, batch, P, call.stride(P_BLOCK), A, call.stride(A_BLOCK), q, call.stride(Q_BLOCK), b,
                                 call.stride(B_BLOCK), max_iterations, x, y, slack, status, status + batch))
    return code;
  for (Index i = 0; i < batch; i++) {
    double *to = state + i * state_size, *v = to + n, *dual = v + m;
    std::copy(x + i * n, x + (i + 1) * n, to);
    for (Index k = 0; k < m; k++) v[k] = y[i * m + k] - slack[i * m + k];
    const Item item{call.at(P_BLOCK, i), call.at(Q_BLOCK, i), call.at(A_BLOCK, i), call.at(B_BLOCK, i)};
    if (status[i] != 0 || !refine(s, plan, build, item, to, v, work)) return NOT_HERE;
    for (Index k = 0; k < m; k++) {
      dual[k] = k < s.zero ? v[k] : std::max(v[k], 0.0);
      if (std::fabs(v[k]) < s.limits.nothing) v[k] = 0;
    }
    std::fill(dual + m, to + state_size, 1.0);
    for (int k = 0; k < s.outputs; k++) std::fill_n(outputs[k] + i * s.output_sizes[k], s.output_sizes[k], 0.0);
    for (const Term& t : s.terms)
      if (t.target >= BLOCKS) s.add(t, t.source ? dual : to, outputs[t.target - BLOCKS] + i * s.output_sizes[t.target - BLOCKS]);
  }
  return OK;
}

// The cotangents of the parameters, (batch, size) each, for those of the outputs, one for each item or (varies 0) for all.
EXPORT int cvxlayers_shortcut_vjp(const void* shortcut, void* plan, const char* build, int threads, std::ptrdiff_t batch, const double* P,
                                  std::ptrdiff_t P_rows, const double* A, std::ptrdiff_t A_rows, const double* state,
                                  std::ptrdiff_t state_size, const double* const* cotangents, const std::int32_t* varies,
                                  double* const* gradients) {
  if (!shortcut || batch < 1) return BAD_ARGUMENT;
  const Shortcut& s = *static_cast<const Shortcut*>(shortcut);
  const Index n = s.n, m = s.m, N = n + m;
  if (state_size < n + 2 * m || (P_rows != 1 && P_rows != batch) || (A_rows != 1 && A_rows != batch)) return BAD_ARGUMENT;
  for (Index i = 0; i < batch; i++)
    for (Index k = n + 2 * m; k < state_size; k++)
      if (state[i * state_size + k] != 1) return NOT_HERE;
  auto memory = numbers(2 * batch * N);
  std::unique_ptr<std::uint8_t[]> rank(new (std::nothrow) std::uint8_t[std::size_t(batch)]);
  if (!memory || !rank) return NO_MEMORY;
  double *right = memory.get(), *solved = right + batch * N;
  std::fill(right, right + batch * N, 0.0);
  for (Index i = 0; i < batch; i++) {
    for (const Term& t : s.terms)
      if (t.target >= BLOCKS) {
        const Index k = t.target - BLOCKS;
        s.add_transposed(t, cotangents[k] + (varies[k] ? i * s.output_sizes[k] : 0), right + i * N + (t.source ? n : 0));
      }
    for (Index k = 0; k < N; k++) right[i * N + k] = -right[i * N + k];
  }
  const std::ptrdiff_t P_stride = P_rows > 1 ? s.size[P_BLOCK] : 0, A_stride = A_rows > 1 ? s.size[A_BLOCK] : 0;
  if (int code = cvxlayers_linear(plan, build, threads, batch, P, P_stride, A, A_stride, state + n, state_size, nullptr, 0, 1, right,
                                  solved, rank.get()))
    return code;
  for (Index i = 0; i < batch; i++)
    if (rank[i] != 1 && rank[i] != 2) return NOT_HERE;  // REGULAR, SINGULAR: of least norm
  for (std::size_t p = 0; p < s.parameters.size(); p++) std::fill_n(gradients[p], batch * s.parameters[p].size, 0.0);
  for (Index i = 0; i < batch; i++) {
    const double *x = state + i * state_size, *y = x + n + m, *wx = solved + i * N, *wy = wx + n;
    for (const Term& t : s.terms) {
      if (t.target >= BLOCKS) continue;
      double* g = gradients[t.source] + i * s.parameters[t.source].size;
      const Index *to = s.to.data(), *from = s.from.data();
      const double* values = s.values.data();
      for (Index k = t.begin; k < t.end; k++) {
        const Index e = to[k];
        double slope;
        if (t.target == P_BLOCK) slope = 0.5 * (wx[s.P_row[e]] * x[s.P_col[e]] + x[s.P_row[e]] * wx[s.P_col[e]]);
        else if (t.target == A_BLOCK) slope = y[s.A_row[e]] * wx[s.A_col[e]] + wy[s.A_row[e]] * x[s.A_col[e]];
        else slope = t.target == Q_BLOCK ? wx[e] : -wy[e];
        g[from[k]] += values[k] * slope;
      }
    }
  }
  return OK;
}
