// PlannedBuffer: one line of a memory plan. Pure.

#ifndef DSRUN_COMMON_PLAN_PLANNED_BUFFER_H_
#define DSRUN_COMMON_PLAN_PLANNED_BUFFER_H_

#include <cstdint>
#include <string>

namespace dsrun {

// One arena (or part of one) of a rank.
struct PlannedBuffer {
  std::string name;   // "parameters", "optimizer.exp_avg", "activations.attn_out", ...
  std::string group;  // "parameters" | "gradients" | "optimizer" | "activations" | "communication"
                      // | "checkpoint" | "workspace"
  int64_t elements;
  int64_t element_bytes;
  std::string formula;  // for people: "P + padding", "2 layers x B x T x C", ...
  int64_t bytes() const { return elements * element_bytes; }
};

}  // namespace dsrun

#endif  // DSRUN_COMMON_PLAN_PLANNED_BUFFER_H_
