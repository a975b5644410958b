// CpuIsa: which vector instructions this CPU has, in the three steps that our hot loops are
// compiled for, and one more, of products of bf16, that the matrix library alone makes use of. An
// agent reports its node's; the coordinator takes the smallest of all nodes as the cap of a job,
// since the matrix library's bits differ between them (docs/numerics.md, rule i). Thread-safe.

#ifndef DSRUN_COMMON_BASE_CPU_ISA_H_
#define DSRUN_COMMON_BASE_CPU_ISA_H_

#include <string>

#include "absl/status/statusor.h"

namespace dsrun {

// Ordered: a CPU that has one has all smaller ones.
enum class CpuIsa {
  kBaseline,  // x86-64-v2 (SSE4.2)
  kAvx2,
  kAvx512,  // F, DQ, VL, BW
  kAvx512Bf16,
};

// The largest that this CPU and its operating system support: of those of our loops, and of all.
// Only products of bf16 are others with the last one (worker/device/cpu/cpu_matmul.h).
CpuIsa BestIsa();
CpuIsa BestLibraryIsa();

// "baseline" | "avx2" | "avx512" | "avx512-bf16".
std::string IsaName(CpuIsa isa);

// Errors: INVALID_ARGUMENT: none of these names.
absl::StatusOr<CpuIsa> ParseIsa(const std::string& name);

}  // namespace dsrun

#endif  // DSRUN_COMMON_BASE_CPU_ISA_H_
