// How the ranks of a program ended that was asked to stop, for the last screen. Pure.

#ifndef DSRUN_LAUNCHER_COORDINATOR_STOP_WORDS_H_
#define DSRUN_LAUNCHER_COORDINATOR_STOP_WORDS_H_

#include <map>
#include <set>
#include <string>

#include "absl/time/time.h"
#include "common/base/ids.h"
#include "proto/agent.pb.h"

namespace dsrun::launcher {

// Whether a rank of a program ended by, or with the exit code of, a signal that asks for an end and
// that its agent did not send. The same signal may be on its way to dsrun.
bool EndedByStopSignal(const proto::WorkerExited& exited);

// "exited with code 0"; of one that was killed by its agent when the grace was over: "was cut off
// by SIGKILL (--stop-grace 15s)".
std::string HowItStopped(const proto::WorkerExited& exited, absl::Duration stop_grace);

// "rank 3", "ranks 0-2,5".
std::string RankWords(const std::set<Rank>& ranks);

// "; ranks 0-2 exited with code 0; rank 3 cut off by SIGKILL (...)", what most did first. Empty
// for no rank.
std::string StopWords(const std::map<Rank, std::string>& how);

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_COORDINATOR_STOP_WORDS_H_
