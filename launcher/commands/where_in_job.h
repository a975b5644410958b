// dsrun where --param NAME RUN_FOLDER, of a job that runs: which rank on which node holds which
// elements of a parameter and of the optimizer's state for it, in its memory, now. It is computed
// from what the job's journal says (the generation begun, its ranks, what its memory is planned
// from) by the plan that the ranks themselves follow; nobody is asked, and nothing is held up.
//
// Norms come from checkpoints (checkpoint_where.h): the elements themselves never leave their rank.

#ifndef DSRUN_LAUNCHER_COMMANDS_WHERE_IN_JOB_H_
#define DSRUN_LAUNCHER_COMMANDS_WHERE_IN_JOB_H_

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/range.h"
#include "launcher/coordinator/coordinator.h"

namespace dsrun::launcher {

struct HeldByRank {
  int64_t rank = 0;
  std::string host;
  int64_t slot = 0;
  Range elements;  // [begin, end) of the tensor, as the model stores it
};

struct TensorInJob {
  std::string name;  // "model/wte.weight", "state/exp_avg/wte.weight"
  std::vector<int64_t> shape;
  // By rank. One rank may have several, ascending.
  std::vector<HeldByRank> pieces;
  bool everywhere = false;  // every rank has all of it
};

struct JobPlaces {
  std::string job_id;
  int64_t generation = 0;
  std::string state;  // "running"
  int64_t ranks = 0;
  std::vector<TensorInJob> tensors;
};

// `parameter`: as WhereIs has it. Errors: INVALID_ARGUMENT: a job of programs; NOT_FOUND: its model
// has no such tensor, the message names some that it has; FAILED_PRECONDITION: no generation has
// begun, or the job has ended.
absl::StatusOr<JobPlaces> WhereInJob(const Coordinator& core, const std::string& parameter);

// What the journal of a run folder says, and when that was.
struct JobThen {
  Coordinator core;
  absl::Time as_of;
  bool behind = false;  // more has happened since than could be written down
};
// nullopt: the folder has no journal, so it is none of a run. Errors: those of ReadJournal.
absl::StatusOr<std::optional<JobThen>> ReadJobOf(const std::string& run_folder);

void PrintText(const JobPlaces& places, const JobThen& job, std::ostream& out);
nlohmann::ordered_json ToJson(const JobPlaces& places, const JobThen& job);

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_COMMANDS_WHERE_IN_JOB_H_
