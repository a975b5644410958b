// What this node has, read once at the start of the agent, and what memory it can give, read again
// whenever a generation is planned. Thread-safe.

#ifndef DSRUN_AGENT_INVENTORY_H_
#define DSRUN_AGENT_INVENTORY_H_

#include <cstdint>
#include <string>
#include <vector>

#include "proto/agent.pb.h"

namespace dsrun::agent {

// Never fails: what cannot be read is 0 or empty. CPUs and memory are what this process may use
// (affinity mask, physical memory); GPUs are counted by their device files.
proto::Opened ReadInventory();

// What the ranks of `job_id` can have here (common/base/machine_memory.h). `pids`: those that run.
// Arenas that ranks of other jobs have mapped and not touched yet count as used; those of this job
// do not, whoever's they are: the plan says what its ranks will need.
proto::NodeMemory ReadNodeMemory(const std::string& job_id, const std::vector<int32_t>& pids);

}  // namespace dsrun::agent

#endif  // DSRUN_AGENT_INVENTORY_H_
