// Config -> proto::TrainSpec, what trainer, plans and checkpoints read. Pure.

#ifndef DSRUN_WORKER_API_SPEC_OF_CONFIG_H_
#define DSRUN_WORKER_API_SPEC_OF_CONFIG_H_

#include "absl/status/statusor.h"
#include "common/model/model_plan.h"
#include "proto/job.pb.h"
#include "worker/api/config.h"

namespace dsrun {

// `processors`: of this machine, that this rank may use for itself. Errors: those of Config::Check;
// INVALID_ARGUMENT: the schedule has no such parameters.
absl::StatusOr<proto::TrainSpec> SpecOfConfig(const Config& config, const ModelPlan& model,
                                              int processors);

}  // namespace dsrun

#endif  // DSRUN_WORKER_API_SPEC_OF_CONFIG_H_
