// SaveWriter: writes a rank's checkpoints behind its training, and behind its generations. One a
// worker process, made before the first generation and kept through all of them.
//
//   - The generation: AwaitBuffer, Snapshot(bytes), the copy, Write(save); a short stall.
//   - This one's thread, any time later: WriteShard, then ShardWritten to the coordinator.
//   - The coordinator, when all shards are there: CommitSave to one worker. Its writer's thread:
//     CommitManifest, CommitDone, PruneCheckpoints.
//   - Or it gives the save up: DropSave to all, who remove what they wrote of it.
//
// Nobody commits without a grant of the coordinator (launcher/coordinator/save_ledger.h), so a
// process that was stopped, overtaken and woken up again commits nothing that is not wanted. A save
// goes on when its generation ends: what it writes from is its own copy, which this owns.
//
// At most one snapshot is being written. Its memory is the line "save_snapshot" of the memory plan.
//
// Threads: all methods are thread-safe, but Snapshot and Write belong to the training thread. None
// waits for the disk but AwaitBuffer, AwaitIdle and the destructor, which waits for the shard,
// the commit or the prune that is under way; a process that has no time for it ends by _Exit.

#ifndef DSRUN_WORKER_ENGINE_SAVE_WRITER_H_
#define DSRUN_WORKER_ENGINE_SAVE_WRITER_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/base/file_system.h"
#include "common/base/ids.h"
#include "common/base/mutex.h"
#include "common/base/patience.h"
#include "common/format/layout_recipe.h"
#include "common/format/manifest.h"
#include "proto/worker.pb.h"
#include "worker/checkpoint/prune.h"
#include "worker/checkpoint/slices.h"
#include "worker/device/device.h"

namespace dsrun::worker {

// The name of its thread, in /proc/PID/task/TID/comm and in ps -T.
inline constexpr char kSaveWriterThread[] = "save-writer";

// One rank's part of a save.
struct RankSave {
  Step step;
  Generation generation;
  Rank rank;
  int width = 0;
  int64_t samples = 0;
  std::vector<Slice> slices;                // of the snapshot
  std::optional<LayoutRecipe> layout = {};  // of all ranks' slices; absent: no rule describes it
};

class SaveWriter {
 public:
  struct Setup {
    FileSystem* file_system;
    Device* device;       // must outlive this
    std::string folder;   // of the checkpoints
    ManifestFacts facts;  // of the job and this process; key and counters are the save's
    PruneOptions prune;   // generation and running are the grant's
    // Waits for an error to pass; false as soon as `cancelled`, before the time is over.
    std::function<bool(absl::Duration, const std::function<bool()>& cancelled)> wait = SleepUnless;
    // To the coordinator, tagged with the save's own generation. Called from this one's thread.
    std::function<void(Generation, proto::WorkerMessage)> send;
  };

  explicit SaveWriter(Setup setup);
  ~SaveWriter();

  // Memory for a snapshot of `bytes`, now if no save is being written, else when the next one
  // begins. Errors: RESOURCE_EXHAUSTED.
  absl::Status Reserve(size_t bytes);

  // Anything is being written, committed or tidied.
  bool Busy() const;
  // How long its thread has been at the one thing it does; zero: it does nothing.
  absl::Duration AtWorkFor() const;
  // Until no snapshot is being written. Errors: ABORTED: `cancelled`; DEADLINE_EXCEEDED.
  absl::Status AwaitBuffer(absl::Duration timeout, const std::function<bool()>& cancelled);
  // Until nothing at all is under way.
  absl::Status AwaitIdle(absl::Duration timeout, const std::function<bool()>& cancelled);

  // Where the next save's copy goes. REQUIRES: no snapshot is being written.
  // Errors: RESOURCE_EXHAUSTED.
  absl::StatusOr<float*> Snapshot(size_t bytes);
  // Takes the save on. It is told to the coordinator whatever becomes of it.
  void Write(RankSave save);
  // This rank has no part in the save, so that the coordinator need not wait for it. Told after
  // those before it.
  void Fail(const RankSave& save, const absl::Status& why);

  // A CommitSave or DropSave of the coordinator; others are ignored.
  void OnHost(const proto::HostMessage& message);

 private:
  using SaveKey = std::pair<int64_t, int64_t>;  // generation, step
  struct FailedSave {
    RankSave save;
    absl::Status why;
  };
  struct Task {
    std::variant<RankSave, FailedSave, proto::CommitSave, proto::DropSave> what;
    SteadyTime given;
  };

  static bool IsSave(const Task& task) { return std::holds_alternative<RankSave>(task.what); }
  void Add(Task task);
  void Loop();
  // Makes an attempt, and others after 1, 2, 4, 8 and 16 s as long as its error may pass.
  // Not for a save that the coordinator has given up.
  absl::Status Persist(SaveKey save, const std::string& what,
                       const std::function<absl::Status()>& attempt);
  Patience NewPatience(SaveKey save, Patience::Limits limits) const;
  bool IsGivenUp(SaveKey save) const;
  void Do(const RankSave& save, SteadyTime given);
  void Do(const FailedSave& failed, SteadyTime given);
  void Do(const proto::CommitSave& commit, SteadyTime given);
  void Tidy(const proto::CommitSave& commit);
  void Warn(Generation generation, const std::string& text);
  void Do(const proto::DropSave& drop, SteadyTime given);
  void Tell(const RankSave& save, const absl::StatusOr<std::string>& record, absl::Duration took);
  absl::Status Await(const std::function<bool()>& done, absl::Duration timeout,
                     const std::function<bool()>& cancelled);
  bool BufferInUseLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const Setup setup_;
  // Of its thread.
  std::map<SaveKey, std::string> written_;  // shards of saves that may be dropped yet, by name
  std::set<int64_t> attempts_;              // grants that were taken on
  std::set<SaveKey> committed_;             // by this one: under way no more

  mutable Mutex mu_;
  CondVar changed_;
  std::deque<Task> tasks_ ABSL_GUARDED_BY(mu_);
  std::set<SaveKey> given_up_ ABSL_GUARDED_BY(mu_);  // by DropSave messages that wait in tasks_
  bool working_ ABSL_GUARDED_BY(mu_) = false;        // on a task that is in the queue no more
  SteadyTime began_ ABSL_GUARDED_BY(mu_);            // ... since then
  bool writing_ ABSL_GUARDED_BY(mu_) = false;        // ... that is a save
  bool stop_ ABSL_GUARDED_BY(mu_) = false;
  // Of the training thread while no snapshot is being written, of this one's thread meanwhile.
  Buffer buffer_;
  std::thread thread_;  // last: it uses everything above
};

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_ENGINE_SAVE_WRITER_H_
