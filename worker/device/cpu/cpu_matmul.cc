#include "worker/device/cpu/cpu_matmul.h"

#include <oneapi/dnnl/dnnl.h>

#include <algorithm>

#include "common/base/logging.h"

// The library's threads are OpenMP's. Declared here: <omp.h> belongs to one compiler.
extern "C" void omp_set_num_threads(int threads);

namespace dsrun::worker {
namespace {

// Found by measuring (bench/kernels_bench): larger tiles leave threads idle on small models,
// smaller ones pack the same operand again and again.
constexpr int64_t kTileM = 512;
constexpr int64_t kTileN = 384;
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
      return "avx512-bf16";
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

void SerialMatmul(int64_t m, int64_t n, int64_t k, float alpha, const Operand& a, const Operand& b,
                  float beta, float* c, int64_t c_stride) {
  UseOneLibraryThread();
  const dnnl_status_t status =
      dnnl_sgemm(a.transposed ? 'T' : 'N', b.transposed ? 'T' : 'N', m, n, k, alpha, a.data,
                 a.stride, b.data, b.stride, beta, c, c_stride);
  CHECK_EQ(status, dnnl_success) << "dnnl_sgemm m " << m << " n " << n << " k " << k;
}

Tiling TilesOf(int64_t m, int64_t n, TileWork work) {
  const int64_t limit_n = work == TileWork::kSecondMatrix ? kTileNWithSecondMatrix : kTileN;
  const bool halve = m > kRowsOfOneTile && m <= kTileM && n <= limit_n;
  const int64_t tile_m = EvenTile(m, kTileM);
  const int64_t tile_n = EvenTile(n, halve ? CeilDiv(n, 2 * kAlign) * kAlign : limit_n);
  return {tile_m, tile_n, CeilDiv(m, tile_m), CeilDiv(n, tile_n)};
}

}  // namespace dsrun::worker
