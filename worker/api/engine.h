// Engine: trains a model of one's own, from a program of one's own, with everything that `dsrun
// train` has: exact sums, ZeRO, optimizers, schedules, checkpoints that any width loads.
// docs/own_model.md is the page about it; examples/ has programs.
//
//   ASSIGN_OR_RETURN(auto engine, dsrun::Engine::Initialize(model, sample, config));
//   ASSIGN_OR_RETURN(const auto loaded, engine->Load(folder));   // after a restart: goes on
//   while (engine->step() < config.train_iters) {
//     ASSIGN_OR_RETURN(const auto trained, engine->TrainBatch());
//     if (engine->step() % 100 == 0) RETURN_IF_ERROR(engine->Save(folder).status());
//   }
//
// `dsrun --num-gpus N PROGRAM ARGUMENTS` starts the program N times; Initialize reads from the
// environment which rank this one is, and joins the others. All ranks make the same calls in the
// same order. When one dies, dsrun ends the others and, with --max-restarts, starts all again:
// Load then goes on from the newest checkpoint, with the bits of a run that nothing disturbed.
//
// The trainer, the model's player and the checkpoints are those of dsworker (worker/engine), built
// from the plan of this model.
//
// Threads: one calls everything. Errors: after one of TrainBatch, Save, Load or Outputs that names
// another rank or the communication, the engine is of no more use: the program ends, and is started
// again.

#ifndef DSRUN_WORKER_API_ENGINE_H_
#define DSRUN_WORKER_API_ENGINE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/file_system.h"
#include "common/plan/memory_plan.h"
#include "worker/api/config.h"
#include "worker/api/job_place.h"
#include "worker/api/layers.h"
#include "worker/api/model.h"
#include "worker/comm/core/communicator.h"

namespace dsrun {

struct TrainedBatch {
  int64_t step = 0;      // finished steps, this one included
  double loss = 0;       // mean over the rows of the batch that are not masked
  double grad_norm = 0;  // of that mean's gradient, before clipping
  double lr = 0;
  int64_t rows = 0;  // not masked; 0: nothing was there to learn, and nothing was updated
  absl::Duration duration;
};

struct LoadedCheckpoint {
  int64_t step = 0;
  std::string manifest;  // "": there was none, the parameters are those of the seed
};

class Engine {
 public:
  // Finds the others and allocates everything. The parameters are those of config.seed.
  // Errors: those of PlanModel, Config::Check, JobPlace::FromEnvironment and TcpRendezvous::Meet;
  // INVALID_ARGUMENT: more ranks than the batch has atoms; RESOURCE_EXHAUSTED: memory;
  // FAILED_PRECONDITION: another engine of this process has capped the instruction set otherwise.
  static absl::StatusOr<std::unique_ptr<Engine>> Initialize(const OwnModel& model, SampleFn sample,
                                                            const Config& config);
  // For tests and programs that find each other by other means.
  static absl::StatusOr<std::unique_ptr<Engine>> Create(
      const OwnModel& model, SampleFn sample, const Config& config, const JobPlace& place,
      std::unique_ptr<worker::Communicator> communicator,
      FileSystem& file_system = FileSystem::Real());
  virtual ~Engine() = default;

  // One step of the next config.global_batch_size samples. Errors: those of Trainer::TrainStep.
  virtual absl::StatusOr<TrainedBatch> TrainBatch() = 0;

  // Writes a checkpoint of this step, each rank its part, and returns its manifest's name when it
  // is committed; older ones of this job are removed as config.keep_last and keep_every say. The
  // folder is made where it is missing, and is one that all ranks share. A second save of a step
  // into the same folder returns the first one's. Errors: FAILED_PRECONDITION: the newest
  // checkpoint of the folder is of another job, and this one has not loaded from there; what
  // WriteShard and CommitManifest say, with the rank: nothing is committed then unless the code is
  // UNKNOWN.
  virtual absl::StatusOr<std::string> Save(const std::string& folder) = 0;

  // Goes on from the newest whole checkpoint of the folder, this job's own first; whatever number
  // of ranks, stage of ZeRO, and job has written it. Where the folder is missing, or has no
  // checkpoint at all, nothing changes. Errors: FAILED_PRECONDITION: after TrainBatch; a checkpoint
  // of another model or optimizer, or, without config.accept_fingerprint, of another curve; those
  // of Resume (worker/engine/resume.h).
  virtual absl::StatusOr<LoadedCheckpoint> Load(const std::string& folder) = 0;

  // What the model gives for samples [first, first + count) of `sample`, (count, rows, outputs),
  // with the parameters of this step. All ranks play the same samples together, and all get the
  // result: under ZeRO-3 they gather parameters for it. Targets do not matter. Errors: a sample's,
  // the communication's.
  virtual absl::StatusOr<std::vector<float>> Outputs(const SampleFn& sample, int64_t first,
                                                     int64_t count) = 0;

  virtual int64_t step() const = 0;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  // What this rank has allocated, by formula, line by line.
  virtual const MemoryPlan& memory_plan() const = 0;
};

}  // namespace dsrun

#endif  // DSRUN_WORKER_API_ENGINE_H_
