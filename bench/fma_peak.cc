#include "bench/fma_peak.h"

#include <immintrin.h>

namespace dsrun::bench {
namespace {

// Twelve chains: two units with a latency of at most five cycles are always busy.
constexpr int kChains = 12;

__attribute__((target("avx512f"))) void Loop512(int64_t iterations) {
  __m512 x0 = _mm512_set1_ps(1), x1 = x0, x2 = x0, x3 = x0, x4 = x0, x5 = x0, x6 = x0, x7 = x0,
         x8 = x0, x9 = x0, x10 = x0, x11 = x0;
  const __m512 a = _mm512_set1_ps(0.999f);
  for (int64_t i = 0; i < iterations; ++i) {
    x0 = _mm512_fmadd_ps(x0, a, a);
    x1 = _mm512_fmadd_ps(x1, a, a);
    x2 = _mm512_fmadd_ps(x2, a, a);
    x3 = _mm512_fmadd_ps(x3, a, a);
    x4 = _mm512_fmadd_ps(x4, a, a);
    x5 = _mm512_fmadd_ps(x5, a, a);
    x6 = _mm512_fmadd_ps(x6, a, a);
    x7 = _mm512_fmadd_ps(x7, a, a);
    x8 = _mm512_fmadd_ps(x8, a, a);
    x9 = _mm512_fmadd_ps(x9, a, a);
    x10 = _mm512_fmadd_ps(x10, a, a);
    x11 = _mm512_fmadd_ps(x11, a, a);
    // The compiler may not drop or reorder the chains.
    asm volatile("" : "+v"(x0), "+v"(x1), "+v"(x2), "+v"(x3), "+v"(x4), "+v"(x5));
    asm volatile("" : "+v"(x6), "+v"(x7), "+v"(x8), "+v"(x9), "+v"(x10), "+v"(x11));
  }
}

__attribute__((target("avx2,fma"))) void Loop256(int64_t iterations) {
  __m256 x0 = _mm256_set1_ps(1), x1 = x0, x2 = x0, x3 = x0, x4 = x0, x5 = x0, x6 = x0, x7 = x0,
         x8 = x0, x9 = x0, x10 = x0, x11 = x0;
  const __m256 a = _mm256_set1_ps(0.999f);
  for (int64_t i = 0; i < iterations; ++i) {
    x0 = _mm256_fmadd_ps(x0, a, a);
    x1 = _mm256_fmadd_ps(x1, a, a);
    x2 = _mm256_fmadd_ps(x2, a, a);
    x3 = _mm256_fmadd_ps(x3, a, a);
    x4 = _mm256_fmadd_ps(x4, a, a);
    x5 = _mm256_fmadd_ps(x5, a, a);
    x6 = _mm256_fmadd_ps(x6, a, a);
    x7 = _mm256_fmadd_ps(x7, a, a);
    x8 = _mm256_fmadd_ps(x8, a, a);
    x9 = _mm256_fmadd_ps(x9, a, a);
    x10 = _mm256_fmadd_ps(x10, a, a);
    x11 = _mm256_fmadd_ps(x11, a, a);
    asm volatile("" : "+x"(x0), "+x"(x1), "+x"(x2), "+x"(x3), "+x"(x4), "+x"(x5));
    asm volatile("" : "+x"(x6), "+x"(x7), "+x"(x8), "+x"(x9), "+x"(x10), "+x"(x11));
  }
}

}  // namespace

void RunFmaLoop(int64_t iterations) {
  __builtin_cpu_supports("avx512f") ? Loop512(iterations) : Loop256(iterations);
}

double FmaLoopFlops() { return kChains * 2.0 * (__builtin_cpu_supports("avx512f") ? 16 : 8); }

}  // namespace dsrun::bench
