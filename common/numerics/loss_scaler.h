// LossScaler: by how much the loss of fp16 is multiplied, so that small gradients do not vanish
// (Micikevicius et al., 2018), and what an overflow does to it: DeepSpeed's rules of its ZeRO
// optimizers (deepspeed/runtime/fp16/loss_scaler.py, read at 18fd4c9), for every stage. A step in
// which a gradient is infinite or NaN is skipped; from the `hysteresis`-th on each of them halves
// the scale, until it has doubled again, which it does after `window` steps without.
//
// Scales are powers of two, so that multiplying and dividing by one rounds nothing. State, like the
// parameters: saved, loaded and hashed. Pure; one thread.

#ifndef DSRUN_COMMON_NUMERICS_LOSS_SCALER_H_
#define DSRUN_COMMON_NUMERICS_LOSS_SCALER_H_

#include <array>
#include <cstdint>
#include <optional>
#include <span>

#include "absl/status/status.h"

namespace dsrun {

struct LossScalePolicy {
  std::optional<int64_t> fixed_power = {};  // it never moves
  int64_t initial_power = 16;
  int64_t window = 1000;
  int64_t hysteresis = 2;
  bool consecutive_hysteresis = false;  // every step without overflow fills it up
  int64_t min_power = 0;

  // What a scale may be, and how far window and hysteresis count.
  static constexpr int64_t kLeastPower = -60;
  static constexpr int64_t kMostPower = 60;
  static constexpr int64_t kMostSteps = int64_t{1} << 24;  // a float counts them
};

// Errors: INVALID_ARGUMENT: a number out of its range: which, expected, got.
absl::Status CheckLossScale(const LossScalePolicy& policy);

class LossScaler {
 public:
  // REQUIRES: CheckLossScale.
  explicit LossScaler(const LossScalePolicy& policy);

  // log2 of the scale of the next step.
  int64_t power() const { return power_; }
  double scale() const;
  // After a step. Errors: OUT_OF_RANGE: it overflowed, and the scale cannot become smaller; where
  // it is fixed, so many times in a row.
  static constexpr int64_t kMostFixedOverflows = 100;
  absl::Status Update(bool overflow);

  // The state as a checkpoint keeps it, which knows floats only, and back.
  // Errors: DATA_LOSS: no state.
  static constexpr size_t kValues = 3;
  std::array<float, kValues> Write() const;
  absl::Status Read(std::span<const float> values);

 private:
  const LossScalePolicy policy_;
  int64_t power_;
  int64_t hysteresis_;  // overflows that halve nothing, and one more
  int64_t stable_ = 0;  // steps since the last overflow; from window + 1 on it begins at 1 again
  int64_t overflows_in_a_row_ = 0;
};

// Of a checkpoint: LossScaler::Write, and how many steps were skipped.
inline constexpr int64_t kLossScaleValues = int64_t{LossScaler::kValues} + 1;

}  // namespace dsrun

#endif  // DSRUN_COMMON_NUMERICS_LOSS_SCALER_H_
