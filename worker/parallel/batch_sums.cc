#include "worker/parallel/batch_sums.h"

#include <algorithm>
#include <vector>

#include "common/base/range.h"
#include "common/base/status_macros.h"

namespace dsrun::worker {
namespace {

// Who has floats of a bucket: whoever has one atom, of tensors that are used once.
SingleRanks SinglesOf(const BatchSumsSetup& setup, size_t bucket) {
  SingleRanks single;
  if (!setup.places->used_once(bucket)) return single;
  for (const int64_t atoms : setup.atoms_of_rank) single.push_back(atoms == 1);
  return single;
}

// What both have: where the sums of a bucket stand. T: of sums that are held.
template <typename T>
class Sums : public BatchSums {
 public:
  Sums(const BatchSumsSetup& setup, T* sums, std::span<T> scratch)
      : setup_(setup),
        scratch_(scratch),
        sums_(sums),
        magnitudes_(setup.layout->trainable_count()) {}

  void StartStep() override { std::fill(magnitudes_.begin(), magnitudes_.end(), 0u); }

  void Add(size_t bucket, size_t tensor, Range flat, const float* gradients, bool first) override {
    if (setup_.places->place(bucket).passing) {
      Pass(tensor, flat, gradients, Slot(bucket));
    } else {
      See(tensor, AddHeld(tensor, flat, gradients, first, Held(bucket).At(flat.begin)));
    }
  }

  std::span<const uint32_t> Magnitudes() override { return magnitudes_; }

 protected:
  // The magnitude of what went in.
  virtual uint32_t AddHeld(size_t tensor, Range flat, const float* gradients, bool first,
                           T* sums) = 0;

  void See(size_t tensor, uint32_t magnitude) {
    magnitudes_[tensor] = std::max(magnitudes_[tensor], magnitude);
  }
  SumsAt<T> Held(size_t bucket) const { return {sums_ + Offset(bucket), Begin(bucket)}; }
  SumsAt<float> Slot(size_t bucket) const { return {setup_.slots + Offset(bucket), Begin(bucket)}; }

  const BatchSumsSetup setup_;
  const std::span<T> scratch_;

 private:
  int64_t Offset(size_t bucket) const { return setup_.places->place(bucket).offset; }
  int64_t Begin(size_t bucket) const { return setup_.shards->buckets()[bucket].begin; }

  // A slot had another bucket before: padding is made 0 again.
  void Pass(size_t tensor, Range flat, const float* gradients, SumsAt<float> slot) const {
    std::copy_n(gradients, flat.size(), slot.At(flat.begin));
    const FlatLayout::Entry& entry = setup_.layout->entries()[tensor];
    if (flat.end != entry.flat().end) return;
    std::fill(slot.At(flat.end), slot.At(entry.padded().end), 0.0f);
  }

  T* const sums_;
  std::vector<uint32_t> magnitudes_;
};

class Exact final : public Sums<uint64_t> {
 public:
  Exact(const BatchSumsSetup& setup, const GradientExponents& exponents, uint64_t* sums,
        std::span<uint64_t> scratch)
      : Sums(setup, sums, scratch),
        exponents_(exponents),
        seen_in_reduction_(setup.layout->trainable_count()) {}

  void StartStep() override {
    Sums::StartStep();
    std::fill(seen_in_reduction_.begin(), seen_in_reduction_.end(), 0u);
  }

  std::span<const uint32_t> Magnitudes() override {
    for (size_t tensor = 0; tensor < seen_in_reduction_.size(); ++tensor) {
      See(tensor, seen_in_reduction_[tensor]);
    }
    return Sums::Magnitudes();
  }

  absl::Status Reduce(Communicator& communicator, Kernels& kernels, size_t bucket,
                      const Owners& owners, float* result, const std::string& what) override {
    const bool passing = setup_.places->place(bucket).passing;
    const SumsAt<float> slot = passing ? Slot(bucket) : SumsAt<float>(nullptr);
    const SingleParts parts{
        .single = SinglesOf(setup_, bucket),
        .own = {slot.data, slot.origin},
        .fix = [&](Range range, const float* x, bool first,
                   uint64_t* sums) { Fix(kernels, range, x, first, sums); },
        .total =
            [&](Range range, const uint64_t* total) {
              setup_.layout->ForTensors(range, [&](size_t tensor, Range part) {
                kernels.RoundFixed(part.size(), exponents_.Scale(tensor), total, result);
                total += part.size();
                result += part.size();
              });
            },
    };
    return ReduceScatterSingles(
        communicator, setup_.route, owners, parts,
        passing ? SumsAt<uint64_t>(nullptr) : Held(bucket), scratch_,
        [&](int64_t n, const uint64_t* src, uint64_t* dst) { kernels.AccumulateSums(n, src, dst); },
        what);
  }

 private:
  uint32_t AddHeld(size_t tensor, Range flat, const float* gradients, bool first,
                   uint64_t* sums) override {
    return FixPart(*setup_.kernels, tensor, flat.size(), gradients, first, sums);
  }

  uint32_t FixPart(Kernels& kernels, size_t tensor, int64_t size, const float* x, bool first,
                   uint64_t* sums) const {
    const int scale = exponents_.Scale(tensor);
    return first ? kernels.StoreFixed(size, scale, x, sums)
                 : kernels.AccumulateFixed(size, scale, x, sums);
  }

  // Single contributions of this rank or another.
  void Fix(Kernels& kernels, Range range, const float* x, bool first, uint64_t* sums) {
    setup_.layout->ForTensors(range, [&](size_t tensor, Range part) {
      uint32_t& seen = seen_in_reduction_[tensor];
      seen = std::max(seen, FixPart(kernels, tensor, part.size(), x, first, sums));
      x += part.size();
      sums += part.size();
    });
  }

  const GradientExponents& exponents_;
  std::vector<uint32_t> seen_in_reduction_;  // by tensor; the communicator's owner's
};

class Fast final : public Sums<float> {
 public:
  using Sums::Sums;

  absl::Status Reduce(Communicator& communicator, Kernels& kernels, size_t bucket,
                      const Owners& owners, float* result, const std::string& what) override {
    const SumsAt<float> sums = setup_.places->place(bucket).passing ? Slot(bucket) : Held(bucket);
    RETURN_IF_ERROR(ReduceScatterSums<float>(
        communicator, setup_.route, owners, sums, scratch_,
        [&](int64_t n, const float* src, float* dst) { kernels.Accumulate(n, src, dst); }, what));
    for (const Range& mine : owners[static_cast<size_t>(communicator.rank())]) {
      std::copy_n(sums.At(mine.begin), mine.size(), result);
      result += mine.size();
    }
    return absl::OkStatus();
  }

 private:
  uint32_t AddHeld(size_t, Range flat, const float* gradients, bool first, float* sums) override {
    if (first) {
      std::copy_n(gradients, flat.size(), sums);
    } else {
      setup_.kernels->Accumulate(flat.size(), gradients, sums);
    }
    return 0;
  }
};

}  // namespace

int64_t ExactSumsScratch(const BatchSumsSetup& setup, int rank) {
  int64_t most = 0;
  for (size_t bucket = 0; bucket < setup.shards->buckets().size(); ++bucket) {
    const Owners owners = setup.shards->OwnedByRank(setup.shards->buckets()[bucket]);
    most =
        std::max(most, ReduceScratchElements(setup.route, owners, rank, SinglesOf(setup, bucket)));
  }
  return most;
}

int64_t FastSumsScratch(const BatchSumsSetup& setup, int rank) {
  int64_t most = 0;
  for (const Range& bucket : setup.shards->buckets()) {
    const Owners owners = setup.shards->OwnedByRank(bucket);
    most = std::max(most, ReduceScratchElements(setup.route, owners, rank));
  }
  return most;
}

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
