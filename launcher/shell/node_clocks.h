// When something happened on a node, on our own clock. Steady clocks of two machines share no zero;
// heartbeats give the offset, by the exchange of four time stamps that NTP uses (RFC 5905, section
// 8), and of the last eight the one with the shortest round trip is believed (section 10, the clock
// filter): half a round trip is the most it can be wrong by, however unequal the two ways are, plus
// what a clock may drift since.
//
// The launcher's shell asks it for every exit that an agent reports, and writes the answer into the
// message before the core hears it: so the journal has it, and a replay decides the same. Pure.
// Not thread-safe.

#ifndef DSRUN_LAUNCHER_SHELL_NODE_CLOCKS_H_
#define DSRUN_LAUNCHER_SHELL_NODE_CLOCKS_H_

#include <deque>
#include <map>
#include <optional>

#include "absl/time/time.h"
#include "common/base/ids.h"
#include "proto/agent.pb.h"

namespace dsrun::launcher {

// One node's clock.
class NodeClock {
 public:
  // A heartbeat there and back. `sent` and `back`: our clock; `heard` and `answered`: the node's.
  struct RoundTrip {
    absl::Duration sent, heard, answered, back;
  };
  // A moment on our clock, right to within `within` both ways.
  struct Moment {
    absl::Duration at;
    absl::Duration within;
  };

  // A round trip that cannot be (it ends before it begins, or the node held it longer than it took)
  // is dropped.
  void Add(const RoundTrip& trip);

  // `theirs`: of the node's clock. `now`: ours. Nothing before the first round trip.
  std::optional<Moment> OnOurs(absl::Duration theirs, absl::Duration now) const;

 private:
  struct Sample {
    absl::Duration offset;  // theirs - ours
    absl::Duration within;
    absl::Duration taken_at;  // ours
  };
  std::deque<Sample> samples_;  // the newest, oldest first
};

class NodeClocks {
 public:
  // An agent's heartbeat, which came at `now`.
  void Heard(NodeId node, const proto::AgentHeartbeat& heartbeat, absl::Duration now);
  // Fills in launcher_time of a WorkerExited, if the node's clock is known; clears it otherwise.
  void Correct(NodeId node, absl::Duration now, proto::AgentMessage& message) const;

 private:
  std::map<NodeId, NodeClock> clocks_;
};

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_SHELL_NODE_CLOCKS_H_
