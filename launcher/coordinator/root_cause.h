// Which of several failures was the cause, and what a failure says. Pure.
//
// A failure brings others with it: peers lose their connections, an agent kills what it was told to
// stop. The cause is the strongest kind first: a process that ended by itself, a node that is gone,
// a rank that found an own fault; then what an agent killed; then what ranks only reported about
// their peers. Within one kind it is the first: on one node by that node's clock, between nodes by
// corrected time (node_clocks.h) if the difference is larger than what both may be wrong by, else
// by the order in which the coordinator heard of them.

#ifndef DSRUN_LAUNCHER_COORDINATOR_ROOT_CAUSE_H_
#define DSRUN_LAUNCHER_COORDINATOR_ROOT_CAUSE_H_

#include <cstddef>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/base/ids.h"
#include "launcher/coordinator/report.h"
#include "proto/agent.pb.h"
#include "proto/worker.pb.h"

namespace dsrun::launcher {

// Index into `failures`, which are in the order in which they were heard. REQUIRES: not empty.
size_t ChooseCause(const std::vector<Failure>& failures);

// The odd rank: the one that reported nothing while the others waited for it until their deadline.
// `reports`: by rank, of one generation. Whoever waited for a rank that reported itself waited for
// the one which that rank names, and so on; of several at the ends of such chains it is the one
// that most ranks come to, and the first of equals. Absent if nobody's deadline has passed, or all
// chains end in circles: everybody waited.
std::optional<Rank> AwaitedRank(const std::map<Rank, Failure>& reports);

// Decode what was heard; node, host, rank, generation and noticed_at are the caller's.
Failure FailureFromExit(const proto::WorkerExited& exited);
Failure FailureFromReport(const proto::Failed& failed);

// "rank 1 (beta, slot 0) killed by signal 9 (...)", "node 1 (beta) no heartbeat for 3s".
std::string FailureSentence(const Failure& failure);

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_COORDINATOR_ROOT_CAUSE_H_
