#include "worker/device/cpu/cpu_matmul.h"

#include <oneapi/dnnl/dnnl.h>

#include <algorithm>

#include "common/base/logging.h"

// The library's threads are OpenMP's. Declared here: <omp.h> belongs to one compiler.
extern "C" void omp_set_num_threads(int threads);

// dnnl_sgemm's sister for bf16: the library exports it, and its header (2.6) leaves it out. The
// primitives of the header that do the same are no faster (a tile of 512 x 384 x 768: 211 against
// 210 GFLOP/s, 2026-11-28), want a cache of their own for every shape, and have another interface
// in the next major version.
extern "C" dnnl_status_t dnnl_gemm_bf16bf16f32(char transa, char transb, dnnl_dim_t m, dnnl_dim_t n,
                                               dnnl_dim_t k, float alpha, const uint16_t* a,
                                               dnnl_dim_t lda, const uint16_t* b, dnnl_dim_t ldb,
                                               float beta, float* c, dnnl_dim_t ldc);

namespace dsrun::worker {
namespace {

// Found by measuring (bench/kernels_bench): larger tiles leave threads idle on small models,
// smaller ones pack the same operand again and again.
constexpr int64_t kTileM = kMostTileM;
constexpr int64_t kTileN = kMostTileN;
constexpr int64_t kTileNWithSecondMatrix = 192;
// A product of a single tile with more rows than this is cut into two for two threads: by columns,
// since rows share what the library packs.
constexpr int64_t kRowsOfOneTile = 256;
constexpr int64_t kAlign = 16;  // a tile begins at a whole vector

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The largest tile size up to `limit` that cuts `total` evenly, up to alignment.
int64_t EvenTile(int64_t total, int64_t limit) {
  const int64_t even = CeilDiv(total, CeilDiv(total, limit));
  return std::min(limit, CeilDiv(even, kAlign) * kAlign);
}

// The library splits a product over as many threads as OpenMP gives to the calling thread: one.
void UseOneLibraryThread() {
  thread_local const bool done = [] {
    omp_set_num_threads(1);
    return true;
  }();
  (void)done;
}

dnnl_cpu_isa_t LibraryIsa(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::kAvx512Bf16:
      return dnnl_cpu_isa_avx512_core_bf16;
    case CpuIsa::kAvx512:
      return dnnl_cpu_isa_avx512_core;
    case CpuIsa::kAvx2:
      return dnnl_cpu_isa_avx2;
    case CpuIsa::kBaseline:
      break;
  }
  return dnnl_cpu_isa_sse41;
}

std::string EffectiveIsa() {
  switch (dnnl_get_effective_cpu_isa()) {
    case dnnl_cpu_isa_sse41:
      return IsaName(CpuIsa::kBaseline);
    case dnnl_cpu_isa_avx:
      return "avx";
    case dnnl_cpu_isa_avx2:
      return IsaName(CpuIsa::kAvx2);
    case dnnl_cpu_isa_avx512_core:
      return IsaName(CpuIsa::kAvx512);
    case dnnl_cpu_isa_avx512_core_vnni:
      return "avx512-vnni";
    case dnnl_cpu_isa_avx512_core_bf16:
      return IsaName(CpuIsa::kAvx512Bf16);
    case dnnl_cpu_isa_avx512_core_amx:
      return "avx512-amx";
    default:
      return "isa " + std::to_string(dnnl_get_effective_cpu_isa());
  }
}

}  // namespace

absl::Status CapLibraryIsa(CpuIsa isa) {
  const dnnl_status_t status = dnnl_set_max_cpu_isa(LibraryIsa(isa));
  if (status == dnnl_success) return absl::OkStatus();
  return absl::FailedPreconditionError(
      "instruction set cap of oneDNN: expected to set it to " + IsaName(isa) + ", got status " +
      std::to_string(status) + " (in use: " + EffectiveIsa() +
      "); set the cap before the first matrix product, and only once");
}

MatrixLibrary MatrixLibraryInUse() {
  const dnnl_version_t* version = dnnl_version();
  return {"oneDNN",
          std::to_string(version->major) + "." + std::to_string(version->minor) + "." +
              std::to_string(version->patch),
          EffectiveIsa()};
}

bool Bf16IsNative() {
  const auto isa = static_cast<unsigned>(dnnl_get_effective_cpu_isa());
  const auto bf16 = static_cast<unsigned>(dnnl_cpu_isa_avx512_core_bf16);
  return (isa & bf16) == bf16;  // an instruction set has the bits of all that it includes
}

void SerialMatmul(int64_t m, int64_t n, int64_t k, float alpha, const Operand& a, const Operand& b,
                  float beta, float* c, int64_t c_stride) {
  UseOneLibraryThread();
  const char of_a = a.transposed ? 'T' : 'N';
  const char of_b = b.transposed ? 'T' : 'N';
  CHECK(a.data.dtype() == b.data.dtype() && a.data.dtype() != DType::kF16);
  const dnnl_status_t status =
      a.data.dtype() == DType::kBF16
          ? dnnl_gemm_bf16bf16f32(of_a, of_b, m, n, k, alpha, a.data.bits16(), a.stride,
                                  b.data.bits16(), b.stride, beta, c, c_stride)
          : dnnl_sgemm(of_a, of_b, m, n, k, alpha, a.data.f32(), a.stride, b.data.f32(), b.stride,
                       beta, c, c_stride);
  CHECK_EQ(status, dnnl_success) << "oneDNN's product, m " << m << " n " << n << " k " << k;
}

Tiling TilesOf(int64_t m, int64_t n, TileWork work) {
  const int64_t limit_n = work == TileWork::kSecondMatrix ? kTileNWithSecondMatrix : kTileN;
  const bool halve = m > kRowsOfOneTile && m <= kTileM && n <= limit_n;
  const int64_t tile_m = EvenTile(m, kTileM);
  const int64_t tile_n = EvenTile(n, halve ? CeilDiv(n, 2 * kAlign) * kAlign : limit_n);
  return {tile_m, tile_n, CeilDiv(m, tile_m), CeilDiv(n, tile_n)};
}

}  // namespace dsrun::worker
