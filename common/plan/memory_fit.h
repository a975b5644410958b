// Whether the ranks of a job fit into the machines that they would stand on, and what would. Pure.
//
// A machine is what shares memory: a node with others of the same boot and control group. Ranks of
// ZeRO-1 that lose some of their number each hold more of the optimizer: a narrower generation may
// need more on a machine than a wider one did. What its process and libraries take counts, too
// (library_plan.h).

#ifndef DSRUN_COMMON_PLAN_MEMORY_FIT_H_
#define DSRUN_COMMON_PLAN_MEMORY_FIT_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "common/plan/memory_plan.h"

namespace dsrun {

struct FitMachine {
  std::string name;         // for people
  int64_t there_bytes = 0;  // what the job's ranks can have, those that run now included
  bool known = true;        // false: nobody knows; everything fits there
};

struct FitInput {
  MemoryInput job;  // width and rank are not read
  std::vector<FitMachine> machines;
  // The machine of every place that a rank could stand on, in the order of ranks. The first ones,
  // as many as the batch has atoms, have one.
  std::vector<size_t> places;
};

// A machine's part in a plan.
struct MachineNeed {
  size_t machine = 0;
  int64_t ranks = 0;
  int64_t largest_rank_bytes = 0;
  int64_t needed_bytes = 0;
  int64_t there_bytes = 0;
};

// What every machine's ranks need, in the order of machines. REQUIRES, here and below: the job is
// valid with any width from 1 to its atoms, every place's machine exists.
std::vector<MachineNeed> MemoryNeeds(const FitInput& input);

// The known machines that have less than their ranks need, ascending. Empty: it fits.
std::vector<MachineNeed> MemoryShortages(const FitInput& input);

// Which places keep their rank when machines that lack memory give up theirs, the last of a machine
// first and no more than it takes; index = place. All: it fits as it is. None: no width fits here.
std::vector<bool> PlacesThatFit(const FitInput& input);

// Changes that make `input` fit, each by itself, the smallest of its kind: "--micro-batch-size 2",
// "--recompute budget=1234 (3 of 12 layers twice forward, 8.1 % more arithmetic)",
// "--zero-stage 3", "3 ranks", "2 more nodes like gpu-02 (4 ranks, 24.0 GiB)", "--model NAME".
// Where none does by itself, several together: "--zero-stage 3 with --micro-batch-size 1".
// `goes_on`: from a checkpoint, so the model stays, and another micro-batch makes another curve.
// Empty: none does.
std::vector<std::string> WhatWouldFit(const FitInput& input, bool goes_on);

}  // namespace dsrun

#endif  // DSRUN_COMMON_PLAN_MEMORY_FIT_H_
