#include "common/format/layout_recipe.h"

#include <algorithm>
#include <map>
#include <set>

#include "absl/strings/str_cat.h"
#include "common/base/range.h"
#include "common/base/status_macros.h"

namespace dsrun {
namespace {

absl::Status Bad(const std::string& what) {
  return absl::DataLossError(absl::StrCat("layout: ", what));
}

absl::Status CheckShape(const std::string& name, const std::vector<int64_t>& shape) {
  if (shape.size() > kMostDimensions) {
    return Bad(absl::StrCat(name, ": expected at most ", kMostDimensions, " dimensions, got ",
                            shape.size()));
  }
  int64_t size = 1;
  for (const int64_t extent : shape) {
    if (extent < 0 || __builtin_mul_overflow(size, extent, &size) || size > kMostRecipeElements) {
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
    const bool split = IsSplit(recipe, parameter);
    const int64_t elements =
        split ? ShardAt(recipe, parameter, tp).volume() : Elements(parameter.shape);
    entries.push_back({static_cast<int32_t>(i),
                       split ? static_cast<int32_t>(tp) : 0,
                       {*size, *size + elements},
                       !split && tp > 0});
    *size += RoundUp(elements, recipe.leaf);
  }
  return entries;
}

// use(Range) for what is owned of an arena of `size` elements, ascending, adjacent ones joined, as
// long as it says true.
template <typename Use>
void ForOwned(const LayoutRecipe& recipe, int64_t size, int64_t dp, const Use& use) {
  const int64_t width = AxisSize(recipe, "dp");
  Range owned{0, 0};
  int64_t end = size % recipe.bucket == 0 ? std::min(recipe.bucket, size) : size % recipe.bucket;
  for (int64_t begin = 0; begin < size; begin = end, end += recipe.bucket) {
    const Range part = EvenPart((end - begin) / recipe.leaf, width, dp);
    if (part.empty()) continue;
    const Range flat{begin + part.begin * recipe.leaf, begin + part.end * recipe.leaf};
    if (owned.end == flat.begin) {
      owned.end = flat.end;
      continue;
    }
    if (!owned.empty() && !use(owned)) return;
    owned = flat;
  }
  if (!owned.empty()) use(owned);
}

// What all ranks have at most, by numbers alone: an arena's ranges are not more than its leaves,
// its buckets times those who share one, or one where nobody shares, and parameters cut them.
class Estimate {
 public:
  explicit Estimate(const LayoutRecipe& recipe)
      : recipe_(recipe),
        tp_(static_cast<double>(AxisSize(recipe, "tp"))),
        dp_(static_cast<double>(AxisSize(recipe, "dp"))) {}

  void Add(const LayoutRecipe::Parameter& parameter) {
    const bool split = IsSplit(recipe_, parameter);
    if (split) shards_ += tp_;
    Stage& stage = stages_[parameter.stage];
    stage.parameters += 1;
    // A shard's part, longer parts first, and padding.
    const auto elements = static_cast<double>(Elements(parameter.shape));
    stage.elements += (split ? 2 * elements / tp_ : elements) + static_cast<double>(recipe_.leaf);
  }

  double shards() const { return shards_ * Slots(); }
  double pieces() const {
    double pieces = 0;
    for (const auto& [number, stage] : stages_) {
      const double leaves = stage.elements / static_cast<double>(recipe_.leaf) + 1;
      const double sharers =
          std::min(dp_, static_cast<double>(recipe_.bucket) / static_cast<double>(recipe_.leaf));
      const double ranges = dp_ == 1 ? 1 : std::min(leaves, Buckets(stage) * sharers);
      pieces += tp_ * (ranges + stage.parameters);
    }
    return pieces * Slots();
  }
  // Of computing them, rank after rank.
  double work() const {
    double most = 0;
    for (const auto& [number, stage] : stages_) {
      most = std::max(most, Buckets(stage) + stage.parameters);
    }
    return most * static_cast<double>(recipe_.ranks());
  }

 private:
  struct Stage {
    double elements = 0;
    double parameters = 0;
  };
  double Slots() const { return static_cast<double>(std::max<size_t>(recipe_.slots.size(), 1)); }
  double Buckets(const Stage& stage) const {
    return stage.elements / static_cast<double>(recipe_.bucket) + 2;
  }

  const LayoutRecipe& recipe_;
  const double tp_, dp_;
  double shards_ = 0;
  std::map<int64_t, Stage> stages_;
};

absl::Status CheckCounts(const LayoutRecipe& recipe) {
  Estimate estimate(recipe);
  for (const LayoutRecipe::Parameter& parameter : recipe.parameters) estimate.Add(parameter);
  const auto too_many = [](const char* what, double count, int64_t most) {
    return Bad(absl::StrCat("expected at most ", most, " ", what, ", got up to ", count));
  };
  if (estimate.shards() > static_cast<double>(kMostShards)) {
    return too_many("shards of its tensors", estimate.shards(), kMostShards);
  }
  if (estimate.pieces() > static_cast<double>(kMostPieces)) {
    return too_many("pieces", estimate.pieces(), kMostPieces);
  }
  if (estimate.work() > static_cast<double>(kMostRecipeWork)) {
    return too_many("buckets of all ranks together", estimate.work(), kMostRecipeWork);
  }
  return absl::OkStatus();
}

absl::Status CheckSlots(const LayoutRecipe& recipe) {
  if (static_cast<int64_t>(recipe.slots.size()) > kMostSlots) {
    return Bad(absl::StrCat("expected at most ", kMostSlots, " slots, got ", recipe.slots.size()));
  }
  std::set<std::string_view> names(recipe.slots.begin(), recipe.slots.end());
  if (names.size() < recipe.slots.size()) return Bad("a slot is there twice");
  for (const LayoutRecipe::Single& single : recipe.singles) names.insert(single.name);
  for (const auto& [name, type] : recipe.types) {
    if (!names.contains(name)) return Bad(absl::StrCat(name, " has a type, and is not there"));
  }
  return absl::OkStatus();
}

}  // namespace

int64_t LayoutRecipe::ranks() const {
  int64_t ranks = 1;
  for (const MeshAxis& axis : mesh) ranks *= axis.size;
  return ranks;
}

ElementType LayoutRecipe::TypeOf(const std::string& slot_or_single) const {
  const auto found = types.find(slot_or_single);
  return found == types.end() ? ElementType::kF32 : found->second;
}

absl::Status CheckRecipe(const LayoutRecipe& recipe) {
  if (recipe.rule != kEvenBucketsRule) {
    return Bad(absl::StrCat("expected the rule \"", std::string(kEvenBucketsRule), "\", got \"",
                            recipe.rule, "\""));
  }
  RETURN_IF_ERROR(CheckMesh(recipe));
  if (recipe.leaf < 1 || recipe.bucket < 1 || recipe.bucket > kMostRecipeElements ||
      recipe.bucket % recipe.leaf != 0) {
    return Bad(absl::StrCat("expected a bucket of whole leaves, got ", recipe.bucket,
                            " elements in leaves of ", recipe.leaf));
  }
  RETURN_IF_ERROR(CheckSlots(recipe));
  std::set<std::string> names;
  const auto slots = static_cast<int64_t>(std::max<size_t>(recipe.slots.size(), 1));
  int64_t elements = 0;
  for (const LayoutRecipe::Parameter& parameter : recipe.parameters) {
    RETURN_IF_ERROR(CheckParameter(recipe, parameter));
    elements += RoundUp(Elements(parameter.shape), recipe.leaf);
    if (elements > kMostRecipeElements / slots) return Bad("it is too large");
    if (!names.insert(parameter.name).second) return Bad(parameter.name + " is there twice");
  }
  for (const LayoutRecipe::Single& single : recipe.singles) {
    RETURN_IF_ERROR(CheckShape(single.name, single.shape));
    elements += Elements(single.shape);
    if (elements > kMostRecipeElements) return Bad("it is too large");
  }
  return CheckCounts(recipe);
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

bool IsSplit(const LayoutRecipe& recipe, const LayoutRecipe::Parameter& parameter) {
  return parameter.split >= 0 && AxisSize(recipe, "tp") > 1;
}

Box ShardAt(const LayoutRecipe& recipe, const LayoutRecipe::Parameter& parameter, int64_t tp) {
  const auto split = static_cast<size_t>(parameter.split);
  const Range part = EvenPart(parameter.shape[split], AxisSize(recipe, "tp"), tp);
  Box shard = WholeBox(parameter.shape);
  shard.offset[split] = part.begin;
  shard.extent[split] = part.size();
  return shard;
}

std::vector<Box> ShardsOf(const LayoutRecipe& recipe, const LayoutRecipe::Parameter& parameter) {
  std::vector<Box> shards;
  if (!IsSplit(recipe, parameter)) return shards;
  for (int64_t tp = 0; tp < AxisSize(recipe, "tp"); ++tp) {
    shards.push_back(ShardAt(recipe, parameter, tp));
  }
  return shards;
}

std::vector<RecipePiece> PiecesOfRank(const LayoutRecipe& recipe, int64_t rank, int64_t most) {
  std::vector<RecipePiece> pieces;
  for (const MeshAxis& axis : recipe.mesh) {
    const bool known = axis.name == "tp" || axis.name == "dp" || axis.name == "pp";
    if (!known && CoordinateOf(recipe, rank, axis.name) > 0) return pieces;
  }
  int64_t size = 0;
  const std::vector<Entry> arena =
      ArenaOf(recipe, CoordinateOf(recipe, rank, "pp"), CoordinateOf(recipe, rank, "tp"), &size);
  ForOwned(recipe, size, CoordinateOf(recipe, rank, "dp"), [&](const Range& owned) {
    auto entry = std::upper_bound(arena.begin(), arena.end(), owned.begin,
                                  [](int64_t at, const Entry& e) { return at < e.flat.end; });
    for (; entry != arena.end() && entry->flat.begin < owned.end; ++entry) {
      const Range part{std::max(owned.begin, entry->flat.begin),
                       std::min(owned.end, entry->flat.end)};
      if (part.empty() || entry->is_other) continue;
      pieces.push_back({0, entry->parameter, entry->shard, part.begin - entry->flat.begin,
                        part.end - entry->flat.begin});
    }
    return static_cast<int64_t>(pieces.size()) <= most;
  });
  const size_t of_a_slot = pieces.size();
  if (recipe.slots.empty()) pieces.clear();
  for (size_t slot = 1; slot < recipe.slots.size(); ++slot) {
    if (static_cast<int64_t>(pieces.size()) > most) return pieces;
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

ElementType TypeOf(const LayoutRecipe& recipe, const RecipePiece& piece) {
  const auto slot = static_cast<size_t>(piece.slot);
  return recipe.TypeOf(piece.slot < 0 ? TensorName(recipe, piece) : recipe.slots[slot]);
}

}  // namespace dsrun
