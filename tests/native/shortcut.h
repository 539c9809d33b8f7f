// Calls of the shortcut of small QPs, a part of driver.cpp.
#pragma once

extern "C" {
int cvxlayers_shortcut(std::int64_t n, std::int64_t m, std::int64_t zero, std::int64_t nP, const std::int64_t* P_row,
                       const std::int64_t* P_col, std::int64_t nA, const std::int64_t* A_row, const std::int64_t* A_col,
                       const double* constants, int parameters, const std::int64_t* parameter, int outputs,
                       const std::int64_t* output_sizes, int terms, const std::int64_t* term, std::int64_t entries,
                       const std::int64_t* to, const std::int64_t* from, const double* values, const double* limits, void** out);
void cvxlayers_shortcut_free(void* shortcut);
int cvxlayers_shortcut_forward(const void* shortcut, void* plan, const char* build, int threads, std::ptrdiff_t batch,
                               int max_iterations, const double* const* theta, const std::int32_t* varies, double* P,
                               std::ptrdiff_t P_rows, double* A, std::ptrdiff_t A_rows, double* state, std::ptrdiff_t state_size,
                               double* const* outputs);
int cvxlayers_shortcut_vjp(const void* shortcut, void* plan, const char* build, int threads, std::ptrdiff_t batch, const double* P,
                           std::ptrdiff_t P_rows, const double* A, std::ptrdiff_t A_rows, const double* state,
                           std::ptrdiff_t state_size, const double* const* cotangents, const std::int32_t* varies,
                           double* const* gradients);
}

namespace {

// The shortcut of a dense QP whose parameters are P (declared semidefinite), q, A and b (declared nonnegative) as they are:
// random batches, solved or not, and in the answers as many numbers as there should be; malformed arguments.
void shortcuts(int n, int m) {
  const Pattern p = pattern(n, m, 0, 1, 1);
  const std::int64_t nP = n * n, nA = m * n;
  void *plan = nullptr, *shortcut = nullptr;
  Pattern full = p;  // whose values are in both triangles
  for (std::size_t k = 0; k < p.P_row.size(); k++) full.P_index[k] = p.P_row[k] * n + p.P_col[k];
  CHECK(!cvxlayers_plan(n, m, 0, int(full.P_row.size()), full.P_row.data(), full.P_col.data(), full.P_index.data(), int(nP), int(nA),
                        full.A_ptr.data(), full.A_col.data(), 0, &plan));
  std::vector<std::int64_t> P_row, P_col, A_row, A_col, to, from, term;
  for (int i = 0; i < n; i++)
    for (int j = 0; j < n; j++) P_row.push_back(i), P_col.push_back(j);
  for (int i = 0; i < m; i++)
    for (int j = 0; j < n; j++) A_row.push_back(i), A_col.push_back(j);
  const std::int64_t sizes[] = {nP, n, nA, m, n, m}, outputs[] = {n, m}, parameters[] = {nP, 0, n, 1, n, 0, 0, 0, nA, 0, 0, 0, m, 1, 0, 0};
  for (int t = 0; t < 6; t++) {  // the last two are the outputs x and y
    const std::int64_t begin = std::int64_t(to.size());
    for (std::int64_t k : {std::int64_t(t), std::int64_t(t % 4), begin, begin + sizes[t]}) term.push_back(k);
    for (std::int64_t k = 0; k < sizes[t]; k++) to.push_back(k), from.push_back(k);
  }
  const std::vector<double> values(to.size(), 1.0), constants(nP + n + nA + m);
  const double limits[] = {1e-14, 1e-12, 1e-7, 1e-12, 1e-4, 1e-18, 1024};
  auto make = [&] {
    return cvxlayers_shortcut(n, m, 0, nP, P_row.data(), P_col.data(), nA, A_row.data(), A_col.data(), constants.data(), 4, parameters, 2,
                              outputs, 6, term.data(), std::int64_t(to.size()), to.data(), from.data(), values.data(), limits, &shortcut);
  };
  for (std::int64_t* a : {&P_row[0], &A_col[0], &to[0], &from[0], &term[0], &term[1], &term[2], &term[3]})
    for (std::int64_t wrong : {std::int64_t(-1), std::int64_t(1) << 40}) {
      const std::int64_t good = *a;
      *a = wrong;
      CHECK(make() == 1 && !shortcut);
      *a = good;
    }
  CHECK(!make());
  int answers = 0;
  for (int round = 0; round < 40; round++) {
    const int count = 1 + round % 5;
    const Batch d = batch(p, count);
    std::vector<double> theta[4] = {std::vector<double>(count * nP), d.q, d.A, d.b};
    for (int l = 0; l < count; l++)
      for (std::size_t k = 0; k < p.P_row.size(); k++) {
        const double v = d.P[l * p.P_row.size() + p.P_index[k]];
        theta[0][l * nP + p.P_row[k] * n + p.P_col[k]] = theta[0][l * nP + p.P_col[k] * n + p.P_row[k]] = v;
      }
    if (round % 3)
      for (double& b : theta[3]) b = std::fabs(b);
    const std::ptrdiff_t size = n + 2 * m + 2;
    std::vector<double> P(count * nP), A(count * nA), state(count * size), x(count * n), y(count * m), grads[4], c(n + m, 1.0);
    const double* in[] = {theta[0].data(), theta[1].data(), theta[2].data(), theta[3].data()};
    double *out[] = {x.data(), y.data()}, *back[4];
    const std::int32_t varies[] = {1, 1, 1, 1}, same[] = {0, 0};
    for (int k = 0; k < 4; k++) grads[k].resize(count * sizes[k]), back[k] = grads[k].data();
    const double* cotangents[] = {c.data(), c.data()};
    auto forward = [&](const char* build, int P_rows) {
      return cvxlayers_shortcut_forward(shortcut, plan, build, 2, count, 60, in, varies, P.data(), P_rows, A.data(), count, state.data(),
                                        size, out);
    };
    auto vjp = [&](void* handle) {
      return cvxlayers_shortcut_vjp(handle, plan, "", 2, count, P.data(), count, A.data(), count, state.data(), size, cotangents, same,
                                    back);
    };
    const int code = forward("", count);
    CHECK(code == 0 || code == 5);
    if (code) continue;
    answers++;
    const int pulled = vjp(shortcut);
    CHECK(pulled == 0 || pulled == 5);
    state.back() = 2;  // other units than one
    CHECK(vjp(shortcut) == 5 && vjp(nullptr) == 1 && forward("", count + 1) == 1 && forward("none", count) == 1);
  }
  CHECK(answers >= 5);
  cvxlayers_shortcut_free(shortcut), cvxlayers_free(plan);
}

}  // namespace
