#include "common/base/logging.h"
#include "worker/device/cpu_loops.h"

namespace dsrun::worker {

extern const LoopTable kBaselineLoops;
extern const LoopTable kAvx2Loops;
extern const LoopTable kAvx512Loops;

const LoopTable& LoopsFor(CpuIsa isa) {
  CHECK(isa <= BestIsa()) << "this CPU has no " << IsaName(isa);
  switch (isa) {
    case CpuIsa::kBaseline:
      return kBaselineLoops;
    case CpuIsa::kAvx2:
      return kAvx2Loops;
    case CpuIsa::kAvx512:
      return kAvx512Loops;
  }
  return kBaselineLoops;
}

}  // namespace dsrun::worker
