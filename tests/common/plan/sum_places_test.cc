#include "common/plan/sum_places.h"

#include <algorithm>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "common/model/presets.h"
#include "gtest/gtest.h"

namespace dsrun {
namespace {

constexpr unsigned kSeed = 20261127;

// Layers over tensors; any layer may use any tensor, in any order.
ModelPlan Layers(const std::vector<int64_t>& sizes, const std::vector<std::vector<size_t>>& uses) {
  ModelPlan plan;
  for (const int64_t size : sizes) {
    plan.tensors.push_back({.name = "t" + std::to_string(plan.tensors.size()), .shape = {size}});
  }
  for (const std::vector<size_t>& of_layer : uses) {
    plan.layers.push_back({.kind = LayerKind::kMlp,
                           .name = "layer",
                           .uses = of_layer,
                           .kept = {},
                           .workspace = {},
                           .flops_of_token = 0});
  }
  return plan;
}

// Plays the plan as the engine does: every element of every use goes in once, the first as the
// first; no bucket is handed over before all of it is in; and no slot is given away before its
// bucket was handed over and waited for.
void ExpectPlayable(const ModelPlan& model, const FlatLayout& layout, const ShardPlan& shards,
                    int64_t atoms) {
  const GradientSpace space(model, layout);
  const SumPlaces places(layout, shards, space, atoms);
  const std::vector<int64_t> uses = space.Contributions(1);
  std::vector<int64_t> in(static_cast<size_t>(layout.size()));
  std::map<int64_t, size_t> slots;  // by offset: whose it is
  std::set<size_t> waited;
  size_t handed_over = 0;
  const auto hand_over = [&](int64_t final_from) {
    for (; handed_over < shards.buckets().size(); ++handed_over) {
      const Range bucket = shards.buckets()[handed_over];
      if (bucket.begin < final_from) return;
      layout.ForTensors(bucket, [&](size_t tensor, Range part) {
        part.end = std::min(part.end, layout.entries()[tensor].flat().end);
        for (int64_t i = part.begin; i < part.end; ++i) {
          ASSERT_EQ(in[static_cast<size_t>(i)], uses[tensor]) << "bucket " << handed_over;
        }
      });
    }
  };
  for (size_t layer = space.layers(); layer-- > 0;) {
    for (const SumPlaces::Visit& visit : places.visits(layer)) {
      const SumPlaces::Place& place = places.place(visit.bucket);
      if (visit.slot_after) {
        ASSERT_LT(*visit.slot_after, handed_over) << "backward would wait for ever";
        waited.insert(*visit.slot_after);
      }
      if (place.passing) {
        const auto had = slots.find(place.offset);
        if (had != slots.end() && had->second != visit.bucket) {
          ASSERT_TRUE(waited.contains(had->second)) << "bucket " << had->second;
        }
        slots[place.offset] = visit.bucket;
      }
      for (const SumPlaces::Piece& piece : visit.pieces) {
        const Range bucket = shards.buckets()[visit.bucket];
        ASSERT_TRUE(piece.flat.begin >= bucket.begin && piece.flat.end <= bucket.end);
        const size_t tensor = space.uses(layer)[piece.use].tensor;
        ASSERT_GE(piece.flat.begin, layout.entries()[tensor].offset);
        for (int64_t i = piece.flat.begin; i < piece.flat.end; ++i) {
          ASSERT_EQ(in[static_cast<size_t>(i)]++ == 0, piece.first);
        }
      }
      hand_over(visit.final_from);
    }
    hand_over(space.FinalFrom(layer));
  }
  EXPECT_EQ(handed_over, shards.buckets().size());
}

// Places of one kind do not overlap, but for slots that buckets have one after the other.
void ExpectPlacesApart(const ShardPlan& shards, const SumPlaces& places) {
  int64_t held = 0;
  for (size_t bucket = 0; bucket < shards.buckets().size(); ++bucket) {
    const SumPlaces::Place& place = places.place(bucket);
    const int64_t end = place.offset + shards.buckets()[bucket].size();
    EXPECT_LE(end, place.passing ? places.slot_elements() : places.held_elements());
    if (place.passing) continue;
    held += shards.buckets()[bucket].size();
    for (size_t other = 0; other < bucket; ++other) {
      if (!places.place(other).passing) {
        EXPECT_LE(end, places.place(other).offset);
      }
    }
  }
  EXPECT_EQ(held, places.held_elements());
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
      // Most once; some twice or, frozen say, not at all.
      for (size_t use = (random() % 8 + 1) / 4 + (random() % 4 != 0); use-- > 0;) {
        uses[random() % uses.size()].push_back(tensor);
      }
    }
    const ModelPlan model = Layers(sizes, uses);
    const FlatLayout layout(model.tensors);
    const ShardPlan shards(layout, 1 + static_cast<int64_t>(random() % 3),
                           4096 * (1 + static_cast<int64_t>(random() % 6)));
    for (const int64_t atoms : {1, 2}) {
      ExpectPlayable(model, layout, shards, atoms);
      ExpectPlacesApart(shards, SumPlaces(layout, shards, GradientSpace(model, layout), atoms));
      if (HasFatalFailure()) FAIL() << "round " << round << " atoms " << atoms;
    }
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
    EXPECT_EQ(places.place(bucket).offset, shards.buckets()[bucket].begin);
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
    EXPECT_EQ(places.place(bucket).passing, !tied) << bucket;
    EXPECT_EQ(places.used_once(bucket), !tied) << bucket;
  }
  EXPECT_EQ(places.slot_elements(), SumPlaces::kPassingAtOnce * shards.buckets().front().size());
}

// Where a model has fewer buckets than may be on their way, each has its slot and nobody waits.
TEST(SumPlacesTest, FewBuckets_TakeNoMoreThanTheArena) {
  const ModelPlan model = Layers({3000, 3000}, {{0}, {1}});
  const FlatLayout layout(model.tensors);
  const ShardPlan shards(layout, 2, 1 << 20);
  const SumPlaces places(layout, shards, GradientSpace(model, layout), /*atoms=*/1);
  EXPECT_EQ(places.held_elements(), 0);
  EXPECT_EQ(places.slot_elements(), layout.size());
}

}  // namespace
}  // namespace dsrun
