#include "launcher/coordinator/membership.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"

namespace dsrun::launcher {

void Membership::Open(NodeId node, Incarnation incarnation, absl::Duration now) {
  at(node) = {NodeState::kOpen, incarnation, now};
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
  if (gap > silent_after / 2) {
    result.late = true;
    for (Node& node : nodes_) node.heard_at += gap;
  }
  for (const NodeId node : heard_from) Heard(node, now);
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

}  // namespace dsrun::launcher
