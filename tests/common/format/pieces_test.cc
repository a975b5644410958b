// Any division of tensors into pieces can be read into any other: random meshes, splits, stages,
// buckets. Every element is moved once and is the right one.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "common/format/layout_recipe.h"
#include "common/format/piece.h"

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

using Random = std::mt19937_64;

int64_t Draw(Random& random, int64_t least, int64_t most) {
  return least + static_cast<int64_t>(random() % static_cast<uint64_t>(most - least + 1));
}

std::vector<LayoutRecipe::Parameter> DrawParameters(Random& random) {
  std::vector<LayoutRecipe::Parameter> parameters;
  for (int64_t i = Draw(random, 1, 5); i > 0; --i) {
    std::vector<int64_t> shape;
    for (int64_t d = Draw(random, 1, 3); d > 0; --d) shape.push_back(Draw(random, 4, 9));
    parameters.push_back({"t" + std::to_string(i), shape, -1, 0});
  }
  return parameters;
}

// A division of these parameters, the same as any other's but for its numbers.
LayoutRecipe DrawRecipe(Random& random, std::vector<LayoutRecipe::Parameter> parameters) {
  LayoutRecipe recipe;
  const int64_t stages = Draw(random, 1, 3);
  recipe.mesh = {{"tp", Draw(random, 1, 4)},
                 {"dp", Draw(random, 1, 5)},
                 {"pp", stages},
                 {"cp", Draw(random, 1, 2)}};
  std::shuffle(recipe.mesh.begin(), recipe.mesh.end(), random);
  recipe.leaf = Draw(random, 1, 8);
  recipe.bucket = recipe.leaf * Draw(random, 1, 20);
  recipe.slots = {"model", "state/exp_avg"};
  for (LayoutRecipe::Parameter& parameter : parameters) {
    parameter.stage = Draw(random, 0, stages - 1);
    parameter.split = Draw(random, -1, static_cast<int64_t>(parameter.shape.size()) - 1);
  }
  recipe.parameters = std::move(parameters);
  recipe.singles = {{"sums/exponents", {Draw(random, 1, 1) * 3}}};
  EXPECT_TRUE(CheckRecipe(recipe).ok()) << CheckRecipe(recipe);
  return recipe;
}

std::vector<Piece> AllPieces(const LayoutRecipe& recipe) {
  std::vector<Piece> pieces;
  for (int64_t rank = 0; rank < recipe.ranks(); ++rank) {
    for (const RecipePiece& piece : PiecesOfRank(recipe, rank)) {
      const auto index = static_cast<size_t>(piece.parameter);
      const auto& shape =
          piece.slot < 0 ? recipe.singles[index].shape : recipe.parameters[index].shape;
      Box shard = WholeBox(shape);
      if (piece.slot >= 0) {
        const std::vector<Box> shards = ShardsOf(recipe, recipe.parameters[index]);
        if (!shards.empty()) shard = shards[static_cast<size_t>(piece.shard)];
      }
      EXPECT_TRUE(IsInside(shard, shape));
      pieces.push_back({TensorName(recipe, piece), shard, piece.begin, piece.end});
    }
  }
  return pieces;
}

// The row-major index in the whole tensor of element `at` of a box, one dimension after the other.
int64_t LogicalIndex(const Box& box, const std::vector<int64_t>& shape, int64_t at) {
  int64_t index = 0, stride = 1;
  for (size_t i = shape.size(); i-- > 0;) {
    index += (box.offset[i] + at % box.extent[i]) * stride;
    at /= box.extent[i];
    stride *= shape[i];
  }
  return index;
}

std::map<std::string, std::vector<int64_t>> ShapesOf(const LayoutRecipe& recipe) {
  std::map<std::string, std::vector<int64_t>> shapes;
  for (const std::string& slot : recipe.slots) {
    for (const auto& parameter : recipe.parameters) {
      shapes[slot + "/" + parameter.name] = parameter.shape;
    }
  }
  for (const auto& single : recipe.singles) shapes[single.name] = single.shape;
  return shapes;
}

TEST(Recipe, PiecesOfAllRanks_CoverEveryElementOnce) {
  const uint64_t seed = 20261127;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  Random random(seed);
  for (int round = 0; round < 300; ++round) {
    const LayoutRecipe recipe = DrawRecipe(random, DrawParameters(random));
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
    const std::vector<LayoutRecipe::Parameter> parameters = DrawParameters(random);
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
