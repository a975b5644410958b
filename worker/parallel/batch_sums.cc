#include "worker/parallel/batch_sums.h"

#include <algorithm>
#include <vector>

#include "common/base/range.h"
#include "common/base/status_macros.h"

namespace dsrun::worker {
namespace {

// The host has the memory of `owners` for an exchange.
template <typename T>
absl::StatusOr<HostAccess> Open(Stream& stream, const Owners& owners, const T* sums) {
  Range all;
  for (const std::vector<Range>& ranges : owners) {
    for (const Range& range : ranges) {
      all = all.empty() ? range
                        : Range{std::min(all.begin, range.begin), std::max(all.end, range.end)};
    }
  }
  return stream.OpenForHost(sums + all.begin, static_cast<size_t>(all.size()) * sizeof(T));
}

// ReduceScatterSums by kernels: the host sends what they have finished. Errors: as there, and the
// device's.
template <typename T, typename AddUp>
absl::Status ReduceOnHost(Communicator& communicator, const ReduceRoute& route, Stream& stream,
                          const Owners& owners, T* sums, std::span<T> scratch, const AddUp& add_up,
                          const std::string& what) {
  ASSIGN_OR_RETURN(const HostAccess of_sums, Open(stream, owners, sums));
  ASSIGN_OR_RETURN(const HostAccess of_scratch,
                   stream.OpenForHost(scratch.data(), scratch.size_bytes()));
  absl::Status device;
  RETURN_IF_ERROR(ReduceScatterSums<T>(
      communicator, route, owners, sums, scratch,
      [&](int64_t n, const T* src, T* dst) {
        add_up(n, src, dst);
        device.Update(stream.Record().Await());
      },
      what));
  return device;
}

// What both have: which tensors have a contribution already.
class Sums : public BatchSums {
 public:
  explicit Sums(const BatchSumsSetup& setup)
      : setup_(setup), magnitudes_(setup.layout->entries().size()), begun_(magnitudes_.size()) {}

  void StartStep() override {
    setup_.kernels->stream().Zero(setup_.magnitudes, magnitudes_.size() * sizeof(uint32_t));
    std::fill(begun_.begin(), begun_.end(), false);
  }

  void Add(size_t tensor, const float* gradients) override {
    const Range flat = setup_.layout->entries()[tensor].flat();
    AddTensor(tensor, flat, gradients, !begun_[tensor]);
    begun_[tensor] = true;
  }

  absl::StatusOr<std::span<const uint32_t>> Magnitudes() override {
    Stream& stream = setup_.kernels->stream();
    stream.Copy(magnitudes_.data(), setup_.magnitudes, magnitudes_.size() * sizeof(uint32_t));
    RETURN_IF_ERROR(stream.Record().Await());
    return std::span<const uint32_t>(magnitudes_);
  }

 protected:
  // `flat`: of the tensor.
  virtual void AddTensor(size_t tensor, Range flat, const float* gradients, bool first) = 0;

  const BatchSumsSetup setup_;

 private:
  std::vector<uint32_t> magnitudes_;  // as read
  std::vector<bool> begun_;
};

class Exact final : public Sums {
 public:
  Exact(const BatchSumsSetup& setup, const GradientExponents& exponents, uint64_t* sums,
        std::span<uint64_t> scratch)
      : Sums(setup), exponents_(exponents), sums_(sums), scratch_(scratch) {}

  absl::Status Reduce(Communicator& communicator, Kernels& kernels, const Owners& owners,
                      float* result, const std::string& what) override {
    RETURN_IF_ERROR(ReduceOnHost(
        communicator, setup_.route, kernels.stream(), owners, sums_, scratch_,
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
  void AddTensor(size_t tensor, Range flat, const float* gradients, bool first) override {
    const int scale = exponents_.Scale(tensor);
    uint64_t* const to = sums_ + flat.begin;
    uint32_t* const magnitude = setup_.magnitudes + tensor;
    if (first) {
      setup_.kernels->StoreFixed(flat.size(), scale, gradients, to, magnitude);
    } else {
      setup_.kernels->AccumulateFixed(flat.size(), scale, gradients, to, magnitude);
    }
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
    RETURN_IF_ERROR(ReduceOnHost(
        communicator, setup_.route, kernels.stream(), owners, sums_, scratch_,
        [&](int64_t n, const float* src, float* dst) { kernels.Accumulate(n, src, dst); }, what));
    for (const Range& mine : owners[static_cast<size_t>(communicator.rank())]) {
      kernels.stream().Copy(result, sums_ + mine.begin, Bytes(mine));
      result += mine.size();
    }
    return absl::OkStatus();
  }

 private:
  static size_t Bytes(Range range) { return static_cast<size_t>(range.size()) * sizeof(float); }
  void AddTensor(size_t, Range flat, const float* gradients, bool first) override {
    if (first) {
      setup_.kernels->stream().Copy(sums_ + flat.begin, gradients, Bytes(flat));
    } else {
      setup_.kernels->Accumulate(flat.size(), gradients, sums_ + flat.begin);
    }
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
