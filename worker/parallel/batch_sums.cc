#include "worker/parallel/batch_sums.h"

#include <algorithm>
#include <vector>

#include "common/base/range.h"
#include "common/base/status_macros.h"

namespace dsrun::worker {
namespace {

// What both have: which tensors have a contribution already.
class Sums : public BatchSums {
 public:
  explicit Sums(const BatchSumsSetup& setup)
      : setup_(setup), magnitudes_(setup.layout->trainable_count()), begun_(magnitudes_.size()) {}

  void StartStep() override {
    std::fill(magnitudes_.begin(), magnitudes_.end(), 0u);
    std::fill(begun_.begin(), begun_.end(), false);
  }

  void Add(size_t tensor, const float* gradients) override {
    const Range flat = setup_.layout->entries()[tensor].flat();
    const uint32_t magnitude = AddTensor(tensor, flat, gradients, !begun_[tensor]);
    begun_[tensor] = true;
    magnitudes_[tensor] = std::max(magnitudes_[tensor], magnitude);
  }

  std::span<const uint32_t> magnitudes() const override { return magnitudes_; }

 protected:
  // `flat`: of the tensor. The magnitude of what went in.
  virtual uint32_t AddTensor(size_t tensor, Range flat, const float* gradients, bool first) = 0;

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
      setup_.layout->ForTensors(mine, [&](size_t tensor, Range part) {
        kernels.RoundFixed(part.size(), exponents_.Scale(tensor), sums_ + part.begin, result);
        result += part.size();
      });
    }
    return absl::OkStatus();
  }

 private:
  uint32_t AddTensor(size_t tensor, Range flat, const float* gradients, bool first) override {
    const int scale = exponents_.Scale(tensor);
    uint64_t* const to = sums_ + flat.begin;
    return first ? setup_.kernels->StoreFixed(flat.size(), scale, gradients, to)
                 : setup_.kernels->AccumulateFixed(flat.size(), scale, gradients, to);
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
      std::copy_n(sums_ + mine.begin, mine.size(), result);
      result += mine.size();
    }
    return absl::OkStatus();
  }

 private:
  uint32_t AddTensor(size_t, Range flat, const float* gradients, bool first) override {
    if (first) {
      std::copy_n(gradients, flat.size(), sums_ + flat.begin);
    } else {
      setup_.kernels->Accumulate(flat.size(), gradients, sums_ + flat.begin);
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
