// What a job's memory is planned from: the one reading of its TrainSpec, for the launcher before
// the start, the coordinator before every generation, and the rank that allocates. Pure.

#ifndef DSRUN_COMMON_PLAN_MEMORY_INPUT_H_
#define DSRUN_COMMON_PLAN_MEMORY_INPUT_H_

#include "common/plan/memory_plan.h"
#include "proto/job.pb.h"

namespace dsrun {

// Without width and rank. A spec from before atoms has atoms of one micro-batch.
// REQUIRES: train.micro_batch_size() >= 1.
MemoryInput MemoryInputFromProto(const proto::TrainSpec& train);

Recompute FromProto(const proto::Recompute& recompute);
// What is not said stays negative: the model's default.
ZeroSettings FromProto(const proto::ZeroSettings& said);
void ToProto(const ZeroSettings& settings, proto::ZeroSettings* out);

}  // namespace dsrun

#endif  // DSRUN_COMMON_PLAN_MEMORY_INPUT_H_
