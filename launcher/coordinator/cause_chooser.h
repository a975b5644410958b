// CauseChooser: which of several failures was the cause, as they come in one by one. Pure.
//
// A failure brings others with it: peers lose their connections, an agent kills what it was told to
// stop. The cause is the strongest kind first: a process that ended by itself, a node that is gone,
// a rank that found an own fault; then what an agent killed; then what ranks only reported about
// their peers. Within one kind it is one that nobody certainly came before: on one node by that
// node's clock, between nodes by corrected time (node_clocks.h) if the difference is larger than
// what both may be wrong by. Of those it is the one that the coordinator heard of first. Estimates
// of one clock, taken at different times, may contradict each other in a circle: then everybody has
// somebody before them, and the order of hearing decides alone.
//
// A large job fails everywhere at once, and every report asks anew, so nothing here looks at all
// failures: of each kind and node the earliest times are kept, and they decide whether somebody was
// before. As failures only come, who has somebody before it keeps it: such a one is looked at once
// more and put away. n failures cost n log n.
//
// Copyable; not thread-safe.

#ifndef DSRUN_LAUNCHER_COORDINATOR_CAUSE_CHOOSER_H_
#define DSRUN_LAUNCHER_COORDINATOR_CAUSE_CHOOSER_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "common/base/ids.h"
#include "launcher/coordinator/report.h"

namespace dsrun::launcher {

class CauseChooser {
 public:
  // The next one heard. Failures are numbered from 0 in the order of adding.
  void Add(const Failure& failure);
  size_t size() const { return entries_.size(); }

  // The number of the cause. REQUIRES: there is a failure. Of several that were heard at the same
  // time and that nothing else tells apart, the one that was the cause before remains it.
  size_t Choose();

  // The order in which they were heard: by time, then as they were added; whoever has been the
  // cause comes first among those of the same time.
  bool HeardBefore(size_t a, size_t b) const { return PlaceOf(a) < PlaceOf(b); }

 private:
  struct Entry {
    int weight = 0;
    NodeId node;
    std::optional<absl::Duration> node_time;
    std::optional<absl::Duration> wall_time;
    std::optional<absl::Duration> earliest;  // on our clock, as is what can be `latest`
    absl::Duration latest;
    absl::Duration noticed_at;
    int64_t turn = 0;  // among those of one time
  };
  using Place = std::tuple<absl::Duration, int64_t, size_t>;  // noticed_at, turn, number

  // Of one node, the earliest of each.
  struct NodeTimes {
    absl::Duration node_time = absl::InfiniteDuration();
    absl::Duration wall_time = absl::InfiniteDuration();
    absl::Duration wall_time_alone = absl::InfiniteDuration();  // of those without a node_time
  };
  // All failures of one weight.
  struct Kind {
    std::set<Place> open;        // not known to have somebody before them
    std::optional<Place> first;  // of all, the first heard
    std::map<NodeId, NodeTimes> nodes;
    // What happened at the latest first, and the same on any other node.
    std::pair<absl::Duration, NodeId> surest = {absl::InfiniteDuration(), NodeId(-1)};
    std::pair<absl::Duration, NodeId> surest_elsewhere = {absl::InfiniteDuration(), NodeId(-1)};
  };
  static constexpr size_t kWeights = 3;

  Place PlaceOf(size_t number) const {
    return {entries_[number].noticed_at, entries_[number].turn, number};
  }
  static void Remember(const Entry& entry, Kind& kind);
  static bool IsPreceded(const Entry& entry, const Kind& kind);
  void MoveToTheFront(size_t number, Kind& kind);

  std::vector<Entry> entries_;
  std::array<Kind, kWeights> kinds_;
  std::optional<size_t> cause_;
  int64_t last_turn_ = 0;
  int64_t first_turn_ = 0;
};

// 0: it ended by itself; 1: an agent killed it; 2: it only speaks of its peers. Smaller is more
// likely the cause.
int CauseWeight(const Failure& failure);

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_COORDINATOR_CAUSE_CHOOSER_H_
