// One generation of a worker: join, agree on a checkpoint and load it, step, save, finish. It ends
// in Finished, or in an error after which the process waits for the next generation.
//
// Threads: called by the process's main thread.

#ifndef DSRUN_WORKER_ENGINE_GENERATION_H_
#define DSRUN_WORKER_ENGINE_GENERATION_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/base/file_system.h"
#include "common/base/ids.h"
#include "common/base/patience.h"
#include "proto/worker.pb.h"
#include "worker/comm/core/communicator.h"
#include "worker/comm/core/rendezvous.h"
#include "worker/engine/communicator_factory.h"
#include "worker/engine/engine_factory.h"
#include "worker/engine/progress.h"
#include "worker/engine/save_writer.h"
#include "worker/engine/session.h"
#include "worker/engine/trainer.h"

namespace dsrun::worker {

using CommunicatorBuilder = std::function<absl::StatusOr<std::unique_ptr<Communicator>>(
    const CommunicatorRequest&, Rendezvous&)>;

struct GenerationSetup {
  Engine* engine;
  SampleFn sample;
  std::string corpus_sha256;
  Session* session;
  SaveWriter* save_writer;  // of the process: it writes on when a generation ends
  FileSystem* file_system;
  const Clock* clock = &Clock::Real();
  // Waits that long; false as soon as `cancelled` says so.
  std::function<bool(absl::Duration, const std::function<bool()>& cancelled)> wait = SleepUnless;
  CommunicatorBuilder build_communicator;
  Progress* progress;
  Incarnation incarnation;
  std::string bind_address;
  std::string job_token;
};

// Runs `plan` as `rank`. Errors: what helps against them is VerdictOf's to say (verdict.h).
// ENSURES: whatever went wrong, it returns without waiting for a peer: the communicators are
// aborted before threads are joined.
absl::StatusOr<proto::Finished> RunGeneration(const GenerationSetup& setup,
                                              const proto::GenerationPlan& plan, Rank rank);

// This worker's rank in `plan`. Errors: NOT_FOUND: it is no member.
absl::StatusOr<Rank> FindRank(const proto::GenerationPlan& plan, WorkerId worker);

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_ENGINE_GENERATION_H_
