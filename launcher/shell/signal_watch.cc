#include "launcher/shell/signal_watch.h"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/limits.h"
#include "common/base/logging.h"
#include "common/base/status_macros.h"
#include "common/base/thread.h"

namespace dsrun::launcher {
namespace {

// Where the handler writes the signal's number; -1: no watch.
std::atomic<int> handler_fd{-1};

// Above the numbers of all signals.
constexpr unsigned char kByKey = 0x80;

void Handle(int signal, siginfo_t* info, void*) {
  const int saved = errno;
  const bool by_key = info->si_code == SI_KERNEL && (signal == SIGINT || signal == SIGQUIT);
  const auto byte = static_cast<unsigned char>(by_key ? signal | kByKey : signal);
  const int fd = handler_fd.load();
  if (fd >= 0) (void)!write(fd, &byte, 1);
  errno = saved;
}

}  // namespace

absl::StatusOr<std::unique_ptr<SignalWatch>> SignalWatch::Create(const std::vector<int>& signals,
                                                                 OnSignal on_signal) {
  CHECK_EQ(handler_fd.load(), -1) << "one SignalWatch at a time";
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) {
    const int error = errno;
    return absl::ResourceExhaustedError(
        absl::StrCat("cannot make a pipe for signals: ", strerror(error), BecauseOfLimit(error)));
  }
  fcntl(ends[1], F_SETFL, O_NONBLOCK);  // a handler must not wait
  std::unique_ptr<SignalWatch> watch(new SignalWatch(ends[0], ends[1], std::move(on_signal)));
  for (const int signal : signals) {
    struct sigaction action = {};
    action.sa_sigaction = &Handle;
    action.sa_flags = SA_RESTART | SA_SIGINFO;
    sigaction(signal, &action, &watch->previous_[signal]);
  }
  // Last: it lets in what whoever started this had blocked.
  ASSIGN_OR_RETURN(watch->thread_, StartThread("signals", [raw = watch.get()] { raw->Loop(); }));
  return watch;
}

SignalWatch::SignalWatch(int read_fd, int write_fd, OnSignal on_signal)
    : read_fd_(read_fd), write_fd_(write_fd), on_signal_(std::move(on_signal)) {
  handler_fd = write_fd_;
}

SignalWatch::~SignalWatch() {
  for (const auto& [signal, action] : previous_) sigaction(signal, &action, nullptr);
  handler_fd = -1;
  close(write_fd_);  // the thread reads the end
  if (thread_.joinable()) thread_.join();
  close(read_fd_);
}

void SignalWatch::ActByDefault(int signal) {
  struct sigaction by_default = {};
  by_default.sa_handler = SIG_DFL;
  struct sigaction watched;
  sigaction(signal, &by_default, &watched);
  raise(signal);  // to this thread: it has been acted upon when this returns
  sigaction(signal, &watched, nullptr);
}

void SignalWatch::Loop() {
  // A mask that was inherited would keep back what ActByDefault raises here.
  sigset_t watched;
  sigemptyset(&watched);
  for (const auto& [signal, action] : previous_) sigaddset(&watched, signal);
  pthread_sigmask(SIG_UNBLOCK, &watched, nullptr);
  unsigned char byte;
  while (true) {
    const ssize_t got = read(read_fd_, &byte, 1);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return;
    on_signal_(byte & ~kByKey, (byte & kByKey) != 0);
  }
}

}  // namespace dsrun::launcher
