// The nodes of the job: who is there, which incarnation, when heard last. Pure.
//
//   kUnopened --Opened--> kOpen --JobEnded--> kDone
//       |                   |
//       +----- lost --------+--> kLost        a lost node never comes back: a broken stream is not
//                                             resumed, and what it still says is not heard

#ifndef DSRUN_LAUNCHER_COORDINATOR_MEMBERSHIP_H_
#define DSRUN_LAUNCHER_COORDINATOR_MEMBERSHIP_H_

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

  explicit Membership(size_t nodes) : nodes_(nodes) {}

  size_t size() const { return nodes_.size(); }
  bool Contains(NodeId node) const {
    return node.value() >= 0 && static_cast<size_t>(node.value()) < nodes_.size();
  }
  NodeState state(NodeId node) const { return at(node).state; }
  Incarnation incarnation(NodeId node) const { return at(node).incarnation; }
  bool IsOpen(NodeId node) const { return state(node) == NodeState::kOpen; }

  void Open(NodeId node, Incarnation incarnation, absl::Duration now);
  void Done(NodeId node) { at(node).state = NodeState::kDone; }
  void Lose(NodeId node) { at(node).state = NodeState::kLost; }

  // Ascending.
  std::vector<NodeId> WithState(NodeState state) const;
  std::vector<NodeId> Live() const { return WithState(NodeState::kOpen); }
  bool AllOpen() const { return Live().size() == nodes_.size(); }

  // Liveness: not durable, not part of ToString.
  void Heard(NodeId node, absl::Duration now);
  // Folds one tick in and returns the open nodes that have been silent for `silent_after`,
  // ascending. After a pause of the coordinator itself (no tick for half of `silent_after`: it was
  // stopped or starved) nobody is silent: what they said meanwhile may still wait in a queue.
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
  Node& at(NodeId node) { return nodes_[static_cast<size_t>(node.value())]; }
  const Node& at(NodeId node) const { return nodes_[static_cast<size_t>(node.value())]; }

  std::vector<Node> nodes_;
  absl::Duration last_tick_ = absl::InfiniteDuration();  // infinite: no tick yet
};

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_COORDINATOR_MEMBERSHIP_H_
