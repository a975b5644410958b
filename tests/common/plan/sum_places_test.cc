#include "common/plan/sum_places.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "common/model/presets.h"
#include "common/plan/zero_stage.h"
#include "gtest/gtest.h"
#include "tests/support/any_layers.h"

namespace dsrun {
namespace {

constexpr unsigned kSeed = 20261127;

// Plays a plan as the engine does, round after round. Every element of every use goes in once a
// round, and the first is said to be the first. No part is handed over before all of it is in: of
// held ones and of what only passes, where each use of a tensor has a part for itself. No slot is
// given away before its part was handed over and waited for.
class Played {
 public:
  Played(const ModelPlan& model, const FlatLayout& layout, const ShardPlan& shards, int64_t atoms,
         ZeroPart sums)
      : layout_(layout),
        space_(model, layout),
        places_(layout, shards, space_, atoms, sums),
        uses_(space_.Contributions(1)) {}

  const SumPlaces& places() const { return places_; }

  void Round() {
    begun_.assign(static_cast<size_t>(layout_.size()), 0);
    in_part_.clear();
    for (const SumPlaces::Part& part : places_.parts()) {
      in_part_.emplace_back(static_cast<size_t>(part.range.size()));
    }
    waited_.clear();
    handed_over_ = 0;
    for (size_t layer = space_.layers(); layer-- > 0;) {
      for (const SumPlaces::Visit& visit : places_.visits(layer)) {
        Visit(layer, visit);
        if (::testing::Test::HasFatalFailure()) return;
      }
      HandOver(places_.ready_after(layer));
    }
    HandOver(places_.parts().size());
    for (const int64_t begun : begun_) uses_seen_ += begun;
  }
  int64_t uses_seen() const { return uses_seen_; }

 private:
  void Visit(size_t layer, const SumPlaces::Visit& visit) {
    const SumPlaces::Part& part = places_.parts()[visit.part];
    if (visit.slot_after) {
      ASSERT_LT(*visit.slot_after, handed_over_) << "backward would wait for ever";
      waited_.insert(*visit.slot_after);
    } else if (visit.slot_after_round) {
      ASSERT_GE(*visit.slot_after_round, handed_over_) << "not that of the round before";
      of_round_before_.erase(*visit.slot_after_round);
    }
    if (part.passing) {
      const auto had = slots_.find(part.offset);
      if (had != slots_.end() && had->second != visit.part) {
        ASSERT_TRUE(waited_.contains(had->second) || !of_round_before_.contains(had->second))
            << "part " << had->second;
      }
      slots_[part.offset] = visit.part;
    }
    for (const SumPlaces::Piece& piece : visit.pieces) {
      ASSERT_TRUE(piece.flat.begin >= part.range.begin && piece.flat.end <= part.range.end);
      const size_t tensor = space_.uses(layer)[piece.use].tensor;
      ASSERT_GE(piece.flat.begin, layout_.entries()[tensor].offset);
      for (int64_t i = piece.flat.begin; i < piece.flat.end; ++i) {
        const bool first = begun_[static_cast<size_t>(i)]++ == 0;
        ASSERT_EQ(first, piece.first);
        if (places_.of_owners()) {
          ASSERT_EQ(first, places_.IsFirst(part, tensor));
        }
        ++in_part_[visit.part][static_cast<size_t>(i - part.range.begin)];
      }
    }
    HandOver(visit.ready);
  }

  void HandOver(size_t ready) {
    for (; handed_over_ < ready; ++handed_over_) {
      const SumPlaces::Part& part = places_.parts()[handed_over_];
      layout_.ForTensors(part.range, [&](size_t tensor, Range range) {
        range.end = std::min(range.end, layout_.entries()[tensor].flat().end);
        for (int64_t i = range.begin; i < range.end; ++i) {
          ASSERT_EQ(in_part_[handed_over_][static_cast<size_t>(i - part.range.begin)],
                    places_.of_owners() ? 1 : uses_[tensor])
              << "part " << handed_over_;
        }
      });
      of_round_before_.insert(handed_over_);
    }
  }

  const FlatLayout& layout_;
  const GradientSpace space_;
  const SumPlaces places_;
  const std::vector<int64_t> uses_;
  std::vector<int64_t> begun_;                 // by element, in this round
  std::vector<std::vector<int64_t>> in_part_;  // by part and element of it
  std::map<int64_t, size_t> slots_;            // by offset: whose it is
  std::set<size_t> waited_;                    // in this round
  std::set<size_t> of_round_before_;           // parts that were not waited for since
  size_t handed_over_ = 0;
  int64_t uses_seen_ = 0;
};

// Places of one kind do not overlap, but for slots that parts have one after the other.
void ExpectPlacesApart(const ShardPlan& shards, const SumPlaces& places) {
  int64_t held = 0;
  std::vector<size_t> whole;  // buckets
  for (size_t i = 0; i < places.parts().size(); ++i) {
    const SumPlaces::Part& part = places.parts()[i];
    const int64_t end = part.offset + part.range.size();
    EXPECT_LE(end, part.passing ? places.slot_elements() : places.held_elements());
    EXPECT_EQ(part.range.begin % kLeafElements, 0);
    EXPECT_EQ(part.range.end % kLeafElements, 0);
    if (part.whole) whole.push_back(part.bucket);
    if (part.passing) continue;
    held += part.range.size();
    for (size_t other = 0; other < i; ++other) {
      if (!places.parts()[other].passing) {
        EXPECT_LE(end, places.parts()[other].offset);
      }
    }
  }
  EXPECT_EQ(held, places.held_elements());
  std::vector<size_t> buckets(shards.buckets().size());
  std::iota(buckets.begin(), buckets.end(), size_t{0});
  EXPECT_EQ(whole, buckets);
}

TEST(SumPlacesTest, AnyLayersTensorsAndBuckets_CanBePlayed) {
  SCOPED_TRACE("seed " + std::to_string(kSeed));
  std::mt19937 random(kSeed);
  for (int round = 0; round < 300; ++round) {
    std::vector<int64_t> sizes;
    for (size_t tensor = 0; tensor < 1 + random() % 8; ++tensor) {
      sizes.push_back(1 + static_cast<int64_t>(random() % 5000));
    }
    std::vector<std::vector<size_t>> uses(1 + random() % 5);
    for (size_t tensor = 0; tensor < sizes.size(); ++tensor) {
      // Most once; some twice, thrice or, frozen say, not at all.
      for (size_t use = (random() % 8 + 1) / 4 + (random() % 4 != 0); use-- > 0;) {
        uses[random() % uses.size()].push_back(tensor);
      }
    }
    const ModelPlan model = AnyLayers(sizes, uses);
    const FlatLayout layout(model.tensors);
    const ShardPlan shards(layout, 1 + static_cast<int64_t>(random() % 3),
                           4096 * (1 + static_cast<int64_t>(random() % 6)));
    for (const int64_t atoms : {1, 2}) {
      Played played(model, layout, shards, atoms, ZeroPart::kAll);
      played.Round();
      ExpectPlacesApart(shards, played.places());
      if (HasFatalFailure()) FAIL() << "round " << round << " atoms " << atoms;
    }
    // What nobody uses does not train.
    std::set<size_t> used;
    for (const std::vector<size_t>& of_layer : uses) used.insert(of_layer.begin(), of_layer.end());
    for (size_t tensor = 0; tensor < sizes.size(); ++tensor) {
      if (!used.contains(tensor)) uses[random() % uses.size()].push_back(tensor);
    }
    const ModelPlan all_used = AnyLayers(sizes, uses);
    Played played(all_used, layout, shards, 1, ZeroPart::kOwned);
    for (int times = 0; times < 3 && !HasFatalFailure(); ++times) played.Round();
    ExpectPlacesApart(shards, played.places());
    EXPECT_EQ(played.places().held_elements(), 0);
    int64_t elements = 0;
    for (const std::vector<size_t>& of_layer : uses) {
      for (const size_t tensor : of_layer) elements += sizes[tensor];
    }
    EXPECT_EQ(played.uses_seen(), 3 * elements);
    if (HasFatalFailure()) FAIL() << "round " << round << " of owners";
  }
}

TEST(SumPlacesTest, SeveralAtoms_HoldTheArenaAsItIs) {
  const ModelPlan model = PlanModel(*FindPreset("gpt2-nano"));
  const FlatLayout layout(model.tensors);
  const ShardPlan shards(layout, 2, 100'000);
  const SumPlaces places(layout, shards, GradientSpace(model, layout), /*atoms=*/2);
  EXPECT_EQ(places.held_elements(), layout.size());
  EXPECT_EQ(places.slot_elements(), 0);
  for (size_t bucket = 0; bucket < shards.buckets().size(); ++bucket) {
    EXPECT_EQ(places.parts()[bucket].offset, shards.buckets()[bucket].begin);
  }
}

// The embedding of GPT-2 is also its head's matrix: its buckets are held, all others go through
// three slots.
TEST(SumPlacesTest, OneAtom_HoldsTheBucketsOfATiedTensor) {
  const ModelPlan model = PlanModel(*FindPreset("gpt2-nano"));
  const FlatLayout layout(model.tensors);
  const ShardPlan shards(layout, 2, 100'000);
  const SumPlaces places(layout, shards, GradientSpace(model, layout), /*atoms=*/1);
  const int64_t tied_end = layout.Find("wte.weight").padded().end;
  for (size_t bucket = 0; bucket < shards.buckets().size(); ++bucket) {
    const bool tied = shards.buckets()[bucket].begin < tied_end;
    EXPECT_EQ(places.parts()[bucket].passing, !tied) << bucket;
    EXPECT_EQ(places.used_once(bucket), !tied) << bucket;
  }
  EXPECT_EQ(places.slot_elements(), SumPlaces::kPassingAtOnce * shards.buckets().front().size());
}

// Where its owners alone hold sums nothing is held, and the embedding goes on twice: first what the
// head has of it, before anything else.
TEST(SumPlacesTest, OwnersSums_PassATiedTensorOnceAUse) {
  const ModelPlan model = PlanModel(*FindPreset("gpt2-nano"));
  const FlatLayout layout(model.tensors);
  const ShardPlan shards(layout, 2, 100'000);
  const SumPlaces places(layout, shards, GradientSpace(model, layout), 1, ZeroPart::kOwned);
  const Range tied = layout.Find("wte.weight").padded();
  EXPECT_EQ(places.held_elements(), 0);
  int64_t earlier = 0, whole = 0;
  for (const SumPlaces::Part& part : places.parts()) {
    EXPECT_TRUE(part.passing);
    if (!part.whole) {
      EXPECT_EQ(whole, 0);
      EXPECT_TRUE(part.range.begin >= tied.begin && part.range.end <= tied.end);
      EXPECT_TRUE(places.IsSummed(part.bucket, /*rounds=*/1));
    }
    EXPECT_TRUE(places.IsSummed(part.bucket, /*rounds=*/2));
    (part.whole ? whole : earlier) += part.range.size();
  }
  EXPECT_EQ(earlier, tied.size());
  EXPECT_EQ(whole, layout.size());
  EXPECT_FALSE(places.IsSummed(0, /*rounds=*/1));
  // The head has a part of the first bucket, which waits in its slot beside those of the table.
  EXPECT_EQ(places.slot_elements(),
            (SumPlaces::kPassingAtOnce + 1) * shards.buckets().front().size());
}

// Where a model has fewer buckets than may be on their way, each has its slot and nobody waits.
TEST(SumPlacesTest, FewBuckets_TakeNoMoreThanTheArena) {
  const ModelPlan model = AnyLayers({3000, 3000}, {{0}, {1}});
  const FlatLayout layout(model.tensors);
  const ShardPlan shards(layout, 2, 1 << 20);
  const SumPlaces places(layout, shards, GradientSpace(model, layout), /*atoms=*/1);
  EXPECT_EQ(places.held_elements(), 0);
  EXPECT_EQ(places.slot_elements(), layout.size());
}

}  // namespace
}  // namespace dsrun
