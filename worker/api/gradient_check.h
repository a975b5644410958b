// Holds the Backward of a model of one's own against finite differences of its Forward: the test
// that every layer written by hand needs.

#ifndef DSRUN_WORKER_API_GRADIENT_CHECK_H_
#define DSRUN_WORKER_API_GRADIENT_CHECK_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/numerics/dropout.h"
#include "worker/api/model.h"

namespace dsrun {

struct GradientCheckOptions {
  int64_t samples = 4;    // of one micro-batch: the first ones of the sample function
  int64_t elements = 12;  // of each tensor: that with the largest gradient, others by the seed
  uint64_t seed = 1;      // of the parameters, and of the elements
  // Central differences over twice this. Losses are sums of fp32 numbers: much smaller, and they
  // are rounding; much larger, and they are curvature.
  double step = 1e-2;
  // Of the difference, over the largest gradient of the tensor.
  double tolerance = 2e-2;
  // Layers draw as in the first step of a job with this seed: the same in every pass.
  DropoutRates dropout = {};
};

struct GradientCheck {
  std::string tensor;
  double worst = 0;  // difference over the largest of the tensor's gradients
};

// In the order of the tensors. The gradients' memory holds no number before Backward, so that what
// it leaves out is found; and Backward is played twice, to find what it keeps in the layer.
// Errors: those of PlanModel; FAILED_PRECONDITION: a gradient differs by more than the tolerance,
// is not written, or is another at the second time; with the tensor, the element, expected and got.
absl::StatusOr<std::vector<GradientCheck>> CheckGradients(const OwnModel& model,
                                                          const SampleFn& sample,
                                                          const GradientCheckOptions& options = {});

}  // namespace dsrun

#endif  // DSRUN_WORKER_API_GRADIENT_CHECK_H_
