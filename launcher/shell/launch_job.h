// LaunchJob: drives one resolved job from "agents up" to the final report. Everything the operator
// sees while it runs goes to standard output and standard error from here (console.h).

#ifndef DSRUN_LAUNCHER_SHELL_LAUNCH_JOB_H_
#define DSRUN_LAUNCHER_SHELL_LAUNCH_JOB_H_

#include <string>

#include "launcher/shell/operator_stops.h"
#include "proto/job.pb.h"

namespace dsrun::launcher {

struct LaunchOptions {
  std::string agent_binary;      // dsagent, absolute; started for nodes whose agent_port is 0
  std::string cluster_key_file;  // 0600 file for agents that are already running; empty: a fresh
                                 // key for own agents
  std::string
      probe_path;  // written and removed by LaunchJob in the save folder; empty: nothing to check
  bool progress_line = false;  // one line of steps, rewritten in place
  bool terminal = false;       // standard output is one
  bool quiet_ranks = false;    // do not echo the ranks' output (the files are always written)
  bool run_dir_given = false;  // --run-dir names the run folder: a next job needs another one
  bool memory_check = true;    // false: a generation is begun whether it fits its nodes or not
};

// Runs the job to its end. `stops` is handed to it for that time and is over afterwards. Returns
// the exit code of docs/errors.md: 0, a rank's own code, 128 + signal, or one of 90 to 99.
int LaunchJob(const proto::JobSpec& job, const LaunchOptions& options, OperatorStops& stops);

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_SHELL_LAUNCH_JOB_H_
