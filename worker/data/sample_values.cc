#include "worker/data/sample_values.h"

#include <bit>
#include <cmath>
#include <cstddef>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "worker/data/token_ids.h"

namespace dsrun::worker {
namespace {

absl::Status CheckFinite(const char* what, std::span<const int32_t> bits) {
  for (size_t i = 0; i < bits.size(); ++i) {
    const float value = std::bit_cast<float>(bits[i]);
    if (std::isfinite(value)) continue;
    return absl::InvalidArgumentError(
        absl::StrCat(what, " ", i, ": expected a finite number, got ", value));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckSample(const ModelPlan& model, std::span<const int32_t> inputs,
                         std::span<const int32_t> targets) {
  const SampleShape& sample = model.sample;
  const auto ids = [&](int64_t count) { return count > 0 ? count : model.spec.vocab_size; };
  RETURN_IF_ERROR(sample.inputs == SampleShape::Elements::kIds
                      ? CheckTokens(inputs, {}, ids(sample.input_ids))
                      : CheckFinite("input", inputs));
  return sample.targets == SampleShape::Elements::kIds
             ? CheckTokens({}, targets, ids(sample.target_ids))
             : CheckFinite("target", targets);
}

}  // namespace dsrun::worker
