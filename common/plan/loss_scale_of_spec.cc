#include "common/plan/loss_scale_of_spec.h"

#include <cmath>
#include <cstdint>
#include <optional>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"

namespace dsrun {
namespace {

std::optional<int64_t> PowerOf(double scale) {
  int exponent = 0;
  if (!(scale > 0) || std::frexp(scale, &exponent) != 0.5) return std::nullopt;
  return exponent - 1;
}

absl::Status NotAPower(const char* what, double got) {
  return absl::InvalidArgumentError(
      absl::StrCat("loss scale: expected ", what, " that is a power of two, got ", got));
}

}  // namespace

absl::StatusOr<LossScalePolicy> FromProto(const proto::LossScale& said) {
  LossScalePolicy policy;
  if (said.has_fixed()) {
    policy.fixed_power = PowerOf(said.fixed());
    if (!policy.fixed_power) return NotAPower("a fixed scale", said.fixed());
  }
  if (said.has_initial_power()) policy.initial_power = said.initial_power();
  if (said.has_window()) policy.window = said.window();
  if (said.has_hysteresis()) policy.hysteresis = said.hysteresis();
  policy.consecutive_hysteresis = said.consecutive_hysteresis();
  if (said.has_min()) {
    const std::optional<int64_t> min = PowerOf(said.min());
    if (!min) return NotAPower("a least scale", said.min());
    policy.min_power = *min;
  }
  RETURN_IF_ERROR(CheckLossScale(policy));
  return policy;
}

}  // namespace dsrun
