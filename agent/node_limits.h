// The time limits of a job as durations, with the defaults of proto/job.proto where a field is not
// set. Pure.

#ifndef DSRUN_AGENT_NODE_LIMITS_H_
#define DSRUN_AGENT_NODE_LIMITS_H_

#include "absl/time/time.h"
#include "proto/job.pb.h"

namespace dsrun::agent {

struct NodeLimits {
  absl::Duration heartbeat_interval;
  absl::Duration worker_silent_after;
  absl::Duration agent_stalled_after;
  absl::Duration lease;
  absl::Duration stop_grace;
  absl::Duration progress_timeout;
};

NodeLimits ResolveLimits(const proto::Limits& limits);

}  // namespace dsrun::agent

#endif  // DSRUN_AGENT_NODE_LIMITS_H_
