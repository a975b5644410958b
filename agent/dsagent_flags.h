// The command line of dsagent.

#ifndef DSRUN_AGENT_DSAGENT_FLAGS_H_
#define DSRUN_AGENT_DSAGENT_FLAGS_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace dsrun::agent {

struct DsagentFlags {
  std::string listen = "127.0.0.1:0";
  std::string cluster_key_file;
  int cluster_key_fd = -1;
  int ready_fd = -1;
  std::string run_dir;
  std::string worker_binary;
  bool one_job = false;
  // With one_job: how long it waits for that job.
  absl::Duration first_job_within = absl::Seconds(30);
  bool help = false;
  // For unix sockets, 0700: given by a starter that removes it itself in the end, else made by
  // the keeper.
  std::string socket_dir;
  // Set by the keeper, for its child only.
  std::string role;
};

// "--name=value", "--name value", "--name" for switches; durations as "30s", "500ms". `arguments`
// without argv[0]. Paths come out absolute, against the present folder: they are used by other
// processes and from other folders.
// Errors: INVALID_ARGUMENT: unknown flag, missing or malformed value, a relative path where the
// present folder is not known (it was removed).
absl::StatusOr<DsagentFlags> ParseDsagentFlags(const std::vector<std::string>& arguments);

extern const char kDsagentUsage[];

}  // namespace dsrun::agent

#endif  // DSRUN_AGENT_DSAGENT_FLAGS_H_
