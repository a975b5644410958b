// Saving: how a rank saves in one generation. At a save step it copies what it owns and hands the
// copy to the writer (save_writer.h); the training goes on. Only the last save is waited for: it is
// part of what was asked.
//
// Threads: the training thread.

#ifndef DSRUN_WORKER_ENGINE_SAVING_H_
#define DSRUN_WORKER_ENGINE_SAVING_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/ids.h"
#include "common/format/manifest.h"
#include "proto/job.pb.h"
#include "worker/checkpoint/prune.h"
#include "worker/engine/save_writer.h"
#include "worker/engine/session.h"
#include "worker/engine/trainer.h"

namespace dsrun::worker {

// What all checkpoints of a job say, whoever commits them; key, counters and incarnation are set
// by whoever does.
ManifestFacts FactsOfJob(const proto::JobSpec& job, const NumericsFingerprint& kernels_fingerprint,
                         const std::string& corpus_sha256);
// Which checkpoints of the job stay when a newer one is committed; generation and running are the
// grant's.
PruneOptions PruneOfJob(const proto::JobSpec& job);

class Saving {
 public:
  struct Setup {
    const proto::JobSpec* job;
    Session* session;
    SaveWriter* writer;
    const Trainer* trainer;
    Generation generation;
    Rank rank;
    int width = 1;
    std::function<void(bool warning, const std::string& text)> notice;  // to the operator
    // The rank waits for its last save, within limits of its own: it does not hang.
    std::function<void()> moved;
  };

  explicit Saving(Setup setup);

  // The present step is that of `manifest`, in the save folder: it need not be saved again.
  void WentOnFrom(const std::string& manifest);

  // What this rank's newest save has become is not known yet: committed, or given up.
  bool AwaitsOutcome();

  // At a save step: between two steps, by all ranks. `others_busy`: StepResult::saving, which says
  // the same to all of them: then the save is left out, and rank 0 says so. The training goes on
  // without checkpoints while a disk does not answer; a rank whose writer has been at one thing for
  // longer than --save-timeout warns, and again after twice that time.
  void Save(bool others_busy);

  // The save of the last step, waited for: the manifest's name.
  // Errors, with the operator's next action: ABORTED: a newer generation; RESOURCE_EXHAUSTED: there
  // is no room; UNAVAILABLE: another error of the storage, after those of the writer's attempts
  // that could be made, or nobody said in time that it was committed. A newer generation, which
  // comes back to this step, may have more luck; where it is this rank's writer that is stuck, the
  // verdict asks for a new process.
  absl::StatusOr<std::string> SaveLast();

 private:
  absl::StatusOr<std::string> WriteLast(int64_t step);
  absl::StatusOr<std::string> AwaitOutcome(int64_t step);
  bool Superseded() const;
  // This rank's writer has been at one thing for longer than that may take.
  bool IsStuck() const;
  void WarnIfStuck();
  void TakeSnapshot();
  void Tidy();
  absl::Status Copy(RankSave& save);

  const Setup setup_;
  std::string resumed_manifest_;
  int64_t resumed_step_ = -1;
  int64_t open_step_ = -1;     // of the newest save of this generation, until its outcome is heard
  absl::Duration warn_after_;  // the writer has been at one thing for so long
};

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_ENGINE_SAVING_H_
