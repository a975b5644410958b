// NodeCore, fourth part: the lease, which is what keeps the ranks of a program from running twice.
// A coordinator that has lost this node gives them to others when lease and grace have passed since
// then, on its own clock. So no word may count for longer than from when it was sent, and no time
// may be left out.

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "agent/node_core.h"
#include "common/base/proto_duration.h"

namespace dsrun::agent {
namespace {

// Heartbeats whose way is compared: more than a coordinator sends to a node before it gives it up,
// few enough for the drift of two clocks to be nothing between them.
constexpr size_t kWays = 16;

std::string Seconds(absl::Duration duration) {
  return absl::StrCat(absl::ToDoubleSeconds(duration), " s");
}

}  // namespace

// A heartbeat says when it was sent, by a clock that shares no zero with ours. The shortest of the
// last ways tells the zero, but for the shortest way itself; by what its own way was longer it
// comes late. Of a program nothing else counts: it may have been on its way for any time.
void NodeCore::NoteWord(const proto::CoordinatorMessage& message) {
  if (!IsProgram() || (message.has_heartbeat() && !message.heartbeat().has_sent())) {
    coordinator_heard_at_ = now_;
    return;
  }
  if (!message.has_heartbeat()) return;
  const absl::Duration way = now_ + slept_ - FromProto(message.heartbeat().sent());
  ways_.push_back(way);
  if (ways_.size() > kWays) ways_.pop_front();
  const absl::Duration late = way - *std::min_element(ways_.begin(), ways_.end());
  coordinator_heard_at_ = std::max(coordinator_heard_at_, now_ - late);
}

void NodeCore::CheckLease() {
  if (phase_ != Phase::kRunning || now_ - coordinator_heard_at_ < limits_.lease) return;
  Abandon(absl::StrCat("no word from the coordinator for ", Seconds(limits_.lease),
                       ": the lease has run out"));
}

// A coordinator elsewhere gives a program's ranks away when the lease and the grace are over, and
// did not stand still meanwhile.
void NodeCore::On(const Slept& event) {
  if (phase_ == Phase::kNew || !IsProgram()) return;
  slept_ += event.time;
  coordinator_heard_at_ -= event.time;
  if (now_ - coordinator_heard_at_ < limits_.lease + limits_.stop_grace) return CheckLease();
  if (!AnyAlive()) return CheckLease();
  const std::string reason = absl::StrCat("this machine was suspended for ",
                                          Seconds(absl::Trunc(event.time, absl::Milliseconds(100))),
                                          ": the lease and the grace have run out");
  if (phase_ == Phase::kRunning) {
    abandoned_ = true;
    phase_ = Phase::kEnding;
    end_reason_ = reason;
  }
  KillAll(reason);  // also what is in a ladder, whose own clock stood still
}

}  // namespace dsrun::agent
