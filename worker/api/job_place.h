// JobPlace: which rank of which job this process is. `dsrun` says so in the environment, by the
// names that torchrun uses (common/topology/rank_environment.h); a program that is started by
// itself is the only rank of its job.

#ifndef DSRUN_WORKER_API_JOB_PLACE_H_
#define DSRUN_WORKER_API_JOB_PLACE_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "absl/status/statusor.h"

namespace dsrun {

struct JobPlace {
  int rank = 0;
  int size = 1;
  int local_size = 1;        // ranks of this machine, which share its processors
  std::string address = {};  // where the ranks meet: "127.0.0.1:29500"; of one rank: nowhere
  std::string job = {};      // the same of all ranks, and of all starts of one job; "": no job's
  int64_t generation = 1;    // which start of the job this is, from 1

  // The value of a variable; nullopt: it is not set.
  using Lookup = std::function<std::optional<std::string>(const char* name)>;
  // RANK, WORLD_SIZE, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT, TORCHELASTIC_RUN_ID,
  // TORCHELASTIC_RESTART_COUNT. Without RANK and WORLD_SIZE: the only one. Errors:
  // INVALID_ARGUMENT: one of the two alone, or a value that is none; the message names the
  // variable.
  static absl::StatusOr<JobPlace> From(const Lookup& lookup);
  static absl::StatusOr<JobPlace> FromEnvironment();
};

}  // namespace dsrun

#endif  // DSRUN_WORKER_API_JOB_PLACE_H_
