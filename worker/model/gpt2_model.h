// Gpt2Model: GPT-2 (Radford et al., 2019) with explicit forward and backward, on Kernels. It takes
// one arena for activations and workspace at construction, laid out from PlanActivations, and
// allocates nothing afterwards.

#ifndef DSRUN_WORKER_MODEL_GPT2_MODEL_H_
#define DSRUN_WORKER_MODEL_GPT2_MODEL_H_

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "common/model/model_spec.h"
#include "worker/device/device.h"
#include "worker/device/kernels.h"
#include "worker/model/model.h"

namespace dsrun::worker {

// `threads`: those of the pool behind `kernels`; the plan holds scratch for each. `kernels` and
// `device` must outlive the model.
// Errors: INVALID_ARGUMENT: the spec is not valid, or a size below 1; RESOURCE_EXHAUSTED: the
// activations do not fit.
absl::StatusOr<std::unique_ptr<Model>> CreateGpt2Model(const ModelSpec& spec,
                                                       int64_t micro_batch_size, int64_t threads,
                                                       Kernels& kernels, Device& device);

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_MODEL_GPT2_MODEL_H_
