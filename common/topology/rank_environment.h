// The variables that a user program's rank finds in its environment, besides those of the job: what
// `deepspeed` sets and what torchrun sets, so that programs written for either find what they read.
// `dsrun --dry-run` prints it, the agent sets it. Pure.
//
// What torchrun sets only where the user did not (OMP_NUM_THREADS, TORCH_NCCL_ASYNC_ERROR_HANDLING)
// is the same for all ranks and part of the job's environment (launcher/commands).

#ifndef DSRUN_COMMON_TOPOLOGY_RANK_ENVIRONMENT_H_
#define DSRUN_COMMON_TOPOLOGY_RANK_ENVIRONMENT_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "common/topology/placement.h"

namespace dsrun {

struct RankEnvironmentInput {
  RankPlace place;
  int32_t world_size = 0;
  std::string master_addr;
  int32_t master_port = 0;
  std::string job_id;
  int64_t restart_count = 0;  // generation - 1
  int64_t max_restarts = 0;
  // Where a Python program under torch's @record keeps its last exception as JSON (rank_files.h).
  // Nothing of ours reads it: the exception is also in the rank's log, whose last lines stand on
  // the last screen. Empty: nothing is set.
  std::string error_file;
  // The node's slots in use, ascending, when slots are GPUs there: every rank of the node sees all
  // of them, and LOCAL_RANK indexes into them. Empty: the node has no GPU, nothing is set.
  std::vector<Slot> visible_gpus;
};

// (name, value) in a fixed order.
std::vector<std::pair<std::string, std::string>> RankEnvironment(const RankEnvironmentInput& input);

}  // namespace dsrun

#endif  // DSRUN_COMMON_TOPOLOGY_RANK_ENVIRONMENT_H_
