// SignalWatch: turns signals into calls. While one exists, each of its signals calls `on_signal`
// from a thread of the watch's own (not from the signal handler), once per delivery; the previous
// actions come back with its destruction. Handlers, not a blocked mask: children and the threads of
// libraries are not affected. The watch's own thread takes its signals even where the mask that
// this process inherited blocks them. At most one watch at a time.
//
// The call tells whether a person pressed a key (Ctrl-C, Ctrl-\): the kernel sent it then, and not
// a process.

#ifndef DSRUN_LAUNCHER_SHELL_SIGNAL_WATCH_H_
#define DSRUN_LAUNCHER_SHELL_SIGNAL_WATCH_H_

#include <signal.h>

#include <functional>
#include <map>
#include <memory>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"

namespace dsrun::launcher {

class SignalWatch {
 public:
  using OnSignal = std::function<void(int signal, bool by_key)>;

  // Errors: RESOURCE_EXHAUSTED: no descriptor or thread left.
  static absl::StatusOr<std::unique_ptr<SignalWatch>> Create(const std::vector<int>& signals,
                                                             OnSignal on_signal);
  ~SignalWatch();

  // What the kernel does about `signal` where nobody watches it, now: of TSTP the whole process is
  // stopped here and this returns when it is continued, or nothing happens where nobody could
  // continue it (an orphaned process group). REQUIRES: called by `on_signal`.
  static void ActByDefault(int signal);

 private:
  SignalWatch(int read_fd, int write_fd, OnSignal on_signal);
  void Loop();

  const int read_fd_;
  const int write_fd_;
  const OnSignal on_signal_;
  std::map<int, struct sigaction> previous_;
  std::thread thread_;
};

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_SHELL_SIGNAL_WATCH_H_
