// One build of the maps of rows. Compiled several times, with -DBUILD=name -DLANES=count (of doubles) and the instruction set's
// flags. The equations are those of layers/simplex.py, layers/lml.py and layers/softmax.py.
//
// A row stays in the cache: all passes over it but the first are cheap. Sums are taken in the lanes of registers, and in blocks,
// so that those of float have the accuracy of pairwise summation.
#include "rows.h"

#include <cmath>

#include "vectors.h"

#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)

namespace cvxlayers {
namespace {

template <class T>
struct Maps : Vectors<T> {
  typedef Vectors<T> Base;
  using typename Base::I;
  using typename Base::V;
  using Base::all, Base::any, Base::below, Base::each, Base::exp, Base::fill, Base::larger, Base::load, Base::magnitude, Base::most, Base::select;
  using Base::smaller, Base::store, Base::sums, Base::EPS, Base::INF, Base::NONE, Base::W;

  // An input row: `step` 0 is one number for all entries.
  struct Row {
    const T* data;
    bool constant;
    Row(const RowTask& t, int k, std::ptrdiff_t row)
        : data(t.in[k] ? static_cast<const T*>(t.in[k]) + row * t.stride[k] : nullptr), constant(!t.step[k]) {}
    Row(const T* own) : data(own), constant(false) {}
    INLINE V at(std::ptrdiff_t i, int count, T fill) const {
      if (!constant) return load(data + i, count, fill);
      return count < W ? select(below(count), all(*data), all(fill)) : all(*data);
    }
  };
  // ---- argmin |y - x|^2 subject to 0 <= y <= u, 1'y = r; `code` is 1 where y is free, -1 at u, -2 at u and the first to
  // leave it in a row where nothing is free, else 0. Without u: no upper bounds.

  // A row of this problem, shifted so that the largest entry of x is 0. No entry of y is more than r.
  struct Box {
    Row x, u;
    T top, r;
    INLINE V z(std::ptrdiff_t i, int count) const { return x.at(i, count, -INF) - top; }
    INLINE V bound(std::ptrdiff_t i, int count) const { return u.data ? u.at(i, count, 0) : all(INF); }
    INLINE V cap(std::ptrdiff_t i, int count) const { return u.data ? smaller(u.at(i, count, 0), all(r)) : all(r); }
  };

  static bool capped(const RowTask& t, std::ptrdiff_t row) {
    const std::ptrdiff_t n = t.n;
    const Row x(t, 0, row), u(t, 1, row);
    const T r = *Row(t, 2, row).data;
    T *y = static_cast<T*>(t.out[0]) + row * n, *code = static_cast<T*>(t.out[1]) + row * n;
    V tops = all(-INF), lows = all(INF);
    I strange{}, negative{};
    each(n, [&](std::ptrdiff_t i, int count) INLINED {
      const V a = x.at(i, count, -INF);
      strange |= ~(a < INF), tops = larger(a, tops);
    });
    Box box{x, u, most(tops), r};
    T room[1];
    sums(n, room, [&](std::ptrdiff_t i, int count, V* part) INLINED {
      const V bound = box.bound(i, count), z = box.z(i, count), cap = box.cap(i, count);
      const I there = z > -INF;
      strange |= bound != bound, negative |= bound < 0;
      part[0] += select(there, cap, V{});
      lows = smaller(select(there, z - cap, all(INF)), lows);
    });
    const bool nan = any(strange) || r != r;
    const bool fine = nan || (r >= 0 && r < INF && !any(negative) && room[0] >= r * (1 - 16 * EPS));
    if (nan || !fine) return fill(y, n, NONE), fill(code, n, NONE), fine;
    T low = -most(-lows), high = 0, at = -r > low && !(room[0] <= r && r > 0) ? -r : low;
    for (int k = 0; k < 200; k++) {
      T found[2];
      sums(n, found, [&](std::ptrdiff_t i, int count, V* part) INLINED {
        const V z = box.z(i, count), cap = box.cap(i, count), above = z - at;
        part[0] += smaller(larger(above, V{}), cap);
        part[1] += select((z > at) & (z - cap < at), all(1), V{});
      });
      const T excess = found[0] - r;
      if (excess >= 0) low = at;
      if (excess <= 0) high = at;
      if (std::fabs(excess) <= 2 * EPS * r || !(low < high)) break;
      T next = found[1] > 0 ? at + excess / found[1] : INF;
      const bool done = std::fabs(next - at) <= EPS * std::fabs(at);
      if (!done && !(next > low && next < high)) next = low + (high - low) / 2;
      at = next;
      if (done) break;
    }
    I free{};
    V first = all(INF);
    each(n, [&](std::ptrdiff_t i, int count) INLINED {
      const V z = box.z(i, count), bound = box.bound(i, count), least = z - bound;
      const I full = (least >= at) & (z > -INF), on = (z > at) & ~full;
      store(y + i, select(full, bound, select(on, z - at, V{})), count);
      store(code + i, select(full, all(-1), select(on, all(1), V{})), count);
      free |= on, first = smaller(select(full, least, all(INF)), first);
    });
    if (const T least = -most(-first); !any(free) && least < INF)
      each(n, [&](std::ptrdiff_t i, int count) INLINED {
        const I full = load(code + i, count, 0) < 0;
        store(code + i, select(full, select(box.z(i, count) - box.bound(i, count) <= least, all(-2), all(-1)), V{}), count);
      });
    return true;
  }

  // mean: of c over the free entries, or over those that come free next. dx = free (c - mean), du = (at u) (c - mean), dr = mean.
  static bool capped_vjp(const RowTask& t, std::ptrdiff_t row) {
    const std::ptrdiff_t n = t.n;
    const Row code(t, 0, row), c(t, 1, row);
    T* dx = static_cast<T*>(t.out[0]) + row * n;
    T* du = t.out[1] ? static_cast<T*>(t.out[1]) + row * n : nullptr;
    T found[4];
    sums(n, found, [&](std::ptrdiff_t i, int count, V* part) INLINED {
      const V s = code.at(i, count, 0), a = c.at(i, count, 0);
      const I on = s > 0, next = s < T(-1.5);
      part[0] += select(on, all(1), V{}), part[1] += select(on, a, V{});
      part[2] += select(next, all(1), V{}), part[3] += select(next, a, V{});
      part[0] += select(s != s, s, V{});
    });
    const T mean = found[0] > 0 ? found[1] / found[0] : found[2] > 0 ? found[3] / found[2] : found[0];
    each(n, [&](std::ptrdiff_t i, int count) INLINED {
      const V s = code.at(i, count, 0), a = c.at(i, count, 0) - mean;
      store(dx + i, select(s <= 0, V{}, a), count);
      if (du) store(du + i, select(s >= 0, V{}, a), count);
    });
    if (t.out[2]) static_cast<T*>(t.out[2])[row] = mean;
    return true;
  }

  // ---- y = 1/(1 + e^-z), z = (x + nu)/tau, 1'y = k.
  //
  // q = e^z at any nu is a multiple of what it is at another one, so that a pass of Newton's method needs no exp. Entries below
  // 1/2 count by y, the others by 1 - y and in `above`, so that nothing is lost where y rounds to 1; the equation is
  // log(a/b) = 0, which is nearly linear at both ends, with a - b = 1'y - k and neither of them a difference.

  static bool lml(const RowTask& t, std::ptrdiff_t row) {
    typedef Numbers<T> N;
    const std::ptrdiff_t n = t.n;
    const Row x(t, 0, row);
    const T k = *Row(t, 1, row).data, tau = *Row(t, 2, row).data;
    T *y = static_cast<T*>(t.out[0]) + row * n, *z = static_cast<T*>(t.out[1]) + row * n;
    V tops = all(-INF), lows = all(INF);
    I strange{};
    T there[1];
    sums(n, there, [&](std::ptrdiff_t i, int count, V* part) INLINED {
      const V a = x.at(i, count, -INF);
      const I on = a > -INF;
      strange |= ~(a < INF), tops = larger(a, tops), lows = smaller(select(on, a, all(INF)), lows);
      part[0] += select(on, all(1), V{});
    });
    const T top = most(tops), bottom = -most(-lows), m = there[0];
    const bool nan = any(strange) || k != k || tau != tau, fine = nan || (k >= 0 && k <= m && tau > 0);
    if (nan || !fine || !(tau < INF)) return fill(y, n, NONE), fill(z, n, NONE), fine;
    if (k == 0 || k == m) {  // z out of the reach of exp, where the derivative in k still has its limit
      const T center = k == 0 ? top : bottom, beyond = k == 0 ? -N::BEYOND : N::BEYOND;
      each(n, [&](std::ptrdiff_t i, int count) INLINED {
        const V a = x.at(i, count, -INF);
        store(z + i, select(a > -INF, (a - center) / tau + beyond, all(-LARGE)), count);
        store(y + i, select(a > -INF, all(k == 0 ? T(0) : T(1)), V{}), count);
      });
      return true;
    }
    // z = (x - center)/tau + s with |s| <= FAR: the center moves in the units of x, and s finely, however large x/tau is.
    const T shift = std::log(k / (m - k)) * tau;
    T c_low = bottom - shift, c_high = top - shift, center = c_low + (c_high - c_low) / 2, s = 0, low = -N::FAR, high = N::FAR;
    bool fresh = true;
    for (int step = 0; step < 500; step++) {
      if (fresh) {
        T total[1];
        sums(n, total, [&](std::ptrdiff_t i, int count, V* part) INLINED {
          const V e = exp((x.at(i, count, -INF) - center) / tau);
          store(z + i, e, count);
          part[0] += e;
        });
        const T least = std::log(k / total[0]);  // since y <= q, the root is not below
        if (step == 0 && (top - center) / tau < N::HIGHEST && std::fabs(least) < N::FAR) s = low = least;
        fresh = false;
      }
      const T q = std::exp(s);
      T found[5];  // below: y and its slope; above: 1 - y and its slope; how many are above
      sums(n, found, [&](std::ptrdiff_t i, int count, V* part) INLINED {
        const V odd = load(z + i, count, 0) * q, v = smaller(odd, all(1)) / (1 + odd), w = v - v * v;
        const I under = odd < 1;
        part[0] += select(under, v, V{}), part[1] += select(under, w, V{});
        part[2] += select(under, V{}, v), part[3] += select(under, V{}, w), part[4] += select(under, V{}, all(1));
      });
      const T over = found[4] - k, a = found[0] + (over > 0 ? over : 0), b = found[2] + (over < 0 ? -over : 0);
      if (a == b || a + b < N::FAINT) break;  // or the gap at nu is so wide that nothing there matters
      (a > b ? high : low) = s;
      if (s == 0) (a > b ? c_low : c_high) = center;
      T next = s - std::log(a / b) / (found[1] / a + found[3] / b);
      const bool wide = std::fabs(a - b) >= 1 && (c_high - c_low) / tau > N::FAR;  // Newton would climb stairs
      if (wide) next = INF;
      if (std::fabs(next) <= N::FAR) {
        const bool newton = next > low && next < high;
        if (!newton) next = low + (high - low) / 2;
        const T moved = std::fabs(next - s);
        s = next;
        if (moved <= (newton ? N::CLOSE : EPS)) break;
      } else {
        center -= next * tau;
        if (!(center > c_low && center < c_high)) center = c_low + (c_high - c_low) / 2;
        if (!(center > c_low && center < c_high)) break;
        s = 0, low = -N::FAR, high = N::FAR, fresh = true;
      }
    }
    const T q = std::exp(s);
    each(n, [&](std::ptrdiff_t i, int count) INLINED {
      const V odd = load(z + i, count, 0) * q, v = smaller(odd, all(1)) / (1 + odd);
      store(y + i, select(odd < 1, v, 1 - v), count);
      store(z + i, smaller(larger((x.at(i, count, -INF) - center) / tau + s, all(-LARGE)), all(LARGE)), count);
    });
    return true;
  }
  static constexpr T LARGE = T(1e30);  // stands for infinity in z, times 0 is 0

  // w = y (1 - y), mean = <w, c>/1'w. dx = w (c - mean)/tau, dk = mean, dtau = -<z, dx>. Where all w underflow they are taken
  // relative to the largest.
  static bool lml_vjp(const RowTask& t, std::ptrdiff_t row) {
    const std::ptrdiff_t n = t.n;
    const Row z(t, 0, row), c(t, 2, row);
    const T tau = *Row(t, 1, row).data;
    T* dx = static_cast<T*>(t.out[0]) + row * n;
    T least = 0, found[2];
    const auto weigh = [&] {
      const T scale = std::exp(-least);
      sums(n, found, [&](std::ptrdiff_t i, int count, V* part) INLINED {
        const V e = exp(least - magnitude(z.at(i, count, -INF))), below = 1 + e * scale, w = e / (below * below);
        store(dx + i, w, count);
        part[0] += w, part[1] += w * c.at(i, count, 0);
      });
    };
    weigh();
    if (found[0] < Numbers<T>::FAINT) {
      V lows = all(INF);
      each(n, [&](std::ptrdiff_t i, int count) INLINED { lows = smaller(magnitude(z.at(i, count, INF)), lows); });
      least = -most(-lows);
      weigh();
    }
    const T mean = found[1] / found[0], scale = std::exp(-least) / tau;
    T inner[1];
    sums(n, inner, [&](std::ptrdiff_t i, int count, V* part) INLINED {
      const V g = load(dx + i, count, 0) * scale * (c.at(i, count, mean) - mean);
      store(dx + i, g, count);
      part[0] += g * z.at(i, count, 0);
    });
    static_cast<T*>(t.out[1])[row] = mean, static_cast<T*>(t.out[2])[row] = -inner[0];
    return true;
  }

  // ---- argmax <x, y> + H(y) subject to 0 <= y <= u, 1'y = 1: y = min(u, q e^x). 1'y is concave in q: Newton's method from the
  // left never passes the root. `state` is y where it is free, and -1 at u.

  static bool softmax(const RowTask& t, std::ptrdiff_t row) {
    const std::ptrdiff_t n = t.n;
    const Row x(t, 0, row), u(t, 1, row);
    T *y = static_cast<T*>(t.out[0]) + row * n, *state = static_cast<T*>(t.out[1]) + row * n;
    V tops = all(-INF);
    I strange{}, negative{};
    T room[1];
    sums(n, room, [&](std::ptrdiff_t i, int count, V* part) INLINED {
      const V a = x.at(i, count, -INF), bound = u.at(i, count, 0);
      strange |= ~(a < INF) | (bound != bound), negative |= bound < 0, tops = larger(a, tops);
      part[0] += select(a > -INF, smaller(bound, all(1)), V{});
    });
    T top = most(tops);
    const bool nan = any(strange), fine = nan || (!any(negative) && room[0] >= 1 - 16 * EPS);
    if (nan || !fine) return fill(y, n, NONE), fill(state, n, NONE), fine;
    T q = 0, found[2];
    for (bool centered = false;;) {
      if (!centered) {
        each(n, [&](std::ptrdiff_t i, int count) INLINED { store(y + i, exp(x.at(i, count, -INF) - top), count); });
        centered = true;
      }
      sums(n, found, [&](std::ptrdiff_t i, int count, V* part) INLINED {
        const V e = load(y + i, count, 0), bound = u.at(i, count, 0);
        const I full = (e > 0) & (e * q >= bound);
        part[0] += select(full, bound, V{}), part[1] += select(full, V{}, e);
      });
      if (found[1] < Numbers<T>::FAINT) {  // what is free is far below the rest: it becomes the center
        tops = all(-INF);
        each(n, [&](std::ptrdiff_t i, int count) INLINED {
          const V e = load(y + i, count, 0);
          tops = larger(select((e > 0) & (e * q >= u.at(i, count, 0)), all(-INF), x.at(i, count, -INF)), tops);
        });
        const T next = most(tops);
        if (next == -INF) break;  // nothing is free
        if (next < top) {
          q *= std::exp(next - top), top = next, centered = false;
          continue;
        }
      }
      const T next = (found[0] < 1 ? 1 - found[0] : 0) / found[1];
      if (!(next > q)) break;
      q = next;
    }
    each(n, [&](std::ptrdiff_t i, int count) INLINED {
      const V e = load(y + i, count, 0), bound = u.at(i, count, 0);
      const I full = (e > 0) & (e * q >= bound);
      store(y + i, select(full, bound, e * q), count), store(state + i, select(full, all(-1), e * q), count);
    });
    return true;
  }

  // mean of c over the free entries, with weights y. dx = y (c - mean) where free, du = c - mean at u.
  static bool softmax_vjp(const RowTask& t, std::ptrdiff_t row) {
    const std::ptrdiff_t n = t.n;
    const Row state(t, 0, row), c(t, 1, row);
    T *dx = static_cast<T*>(t.out[0]) + row * n, *du = static_cast<T*>(t.out[1]) + row * n, found[2];
    sums(n, found, [&](std::ptrdiff_t i, int count, V* part) INLINED {
      const V s = state.at(i, count, 0), p = select(s < 0, V{}, s);
      part[0] += p, part[1] += p * c.at(i, count, 0);
    });
    const T mean = found[0] == 0 ? T(0) : found[1] / found[0];
    each(n, [&](std::ptrdiff_t i, int count) INLINED {
      const V s = state.at(i, count, 0), a = c.at(i, count, 0) - mean;
      store(dx + i, select(s < 0, V{}, s * a), count), store(du + i, select(s >= 0, V{}, a), count);
    });
    return true;
  }

  static bool run(RowKernel kernel, const RowTask& task, std::ptrdiff_t row) {
    switch (kernel) {
      case CAPPED: return capped(task, row);
      case CAPPED_VJP: return capped_vjp(task, row);
      case LML: return lml(task, row);
      case LML_VJP: return lml_vjp(task, row);
      case SOFTMAX: return softmax(task, row);
      default: return softmax_vjp(task, row);
    }
  }
};

bool run(RowKernel kernel, bool single, const RowTask& task, std::ptrdiff_t row) {
  return single ? Maps<float>::run(kernel, task, row) : Maps<double>::run(kernel, task, row);
}

}  // namespace

#define NAME_(build) rows_##build
#define NAME(build) NAME_(build)
extern const RowBuild NAME(BUILD);
const RowBuild NAME(BUILD) = {TEXT(BUILD), run};

}  // namespace cvxlayers
