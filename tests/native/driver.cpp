// Calls of the engine's C interface from C++, for the sanitizers (`make sanitize`) and for machines without Python: all builds,
// patterns of many kinds, batches with numbers that are not finite, malformed arguments, several threads, a fork.
//
// Exits with 0 if every answer has the code that is expected, and every solution satisfies the conditions of optimality.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <random>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

extern "C" {
int cvxlayers_builds(char* out, int size);
int cvxlayers_plan(int n, int m, int zero, int nP, const std::int32_t* P_row, const std::int32_t* P_col, const std::int32_t* P_index,
                   int P_values, int nA, const std::int32_t* A_ptr, const std::int32_t* A_col, int weighted, void** out);
void cvxlayers_free(void* handle);
int cvxlayers_describe(const void* handle, double* out);
int cvxlayers_solve(void* handle, const char* build, int threads, std::ptrdiff_t batch, const double* P, std::ptrdiff_t P_stride,
                    const double* A, std::ptrdiff_t A_stride, const double* q, std::ptrdiff_t q_stride, const double* b,
                    std::ptrdiff_t b_stride, int max_iterations, double* x, double* y, double* s, std::int32_t* status,
                    std::int32_t* iterations);
int cvxlayers_linear(void* handle, const char* build, int threads, std::ptrdiff_t batch, const double* P, std::ptrdiff_t P_stride,
                     const double* A, std::ptrdiff_t A_stride, const double* v, std::ptrdiff_t v_stride, const double* weights,
                     std::ptrdiff_t weights_stride, std::ptrdiff_t columns, const double* right, double* out, std::uint8_t* rank);
void cvxlayers_multiply(int threads, std::ptrdiff_t batch, std::ptrdiff_t rows, const std::int64_t* indptr, const std::int64_t* columns,
                        const double* values, std::ptrdiff_t values_stride, const double* x, std::ptrdiff_t x_stride, double* out);
void cvxlayers_multiply_transposed(int threads, std::ptrdiff_t batch, std::ptrdiff_t rows, std::ptrdiff_t width,
                                   const std::int64_t* indptr, const std::int64_t* columns, const double* values,
                                   std::ptrdiff_t values_stride, const double* y, std::ptrdiff_t y_stride, double* out);
void cvxlayers_outer(int threads, std::ptrdiff_t batch, std::ptrdiff_t entries, const std::int64_t* rows, const std::int64_t* columns,
                     double scale, const double* a, std::ptrdiff_t a_stride, const double* p, std::ptrdiff_t p_stride, const double* c,
                     std::ptrdiff_t c_stride, const double* d, std::ptrdiff_t d_stride, double* out);
void cvxlayers_outer_map(int threads, std::ptrdiff_t batch, std::ptrdiff_t entries, const std::int64_t* to, const std::int64_t* rows,
                         const std::int64_t* columns, const double* values, double scale, const double* a, std::ptrdiff_t a_stride,
                         const double* p, std::ptrdiff_t p_stride, const double* c, std::ptrdiff_t c_stride, const double* d,
                         std::ptrdiff_t d_stride, double* out, std::ptrdiff_t out_stride);
void cvxlayers_map(int threads, std::ptrdiff_t batch, std::ptrdiff_t entries, const std::int64_t* to, const std::int64_t* from,
                   const double* values, const double* x, std::ptrdiff_t x_stride, double* out, std::ptrdiff_t out_stride);
void cvxlayers_largest(int threads, std::ptrdiff_t batch, std::ptrdiff_t rows, std::ptrdiff_t width, const std::int64_t* indptr,
                       const std::int64_t* columns, const double* values, std::ptrdiff_t values_stride, double* by_row,
                       double* by_column);
void cvxlayers_turn(int threads, std::ptrdiff_t batch, int kind, std::ptrdiff_t count, std::ptrdiff_t dim, std::ptrdiff_t width,
                    const std::int64_t* gather, const std::uint8_t* kept, double noise, double row_noise, const double* A,
                    std::ptrdiff_t A_stride, const double* turn, std::ptrdiff_t turn_stride, const double* root,
                    std::ptrdiff_t root_stride, double* out, std::ptrdiff_t out_stride);
int cvxlayers_rows(const char* build, const void* call);
}

namespace {

std::mt19937 engine(0);
double uniform() { return std::uniform_real_distribution<double>(-1, 1)(engine); }
bool chance(double p) { return uniform() < 2 * p - 1; }

long failures = 0, solved = 0, problems = 0;
void check(bool fine, const char* what, int line) {
  if (!fine) std::fprintf(stderr, "line %d: %s\n", line, what), failures++;
}
#define CHECK(x) check((x), #x, __LINE__)

struct Pattern {
  int n, m, zero;
  std::vector<std::int32_t> P_row, P_col, P_index, A_ptr{0}, A_col;
  int weighted = 0;
  int make(void** out) const {
    return cvxlayers_plan(n, m, zero, int(P_row.size()), P_row.data(), P_col.data(), P_index.data(), int(P_row.size()),
                          int(A_col.size()), A_ptr.data(), A_col.data(), weighted, out);
  }
};

// density of P and of A; bounds: one entry in each inequality row; auxiliary: P is the identity of the last variables, which
// are in one equality row each.
Pattern pattern(int n, int m, int zero, double P, double A, bool bounds = false, bool auxiliary = false) {
  Pattern p{n, m, zero, {}, {}, {}, {0}, {}};
  for (int i = 0; i < n; i++)
    for (int j = i; j < n; j++)
      if (auxiliary ? i == j && i >= n - zero : i == j ? P > 0 : chance(P)) p.P_row.push_back(i), p.P_col.push_back(j);
  for (std::size_t k = 0; k < p.P_row.size(); k++) p.P_index.push_back(std::int32_t(p.P_row.size() - 1 - k));
  for (int i = 0; i < m; i++) {
    for (int j = 0; j < n; j++) {
      const bool last = auxiliary && j >= n - zero;
      if (bounds && i >= zero ? j == (i - zero) % n : last ? j - (n - zero) == i : chance(A)) p.A_col.push_back(j);
    }
    p.A_ptr.push_back(std::int32_t(p.A_col.size()));
  }
  return p;
}

struct Batch {
  int count;
  std::vector<double> P, A, q, b;
};

// Problems with a solution; every fifth has a number that is not finite, or an overflow; every seventh is nothing but noise.
Batch batch(const Pattern& p, int count) {
  Batch data{count, {}, {}, {}, {}};
  const std::size_t nP = p.P_row.size();
  for (int l = 0; l < count; l++) {
    std::vector<double> P(nP), A(p.A_col.size()), x(p.n), q(p.n), b(p.m), diagonal(p.n, 0.01);
    for (double& a : A) a = uniform();
    for (double& a : x) a = uniform();
    for (std::size_t k = 0; k < nP; k++)
      if (p.P_row[k] != p.P_col[k]) {
        double v = P[p.P_index[k]] = uniform();
        q[p.P_row[k]] -= v * x[p.P_col[k]], q[p.P_col[k]] -= v * x[p.P_row[k]];
        diagonal[p.P_row[k]] += std::fabs(v), diagonal[p.P_col[k]] += std::fabs(v);
      }
    for (std::size_t k = 0; k < nP; k++)
      if (p.P_row[k] == p.P_col[k]) P[p.P_index[k]] = diagonal[p.P_row[k]], q[p.P_row[k]] -= diagonal[p.P_row[k]] * x[p.P_row[k]];
    for (int i = 0; i < p.m; i++) {
      const bool active = i < p.zero || chance(0.3);
      const double y = i < p.zero ? uniform() : active ? std::fabs(uniform()) : 0;
      b[i] = active ? 0 : std::fabs(uniform());
      for (int k = p.A_ptr[i]; k < p.A_ptr[i + 1]; k++) b[i] += A[k] * x[p.A_col[k]], q[p.A_col[k]] -= A[k] * y;
    }
    const double odd[] = {std::nan(""), std::numeric_limits<double>::infinity(), 1e300, 0, -1e-320};
    if (l % 5 == 4)
      for (auto* a : {&P, &A, &q, &b})
        if (!a->empty() && chance(0.5)) (*a)[engine() % a->size()] = odd[engine() % 5];
    if (l % 7 == 6)
      for (auto* a : {&A, &q, &b})
        for (double& v : *a) v = uniform();
    data.P.insert(data.P.end(), P.begin(), P.end()), data.A.insert(data.A.end(), A.begin(), A.end());
    data.q.insert(data.q.end(), q.begin(), q.end()), data.b.insert(data.b.end(), b.begin(), b.end());
  }
  return data;
}

// The violation of the conditions of optimality by item l, relative to the terms of the sums.
double violation(const Pattern& p, const Batch& d, const std::vector<double>& x, const std::vector<double>& y,
                 const std::vector<double>& s, int l) {
  const double *P = d.P.data() + l * p.P_row.size(), *A = d.A.data() + l * p.A_col.size(), *q = d.q.data() + l * p.n;
  const double *b = d.b.data() + l * p.m, *xl = x.data() + l * p.n, *yl = y.data() + l * p.m, *sl = s.data() + l * p.m;
  std::vector<double> Px(p.n), Ay(p.n), Ax(p.m);
  for (std::size_t k = 0; k < p.P_row.size(); k++) {
    Px[p.P_row[k]] += P[p.P_index[k]] * xl[p.P_col[k]];
    if (p.P_row[k] != p.P_col[k]) Px[p.P_col[k]] += P[p.P_index[k]] * xl[p.P_row[k]];
  }
  for (int i = 0; i < p.m; i++)
    for (int k = p.A_ptr[i]; k < p.A_ptr[i + 1]; k++) Ax[i] += A[k] * xl[p.A_col[k]], Ay[p.A_col[k]] += A[k] * yl[i];
  double dual = 1, primal = 1, worst = 0;
  auto note = [&](double v) { worst = std::isfinite(v) ? std::max(worst, v) : 1e300; };
  for (int j = 0; j < p.n; j++) dual = std::max({dual, std::fabs(Px[j]), std::fabs(q[j]), std::fabs(Ay[j])});
  for (int i = 0; i < p.m; i++) primal = std::max({primal, std::fabs(Ax[i]), std::fabs(b[i]), std::fabs(sl[i])});
  for (int j = 0; j < p.n; j++) note(std::fabs(Px[j] + q[j] + Ay[j]) / dual);
  for (int i = 0; i < p.m; i++) {
    note(std::fabs(Ax[i] + sl[i] - b[i]) / primal);
    if (i < p.zero) note(std::fabs(sl[i]));
    else note(-sl[i]), note(-yl[i]), note(std::min(sl[i] / primal, yl[i] / dual));
  }
  return worst;
}

void use(const Pattern& p, void* handle, const char* build, int count, int threads, int columns, bool quiet = false) {
  const Batch d = batch(p, count);
  const std::ptrdiff_t nP = p.P_row.size(), nA = p.A_col.size(), n = p.n, m = p.m;
  std::vector<double> x(count * n), y(count * m), s(count * m), v(count * m);
  std::vector<std::int32_t> status(count), iterations(count);
  for (int shared = 0; shared < 2; shared++) {
    CHECK(!cvxlayers_solve(handle, build, threads, count, d.P.data(), shared ? 0 : nP, d.A.data(), shared ? 0 : nA, d.q.data(), n,
                           d.b.data(), m, 60, x.data(), y.data(), s.data(), status.data(), iterations.data()));
    for (int l = 0; l < count && !shared; l++) {
      CHECK(status[l] >= 0 && status[l] <= 4);
      if (!quiet) problems++, solved += status[l] == 0;
      if (status[l] == 0) CHECK(violation(p, d, x, y, s, l) <= 1e-10);
    }
    for (std::ptrdiff_t k = 0; k < count * m; k++) v[k] = chance(0.5) ? uniform() : y[k] - s[k];
    std::vector<double> right(count * columns * (n + m)), out(right.size());
    std::vector<std::uint8_t> rank(count);
    for (double& r : right) r = uniform();
    CHECK(!cvxlayers_linear(handle, build, threads, count, d.P.data(), shared ? 0 : nP, d.A.data(), shared ? 0 : nA, v.data(), m,
                            nullptr, 0, columns, right.data(), out.data(), rank.data()));
  }
}

// Rows with weights, some of them zero, in place of equalities and active inequalities.
void use_weighted(Pattern p) {
  p.zero = 0, p.weighted = 1;
  void* handle = nullptr;
  CHECK(!p.make(&handle));
  for (int count : {1, 5, 11}) {
    const Batch d = batch(p, count);
    std::vector<double> weights(count * p.m), right(count * 3 * (p.n + p.m)), out(right.size());
    std::vector<std::uint8_t> rank(count);
    for (double& w : weights) w = chance(0.5) ? std::fabs(uniform()) : 0;
    for (double& r : right) r = uniform();
    CHECK(!cvxlayers_linear(handle, "", 2, count, d.P.data(), p.P_row.size(), d.A.data(), p.A_col.size(), weights.data(), p.m,
                            weights.data(), p.m, 3, right.data(), out.data(), rank.data()));
    CHECK(p.m == 0 || cvxlayers_linear(handle, "", 2, count, d.P.data(), p.P_row.size(), d.A.data(), p.A_col.size(), weights.data(),
                                       p.m, nullptr, 0, 3, right.data(), out.data(), rank.data()) == 1);
  }
  cvxlayers_free(handle);
}

// Products on the pattern of A, of a batch and of shared values.
void products(const Pattern& p) {
  const std::vector<std::int64_t> ptr(p.A_ptr.begin(), p.A_ptr.end()), columns(p.A_col.begin(), p.A_col.end());
  const std::ptrdiff_t B = 7, n = p.n, m = p.m, size = std::ptrdiff_t(columns.size());
  std::vector<std::int64_t> rows(size), entry(size);
  for (std::ptrdiff_t i = 0; i < m; i++)
    for (std::int64_t k = ptr[i]; k < ptr[i + 1]; k++) rows[k] = i, entry[k] = k;
  std::vector<double> A(B * size), x(B * n), y(B * m), u(B * n), w(B * m), Ax(B * m), Ay(B * n), outer(B * size), mapped(B * size);
  for (auto* v : {&A, &x, &y, &u, &w})
    for (double& a : *v) a = uniform();
  const std::vector<double> ones(size, 1.0);
  for (std::ptrdiff_t stride : {size, std::ptrdiff_t(0)}) {
    cvxlayers_multiply(2, B, m, ptr.data(), columns.data(), A.data(), stride, x.data(), n, Ax.data());
    cvxlayers_multiply_transposed(2, B, m, n, ptr.data(), columns.data(), A.data(), stride, y.data(), m, Ay.data());
    double left = 0, right = 0;
    for (std::ptrdiff_t k = 0; k < B * m; k++) left += Ax[k] * y[k];
    for (std::ptrdiff_t k = 0; k < B * n; k++) right += Ay[k] * x[k];
    CHECK(std::fabs(left - right) <= 1e-11 * (1 + std::fabs(left)));
    cvxlayers_largest(2, B, m, n, ptr.data(), columns.data(), A.data(), stride, Ax.data(), Ay.data());
  }
  cvxlayers_outer(2, B, size, rows.data(), columns.data(), 0.5, y.data(), m, x.data(), n, w.data(), m, u.data(), n, outer.data());
  cvxlayers_outer_map(2, B, size, entry.data(), rows.data(), columns.data(), ones.data(), 0.5, y.data(), m, x.data(), n, w.data(), m,
                      u.data(), n, mapped.data(), size);
  for (std::ptrdiff_t k = 0; k < B * size; k++) CHECK(std::fabs(outer[k] - mapped[k]) <= 1e-14);
  cvxlayers_map(2, B, size, entry.data(), entry.data(), ones.data(), A.data(), size, mapped.data(), size);
  for (std::ptrdiff_t k = 0; k < B * size; k++) CHECK(std::fabs(outer[k] + A[k] - mapped[k]) <= 1e-14);
}

// Cones in their own coordinates: U = I turned by both kinds, whose first is exact and whose second is orthogonal.
void turns(std::ptrdiff_t count, std::ptrdiff_t dim, std::ptrdiff_t width) {
  const std::ptrdiff_t B = 5, size = count * dim * width;
  std::vector<double> A(B * size), root(B * count * dim, 1.0), U(B * count * dim * dim), h(B * count * dim), out(B * size);
  std::vector<std::int64_t> gather(size);
  const std::vector<std::uint8_t> kept(size, 1);
  for (std::ptrdiff_t k = 0; k < size; k++) gather[k] = k;
  for (double& a : A) a = uniform();
  for (std::ptrdiff_t k = 0; k < B * count; k++) {
    for (std::ptrdiff_t i = 0; i < dim; i++) U[(k * dim + i) * dim + i] = 1;
    h[k * dim] = h[k * dim + 1] = 1;  // the sign, and h = e1
  }
  for (int kind = 0; kind < 2; kind++) {
    const std::vector<double>& turn = kind ? h : U;
    const std::ptrdiff_t stride = std::ptrdiff_t(turn.size()) / B;
    cvxlayers_turn(2, B, kind, count, dim, width, gather.data(), kept.data(), 0, 0, A.data(), size, turn.data(), stride, root.data(),
                   count * dim, out.data(), size);
    double before = 0, after = 0;
    for (std::ptrdiff_t k = 0; k < B * size; k++) before += A[k] * A[k], after += out[k] * out[k];
    CHECK(std::fabs(before - after) <= 1e-12 * before);
    for (std::ptrdiff_t k = 0; kind == 0 && k < B * size; k++) CHECK(out[k] == A[k]);
  }
}

// Maps of rows on exact buffers: sums are right, and the derivative of a sum that is given is none.
template <class T>
void rows(const char* build, std::ptrdiff_t n) {
  const std::ptrdiff_t B = 6;
  std::vector<T> x(B * n), u(B * n), total(1, T(n / 2.0)), one(1, 1), y(B * n), state(B * n), dx(B * n), du(B * n), dr(B), dt(B);
  for (std::ptrdiff_t k = 0; k < B * n; k++) x[k] = T(uniform() * (k / n == 1 ? 1000 : 2)), u[k] = T(0.9 + 0.1 * uniform());
  const auto at = [](const std::vector<T>& v) { return std::int64_t(v.data()); };
  struct Input {
    std::int64_t at, stride, step;
  };
  const auto call = [&](int kernel, Input a, Input b, Input c, std::vector<std::int64_t> out) {
    const std::int64_t words[] = {kernel, sizeof(T) == 4, 3, B, n, a.at, a.stride, a.step, b.at, b.stride, b.step, c.at, c.stride, c.step, out[0], out[1], out[2]};
    return cvxlayers_rows(build, words);
  };
  const auto sums = [&](double expected) {
    for (std::ptrdiff_t i = 0; i < B; i++) {
      double s = 0, g = 0;
      for (std::ptrdiff_t j = 0; j < n; j++) s += y[i * n + j], g += dx[i * n + j];
      CHECK(std::fabs(s - expected) <= 1e-4 * (1 + expected) && std::fabs(g) <= 1e-3);
    }
  };
  const Input of_x{at(x), n, 1}, of_u{at(u), n, 1}, of_state{at(state), n, 1}, number{at(total), 0, 0}, ones{at(one), 0, 0}, none{0, 0, 0};
  if (n > 1) {
    CHECK(!call(0, of_x, of_u, number, {at(y), at(state), 0}) && !call(1, of_state, of_x, none, {at(dx), at(du), at(dr)})), sums(n / 2.0);
    CHECK(!call(4, of_x, of_u, none, {at(y), at(state), 0}) && !call(5, of_state, of_x, none, {at(dx), at(du), 0}));
  }
  CHECK(!call(0, of_x, none, ones, {at(y), at(state), 0}) && !call(1, of_state, ones, none, {at(dx), 0, at(dr)})), sums(1);
  CHECK(!call(2, of_x, number, ones, {at(y), at(state), 0}) && !call(3, of_state, ones, of_x, {at(dx), at(dr), at(dt)})), sums(n / 2.0);
  total[0] = T(n + 1), x[0] = std::numeric_limits<T>::quiet_NaN();
  CHECK(call(2, of_x, number, ones, {at(y), at(state), 0}) == B - 1 && y[0] != y[0] && call(0, of_x, of_u, number, {at(y), at(state), 0}) == B - 1);
  CHECK(call(6, of_x, number, ones, {at(y), at(state), 0}) == -1 && call(2, none, number, ones, {at(y), at(state), 0}) == -1);
  CHECK(cvxlayers_rows("none", x.data()) == -1 && cvxlayers_rows("", nullptr) == -1);
}

// One entry of a good pattern becomes a bad one.
void malformed(const Pattern& good) {
  const std::int32_t bad[] = {-1, INT32_MIN, INT32_MAX, good.n, good.n + 1};
  for (std::int32_t value : bad)
    for (int which = 0; which < 4; which++) {
      Pattern p = good;
      std::vector<std::int32_t>* arrays[] = {&p.P_row, &p.P_col, &p.A_col, &p.A_ptr};
      auto& a = *arrays[which];
      if (a.empty() || (which == 3 && value >= 0 && value <= a.back())) continue;
      a[engine() % a.size()] = value;
      void* handle = &p;
      CHECK(p.make(&handle) == 2 && !handle);
    }
  void* handle = nullptr;
  for (int n : {0, -1, INT32_MIN}) {
    Pattern p = good;
    p.n = n;
    CHECK(p.make(&handle) == 1);
  }
  for (int n : {INT32_MAX, 1 << 21}) {
    Pattern p = good;
    p.n = n;
    CHECK(p.make(&handle) == 3);
  }
  Pattern p = good;
  p.zero = p.m + 1;
  CHECK(p.make(&handle) == 1 && p.make(nullptr) == 1);
}

void malformed_calls(const Pattern& p, void* handle) {
  const std::ptrdiff_t n = p.n, m = p.m;
  std::vector<double> a(64 * (p.P_row.size() + p.A_col.size() + n + m) + 1);
  std::vector<std::int32_t> i(64);
  auto solve = [&](void* h, const char* build, int threads, std::ptrdiff_t count, const double* q, std::ptrdiff_t stride, int steps, double* x) {
    return cvxlayers_solve(h, build, threads, count, a.data(), 0, a.data(), 0, q, stride, a.data(), 0, steps, x, a.data(), a.data(), i.data(), i.data());
  };
  CHECK(solve(nullptr, "", 1, 1, a.data(), 0, 60, a.data()) == 1);
  CHECK(solve(handle, "none", 1, 1, a.data(), 0, 60, a.data()) == 1);
  CHECK(solve(handle, "", 0, 1, a.data(), 0, 60, a.data()) == 1);
  CHECK(solve(handle, "", 1, -1, a.data(), 0, 60, a.data()) == 1);
  CHECK(solve(handle, "", 1, 1, nullptr, 0, 60, a.data()) == 1);
  CHECK(solve(handle, "", 1, 2, a.data(), -n, 60, a.data()) == 1);
  CHECK(solve(handle, "", 1, 2, a.data(), n - 1, 60, a.data()) == (n > 1));
  CHECK(solve(handle, "", 1, 1, a.data(), 0, -1, a.data()) == 1);
  CHECK(solve(handle, "", 1, 1, a.data(), 0, 60, nullptr) == 1);
  CHECK(solve(handle, "", 1, 0, nullptr, 0, 60, nullptr) == 0);
}

}  // namespace

#include "shortcut.h"
#include "sorting.h"  // for what stands above

int main() {
  char text[256];
  CHECK(!cvxlayers_builds(text, sizeof text) && cvxlayers_builds(text, 0) == 1 && cvxlayers_builds(nullptr, 9) == 1);
  std::vector<std::string> builds{""};
  std::istringstream names(text);
  for (std::string name; names >> name;) builds.push_back(name);
  std::vector<Pattern> patterns = {
      pattern(12, 24, 4, 1, 1),        pattern(12, 24, 0, 1, 1),       pattern(12, 5, 5, 1, 1),           pattern(40, 60, 10, 1, 1),
      pattern(1, 2, 0, 1, 1),          pattern(6, 0, 0, 1, 1),         pattern(8, 16, 0, 1, 0, true),     pattern(8, 17, 1, 0.1, 1, true),
      pattern(30, 40, 6, 0.05, 0.15),  pattern(14, 18, 8, 0, 1, false, true), pattern(9, 12, 3, 0, 0.4),  pattern(5, 4, 2, 0, 0),
      pattern(70, 90, 20, 0.02, 0.05), pattern(65, 70, 0, 1, 1),       pattern(300, 302, 1, 0.001, 0.5, true), pattern(3, 50, 0, 1, 0.7)};
  for (const Pattern& p : patterns) {
    void* handle = nullptr;
    CHECK(!p.make(&handle));
    double facts[6];
    CHECK(!cvxlayers_describe(handle, facts) && cvxlayers_describe(handle, nullptr) == 1);
    for (const std::string& build : builds)
      for (int count : {1, 3, 8, 19}) use(p, handle, build.c_str(), count, 1 + count % 4, count % 8);
    malformed(p), malformed_calls(p, handle), use_weighted(p), products(p);
    cvxlayers_free(handle);
  }
  void* handle = nullptr;
  CHECK(!patterns[0].make(&handle));
  std::vector<std::thread> threads;
  auto work = [&] {
    const std::ptrdiff_t nP = patterns[0].P_row.size(), nA = patterns[0].A_col.size(), count = 40;
    std::vector<double> data(count * (nP + nA), 0.5), x(count * 12), y(count * 24), s(count * 24);
    std::vector<std::int32_t> status(count), iterations(count);
    for (int k = 0; k < 20; k++)
      if (cvxlayers_solve(handle, "", 3, count, data.data(), nP, data.data(), nA, data.data(), 12, data.data(), 24, 60, x.data(), y.data(),
                          s.data(), status.data(), iterations.data()))
        std::abort();
  };
  for (int k = 0; k < 4; k++) threads.emplace_back(work);
  for (auto& thread : threads) thread.join();  // the sanitizer's own allocator does not survive a fork amid other threads
  if (const pid_t child = fork()) {
    int code = -1;
    CHECK(waitpid(child, &code, 0) == child && code == 0);
  } else {
    alarm(120);
    work();
    _exit(0);
  }
  shortcuts(4, 6), shortcuts(10, 10), shortcuts(1, 1);
  for (const std::string& build : builds)
    for (std::ptrdiff_t n : {1, 3, 16, 33, 5000}) rows<float>(build.c_str(), n), rows<double>(build.c_str(), n);
  for (std::ptrdiff_t n : {1, 2, 7, 300, 20000})
    for (bool rank : {false, true}) sorting<float>(n, rank), sorting<double>(n, rank);
  turns(1, 7, 5), turns(4, 3, 2), turns(2, 2, 1), turns(1, 3, 0);
  cvxlayers_free(handle), cvxlayers_free(nullptr);
  std::printf("%s: %ld problems, %ld solved, %ld failures\n", text, problems, solved, failures);
  return failures != 0;
}
