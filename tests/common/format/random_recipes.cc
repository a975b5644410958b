#include "tests/common/format/random_recipes.h"

#include <algorithm>
#include <cstdlib>
#include <utility>

namespace dsrun {

int64_t Draw(Random& random, int64_t least, int64_t most) {
  return least + static_cast<int64_t>(random() % static_cast<uint64_t>(most - least + 1));
}

std::vector<LayoutRecipe::Parameter> DrawParameters(Random& random, int64_t most) {
  std::vector<LayoutRecipe::Parameter> parameters;
  for (int64_t i = Draw(random, 1, 5); i > 0; --i) {
    std::vector<int64_t> shape;
    for (int64_t d = Draw(random, 1, 3); d > 0; --d) shape.push_back(Draw(random, 4, most));
    parameters.push_back({"t" + std::to_string(i), shape, -1, 0});
  }
  return parameters;
}

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
  recipe.singles = {{"sums/exponents", {3}}};
  if (!CheckRecipe(recipe).ok()) std::abort();
  return recipe;
}

std::vector<Piece> PiecesOf(const LayoutRecipe& recipe, int64_t rank) {
  std::vector<Piece> pieces;
  for (const RecipePiece& piece : PiecesOfRank(recipe, rank)) {
    const auto index = static_cast<size_t>(piece.parameter);
    const bool single = piece.slot < 0;
    Box shard = WholeBox(single ? recipe.singles[index].shape : recipe.parameters[index].shape);
    if (!single) {
      const std::vector<Box> shards = ShardsOf(recipe, recipe.parameters[index]);
      if (!shards.empty()) shard = shards[static_cast<size_t>(piece.shard)];
    }
    pieces.push_back({TensorName(recipe, piece), shard, piece.begin, piece.end});
  }
  return pieces;
}

std::vector<Piece> AllPieces(const LayoutRecipe& recipe) {
  std::vector<Piece> all;
  for (int64_t rank = 0; rank < recipe.ranks(); ++rank) {
    const std::vector<Piece> pieces = PiecesOf(recipe, rank);
    all.insert(all.end(), pieces.begin(), pieces.end());
  }
  return all;
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

int64_t LogicalIndex(const Box& box, const std::vector<int64_t>& shape, int64_t at) {
  int64_t index = 0, stride = 1;
  for (size_t i = shape.size(); i-- > 0;) {
    index += (box.offset[i] + at % box.extent[i]) * stride;
    at /= box.extent[i];
    stride *= shape[i];
  }
  return index;
}

}  // namespace dsrun
