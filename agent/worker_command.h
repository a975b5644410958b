// What exactly is executed for a slot: pure text and bytes, without descriptors. Pure.

#ifndef DSRUN_AGENT_WORKER_COMMAND_H_
#define DSRUN_AGENT_WORKER_COMMAND_H_

#include <string>

#include "common/base/ids.h"
#include "common/base/process_runner.h"
#include "proto/job.pb.h"
#include "proto/worker.pb.h"

namespace dsrun::agent {

// The variable by which processes that outlive their worker are told from those of others. Its
// value is unique for each process started.
inline constexpr char kWorkerTagVariable[] = "DSRUN_WORKER_TAG";

// The descriptor under which a dsworker finds its WorkerBootstrap.
inline constexpr int kBootstrapFd = 3;

struct WorkerCommandInput {
  const proto::JobSpec& job;
  const proto::GenerationPlan& plan;  // one that PlacesOf takes
  int node = 0;
  Slot slot;
  Rank rank;
  std::string run_dir;        // of this agent; its folder of the node's logs exists
  std::string worker_binary;  // dsworker, absolute; not used for programs
  std::string tag;            // value of kWorkerTagVariable
  bool node_has_gpus = false;
};

// A program gets the job's argv and environment byte for byte, plus the rank's variables (which
// replace the job's of the same name) and the tag. A dsworker gets nothing about the job here.
ProcessSpec BuildWorkerCommand(const WorkerCommandInput& input);

}  // namespace dsrun::agent

#endif  // DSRUN_AGENT_WORKER_COMMAND_H_
