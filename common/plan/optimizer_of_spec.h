// proto::TrainSpec -> OptimizerSettings. A spec without an optimizer is AdamW of the spec's own
// fields. Pure.

#ifndef DSRUN_COMMON_PLAN_OPTIMIZER_OF_SPEC_H_
#define DSRUN_COMMON_PLAN_OPTIMIZER_OF_SPEC_H_

#include "absl/status/statusor.h"
#include "common/plan/optimizer_plan.h"
#include "common/plan/optimizer_settings.h"
#include "proto/job.pb.h"

namespace dsrun {

// With the tensors of its groups. Errors: CreateOptimizer's and AddGroup's; INVALID_ARGUMENT: a
// group's rate or decay is negative or not finite. REQUIRES: Validate(model).
absl::StatusOr<OptimizerSettings> OptimizerOfSpec(const proto::TrainSpec& spec);

// What it keeps, without looking at the rest; AdamW's where the name is unknown, which
// OptimizerOfSpec refuses.
OptimizerPlan OptimizerPlanOfSpec(const proto::TrainSpec& spec);

}  // namespace dsrun

#endif  // DSRUN_COMMON_PLAN_OPTIMIZER_OF_SPEC_H_
