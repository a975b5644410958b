// The nodes of the job: who is there, which incarnation, when heard last. Pure.
//
//   kUnopened --Opened--> kOpen --JobEnded--> kDone
//       |                   |
//       +----- lost --------+--> kLost        a lost node never comes back: a broken stream is not
//                                             resumed, and what it still says is not heard

#ifndef DSRUN_LAUNCHER_COORDINATOR_MEMBERSHIP_H_
#define DSRUN_LAUNCHER_COORDINATOR_MEMBERSHIP_H_

#include <array>
#include <cstddef>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/ids.h"
#include "proto/snapshot.pb.h"

namespace dsrun::launcher {

class Membership {
 public:
  enum class NodeState { kUnopened, kOpen, kDone, kLost };

  explicit Membership(size_t nodes) : nodes_(nodes) { count(NodeState::kUnopened) = nodes; }

  size_t size() const { return nodes_.size(); }
  bool Contains(NodeId node) const {
    return node.value() >= 0 && static_cast<size_t>(node.value()) < nodes_.size();
  }
  NodeState state(NodeId node) const { return at(node).state; }
  Incarnation incarnation(NodeId node) const { return at(node).incarnation; }
  bool IsOpen(NodeId node) const { return state(node) == NodeState::kOpen; }

  void Open(NodeId node, Incarnation incarnation, absl::Duration now);
  void Done(NodeId node) { Become(node, NodeState::kDone); }
  void Lose(NodeId node) { Become(node, NodeState::kLost); }

  // Ascending. To know how many there are, ask CountOf: a node's every message may need it.
  std::vector<NodeId> WithState(NodeState state) const;
  std::vector<NodeId> Live() const { return WithState(NodeState::kOpen); }
  size_t CountOf(NodeState state) const { return counts_[static_cast<size_t>(state)]; }
  size_t LiveCount() const { return CountOf(NodeState::kOpen); }
  bool AllOpen() const { return LiveCount() == nodes_.size(); }

  // Liveness: not durable, not part of ToString.
  void Heard(NodeId node, absl::Duration now);
  // Folds one tick in and returns the open nodes that have been silent for `silent_after`,
  // ascending. A late tick, more than a quarter of `silent_after` after the one before, comes from
  // a coordinator that was stopped, starved or busy, or from a machine on which everything was: it
  // counts as a quarter, and nobody is silent at the first of several, because what was said
  // meanwhile may still lie unread. Before the second there was time to hear it, so a coordinator
  // whose ticks are all late still finds a node that is gone, four late ticks after its last word.
  struct TickResult {
    bool late = false;
    std::vector<NodeId> silent;
  };
  TickResult OnTick(absl::Duration now, const std::vector<NodeId>& heard_from,
                    absl::Duration silent_after);

  std::string ToString() const;

  // All of it, liveness included.
  proto::MembershipState Snapshot() const;
  // DATA_LOSS when it is not of so many nodes, or a node is in no state.
  static absl::StatusOr<Membership> Restore(size_t nodes, const proto::MembershipState& snapshot);

 private:
  struct Node {
    NodeState state = NodeState::kUnopened;
    Incarnation incarnation;
    absl::Duration heard_at;
  };
  size_t& count(NodeState state) { return counts_[static_cast<size_t>(state)]; }
  void Become(NodeId node, NodeState state) {
    --count(at(node).state);
    ++count(state);
    at(node).state = state;
  }
  Node& at(NodeId node) { return nodes_[static_cast<size_t>(node.value())]; }
  const Node& at(NodeId node) const { return nodes_[static_cast<size_t>(node.value())]; }

  std::vector<Node> nodes_;
  std::array<size_t, 4> counts_ = {};                    // of nodes, by state
  absl::Duration last_tick_ = absl::InfiniteDuration();  // infinite: no tick yet
  bool was_late_ = false;                                // the last tick
};

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_COORDINATOR_MEMBERSHIP_H_
