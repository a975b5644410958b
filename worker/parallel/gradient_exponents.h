// GradientExponents: where the binary point of each tensor's exact sum stands (docs/numerics.md).
//
// The gradient of a tensor is summed over micro-batches as 64-bit integers: a contribution g enters
// as g * 2^s. s must be known before the step, and leave room for all contributions; it follows
// from e_ref, the exponent (ilogb) of the largest contribution that is expected:
//
//   s = 63 - ceil(log2(contributions)) - (e_ref + m + 1),   m = 12
//
// so that contributions up to 2^m times larger than expected still fit. After a step e_ref becomes
// the largest exponent that was seen, or one less than before, whichever is more. A step in which
// some contribution did not fit is void: nothing of it counts, e_ref becomes what was seen, and the
// step is computed again from its beginning; the same bits then fit. All of this depends on the
// largest contribution of the whole batch alone, hence on no layout.
//
// A tensor that has not had a gradient yet is provisional: its e_ref is a guess, and the step is
// void, too, if the guess was more than 16 too high (the sum would lack bits at its lower end).
// A tensor whose contributions are all 0 keeps what it had.
//
// e_ref is state: it is saved, loaded and hashed with the parameters. Pure; one thread.

#ifndef DSRUN_WORKER_PARALLEL_GRADIENT_EXPONENTS_H_
#define DSRUN_WORKER_PARALLEL_GRADIENT_EXPONENTS_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"

namespace dsrun::worker {

class GradientExponents {
 public:
  static constexpr int kHeadroom = 12;  // m
  static constexpr int kProvisionalDepth = 16;

  // `contributions`: of a step, for each tensor: micro-batches (or atoms) times the uses of it.
  // `guess`: e_ref of provisional tensors; all are, to begin with.
  GradientExponents(std::vector<int64_t> contributions, int guess);

  size_t size() const { return contributions_.size(); }
  // s of a tensor, for the next step.
  int Scale(size_t tensor) const;
  // Contributions come multiplied by 2^shift (a loss scale), which their sums are not; so are their
  // magnitudes.
  void SetShift(int shift) { shift_ = shift; }
  int ScaleOfContribution(size_t tensor) const { return Scale(tensor) - shift_; }
  // What the magnitude of a contribution would be without the shift; infinities and NaN stay.
  uint32_t Unshifted(uint32_t magnitude) const;

  static bool IsFinite(uint32_t magnitude);
  // What the largest contributions of a step mean; `magnitudes` by tensor, of all ranks, as
  // Kernels::StoreFixed returns them.
  enum class Verdict {
    kCounts,
    kVoid,
    kNotFinite,  // some contribution is infinite or NaN: takes precedence
  };
  Verdict Judge(std::span<const uint32_t> magnitudes) const;

  // The step was void: makes room for it.
  void MakeRoom(std::span<const uint32_t> magnitudes);
  // The step counted.
  void Commit(std::span<const uint32_t> magnitudes);

  // By tensor; absent: provisional.
  using State = std::vector<std::optional<int>>;
  const State& state() const { return references_; }
  // REQUIRES: as many as there are tensors.
  void Restore(State state);

  // The state as a checkpoint keeps it, which knows floats only, and back.
  // Errors: DATA_LOSS: not as many as there are tensors, or one that is no exponent of a float.
  static constexpr float kProvisionalInFile = -1024;
  void WriteTo(std::span<float> values) const;
  absl::Status ReadFrom(std::span<const float> values);

 private:
  enum class Fit { kFits, kTooLarge, kTooSmall };
  Fit FitOf(size_t tensor, int exponent) const;
  int Reference(size_t tensor) const { return references_[tensor].value_or(guess_); }

  const std::vector<int64_t> contributions_;
  const int guess_;
  State references_;
  int shift_ = 0;
};

// The guess for a tensor that has had no gradient yet, where losses are sums over the tokens of a
// micro-batch.
int GuessExponent(int64_t tokens_of_micro_batch);

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_PARALLEL_GRADIENT_EXPONENTS_H_
