// The C interface. Every function checks what it is given and answers with one of the codes below; none throws.
#include <algorithm>
#include <climits>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <new>
#include <string>

#include "api.h"
#include "engine.h"
#include "pool.h"
#include "rows.h"

namespace cvxlayers {

#define DECLARE(name) extern const Build name;
BUILDS(DECLARE)
#define DECLARE_ROWS(name) extern const RowBuild rows_##name;
ROWS(DECLARE_ROWS)

namespace {

enum Code { OK = 0, BAD_ARGUMENT = 1, BAD_PATTERN = 2, TOO_LARGE = 3, NO_MEMORY = 4 };

struct Known {
  const Build* build;
  bool usable;
};

bool runs(const char* name) {
#if defined(__x86_64__)
  if (!std::strncmp(name, "v4", 2))
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("fma");
  if (!std::strncmp(name, "v3", 2)) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
#endif
  (void)name;
  return true;
}

#define ENTRY(name) {&name, runs(#name)},
const std::vector<Known>& builds() {
  static const std::vector<Known> list = {BUILDS(ENTRY)};
  return list;
}

// The first usable build's instruction set is the best one. Of its builds the one with the fewest lanes that hold what one
// thread has to do: lanes without a problem are wasted, and so are threads without a group.
const Build* choose(std::ptrdiff_t batch, int threads) {
  const std::ptrdiff_t share = (batch + threads - 1) / threads;
  const Build* best = nullptr;
  for (const Known& known : builds()) {
    if (!known.usable) continue;
    if (best && std::strncmp(best->name, known.build->name, 2)) break;
    const bool fits = known.build->lanes >= share;
    if (!best || (fits ? best->lanes < share || known.build->lanes < best->lanes : known.build->lanes > best->lanes && best->lanes < share))
      best = known.build;
  }
  return best;
}

// A plan, and the workspaces of those who use it, kept for the next call.
struct Handle {
  std::unique_ptr<Plan> plan;
  std::vector<std::pair<const Build*, void*>> idle;
  ~Handle() {
    for (auto& [build, workspace] : idle) build->destroy(workspace);
  }
};

constexpr std::ptrdiff_t ROW_PART = 1 << 14;  // entries that are worth another thread
constexpr std::size_t KEPT = 8;  // idle workspaces of one plan

// A workspace for one call; null where there is no memory.
class Workspace {
 public:
  Workspace(Handle& handle, const Build* build) : handle_(handle), build_(build) {
    {
      std::lock_guard<std::mutex> lock(Pool::state_mutex());
      for (auto& entry : handle.idle)
        if (entry.first == build) {
          workspace_ = entry.second;
          std::swap(entry, handle.idle.back());
          handle.idle.pop_back();
          return;
        }
    }
    try {
      workspace_ = build->make(*handle.plan);
    } catch (const std::bad_alloc&) {
    }
  }
  Workspace(const Workspace&) = delete;
  ~Workspace() {
    if (!workspace_) return;
    {
      std::lock_guard<std::mutex> lock(Pool::state_mutex());
      if (handle_.idle.size() < KEPT) {
        handle_.idle.emplace_back(build_, workspace_);
        return;
      }
    }
    build_->destroy(workspace_);
  }
  void* get() const { return workspace_; }

 private:
  Handle& handle_;
  const Build* build_;
  void* workspace_ = nullptr;
};

// step(workspace, first, count, loaded) for all groups of a batch, each thread the next one. shared: P and A are the
// same for all problems, so that a workspace that has them keeps them, and what is computed from them alone.
template <class Step>
int each_group(Handle& handle, const Build* build, int threads, std::ptrdiff_t batch, bool shared, const Step& step) {
  const std::ptrdiff_t lanes = build->lanes, groups = (batch + lanes - 1) / lanes;
  std::atomic<std::ptrdiff_t> next{0};
  std::atomic<bool> no_memory{false};
  Pool::get().run(threads, std::min<std::ptrdiff_t>(threads, groups), [&](std::ptrdiff_t) {
    Workspace workspace(handle, build);
    if (!workspace.get()) {
      no_memory = true;
      return;
    }
    bool loaded = false;
    for (std::ptrdiff_t g; (g = next++) < groups; loaded = shared)
      step(workspace.get(), g * lanes, int(std::min(lanes, batch - g * lanes)), loaded);
  });
  return no_memory && next < groups ? NO_MEMORY : OK;
}

bool increasing(const std::int32_t* a, int begin, int end, int limit) {
  for (int k = begin; k < end; k++)
    if (a[k] < 0 || a[k] >= limit || (k > begin && a[k] <= a[k - 1])) return false;
  return true;
}

int read_pattern(Pattern& p, int nP, const std::int32_t* P_row, const std::int32_t* P_col, const std::int32_t* P_index, int nA,
                 const std::int32_t* A_ptr, const std::int32_t* A_col) {
  for (int k = 0; k < nP; k++) {
    if (P_index[k] < 0 || P_index[k] >= p.P_values) return BAD_PATTERN;
    if (P_row[k] < 0 || P_row[k] >= p.n || P_col[k] < P_row[k] || P_col[k] >= p.n) return BAD_PATTERN;
    if (k && (P_row[k] < P_row[k - 1] || (P_row[k] == P_row[k - 1] && P_col[k] <= P_col[k - 1]))) return BAD_PATTERN;
  }
  if (A_ptr[0] != 0 || A_ptr[p.m] != nA) return BAD_PATTERN;
  for (int i = 0; i < p.m; i++)
    if (A_ptr[i + 1] < A_ptr[i] || A_ptr[i + 1] > nA) return BAD_PATTERN;
  for (int i = 0; i < p.m; i++)
    if (!increasing(A_col, A_ptr[i], A_ptr[i + 1], p.n)) return BAD_PATTERN;
  p.P_row.assign(P_row, P_row + nP), p.P_col.assign(P_col, P_col + nP), p.P_index.assign(P_index, P_index + nP);
  p.A_ptr.assign(A_ptr, A_ptr + p.m + 1), p.A_col.assign(A_col, A_col + nA);
  return OK;
}

bool bad(const Rows& rows, std::size_t size, std::ptrdiff_t batch) {
  return (!rows.data && size && batch) || (rows.stride != 0 && rows.stride < std::ptrdiff_t(size));
}

const Build* build_named(const char* name, std::ptrdiff_t batch, int threads) {
  if (!name || !*name) return choose(batch, threads);
  for (const Known& known : builds())
    if (known.usable && !std::strcmp(known.build->name, name)) return known.build;
  return nullptr;
}

#define ROW_ENTRY(name) &rows_##name,
// That of the instruction set of a build of this name; without a name, the best one.
const RowBuild* rows_named(const char* name) {
  static constexpr const RowBuild* list[] = {ROWS(ROW_ENTRY)};
  for (const RowBuild* build : list)
    if (runs(build->name) && (!name || !*name || !std::strncmp(build->name, name, 2))) return build;
  return nullptr;
}

}  // namespace
}  // namespace cvxlayers

using namespace cvxlayers;

// Names of the builds that this processor runs, best first, separated by blanks.
EXPORT int cvxlayers_builds(char* out, int size) {
  std::string names;
  for (const Known& known : builds())
    if (known.usable) names += (names.empty() ? "" : " ") + std::string(known.build->name);
  if (!out || size <= 0) return BAD_ARGUMENT;
  std::snprintf(out, std::size_t(size), "%s", names.c_str());
  return OK;
}

// P: upper triangle, sorted by (row, column); its values are at P_index in rows of P_values numbers. A: CSR with sorted
// columns; its first `zero` rows are equalities. weighted: for `cvxlayers_linear` with weights only; zero is 0.
EXPORT int cvxlayers_plan(int n, int m, int zero, int nP, const std::int32_t* P_row, const std::int32_t* P_col,
                          const std::int32_t* P_index, int P_values, int nA, const std::int32_t* A_ptr, const std::int32_t* A_col,
                          int weighted, void** out) {
  if (!out || n < 1 || m < 0 || zero < 0 || zero > (weighted ? 0 : m) || nP < 0 || P_values < 0 || nA < 0 || !A_ptr) return BAD_ARGUMENT;
  if ((nP && (!P_row || !P_col || !P_index)) || (nA && !A_col)) return BAD_ARGUMENT;
  *out = nullptr;
  if (n > MAX_SIZE || m > MAX_SIZE - n || nP > MAX_ENTRIES || nA > MAX_ENTRIES) return TOO_LARGE;  // m: before A_ptr[m] is read
  try {
    Pattern pattern;
    pattern.n = n, pattern.m = m, pattern.zero = zero, pattern.P_values = P_values, pattern.weighted = weighted != 0;
    if (int code = read_pattern(pattern, nP, P_row, P_col, P_index, nA, A_ptr, A_col)) return code;
    auto handle = std::make_unique<Handle>();
    handle->idle.reserve(KEPT);
    handle->plan = make_plan(pattern);
    if (!handle->plan) return TOO_LARGE;
    *out = handle.release();
    return OK;
  } catch (const std::bad_alloc&) {
    return NO_MEMORY;
  } catch (...) {
    return BAD_PATTERN;
  }
}

EXPORT void cvxlayers_free(void* handle) { delete static_cast<Handle*>(handle); }

// nodes, panels, values of the factor, flops of a factorization, of its constant prefix, complementarity mode.
EXPORT int cvxlayers_describe(const void* handle, double* out) {
  if (!handle || !out) return BAD_ARGUMENT;
  const Plan& p = *static_cast<const Handle*>(handle)->plan;
  const double facts[] = {double(p.nodes), double(p.panels.size()), double(p.values), p.flops, p.prefix_flops, double(p.complementarity)};
  std::copy(std::begin(facts), std::end(facts), out);
  return OK;
}

// Solve a batch. Values: rows of doubles; stride 0: the same for all. x (batch, n), y and s (batch, m), status and
// iterations (batch). build: a name, or empty for the best one.
EXPORT int cvxlayers_solve(void* handle, const char* build, int threads, std::ptrdiff_t batch, const double* P, std::ptrdiff_t P_stride,
                           const double* A, std::ptrdiff_t A_stride, const double* q, std::ptrdiff_t q_stride, const double* b,
                           std::ptrdiff_t b_stride, int max_iterations, double* x, double* y, double* s, std::int32_t* status,
                           std::int32_t* iterations) {
  if (!handle || threads < 1 || batch < 0 || max_iterations < 0) return BAD_ARGUMENT;
  Handle& h = *static_cast<Handle*>(handle);
  const Pattern& p = h.plan->pattern;
  if (p.weighted) return BAD_ARGUMENT;
  const SolveTask task{{P, P_stride}, {A, A_stride}, {q, q_stride}, {b, b_stride}, max_iterations, x, y, s, status, iterations};
  if (bad(task.P, p.P_values, batch) || bad(task.A, p.A_col.size(), batch) || bad(task.q, p.n, batch) || bad(task.b, p.m, batch))
    return BAD_ARGUMENT;
  if (batch && (!x || !status || !iterations || (p.m && (!y || !s)))) return BAD_ARGUMENT;
  const Build* chosen = build_named(build, batch, threads);
  if (!chosen) return BAD_ARGUMENT;
  return each_group(h, chosen, threads, batch, !P_stride && !A_stride,
                    [&](void* w, std::ptrdiff_t first, int count, bool loaded) { chosen->solve(w, task, first, count, loaded); });
}

// Solve the KKT systems of the active sets v > 0 (equalities always), or with weights, of [P, A'; A, -diag(weights)], for
// `columns` right-hand sides of each problem: right and out (batch, columns, n + m). rank (batch): 1 regular, 2 singular, and
// out of least norm, 3 the same in scaled units, 0 not solved.
EXPORT int cvxlayers_linear(void* handle, const char* build, int threads, std::ptrdiff_t batch, const double* P, std::ptrdiff_t P_stride,
                            const double* A, std::ptrdiff_t A_stride, const double* v, std::ptrdiff_t v_stride, const double* weights,
                            std::ptrdiff_t weights_stride, std::ptrdiff_t columns, const double* right, double* out, std::uint8_t* rank) {
  if (!handle || threads < 1 || batch < 0 || columns < 0) return BAD_ARGUMENT;
  Handle& h = *static_cast<Handle*>(handle);
  const Pattern& p = h.plan->pattern;
  const LinearTask task{{P, P_stride}, {A, A_stride}, {v, v_stride}, {weights, weights_stride}, columns, right, out, rank};
  if (bad(task.P, p.P_values, batch) || bad(task.A, p.A_col.size(), batch) || bad(task.v, p.m, batch)) return BAD_ARGUMENT;
  if (p.weighted && bad(task.weights, p.m, batch)) return BAD_ARGUMENT;
  if (!p.weighted && (weights || weights_stride)) return BAD_ARGUMENT;
  if (batch && (!rank || (columns && (!right || !out)))) return BAD_ARGUMENT;
  const Build* chosen = build_named(build, batch, threads);
  if (!chosen) return BAD_ARGUMENT;
  return each_group(h, chosen, threads, batch, !P_stride && !A_stride,
                    [&](void* w, std::ptrdiff_t first, int count, bool loaded) { chosen->linear(w, task, first, count, loaded); });
}

// The maps of rows.h, for a `RowCall`: how many rows have no solution, or -1 for bad arguments.
EXPORT int cvxlayers_rows(const char* build, const void* buffer) {
  RowCall call;
  const RowBuild* chosen = rows_named(build);
  if (!chosen || !buffer) return -1;
  std::memcpy(&call, buffer, sizeof call);
  if (call.kernel < 0 || call.kernel >= ROW_KERNELS || call.threads < 1 || call.batch < 0 || call.n < 1) return -1;
  if (call.batch && (!call.in[0].at || !call.out[0] || (!call.out[1] && call.kernel != CAPPED_VJP))) return -1;
  RowTask task{std::ptrdiff_t(call.n), {}, {}, {}, {}};
  for (int k = 0; k < 3; k++) {
    task.in[k] = reinterpret_cast<const void*>(call.in[k].at), task.out[k] = reinterpret_cast<void*>(call.out[k]);
    task.stride[k] = std::ptrdiff_t(call.in[k].stride), task.step[k] = std::ptrdiff_t(call.in[k].step);
  }
  const std::ptrdiff_t batch = std::ptrdiff_t(call.batch), part = std::max<std::ptrdiff_t>(1, ROW_PART / task.n);
  std::atomic<std::ptrdiff_t> wrong{0};
  Pool::get().run(int(std::min<std::int64_t>(call.threads, Pool::MOST)), (batch + part - 1) / part, [&](std::ptrdiff_t p) {
    for (std::ptrdiff_t row = p * part; row < std::min(batch, (p + 1) * part); row++)
      if (!chosen->run(RowKernel(call.kernel), call.single != 0, task, row)) wrong++;
  });
  return int(std::min<std::ptrdiff_t>(wrong, INT_MAX));
}
