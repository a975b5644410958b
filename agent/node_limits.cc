#include "agent/node_limits.h"

namespace dsrun::agent {
namespace {

absl::Duration OrDefault(bool set, const google::protobuf::Duration& value,
                         absl::Duration fallback) {
  const absl::Duration duration = absl::Seconds(value.seconds()) + absl::Nanoseconds(value.nanos());
  return set && duration > absl::ZeroDuration() ? duration : fallback;
}

}  // namespace

NodeLimits ResolveLimits(const proto::Limits& limits) {
  return {
      .heartbeat_interval = OrDefault(limits.has_heartbeat_interval(), limits.heartbeat_interval(),
                                      absl::Milliseconds(500)),
      .worker_silent_after = OrDefault(limits.has_worker_silent_after(),
                                       limits.worker_silent_after(), absl::Seconds(3)),
      .agent_stalled_after = OrDefault(limits.has_agent_stalled_after(),
                                       limits.agent_stalled_after(), absl::Seconds(3)),
      .lease = OrDefault(limits.has_lease(), limits.lease(), absl::Seconds(30)),
      .stop_grace = OrDefault(limits.has_stop_grace(), limits.stop_grace(), absl::Seconds(15)),
  };
}

}  // namespace dsrun::agent
