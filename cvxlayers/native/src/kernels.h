// Numerical factorization K = L S L' on the panels of a plan, and triangular solves.
//
// Tiles of 4 x 4 entries (16 registers of accumulators) are the unit of work. A front is factorized left-looking, panel
// after panel, in blocks of CHUNK rows, and updates its ancestors once, from all of its panels: large fronts then read
// their own entries once for each panel, instead of writing all that remains.
#pragma once
#include <algorithm>

#include "lanes.h"
#include "plan.h"

namespace cvxlayers {
namespace {

// c -= X diag(sign) Y' over columns [0, count) of two sets of rows of a panel of the given width.
template <int MI, int MJ>
INLINE void accumulate(V (&c)[MI][MJ], const V* x, const V* y, int width, int positives, int count, const double* sign) {
  if (__builtin_expect(positives < 0, 0)) {
    for (int k = 0; k < count; k++) {
      V yk[MJ];
      for (int b = 0; b < MJ; b++) yk[b] = y[b * width + k] * sign[k];
      for (int a = 0; a < MI; a++) {
        V xk = x[a * width + k];
        for (int b = 0; b < MJ; b++) c[a][b] -= xk * yk[b];
      }
    }
    return;
  }
  int k = 0;
  for (const int end = std::min(positives, count); k < end; k++) {
    V yk[MJ];
    for (int b = 0; b < MJ; b++) yk[b] = y[b * width + k];
    for (int a = 0; a < MI; a++) {
      V xk = x[a * width + k];
      for (int b = 0; b < MJ; b++) c[a][b] -= xk * yk[b];
    }
  }
  for (; k < count; k++) {
    V yk[MJ];
    for (int b = 0; b < MJ; b++) yk[b] = y[b * width + k];
    for (int a = 0; a < MI; a++) {
      V xk = x[a * width + k];
      for (int b = 0; b < MJ; b++) c[a][b] += xk * yk[b];
    }
  }
}

// The same on a tile in memory: rows to[a], columns from `column` on.
template <int MI, int MJ>
void tile(V* const* to, int column, const V* x, const V* y, int width, int positives, const double* sign) {
  V c[MI][MJ];
  for (int a = 0; a < MI; a++)
    for (int b = 0; b < MJ; b++) c[a][b] = to[a][column + b];
  accumulate<MI, MJ>(c, x, y, width, positives, width, sign);
  for (int a = 0; a < MI; a++)
    for (int b = 0; b < MJ; b++) to[a][column + b] = c[a][b];
}

using Tile = void (*)(V* const*, int, const V*, const V*, int, int, const double*);
constexpr Tile TILES[4][4] = {{tile<1, 1>, tile<1, 2>, tile<1, 3>, tile<1, 4>},
                              {tile<2, 1>, tile<2, 2>, tile<2, 3>, tile<2, 4>},
                              {tile<3, 1>, tile<3, 2>, tile<3, 3>, tile<3, 4>},
                              {tile<4, 1>, tile<4, 2>, tile<4, 3>, tile<4, 4>}};

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
      for (int i0 = 0; k > front.begin && i0 < rows; i0 += CHUNK)
        for (int s = front.begin; s < k; s++) {
          const Panel& source = p_.panels[s];
          const V* from = L_ + source.offset + std::size_t(panel.first - source.first) * source.width;
          auto row = [&](int i) { return X + std::size_t(i) * w; };
          block(source, from, 0, w, i0, std::min(rows, i0 + CHUNK), row, [](int j) { return j; });
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
    V c[MJ][MJ], inv[MJ];
    for (int a = 0; a < MJ; a++)
      for (int b = 0; b < MJ; b++) c[a][b] = b <= a ? X[(j + a) * w + j + b] : all(0);
    accumulate<MJ, MJ>(c, X + j * w, X + j * w, w, panel.positives, j, sign);
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
    for (; i + 4 <= rows; i += 4) below<4, MJ>(X, w, panel, i, j, c, inv);
    for (; i < rows; i++) below<1, MJ>(X, w, panel, i, j, c, inv);
  }

  template <int MI, int MJ>
  INLINE void below(V* X, int w, const Panel& panel, int i, int j, const V (&c)[MJ][MJ], const V (&inv)[MJ]) {
    const double* sign = &p_.sign[panel.first];
    V e[MI][MJ];
    V* row = X + std::size_t(i) * w;
    for (int a = 0; a < MI; a++)
      for (int b = 0; b < MJ; b++) e[a][b] = row[a * w + j + b];
    accumulate<MI, MJ>(e, row, X + j * w, w, panel.positives, j, sign);
    for (int b = 0; b < MJ; b++) {
      V scale = sign[j + b] * inv[b];
      for (int a = 0; a < MI; a++) {
        V t = e[a][b];
        for (int k = 0; k < b; k++) t -= sign[j + k] * c[b][k] * e[a][k];
        e[a][b] = t * scale;
      }
    }
    for (int a = 0; a < MI; a++)
      for (int b = 0; b < MJ; b++) row[a * w + j + b] = e[a][b];
  }

  // Rows [i0, i1) and columns [j0, j1), those on and below the diagonal, minus the product of the source's rows. Source
  // row i is from + i width. Target rows and columns: row(i), and column(j); runs of neighbouring columns are one tile.
  template <class Row, class Column>
  INLINE void block(const Panel& source, const V* from, int j0, int j1, int i0, int i1, Row row, Column column) {
    const int w = source.width, positives = source.positives;
    const double* sign = &p_.sign[source.first];
    for (int j = j0; j < j1;) {
      int nj = 1;
      while (nj < 4 && j + nj < j1 && column(j + nj) == column(j) + nj) nj++;
      const V* y = from + std::size_t(j) * w;
      for (int i = std::max(i0, j); i < i1; i += 4) {
        const int ni = std::min(4, i1 - i);
        V* to[4];
        for (int a = 0; a < ni; a++) to[a] = row(i + a);
        if (ni == 4 && nj == 4) tile<4, 4>(to, column(j), from + std::size_t(i) * w, y, w, positives, sign);
        else TILES[ni - 1][nj - 1](to, column(j), from + std::size_t(i) * w, y, w, positives, sign);
      }
      j += nj;
    }
  }

  void update(const Front& front, const Target& t) {
    const Panel& panel = p_.panels[t.panel];
    const int* position = p_.position.data() + t.position - t.begin;
    const int* outer_row = p_.row.data() + front.rows;
    V* X = L_ + panel.offset;
    auto row = [&](int i) { return X + std::size_t(position[i]) * panel.width; };
    auto column = [&](int j) { return outer_row[j] - panel.first; };
    for (int i0 = t.begin; i0 < front.outer; i0 += CHUNK)
      for (int s = front.begin; s < front.end; s++)
        block(p_.panels[s], outer(front, p_.panels[s]), t.begin, t.end, i0, std::min(front.outer, i0 + CHUNK), row, column);
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
      if (panel.positives < w)
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
