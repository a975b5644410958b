#include "worker/parallel/batch_sums.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "common/base/logging.h"
#include "common/base/status_macros.h"

namespace dsrun::worker {
namespace {

// What both have: which tensors have a contribution already.
class Sums : public BatchSums {
 public:
  explicit Sums(const BatchSumsSetup& setup)
      : setup_(setup),
        magnitudes_(setup.space->layout().entries().size()),
        begun_(magnitudes_.size()) {}

  void StartStep() override {
    std::fill(magnitudes_.begin(), magnitudes_.end(), 0u);
    std::fill(begun_.begin(), begun_.end(), false);
  }

  void Add(Range range, const float* gradients) override {
    const GradientSpace& space = *setup_.space;
    const Range arena = space.ArenaRange(range);
    const float* const base = gradients + (range.begin - arena.begin);
    space.layout().ForTensors(arena, [&](size_t tensor, Range part) {
      CHECK(part == space.layout().entries()[tensor].padded()) << "half a tensor";
      const uint32_t magnitude = AddTensor(tensor, part, base, !begun_[tensor]);
      begun_[tensor] = true;
      magnitudes_[tensor] = std::max(magnitudes_[tensor], magnitude);
    });
  }

  std::span<const uint32_t> magnitudes() const override { return magnitudes_; }

 protected:
  // `gradients`: base of an arena. The magnitude of what went in.
  virtual uint32_t AddTensor(size_t tensor, Range range, const float* gradients, bool first) = 0;

  const BatchSumsSetup setup_;

 private:
  std::vector<uint32_t> magnitudes_;
  std::vector<bool> begun_;
};

class Exact final : public Sums {
 public:
  Exact(const BatchSumsSetup& setup, const GradientExponents& exponents, uint64_t* sums,
        std::span<uint64_t> scratch)
      : Sums(setup), exponents_(exponents), sums_(sums), scratch_(scratch) {}

  absl::Status Reduce(Communicator& communicator, Kernels& kernels, const Owners& owners,
                      float* result, const std::string& what) override {
    RETURN_IF_ERROR(ReduceScatterSums<uint64_t>(
        communicator, setup_.route, owners, sums_, scratch_,
        [&](int64_t n, const uint64_t* src, uint64_t* dst) { kernels.AccumulateSums(n, src, dst); },
        what));
    for (const Range& mine : owners[static_cast<size_t>(communicator.rank())]) {
      setup_.space->layout().ForTensors(mine, [&](size_t tensor, Range part) {
        kernels.RoundFixed(part.size(), exponents_.Scale(tensor), sums_ + part.begin,
                           result + part.begin);
      });
    }
    return absl::OkStatus();
  }

 private:
  uint32_t AddTensor(size_t tensor, Range range, const float* gradients, bool first) override {
    const int scale = exponents_.Scale(tensor);
    const float* const from = gradients + range.begin;
    uint64_t* const to = sums_ + range.begin;
    return first ? setup_.kernels->StoreFixed(range.size(), scale, from, to)
                 : setup_.kernels->AccumulateFixed(range.size(), scale, from, to);
  }

  const GradientExponents& exponents_;
  uint64_t* const sums_;
  const std::span<uint64_t> scratch_;
};

class Fast final : public Sums {
 public:
  Fast(const BatchSumsSetup& setup, float* sums, std::span<float> scratch)
      : Sums(setup), sums_(sums), scratch_(scratch) {}

  absl::Status Reduce(Communicator& communicator, Kernels& kernels, const Owners& owners,
                      float* result, const std::string& what) override {
    RETURN_IF_ERROR(ReduceScatterSums<float>(
        communicator, setup_.route, owners, sums_, scratch_,
        [&](int64_t n, const float* src, float* dst) { kernels.Accumulate(n, src, dst); }, what));
    for (const Range& mine : owners[static_cast<size_t>(communicator.rank())]) {
      std::memcpy(result + mine.begin, sums_ + mine.begin,
                  static_cast<size_t>(mine.size()) * sizeof(float));
    }
    return absl::OkStatus();
  }

 private:
  uint32_t AddTensor(size_t, Range range, const float* gradients, bool first) override {
    const float* const from = gradients + range.begin;
    if (first) {
      std::memcpy(sums_ + range.begin, from, static_cast<size_t>(range.size()) * sizeof(float));
    } else {
      setup_.kernels->Accumulate(range.size(), from, sums_ + range.begin);
    }
    return 0;
  }

  float* const sums_;
  const std::span<float> scratch_;
};

}  // namespace

std::unique_ptr<BatchSums> ExactSums(const BatchSumsSetup& setup,
                                     const GradientExponents& exponents, uint64_t* sums,
                                     std::span<uint64_t> scratch) {
  return std::make_unique<Exact>(setup, exponents, sums, scratch);
}

std::unique_ptr<BatchSums> FastSums(const BatchSumsSetup& setup, float* sums,
                                    std::span<float> scratch) {
  return std::make_unique<Fast>(setup, sums, scratch);
}

}  // namespace dsrun::worker
