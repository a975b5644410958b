#include "worker/engine/warm_up.h"

#include <algorithm>
#include <cstddef>
#include <vector>

#include "common/base/clock.h"
#include "common/base/logging.h"

namespace dsrun::worker {
namespace {

constexpr double kMostFlopsOfOne = 2e8;
constexpr absl::Duration kMeasured = absl::Milliseconds(20);

}  // namespace

absl::Duration EstimateTime(Kernels& kernels, const WarmUp& warm_up, double flops) {
  const int64_t width = warm_up.width;
  const double flops_of_row = 8.0 * static_cast<double>(width) * static_cast<double>(width);
  const int64_t in_scratch = static_cast<int64_t>(warm_up.scratch.size()) / (5 * width);
  const auto affordable = static_cast<int64_t>(std::max(1.0, kMostFlopsOfOne / flops_of_row));
  const int64_t rows = std::min({warm_up.rows, in_scratch, affordable});
  CHECK_GE(rows, 1);
  CHECK_GE(static_cast<int64_t>(warm_up.weights.size()), 4 * width * width);
  // The product comes first: it has the alignment of the scratch itself for any width.
  float* const out = warm_up.scratch.data();
  float* const in = out + 4 * width * rows;
  const auto product = [&] {
    kernels.LinearForward({rows, width, 4 * width}, in, warm_up.weights.data(), nullptr, out);
    (void)kernels.stream().Record().Await();  // what is wrong is said by the step
  };
  product();  // builds what the library builds once for a shape
  std::vector<absl::Duration> took;
  const SteadyTime begin = Clock::Real().SteadyNow();
  SteadyTime last = begin;
  while (took.empty() || last - begin < kMeasured) {
    product();
    const SteadyTime now = Clock::Real().SteadyNow();
    took.push_back(now - last);
    last = now;
  }
  const auto slower = took.begin() + static_cast<std::ptrdiff_t>(took.size() * 3 / 4);
  std::nth_element(took.begin(), slower, took.end());
  if (*slower <= absl::ZeroDuration()) return absl::InfiniteDuration();
  return *slower * (flops / (flops_of_row * static_cast<double>(rows)));
}

}  // namespace dsrun::worker
