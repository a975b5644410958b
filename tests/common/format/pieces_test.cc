// Any division of tensors into pieces can be read into any other: random meshes, splits, stages,
// buckets. Every element is moved once and is the right one.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "common/format/layout_recipe.h"
#include "common/format/piece.h"
#include "tests/common/format/random_recipes.h"

namespace dsrun {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<CommonRun> RunsOf(const Box& from, Range from_range, const Box& to, Range to_range) {
  std::vector<CommonRun> runs;
  ForRuns(from, from_range, to, to_range, [&](const CommonRun& run) { runs.push_back(run); });
  return runs;
}

TEST(ForRuns, WholeTensors_AreOneRun) {
  const Box whole = WholeBox({3, 4});
  EXPECT_THAT(RunsOf(whole, {0, 12}, whole, {0, 12}), ElementsAre(CommonRun{0, 0, 12}));
  EXPECT_THAT(RunsOf(whole, {2, 7}, whole, {5, 12}), ElementsAre(CommonRun{5, 5, 2}));
  EXPECT_THAT(RunsOf(whole, {2, 5}, whole, {5, 12}), ElementsAre());
  EXPECT_THAT(RunsOf(WholeBox({}), {0, 1}, WholeBox({}), {0, 1}), ElementsAre(CommonRun{0, 0, 1}));
}

// By hand: columns 1 and 2 of a matrix of 3 x 4.
TEST(ForRuns, Columns_AreARunARow) {
  const Box whole = WholeBox({3, 4});
  const Box columns{{0, 1}, {3, 2}};
  EXPECT_THAT(RunsOf(whole, {0, 12}, columns, {0, 6}),
              ElementsAre(CommonRun{1, 0, 2}, CommonRun{5, 2, 2}, CommonRun{9, 4, 2}));
  EXPECT_THAT(RunsOf(whole, {2, 10}, columns, {0, 5}),
              ElementsAre(CommonRun{2, 1, 1}, CommonRun{5, 2, 2}, CommonRun{9, 4, 1}));
  EXPECT_THAT(RunsOf(columns, {3, 6}, whole, {0, 12}),
              ElementsAre(CommonRun{3, 6, 1}, CommonRun{4, 9, 2}));
}

TEST(ForRuns, Rows_AreOneRun) {
  EXPECT_THAT(RunsOf(WholeBox({3, 4}), {0, 12}, Box{{1, 0}, {2, 4}}, {1, 8}),
              ElementsAre(CommonRun{5, 1, 7}));
}

TEST(Recipe, PiecesOfAllRanks_CoverEveryElementOnce) {
  const uint64_t seed = 20261127;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  Random random(seed);
  for (int round = 0; round < 300; ++round) {
    const LayoutRecipe recipe = DrawRecipe(random, DrawParameters(random, 9));
    const auto shapes = ShapesOf(recipe);
    std::map<std::string, std::vector<int>> seen;
    for (const auto& [name, shape] : shapes) {
      seen[name].resize(static_cast<size_t>(WholeBox(shape).volume()));
    }
    for (const Piece& piece : AllPieces(recipe)) {
      for (int64_t i = piece.begin; i < piece.end; ++i) {
        ++seen[piece.tensor]
              [static_cast<size_t>(LogicalIndex(piece.shard, shapes.at(piece.tensor), i))];
      }
    }
    for (const auto& [name, counts] : seen) {
      for (const int count : counts) ASSERT_EQ(count, 1) << name << " in round " << round;
    }
  }
}

TEST(Recipe, AnyPiecesAreReadIntoAnyOthers) {
  const uint64_t seed = 27112026;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  Random random(seed);
  int64_t moved = 0;
  for (int round = 0; round < 150; ++round) {
    const std::vector<LayoutRecipe::Parameter> parameters = DrawParameters(random, 9);
    const LayoutRecipe written = DrawRecipe(random, parameters);
    const std::vector<Piece> sources = AllPieces(written);
    const std::vector<Piece> wanted = AllPieces(DrawRecipe(random, parameters));
    const auto shapes = ShapesOf(written);
    for (const Piece& want : wanted) {
      std::vector<int64_t> got(static_cast<size_t>(want.end - want.begin), -1);
      for (const Piece& source : sources) {
        if (source.tensor != want.tensor) continue;
        int64_t last = -1;
        ForRuns(source.shard, {source.begin, source.end}, want.shard, {want.begin, want.end},
                [&](const CommonRun& run) {
                  EXPECT_GT(run.from, last) << "ascending";
                  last = run.from + run.count - 1;
                  for (int64_t i = 0; i < run.count; ++i) {
                    int64_t& to = got.at(static_cast<size_t>(run.to + i - want.begin));
                    ASSERT_EQ(to, -1) << "moved twice";
                    ASSERT_LT(run.from + i, source.end);
                    to = LogicalIndex(source.shard, shapes.at(want.tensor), run.from + i);
                    ++moved;
                  }
                });
      }
      for (size_t i = 0; i < got.size(); ++i) {
        ASSERT_EQ(got[i], LogicalIndex(want.shard, shapes.at(want.tensor),
                                       want.begin + static_cast<int64_t>(i)))
            << want.tensor << " in round " << round;
      }
    }
  }
  EXPECT_GT(moved, 10'000);
}

TEST(Recipe, WhatCannotBe_IsDataLoss) {
  LayoutRecipe good;
  good.mesh = {{"tp", 2}, {"dp", 2}};
  good.bucket = 2048;
  good.slots = {"model"};
  good.parameters = {{"w", {4, 4}, 1, 0}};
  ASSERT_TRUE(CheckRecipe(good).ok());
  const auto message = [&](auto&& change) {
    LayoutRecipe recipe = good;
    change(recipe);
    EXPECT_EQ(CheckRecipe(recipe).code(), absl::StatusCode::kDataLoss);
    return std::string(CheckRecipe(recipe).message());
  };
  EXPECT_THAT(message([](LayoutRecipe& r) { r.rule = "odd"; }), HasSubstr("got \"odd\""));
  EXPECT_THAT(message([](LayoutRecipe& r) { r.mesh[0].name = "dp"; }), HasSubstr("twice"));
  EXPECT_THAT(message([](LayoutRecipe& r) { r.mesh[0].size = int64_t{1} << 40; }),
              HasSubstr("axis tp has size"));
  EXPECT_THAT(message([](LayoutRecipe& r) { r.bucket = 2000; }), HasSubstr("whole leaves"));
  EXPECT_THAT(message([](LayoutRecipe& r) { r.parameters[0].split = 2; }),
              HasSubstr("dimension 2 cannot be divided among 2"));
  EXPECT_THAT(message([](LayoutRecipe& r) {
                r.parameters[0].shape = {4, 1};
              }),
              HasSubstr("cannot be divided"));
  EXPECT_THAT(message([](LayoutRecipe& r) { r.parameters[0].stage = 1; }),
              HasSubstr("a stage below 1"));
  EXPECT_THAT(message([](LayoutRecipe& r) { r.parameters.push_back(r.parameters[0]); }),
              HasSubstr("w is there twice"));
  EXPECT_THAT(message([](LayoutRecipe& r) {
                r.parameters[0].shape = {int64_t{1} << 40, int64_t{1} << 40};
              }),
              HasSubstr("too large"));
}

}  // namespace
}  // namespace dsrun
