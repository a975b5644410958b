#include "launcher/shell/marker_keeper.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/base/clock.h"
#include "common/base/counted.h"
#include "common/base/file_system.h"
#include "common/base/mutex.h"
#include "common/base/status_macros.h"

namespace dsrun::launcher {
namespace {

// Errors name `marker`: who hears the same one again and again is told once.
absl::Status WriteNew(int folder, const std::string& name, const std::string& marker,
                      const std::string& content) {
  const int file = openat(folder, name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (file < 0) return ErrnoStatus(errno, "put back the marker", marker);
  const ssize_t written = write(file, content.data(), content.size());
  const int error = written < 0 ? errno : ENOSPC;
  const bool whole = written == static_cast<ssize_t>(content.size());
  if (close(file) == 0 && whole) return absl::OkStatus();
  return ErrnoStatus(error, "write the marker", marker);
}

// Under another name first: an agent that is about to read it sees all of it, or nothing.
absl::Status PutBack(int folder, const std::string& name, const std::string& content) {
  const std::string temporary = absl::StrCat(name, ".", RandomDigits());
  absl::Status done = WriteNew(folder, temporary, name, content);
  if (done.ok() && renameat(folder, temporary.c_str(), folder, name.c_str()) != 0) {
    done = ErrnoStatus(errno, "put back the marker", name);
  }
  if (!done.ok()) unlinkat(folder, temporary.c_str(), 0);
  return done;
}

}  // namespace

MarkerLook LookForMarker(int folder, const std::string& name, const std::string& content) {
  const int own = folder < 0 ? -1 : fcntl(folder, F_DUPFD_CLOEXEC, 0);
  if (own < 0) return {};
  const std::shared_ptr<const int> held(new int(own), [](const int* fd) {
    close(*fd);
    delete fd;
  });
  return [held, name, content]() -> absl::StatusOr<bool> {
    if (utimensat(*held, name.c_str(), nullptr, AT_SYMLINK_NOFOLLOW) == 0) return false;
    // A file system may keep no times, or give them to the owner alone: that it is there is enough.
    struct stat info;
    if (fstatat(*held, name.c_str(), &info, AT_SYMLINK_NOFOLLOW) == 0) return false;
    if (errno != ENOENT) return ErrnoStatus(errno, "look for the marker", name);
    RETURN_IF_ERROR(PutBack(*held, name, content));
    return true;
  };
}

struct MarkerKeeper::Shared {
  Shared(MarkerLook the_look, std::function<void(const std::string&)> to_say, const Options& given)
      : look(std::move(the_look)), say(std::move(to_say)), options(given) {}

  void Run();
  void Tell(const absl::StatusOr<bool>& found) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu);

  const MarkerLook look;
  const std::function<void(const std::string&)> say;
  const Options options;

  Mutex mu;
  CondVar changed;
  bool closing ABSL_GUARDED_BY(mu) = false;
  int64_t put_back ABSL_GUARDED_BY(mu) = 0;
  std::string failing ABSL_GUARDED_BY(mu);
};

MarkerKeeper::MarkerKeeper(MarkerLook look, std::function<void(const std::string&)> say,
                           Options options)
    : shared_(std::make_shared<Shared>(std::move(look), std::move(say), options)) {
  if (!shared_->look) return;
  thread_ =
      LeavableThread::StartOrEnd("the save folder's marker", [shared = shared_] { shared->Run(); });
}

MarkerKeeper::~MarkerKeeper() {
  {
    MutexLock lock(shared_->mu);
    shared_->closing = true;
    shared_->changed.NotifyAll();
  }
  thread_.JoinOrLeave(shared_->options.patience);
}

void MarkerKeeper::Shared::Run() {
  while (true) {
    const absl::StatusOr<bool> found = look();
    const SteadyTime next = Clock::Real().SteadyNow() + options.every;
    MutexLock lock(mu);
    if (!closing) Tell(found);
    while (!closing && changed.WaitUntil(mu, next)) continue;
    if (closing) return;
  }
}

void MarkerKeeper::Shared::Tell(const absl::StatusOr<bool>& found) {
  if (!found.ok()) {
    std::string why(found.status().message());
    if (why == failing) return;
    failing = std::move(why);
    return say(absl::StrCat("warning: the marker of the save folder is not kept: ", failing,
                            "; without it every save fails"));
  }
  failing.clear();
  if (!*found) return;
  ++put_back;
  if ((put_back & (put_back - 1)) != 0) return;
  say(absl::StrCat(
      "warning: somebody has removed the marker of the save folder (a file that saves ",
      "look for, .dsrun-probe-*), and it was put back (", Counted(put_back, "time"),
      " so far); leave it out of what clears up there"));
}

}  // namespace dsrun::launcher
