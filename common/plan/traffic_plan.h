// Bytes that a rank sends in a step of training, by formula, before anything is sent. Pure.
//
// What is counted is what grows with the model, on the default route (every rank sends each owner
// its part): sums over the batch to their owners, and what owners give to all others. Not counted:
// the few words of loss, norm and flags, a void step's second reduction, and what a generation's
// first step sends once under ZeRO-0 (PlannedTraffic::once).

#ifndef DSRUN_COMMON_PLAN_TRAFFIC_PLAN_H_
#define DSRUN_COMMON_PLAN_TRAFFIC_PLAN_H_

#include <cstdint>
#include <vector>

#include "common/plan/memory_plan.h"

namespace dsrun {

struct PlannedTraffic {
  int64_t reduce = 0;  // bytes: 8 an element, 4 of fast sums and of single contributions. Where
                       // owners alone hold sums, 4 an element for each atom and use of a tensor
  int64_t gather = 0;  // bytes: parameters, or under ZeRO-0 gradients; 4 an element, 2 of
                       // parameters in 16 bits. Under ZeRO-3
                       // what is gathered for every pass, and what is persistent once
  // Bytes: of matrices to the ranks that orthogonalise them, and back; 4 an element. Muon's.
  int64_t matrices = 0;
  int64_t once = 0;  // bytes: the optimizer's slots, with a generation's first update
};

// By rank. input.rank is not read. REQUIRES: as PlanMemory.
std::vector<PlannedTraffic> PlanTraffic(const MemoryInput& input);

}  // namespace dsrun

#endif  // DSRUN_COMMON_PLAN_TRAFFIC_PLAN_H_
