// Strong integer ids. They do not convert into each other, so a rank can never be passed for a
// node.
//
//   Rank rank(3);  rank.value() == 3;  std::map<Rank, ...>;  LOG(INFO) << rank;

#ifndef DSRUN_COMMON_BASE_IDS_H_
#define DSRUN_COMMON_BASE_IDS_H_

#include <compare>
#include <cstdint>
#include <functional>
#include <ostream>
#include <string>

namespace dsrun {

template <typename Tag, typename Int>
class StrongId {
 public:
  constexpr StrongId() = default;
  constexpr explicit StrongId(Int value) : value_(value) {}
  constexpr Int value() const { return value_; }
  friend constexpr auto operator<=>(StrongId, StrongId) = default;
  friend std::ostream& operator<<(std::ostream& out, StrongId id) { return out << id.value_; }

 private:
  Int value_ = 0;
};

// Position in the hostfile after filters, 0-based. Stable for the life of a job, also when nodes
// are lost.
using NodeId = StrongId<struct NodeIdTag, int32_t>;
// Place for one worker on a node, 0-based; (NodeId, Slot) names a worker for the life of a job.
using Slot = StrongId<struct SlotTag, int32_t>;
// Position of a worker in one generation, 0-based and dense. Changes from generation to generation.
using Rank = StrongId<struct RankTag, int32_t>;
// One attempt of the job to run with one set of workers; grows by one with every attempt. 0: none
// yet.
using Generation = StrongId<struct GenerationTag, int64_t>;
// Drawn at random by a process when it is born; tells it from its predecessor at the same place.
using Incarnation = StrongId<struct IncarnationTag, uint64_t>;
// Number of finished optimizer steps.
using Step = StrongId<struct StepTag, int64_t>;

// A worker's place. Ordered by node, then slot: the order of ranks.
struct WorkerId {
  NodeId node;
  Slot slot;
  friend constexpr auto operator<=>(const WorkerId&, const WorkerId&) = default;
  friend std::ostream& operator<<(std::ostream& out, const WorkerId& id) {
    return out << "node " << id.node << " slot " << id.slot;
  }
};

}  // namespace dsrun

#endif  // DSRUN_COMMON_BASE_IDS_H_
