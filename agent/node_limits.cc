#include "agent/node_limits.h"

#include "absl/time/time.h"
#include "common/base/heartbeat.h"
#include "common/base/proto_duration.h"

namespace dsrun::agent {

NodeLimits ResolveLimits(const proto::Limits& limits) {
  return {
      .heartbeat_interval = PositiveOr(limits.heartbeat_interval(), kDefaultHeartbeatInterval),
      .worker_silent_after = PositiveOr(limits.worker_silent_after(), absl::Seconds(3)),
      .agent_stalled_after = PositiveOr(limits.agent_stalled_after(), absl::Seconds(3)),
      .lease = PositiveOr(limits.lease(), absl::Seconds(30)),
      .stop_grace = PositiveOr(limits.stop_grace(), absl::Seconds(15)),
      .progress_timeout = PositiveOr(limits.progress_timeout(), absl::Seconds(30)),
  };
}

}  // namespace dsrun::agent
