// What other files call of the C interface; see api.cpp.
#pragma once
#include <cstddef>
#include <cstdint>

#include "export.h"

EXPORT int cvxlayers_solve(void* handle, const char* build, int threads, std::ptrdiff_t batch, const double* P, std::ptrdiff_t P_stride,
                           const double* A, std::ptrdiff_t A_stride, const double* q, std::ptrdiff_t q_stride, const double* b,
                           std::ptrdiff_t b_stride, int max_iterations, double* x, double* y, double* s, std::int32_t* status,
                           std::int32_t* iterations);
EXPORT int cvxlayers_linear(void* handle, const char* build, int threads, std::ptrdiff_t batch, const double* P, std::ptrdiff_t P_stride,
                            const double* A, std::ptrdiff_t A_stride, const double* v, std::ptrdiff_t v_stride, const double* weights,
                            std::ptrdiff_t weights_stride, std::ptrdiff_t columns, const double* right, double* out, std::uint8_t* rank);
