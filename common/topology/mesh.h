// Mesh: how the ranks of one generation are numbered along the axes of parallelism. Rank ->
// coordinates, coordinates -> rank, and the groups of ranks that share all coordinates but some.
// Pure.
//
//   axis  size is the number of                DeepSpeed calls it
//   tp    parts that a matrix is cut into      model (tensor) parallel
//   cp    parts that a sequence is cut into    sequence parallel
//   dp    replicas, which divide the batch     data parallel
//   pp    stages that the layers are cut into  pipe
//   ep    parts that the experts of a layer    expert parallel
//         are divided into
//   edp   holders of the same experts          expert data parallel
//
// A mesh has tp * cp * dp * pp ranks. Experts add none: they are divided among the ranks of one
// tensor part and one stage, cp * dp of them, so that ep * edp = cp * dp. A replica is what holds
// the whole model once, experts apart: the tp * cp * pp ranks of one dp.
//
// `order` names the axes from the one whose neighbours have neighbouring ranks to the one whose are
// farthest apart, as Megatron's option does: "tp-cp-ep-dp-pp" is
//
//   rank = tp + tp_size * (cp + cp_size * (dp + dp_size * pp))
//
// and of the cp * dp ranks that share experts, counted in this order, number ep + ep_size * edp has
// part ep. Where dp stands before ep it is edp + edp_size * ep (DeepSpeed's
// use_data_before_expert_parallelism). Any order of any sizes that Megatron takes gives Megatron's
// ranks.

#ifndef DSRUN_COMMON_TOPOLOGY_MESH_H_
#define DSRUN_COMMON_TOPOLOGY_MESH_H_

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/ids.h"

namespace dsrun {

enum class Axis { kTp, kCp, kDp, kPp, kEp, kEdp };
inline constexpr int kAxes = 6;

inline constexpr char kDefaultMeshOrder[] = "tp-cp-ep-dp-pp";

struct MeshShape {
  int32_t tp = 1;
  int32_t cp = 1;
  int32_t ep = 1;
  int32_t dp = 1;
  int32_t pp = 1;
  std::string order = kDefaultMeshOrder;

  friend bool operator==(const MeshShape&, const MeshShape&) = default;
};

struct Coordinates {
  int32_t tp = 0;
  int32_t cp = 0;
  int32_t dp = 0;
  int32_t pp = 0;
  int32_t ep = 0;  // these two follow from cp and dp
  int32_t edp = 0;

  int32_t At(Axis axis) const;
  friend bool operator==(const Coordinates&, const Coordinates&) = default;
};

// Some of the axes; "cp-dp".
class AxisSet {
 public:
  AxisSet(std::initializer_list<Axis> axes) {
    for (const Axis axis : axes) bits_ |= 1u << static_cast<unsigned>(axis);
  }
  // Names joined by '-', in any order, none twice. Errors: INVALID_ARGUMENT.
  static absl::StatusOr<AxisSet> Parse(const std::string& text);

  bool Has(Axis axis) const { return (bits_ >> static_cast<unsigned>(axis) & 1u) != 0; }
  // Names in the order of Axis.
  std::string ToString() const;
  friend bool operator==(AxisSet, AxisSet) = default;

 private:
  uint32_t bits_ = 0;
};

class Mesh {
 public:
  // Errors: INVALID_ARGUMENT, naming the axis: a size below 1, too many ranks, an order that names
  // an unknown axis or one twice or lacks one whose size is not 1, an ep that does not divide
  // cp * dp, an order that gives experts other tensor parts or stages than the rest of their rank.
  static absl::StatusOr<Mesh> Create(const MeshShape& shape);

  const MeshShape& shape() const { return shape_; }
  int32_t size() const { return size_; }  // ranks
  int32_t SizeOf(Axis axis) const { return sizes_[static_cast<size_t>(axis)]; }
  int32_t replica_size() const { return size_ / shape_.dp; }

  // REQUIRES: 0 <= rank < size(); coordinates in their sizes. RankOf reads tp, cp, dp and pp.
  Coordinates CoordinatesOf(Rank rank) const;
  Rank RankOf(const Coordinates& at) const;

  // Whether groups along `axes` exist: ep and edp divide what cp and dp divide, so a set has axes
  // of one pair at most, and it is not empty.
  static bool HasGroups(AxisSet axes);
  // The ranks that differ from `rank` in nothing but `axes`; itself among them, ascending.
  // REQUIRES: HasGroups(axes).
  std::vector<Rank> GroupOf(Rank rank, AxisSet axes) const;
  // All of them: every rank in one. Ascending by their first ranks.
  std::vector<std::vector<Rank>> Groups(AxisSet axes) const;

 private:
  explicit Mesh(MeshShape shape) : shape_(std::move(shape)) {}
  std::pair<int32_t, int32_t> CpAndDpOf(int32_t sharing) const;
  int32_t StrideOf(Axis axis) const { return strides_[static_cast<size_t>(axis)]; }

  MeshShape shape_;
  int32_t size_ = 1;
  std::array<int32_t, kAxes> sizes_ = {};
  // How far in rank a step along tp, cp, dp or pp goes; along ep or edp, how far in the number
  // among those that share experts.
  std::array<int32_t, kAxes> strides_ = {};
};

}  // namespace dsrun

#endif  // DSRUN_COMMON_TOPOLOGY_MESH_H_
