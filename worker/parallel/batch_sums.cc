#include "worker/parallel/batch_sums.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "common/base/range.h"
#include "common/base/status_macros.h"

namespace dsrun::worker {
namespace {

size_t Bytes(Range floats) { return static_cast<size_t>(floats.size()) * sizeof(float); }

// Who has what of a part, by part and round of a step. `exact`: only integers make a difference
// between a contribution and a sum.
class WhoHas {
 public:
  WhoHas(const BatchSumsSetup& setup, bool exact) : places_(*setup.places) {
    const auto add = [&](auto what) {
      RanksHave& have = have_.emplace_back();
      for (const int64_t atoms : setup.atoms_of_rank) have.push_back(what(atoms));
    };
    const RankHas single = exact ? RankHas::kSingle : RankHas::kSums;
    if (!places_.of_owners()) {  // floats: whoever has one atom, of tensors that are used once
      add([&](int64_t atoms) { return atoms == 1 ? single : RankHas::kSums; });
    }
    const int64_t rounds = RoundsOf(places_, setup.atoms_of_rank);
    for (int64_t round = 0; places_.of_owners() && round < rounds; ++round) {  // the last have all
      add([&](int64_t atoms) { return round >= rounds - atoms ? single : RankHas::kNothing; });
    }
  }

  const RanksHave& Of(size_t part, int64_t round) const {
    if (places_.of_owners()) return have_[static_cast<size_t>(round)];
    return places_.used_once(places_.parts()[part].bucket) ? have_[0] : all_sums_;
  }

 private:
  const SumPlaces& places_;
  std::vector<RanksHave> have_;  // by round
  const RanksHave all_sums_;
};

void AddSums(Kernels& kernels, int64_t n, const uint64_t* src, uint64_t* dst) {
  kernels.AccumulateSums(n, src, dst);
}
void AddSums(Kernels& kernels, int64_t n, const float* src, float* dst) {
  kernels.Accumulate(n, src, dst);
}

// An owner's sums over the rounds of a step (ZeRO-2). The communication thread's.
template <typename T>
class OverRounds {
 public:
  OverRounds(const BatchSumsSetup& setup, T* sums)
      : layout_(*setup.layout), places_(*setup.places) {
    if (!places_.of_owners()) return;
    const int64_t rounds = RoundsOf(places_, setup.atoms_of_rank);
    const std::vector<Range>& buckets = setup.shards->buckets();
    std::vector<T*> of_bucket;
    for (size_t bucket = 0; bucket < buckets.size(); ++bucket) {
      of_bucket.push_back(places_.IsSummed(bucket, rounds) ? sums : nullptr);
      if (of_bucket.back() == nullptr) continue;
      for (const Range& mine : setup.shards->Owned(setup.rank, buckets[bucket])) {
        sums += mine.size();
      }
    }
    for (const SumPlaces::Part& part : places_.parts()) {
      T*& begin = begin_.emplace_back(of_bucket[part.bucket]);
      if (begin == nullptr) continue;
      const Range before{buckets[part.bucket].begin, part.range.begin};
      for (const Range& mine : setup.shards->Owned(setup.rank, before)) begin += mine.size();
    }
  }

  // Of what the rank owns of the part, one range after the other; null: a step has one
  // contribution.
  T* Begin(size_t part) const { return begin_.empty() ? nullptr : begin_[part]; }

  // What `round` brought of `range` of the part goes to `sums`.
  void Add(Kernels& kernels, size_t part, int64_t round, Range range, const T* brought,
           T* sums) const {
    layout_.ForTensors(range, [&](size_t tensor, Range piece) {
      if (round == 0 && places_.IsFirst(places_.parts()[part], tensor)) {
        kernels.stream().Copy(sums, brought, static_cast<size_t>(piece.size()) * sizeof(T));
      } else {
        AddSums(kernels, piece.size(), brought, sums);
      }
      brought += piece.size();
      sums += piece.size();
    });
  }

 private:
  const FlatLayout& layout_;
  const SumPlaces& places_;
  std::vector<T*> begin_;  // by part
};

// What both have: where the sums of a part stand. T: of sums that are held.
template <typename T>
class Sums : public BatchSums {
 public:
  Sums(const BatchSumsSetup& setup, bool exact, T* sums, std::span<T> scratch)
      : setup_(setup),
        scratch_(scratch),
        who_has_(setup, exact),
        over_rounds_(setup, sums),
        rounds_(RoundsOf(*setup.places, setup.atoms_of_rank)),
        sums_(sums),
        magnitudes_(2 * setup.layout->trainable_count()) {}

  void StartStep() override {
    setup_.kernels->stream().Zero(setup_.magnitudes, magnitudes_.size() * sizeof(uint32_t));
  }

  void Add(size_t part, size_t tensor, Range flat, const float* gradients, bool first) override {
    if (Part(part).passing) {
      Pass(tensor, flat, gradients, Slot(part));
    } else {
      AddHeld(tensor, flat, gradients, first, Held(part).At(flat.begin));
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
  const SumPlaces::Part& Part(size_t part) const { return setup_.places->parts()[part]; }
  bool IsComplete(size_t part, int64_t round) const {
    return worker::IsComplete(Part(part), round, rounds_);
  }
  bool HasNothing(size_t part, int64_t round) const {
    return setup_.places->of_owners() &&
           who_has_.Of(part, round)[static_cast<size_t>(setup_.rank)] == RankHas::kNothing;
  }
  SumsAt<T> Held(size_t part) const { return {sums_ + Part(part).offset, Part(part).range.begin}; }
  SumsAt<float> Slot(size_t part) const {
    return {setup_.slots + Part(part).offset, Part(part).range.begin};
  }

  // The host has what a part's exchange reads and writes, but for what it gives: it sends what
  // kernels have finished. Until the last of them is destroyed. `own`: and the rank's own of it.
  absl::StatusOr<std::vector<HostAccess>> OpenForExchange(Stream& stream, size_t part,
                                                          bool own) const {
    const auto size = static_cast<size_t>(Part(part).range.size());
    std::vector<HostAccess> all;
    if (own) {
      ASSIGN_OR_RETURN(HostAccess of_own,
                       Part(part).passing
                           ? stream.OpenForHost(Slot(part).data, size * sizeof(float))
                           : stream.OpenForHost(Held(part).data, size * sizeof(T)));
      all.push_back(std::move(of_own));
    }
    ASSIGN_OR_RETURN(HostAccess of_scratch,
                     stream.OpenForHost(scratch_.data(), scratch_.size_bytes()));
    all.push_back(std::move(of_scratch));
    return all;
  }

  const BatchSumsSetup setup_;
  const std::span<T> scratch_;
  const WhoHas who_has_;
  const OverRounds<T> over_rounds_;
  const int64_t rounds_;

 private:
  // A slot had another part before: padding is made 0 again.
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
      : Sums(setup, /*exact=*/true, sums, scratch), exponents_(exponents) {}

  absl::Status Reduce(Communicator& communicator, Kernels& kernels, size_t part, int64_t round,
                      const Owners& owners, float* result, const std::string& what) override {
    Stream& stream = kernels.stream();
    const bool passing = Part(part).passing;
    const SumsAt<float> slot = passing ? Slot(part) : SumsAt<float>(nullptr);
    uint64_t* over_rounds = over_rounds_.Begin(part);
    absl::Status device;
    const SingleParts parts{
        .have = who_has_.Of(part, round),
        .own = {slot.data, slot.origin},
        .fix =
            [&](Range range, const float* x, bool first, uint64_t* sums) {
              Fix(kernels, range, x, first, sums);
              device.Update(stream.Record().Await());
            },
        .total =
            [&](Range range, const uint64_t* total) {
              if (over_rounds != nullptr) {
                over_rounds_.Add(kernels, part, round, range, total, over_rounds);
                total = std::exchange(over_rounds, over_rounds + range.size());
              }
              if (IsComplete(part, round)) {
                Round(kernels, range, total, result);
                result += range.size();
              }
            },
    };
    // Of nothing no slot is used, and backward may be filling it.
    ASSIGN_OR_RETURN(const std::vector<HostAccess> access,
                     OpenForExchange(stream, part, /*own=*/!HasNothing(part, round)));
    absl::Status status = ReduceScatterSingles(
        communicator, setup_.route, owners, parts, passing ? SumsAt<uint64_t>(nullptr) : Held(part),
        scratch_,
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

  void Round(Kernels& kernels, Range range, const uint64_t* total, float* result) const {
    setup_.layout->ForTensors(range, [&](size_t tensor, Range part) {
      kernels.RoundFixed(part.size(), exponents_.Scale(tensor), total, result);
      total += part.size();
      result += part.size();
    });
  }

  const GradientExponents& exponents_;
};

class Fast final : public Sums<float> {
 public:
  Fast(const BatchSumsSetup& setup, float* sums, std::span<float> scratch)
      : Sums(setup, /*exact=*/false, sums, scratch) {}

  absl::Status Reduce(Communicator& communicator, Kernels& kernels, size_t part, int64_t round,
                      const Owners& owners, float* result, const std::string& what) override {
    Stream& stream = kernels.stream();
    const SumsAt<float> sums = Part(part).passing ? Slot(part) : Held(part);
    if (HasNothing(part, round)) {
      stream.Zero(sums.data, Bytes(Part(part).range));
      RETURN_IF_ERROR(stream.Record().Await());
    }
    ASSIGN_OR_RETURN(const std::vector<HostAccess> access,
                     OpenForExchange(stream, part, /*own=*/true));
    absl::Status device;
    RETURN_IF_ERROR(ReduceScatterSums<float>(
        communicator, setup_.route, owners, sums, scratch_,
        [&](int64_t n, const float* src, float* dst) {
          kernels.Accumulate(n, src, dst);
          device.Update(stream.Record().Await());
        },
        what, who_has_.Of(part, round)));
    float* over_rounds = over_rounds_.Begin(part);
    for (const Range& mine : owners[static_cast<size_t>(communicator.rank())]) {
      const float* total = sums.At(mine.begin);
      if (over_rounds != nullptr) {
        over_rounds_.Add(kernels, part, round, mine, total, over_rounds);
        total = std::exchange(over_rounds, over_rounds + mine.size());
      }
      if (!IsComplete(part, round)) continue;
      stream.Copy(result, total, Bytes(mine));
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

int64_t RoundsOf(const SumPlaces& places, const std::vector<int64_t>& atoms_of_rank) {
  return places.of_owners() ? *std::max_element(atoms_of_rank.begin(), atoms_of_rank.end()) : 1;
}

// In a last round all ranks have something.
int64_t SumsScratch(const BatchSumsSetup& setup, bool exact) {
  const std::vector<SumPlaces::Part>& parts = setup.places->parts();
  const WhoHas who_has(setup, exact);
  const int64_t last = RoundsOf(*setup.places, setup.atoms_of_rank) - 1;
  int64_t most = 0;
  for (size_t part = 0; part < parts.size(); ++part) {
    most = std::max(most,
                    ReduceScratchElements(setup.route, setup.shards->OwnedByRank(parts[part].range),
                                          setup.rank, who_has.Of(part, last)));
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
