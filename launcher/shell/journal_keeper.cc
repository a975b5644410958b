#include "launcher/shell/journal_keeper.h"

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "common/base/clock.h"
#include "common/base/file_system.h"
#include "common/base/logging.h"
#include "common/base/mutex.h"
#include "common/base/status_macros.h"
#include "common/base/thread.h"
#include "launcher/shell/behind_mark.h"
#include "launcher/shell/path_lock.h"

namespace dsrun::launcher {
namespace {

std::string LockOf(const std::string& path) { return path + ".lock"; }

SteadyTime Now() { return Clock::Real().SteadyNow(); }

}  // namespace

absl::Duration LongestWait(absl::Duration lease) { return std::min(absl::Seconds(1), lease / 4); }

struct JournalKeeper::Shared {
  Shared(std::string journal_path, const Options& with)
      : path(std::move(journal_path)), options(with), mark(FileSystem::Real(), path) {}

  bool IsBehind() {
    MutexLock lock(mu);
    return !trouble.ok();
  }
  void FallBehind(const absl::Status& why) {
    MutexLock lock(mu);
    trouble = why;
  }
  absl::Status FollowMark() {
    return mark.Follow([this] { return IsBehind(); });
  }

  const std::string path;
  const Options options;
  BehindMark mark;
  PathLock lock;
  std::unique_ptr<Journal> journal;  // the writer's, once it runs

  Mutex mu;
  CondVar changed;
  std::vector<JournalRow> pending ABSL_GUARDED_BY(mu);
  size_t pending_bytes ABSL_GUARDED_BY(mu) = 0;   // with those that are being written
  size_t stand_in_bytes ABSL_GUARDED_BY(mu) = 0;  // of the newest snapshot for what was dropped
  int64_t appended ABSL_GUARDED_BY(mu) = 0;       // the newest row's number
  int64_t durable ABSL_GUARDED_BY(mu) = 0;
  int64_t tries ABSL_GUARDED_BY(mu) = 0;  // that have ended
  int64_t asked ABSL_GUARDED_BY(mu) = 0;  // the number of the last one that is urgent
  bool trying ABSL_GUARDED_BY(mu) = false;
  absl::Status trouble ABSL_GUARDED_BY(mu);        // why it is behind; OK: it is not
  bool dropped ABSL_GUARDED_BY(mu) = false;        // what is being written, if it fails
  SteadyTime retry_at ABSL_GUARDED_BY(mu);         // not before
  absl::Duration retry_after ABSL_GUARDED_BY(mu);  // zero: the last try went well
  bool stop ABSL_GUARDED_BY(mu) = false;
};

absl::StatusOr<std::unique_ptr<JournalKeeper>> JournalKeeper::Create(
    const std::string& path, const CoordinatorConfig& config, const Options& options) {
  auto shared = std::make_shared<Shared>(path, options);
  ASSIGN_OR_RETURN(shared->lock, PathLock::Take(LockOf(path), "journal"));
  LOG_IF(WARNING, !shared->lock.missing().empty()) << shared->lock.missing();
  ASSIGN_OR_RETURN(shared->journal, Journal::Create(path, config, options.journal));
  // From here on the file is ours, and goes with whatever fails.
  std::unique_ptr<JournalKeeper> keeper(new JournalKeeper(shared));
  absl::Status ready = shared->mark.Prepare();
  if (ready.ok()) {
    absl::StatusOr<LeavableThread> writer =
        LeavableThread::Start("the journal", [shared] { Write(*shared); });
    if (writer.ok()) {
      keeper->writer_ = *std::move(writer);
      return keeper;
    }
    ready = writer.status();
  }
  TakeBack(std::move(keeper));
  return Annotate(ready, "journal");
}

JournalKeeper::JournalKeeper(std::shared_ptr<Shared> shared)
    : shared_(std::move(shared)), rows_(shared_->options.journal) {}

JournalKeeper::~JournalKeeper() {
  if (!writer_.joinable()) return;
  {
    MutexLock lock(shared_->mu);
    shared_->stop = true;
    shared_->changed.NotifyAll();
  }
  if (!writer_.JoinOrLeave(shared_->options.end_within)) {
    LOG(WARNING) << "the disk of journal " << shared_->path
                 << " does not answer; what happened last is not in it";
    return;
  }
  shared_->journal.reset();
  if (!shared_->IsBehind()) shared_->mark.Remove();
}

void JournalKeeper::TakeBack(std::unique_ptr<JournalKeeper> keeper) {
  const std::string path = keeper->shared_->path;
  keeper->shared_->mark.Remove();
  keeper.reset();
  const absl::Status removed = FileSystem::Real().RemoveFile(path);
  LOG_IF(WARNING, !removed.ok()) << "the run folder cannot be used again: " << removed;
  FileSystem::Real().RemoveFile(LockOf(path)).IgnoreError();
}

void JournalKeeper::Append(absl::Duration now, absl::Time wall, const Event& event,
                           const Coordinator& core) {
  bool too_much = false;
  {
    MutexLock lock(shared_->mu);
    too_much =
        shared_->pending_bytes > shared_->options.most_pending_bytes + shared_->stand_in_bytes;
  }
  JournalRow row = rows_.Next(now, wall, event, core, /*with_snapshot=*/too_much);
  MutexLock lock(shared_->mu);
  if (too_much) {
    shared_->pending.clear();
    shared_->pending_bytes = 0;
    shared_->stand_in_bytes = row.bytes();
    shared_->dropped = true;
  }
  shared_->pending_bytes += row.bytes();
  shared_->appended = row.seq;
  shared_->pending.push_back(std::move(row));
}

absl::Status JournalKeeper::Commit(bool urgent) {
  Shared& shared = *shared_;
  {
    MutexLock lock(shared.mu);
    const int64_t wanted = shared.appended;
    // One that is under way may have begun without what was appended last.
    const int64_t answer = shared.tries + (urgent && shared.trying ? 2 : 1);
    const bool waits = shared.trouble.ok() || urgent;
    if (urgent) {
      shared.asked = answer;
      shared.retry_at = Now();
    }
    shared.changed.NotifyAll();
    const SteadyTime by = Now() + shared.options.longest_wait;
    while (waits && shared.durable < wanted && Now() < by) {
      // A failed try is an answer; while it is behind, that of the try which was asked for.
      if (!shared.trouble.ok() && shared.tries >= answer) return shared.trouble;
      shared.changed.WaitUntil(shared.mu, by);
    }
    if (!shared.trouble.ok()) return shared.trouble;
    if (shared.durable >= wanted) return absl::OkStatus();
    shared.trouble = absl::DeadlineExceededError(
        absl::StrCat("the disk of journal ", shared.path, " has not answered for ",
                     absl::FormatDuration(shared.options.longest_wait)));
  }
  // The same disk has to take the mark, and this thread does not wait for it.
  absl::StatusOr<std::thread> marker = StartThread("the mark of a journal", [kept = shared_] {
    const absl::Status marked = kept->FollowMark();
    LOG_IF(ERROR, !marked.ok()) << "journal " << kept->path << ": " << marked;
  });
  if (marker.ok()) marker->detach();
  MutexLock lock(shared.mu);
  return shared.trouble;  // OK: it has answered just now
}

// The writer's thread.
void JournalKeeper::Write(Shared& shared) {
  while (true) {
    std::vector<JournalRow> rows;
    bool is_last = false;
    {
      MutexLock lock(shared.mu);
      while (!shared.stop && (shared.pending.empty() || Now() < shared.retry_at)) {
        if (shared.pending.empty()) {
          shared.changed.Wait(shared.mu);
        } else {
          shared.changed.WaitUntil(shared.mu, shared.retry_at);
        }
      }
      if (shared.pending.empty()) return;
      rows.swap(shared.pending);
      shared.dropped = false;
      shared.trying = true;
      is_last = shared.stop;  // one that began before is not the try that the end is owed
    }
    absl::Status written = shared.journal->Write(rows);
    if (!written.ok()) {
      // Marked before anybody is told, so before anything leaves that is not written down.
      shared.FallBehind(written);
      if (const absl::Status marked = shared.FollowMark(); !marked.ok()) {
        shared.FallBehind(absl::Status(
            written.code(),
            absl::StrCat(std::string(written.message()), "; ", std::string(marked.message()))));
      }
    }
    bool is_whole_again = false;
    {
      MutexLock lock(shared.mu);
      ++shared.tries;
      shared.trying = false;
      if (written.ok()) {
        shared.durable = rows.back().seq;
        shared.retry_after = absl::ZeroDuration();
        shared.retry_at = SteadyTime();
        if (shared.pending.empty()) {
          is_whole_again = !std::exchange(shared.trouble, absl::OkStatus()).ok();
        }
      } else if (!shared.dropped) {
        rows.insert(rows.end(), std::make_move_iterator(shared.pending.begin()),
                    std::make_move_iterator(shared.pending.end()));
        shared.pending = std::move(rows);
      }
      shared.pending_bytes = 0;
      for (const JournalRow& row : shared.pending) shared.pending_bytes += row.bytes();
      if (!written.ok()) {
        shared.retry_after = std::clamp(2 * shared.retry_after, shared.options.first_retry,
                                        shared.options.last_retry);
        const bool is_next_asked_for = shared.tries < shared.asked;
        shared.retry_at = Now() + (is_next_asked_for ? absl::ZeroDuration() : shared.retry_after);
      }
      shared.changed.NotifyAll();
      if (!written.ok() && is_last) return;
    }
    if (is_whole_again) shared.FollowMark().IgnoreError();  // taking it away cannot fail badly
  }
}

}  // namespace dsrun::launcher
