// What a failure says, and whom the ranks of a generation wait for when nobody says more. Pure.
// Which of several failures was the cause: cause_chooser.h.

#ifndef DSRUN_LAUNCHER_COORDINATOR_ROOT_CAUSE_H_
#define DSRUN_LAUNCHER_COORDINATOR_ROOT_CAUSE_H_

#include <map>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "common/base/ids.h"
#include "launcher/coordinator/report.h"
#include "proto/agent.pb.h"
#include "proto/worker.pb.h"

namespace dsrun::launcher {

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
