#include "common/format/layout_recipe.h"

#include <algorithm>
#include <limits>
#include <set>

#include "absl/strings/str_cat.h"
#include "common/base/range.h"
#include "common/base/status_macros.h"

namespace dsrun {
namespace {

constexpr int64_t kMostRanks = 1 << 20;
constexpr int64_t kMostBuckets = 1 << 26;
constexpr int64_t kMostElements = std::numeric_limits<int64_t>::max() / 64;

absl::Status Bad(const std::string& what) {
  return absl::DataLossError(absl::StrCat("layout: ", what));
}

absl::Status CheckShape(const std::string& name, const std::vector<int64_t>& shape) {
  int64_t size = 1;
  for (const int64_t extent : shape) {
    if (extent < 0 || __builtin_mul_overflow(size, extent, &size) || size > kMostElements) {
      return Bad(absl::StrCat(name, ": its shape is too large"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckParameter(const LayoutRecipe& recipe, const LayoutRecipe::Parameter& parameter) {
  RETURN_IF_ERROR(CheckShape(parameter.name, parameter.shape));
  if (parameter.stage < 0 || parameter.stage >= AxisSize(recipe, "pp")) {
    return Bad(absl::StrCat(parameter.name, ": expected a stage below ", AxisSize(recipe, "pp"),
                            ", got ", parameter.stage));
  }
  if (parameter.split == -1) return absl::OkStatus();
  const auto dimensions = static_cast<int64_t>(parameter.shape.size());
  const int64_t tp = AxisSize(recipe, "tp");
  if (parameter.split < 0 || parameter.split >= dimensions ||
      parameter.shape[static_cast<size_t>(parameter.split)] < tp) {
    return Bad(absl::StrCat(parameter.name, ": its dimension ", parameter.split,
                            " cannot be divided among ", tp, " ranks"));
  }
  return absl::OkStatus();
}

absl::Status CheckMesh(const LayoutRecipe& recipe) {
  std::set<std::string> names;
  int64_t ranks = 1;
  for (const MeshAxis& axis : recipe.mesh) {
    if (!names.insert(axis.name).second) return Bad("axis " + axis.name + " is there twice");
    if (axis.size < 1 || axis.size > kMostRanks || ranks * axis.size > kMostRanks) {
      return Bad(absl::StrCat("axis ", axis.name, " has size ", axis.size));
    }
    ranks *= axis.size;
  }
  return absl::OkStatus();
}

// One parameter, or part of it, in an arena.
struct Entry {
  int32_t parameter;
  int32_t shard;
  Range flat;     // without padding
  bool is_other;  // the same on another rank, which holds it
};

int64_t RoundUp(int64_t elements, int64_t leaf) { return (elements + leaf - 1) / leaf * leaf; }

int64_t Elements(const std::vector<int64_t>& shape) { return WholeBox(shape).volume(); }

// Ascending; sets `size`, with the padding of the last.
std::vector<Entry> ArenaOf(const LayoutRecipe& recipe, int64_t stage, int64_t tp, int64_t* size) {
  std::vector<Entry> entries;
  *size = 0;
  for (size_t i = 0; i < recipe.parameters.size(); ++i) {
    const LayoutRecipe::Parameter& parameter = recipe.parameters[i];
    if (parameter.stage != stage) continue;
    const std::vector<Box> shards = ShardsOf(recipe, parameter);
    const int64_t elements =
        shards.empty() ? Elements(parameter.shape) : shards[static_cast<size_t>(tp)].volume();
    entries.push_back({static_cast<int32_t>(i),
                       shards.empty() ? 0 : static_cast<int32_t>(tp),
                       {*size, *size + elements},
                       shards.empty() && tp > 0});
    *size += RoundUp(elements, recipe.leaf);
  }
  return entries;
}

// Of an arena of `size` elements, ascending, adjacent ones joined.
std::vector<Range> OwnedBy(const LayoutRecipe& recipe, int64_t size, int64_t dp) {
  std::vector<Range> owned;
  const int64_t width = AxisSize(recipe, "dp");
  int64_t end = size % recipe.bucket == 0 ? std::min(recipe.bucket, size) : size % recipe.bucket;
  for (int64_t begin = 0; begin < size; begin = end, end += recipe.bucket) {
    const Range part = EvenPart((end - begin) / recipe.leaf, width, dp);
    if (part.empty()) continue;
    const Range flat{begin + part.begin * recipe.leaf, begin + part.end * recipe.leaf};
    if (!owned.empty() && owned.back().end == flat.begin) {
      owned.back().end = flat.end;
    } else {
      owned.push_back(flat);
    }
  }
  return owned;
}

}  // namespace

int64_t LayoutRecipe::ranks() const {
  int64_t ranks = 1;
  for (const MeshAxis& axis : mesh) ranks *= axis.size;
  return ranks;
}

absl::Status CheckRecipe(const LayoutRecipe& recipe) {
  if (recipe.rule != kEvenBucketsRule) {
    return Bad(absl::StrCat("expected the rule \"", std::string(kEvenBucketsRule), "\", got \"",
                            recipe.rule, "\""));
  }
  RETURN_IF_ERROR(CheckMesh(recipe));
  if (recipe.leaf < 1 || recipe.bucket < 1 || recipe.bucket > kMostElements ||
      recipe.bucket % recipe.leaf != 0) {
    return Bad(absl::StrCat("expected a bucket of whole leaves, got ", recipe.bucket,
                            " elements in leaves of ", recipe.leaf));
  }
  std::set<std::string> names;
  int64_t elements = 0;
  for (const LayoutRecipe::Parameter& parameter : recipe.parameters) {
    RETURN_IF_ERROR(CheckParameter(recipe, parameter));
    elements += RoundUp(Elements(parameter.shape), recipe.leaf);
    if (elements > kMostElements) return Bad("it is too large");
    if (!names.insert(parameter.name).second) return Bad(parameter.name + " is there twice");
  }
  if (elements / recipe.bucket > kMostBuckets) {
    return Bad(absl::StrCat("its buckets of ", recipe.bucket, " elements are too many"));
  }
  for (const LayoutRecipe::Single& single : recipe.singles) {
    RETURN_IF_ERROR(CheckShape(single.name, single.shape));
  }
  return absl::OkStatus();
}

int64_t CoordinateOf(const LayoutRecipe& recipe, int64_t rank, std::string_view axis) {
  for (const MeshAxis& one : recipe.mesh) {
    if (one.name == axis) return rank % one.size;
    rank /= one.size;
  }
  return 0;
}

int64_t AxisSize(const LayoutRecipe& recipe, std::string_view axis) {
  for (const MeshAxis& one : recipe.mesh) {
    if (one.name == axis) return one.size;
  }
  return 1;
}

std::vector<Box> ShardsOf(const LayoutRecipe& recipe, const LayoutRecipe::Parameter& parameter) {
  std::vector<Box> shards;
  const int64_t tp = AxisSize(recipe, "tp");
  if (parameter.split < 0 || tp == 1) return shards;
  const auto split = static_cast<size_t>(parameter.split);
  for (int64_t i = 0; i < tp; ++i) {
    const Range part = EvenPart(parameter.shape[split], tp, i);
    shards.push_back(WholeBox(parameter.shape));
    shards.back().offset[split] = part.begin;
    shards.back().extent[split] = part.size();
  }
  return shards;
}

std::vector<RecipePiece> PiecesOfRank(const LayoutRecipe& recipe, int64_t rank) {
  std::vector<RecipePiece> pieces;
  for (const MeshAxis& axis : recipe.mesh) {
    const bool known = axis.name == "tp" || axis.name == "dp" || axis.name == "pp";
    if (!known && CoordinateOf(recipe, rank, axis.name) > 0) return pieces;
  }
  int64_t size = 0;
  const std::vector<Entry> arena =
      ArenaOf(recipe, CoordinateOf(recipe, rank, "pp"), CoordinateOf(recipe, rank, "tp"), &size);
  for (const Range& owned : OwnedBy(recipe, size, CoordinateOf(recipe, rank, "dp"))) {
    auto entry = std::upper_bound(arena.begin(), arena.end(), owned.begin,
                                  [](int64_t at, const Entry& e) { return at < e.flat.end; });
    for (; entry != arena.end() && entry->flat.begin < owned.end; ++entry) {
      const Range part{std::max(owned.begin, entry->flat.begin),
                       std::min(owned.end, entry->flat.end)};
      if (part.empty() || entry->is_other) continue;
      pieces.push_back({0, entry->parameter, entry->shard, part.begin - entry->flat.begin,
                        part.end - entry->flat.begin});
    }
  }
  const size_t of_a_slot = pieces.size();
  if (recipe.slots.empty()) pieces.clear();
  for (size_t slot = 1; slot < recipe.slots.size(); ++slot) {
    for (size_t i = 0; i < of_a_slot; ++i) {
      pieces.push_back(pieces[i]);
      pieces.back().slot = static_cast<int32_t>(slot);
    }
  }
  for (size_t i = 0; rank == 0 && i < recipe.singles.size(); ++i) {
    const int64_t elements = Elements(recipe.singles[i].shape);
    if (elements > 0) pieces.push_back({-1, static_cast<int32_t>(i), 0, 0, elements});
  }
  return pieces;
}

std::string TensorName(const LayoutRecipe& recipe, const RecipePiece& piece) {
  const auto index = static_cast<size_t>(piece.parameter);
  if (piece.slot < 0) return recipe.singles[index].name;
  return absl::StrCat(recipe.slots[static_cast<size_t>(piece.slot)], "/",
                      recipe.parameters[index].name);
}

}  // namespace dsrun
