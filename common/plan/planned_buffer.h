// PlannedBuffer: one line of a memory plan. Pure.

#ifndef DSRUN_COMMON_PLAN_PLANNED_BUFFER_H_
#define DSRUN_COMMON_PLAN_PLANNED_BUFFER_H_

#include <cstdint>
#include <limits>
#include <string>

#include "common/base/dtype.h"
#include "common/plan/interval_packing.h"
#include "common/plan/space.h"

namespace dsrun {

// As long as a generation.
inline constexpr Lifetime kAlways = {0, std::numeric_limits<int64_t>::max()};

// One arena (or part of one) of a rank.
struct PlannedBuffer {
  std::string name;   // "parameters", "optimizer.exp_avg", "activations.attn_out", ...
  std::string group;  // "parameters" | "gradients" | "optimizer" | "activations" | "communication"
                      // | "checkpoint" | "workspace" | "libraries"
  Space space = Space::kDevice;
  DType dtype = DType::kF32;
  int64_t elements = 0;
  std::string formula;  // for people: "P + padding", "2 layers x B x T x C", ...
  // From the first to the last moment of a step in which one of what the line stands for is needed
  // (activation_plan.h); bytes of lines that do not meet may be the same bytes.
  Lifetime life = kAlways;
  int64_t bytes() const { return elements * BytesOf(dtype); }
};

}  // namespace dsrun

#endif  // DSRUN_COMMON_PLAN_PLANNED_BUFFER_H_
