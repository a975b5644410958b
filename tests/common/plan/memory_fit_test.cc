#include "common/plan/memory_fit.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "common/base/units.h"
#include "common/model/model_plan.h"
#include "common/plan/library_plan.h"
#include "common/plan/memory_words.h"
#include "common/plan/recompute_plan.h"

namespace dsrun {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

MemoryInput Job() {
  MemoryInput job;
  job.model = {"custom", 12, 256, 4, 16, 256};
  job.micro_batch_size = 2;
  job.micro_batches = 8;
  job.bucket_bytes = 1 << 20;
  return job;
}

// Of a rank beside `ranks_of_machine` - 1 others.
int64_t BytesOf(const MemoryInput& job, int64_t width, int64_t ranks_of_machine = 1) {
  MemoryInput of = job;
  of.width = width;
  int64_t most = 0;
  for (const MemoryPlan& plan : PlanMemoryOfRanks(of)) most = std::max(most, plan.total_bytes());
  return most + LibraryBytes({.threads = job.threads,
                              .width = width,
                              .ranks_of_machine = std::min(width, ranks_of_machine),
                              .precision = job.precision});
}

FitInput On(std::vector<int64_t> there, std::vector<size_t> places) {
  FitInput input;
  input.job = Job();
  for (const int64_t bytes : there) {
    input.machines.push_back({"m" + std::to_string(input.machines.size()), bytes, true});
  }
  input.places = std::move(places);
  return input;
}

TEST(MemoryFitTest, PlansOfAllRanks_AreThoseOfEach) {
  for (const int64_t width : {1, 3, 8}) {
    MemoryInput job = Job();
    job.width = width;
    const std::vector<MemoryPlan> plans = PlanMemoryOfRanks(job);
    ASSERT_EQ(plans.size(), static_cast<size_t>(width));
    for (job.rank = 0; job.rank < width; ++job.rank) {
      EXPECT_EQ(plans[static_cast<size_t>(job.rank)].total_bytes(), PlanMemory(job).total_bytes());
    }
  }
}

// The fault itself: half the ranks need more each, and so may the machine that is left.
TEST(MemoryFitTest, NarrowerNeedsMoreOfARank) {
  EXPECT_GT(BytesOf(Job(), 2), BytesOf(Job(), 4));
  EXPECT_GT(BytesOf(Job(), 1), BytesOf(Job(), 2));
  const int64_t enough_for_two = 2 * BytesOf(Job(), 4, 2);
  EXPECT_THAT(MemoryShortages(On({enough_for_two, enough_for_two}, {0, 0, 1, 1})), IsEmpty());
  const std::vector<MachineNeed> after = MemoryShortages(On({enough_for_two}, {0, 0}));
  ASSERT_EQ(after.size(), 1u);
  EXPECT_EQ(after[0].ranks, 2);
  EXPECT_GT(after[0].needed_bytes, enough_for_two);
  EXPECT_EQ(after[0].there_bytes, enough_for_two);
}

TEST(MemoryFitTest, NodesOfOneMachine_ShareItsMemoryOnce) {
  const int64_t enough_for_two = 2 * BytesOf(Job(), 4, 2);
  EXPECT_EQ(MemoryShortages(On({enough_for_two}, {0, 0, 0, 0})).size(), 1u);
}

TEST(MemoryFitTest, UnknownMachine_IsNotChecked) {
  FitInput input = On({1, 1}, {0, 1});
  input.machines[0].known = false;
  const std::vector<MachineNeed> shortages = MemoryShortages(input);
  ASSERT_EQ(shortages.size(), 1u);
  EXPECT_EQ(shortages[0].machine, 1u);
}

TEST(MemoryFitTest, PlacesBeyondTheAtoms_HaveNoRank) {
  FitInput input = On({int64_t{1} << 40, 1}, std::vector<size_t>(8, 0));
  input.places.push_back(1);
  EXPECT_THAT(MemoryShortages(input), IsEmpty());
}

TEST(MemoryFitTest, MachineThatIsShort_GivesUpItsLastPlaces) {
  // Room for one of a width of three on machine 0, for all on machine 1.
  const FitInput input = On({BytesOf(Job(), 3), int64_t{1} << 40}, {0, 0, 1, 1});
  EXPECT_THAT(PlacesThatFit(input), ElementsAre(true, false, true, true));
  EXPECT_THAT(PlacesThatFit(On({1, 1}, {0, 0, 1})), ElementsAre(false, false, false));
  EXPECT_THAT(PlacesThatFit(On({int64_t{1} << 40}, {0, 0})), ElementsAre(true, true));
}

// All small cases: what is kept fits, and one that fits whole is kept whole.
TEST(MemoryFitTest, WhatIsKept_Fits) {
  for (int64_t percent = 50; percent <= 400; percent += 25) {
    for (size_t places = 1; places <= 8; ++places) {
      FitInput input = On({}, {});
      for (size_t i = 0; i < 2; ++i) {
        input.machines.push_back({"m", BytesOf(Job(), 4) * percent / 100 * (i == 0 ? 1 : 2), true});
      }
      for (size_t i = 0; i < places; ++i) input.places.push_back(i * 2 / places);
      const std::vector<bool> kept = PlacesThatFit(input);
      FitInput after = input;
      after.places.clear();
      for (size_t i = 0; i < places; ++i) {
        if (kept[i]) after.places.push_back(input.places[i]);
      }
      EXPECT_THAT(MemoryShortages(after), IsEmpty()) << percent << "% " << places;
      const bool whole = after.places.size() == places;
      EXPECT_EQ(whole, MemoryShortages(input).empty()) << percent << "% " << places;
    }
  }
}

// Every change that is offered does what it says.
TEST(MemoryFitTest, WhatWouldFit_NamesTheNextBestOfEachKind) {
  const FitInput tight = On({2 * BytesOf(Job(), 4, 2)}, {0, 0});
  const std::vector<std::string> changes = WhatWouldFit(tight, /*goes_on=*/false);
  EXPECT_THAT(changes, Contains("1 rank"));
  EXPECT_THAT(changes, Contains(HasSubstr("1 more node like m0 (2 ranks, ")));
  EXPECT_THAT(changes, Contains(HasSubstr("--model ")));
  EXPECT_THAT(WhatWouldFit(tight, /*goes_on=*/true), Not(Contains(HasSubstr("--model"))));
  EXPECT_THAT(WhatWouldFit(On({1 << 20}, {0}), /*goes_on=*/true), IsEmpty());
}

// What is offered fits, with one block less it would not; nothing, where all are not enough.
TEST(MemoryFitTest, Recomputation_IsOfferedWithItsNumbers) {
  FitInput input = On({0}, {0});
  input.job.micro_batch_size = 64;
  input.job.micro_batches = 1;
  const int64_t plain = BytesOf(input.job, 1);
  MemoryInput all = input.job;
  all.recompute = {.every = 1};
  for (const int64_t tenths : {3, 6, 9}) {
    input.machines[0].there_bytes = BytesOf(all, 1) + (plain - BytesOf(all, 1)) * tenths / 10;
    const std::vector<std::string> changes = WhatWouldFit(input, /*goes_on=*/true);
    EXPECT_THAT(changes, Contains(HasSubstr(" of 12 layers twice forward, "))) << tenths;
    for (const std::string& change : changes) {
      const std::string flag = "--recompute budget=";
      if (!change.starts_with(flag)) continue;
      FitInput after = input;
      after.job.recompute.budget_bytes = std::stoll(change.substr(flag.size()));
      EXPECT_THAT(MemoryShortages(after), IsEmpty()) << change;
      ++after.job.recompute.budget_bytes;  // one block less
      const ModelPlan model = PlanModel(after.job.model);
      const auto block = RecomputedSegments(model, 64 * 16, 1, {.every = 1}).front();
      after.job.recompute.budget_bytes +=
          KeptBytes(model, 64 * 16, 1, {}) - KeptBytes(model, 64 * 16, 1, {block}) - 1;
      EXPECT_EQ(MemoryShortages(after).size(), 1u) << change;
    }
  }
  input.machines[0].there_bytes = BytesOf(all, 1) - 1;
  EXPECT_THAT(WhatWouldFit(input, true), Not(Contains(HasSubstr("--recompute"))));
}

TEST(MemoryFitTest, SmallerMicroBatch_IsOfferedWhereItHelps) {
  FitInput input = On({0}, {0});
  input.job.micro_batch_size = 64;
  input.job.micro_batches = 8;
  MemoryInput half = input.job;
  half.micro_batch_size = 32;
  half.micro_batches = 16;
  input.machines[0].there_bytes = BytesOf(half, 1);
  EXPECT_THAT(WhatWouldFit(input, false), Contains("--micro-batch-size 32"));
  EXPECT_THAT(WhatWouldFit(input, true),
              Contains("--micro-batch-size 32 (another curve: --accept-fingerprint)"));
}

// The lowest stage that fits, and what it says is so.
TEST(MemoryFitTest, HigherStage_IsOfferedWhereItFits) {
  FitInput input = On({0, 0, 0, 0}, {0, 1, 2, 3});
  input.job.zero_stage = 0;
  MemoryInput one = input.job, three = input.job;
  one.zero_stage = 1;
  three.zero_stage = 3;
  ASSERT_LT(BytesOf(three, 4), BytesOf(one, 4));
  for (FitMachine& machine : input.machines) machine.there_bytes = BytesOf(one, 4);
  EXPECT_THAT(WhatWouldFit(input, /*goes_on=*/true), Contains("--zero-stage 1"));
  for (FitMachine& machine : input.machines) machine.there_bytes = BytesOf(three, 4);
  EXPECT_THAT(WhatWouldFit(input, /*goes_on=*/true), Contains(HasSubstr("--zero-stage ")));
  EXPECT_THAT(WhatWouldFit(input, /*goes_on=*/true), Not(Contains("--zero-stage 1")));
  input.job.zero_stage = 3;
  for (FitMachine& machine : input.machines) machine.there_bytes = BytesOf(three, 4) - 1;
  EXPECT_THAT(WhatWouldFit(input, /*goes_on=*/true), Not(Contains(HasSubstr("--zero-stage"))));
}

// Where no change does by itself, a stage and one more may.
TEST(MemoryFitTest, StageAndAnother_AreOfferedWhereNeitherDoesAlone) {
  FitInput input = On({0, 0, 0, 0}, {0, 1, 2, 3});
  input.job.zero_stage = 0;
  input.job.micro_batch_size = 64;
  input.job.micro_batches = 4;
  MemoryInput both = input.job;
  both.micro_batch_size = 1;
  both.micro_batches = 256;
  both.zero_stage = 3;
  for (FitMachine& machine : input.machines) machine.there_bytes = BytesOf(both, 4);
  const std::vector<std::string> changes = WhatWouldFit(input, /*goes_on=*/true);
  ASSERT_EQ(changes.size(), 1u);
  EXPECT_THAT(changes[0], HasSubstr("--zero-stage "));
  EXPECT_THAT(changes[0], HasSubstr(" with --"));
}

// ---- The words (memory_words.h)

TEST(MemoryWordsTest, TopConsumers_AreTheLargestFirst) {
  const auto line = [](const char* name, int64_t bytes) {
    PlannedBuffer buffer;
    buffer.name = name;
    buffer.dtype = DType::kU8;
    buffer.elements = bytes;
    return buffer;
  };
  EXPECT_EQ(TopConsumers({line("a", 1024), line("b", 3 << 20), line("c", 2048), line("d", 7)}),
            "b 3.0 MiB, c 2.0 KiB, a 1.0 KiB");
}

TEST(MemoryWordsTest, MetAlthoughItFitsByPlan_NamesWhatTakesLess) {
  FitInput input = On({int64_t{1} << 40, int64_t{1} << 40}, {0, 1});
  const std::string words = OutOfMemoryWords(input, /*rank=*/1, /*goes_on=*/true);
  MemoryInput job = Job();
  job.width = 2;
  EXPECT_THAT(words, HasSubstr("gradient_sums " +
                               BytesText(PlanMemory(job).Find("gradient_sums").bytes())));
  EXPECT_THAT(words, HasSubstr("by plan it fits, so something else takes memory there; "
                               "less take: --micro-batch-size 1"));
  EXPECT_THAT(words, HasSubstr(", or --zero-stage "));
}

TEST(MemoryWordsTest, MetOnAMachineThatNobodyKnows_DoesNotSayThatItFits) {
  FitInput input = On({0}, {0});
  input.machines[0].known = false;
  const std::string words = OutOfMemoryWords(input, /*rank=*/0, /*goes_on=*/true);
  EXPECT_THAT(words, HasSubstr("; less take: --micro-batch-size 1"));
  EXPECT_THAT(words, Not(HasSubstr("fits")));
}

TEST(MemoryWordsTest, MetWhereItDoesNotFit_NamesWhatFits) {
  const FitInput input = On({2 * BytesOf(Job(), 4, 2)}, {0, 0});
  const std::string words = OutOfMemoryWords(input, /*rank=*/0, /*goes_on=*/false);
  EXPECT_THAT(words, HasSubstr("; fits: "));
  EXPECT_THAT(words, HasSubstr("1 rank"));
  EXPECT_THAT(OutOfMemoryWords(On({1}, {0}), 0, /*goes_on=*/true),
              HasSubstr("fits: no single change"));
}

}  // namespace
}  // namespace dsrun
