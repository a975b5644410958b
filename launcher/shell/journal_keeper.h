// JournalKeeper: keeps the journal (journal.h) of a job that runs, whatever its disk does.
//
//   ASSIGN_OR_RETURN(auto keeper, JournalKeeper::Create(path, config, {}));
//   keeper->Append(now, wall, event, coordinator);              // memory only
//   absl::Status durable = keeper->Commit(/*urgent=*/false);    // now it is safe, or the bound is
//   over
//
// A thread of its own writes, so a disk that does not answer holds up nobody for longer than
// Options::longest_wait. What cannot be written is not given up:
//
//   whole --a write fails, or takes longer than longest_wait--> behind --all is written--> whole
//
// While it is behind, everything is kept in memory and tried again after first_retry, then after
// twice that, up to last_retry, and once more at the end. Beyond most_pending_bytes what waits is
// dropped for a snapshot of the core, which says the same in less; the records that were dropped
// are a gap of the journal.
//
// A journal that is behind must not be taken for the truth: it is a correct prefix, and its job
// went on. So a mark stands beside it, before anybody hears that the write has failed. The mark is
// a file that was made at the start, and only gets its name: that needs no room on a full disk.
// Where even that fails, it is made anew, and else the journal itself loses its name. If the
// process dies while the disk hangs, nothing may have been marked: whoever goes on from a journal
// asks the agents for the newest generation that they have seen, and believes them
// (docs/failure_model.md).
//
// One keeper a journal, which a lock sees to (path_lock.h). Append and Commit are called by one
// thread.

#ifndef DSRUN_LAUNCHER_SHELL_JOURNAL_KEEPER_H_
#define DSRUN_LAUNCHER_SHELL_JOURNAL_KEEPER_H_

#include <cstddef>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/leavable_thread.h"
#include "launcher/coordinator/coordinator.h"
#include "launcher/coordinator/events.h"
#include "launcher/shell/journal.h"

namespace dsrun::launcher {

// How long a decision waits for the disk before it is acted upon all the same. Heartbeats wait
// meanwhile, so it is well below the job's lease, however short that is; a healthy disk takes
// milliseconds.
absl::Duration LongestWait(absl::Duration lease);

class JournalKeeper {
 public:
  struct Options {
    JournalOptions journal = {};
    // See LongestWait.
    absl::Duration longest_wait = absl::Seconds(1);
    absl::Duration first_retry = absl::Milliseconds(100);
    absl::Duration last_retry = absl::Seconds(5);
    // Hours of a job of a thousand ranks.
    size_t most_pending_bytes = 64 << 20;
    // For a last try at the end, and for a write that is under way.
    absl::Duration end_within = absl::Seconds(2);
  };

  // Errors: as Journal::Create; ALREADY_EXISTS also when another process keeps it.
  static absl::StatusOr<std::unique_ptr<JournalKeeper>> Create(const std::string& path,
                                                               const CoordinatorConfig& config,
                                                               const Options& options);
  // Commits what is left, as well as it can within end_within; leaves the mark if it cannot.
  ~JournalKeeper();
  JournalKeeper(const JournalKeeper&) = delete;
  JournalKeeper& operator=(const JournalKeeper&) = delete;

  // As JournalRows::Next has it.
  void Append(absl::Duration now, absl::Time wall, const Event& event, const Coordinator& core);

  // Waits until all that was appended is durable, longest_wait at most; OK: it is. While the
  // journal is behind it returns at once, with the reason; if `urgent`, it has one more try made
  // and waits for that. The reason: RESOURCE_EXHAUSTED: the disk is full; DEADLINE_EXCEEDED: it
  // does not answer; else UNAVAILABLE.
  absl::Status Commit(bool urgent);

  // Of a job that was not started: ends, and removes what there is at `path` and beside it.
  static void TakeBack(std::unique_ptr<JournalKeeper> keeper);

 private:
  struct Shared;
  explicit JournalKeeper(std::shared_ptr<Shared> shared);
  static void Write(Shared& shared);

  // Outlives this object when the disk hangs: the thread still has it then.
  std::shared_ptr<Shared> shared_;
  JournalRows rows_;
  LeavableThread writer_;
};

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_SHELL_JOURNAL_KEEPER_H_
