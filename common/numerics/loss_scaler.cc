#include "common/numerics/loss_scaler.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "absl/strings/str_cat.h"

namespace dsrun {
namespace {

absl::Status InRange(const char* what, int64_t value, int64_t least, int64_t most) {
  if (value >= least && value <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("loss scale: expected ", what, " from ", least, " to ", most, ", got ", value));
}

}  // namespace

absl::Status CheckLossScale(const LossScalePolicy& policy) {
  using Policy = LossScalePolicy;
  absl::Status status = InRange("an initial power of two", policy.initial_power,
                                Policy::kLeastPower, Policy::kMostPower);
  status.Update(InRange("a window of steps", policy.window, 1, Policy::kMostSteps));
  status.Update(InRange("a hysteresis of overflows", policy.hysteresis, 1, Policy::kMostSteps));
  status.Update(
      InRange("a least power of two", policy.min_power, Policy::kLeastPower, policy.initial_power));
  if (policy.fixed_power) {
    status.Update(InRange("a fixed power of two", *policy.fixed_power, Policy::kLeastPower,
                          Policy::kMostPower));
  }
  return status;
}

LossScaler::LossScaler(const LossScalePolicy& policy)
    : policy_(policy),
      power_(policy.fixed_power.value_or(policy.initial_power)),
      hysteresis_(policy.hysteresis) {}

double LossScaler::scale() const { return std::ldexp(1.0, static_cast<int>(power_)); }

absl::Status LossScaler::Update(bool overflow) {
  overflows_in_a_row_ = overflow ? overflows_in_a_row_ + 1 : 0;
  if (policy_.fixed_power) {
    if (overflows_in_a_row_ < kMostFixedOverflows) return absl::OkStatus();
    return absl::OutOfRangeError(absl::StrCat("gradients overflowed in ", overflows_in_a_row_,
                                              " steps in a row under a fixed loss scale of 2^",
                                              power_));
  }
  if (overflow) {
    stable_ = 0;
    if (hysteresis_ > 1) {
      --hysteresis_;
      return absl::OkStatus();
    }
    if (power_ == policy_.min_power) {
      return absl::OutOfRangeError(absl::StrCat(
          "gradients overflow, and the loss scale is at its least, 2^", power_, ", already"));
    }
    --power_;
    return absl::OkStatus();
  }
  if (policy_.consecutive_hysteresis) hysteresis_ = policy_.hysteresis;
  if (stable_ > 0 && stable_ % policy_.window == 0) {
    hysteresis_ = policy_.hysteresis;
    power_ = std::min(power_ + 1, LossScalePolicy::kMostPower);
    stable_ = 0;  // as good as window, which is what counts, but for the first look
  }
  ++stable_;
  return absl::OkStatus();
}

std::array<float, LossScaler::kValues> LossScaler::Write() const {
  return {static_cast<float>(power_), static_cast<float>(hysteresis_), static_cast<float>(stable_)};
}

absl::Status LossScaler::Read(std::span<const float> values) {
  const auto is_whole = [](float value, int64_t least, int64_t most) {
    return value == std::floor(value) && value >= static_cast<float>(least) &&
           value <= static_cast<float>(most);
  };
  using Policy = LossScalePolicy;
  if (values.size() != kValues || !is_whole(values[0], Policy::kLeastPower, Policy::kMostPower) ||
      !is_whole(values[1], 1, Policy::kMostSteps) || !is_whole(values[2], 0, Policy::kMostSteps)) {
    return absl::DataLossError(
        "loss scale: expected its power of two, what is left of its hysteresis and the steps since "
        "an overflow");
  }
  // What is configured now holds: a fixed scale stays, bounds are kept.
  if (!policy_.fixed_power) {
    power_ = std::max(static_cast<int64_t>(values[0]), policy_.min_power);
  }
  hysteresis_ = std::min(static_cast<int64_t>(values[1]), policy_.hysteresis);
  stable_ = static_cast<int64_t>(values[2]);
  if (stable_ > policy_.window) stable_ = (stable_ - 1) % policy_.window + 1;
  return absl::OkStatus();
}

}  // namespace dsrun
