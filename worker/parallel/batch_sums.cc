#include "worker/parallel/batch_sums.h"

#include <algorithm>
#include <vector>

#include "common/base/range.h"
#include "common/base/status_macros.h"

namespace dsrun::worker {
namespace {

size_t Bytes(Range floats) { return static_cast<size_t>(floats.size()) * sizeof(float); }

// Who has floats of a bucket: whoever has one atom, of tensors that are used once. Of exact sums.
std::vector<SingleRanks> SinglesOf(const BatchSumsSetup& setup) {
  SingleRanks one_atom;
  for (const int64_t atoms : setup.atoms_of_rank) one_atom.push_back(atoms == 1);
  std::vector<SingleRanks> singles;
  for (size_t bucket = 0; bucket < setup.shards->buckets().size(); ++bucket) {
    singles.push_back(setup.places->used_once(bucket) ? one_atom : SingleRanks());
  }
  return singles;
}

// What both have: where the sums of a bucket stand. T: of sums that are held.
template <typename T>
class Sums : public BatchSums {
 public:
  Sums(const BatchSumsSetup& setup, T* sums, std::span<T> scratch)
      : setup_(setup),
        scratch_(scratch),
        sums_(sums),
        magnitudes_(2 * setup.layout->trainable_count()) {}

  void StartStep() override {
    setup_.kernels->stream().Zero(setup_.magnitudes, magnitudes_.size() * sizeof(uint32_t));
  }

  void Add(size_t bucket, size_t tensor, Range flat, const float* gradients, bool first) override {
    if (setup_.places->place(bucket).passing) {
      Pass(tensor, flat, gradients, Slot(bucket));
    } else {
      AddHeld(tensor, flat, gradients, first, Held(bucket).At(flat.begin));
    }
  }

  absl::StatusOr<std::span<const uint32_t>> Magnitudes() override {
    Stream& stream = setup_.kernels->stream();
    stream.Copy(magnitudes_.data(), setup_.magnitudes, magnitudes_.size() * sizeof(uint32_t));
    RETURN_IF_ERROR(stream.Record().Await());
    const size_t tensors = setup_.layout->trainable_count();
    for (size_t tensor = 0; tensor < tensors; ++tensor) {
      magnitudes_[tensor] = std::max(magnitudes_[tensor], magnitudes_[tensors + tensor]);
    }
    return std::span<const uint32_t>(magnitudes_).first(tensors);
  }

 protected:
  virtual void AddHeld(size_t tensor, Range flat, const float* gradients, bool first, T* sums) = 0;

  uint32_t* MagnitudeOfAdded(size_t tensor) const { return setup_.magnitudes + tensor; }
  // Apart, since another stream raises it.
  uint32_t* MagnitudeOfReduced(size_t tensor) const {
    return setup_.magnitudes + setup_.layout->trainable_count() + tensor;
  }
  SumsAt<T> Held(size_t bucket) const { return {sums_ + Offset(bucket), Begin(bucket)}; }
  SumsAt<float> Slot(size_t bucket) const { return {setup_.slots + Offset(bucket), Begin(bucket)}; }

  // The host has what a bucket's exchange reads and writes, but for what it gives: it sends what
  // kernels have finished. Until the last of them is destroyed.
  absl::StatusOr<std::vector<HostAccess>> OpenForExchange(Stream& stream, size_t bucket) const {
    const auto size = static_cast<size_t>(setup_.shards->buckets()[bucket].size());
    std::vector<HostAccess> all;
    ASSIGN_OR_RETURN(HostAccess own,
                     setup_.places->place(bucket).passing
                         ? stream.OpenForHost(Slot(bucket).data, size * sizeof(float))
                         : stream.OpenForHost(Held(bucket).data, size * sizeof(T)));
    all.push_back(std::move(own));
    ASSIGN_OR_RETURN(HostAccess of_scratch,
                     stream.OpenForHost(scratch_.data(), scratch_.size_bytes()));
    all.push_back(std::move(of_scratch));
    return all;
  }

  const BatchSumsSetup setup_;
  const std::span<T> scratch_;

 private:
  int64_t Offset(size_t bucket) const { return setup_.places->place(bucket).offset; }
  int64_t Begin(size_t bucket) const { return setup_.shards->buckets()[bucket].begin; }

  // A slot had another bucket before: padding is made 0 again.
  void Pass(size_t tensor, Range flat, const float* gradients, SumsAt<float> slot) const {
    Stream& stream = setup_.kernels->stream();
    stream.Copy(slot.At(flat.begin), gradients, Bytes(flat));
    const FlatLayout::Entry& entry = setup_.layout->entries()[tensor];
    const Range padding{flat.end, entry.padded().end};
    if (flat.end != entry.flat().end || padding.empty()) return;
    stream.Zero(slot.At(padding.begin), Bytes(padding));
  }

  T* const sums_;
  std::vector<uint32_t> magnitudes_;  // as read
};

class Exact final : public Sums<uint64_t> {
 public:
  Exact(const BatchSumsSetup& setup, const GradientExponents& exponents, uint64_t* sums,
        std::span<uint64_t> scratch)
      : Sums(setup, sums, scratch), exponents_(exponents), singles_(SinglesOf(setup)) {}

  absl::Status Reduce(Communicator& communicator, Kernels& kernels, size_t bucket,
                      const Owners& owners, float* result, const std::string& what) override {
    Stream& stream = kernels.stream();
    const bool passing = setup_.places->place(bucket).passing;
    const SumsAt<float> slot = passing ? Slot(bucket) : SumsAt<float>(nullptr);
    absl::Status device;
    const SingleParts parts{
        .single = singles_[bucket],
        .own = {slot.data, slot.origin},
        .fix =
            [&](Range range, const float* x, bool first, uint64_t* sums) {
              Fix(kernels, range, x, first, sums);
              device.Update(stream.Record().Await());
            },
        .total =
            [&](Range range, const uint64_t* total) {
              setup_.layout->ForTensors(range, [&](size_t tensor, Range part) {
                kernels.RoundFixed(part.size(), exponents_.Scale(tensor), total, result);
                total += part.size();
                result += part.size();
              });
            },
    };
    ASSIGN_OR_RETURN(const std::vector<HostAccess> access, OpenForExchange(stream, bucket));
    absl::Status status = ReduceScatterSingles(
        communicator, setup_.route, owners, parts,
        passing ? SumsAt<uint64_t>(nullptr) : Held(bucket), scratch_,
        [&](int64_t n, const uint64_t* src, uint64_t* dst) {
          kernels.AccumulateSums(n, src, dst);
          device.Update(stream.Record().Await());
        },
        what);
    status.Update(device);
    status.Update(stream.Record().Await());
    return status;
  }

 private:
  void AddHeld(size_t tensor, Range flat, const float* gradients, bool first,
               uint64_t* sums) override {
    FixPart(*setup_.kernels, tensor, flat.size(), gradients, first, sums, MagnitudeOfAdded(tensor));
  }

  void FixPart(Kernels& kernels, size_t tensor, int64_t size, const float* x, bool first,
               uint64_t* sums, uint32_t* magnitude) const {
    const int scale = exponents_.ScaleOfContribution(tensor);
    if (first) {
      kernels.StoreFixed(size, scale, x, sums, magnitude);
    } else {
      kernels.AccumulateFixed(size, scale, x, sums, magnitude);
    }
  }

  // Single contributions of this rank or another.
  void Fix(Kernels& kernels, Range range, const float* x, bool first, uint64_t* sums) const {
    setup_.layout->ForTensors(range, [&](size_t tensor, Range part) {
      FixPart(kernels, tensor, part.size(), x, first, sums, MagnitudeOfReduced(tensor));
      x += part.size();
      sums += part.size();
    });
  }

  const GradientExponents& exponents_;
  const std::vector<SingleRanks> singles_;  // by bucket
};

class Fast final : public Sums<float> {
 public:
  using Sums::Sums;

  absl::Status Reduce(Communicator& communicator, Kernels& kernels, size_t bucket,
                      const Owners& owners, float* result, const std::string& what) override {
    Stream& stream = kernels.stream();
    const SumsAt<float> sums = setup_.places->place(bucket).passing ? Slot(bucket) : Held(bucket);
    ASSIGN_OR_RETURN(const std::vector<HostAccess> access, OpenForExchange(stream, bucket));
    absl::Status device;
    RETURN_IF_ERROR(ReduceScatterSums<float>(
        communicator, setup_.route, owners, sums, scratch_,
        [&](int64_t n, const float* src, float* dst) {
          kernels.Accumulate(n, src, dst);
          device.Update(stream.Record().Await());
        },
        what));
    for (const Range& mine : owners[static_cast<size_t>(communicator.rank())]) {
      stream.Copy(result, sums.At(mine.begin), Bytes(mine));
      result += mine.size();
    }
    device.Update(stream.Record().Await());
    return device;
  }

 private:
  void AddHeld(size_t, Range flat, const float* gradients, bool first, float* sums) override {
    if (first) {
      setup_.kernels->stream().Copy(sums, gradients, Bytes(flat));
    } else {
      setup_.kernels->Accumulate(flat.size(), gradients, sums);
    }
  }
};

}  // namespace

int64_t SumsScratch(const BatchSumsSetup& setup, bool exact, int rank) {
  const std::vector<Range>& buckets = setup.shards->buckets();
  const std::vector<SingleRanks> singles =
      exact ? SinglesOf(setup) : std::vector<SingleRanks>(buckets.size());
  int64_t most = 0;
  for (size_t bucket = 0; bucket < buckets.size(); ++bucket) {
    most = std::max(
        most, ReduceScratchElements(setup.route, setup.shards->OwnedByRank(buckets[bucket]), rank,
                                    singles[bucket]));
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
