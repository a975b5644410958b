// The one reading of a spec's loss scale: for the launcher, which refuses what it cannot be, and
// the trainer. Pure.

#ifndef DSRUN_COMMON_PLAN_LOSS_SCALE_OF_SPEC_H_
#define DSRUN_COMMON_PLAN_LOSS_SCALE_OF_SPEC_H_

#include "absl/status/statusor.h"
#include "common/numerics/loss_scaler.h"
#include "proto/job.pb.h"

namespace dsrun {

// What is not said is the default. Errors: INVALID_ARGUMENT: a scale that is no power of two,
// CheckLossScale.
absl::StatusOr<LossScalePolicy> FromProto(const proto::LossScale& said);

}  // namespace dsrun

#endif  // DSRUN_COMMON_PLAN_LOSS_SCALE_OF_SPEC_H_
