// Products and assemblies on fixed patterns, for whole batches: what array libraries do in several passes over memory.
// All arrays are rows of doubles, `stride` apart, one row for each item of the batch; stride 0: the same for all.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <new>

#include "engine.h"
#include "export.h"
#include "pool.h"

namespace cvxlayers {
namespace {

constexpr std::ptrdiff_t PART = 1 << 14;  // entries that are worth another thread

// work(item) for all items, in parts that are worth it.
template <class Work>
void each(int threads, std::ptrdiff_t batch, std::ptrdiff_t size, const Work& work) {
  const std::ptrdiff_t part = std::max<std::ptrdiff_t>(1, PART / std::max<std::ptrdiff_t>(size, 1));
  Pool::get().run(threads, (batch + part - 1) / part, [&](std::ptrdiff_t p) {
    for (std::ptrdiff_t i = p * part; i < std::min(batch, (p + 1) * part); i++) work(i);
  });
}

// Z := U'M.
void rotate(std::ptrdiff_t dim, std::ptrdiff_t width, const double* U, const double* M, double* Z) {
  std::fill(Z, Z + dim * width, 0.0);
  for (std::ptrdiff_t k = 0; k < dim; k++)
    for (std::ptrdiff_t i = 0; i < dim; i++)
      for (std::ptrdiff_t j = 0; j < width; j++) Z[i * width + j] += U[k * dim + i] * M[k * width + j];
}

// Z := U'M for the second-order cone: (1, u)/sqrt2, (1, -u)/sqrt2, and rows 3, 4, ... of (0, H), where H = I - 2hh' and
// H e1 = -sign u.
void reflect(std::ptrdiff_t dim, std::ptrdiff_t width, const double* sign_h, const double* M, double* Z, double* sums) {
  const double *h = sign_h + 1, *below = M + width, half = std::sqrt(0.5);
  std::fill(sums, sums + width, 0.0);
  for (std::ptrdiff_t i = 0; i < dim - 1; i++)
    for (std::ptrdiff_t j = 0; j < width; j++) sums[j] += h[i] * below[i * width + j];
  for (std::ptrdiff_t i = 1; i < dim - 1; i++)
    for (std::ptrdiff_t j = 0; j < width; j++) Z[(i + 1) * width + j] = below[i * width + j] - 2 * h[i] * sums[j];
  for (std::ptrdiff_t j = 0; j < width; j++) {
    const double a = -sign_h[0] * (below[j] - 2 * h[0] * sums[j]);
    Z[j] = half * (M[j] + a), Z[width + j] = half * (M[j] - a);
  }
}

}  // namespace
}  // namespace cvxlayers

using namespace cvxlayers;

// out (batch, rows) := M x for CSR matrices M of one pattern.
EXPORT void cvxlayers_multiply(int threads, std::ptrdiff_t batch, std::ptrdiff_t rows, const std::int64_t* indptr,
                               const std::int64_t* columns, const double* values, std::ptrdiff_t values_stride, const double* x,
                               std::ptrdiff_t x_stride, double* out) {
  each(threads, batch, indptr[rows], [&](std::ptrdiff_t b) {
    const double *M = values + b * values_stride, *xb = x + b * x_stride;
    for (std::ptrdiff_t i = 0; i < rows; i++) {
      double sum[4] = {0, 0, 0, 0};
      std::int64_t k = indptr[i];
      for (const std::int64_t end = indptr[i + 1] - 3; k < end; k += 4)
        for (int l = 0; l < 4; l++) sum[l] += M[k + l] * xb[columns[k + l]];
      for (; k < indptr[i + 1]; k++) sum[0] += M[k] * xb[columns[k]];
      out[b * rows + i] = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    }
  });
}

// out (batch, width) := M'y.
EXPORT void cvxlayers_multiply_transposed(int threads, std::ptrdiff_t batch, std::ptrdiff_t rows, std::ptrdiff_t width,
                                          const std::int64_t* indptr, const std::int64_t* columns, const double* values,
                                          std::ptrdiff_t values_stride, const double* y, std::ptrdiff_t y_stride, double* out) {
  each(threads, batch, indptr[rows], [&](std::ptrdiff_t b) {
    const double* M = values + b * values_stride;
    double* to = out + b * width;
    std::fill(to, to + width, 0.0);
    for (std::ptrdiff_t i = 0; i < rows; i++) {
      const double yi = y[b * y_stride + i];
      for (std::int64_t k = indptr[i]; k < indptr[i + 1]; k++) to[columns[k]] += M[k] * yi;
    }
  });
}

// out (batch, entries) := scale (a p' + c d') on the pattern, a and c by row, p and d by column.
EXPORT void cvxlayers_outer(int threads, std::ptrdiff_t batch, std::ptrdiff_t entries, const std::int64_t* rows,
                            const std::int64_t* columns, double scale, const double* a, std::ptrdiff_t a_stride, const double* p,
                            std::ptrdiff_t p_stride, const double* c, std::ptrdiff_t c_stride, const double* d,
                            std::ptrdiff_t d_stride, double* out) {
  each(threads, batch, entries, [&](std::ptrdiff_t b) {
    const double *ab = a + b * a_stride, *pb = p + b * p_stride, *cb = c + b * c_stride, *db = d + b * d_stride;
    double* to = out + b * entries;
    for (std::ptrdiff_t k = 0; k < entries; k++)
      to[k] = scale * (ab[rows[k]] * pb[columns[k]] + cb[rows[k]] * db[columns[k]]);
  });
}

// out += C x for one sparse matrix C with entries (to, from, values): out[to[k]] += values[k] x[from[k]].
EXPORT void cvxlayers_map(int threads, std::ptrdiff_t batch, std::ptrdiff_t entries, const std::int64_t* to,
                          const std::int64_t* from, const double* values, const double* x, std::ptrdiff_t x_stride, double* out,
                          std::ptrdiff_t out_stride) {
  each(threads, batch, entries, [&](std::ptrdiff_t b) {
    const double* xb = x + b * x_stride;
    double* ob = out + b * out_stride;
    for (std::ptrdiff_t k = 0; k < entries; k++) ob[to[k]] += values[k] * xb[from[k]];
  });
}

// by_row (batch, rows) and by_column (batch, width): the largest entries of M in magnitude; NaN counts as infinite.
EXPORT void cvxlayers_largest(int threads, std::ptrdiff_t batch, std::ptrdiff_t rows, std::ptrdiff_t width,
                              const std::int64_t* indptr, const std::int64_t* columns, const double* values,
                              std::ptrdiff_t values_stride, double* by_row, double* by_column) {
  each(threads, batch, indptr[rows], [&](std::ptrdiff_t b) {
    const double* M = values + b * values_stride;
    double *row = by_row + b * rows, *column = by_column + b * width;
    std::fill(column, column + width, 0.0);
    for (std::ptrdiff_t i = 0; i < rows; i++) {
      double largest = 0;
      for (std::int64_t k = indptr[i]; k < indptr[i + 1]; k++) {
        const double size = M[k] == M[k] ? std::fabs(M[k]) : HUGE_VAL;
        largest = std::max(largest, size), column[columns[k]] = std::max(column[columns[k]], size);
      }
      row[i] = largest;
    }
  });
}

// out += C (scale (a p' + c d')), where entry k of C takes the product at (rows[k], columns[k]) to out[to[k]]: the gradient of
// parameters, without that of the matrix.
EXPORT void cvxlayers_outer_map(int threads, std::ptrdiff_t batch, std::ptrdiff_t entries, const std::int64_t* to,
                                const std::int64_t* rows, const std::int64_t* columns, const double* values, double scale,
                                const double* a, std::ptrdiff_t a_stride, const double* p, std::ptrdiff_t p_stride,
                                const double* c, std::ptrdiff_t c_stride, const double* d, std::ptrdiff_t d_stride, double* out,
                                std::ptrdiff_t out_stride) {
  each(threads, batch, entries, [&](std::ptrdiff_t b) {
    const double *ab = a + b * a_stride, *pb = p + b * p_stride, *cb = c + b * c_stride, *db = d + b * d_stride;
    double* ob = out + b * out_stride;
    for (std::ptrdiff_t k = 0; k < entries; k++)
      ob[to[k]] += values[k] * scale * (ab[rows[k]] * pb[columns[k]] + cb[rows[k]] * db[columns[k]]);
  });
}

// Rows and columns of `count` equal cones in the eigenvectors of their derivatives, times root: entry (k, i, j) of U'M, where M
// (dim, width) has the entries of A at gather[k, i, j], -1 for none. kind 0: turn is U (count, dim, dim). kind 1: it is
// (count, dim), the sign and h of the reflection of a second-order cone. kept: the entries that go to `out`, in turn. Entries up
// to `noise` of the largest one of M are zero, and up to `row_noise` in rows that have none beyond it.
EXPORT void cvxlayers_turn(int threads, std::ptrdiff_t batch, int kind, std::ptrdiff_t count, std::ptrdiff_t dim,
                           std::ptrdiff_t width, const std::int64_t* gather, const std::uint8_t* kept, double noise,
                           double row_noise, const double* A, std::ptrdiff_t A_stride, const double* turn,
                           std::ptrdiff_t turn_stride, const double* root, std::ptrdiff_t root_stride, double* out,
                           std::ptrdiff_t out_stride) {
  const std::ptrdiff_t size = dim * width, numbers = kind ? dim : dim * dim;
  each(threads, batch, count * size, [&](std::ptrdiff_t b) {
    double* to = out + b * out_stride;
    std::unique_ptr<double[]> scratch(new (std::nothrow) double[2 * size + width]);
    if (!scratch) {  // this item has no system, the others have
      for (std::ptrdiff_t e = 0; e < count * size; e++)
        if (kept[e]) *to++ = HUGE_VAL;
      return;
    }
    double *M = scratch.get(), *Z = M + size, *sums = Z + size;
    for (std::ptrdiff_t k = 0; k < count; k++) {
      const std::int64_t* from = gather + k * size;
      const double *u = turn + b * turn_stride + k * numbers, *scale = root + b * root_stride + k * dim;
      double largest = 0;
      for (std::ptrdiff_t e = 0; e < size; e++) {
        M[e] = from[e] < 0 ? 0 : A[b * A_stride + from[e]];
        largest = std::max(largest, std::fabs(M[e]));
      }
      if (kind) reflect(dim, width, u, M, Z, sums);
      else rotate(dim, width, u, M, Z);
      for (std::ptrdiff_t i = 0; i < dim; i++) {
        const double* row = Z + i * width;
        double most = 0;
        for (std::ptrdiff_t j = 0; j < width; j++) most = std::max(most, std::fabs(row[j]));
        const double least = (most > row_noise * largest ? noise : row_noise) * largest;
        for (std::ptrdiff_t j = 0; j < width; j++)
          if (kept[k * size + i * width + j]) *to++ = std::fabs(row[j]) > least ? scale[i] * row[j] : 0;
      }
    }
  });
}
