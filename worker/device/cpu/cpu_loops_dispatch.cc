#include "common/base/logging.h"
#include "worker/device/cpu/cpu_loops.h"

namespace dsrun::worker {

extern const LoopTable kBaselineLoops;
extern const LoopTable kAvx2Loops;
extern const LoopTable kAvx512Loops;
extern const AttentionTable kBaselineAttention;
extern const AttentionTable kAvx2Attention;
extern const AttentionTable kAvx512Attention;

namespace {

template <typename Table>
const Table& Pick(CpuIsa isa, const Table& baseline, const Table& avx2, const Table& avx512) {
  CHECK(isa <= BestLibraryIsa()) << "this CPU has no " << IsaName(isa);
  switch (isa) {
    case CpuIsa::kBaseline:
      return baseline;
    case CpuIsa::kAvx2:
      return avx2;
    case CpuIsa::kAvx512:
    case CpuIsa::kAvx512Bf16:  // our loops convert by integer arithmetic (lanes.h)
      return avx512;
  }
  return baseline;
}

}  // namespace

const LoopTable& LoopsFor(CpuIsa isa) {
  return Pick(isa, kBaselineLoops, kAvx2Loops, kAvx512Loops);
}

const AttentionTable& AttentionFor(CpuIsa isa) {
  return Pick(isa, kBaselineAttention, kAvx2Attention, kAvx512Attention);
}

}  // namespace dsrun::worker
