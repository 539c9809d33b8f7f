// Projections onto permutahedra, row by row: a sort, isotonic regression by pooling adjacent violators, and means over its
// blocks. Rows of n numbers of one type, `stride` apart; stride 0: the same for all. Sums are in double precision.
#include <algorithm>
#include <atomic>
#include <climits>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <new>
#include <type_traits>
#include <vector>

#include "export.h"
#include "pool.h"

namespace cvxlayers {
namespace {

constexpr std::ptrdiff_t PART = 1 << 12;  // entries that are worth another thread
constexpr std::ptrdiff_t FEW = 80, MANY = 1500;  // rows up to FEW are sorted by comparisons, from MANY on by long digits

// work(row, scratch) for all rows, in parts that are worth it; each part has its own scratch. Whether there was memory for it.
template <class Scratch, class Work>
bool each_row(int threads, std::ptrdiff_t batch, const Work& work) {
  const std::ptrdiff_t worth = PART / std::max<std::ptrdiff_t>(work.n, 1), parts = 4 * std::max(threads, 1);
  const std::ptrdiff_t part = std::max<std::ptrdiff_t>({1, worth, batch / parts});
  std::atomic<bool> enough{true};
  Pool::get().run(threads, (batch + part - 1) / part, [&](std::ptrdiff_t p) {
    try {
      Scratch scratch(work.n);
      for (std::ptrdiff_t b = p * part; b < std::min(batch, (p + 1) * part); b++) work(b, scratch);
    } catch (const std::bad_alloc&) {
      enough = false;
    }
  });
  return enough;
}

template <class T>
using Bits = std::conditional_t<sizeof(T) == 8, std::uint64_t, std::uint32_t>;

// A number as an unsigned integer of the same order, and where it was.
template <class T>
struct Entry {
  Bits<T> key;
  std::uint32_t place;
};

template <class T>
Bits<T> to_key(T x) {
  constexpr Bits<T> top = Bits<T>(1) << (8 * sizeof(T) - 1);
  Bits<T> bits;
  x += T(0);  // one zero
  std::memcpy(&bits, &x, sizeof(T));
  return bits & top ? ~bits : bits | top;
}

template <class T>
T to_number(Bits<T> key) {
  constexpr Bits<T> top = Bits<T>(1) << (8 * sizeof(T) - 1);
  key = key & top ? key & ~top : ~key;
  T x;
  std::memcpy(&x, &key, sizeof(T));
  return x;
}

template <int DIGIT, class T>
Entry<T>* sorted_by_digits(Entry<T>* a, Entry<T>* b, std::ptrdiff_t n) {
  constexpr int BUCKETS = 1 << DIGIT;
  constexpr int passes = (8 * sizeof(T) + DIGIT - 1) / DIGIT;
  std::uint32_t counts[passes][BUCKETS] = {};
  for (std::ptrdiff_t i = 0; i < n; i++)
    for (int d = 0; d < passes; d++) counts[d][(a[i].key >> (DIGIT * d)) & (BUCKETS - 1)]++;
  for (int d = 0; d < passes; d++) {
    std::uint32_t* count = counts[d];
    if (count[(a[0].key >> (DIGIT * d)) & (BUCKETS - 1)] == std::uint32_t(n)) continue;  // a digit that all have
    std::uint32_t before = 0;
    for (int k = 0; k < BUCKETS; k++) {
      const std::uint32_t own = count[k];
      count[k] = before, before += own;
    }
    for (std::ptrdiff_t i = 0; i < n; i++) b[count[(a[i].key >> (DIGIT * d)) & (BUCKETS - 1)]++] = a[i];
    std::swap(a, b);
  }
  return a;
}

// Sorts `a`, equal keys by their place, which is their order at first; `b` is scratch of the same size. Returns the one of the
// two that has the result.
template <class T>
Entry<T>* sorted(Entry<T>* a, Entry<T>* b, std::ptrdiff_t n) {
  if (n > FEW) return n < MANY ? sorted_by_digits<8>(a, b, n) : sorted_by_digits<11>(a, b, n);
  std::sort(a, a + n, [](const Entry<T>& l, const Entry<T>& r) { return l.key != r.key ? l.key < r.key : l.place < r.place; });
  return a;
}

struct Block {
  double mean;
  std::ptrdiff_t first;
};

// The blocks of argmin |v - t|^2 subject to v_1 <= ... <= v_n, equal neighbours in one; returns how many they are.
template <class Target>
std::ptrdiff_t pool(std::ptrdiff_t n, const Target& t, Block* blocks) {
  std::ptrdiff_t count = 0;
  for (std::ptrdiff_t i = 0; i < n; i++) {
    Block own{t(i), i};
    for (; count && blocks[count - 1].mean >= own.mean; count--) {
      const Block& before = blocks[count - 1];  // the mean of equal ones is the same to the last bit, which a sum would lose
      const double share = double(own.first - before.first) / double(i + 1 - before.first);
      own = {own.mean + (before.mean - own.mean) * share, before.first};
    }
    blocks[count++] = own;
  }
  return count;
}

// The mean of a(first), ..., a(last): exactly the common value of equal ones.
template <class Array>
double mean(std::ptrdiff_t first, std::ptrdiff_t last, const Array& a) {
  const double start = a(first);
  double sum = 0;
  for (std::ptrdiff_t i = first + 1; i <= last; i++) sum += a(i) - start;
  return sum == 0 ? start : start + sum / double(last - first + 1);
}

template <class T>
struct Scratch {
  std::vector<Entry<T>> entries, others;
  std::vector<Block> blocks;
  explicit Scratch(std::ptrdiff_t n) : entries(n), others(n), blocks(n) {}
};

template <class T>
struct Projection {
  std::ptrdiff_t n;
  bool rank;
  const T* x;
  std::ptrdiff_t x_stride;
  const T* eps;
  std::ptrdiff_t eps_stride;
  T *y, *order, *first, *last, *off, *inverses;
  std::atomic<std::ptrdiff_t>* wrong;

  void operator()(std::ptrdiff_t b, Scratch<T>& scratch) const {
    const T* xb = x + b * x_stride;
    const double e = eps[b * eps_stride];
    T *yb = y + b * n, *ob = order + b * n, *fb = first + b * n, *lb = last + b * n, *qb = rank ? off + b * n : nullptr;
    const double inverse = std::isfinite(e) && e >= double(std::numeric_limits<T>::min()) ? 1 / e : 0;  // else it has no effect
    if (eps_stride || !b) inverses[eps_stride ? b : 0] = T(inverse);
    if (e < 0) ++*wrong;
    bool good = std::isfinite(e) && e >= 0;
    for (std::ptrdiff_t i = 0; i < n; i++) good = good && std::isfinite(xb[i]);
    if (!good) {
      for (std::ptrdiff_t i = 0; i < n; i++) yb[i] = std::numeric_limits<T>::quiet_NaN(), ob[i] = T(i), fb[i] = 0, lb[i] = T(n - 1);
      if (rank) std::fill(qb, qb + n, T(0));
      return;
    }
    for (std::ptrdiff_t i = 0; i < n; i++) scratch.entries[i] = {to_key(xb[i]), std::uint32_t(i)};
    const Entry<T>* entries = sorted(scratch.entries.data(), scratch.others.data(), n);
    Block* blocks = scratch.blocks.data();
    const auto s = [&](std::ptrdiff_t i) { return double(to_number<T>(entries[i].key)); };
    const std::ptrdiff_t count = rank ? pool(n, [&](std::ptrdiff_t i) { return s(i) - e * double(i); }, blocks)
                                      : pool(n, [&](std::ptrdiff_t i) { return double(i) - e * s(i); }, blocks);
    for (std::ptrdiff_t k = 0; k < count; k++) {
      const std::ptrdiff_t f = blocks[k].first, l = (k + 1 < count ? blocks[k + 1].first : n) - 1;
      const double middle = 0.5 * double(f + l), average = mean(f, l, s);
      for (std::ptrdiff_t i = f; i <= l; i++) {
        const std::uint32_t place = entries[i].place;
        ob[i] = T(place), fb[i] = T(f), lb[i] = T(l);
        if (rank) {
          const double q = (s(i) - average) * inverse;
          qb[place] = T(q), yb[place] = T(middle + 1 + q);
        } else {
          yb[i] = T(average + (double(i) - middle) * inverse);
        }
      }
    }
  }
};

struct Nothing {
  explicit Nothing(std::ptrdiff_t) {}
};

template <class T>
struct Means {
  std::ptrdiff_t n;
  bool scatter;
  const T* c;
  std::ptrdiff_t c_stride;
  const T *order, *last;
  std::ptrdiff_t stride;
  T* out;

  void operator()(std::ptrdiff_t b, Nothing&) const {
    const T *cb = c + b * c_stride, *ob = order + b * stride, *lb = last + b * stride;
    T* to = out + b * n;
    const auto at = [&](std::ptrdiff_t i) { return double(cb[std::ptrdiff_t(ob[i])]); };
    for (std::ptrdiff_t f = 0, l; f < n; f = l + 1) {
      l = std::ptrdiff_t(lb[f]);
      const T average = T(mean(f, l, at));
      for (std::ptrdiff_t i = f; i <= l; i++) to[scatter ? std::ptrdiff_t(ob[i]) : i] = average;
    }
  }
};

// The gradients of <c, y> in x and in eps.
template <class T>
struct Gradient {
  std::ptrdiff_t n;
  bool rank, descending;
  const T* c;
  std::ptrdiff_t c_stride;
  const T *order, *last, *off;
  std::ptrdiff_t stride;
  const T* inverses;
  std::ptrdiff_t inverse_stride;
  T *dx, *deps;

  void operator()(std::ptrdiff_t b, Nothing&) const {
    const T *cb = c + b * c_stride, *ob = order + b * stride, *lb = last + b * stride, *qb = rank ? off + b * stride : nullptr;
    const double inverse = inverses[b * inverse_stride];
    T* to = dx + b * n;
    double along = 0;  // <(I - M) y, c>
    for (std::ptrdiff_t f = 0, l; f < n; f = l + 1) {
      l = std::ptrdiff_t(lb[f]);
      const double middle = 0.5 * double(f + l);
      const double average = mean(f, l, [&](std::ptrdiff_t i) { return double(rank ? cb[std::ptrdiff_t(ob[i])] : cb[i]); });
      for (std::ptrdiff_t i = f; i <= l; i++) {
        const std::ptrdiff_t place = std::ptrdiff_t(ob[i]);
        to[place] = T(rank ? inverse * (cb[place] - average) : average);
        along += rank ? double(qb[place]) * cb[place] : (double(i) - middle) * inverse * cb[i];
      }
    }
    deps[b] = T(descending ? inverse * along : -inverse * along);
  }
};

template <class T>
int project(int threads, std::ptrdiff_t batch, std::ptrdiff_t n, int rank, const void* x, std::ptrdiff_t x_stride, const void* eps,
            std::ptrdiff_t eps_stride, void* y, void* order, void* first, void* last, void* off, void* inverses) {
  const auto in = [](const void* a) { return static_cast<const T*>(a); };
  const auto out = [](void* a) { return static_cast<T*>(a); };
  std::atomic<std::ptrdiff_t> wrong{0};
  const Projection<T> work{n, rank != 0, in(x), x_stride, in(eps), eps_stride, out(y), out(order),
                           out(first), out(last), out(off), out(inverses), &wrong};
  return each_row<Scratch<T>>(threads, batch, work) ? int(std::min<std::ptrdiff_t>(wrong, INT_MAX)) : -1;
}

template <class T>
int gradient(int threads, std::ptrdiff_t batch, std::ptrdiff_t n, int rank, int descending, const void* c, std::ptrdiff_t c_stride,
             const void* order, const void* last, const void* off, std::ptrdiff_t stride, const void* inverses,
             std::ptrdiff_t inverse_stride, void* dx, void* deps) {
  const auto in = [](const void* a) { return static_cast<const T*>(a); };
  return each_row<Nothing>(threads, batch, Gradient<T>{n, rank != 0, descending != 0, in(c), c_stride, in(order), in(last), in(off), stride,
                                                       in(inverses), inverse_stride, static_cast<T*>(dx), static_cast<T*>(deps)}) - 1;
}

template <class T>
int average(int threads, std::ptrdiff_t batch, std::ptrdiff_t n, int scatter, const void* c, std::ptrdiff_t c_stride,
            const void* order, const void* last, std::ptrdiff_t stride, void* out) {
  const auto in = [](const void* a) { return static_cast<const T*>(a); };
  return each_row<Nothing>(threads, batch, Means<T>{n, scatter != 0, in(c), c_stride, in(order), in(last), stride,
                                                    static_cast<T*>(out)}) - 1;
}

}  // namespace
}  // namespace cvxlayers

using namespace cvxlayers;

// All arrays are of float (single) or of double. x (batch, n), eps (batch, 1); y (batch, n): with rank the soft ranks, else the
// soft sort; order: where the sorted entries are in x; first, last: of the block of each sorted entry; off: with rank, y less
// the mean of its block; inverses: 1 / eps, as many as there are of eps. A row that is not finite, or with eps < 0, has NaN in y
// and is one block. Returns how many have eps < 0. All three: -1 without memory.
EXPORT int cvxlayers_permutahedron(int threads, std::ptrdiff_t batch, std::ptrdiff_t n, int single, int rank, const void* x,
                                   std::ptrdiff_t x_stride, const void* eps, std::ptrdiff_t eps_stride, void* y, void* order,
                                   void* first, void* last, void* off, void* inverses) {
  return (single ? project<float> : project<double>)(threads, batch, n, rank, x, x_stride, eps, eps_stride, y, order, first, last, off,
                                                     inverses);
}

// dx (batch, n), deps (batch, 1): the gradients of <c, y>; descending: y was the soft sort of -x, times -1.
EXPORT int cvxlayers_permutahedron_vjp(int threads, std::ptrdiff_t batch, std::ptrdiff_t n, int single, int rank, int descending,
                                       const void* c, std::ptrdiff_t c_stride, const void* order, const void* last, const void* off,
                                       std::ptrdiff_t stride, const void* inverses, std::ptrdiff_t inverse_stride,
                                       void* dx, void* deps) {
  return (single ? gradient<float> : gradient<double>)(threads, batch, n, rank, descending, c, c_stride, order, last, off, stride,
                                                       inverses, inverse_stride, dx, deps);
}

// out (batch, n) := the means over the blocks of c, which is in the order of x; out is in that of the sorted entries or, with
// scatter, in that of x.
EXPORT int cvxlayers_block_means(int threads, std::ptrdiff_t batch, std::ptrdiff_t n, int single, int scatter, const void* c,
                                 std::ptrdiff_t c_stride, const void* order, const void* last, std::ptrdiff_t stride, void* out) {
  return (single ? average<float> : average<double>)(threads, batch, n, scatter, c, c_stride, order, last, stride, out);
}
