#include "launcher/coordinator/membership.h"

#include <algorithm>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/base/counted.h"
#include "common/base/proto_duration.h"
#include "common/base/status_macros.h"

namespace dsrun::launcher {
namespace {

proto::MembershipState::State ToSnapshot(Membership::NodeState state) {
  switch (state) {
    case Membership::NodeState::kUnopened:
      return proto::MembershipState::UNOPENED;
    case Membership::NodeState::kOpen:
      return proto::MembershipState::OPEN;
    case Membership::NodeState::kDone:
      return proto::MembershipState::DONE;
    case Membership::NodeState::kLost:
      return proto::MembershipState::LOST;
  }
  return proto::MembershipState::STATE_UNSPECIFIED;
}

absl::StatusOr<Membership::NodeState> FromSnapshot(proto::MembershipState::State state) {
  switch (static_cast<int>(state)) {
    case proto::MembershipState::UNOPENED:
      return Membership::NodeState::kUnopened;
    case proto::MembershipState::OPEN:
      return Membership::NodeState::kOpen;
    case proto::MembershipState::DONE:
      return Membership::NodeState::kDone;
    case proto::MembershipState::LOST:
      return Membership::NodeState::kLost;
  }
  return absl::DataLossError(
      absl::StrCat("a node in an unknown state, number ", static_cast<int>(state)));
}

}  // namespace

void Membership::Open(NodeId node, Incarnation incarnation, absl::Duration now) {
  Become(node, NodeState::kOpen);
  at(node).incarnation = incarnation;
  at(node).heard_at = now;
}

std::vector<NodeId> Membership::WithState(NodeState state) const {
  std::vector<NodeId> found;
  for (size_t i = 0; i < nodes_.size(); ++i) {
    if (nodes_[i].state == state) found.push_back(NodeId(static_cast<int32_t>(i)));
  }
  return found;
}

void Membership::Heard(NodeId node, absl::Duration now) {
  if (Contains(node)) at(node).heard_at = now;
}

Membership::TickResult Membership::OnTick(absl::Duration now, const std::vector<NodeId>& heard_from,
                                          absl::Duration silent_after) {
  TickResult result;
  const absl::Duration gap = now - last_tick_;  // minus infinity before the first
  last_tick_ = now;
  const absl::Duration counted = silent_after / 4;
  const bool is_late = gap > counted;
  if (is_late) {
    for (Node& node : nodes_) node.heard_at = std::min(node.heard_at + gap - counted, now);
  }
  for (const NodeId node : heard_from) Heard(node, now);
  result.late = is_late && !was_late_;
  was_late_ = is_late;
  if (result.late) return result;
  for (const NodeId node : Live()) {
    if (now - at(node).heard_at >= silent_after) result.silent.push_back(node);
  }
  return result;
}

std::string Membership::ToString() const {
  static constexpr const char* kNames[] = {"unopened", "open", "done", "lost"};
  std::string text;
  for (const Node& node : nodes_) {
    absl::StrAppend(&text, text.empty() ? "" : " ", kNames[static_cast<int>(node.state)], "/",
                    node.incarnation.value());
  }
  return text;
}

proto::MembershipState Membership::Snapshot() const {
  const auto& [nodes, counts, last_tick, was_late] = *this;  // the counts follow from the nodes
  proto::MembershipState snapshot;
  for (const Node& node : nodes) {
    const auto& [state, incarnation, heard_at] = node;
    proto::MembershipState::Node* to = snapshot.add_nodes();
    to->set_state(ToSnapshot(state));
    to->set_incarnation(incarnation.value());
    *to->mutable_heard_at() = ToProto(heard_at);
  }
  if (last_tick != absl::InfiniteDuration()) *snapshot.mutable_last_tick() = ToProto(last_tick);
  snapshot.set_was_late(was_late);
  return snapshot;
}

absl::StatusOr<Membership> Membership::Restore(size_t nodes,
                                               const proto::MembershipState& snapshot) {
  if (static_cast<size_t>(snapshot.nodes_size()) != nodes) {
    return absl::DataLossError(
        absl::StrCat("it is of ", Counted(snapshot.nodes_size(), "node"), ", the job has ", nodes));
  }
  Membership members(nodes);
  for (int i = 0; i < snapshot.nodes_size(); ++i) {
    ASSIGN_OR_RETURN(const NodeState state, FromSnapshot(snapshot.nodes(i).state()));
    members.Become(NodeId(i), state);
    members.at(NodeId(i)).incarnation = Incarnation(snapshot.nodes(i).incarnation());
    members.at(NodeId(i)).heard_at = FromProto(snapshot.nodes(i).heard_at());
  }
  if (snapshot.has_last_tick()) members.last_tick_ = FromProto(snapshot.last_tick());
  members.was_late_ = snapshot.was_late();
  return members;
}

}  // namespace dsrun::launcher
