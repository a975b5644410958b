// One job's memory at every ZeRO stage and width: what `dsrun plan` answers. Pure.
//
// Every number is of the plan that the engine allocates from (memory_plan.h) and of what libraries
// take beside it (library_plan.h); nothing here has a formula of its own.

#ifndef DSRUN_COMMON_PLAN_MEMORY_SWEEP_H_
#define DSRUN_COMMON_PLAN_MEMORY_SWEEP_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/plan/memory_plan.h"

namespace dsrun {

struct SweepInput {
  MemoryInput job;              // width, rank and zero_stage are not read
  std::vector<int> stages;      // ascending; each is built, and can what job.recompute asks for
  std::vector<int64_t> widths;  // ascending, from 1 to the batch's atoms
  int64_t ranks_of_node = 1;    // at most, that share node_bytes
  int64_t node_bytes = 0;       // what the ranks of one node can have; 0: not known, nothing fits
  // Whether more recomputation than the job's may be proposed.
  bool may_recompute = true;
  // job.bucket_bytes is the model's default, so another model has another.
  bool default_buckets = false;
};

// What one setting takes.
struct SweepCell {
  int zero_stage = 0;
  int64_t width = 0;
  Recompute recompute = {};
  int64_t rank_bytes = 0;  // of the largest rank, with its libraries
  int64_t node_bytes = 0;  // of the fullest node
  bool fits = false;
};

// One setting. REQUIRES: as PlanMemory.
SweepCell PlanSetting(const SweepInput& input, int zero_stage, int64_t width, Recompute recompute);

// All of them, with the job's own recomputation: width by width, stages ascending.
std::vector<SweepCell> PlanTable(const SweepInput& input);

// The smallest that fits: fewest ranks, then fewest blocks computed again, then the lowest stage.
// `table`: PlanTable(input).
std::optional<SweepCell> SmallestThatFits(const SweepInput& input,
                                          const std::vector<SweepCell>& table);

// The one that takes least of a node, with all blocks computed again where that may be proposed.
SweepCell Roomiest(const SweepInput& input, const std::vector<SweepCell>& table);

// Lines of the setting's largest rank, its libraries' included; most bytes first.
std::vector<PlannedBuffer> LargestRank(const SweepInput& input, const SweepCell& setting);

// The preset with most parameters that fits with this setting; absent: none.
std::optional<ModelSpec> LargestPreset(const SweepInput& input, const SweepCell& setting);

// `like` made larger or smaller: heads (of `like`'s size), width, MLP and blocks in proportion,
// blocks rounded to whole ones; sequence and vocabulary stay. `units`: heads of keys (of queries
// where there are as many); `like` has HeadUnits(like). REQUIRES: Validate(like), units >= 1.
ModelSpec Scaled(const ModelSpec& like, int64_t units);
int64_t HeadUnits(const ModelSpec& like);

// The largest Scaled(job.model) that fits with this setting; absent: none does. REQUIRES: nothing
// is frozen.
std::optional<ModelSpec> LargestOfFamily(const SweepInput& input, const SweepCell& setting);

// What one line of the plan takes for each parameter of a large model on N ranks: whole + shared /
// N bytes. Of what grows with the model alone: a window of one layer is in no rate.
struct StateRate {
  std::string name;  // of the line
  std::string formula;
  double whole = 0;
  double shared = 0;
};

// From four plans of the job's own kind of block: what more blocks add, on one rank and on two.
// `atoms`: that every rank has of a step; with one there are no sums to hold.
std::vector<StateRate> StateRates(const MemoryInput& job, int zero_stage, int64_t atoms);

}  // namespace dsrun

#endif  // DSRUN_COMMON_PLAN_MEMORY_SWEEP_H_
