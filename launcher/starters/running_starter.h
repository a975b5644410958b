// RunningStarter: agents that run already (started by a service manager or by hand) at the address
// and port that the hostfile gives. Nothing is started and nothing is ended here; Start only calls
// the agent and proves to it, and has it prove, that both have the cluster key of a file.

#ifndef DSRUN_LAUNCHER_STARTERS_RUNNING_STARTER_H_
#define DSRUN_LAUNCHER_STARTERS_RUNNING_STARTER_H_

#include <memory>
#include <string>

#include "launcher/starters/agent_starter.h"

namespace dsrun::launcher {

class RunningStarter : public AgentStarter {
 public:
  struct Options {
    std::string cluster_key_file;  // mode 0600; see common/rpc/secrets.h
    absl::Duration connect_timeout = absl::Seconds(5);
  };

  // Errors: those of ReadClusterKeyFile.
  static absl::StatusOr<std::unique_ptr<RunningStarter>> Create(const Options& options);

  absl::StatusOr<AgentEndpoint> Start(NodeId id, const proto::NodeSpec& node) override;
  void End(NodeId, absl::Duration) override {}
  void EndAll(absl::Duration) override {}
  std::string HowItEnded(NodeId, absl::Duration) override { return ""; }

 private:
  RunningStarter(const Options& options, std::string cluster_key);

  const Options options_;
  const std::string cluster_key_;
};

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_STARTERS_RUNNING_STARTER_H_
