// Maps of rows: each row of a batch is a problem of its own, in one or two scalars that are left when the vector is eliminated.
// Compiled once for each instruction set.
#pragma once
#include <cstddef>
#include <cstdint>

namespace cvxlayers {

enum RowKernel { CAPPED, CAPPED_VJP, LML, LML_VJP, SOFTMAX, SOFTMAX_VJP, ROW_KERNELS };

// Inputs: rows `stride` numbers apart (0: the same for all) with entries `step` apart, 1 or 0. Outputs: rows without gaps. All of
// one type, float or double.
struct RowTask {
  std::ptrdiff_t n;
  const void* in[3];
  std::ptrdiff_t stride[3], step[3];
  void* out[3];
};

// What a caller hands over: RowTask with what it is for. One buffer, since calls from Python pay for each argument.
struct RowCall {
  std::int64_t kernel, single, threads, batch, n;
  struct {
    std::int64_t at, stride, step;
  } in[3];
  std::int64_t out[3];
};

struct RowBuild {
  const char* name;
  // One row of the batch: whether it is a problem with a solution. Rows without one, and those with NaN in them, are NaN.
  bool (*run)(RowKernel kernel, bool single, const RowTask& task, std::ptrdiff_t row);
};

}  // namespace cvxlayers
