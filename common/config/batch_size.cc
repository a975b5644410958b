#include "common/config/batch_size.h"

#include <algorithm>
#include <string>

#include "common/base/counted.h"

namespace dsrun {
namespace {

constexpr int64_t kLimit = int64_t{1} << 31;  // so that no product below overflows

std::string Str(int64_t value) { return std::to_string(value); }

// DeepSpeed's own sentence, with the numbers.
std::string Sentence(int64_t global, int64_t micro, int64_t accumulation, int64_t world) {
  return "Check batch related parameters. train_batch_size is not equal to micro_batch_per_gpu * "
         "gradient_acc_step * world_size " +
         Str(global) + " != " + Str(micro) + " * " + Str(accumulation) + " * " + Str(world);
}

// The divisor of `value` that is nearest to `wish`; the smaller one of two.
int64_t NearestDivisor(int64_t value, int64_t wish) {
  int64_t best = 1;
  const auto consider = [&](int64_t d) {
    const int64_t now = std::abs(d - wish);
    const int64_t before = std::abs(best - wish);
    if (now < before || (now == before && d < best)) best = d;
  };
  for (int64_t d = 1; d * d <= value; ++d) {
    if (value % d != 0) continue;
    consider(d);
    consider(value / d);
  }
  return best;
}

int64_t LargestDivisorUpTo(int64_t value, int64_t limit) {
  int64_t best = 1;
  for (int64_t d = 1; d * d <= value; ++d) {
    if (value % d != 0) continue;
    if (d <= limit) best = std::max(best, d);
    if (value / d <= limit) best = std::max(best, value / d);
  }
  return best;
}

// "96 or 100": the multiples of `unit` around `value`, at least one unit.
std::string MultiplesAround(int64_t value, int64_t unit) {
  const int64_t below = value / unit * unit;
  const int64_t above = below + unit;
  return below >= unit ? Str(below) + " or " + Str(above) : Str(above);
}

bool InRange(const char* flag, const std::optional<int64_t>& value, Findings& findings) {
  if (!value.has_value() || (*value >= 1 && *value <= kLimit)) return true;
  findings.AddFlag(flag, "expected a number from 1 to " + Str(kLimit) + ", got " + Str(*value));
  return false;
}

std::optional<BatchSizes> WithAccumulation(const BatchRequest& r, Findings& findings) {
  const int64_t share = *r.accumulation * r.world_size;  // micro-batches a step
  if (r.global_batch.has_value()) {
    const int64_t global = *r.global_batch;
    const int64_t micro = r.micro_batch.value_or(std::max<int64_t>(1, global / share));
    if (micro <= kLimit / share && micro * share == global) return BatchSizes{global, micro};
    std::string fits =
        "--global-batch-size " + (r.micro_batch.has_value() && micro <= kLimit / share
                                      ? Str(micro * share)
                                      : MultiplesAround(global, share));
    if (global % (micro * r.world_size) == 0) {
      fits += ", or --gradient-accumulation-steps " + Str(global / (micro * r.world_size));
    }
    if (r.micro_batch.has_value() && global % share == 0) {
      fits += ", or --micro-batch-size " + Str(global / share);
    }
    findings.AddFlag("--global-batch-size", Sentence(global, micro, *r.accumulation, r.world_size) +
                                                "; nearest that fit: " + fits);
    return std::nullopt;
  }
  const int64_t micro = r.micro_batch.value_or(r.default_micro_batch);
  if (micro > kLimit / share) {
    findings.AddFlag("--gradient-accumulation-steps",
                     "micro-batch " + Str(micro) + " * accumulation " + Str(*r.accumulation) +
                         " * " + Counted(r.world_size, "rank") + " is more than " + Str(kLimit));
    return std::nullopt;
  }
  return BatchSizes{micro * share, micro};
}

}  // namespace

std::optional<BatchSizes> ResolveBatch(const BatchRequest& r, Findings& findings) {
  bool good = InRange("--global-batch-size", r.global_batch, findings);
  good = InRange("--micro-batch-size", r.micro_batch, findings) && good;
  good = InRange("--gradient-accumulation-steps", r.accumulation, findings) && good;
  if (!good) return std::nullopt;
  if (r.accumulation.has_value()) {
    if (*r.accumulation > kLimit / r.world_size) {
      findings.AddFlag("--gradient-accumulation-steps",
                       Counted(*r.accumulation, "step") + " on " + Counted(r.world_size, "rank") +
                           " are more than " + Str(kLimit) + " micro-batches");
      return std::nullopt;
    }
    return WithAccumulation(r, findings);
  }
  const int64_t global = r.global_batch.value_or(r.default_global_batch);
  if (!r.micro_batch.has_value()) {
    return BatchSizes{global, LargestDivisorUpTo(global, r.default_micro_batch)};
  }
  const int64_t micro = *r.micro_batch;
  if (global % micro == 0) return BatchSizes{global, micro};
  const int64_t accumulation = std::max<int64_t>(1, global / (micro * r.world_size));
  findings.AddFlag("--global-batch-size",
                   Sentence(global, micro, accumulation, r.world_size) +
                       "; the global batch must be a whole number of micro-batches; nearest that "
                       "fit: --global-batch-size " +
                       MultiplesAround(global, micro) + ", or --micro-batch-size " +
                       Str(NearestDivisor(global, micro)));
  return std::nullopt;
}

}  // namespace dsrun
