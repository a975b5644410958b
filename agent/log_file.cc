#include "agent/log_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "common/base/limits.h"
#include "common/base/mutex.h"
#include "common/base/status_macros.h"
#include "common/base/thread.h"

namespace dsrun::agent {
namespace {

// Of one write(2): a disk that takes this little in no time at all is one that does not answer.
constexpr size_t kWriteBytes = 64 * 1024;
// A call that took so long may have been noticed.
constexpr absl::Duration kLong = absl::Seconds(1);

absl::Status Failed(const std::string& what, int error) {
  return absl::ResourceExhaustedError(
      absl::StrCat(what, ": ", strerror(error), BecauseOfLimit(error)));
}

absl::StatusOr<int> OpenForAppending(const std::string& path) {
  std::error_code ignored;
  std::filesystem::create_directories(std::filesystem::path(path).parent_path(), ignored);
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (fd < 0) return Failed(absl::StrCat("cannot open the log ", path), errno);
  return fd;
}

// How far the opening has come.
enum class Phase { kOpening, kOpen, kNotOpened };
// Whom a failure is told.
enum class Hearer {
  kOpener,   // whoever waits for the file to open
  kAnybody,  // who did not wait any longer, or has a file that was open: TakeFailure says it
  kNobody,   // told already
};

}  // namespace

struct LogFile::Shared {
  Shared(std::string file_path, std::function<void()> change, Clock* the_clock)
      : path(std::move(file_path)), on_change(std::move(change)), clock(the_clock) {}

  // Constant after construction.
  const std::string path;
  const std::function<void()> on_change;
  Clock* const clock;

  mutable Mutex mu;
  mutable CondVar changed;
  std::string waiting ABSL_GUARDED_BY(mu);  // not given to the thread yet
  size_t writing ABSL_GUARDED_BY(mu) = 0;   // bytes that the thread has and the disk has not
  Phase phase ABSL_GUARDED_BY(mu) = Phase::kOpening;
  bool closing ABSL_GUARDED_BY(mu) = false;
  bool done ABSL_GUARDED_BY(mu) = false;
  absl::Status failure ABSL_GUARDED_BY(mu);
  mutable Hearer hearer ABSL_GUARDED_BY(mu) = Hearer::kOpener;
  SteadyTime busy_since ABSL_GUARDED_BY(mu) = absl::InfiniteDuration();

  size_t UnwrittenLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) {
    return waiting.size() + writing;
  }
  bool HasRoomLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) {
    return UnwrittenLocked() < kRoomBytes;
  }
  void BeginCall() {
    MutexLock lock(mu);
    busy_since = clock->SteadyNow();
  }
  void EndCall() {
    bool was_long = false;
    {
      MutexLock lock(mu);
      was_long = clock->SteadyNow() - busy_since >= kLong;
      busy_since = absl::InfiniteDuration();
    }
    if (was_long) on_change();
  }
  void GiveUp(absl::Status why) {
    {
      MutexLock lock(mu);
      failure = std::move(why);
      waiting.clear();
      writing = 0;
      if (phase == Phase::kOpening) phase = Phase::kNotOpened;
      changed.NotifyAll();
    }
    on_change();
  }
};

absl::StatusOr<std::shared_ptr<LogFile>> LogFile::Open(std::string path,
                                                       std::function<void()> on_change,
                                                       Clock* clock) {
  auto shared = std::make_shared<Shared>(std::move(path), std::move(on_change), clock);
  shared->BeginCall();
  std::shared_ptr<LogFile> file(new LogFile(shared));
  ASSIGN_OR_RETURN(file->thread_, StartThread("a rank's log", [shared] { Run(shared); }));
  return file;
}

LogFile::LogFile(std::shared_ptr<Shared> shared) : shared_(std::move(shared)) {}

LogFile::~LogFile() {
  Close();
  if (!thread_.joinable()) return;
  if (done()) {
    thread_.join();
  } else {
    thread_.detach();
  }
}

void LogFile::Run(const std::shared_ptr<Shared>& shared) {
  const absl::StatusOr<int> fd = OpenForAppending(shared->path);
  shared->EndCall();
  if (!fd.ok()) {
    shared->GiveUp(fd.status());
  } else {
    {
      MutexLock lock(shared->mu);
      shared->phase = Phase::kOpen;
      shared->hearer = Hearer::kAnybody;
      shared->changed.NotifyAll();
    }
    WriteAll(*shared, *fd);
    shared->BeginCall();
    close(*fd);
    shared->EndCall();
  }
  {
    MutexLock lock(shared->mu);
    shared->done = true;
    shared->changed.NotifyAll();
  }
  shared->on_change();
}

// Until it is closed and all is written, or it is given up.
void LogFile::WriteAll(Shared& shared, int fd) {
  while (true) {
    std::string bytes;
    {
      MutexLock lock(shared.mu);
      while (shared.waiting.empty() && !shared.closing) shared.changed.Wait(shared.mu);
      if (shared.waiting.empty()) return;
      bytes.swap(shared.waiting);
      shared.writing = bytes.size();
    }
    std::string_view rest = bytes;
    while (!rest.empty()) {
      shared.BeginCall();
      const ssize_t written = write(fd, rest.data(), std::min(rest.size(), kWriteBytes));
      const int error = errno;
      shared.EndCall();
      if (written < 0 && error == EINTR) continue;
      if (written <= 0) {
        return shared.GiveUp(Failed(absl::StrCat("cannot write the log ", shared.path), error));
      }
      rest.remove_prefix(written);
      bool room_again = false;
      {
        MutexLock lock(shared.mu);
        const bool had_room = shared.HasRoomLocked();
        shared.writing = rest.size();
        room_again = !had_room && shared.HasRoomLocked();
        shared.changed.NotifyAll();
      }
      if (room_again) shared.on_change();
    }
  }
}

absl::Status LogFile::AwaitOpen(absl::Duration limit) const {
  const SteadyTime deadline = Clock::Real().SteadyNow() + limit;
  MutexLock lock(shared_->mu);
  while (shared_->phase == Phase::kOpening) {
    const absl::Duration left = deadline - Clock::Real().SteadyNow();
    if (left <= absl::ZeroDuration()) {
      shared_->hearer = Hearer::kAnybody;
      return absl::DeadlineExceededError(absl::StrCat("the log ", shared_->path,
                                                      " is not open yet: its disk or file server "
                                                      "does not answer"));
    }
    shared_->changed.WaitFor(shared_->mu, left);
  }
  if (shared_->phase == Phase::kOpen) return absl::OkStatus();
  shared_->hearer = Hearer::kNobody;
  return shared_->failure;
}

bool LogFile::HasRoom() const {
  MutexLock lock(shared_->mu);
  return shared_->HasRoomLocked();
}

void LogFile::Append(std::string_view bytes) {
  MutexLock lock(shared_->mu);
  if (!shared_->failure.ok() || shared_->closing) return;
  shared_->waiting.append(bytes);
  shared_->changed.NotifyAll();
}

void LogFile::Close() {
  MutexLock lock(shared_->mu);
  shared_->closing = true;
  shared_->changed.NotifyAll();
}

size_t LogFile::AwaitWritten(absl::Duration limit) const {
  const SteadyTime deadline = Clock::Real().SteadyNow() + limit;
  MutexLock lock(shared_->mu);
  while (shared_->closing ? !shared_->done : shared_->UnwrittenLocked() > 0) {
    const absl::Duration left = deadline - Clock::Real().SteadyNow();
    if (left <= absl::ZeroDuration()) break;
    shared_->changed.WaitFor(shared_->mu, left);
  }
  return shared_->UnwrittenLocked();
}

bool LogFile::done() const {
  MutexLock lock(shared_->mu);
  return shared_->done;
}

SteadyTime LogFile::busy_since() const {
  MutexLock lock(shared_->mu);
  return shared_->busy_since;
}

absl::Status LogFile::TakeFailure() {
  MutexLock lock(shared_->mu);
  if (shared_->failure.ok() || shared_->hearer != Hearer::kAnybody) return absl::OkStatus();
  shared_->hearer = Hearer::kNobody;
  return shared_->failure;
}

const std::string& LogFile::path() const { return shared_->path; }

}  // namespace dsrun::agent
