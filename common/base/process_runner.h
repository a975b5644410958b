// ProcessRunner: the one door to child processes.
//
// The process contract, complete:
//   start    by execve, never through a shell: argv and environment arrive byte for byte. Standard
//            input is /dev/null, standard output and error are the given descriptors, `fds` are
//            mapped to their chosen numbers, everything else is closed. Signals have their default
//            action and are unblocked. The child leads a session and process group of its own.
//            exec may wait for a file server, for as long as that takes; the thread that called
//            Spawn waits with it, and nobody else.
//   end      is told once per process through `on_end`, which the runner calls from a thread of its
//            own, holding no lock. It may come before Spawn has returned.
//   group    what is left of the process's group when its leader ends is killed before the end is
//            told. (Processes that made a session of their own are beyond the group:
//            process_tree.h.)
//   stop     is a ladder: TERM to the groups, one common grace, KILL. It runs in parallel for all.
//   reaping  is the runner's: no zombie stays behind, nobody else waits for these processes.
//   destroy  kills every group that is left and reaps it, telling the ends first. What does not end
//            within a few seconds of SIGKILL (a system call that does not come back, a debugger
//            that does not let go) is named in the log with what it waits in, and left; its end is
//            not told. A Spawn that has not come back by then fails, whenever it does.
//
// Thread-safe.

#ifndef DSRUN_COMMON_BASE_PROCESS_RUNNER_H_
#define DSRUN_COMMON_BASE_PROCESS_RUNNER_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace dsrun {

// A descriptor of ours and the number under which the child finds it.
struct InheritedFd {
  int from = -1;
  int to = -1;
};

// Whom a process runs as. Default: as we are.
struct ProcessUser {
  bool change = false;
  uint32_t uid = 0;
  uint32_t gid = 0;
  std::vector<uint32_t> groups;
};

struct ProcessSpec {
  std::string executable;                // path, absolute
  std::vector<std::string> argv;         // argv[0] included; any byte but NUL
  std::vector<std::string> environment;  // complete: "NAME=value"; any byte but NUL
  std::string working_dir;               // empty: ours
  int stdout_fd = -1;                    // -1: /dev/null. Borrowed for the call
  int stderr_fd = -1;
  std::vector<InheritedFd> fds;  // beyond 0, 1, 2. Borrowed for the call
  ProcessUser user;              // from process_user.h
  // Asked when exec is through, which may have taken long: false: the process is killed, and
  // nothing is told of it. Empty: true. Called from any thread, holding locks: must not block.
  std::function<bool()> still_wanted;
};

struct ProcessEnd {
  int exit_code = 0;    // when it exited
  int term_signal = 0;  // when a signal ended it, else 0
  bool core_dumped = false;
  friend bool operator==(const ProcessEnd&, const ProcessEnd&) = default;
};

class ProcessRunner {
 public:
  using OnEnd = std::function<void(int32_t pid, const ProcessEnd&)>;

  virtual ~ProcessRunner() = default;

  // Starts a process and returns its pid. ENSURES: on success `on_end` is called exactly once
  // (but see destroy); on an error never, and nothing was started.
  // Errors: NOT_FOUND: no such executable or working directory. PERMISSION_DENIED: may not be
  // executed, or the user may not be changed. INVALID_ARGUMENT: not an executable format, argv too
  // long, or a NUL byte inside argv or environment. RESOURCE_EXHAUSTED: the machine lacks
  // something: no process, descriptor or memory left; names the limit that was met. CANCELLED: not
  // wanted any more when it was there.
  virtual absl::StatusOr<int32_t> Spawn(const ProcessSpec& spec, OnEnd on_end) = 0;

  // Sends a signal to the group of a process started here. Without effect after its end.
  virtual void SignalGroup(int32_t pid, int signal) = 0;

  // The stop ladder for all of `pids` at once. Returns at once; the ends are told as always. A
  // second ladder for a pid can only shorten its grace.
  virtual void StopGroups(const std::vector<int32_t>& pids, absl::Duration grace) = 0;

  // Processes started here whose end has not been told, ascending.
  virtual std::vector<int32_t> Alive() const = 0;
};

}  // namespace dsrun

#endif  // DSRUN_COMMON_BASE_PROCESS_RUNNER_H_
