// The layout recipe: how the writer's ranks divided the logical tensors among themselves, in so few
// words that a manifest of thousands of ranks stays small: a mesh, a rule of ownership, its
// parameters. From it alone a reader computes which piece lies where, in which file, at which byte.
//
// Rule "even-buckets 1", the one there is (docs/checkpoint_format.md has it too):
//   - A rank has coordinates on the mesh's axes, of which the first one runs fastest.
//   - Its *arena* holds, in the order of `parameters`, those of its "pp" coordinate (`stage`); of
//     one with a split dimension the part that is its "tp" coordinate's: the dimension's extent is
//     divided evenly, longer parts first. Each begins at a multiple of `leaf` elements.
//   - The arena is cut into buckets of `bucket` elements, from its end to its start; the leaves of
//     every bucket are divided evenly among the "dp" coordinates, longer parts first. Adjacent
//     parts of one owner are one. The ranges so owned, cut at the parameters, are its pieces.
//   - A parameter that is not split is the same on all "tp" coordinates: the first one's pieces
//     count, the others hold none.
//   - A file holds, for every slot in order, all pieces ascending; in rank 0's file the singles
//     follow, whole.
//
// It is what stands on disks: a rule never changes; a new division of labour gets a new name. It is
// apart from common/plan for that reason. A layout that no rule describes is listed in the manifest
// piece by piece (manifest.h).
//
// Pure; any thread.

#ifndef DSRUN_COMMON_FORMAT_LAYOUT_RECIPE_H_
#define DSRUN_COMMON_FORMAT_LAYOUT_RECIPE_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "common/format/piece.h"

namespace dsrun {

inline constexpr std::string_view kEvenBucketsRule = "even-buckets 1";

// What no recipe goes beyond, so that a few lines of text cannot make a reader allocate or compute
// without end: a job of 4,096 ranks with 10^12 parameters stays below all of them.
inline constexpr int64_t kMostRanks = int64_t{1} << 20;
inline constexpr int64_t kMostSlots = 64;
inline constexpr size_t kMostDimensions = 32;                     // of one tensor
inline constexpr int64_t kMostShards = int64_t{1} << 21;          // of all tensors together
inline constexpr int64_t kMostPieces = int64_t{1} << 25;          // the same
inline constexpr int64_t kMostRecipeElements = int64_t{1} << 56;  // the same
inline constexpr int64_t kMostRecipeWork = int64_t{1} << 31;      // ranks times buckets

struct MeshAxis {
  std::string name;  // "tp", "dp", "pp"; another axis holds copies: its first coordinate counts
  int64_t size = 1;
  friend bool operator==(const MeshAxis&, const MeshAxis&) = default;
};

struct LayoutRecipe {
  struct Parameter {
    std::string name;
    std::vector<int64_t> shape;
    int64_t split = -1;  // the dimension that is divided among "tp"; -1: none
    int64_t stage = 0;   // "pp" coordinate
    friend bool operator==(const Parameter&, const Parameter&) = default;
  };
  // A small tensor beside the parameters.
  struct Single {
    std::string name;
    std::vector<int64_t> shape;
    friend bool operator==(const Single&, const Single&) = default;
  };

  std::string rule{kEvenBucketsRule};
  std::vector<MeshAxis> mesh;      // the first runs fastest
  int64_t leaf = 1024;             // elements
  int64_t bucket = 0;              // elements, a multiple of `leaf`
  std::vector<std::string> slots;  // "model", "state/exp_avg": <slot>/<parameter> is a tensor
  std::vector<Parameter> parameters;
  std::vector<Single> singles;
  // Of slots and singles, by name; one that is not in it: F32.
  std::map<std::string, ElementType> types = {};

  int64_t ranks() const;
  ElementType TypeOf(const std::string& slot_or_single) const;
  friend bool operator==(const LayoutRecipe&, const LayoutRecipe&) = default;
};

// Errors: DATA_LOSS: an unknown rule, sizes below 1 or beyond the limits above, a split or stage
// that is not there, ... Allocates no more than the recipe itself has.
absl::Status CheckRecipe(const LayoutRecipe& recipe);

// Where a rank stands on an axis; 0 where there is no such axis.
int64_t CoordinateOf(const LayoutRecipe& recipe, int64_t rank, std::string_view axis);
int64_t AxisSize(const LayoutRecipe& recipe, std::string_view axis);  // 1 where there is none

// Whether a parameter is split, and into which boxes, by "tp" coordinate; empty: it is not.
bool IsSplit(const LayoutRecipe& recipe, const LayoutRecipe::Parameter& parameter);
std::vector<Box> ShardsOf(const LayoutRecipe& recipe, const LayoutRecipe::Parameter& parameter);
// The box of one coordinate. REQUIRES: IsSplit(recipe, parameter).
Box ShardAt(const LayoutRecipe& recipe, const LayoutRecipe::Parameter& parameter, int64_t tp);

// A piece that the recipe computes.
struct RecipePiece {
  int32_t slot = 0;       // index; -1: of a single
  int32_t parameter = 0;  // index into parameters, or singles
  int32_t shard = 0;      // index into ShardsOf; 0 where it is not split
  int64_t begin = 0;      // elements of the shard
  int64_t end = 0;
  friend bool operator==(const RecipePiece&, const RecipePiece&) = default;
};

// In the order of the rank's file. If there are more than `most`, only that many and some more are
// computed. REQUIRES: CheckRecipe(recipe).ok(), 0 <= rank < ranks().
std::vector<RecipePiece> PiecesOfRank(const LayoutRecipe& recipe, int64_t rank,
                                      int64_t most = kMostPieces);

// "model/wte.weight", "sums/exponents".
std::string TensorName(const LayoutRecipe& recipe, const RecipePiece& piece);
ElementType TypeOf(const LayoutRecipe& recipe, const RecipePiece& piece);

}  // namespace dsrun

#endif  // DSRUN_COMMON_FORMAT_LAYOUT_RECIPE_H_
