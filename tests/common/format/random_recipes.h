// Random divisions of random tensors among random meshes, for property tests.

#ifndef DSRUN_TESTS_COMMON_FORMAT_RANDOM_RECIPES_H_
#define DSRUN_TESTS_COMMON_FORMAT_RANDOM_RECIPES_H_

#include <cstdint>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "common/format/layout_recipe.h"
#include "common/format/piece.h"

namespace dsrun {

using Random = std::mt19937_64;

int64_t Draw(Random& random, int64_t least, int64_t most);

// One to five tensors of one to three dimensions of 4 to `most`; not split, of stage 0.
std::vector<LayoutRecipe::Parameter> DrawParameters(Random& random, int64_t most);

// A division of these parameters, of two slots and a single: the same tensors as any other's.
LayoutRecipe DrawRecipe(Random& random, std::vector<LayoutRecipe::Parameter> parameters);

std::vector<Piece> PiecesOf(const LayoutRecipe& recipe, int64_t rank);
std::vector<Piece> AllPieces(const LayoutRecipe& recipe);

std::map<std::string, std::vector<int64_t>> ShapesOf(const LayoutRecipe& recipe);

// The row-major index in the whole tensor of element `at` of a box, one dimension after the other.
int64_t LogicalIndex(const Box& box, const std::vector<int64_t>& shape, int64_t at);

}  // namespace dsrun

#endif  // DSRUN_TESTS_COMMON_FORMAT_RANDOM_RECIPES_H_
