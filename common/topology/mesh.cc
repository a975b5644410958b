#include "common/topology/mesh.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/logging.h"
#include "common/base/status_macros.h"

namespace dsrun {
namespace {

constexpr std::array<const char*, kAxes> kNames = {"tp", "cp", "dp", "pp", "ep", "edp"};
// What an order names; edp stands where dp does.
constexpr std::array<Axis, 5> kOrdered = {Axis::kTp, Axis::kCp, Axis::kEp, Axis::kDp, Axis::kPp};

size_t Index(Axis axis) { return static_cast<size_t>(axis); }

std::optional<Axis> AxisNamed(const std::string& name) {
  const auto found = std::find(kNames.begin(), kNames.end(), name);
  if (found == kNames.end()) return std::nullopt;
  return static_cast<Axis>(found - kNames.begin());
}

int32_t SizeIn(const MeshShape& shape, Axis axis) {
  switch (axis) {
    case Axis::kTp:
      return shape.tp;
    case Axis::kCp:
      return shape.cp;
    case Axis::kDp:
      return shape.dp;
    case Axis::kPp:
      return shape.pp;
    case Axis::kEp:
      return shape.ep;
    case Axis::kEdp:
      return static_cast<int32_t>(int64_t{shape.cp} * shape.dp / shape.ep);
  }
  return 1;
}

absl::Status CheckSizes(const MeshShape& shape) {
  int64_t ranks = 1;
  for (const Axis axis : kOrdered) {
    const int64_t size = SizeIn(shape, axis);
    if (size < 1) {
      return absl::InvalidArgumentError(
          absl::StrCat("mesh: ", kNames[Index(axis)], " is ", size, ", expected at least 1"));
    }
    if (axis != Axis::kEp) ranks *= size;
    if (ranks > std::numeric_limits<int32_t>::max()) {
      return absl::InvalidArgumentError(
          "mesh: tp * cp * dp * pp is more than 2147483647 ranks; make one of them smaller");
    }
  }
  const int64_t sharing = int64_t{shape.cp} * shape.dp;
  if (sharing % shape.ep == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("mesh: ep ", shape.ep, " does not divide cp * dp = ", shape.cp, " * ", shape.dp,
                   " = ", sharing, ", the ranks that experts are divided among"));
}

// The axes that `shape.order` names, then those that it leaves out.
absl::StatusOr<std::vector<Axis>> OrderOf(const MeshShape& shape) {
  const std::string expected = absl::StrCat("; expected something like ", kDefaultMeshOrder);
  std::vector<Axis> order;
  const std::vector<std::string> names = absl::StrSplit(shape.order, '-');
  for (const std::string& name : names) {
    const std::optional<Axis> axis = AxisNamed(name);
    if (!axis || *axis == Axis::kEdp) {
      return absl::InvalidArgumentError(
          absl::StrCat("mesh order \"", shape.order, "\" names \"", name, "\"", expected));
    }
    if (std::find(order.begin(), order.end(), *axis) != order.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat("mesh order \"", shape.order, "\" names ", name, " twice", expected));
    }
    order.push_back(*axis);
  }
  for (const Axis axis : kOrdered) {
    if (std::find(order.begin(), order.end(), axis) != order.end()) continue;
    if (SizeIn(shape, axis) != 1) {
      return absl::InvalidArgumentError(absl::StrCat("mesh order \"", shape.order, "\" lacks ",
                                                     kNames[Index(axis)], ", whose size is ",
                                                     SizeIn(shape, axis), expected));
    }
    order.push_back(axis);
  }
  return order;
}

}  // namespace

int32_t Coordinates::At(Axis axis) const {
  const std::array<int32_t, kAxes> all = {tp, cp, dp, pp, ep, edp};
  return all[Index(axis)];
}

absl::StatusOr<AxisSet> AxisSet::Parse(const std::string& text) {
  AxisSet axes({});
  const std::vector<std::string> names = absl::StrSplit(text, '-');
  for (const std::string& name : names) {
    const std::optional<Axis> axis = AxisNamed(name);
    if (!axis || axes.Has(*axis)) {
      return absl::InvalidArgumentError(
          absl::StrCat("\"", text, "\" is no set of axes, such as tp or cp-dp"));
    }
    axes.bits_ |= 1u << static_cast<unsigned>(*axis);
  }
  return axes;
}

std::string AxisSet::ToString() const {
  std::string text;
  for (size_t i = 0; i < kAxes; ++i) {
    if (Has(static_cast<Axis>(i))) absl::StrAppend(&text, text.empty() ? "" : "-", kNames[i]);
  }
  return text;
}

absl::StatusOr<Mesh> Mesh::Create(const MeshShape& shape) {
  RETURN_IF_ERROR(CheckSizes(shape));
  ASSIGN_OR_RETURN(const std::vector<Axis> order, OrderOf(shape));
  Mesh mesh(shape);
  for (size_t i = 0; i < kAxes; ++i) mesh.sizes_[i] = SizeIn(shape, static_cast<Axis>(i));
  // Twice over the order: by tp, cp, dp, pp; and as an expert sees its rank, by tp, ep, edp, pp.
  std::array<int32_t, kAxes> of_experts = {};
  int32_t next = 1, next_of_experts = 1, next_sharing = 1;
  for (const Axis axis : order) {
    if (axis != Axis::kEp) {
      mesh.strides_[Index(axis)] = next;
      next *= mesh.SizeOf(axis);
    }
    if (axis == Axis::kCp) continue;
    const Axis seen = axis == Axis::kDp ? Axis::kEdp : axis;
    of_experts[Index(seen)] = next_of_experts;
    next_of_experts *= mesh.SizeOf(seen);
    if (seen != Axis::kEp && seen != Axis::kEdp) continue;
    mesh.strides_[Index(seen)] = next_sharing;
    next_sharing *= mesh.SizeOf(seen);
  }
  mesh.size_ = next;
  for (const Axis axis : {Axis::kTp, Axis::kPp}) {
    const bool moved = mesh.SizeOf(axis) > 1 && of_experts[Index(axis)] != mesh.StrideOf(axis);
    if (shape.ep == 1 || !moved) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        "mesh order \"", shape.order, "\" gives the experts of a rank another ",
        kNames[Index(axis)], " than the rest of it, with cp ", shape.cp, ", ep ", shape.ep,
        " and dp ", shape.dp, "; let cp, ep and dp stand side by side, as in ", kDefaultMeshOrder));
  }
  return mesh;
}

Coordinates Mesh::CoordinatesOf(Rank rank) const {
  CHECK(rank.value() >= 0 && rank.value() < size_) << "rank " << rank << " of " << size_;
  const auto at = [&](Axis axis, int32_t number) { return number / StrideOf(axis) % SizeOf(axis); };
  Coordinates out;
  out.tp = at(Axis::kTp, rank.value());
  out.cp = at(Axis::kCp, rank.value());
  out.dp = at(Axis::kDp, rank.value());
  out.pp = at(Axis::kPp, rank.value());
  const bool cp_first = StrideOf(Axis::kCp) <= StrideOf(Axis::kDp);
  const int32_t sharing = cp_first ? out.cp + shape_.cp * out.dp : out.dp + shape_.dp * out.cp;
  out.ep = at(Axis::kEp, sharing);
  out.edp = at(Axis::kEdp, sharing);
  return out;
}

Rank Mesh::RankOf(const Coordinates& at) const {
  int32_t rank = 0;
  for (const Axis axis : {Axis::kTp, Axis::kCp, Axis::kDp, Axis::kPp}) {
    CHECK(at.At(axis) >= 0 && at.At(axis) < SizeOf(axis))
        << kNames[Index(axis)] << " " << at.At(axis) << " of " << SizeOf(axis);
    rank += at.At(axis) * StrideOf(axis);
  }
  return Rank(rank);
}

bool Mesh::HasGroups(AxisSet axes) {
  const bool dense = axes.Has(Axis::kCp) || axes.Has(Axis::kDp);
  const bool experts = axes.Has(Axis::kEp) || axes.Has(Axis::kEdp);
  return !(dense && experts) && axes != AxisSet({});
}

// Which dense coordinates number `sharing` among those that share experts has; CoordinatesOf counts
// them so.
std::pair<int32_t, int32_t> Mesh::CpAndDpOf(int32_t sharing) const {
  const bool cp_first = StrideOf(Axis::kCp) <= StrideOf(Axis::kDp);
  if (cp_first) return {sharing % shape_.cp, sharing / shape_.cp};
  return {sharing / shape_.dp, sharing % shape_.dp};
}

std::vector<Rank> Mesh::GroupOf(Rank rank, AxisSet axes) const {
  CHECK(HasGroups(axes)) << "no groups along \"" << axes.ToString() << "\"";
  const Coordinates own = CoordinatesOf(rank);
  const auto steps = [&](Axis axis) { return axes.Has(axis) ? SizeOf(axis) : 1; };
  const auto at = [&](Axis axis, int32_t step) { return axes.Has(axis) ? step : own.At(axis); };
  // By the pair of axes that the set has one of; both pairs count the same cp * dp ranks.
  const bool experts = axes.Has(Axis::kEp) || axes.Has(Axis::kEdp);
  const Axis inner = experts ? Axis::kEp : Axis::kCp;
  const Axis outer = experts ? Axis::kEdp : Axis::kDp;
  std::vector<Rank> group;
  for (int32_t pp = 0; pp < steps(Axis::kPp); ++pp) {
    for (int32_t o = 0; o < steps(outer); ++o) {
      for (int32_t i = 0; i < steps(inner); ++i) {
        std::pair<int32_t, int32_t> dense = {at(inner, i), at(outer, o)};
        if (experts) {
          dense =
              CpAndDpOf(dense.first * StrideOf(Axis::kEp) + dense.second * StrideOf(Axis::kEdp));
        }
        for (int32_t tp = 0; tp < steps(Axis::kTp); ++tp) {
          group.push_back(RankOf({.tp = at(Axis::kTp, tp),
                                  .cp = dense.first,
                                  .dp = dense.second,
                                  .pp = at(Axis::kPp, pp)}));
        }
      }
    }
  }
  std::sort(group.begin(), group.end());
  return group;
}

std::vector<std::vector<Rank>> Mesh::Groups(AxisSet axes) const {
  std::vector<std::vector<Rank>> groups;
  std::vector<bool> in_one(static_cast<size_t>(size_), false);
  for (int32_t rank = 0; rank < size_; ++rank) {
    if (in_one[static_cast<size_t>(rank)]) continue;
    groups.push_back(GroupOf(Rank(rank), axes));
    for (const Rank member : groups.back()) in_one[static_cast<size_t>(member.value())] = true;
  }
  return groups;
}

}  // namespace dsrun
