// Whether a generation fits into the memory that its nodes report, before it is begun. Pure.
//
// Nodes with one boot id and one limiting control group are one machine and share its memory once.
// What is there for the job is what is available plus what its ranks hold now: survivors give their
// arenas back and allocate those of the new plan. So what ranks have mapped, touched or not, counts
// as planned, not as measured.

#ifndef DSRUN_LAUNCHER_COORDINATOR_GENERATION_MEMORY_H_
#define DSRUN_LAUNCHER_COORDINATOR_GENERATION_MEMORY_H_

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "common/base/ids.h"
#include "common/plan/memory_plan.h"
#include "launcher/coordinator/generation_planner.h"
#include "proto/agent.pb.h"
#include "proto/job.pb.h"
#include "proto/worker.pb.h"

namespace dsrun::launcher {

// What the ranks of `train` are planned from, without width and rank. Absent: it is no job that
// could be planned (a test's, or one that the resolver refuses).
std::optional<MemoryInput> MemoryInputOf(const proto::TrainSpec& train);

// Whether PlanMemory takes it, at any width up to its atoms.
bool CanBePlanned(const MemoryInput& job);

struct MemoryAnswer {
  // `nodes` of the question, with the slots whose ranks fit; empty: no width fits.
  std::vector<PlannedNode> fitting;
  // Of the plan with all slots: a line for people for every machine that lacks memory. Empty: it
  // fits as it is, and `fitting` is the question's.
  std::vector<std::string> lacking;
  std::string where;      // names of those machines: "alpha", "alpha and 2 more"
  std::string would_fit;  // "--micro-batch-size 2, or 3 ranks"; never empty when something lacks
  std::string consumers;  // of rank 0, TopConsumers; likewise
};

// `memory`: what nodes have reported; one that has not is not checked. `goes_on`: from a
// checkpoint.
MemoryAnswer AskMemory(const MemoryInput& job, const std::vector<PlannedNode>& nodes,
                       const std::map<NodeId, proto::NodeMemory>& memory, bool goes_on);

// What to add to what is heard of a rank that has met the end of memory (OutOfMemoryWords). `nodes`
// and `memory`: as above, of the generation that runs, in the order of its ranks. Empty: the rank
// is on none of them.
std::string MemoryMetWords(const MemoryInput& job, const std::vector<PlannedNode>& nodes,
                           const std::map<NodeId, proto::NodeMemory>& memory, Rank rank,
                           bool goes_on);

// Whether an end or a report of a rank says that memory was refused to it or taken from it: the
// kernel's killer, a limit of the process, an allocation that its device refused.
bool SaysOutOfMemory(const proto::WorkerExited& exited);
bool SaysOutOfMemory(const proto::Failed& failed);

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_COORDINATOR_GENERATION_MEMORY_H_
