// SpawnProcess: starts one process as process_runner.h promises and hands its pidfd to the caller,
// who has to reap it. For PosixProcessRunner and for the single-threaded keeper; everybody else
// uses a ProcessRunner.
//
// The child is made with CLONE_VM | CLONE_VFORK on a stack of its own: nothing is copied, atfork
// handlers (gRPC's among them) do not run, and the child makes only raw system calls until exec.
// Its failures are read from shared memory, so that Spawn knows the reason before it returns.
// Thread-safe.

#ifndef DSRUN_COMMON_BASE_PROCESS_SPAWN_H_
#define DSRUN_COMMON_BASE_PROCESS_SPAWN_H_

#include <atomic>
#include <cstdint>
#include <optional>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/process_runner.h"

namespace dsrun {

struct SpawnedProcess {
  int32_t pid = 0;
  int pidfd = -1;  // the caller's, close-on-exec
};

// `being_started`: where the child's pid stands from before its first instruction until it is
// returned or reaped, for whoever reaps children that he does not know.
// Errors: as ProcessRunner::Spawn, but for CANCELLED.
absl::StatusOr<SpawnedProcess> SpawnProcess(const ProcessSpec& spec,
                                            std::atomic<int32_t>* being_started = nullptr);

// Waits for the end of a child that is known to have ended or will soon. Reaps it.
ProcessEnd ReapProcess(int32_t pid);

// Waits for its end, `limit` at most, and reaps it. Nothing: it has not ended (SIGKILL waits for a
// system call that does not come back), or cannot be reaped (a debugger holds it).
std::optional<ProcessEnd> ReapWithin(int32_t pid, int pidfd, absl::Duration limit);

}  // namespace dsrun

#endif  // DSRUN_COMMON_BASE_PROCESS_SPAWN_H_
