// SaveLedger: which saves of a train job are under way, and who may commit one. Pure.
//
// Ranks take their snapshots together and write their shards each by itself, behind the next steps
// and behind the end of their generation. The ledger collects what they report; nobody commits
// without a grant from here.
//
//   writing --all records are here, a worker can be asked--> granted --CommitDone--> committed
//      |                                                      |  ^
//      |                                                      +--+ its process has ended: granted
//      to |                                                      |    another, with the next
//      attempt
//      +--a part failed, or will never come; superseded       +--it could not be committed
//      v                                                      v
//   dropped: its writers remove their shards                dropped
//
// What counts:
//   - A save of any generation, as long as no checkpoint at its step or beyond is committed by its
//     generation or a later one. An older generation's save is as good as a newer one's: same bits.
//   - A part will never come when the process that took that snapshot has ended, or has reported a
//     later save: a process reports in the order of its saves, at most one of which it is writing.
//     Nobody waits for it, and nothing of a recovery waits for any save.
//   - An attempt number is given out once in the life of the job and goes into the manifest's name:
//     a committer that was stopped, overtaken and woken up replaces nothing.
//   - While ranks of the generation in force load, the newest checkpoint is spared by the prunes of
//     commits that come late.
//   - The newest checkpoint goes back to a lower step only by a generation that began after the
//     higher one was committed: then it did without it.
//   - A commit is granted kMostAttempts times at most, and not at all when the records are more
//   than
//     one message carries: what ends its committers must not end all of them.
//   - Shards are removed only where no manifest can name them: the save was never granted, or its
//     only committer says that no manifest is left of it. Otherwise they stay for a later prune.
//
// Messages of ranks carry their save's own generation, whatever has begun meanwhile; agent and
// coordinator let them pass their fences. What they claim is checked against the ranks that their
// generation had, so a process can only report its own part, once.
//
// Every rank of a job reports every save and joins every generation, so an event costs no look at
// all of them: it looks at the saves under way, of which there are a few, and at the places that it
// touches. All places are looked at when a plan goes out, when a save is begun, and when one is
// granted.
//
// Copyable; not thread-safe.

#ifndef DSRUN_LAUNCHER_COORDINATOR_SAVE_LEDGER_H_
#define DSRUN_LAUNCHER_COORDINATOR_SAVE_LEDGER_H_

#include <compare>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/ids.h"
#include "proto/snapshot.pb.h"
#include "proto/worker.pb.h"

namespace dsrun::launcher {

class SaveLedger {
 public:
  // In the order in which one process makes them.
  struct Id {
    int64_t generation = 0;
    int64_t step = 0;
    friend auto operator<=>(const Id&, const Id&) = default;
  };

  // ---- What is to be done, in order

  // `to` may commit. It is ready: its process has joined a generation.
  struct Granted {
    WorkerId to;
    proto::CommitSave commit;
  };
  // Will not be committed. `remove`: all workers are told, and remove what they wrote of it.
  // `failed`: something went wrong that the operator must hear of. No reason: told already.
  struct Dropped {
    Id id;
    std::string reason;
    bool failed = false;
    bool remove = true;
    int code = 0;  // absl::StatusCode of what went wrong
  };
  struct Committed {
    Id id;
    std::string manifest;
    double seconds = 0;  // from the snapshot of the slowest rank to the manifest
    bool newest = true;  // of the job
  };
  using Effect = std::variant<Granted, Dropped, Committed>;
  using Effects = std::vector<Effect>;
  static constexpr int kMostAttempts = 5;

  // ---- Events

  // A plan went out, to `ranks`, which are in order of their places. `survivors`: places whose
  // process had joined an older generation and lives. Whoever is not in `ranks` is ended by its
  // agent.
  Effects Began(Generation generation, const std::vector<WorkerId>& ranks,
                const std::set<WorkerId>& survivors);
  Effects Joined(WorkerId worker);
  // The process at `place` ended, in `generation` as its agent saw it. If a newer one has begun, a
  // new process takes the place.
  Effects ProcessEnded(WorkerId place, Generation generation);
  Effects NodeLost(NodeId node);
  Effects Written(WorkerId from, const proto::ShardWritten& written);
  // With a manifest and no error: committed, whoever was granted it. With an error: it failed; a
  // manifest's name beside the error says that such a file may be there all the same.
  Effects Done(WorkerId from, const proto::CommitDone& done);

  // Some save is not committed yet, and somebody lives who can do it.
  bool MayCommit() const;
  // Of the newest commit; 0 and 0: none yet.
  Id newest() const { return newest_; }
  // OK, or the sentence of what does not hold.
  std::string CheckInvariants() const;
  std::string ToString() const;

  // All of it.
  proto::SaveLedgerState Snapshot() const;
  // DATA_LOSS: contradicts itself, or names a node that is none of `nodes`.
  static absl::StatusOr<SaveLedger> Restore(size_t nodes, const proto::SaveLedgerState& snapshot);

 private:
  // A process that lives at a place, as far as is known.
  struct Process {
    int64_t born = 0;    // the first generation it can have been in
    Id reported;         // its newest save
    int64_t joined = 0;  // the newest generation that it has joined; 0: none yet
  };
  struct Save {
    int64_t samples = 0;
    double seconds = 0;
    std::map<int, std::string> records;  // by rank
    int attempts = 0;
    // The grant in force; 0: none.
    int64_t attempt = 0;
    WorkerId committer;
    int64_t committer_born = 0;
  };

  bool Superseded(Id id) const;
  bool Complete(Id id, const Save& save) const;
  // The first rank at one of `places` whose part is missing and will never come; -1: none.
  int LostRank(Id id, const Save& save, const std::vector<WorkerId>& places) const;
  bool IsLost(Id id, const Save& save, size_t rank) const;
  std::vector<WorkerId> Ready() const;  // in the newest generation, by rank
  void Drop(Id id, Dropped dropped, Effects& effects);
  proto::CommitSave Grant(Id id, const Save& save) const;
  void GrantOrDrop(Id id, WorkerId to, Effects& effects);
  // What follows from an event. `touched`: whose processes are not what they were. `begun`: a save
  // that was not there before.
  void Settle(const std::vector<WorkerId>& touched, std::optional<Id> begun, Effects& effects);
  // The same after anything.
  void SettleAll(Effects& effects);
  void DropAndGrant(std::vector<std::pair<Id, Dropped>> drops, Effects& effects);
  std::optional<Dropped> WhyDropped(Id id, const Save& save, int lost_rank) const;
  void Forget();

  // Every change of processes_ goes through these, which keep the counts.
  void Put(WorkerId place, const Process& process);
  void Remove(WorkerId place);
  void Count(const Process& process, int64_t by);

  std::map<WorkerId, Process> processes_;
  std::map<int64_t, std::vector<WorkerId>> ranks_;  // by generation; those that may still report
  std::map<Id, Save> saves_;
  std::set<Id> dropped_;  // the newest ones: late parts of them are removed, too
  int64_t last_attempt_ = 0;
  Id newest_;
  int64_t newest_seen_by_ = 0;  // the generation in force when it was committed

  // Follow from processes_.
  int64_t ready_count_ = 0;  // those that have joined a generation
  std::map<int64_t, int64_t>
      needs_;  // how many may still report a save of what generation at least
};

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_COORDINATOR_SAVE_LEDGER_H_
