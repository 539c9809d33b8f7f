// Numerical factorization K = L S L' on the panels of a plan, and triangular solves.
//
// Tiles of TILE x COLUMNS entries (16 registers of accumulators, 8 with one lane) are the unit of work. A front is
// factorized left-looking, panel after panel, in blocks of BLOCK rows, and updates its ancestors once, from all of its
// panels: large fronts then read their own entries once for each panel, instead of writing all that remains.
#pragma once
#include <algorithm>

#include "lanes.h"
#include "plan.h"

#define UNROLL _Pragma("GCC unroll 8")  // without it GCC 12 keeps a copy of the accumulators in memory

namespace cvxlayers {
namespace {

// MJ rows of a panel, columns [0, count), side by side and with the signs of the columns: out[k MJ + b].
template <int MJ>
INLINE void gather(V* out, const V* y, int width, int count, const double* sign) {
  for (int k = 0; k < count; k++)
    for (int b = 0; b < MJ; b++) out[k * MJ + b] = y[b * width + k] * sign[k];
}

// c -= X Y' for MI rows of a panel, columns [0, count), and MJ gathered ones. With one lane the registers hold the MJ columns.
template <int MI, int MJ>
INLINE void accumulate(V (&c)[MI][MJ], const V* x, int width, const V* y, int count) {
#if LANES == 1
  if constexpr (MJ == 4 || MJ == 8) {
    typedef double Wide __attribute__((vector_size(MJ * 8), aligned(8), may_alias));
    Wide sum[MI];
    UNROLL for (int a = 0; a < MI; a++) sum[a] = *reinterpret_cast<const Wide*>(c[a]);
    for (int k = 0; k < count; k++, x++, y += MJ) {
      const Wide yk = *reinterpret_cast<const Wide*>(y);
      UNROLL for (int a = 0; a < MI; a++) sum[a] -= reinterpret_cast<const double*>(x)[a * width] * yk;
    }
    UNROLL for (int a = 0; a < MI; a++) *reinterpret_cast<Wide*>(c[a]) = sum[a];
    return;
  }
#endif
  for (int k = 0; k < count; k++, x++, y += MJ) {
    V yk[MJ];
    for (int b = 0; b < MJ; b++) yk[b] = y[b];
    for (int a = 0; a < MI; a++) {
      V xk = x[a * width];
      for (int b = 0; b < MJ; b++) c[a][b] -= xk * yk[b];
    }
  }
}

// The same on a tile in memory: rows to[a], columns column[b].
template <int MI, int MJ>
void tile(V* const* to, const int* column, const V* x, int width, const V* y) {
  V c[MI][MJ];
  UNROLL for (int a = 0; a < MI; a++)
    UNROLL for (int b = 0; b < MJ; b++) c[a][b] = to[a][column[b]];
  accumulate<MI, MJ>(c, x, width, y, width);
  UNROLL for (int a = 0; a < MI; a++)
    UNROLL for (int b = 0; b < MJ; b++) to[a][column[b]] = c[a][b];
}

#if LANES == 1 && defined(__AVX512F__)
constexpr int COLUMNS = 8;
#else
constexpr int COLUMNS = 4;
#endif
constexpr int TILE = LANES == 1 ? 8 : 4, BLOCK = 64;

class Factorization {
 public:
  // L: the values of K on entry, of the factor on return. inverse: of its diagonal. smallest: of the pivots before those
  // that are too small, or have the wrong sign, are replaced.
  Factorization(const Plan& plan, V* L, V* inverse) : p_(plan), L_(L), inverse_(inverse) {}

  V run(int begin, int end) {
    smallest_ = all(1e300);
    for (int f = begin; f < end; f++) {
      const Front& front = p_.fronts[f];
      if (front.diagonal) pivots(front);
      else panels(front);
      for (int t = front.targets_begin; t < front.targets_end; t++) update(front, p_.targets[t]);
    }
    return smallest_;
  }

 private:
  static constexpr double TINY = 1e-13;
  const Plan& p_;
  V *L_, *inverse_;
  V smallest_;

  V pivot(V d, double sign) {
    V a = sign * d;
    smallest_ = smaller(a, smallest_);
    return root(select(a > TINY, a, all(TINY)));
  }

  // The outer rows of a panel.
  const V* outer(const Front& front, const Panel& panel) const {
    int rows = (front.diagonal ? 1 : panel.width) + panel.below - front.outer;
    return L_ + panel.offset + std::size_t(rows) * panel.width;
  }

  void pivots(const Front& front) {
    for (int k = front.begin; k < front.end; k++) {
      const Panel& panel = p_.panels[k];
      const int w = panel.width;
      V *d = L_ + panel.offset, *X = d + w, *inv = inverse_ + panel.first;
      V scale[CHUNK];
      for (int c = 0; c < w; c++) {
        d[c] = pivot(d[c], p_.sign[panel.first + c]);
        inv[c] = 1. / d[c];
        scale[c] = p_.sign[panel.first + c] * inv[c];
      }
      for (int i = 0; i < panel.below; i++)
        for (int c = 0; c < w; c++) X[std::size_t(i) * w + c] *= scale[c];
    }
  }

  void panels(const Front& front) {
    for (int k = front.begin; k < front.end; k++) {
      const Panel& panel = p_.panels[k];
      V* X = L_ + panel.offset;
      const int rows = panel.width + panel.below, w = panel.width;
      for (int i0 = 0; k > front.begin && i0 < rows; i0 += BLOCK)
        for (int s = front.begin; s < k; s++) {
          const Panel& source = p_.panels[s];
          const V* from = L_ + source.offset + std::size_t(panel.first - source.first) * source.width;
          auto row = [&](int i) { return X + std::size_t(i) * w; };
          block(source, from, 0, w, i0, std::min(rows, i0 + BLOCK), row, [](int j) { return j; });
        }
      int j = 0;
      for (; j + 4 <= w; j += 4) columns<4>(X, w, panel, j, rows);
      if (w - j == 3) columns<3>(X, w, panel, j, rows);
      if (w - j == 2) columns<2>(X, w, panel, j, rows);
      if (w - j == 1) columns<1>(X, w, panel, j, rows);
    }
  }

  // Columns j to j + MJ of a panel, all of its rows.
  template <int MJ>
  void columns(V* X, int w, const Panel& panel, int j, int rows) {
    const double* sign = &p_.sign[panel.first];
    V c[MJ][MJ], inv[MJ], y[MJ * CHUNK];
    gather<MJ>(y, X + j * w, w, j, sign);
    for (int a = 0; a < MJ; a++)
      for (int b = 0; b < MJ; b++) c[a][b] = b <= a ? X[(j + a) * w + j + b] : all(0);
    accumulate<MJ, MJ>(c, X + j * w, w, y, j);
    for (int b = 0; b < MJ; b++) {
      const double s = sign[j + b];
      c[b][b] = pivot(c[b][b], s);
      inv[b] = 1. / c[b][b];
      for (int a = b + 1; a < MJ; a++) c[a][b] *= s * inv[b];
      for (int a = b + 1; a < MJ; a++)
        for (int e = b + 1; e <= a; e++) c[a][e] -= s * c[a][b] * c[e][b];
    }
    for (int a = 0; a < MJ; a++) {
      inverse_[panel.first + j + a] = inv[a];
      for (int b = 0; b <= a; b++) X[(j + a) * w + j + b] = c[a][b];
    }
    int i = j + MJ;
    for (; i + TILE <= rows; i += TILE) below<TILE, MJ>(X, w, sign + j, i, j, y, c, inv);
    for (; i < rows; i++) below<1, MJ>(X, w, sign + j, i, j, y, c, inv);
  }

  template <int MI, int MJ>
  INLINE void below(V* X, int w, const double* sign, int i, int j, const V* y, const V (&c)[MJ][MJ], const V (&inv)[MJ]) {
    V e[MI][MJ];
    V* row = X + std::size_t(i) * w;
    for (int a = 0; a < MI; a++)
      for (int b = 0; b < MJ; b++) e[a][b] = row[a * w + j + b];
    accumulate<MI, MJ>(e, row, w, y, j);
    for (int b = 0; b < MJ; b++) {
      V scale = sign[b] * inv[b];
      for (int a = 0; a < MI; a++) {
        V t = e[a][b];
        for (int k = 0; k < b; k++) t -= sign[k] * c[b][k] * e[a][k];
        e[a][b] = t * scale;
      }
    }
    for (int a = 0; a < MI; a++)
      for (int b = 0; b < MJ; b++) row[a * w + j + b] = e[a][b];
  }

  // Rows [i0, i1) and columns [j0, j1), those on and below the diagonal, minus the product of the source's rows. Source
  // row i is from + i width. Target rows and columns: row(i), and column(j).
  template <class Row, class Column>
  INLINE void block(const Panel& source, const V* from, int j0, int j1, int i0, int i1, Row row, Column column) {
    int j = j0;
    for (; j + COLUMNS <= j1; j += COLUMNS) strip<COLUMNS>(source, from, j, i0, i1, row, column);
    if (j1 - j >= 4) strip<4>(source, from, j, i0, i1, row, column), j += 4;
    if (j1 - j == 3) strip<3>(source, from, j, i0, i1, row, column);
    if (j1 - j == 2) strip<2>(source, from, j, i0, i1, row, column);
    if (j1 - j == 1) strip<1>(source, from, j, i0, i1, row, column);
  }

  template <int MJ, class Row, class Column>
  INLINE void strip(const Panel& source, const V* from, int j, int i0, int i1, Row row, Column column) {
    const int w = source.width;
    int columns[MJ], i = std::max(i0, j);
    if (i >= i1) return;
    V y[MJ * CHUNK];
    gather<MJ>(y, from + std::size_t(j) * w, w, w, &p_.sign[source.first]);
    for (int b = 0; b < MJ; b++) columns[b] = column(j + b);
    for (; i + TILE <= i1; i += TILE) {
      V* to[TILE];
      for (int a = 0; a < TILE; a++) to[a] = row(i + a);
      tile<TILE, MJ>(to, columns, from + std::size_t(i) * w, w, y);
    }
    for (; i < i1; i++) {
      V* to[1] = {row(i)};
      tile<1, MJ>(to, columns, from + std::size_t(i) * w, w, y);
    }
  }

  void update(const Front& front, const Target& t) {
    const Panel& panel = p_.panels[t.panel];
    const int* position = p_.position.data() + t.position - t.begin;
    const int* outer_row = p_.row.data() + front.rows;
    V* X = L_ + panel.offset;
    auto row = [&](int i) { return X + std::size_t(position[i]) * panel.width; };
    auto column = [&](int j) { return outer_row[j] - panel.first; };
    for (int i0 = t.begin; i0 < front.outer; i0 += BLOCK)
      for (int s = front.begin; s < front.end; s++)
        block(p_.panels[s], outer(front, p_.panels[s]), t.begin, t.end, i0, std::min(front.outer, i0 + BLOCK), row, column);
  }
};

// x := L^-1 x for fronts [begin, end); x: (nodes, NR), NR right-hand sides side by side.
template <int NR>
void solve_lower(const Plan& p, const V* L, const V* inverse, V* x, int begin, int end) {
  for (int f = begin; f < end; f++)
    for (int k = p.fronts[f].begin; k < p.fronts[f].end; k++) {
      const Panel& panel = p.panels[k];
      const int w = panel.width;
      const V *X = L + panel.offset, *inv = inverse + panel.first;
      V* xs = x + std::size_t(panel.first) * NR;
      if (p.fronts[f].diagonal) {
        for (int c = 0; c < w; c++)
          for (int e = 0; e < NR; e++) xs[c * NR + e] *= inv[c];
        X += w;
      } else {
        for (int j = 0; j < w; j++) {
          V a[NR];
          for (int e = 0; e < NR; e++) a[e] = xs[j * NR + e];
          for (int c = 0; c < j; c++)
            for (int e = 0; e < NR; e++) a[e] -= X[j * w + c] * xs[c * NR + e];
          for (int e = 0; e < NR; e++) xs[j * NR + e] = a[e] * inv[j];
        }
        X += std::size_t(w) * w;
      }
      const int* rows = p.row.data() + panel.rows;
      int i = 0;
      for (; i + 4 <= panel.below; i += 4) {
        V a[4][NR];
        for (int t = 0; t < 4; t++)
          for (int e = 0; e < NR; e++) a[t][e] = x[std::size_t(rows[i + t]) * NR + e];
        for (int c = 0; c < w; c++)
          for (int t = 0; t < 4; t++) {
            V l = X[std::size_t(i + t) * w + c];
            for (int e = 0; e < NR; e++) a[t][e] -= l * xs[c * NR + e];
          }
        for (int t = 0; t < 4; t++)
          for (int e = 0; e < NR; e++) x[std::size_t(rows[i + t]) * NR + e] = a[t][e];
      }
      for (; i < panel.below; i++) {
        V a[NR];
        for (int e = 0; e < NR; e++) a[e] = x[std::size_t(rows[i]) * NR + e];
        for (int c = 0; c < w; c++)
          for (int e = 0; e < NR; e++) a[e] -= X[std::size_t(i) * w + c] * xs[c * NR + e];
        for (int e = 0; e < NR; e++) x[std::size_t(rows[i]) * NR + e] = a[e];
      }
    }
}

// x := L^-T S x.
template <int NR>
void solve_upper(const Plan& p, const V* L, const V* inverse, V* x, int begin, int end) {
  for (int f = end - 1; f >= begin; f--)
    for (int k = p.fronts[f].end - 1; k >= p.fronts[f].begin; k--) {
      const Panel& panel = p.panels[k];
      const int w = panel.width;
      const bool diagonal = p.fronts[f].diagonal;
      const V *D = L + panel.offset, *X = D + std::size_t(diagonal ? 1 : w) * w, *inv = inverse + panel.first;
      V* xs = x + std::size_t(panel.first) * NR;
      for (int c = 0; c < w; c++)
        for (int e = 0; e < NR; e++) xs[c * NR + e] *= p.sign[panel.first + c];
      const int* rows = p.row.data() + panel.rows;
      int i = 0;
      for (; i + 4 <= panel.below; i += 4) {
        V u[4][NR];
        for (int t = 0; t < 4; t++)
          for (int e = 0; e < NR; e++) u[t][e] = x[std::size_t(rows[i + t]) * NR + e];
        for (int c = 0; c < w; c++)
          for (int e = 0; e < NR; e++) {
            V a = xs[c * NR + e];
            for (int t = 0; t < 4; t++) a -= X[std::size_t(i + t) * w + c] * u[t][e];
            xs[c * NR + e] = a;
          }
      }
      for (; i < panel.below; i++)
        for (int c = 0; c < w; c++)
          for (int e = 0; e < NR; e++) xs[c * NR + e] -= X[std::size_t(i) * w + c] * x[std::size_t(rows[i]) * NR + e];
      if (diagonal) {
        for (int c = 0; c < w; c++)
          for (int e = 0; e < NR; e++) xs[c * NR + e] *= inv[c];
        continue;
      }
      for (int j = w - 1; j >= 0; j--) {
        V a[NR];
        for (int e = 0; e < NR; e++) xs[j * NR + e] = a[e] = xs[j * NR + e] * inv[j];
        for (int c = 0; c < j; c++)
          for (int e = 0; e < NR; e++) xs[c * NR + e] -= D[j * w + c] * a[e];
      }
    }
}

}  // namespace
}  // namespace cvxlayers
