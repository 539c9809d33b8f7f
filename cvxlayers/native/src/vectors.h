// Vectors of as many numbers as a register holds, and passes over rows of numbers with them. For sources that are compiled once for
// each instruction set, with -DLANES=count (of doubles).
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

#define INLINE inline __attribute__((always_inline))
#define INLINED __attribute__((always_inline))  // of a lambda

namespace cvxlayers {
namespace {

template <class T>
struct Numbers;

template <>
struct Numbers<float> {
  typedef float V __attribute__((vector_size(LANES * 8)));
  typedef std::int32_t I __attribute__((vector_size(LANES * 8)));
  static constexpr float LOWEST = -87, HIGHEST = 88;  // arguments of exp
  static constexpr float SHIFTER = 0x1.8p23f, LN2_HIGH = 0.693359375f, LN2_LOW = -2.12194440e-4f;
  static constexpr std::int32_t ONE = 0x3f800000;
  static constexpr int DEGREE = 7, MANTISSA = 23;
  static constexpr float FAR = 30, BEYOND = 110;  // |log q| that a pass may be off its center; whose exp is zero
  static constexpr float CLOSE = 1e-4f;           // Newton steps whose square is a rounding error
  static constexpr float FAINT = 1e-19f;          // sums of exp below it may have lost terms
};

template <>
struct Numbers<double> {
  typedef double V __attribute__((vector_size(LANES * 8)));
  typedef std::int64_t I __attribute__((vector_size(LANES * 8)));
  static constexpr double LOWEST = -708, HIGHEST = 709;
  static constexpr double SHIFTER = 0x1.8p52, LN2_HIGH = 6.93147180369123816490e-01, LN2_LOW = 1.90821492927058770002e-10;
  static constexpr std::int64_t ONE = 0x3ff0000000000000LL;
  static constexpr int DEGREE = 13, MANTISSA = 52;
  static constexpr double FAR = 300, BEYOND = 1000;
  static constexpr double CLOSE = 1e-8;
  static constexpr double FAINT = 1e-154;
};

template <class T>
struct Vectors {
  typedef typename Numbers<T>::V V;
  typedef typename Numbers<T>::I I;
  static constexpr int W = int(sizeof(V) / sizeof(T)), BLOCK = 64 * W;
  static constexpr T NONE = std::numeric_limits<T>::quiet_NaN(), INF = std::numeric_limits<T>::infinity();
  static constexpr T EPS = std::numeric_limits<T>::epsilon();

  static INLINE V all(T a) { return a - V{}; }
  static INLINE V select(I m, V a, V b) { return m ? a : b; }
  static INLINE V larger(V a, V b) { return a > b ? a : b; }
  static INLINE V smaller(V a, V b) { return a < b ? a : b; }
  static INLINE V magnitude(V a) { return a < 0 ? -a : a; }

  static T sum(V a) {
    for (int half = W / 2; half; half /= 2)
      for (int l = 0; l < half; l++) a[l] += a[l + half];
    return a[0];
  }
  static T most(V a) {
    T found = a[0];
    for (int l = 1; l < W; l++) found = a[l] > found ? a[l] : found;
    return found;
  }
  static bool any(I m) {
    bool found = false;
    for (int l = 0; l < W; l++) found |= m[l] != 0;
    return found;
  }

  static INLINE V load(const T* from, int count, T fill) {
    V a = all(fill);
    if (count == W) std::memcpy(&a, from, sizeof a);
    else some(&a, from, count);
    return a;
  }
  static INLINE void store(T* to, V a, int count) {
    if (count == W) std::memcpy(to, &a, sizeof a);
    else some(to, &a, count);
  }
  static __attribute__((noinline)) void some(void* to, const void* from, int count) {
    std::memcpy(to, from, std::size_t(count) * sizeof(T));
  }

  // work(i, count) for the registers of a row; the last one may be partial.
  template <class Work>
  static INLINE void each(std::ptrdiff_t n, const Work& work) {
    std::ptrdiff_t i = 0;
    for (; i + W <= n; i += W) work(i, W);
    if (i < n) work(i, int(n - i));
  }

  // K sums of what work(i, count, terms) adds to its terms.
  template <int K, class Work>
  static INLINE void sums(std::ptrdiff_t n, T (&out)[K], const Work& work) {
    V total[K] = {};
    for (std::ptrdiff_t start = 0; start < n; start += BLOCK) {
      V part[K] = {};
      const std::ptrdiff_t end = n - start < BLOCK ? n : start + BLOCK;
      std::ptrdiff_t i = start;
      for (; i + W <= end; i += W) work(i, W, part);
      if (i < end) work(i, int(end - i), part);
      for (int k = 0; k < K; k++) total[k] += part[k];
    }
    for (int k = 0; k < K; k++) out[k] = sum(total[k]);
  }

  static void fill(T* to, std::ptrdiff_t n, T value) {
    for (std::ptrdiff_t i = 0; i < n; i++) to[i] = value;
  }

  // 2^k e^r with the series of e^r, |r| <= log(2)/2: within 1.5 units in the last place; zero below LOWEST.
  static INLINE V exp(V x) {
    typedef Numbers<T> N;
    constexpr T LOG2_E = T(1.44269504088896340736);
    const I gone = x < N::LOWEST;
    x = select(gone, all(N::LOWEST), x), x = select(x > N::HIGHEST, all(N::HIGHEST), x);
    const V shifted = x * LOG2_E + N::SHIFTER, k = shifted - N::SHIFTER;  // k is a whole number, in the last bits of `shifted`
    const V r = (x - k * N::LN2_HIGH) - k * N::LN2_LOW;
    constexpr double INVERSE[] = {1.0, 1.0, 1 / 2.0, 1 / 6.0, 1 / 24.0, 1 / 120.0, 1 / 720.0, 1 / 5040.0, 1 / 40320.0, 1 / 362880.0,
                                  1 / 3628800.0, 1 / 39916800.0, 1 / 479001600.0, 1 / 6227020800.0};  // factorials
    V e = all(T(INVERSE[N::DEGREE]));
    for (int d = N::DEGREE - 1; d >= 0; d--) e = e * r + T(INVERSE[d]);
    return select(gone, V{}, e * (V)(((I)shifted << N::MANTISSA) + N::ONE));
  }
};

}  // namespace
}  // namespace cvxlayers
