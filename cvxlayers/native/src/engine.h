// What one build of the engine (an instruction set and a number of lanes) offers to the rest. No templates of the standard
// library: code of a build must not end up in functions that other builds call.
#pragma once
#include <cstddef>
#include <cstdint>

#include "plan.h"

namespace cvxlayers {

// Values of a batch: rows of doubles, `stride` apart; 0: the same for all problems.
struct Rows {
  const double* data;
  std::ptrdiff_t stride;
  const double* at(std::ptrdiff_t i) const { return data + i * stride; }
};

struct SolveTask {
  Rows P, A, q, b;
  int max_iterations;
  double *x, *y, *s;
  std::int32_t *status, *iterations;
};

struct LinearTask {
  Rows P, A, v, weights;  // weights: where the pattern has them, in place of v
  std::ptrdiff_t columns;
  const double* right;
  double* out;
  std::uint8_t* rank;  // by problem, of derivative.h
};

// A workspace holds one group of problems; loaded: it has the P and A of this task already.
struct Build {
  const char* name;
  int lanes;
  void* (*make)(const Plan&);
  void (*destroy)(void*);
  void (*solve)(void* workspace, const SolveTask&, std::ptrdiff_t first, int count, bool loaded);
  void (*linear)(void* workspace, const LinearTask&, std::ptrdiff_t first, int count, bool loaded);
};

}  // namespace cvxlayers
