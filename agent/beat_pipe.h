// What an agent and its keeper hold between them. Two pipes: the agent writes beats into one, and
// reads the end of the keeper (end of file, nobody ever writes) from the other. Each beat says how
// long the next silence may last, so that a job's own limit holds without the keeper knowing jobs.

#ifndef DSRUN_AGENT_BEAT_PIPE_H_
#define DSRUN_AGENT_BEAT_PIPE_H_

#include <optional>

#include "absl/time/time.h"

namespace dsrun::agent {

inline constexpr absl::Duration kBeatInterval = absl::Milliseconds(250);

// Never blocks: a full pipe means that beats enough are waiting. `fd` is non-blocking.
void WriteBeat(int fd, absl::Duration stalled_after);
// The newest beat in the pipe, if there is one; the pipe is empty afterwards. `fd` is non-blocking.
std::optional<absl::Duration> ReadBeats(int fd);

}  // namespace dsrun::agent

#endif  // DSRUN_AGENT_BEAT_PIPE_H_
