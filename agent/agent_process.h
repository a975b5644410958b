// The agent proper: the keeper's child. Puts the parts together, serves, and beats for its keeper
// until there is nothing left to do.

#ifndef DSRUN_AGENT_AGENT_PROCESS_H_
#define DSRUN_AGENT_AGENT_PROCESS_H_

#include <string>

#include "absl/time/time.h"

namespace dsrun::agent {

struct AgentProcessOptions {
  std::string listen = "127.0.0.1:0";  // or "unix:/path"
  std::string cluster_key;
  std::string socket_dir;     // private folder for unix sockets, removed by the keeper
  std::string worker_binary;  // dsworker, absolute
  std::string run_dir;        // overrides the job's; empty: the job's
  int ready_fd = -1;          // gets "PORT\n" (0: of a unix socket) when the agent listens, then is
                              // closed
  bool one_job = false;       // exit after the first job
  // With one_job: exit when none has come by then, for the starter is probably dead.
  absl::Duration first_job_within = absl::Seconds(30);
  int beat_fd = -1;
  int life_fd = -1;
};

// Returns the exit code (exit_codes.h). To be called from main, before any thread exists.
int RunAgentProcess(const AgentProcessOptions& options);

}  // namespace dsrun::agent

#endif  // DSRUN_AGENT_AGENT_PROCESS_H_
