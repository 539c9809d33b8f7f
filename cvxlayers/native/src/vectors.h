// Vectors of as many numbers as a register holds, and passes over rows of numbers with them. For sources that are compiled once for
// each instruction set, with -DLANES=count (of doubles).
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

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

// The first `count` numbers of a register, fewer than it holds: rows that are short consist of little else.
#if defined(__AVX512F__) && LANES == 8
INLINE Numbers<double>::V some(const double* from, int count) { return _mm512_maskz_loadu_pd(__mmask8((1u << count) - 1), from); }
INLINE Numbers<float>::V some(const float* from, int count) { return _mm512_maskz_loadu_ps(__mmask16((1u << count) - 1), from); }
INLINE void some(double* to, Numbers<double>::V a, int count) { _mm512_mask_storeu_pd(to, __mmask8((1u << count) - 1), a); }
INLINE void some(float* to, Numbers<float>::V a, int count) { _mm512_mask_storeu_ps(to, __mmask16((1u << count) - 1), a); }
#elif defined(__AVX2__) && LANES == 4
INLINE __m256i those(double, int count) { return _mm256_cmpgt_epi64(_mm256_set1_epi64x(count), _mm256_setr_epi64x(0, 1, 2, 3)); }
INLINE __m256i those(float, int count) { return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)); }
INLINE Numbers<double>::V some(const double* from, int count) { return _mm256_maskload_pd(from, those(0.0, count)); }
INLINE Numbers<float>::V some(const float* from, int count) { return _mm256_maskload_ps(from, those(0.0f, count)); }
INLINE void some(double* to, Numbers<double>::V a, int count) { _mm256_maskstore_pd(to, those(0.0, count), a); }
INLINE void some(float* to, Numbers<float>::V a, int count) { _mm256_maskstore_ps(to, those(0.0f, count), a); }
#else
template <class T>
__attribute__((noinline)) typename Numbers<T>::V some(const T* from, int count) {
  typename Numbers<T>::V a{};
  std::memcpy(&a, from, std::size_t(count) * sizeof(T));
  return a;
}
template <class T>
__attribute__((noinline)) void some(T* to, typename Numbers<T>::V a, int count) {
  std::memcpy(to, &a, std::size_t(count) * sizeof(T));
}
#endif

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
    V a;
    if (count < W) return select(below(count), some(from, count), all(fill));
    std::memcpy(&a, from, sizeof a);
    return a;
  }
  static INLINE void store(T* to, V a, int count) {
    if (count < W) some(to, a, count);
    else std::memcpy(to, &a, sizeof a);
  }
  // The lanes of the first `count`.
  static INLINE I below(int count) {
    I lane{};
    for (int l = 0; l < W; l++) lane[l] = l;
    return lane < count;
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
