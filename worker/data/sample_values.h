// What a sample holds is checked where it enters the engine, once: kernels use ids as offsets into
// tables and check nothing, and one infinite number makes the whole model none. Pure.

#ifndef DSRUN_WORKER_DATA_SAMPLE_VALUES_H_
#define DSRUN_WORKER_DATA_SAMPLE_VALUES_H_

#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "common/model/model_plan.h"

namespace dsrun::worker {

// `inputs` and `targets`: of one sample of `model`, ids or floats as its SampleShape says. Ids are
// as CheckTokens wants them, floats finite. Errors: INVALID_ARGUMENT, with the first that is not.
absl::Status CheckSample(const ModelPlan& model, std::span<const int32_t> inputs,
                         std::span<const int32_t> targets);

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_DATA_SAMPLE_VALUES_H_
