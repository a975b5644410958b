#include "common/base/cpu_isa.h"

#include "absl/status/status.h"

namespace dsrun {

CpuIsa BestIsa() {
  // The builtin asks the operating system too (XGETBV), not the CPU alone.
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw")) {
    return CpuIsa::kAvx512;
  }
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  return avx2 ? CpuIsa::kAvx2 : CpuIsa::kBaseline;
}

CpuIsa BestLibraryIsa() {
  const CpuIsa best = BestIsa();
  return best == CpuIsa::kAvx512 && __builtin_cpu_supports("avx512bf16") ? CpuIsa::kAvx512Bf16
                                                                         : best;
}

std::string IsaName(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::kBaseline:
      return "baseline";
    case CpuIsa::kAvx2:
      return "avx2";
    case CpuIsa::kAvx512:
      return "avx512";
    case CpuIsa::kAvx512Bf16:
      return "avx512-bf16";
  }
  return "unknown";
}

absl::StatusOr<CpuIsa> ParseIsa(const std::string& name) {
  for (const CpuIsa isa :
       {CpuIsa::kBaseline, CpuIsa::kAvx2, CpuIsa::kAvx512, CpuIsa::kAvx512Bf16}) {
    if (name == IsaName(isa)) return isa;
  }
  return absl::InvalidArgumentError(
      "instruction set cap: expected baseline, avx2, avx512 or avx512-bf16, got \"" + name +
      "\"; leave it out to use the best this CPU has");
}

}  // namespace dsrun
