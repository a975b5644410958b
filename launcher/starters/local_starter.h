// LocalStarter: agents as children of this process, one per node. For one machine, which may act
// several nodes. They listen on no port: each has a unix socket in a private folder of its own, and
// both ends see by the kernel's word that the other is of this user.
//
// All of them share one fresh cluster key, which reaches them through an inherited memory file:
// never an argument, never the environment. It proves that who listens there is the very agent.
// They lead sessions of their own, so Ctrl-C at the terminal reaches the launcher alone; and they
// outlive a launcher that is killed, until their lease has run out: the job's, or
// Options::first_job_within when it never came.
//
// The folders of the agents' sockets are made here and removed by EndAll, whatever way the agents
// went; an agent's keeper removes its own too, for the case that this process is killed.
//
// Orphans below a dead agent come back to this process (child subreaper) and are killed by EndAll:
// the last net under the agents' own sweeping. Children that this process had before (`exec > >(tee
// log)`), and what is in its own session, are not touched (process_tree.h, BornBefore); a process
// with a LocalStarter must have no others that lead sessions and that it wants to keep.

#ifndef DSRUN_LAUNCHER_STARTERS_LOCAL_STARTER_H_
#define DSRUN_LAUNCHER_STARTERS_LOCAL_STARTER_H_

#include <memory>
#include <string>

#include "common/base/descriptor.h"
#include "common/base/posix_process_runner.h"
#include "common/base/process_runner.h"
#include "common/base/process_tree.h"
#include "launcher/starters/agent_starter.h"

namespace dsrun::launcher {

class LocalStarter : public AgentStarter {
 public:
  struct Options {
    std::string agent_binary;  // absolute
    std::string run_dir;       // exists; handed on as --run-dir
    std::string log_folder;    // exists; an agent's own words go to agent-<node>.log there
    // For opening its log and exec: either waits for a disk or file server, and one that is broken
    // never answers. What has begun is left behind then, and what comes of it later is killed.
    absl::Duration spawn_timeout = absl::Seconds(10);
    absl::Duration ready_timeout = absl::Seconds(10);  // spawn to "I listen"
    // How long an agent waits for its job before it takes this process for dead and ends.
    absl::Duration first_job_within = absl::Seconds(30);
  };

  static absl::StatusOr<std::unique_ptr<LocalStarter>> Create(Options options);
  ~LocalStarter() override;

  absl::StatusOr<AgentEndpoint> Start(NodeId id, const proto::NodeSpec& node) override;
  void End(NodeId id, absl::Duration grace) override;
  void EndAll(absl::Duration grace) override;
  std::string HowItEnded(NodeId id, absl::Duration limit) override;

  // For tests. Of a living agent; 0: none.
  int32_t pid(NodeId id) const;
  const std::string& cluster_key() const { return cluster_key_; }

 private:
  // What a start that hangs in the kernel uses when it comes back, and who was promised what.
  struct State;
  struct Spawning;
  class Starting;

  LocalStarter(Options options, std::unique_ptr<PosixProcessRunner> runner);
  // `ready`: the agent's end of its ready pipe.
  absl::Status Spawn(NodeId id, const std::string& socket_folder, Descriptor ready);
  ProcessSpec SpecOf(const std::string& socket_folder) const;
  absl::StatusOr<AgentEndpoint> Call(NodeId id, const std::string& target, int ready_fd);
  // A process of it, with a folder for its socket: the target where it will listen.
  absl::StatusOr<std::string> Begin(NodeId id, Descriptor ready);
  absl::StatusOr<std::string> MakeSocketFolder();
  void RemoveSocketFolders();
  // Waits for the line that the agent writes to its ready pipe.
  absl::Status AwaitReady(NodeId id, int fd);
  void AwaitStarts(absl::Duration limit);
  void AwaitEnds(absl::Duration limit);
  void AwaitOrphans() const;
  std::string LogPath(NodeId id) const;

  // Constant after construction.
  const Options options_;
  const std::string cluster_key_;
  const BornBefore born_before_ = BornBefore::Look();
  const std::shared_ptr<State> state_;

  std::unique_ptr<PosixProcessRunner> runner_;
};

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_STARTERS_LOCAL_STARTER_H_
