// proto::TrainSpec -> LrSchedule. Pure.

#ifndef DSRUN_COMMON_SCHEDULE_SCHEDULE_OF_SPEC_H_
#define DSRUN_COMMON_SCHEDULE_SCHEDULE_OF_SPEC_H_

#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "common/schedule/lr_schedule.h"
#include "proto/job.pb.h"

namespace dsrun {

// Errors: LrSchedule::Create's.
inline absl::StatusOr<LrSchedule> ScheduleOfSpec(const proto::TrainSpec& spec) {
  if (spec.has_lr_schedule()) {
    const auto& params = spec.lr_schedule().params();
    return LrSchedule::Create(spec.lr_schedule().name(),
                              std::map<std::string, double>(params.begin(), params.end()));
  }
  return LrSchedule::Create("linear", {{"lr", spec.lr()},
                                       {"min_lr", spec.min_lr()},
                                       {"warmup", static_cast<double>(spec.lr_warmup_iters())},
                                       {"steps", static_cast<double>(spec.train_iters())}});
}

}  // namespace dsrun

#endif  // DSRUN_COMMON_SCHEDULE_SCHEDULE_OF_SPEC_H_
