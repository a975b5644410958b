// How the ranks of an engine of one's own save and load together, without a coordinator: rank 0
// takes its place. Saves are synchronous: when Save returns, the checkpoint is committed or given
// up. Internal to this folder.

#ifndef DSRUN_WORKER_API_RANK_CHECKPOINTS_H_
#define DSRUN_WORKER_API_RANK_CHECKPOINTS_H_

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/file_system.h"
#include "common/base/ids.h"
#include "proto/job.pb.h"
#include "worker/comm/core/communicator.h"
#include "worker/device/kernels.h"
#include "worker/engine/trainer.h"

namespace dsrun {

// All pointers outlive it. Threads: the engine's.
class RankCheckpoints {
 public:
  struct Setup {
    FileSystem* file_system;
    const proto::JobSpec* job;  // without folders
    Generation generation;
    worker::Communicator* communicator;
    worker::Trainer* trainer;
    worker::Kernels* kernels;
    absl::Duration exchange_timeout;
    absl::Duration save_timeout;
  };

  explicit RankCheckpoints(Setup setup);
  // Takes the marks of folders away that rank 0 has put there.
  ~RankCheckpoints();

  // As Engine::Save and Engine::Load. REQUIRES: the trainer has settled.
  absl::StatusOr<std::string> Save(const std::string& folder);
  absl::StatusOr<std::string> Load(const std::string& folder);

 private:
  absl::Status Prepare(const std::string& folder);
  absl::StatusOr<std::string> WriteMyShard(const std::string& folder);
  absl::StatusOr<std::string> Commit(const std::string& folder,
                                     const std::vector<std::string>& records);
  absl::StatusOr<bool> HasCheckpoints(const std::string& folder);
  // What rank 0 has found or done, for all; its error is everybody's. Errors of the communicator
  // come out, too.
  absl::StatusOr<std::string> FromRankZero(const std::function<absl::StatusOr<std::string>()>& act,
                                           const std::string& what);
  // Rank 0's verdict over the commit, as far as this rank has heard it. Nothing: whether it is
  // committed is not known here, and what was written must stay.
  std::optional<absl::StatusOr<std::string>> CommitTogether(
      const std::string& folder, const std::vector<std::string>& records);

  // Of a folder that can be saved into.
  struct Saved {
    std::string manifest;
    int64_t step = -1;
  };

  const Setup setup_;
  const Incarnation incarnation_;
  std::map<std::string, Saved> folders_;  // the last save of each
  std::string loaded_folder_;
};

}  // namespace dsrun

#endif  // DSRUN_WORKER_API_RANK_CHECKPOINTS_H_
