// LANES problems side by side: entry k of lane l is entry k of problem l. Everything here is the vector extension of GCC
// and Clang, so that one source serves every instruction set; LANES should be what one register holds.
//
// LANES may be 1: a problem alone.
//
// No lane ever looks at another: all decisions are masks, and `any` only skips work whose result would be masked out. So
// the answer to a problem does not depend on its neighbours.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <vector>

#ifndef LANES
#define LANES 8
#endif

namespace cvxlayers {
namespace {  // each build of the engine has its own

#define INLINE inline __attribute__((always_inline))

#if LANES == 1

// A number and a truth value with the interface of the vectors: registers are left for rows and columns (see kernels.h).
typedef double V;
class Mask {
 public:
  Mask() = default;
  Mask(bool yes) : yes_(yes) {}
  bool operator[](int) const { return yes_; }
  Mask operator~() const { return !yes_; }
  Mask& operator&=(Mask other) { return yes_ &= other.yes_, *this; }
  Mask& operator|=(Mask other) { return yes_ |= other.yes_, *this; }
  friend Mask operator&(Mask a, Mask b) { return a &= b; }
  friend Mask operator|(Mask a, Mask b) { return a |= b; }

 private:
  bool yes_ = false;
};

INLINE V select(Mask m, V a, V b) { return m[0] ? a : b; }
INLINE double at(V a, int) { return a; }
INLINE V magnitude(V a) { return __builtin_fabs(a); }
INLINE V root(V a) { return __builtin_sqrt(a); }
INLINE V power_of_two(V a) {  // rounds down
  long long bits;
  std::memcpy(&bits, &a, sizeof a);
  bits &= 0x7ff0000000000000LL;
  std::memcpy(&a, &bits, sizeof a);
  return a;
}

#else

typedef double V __attribute__((vector_size(LANES * 8)));
typedef long long Mask __attribute__((vector_size(LANES * 8)));

INLINE V select(Mask m, V a, V b) { return m ? a : b; }
INLINE double at(const V& a, int l) { return a[l]; }
INLINE V magnitude(V a) { return (V)((Mask)a & 0x7fffffffffffffffLL); }
INLINE V power_of_two(V a) { return (V)((Mask)a & 0x7ff0000000000000LL); }  // rounds down
INLINE V root(V a) {
  V r;
  for (int l = 0; l < LANES; l++) r[l] = __builtin_sqrt(a[l]);
  return r;
}

#endif

INLINE V all(double x) { return x - V{}; }

// A product that is not fused with the sum around it. Of two products in one sum compilers fuse one or the other; which one
// must not depend on LANES.
INLINE V rounded(V a) {
#if defined(__x86_64__)
  asm("" : "+x"(a));
#elif defined(__aarch64__)
  asm("" : "+w"(a));
#endif
  return a;
}

INLINE V larger(V a, V b) { return a > b ? a : b; }   // b where a is NaN
INLINE V smaller(V a, V b) { return a < b ? a : b; }
INLINE V worse(V a, V b) { return (a > b) | (a != a) ? a : b; }  // NaN where either is: for residuals
INLINE bool any(Mask m) {
  bool found = false;
  for (int l = 0; l < LANES; l++) found |= m[l] != 0;
  return found;
}
INLINE Mask none() { return Mask{}; }

INLINE V largest(const V* a, int n) {
  V r = all(0);
  for (int i = 0; i < n; i++) r = worse(magnitude(a[i]), r);
  return r;
}

INLINE V dot(const V* a, const V* b, int n) {
  V even = all(0), odd = all(0);
  int i = 0;
  for (; i + 2 <= n; i += 2) even += a[i] * b[i], odd += a[i + 1] * b[i + 1];
  if (i < n) even += a[i] * b[i];
  return even + odd;
}

// An array of V, aligned to a cache line.
class Lanes {
 public:
  Lanes() = default;
  explicit Lanes(std::size_t size) : data_(nullptr) {
    void* p = nullptr;
    if (posix_memalign(&p, 64, (size + 1) * sizeof(V))) throw std::bad_alloc();
    data_ = static_cast<V*>(p);
    for (std::size_t k = 0; k <= size; k++) data_[k] = all(0);
  }
  Lanes(Lanes&& other) noexcept : data_(other.data_) { other.data_ = nullptr; }
  Lanes& operator=(Lanes&& other) noexcept {
    std::swap(data_, other.data_);
    return *this;
  }
  Lanes(const Lanes&) = delete;
  ~Lanes() { std::free(data_); }
  operator V*() const { return data_; }

 private:
  V* data_ = nullptr;
};

// rows [LANES or fewer] of `stride` doubles -> lanes; missing lanes repeat the last row. stride 0: the same for all.
inline void pack(V* to, const double* from, std::ptrdiff_t stride, std::ptrdiff_t size, int rows) {
  const double* row[LANES];
  for (int l = 0; l < LANES; l++) row[l] = from + (l < rows ? l : rows - 1) * stride;
  double* out = reinterpret_cast<double*>(to);
  for (std::ptrdiff_t i = 0; i < size; i++)
    for (int l = 0; l < LANES; l++) out[i * LANES + l] = row[l][i];
}

// The same for the entries index[0], index[1], ... of the rows.
inline void pack_at(V* to, const double* from, std::ptrdiff_t stride, const int* index, std::ptrdiff_t size, int rows) {
  const double* row[LANES];
  for (int l = 0; l < LANES; l++) row[l] = from + (l < rows ? l : rows - 1) * stride;
  double* out = reinterpret_cast<double*>(to);
  for (std::ptrdiff_t i = 0; i < size; i++)
    for (int l = 0; l < LANES; l++) out[i * LANES + l] = row[l][index[i]];
}

inline void unpack(double* to, const V* from, std::ptrdiff_t stride, std::ptrdiff_t size, int rows) {
  const double* in = reinterpret_cast<const double*>(from);
  for (int l = 0; l < rows; l++)
    for (std::ptrdiff_t i = 0; i < size; i++) to[l * stride + i] = in[i * LANES + l];
}

}  // namespace
}  // namespace cvxlayers
