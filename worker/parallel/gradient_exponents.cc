#include "worker/parallel/gradient_exponents.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/logging.h"

namespace dsrun::worker {
namespace {

constexpr uint32_t kInfinity = 0x7f800000;
constexpr int kMantissaBits = 23;
constexpr int kBias = 127;

// Of a magnitude that is not 0.
int ExponentOf(uint32_t magnitude) { return static_cast<int>(magnitude >> kMantissaBits) - kBias; }

// ceil(log2(n)), n >= 1.
int CeilLog2(int64_t n) { return std::bit_width(static_cast<uint64_t>(n) - 1); }

}  // namespace

GradientExponents::GradientExponents(std::vector<int64_t> contributions, int guess)
    : contributions_(std::move(contributions)), guess_(guess), references_(contributions_.size()) {
  for (const int64_t count : contributions_) CHECK_GE(count, 1);
}

int GradientExponents::Scale(size_t tensor) const {
  return 63 - CeilLog2(contributions_[tensor]) - (Reference(tensor) + kHeadroom + 1);
}

uint32_t GradientExponents::Unshifted(uint32_t magnitude) const {
  if (shift_ == 0 || magnitude == 0 || !IsFinite(magnitude)) return magnitude;
  // Below the normal floats it counts as 0, as it does in sums.
  const int64_t exponent = int64_t{magnitude >> kMantissaBits} - shift_;
  if (exponent < 1) return 0;
  if (exponent > 254) return kInfinity;
  return static_cast<uint32_t>(exponent) << kMantissaBits |
         (magnitude & ((uint32_t{1} << kMantissaBits) - 1));
}

bool GradientExponents::IsFinite(uint32_t magnitude) { return magnitude < kInfinity; }

GradientExponents::Fit GradientExponents::FitOf(size_t tensor, int exponent) const {
  const int reference = Reference(tensor);
  if (exponent > reference + kHeadroom) return Fit::kTooLarge;
  const bool provisional = !references_[tensor].has_value();
  if (provisional && exponent < reference - kProvisionalDepth) return Fit::kTooSmall;
  return Fit::kFits;
}

GradientExponents::Verdict GradientExponents::Judge(std::span<const uint32_t> magnitudes) const {
  CHECK_EQ(magnitudes.size(), size());
  bool fits = true;
  for (size_t tensor = 0; tensor < size(); ++tensor) {
    const uint32_t magnitude = magnitudes[tensor];
    if (!IsFinite(magnitude)) return Verdict::kNotFinite;
    if (magnitude != 0) fits &= FitOf(tensor, ExponentOf(magnitude)) == Fit::kFits;
  }
  return fits ? Verdict::kCounts : Verdict::kVoid;
}

void GradientExponents::MakeRoom(std::span<const uint32_t> magnitudes) {
  for (size_t tensor = 0; tensor < size(); ++tensor) {
    if (magnitudes[tensor] == 0) continue;
    const int exponent = ExponentOf(magnitudes[tensor]);
    if (FitOf(tensor, exponent) != Fit::kFits) references_[tensor] = exponent;
  }
}

void GradientExponents::Commit(std::span<const uint32_t> magnitudes) {
  for (size_t tensor = 0; tensor < size(); ++tensor) {
    if (magnitudes[tensor] == 0) continue;
    const int seen = ExponentOf(magnitudes[tensor]);
    std::optional<int>& reference = references_[tensor];
    reference = reference.has_value() ? std::max(seen, *reference - 1) : seen;
  }
}

void GradientExponents::Restore(State state) {
  CHECK_EQ(state.size(), size());
  references_ = std::move(state);
}

void GradientExponents::WriteTo(std::span<float> values) const {
  CHECK_EQ(values.size(), size());
  for (size_t tensor = 0; tensor < size(); ++tensor) {
    const std::optional<int>& reference = references_[tensor];
    values[tensor] = reference ? static_cast<float>(*reference) : kProvisionalInFile;
  }
}

absl::Status GradientExponents::ReadFrom(std::span<const float> values) {
  if (values.size() != size()) {
    return absl::DataLossError(absl::StrCat("exponents of the gradients' sums: expected ", size(),
                                            ", one for each tensor, got ", values.size()));
  }
  State state(size());
  for (size_t tensor = 0; tensor < size(); ++tensor) {
    const float value = values[tensor];
    if (value == kProvisionalInFile) continue;
    if (value != std::floor(value) || value < -kBias || value > kBias) {
      return absl::DataLossError(
          absl::StrCat("exponents of the gradients' sums: expected integers from ", -kBias, " to ",
                       kBias, ", got ", value, " for tensor ", tensor));
    }
    state[tensor] = static_cast<int>(value);
  }
  references_ = std::move(state);
  return absl::OkStatus();
}

int GuessExponent(int64_t tokens_of_micro_batch) { return CeilLog2(tokens_of_micro_batch); }

}  // namespace dsrun::worker
