// How often those who watch each other say that they live, where a job does not say
// (--heartbeat-interval): dsrun and its agents, an agent and its workers.

#ifndef DSRUN_COMMON_BASE_HEARTBEAT_H_
#define DSRUN_COMMON_BASE_HEARTBEAT_H_

#include "absl/time/time.h"

namespace dsrun {

inline constexpr absl::Duration kDefaultHeartbeatInterval = absl::Milliseconds(500);

}  // namespace dsrun

#endif  // DSRUN_COMMON_BASE_HEARTBEAT_H_
