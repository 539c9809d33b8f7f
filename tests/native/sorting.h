// Soft ranks, soft sorts and the means over their blocks, a part of driver.cpp.
#pragma once

extern "C" {
int cvxlayers_permutahedron(int threads, std::ptrdiff_t batch, std::ptrdiff_t n, int single, int rank, const void* x,
                            std::ptrdiff_t x_stride, const void* eps, std::ptrdiff_t eps_stride, void* y, void* order, void* first,
                            void* last, void* off, void* inverses);
int cvxlayers_permutahedron_vjp(int threads, std::ptrdiff_t batch, std::ptrdiff_t n, int single, int rank, int descending, const void* c,
                                std::ptrdiff_t c_stride, const void* order, const void* last, const void* off, std::ptrdiff_t stride,
                                const void* inverses, std::ptrdiff_t inverse_stride, void* dx, void* deps);
int cvxlayers_block_means(int threads, std::ptrdiff_t batch, std::ptrdiff_t n, int single, int scatter, const void* c,
                          std::ptrdiff_t c_stride, const void* order, const void* last, std::ptrdiff_t stride, void* out);
}

namespace {

// Sums are those of 1, ..., n and of x; means over blocks, and gradients of a sort, keep them; gradients of ranks sum to zero. One
// row has an infinite entry.
template <class T>
void sorting(std::ptrdiff_t n, bool rank) {
  const std::ptrdiff_t B = 5, odd = 3;
  std::vector<T> x(B * n), eps{T(0.3)}, y(B * n), order(B * n), first(B * n), last(B * n), off(rank ? B * n : 0), c(B * n), inverse(1);
  std::vector<T> dx(B * n), deps(B), means(B * n);
  for (std::ptrdiff_t k = 0; k < B * n; k++) x[k] = k % 4 ? T(uniform() * 3) : T(1), c[k] = T(uniform());
  x[odd * n] = std::numeric_limits<T>::infinity();
  T* const q = rank ? off.data() : nullptr;
  CHECK(!cvxlayers_permutahedron(3, B, n, sizeof(T) == 4, rank, x.data(), n, eps.data(), 0, y.data(), order.data(), first.data(),
                                 last.data(), q, inverse.data()));
  CHECK(inverse[0] == T(1) / eps[0]);
  CHECK(!cvxlayers_permutahedron_vjp(3, B, n, sizeof(T) == 4, rank, 0, c.data(), n, order.data(), last.data(), q, n, inverse.data(), 0,
                                     dx.data(), deps.data()));
  for (int scatter = 0; scatter < 2; scatter++) {
    CHECK(!cvxlayers_block_means(3, B, n, sizeof(T) == 4, scatter, c.data(), n, order.data(), last.data(), n, means.data()));
    for (std::ptrdiff_t i = 0; i < B; i++) {
      double in = 0, found = 0, along = 0, mean = 0, slope = 0;
      for (std::ptrdiff_t k = i * n; k < (i + 1) * n; k++) in += x[k], found += y[k], along += c[k], mean += means[k], slope += dx[k];
      const double near = 1e-3 * double(n);
      CHECK(std::fabs(mean - along) <= near && std::fabs(slope - (rank ? 0 : along)) <= near);
      CHECK(i == odd ? found != found : std::fabs(found - (rank ? 0.5 * double(n) * double(n + 1) : in)) <= near);
    }
  }
}

}  // namespace
