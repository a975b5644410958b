// ProcessRunner on real processes. One thread waits on all pidfds, so an end is noticed at once and
// without polling.

#ifndef DSRUN_COMMON_BASE_POSIX_PROCESS_RUNNER_H_
#define DSRUN_COMMON_BASE_POSIX_PROCESS_RUNNER_H_

#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/process_runner.h"

namespace dsrun {

class PosixProcessRunner : public ProcessRunner {
 public:
  struct Options {
    // Also reap children that were not started here: orphans that a child subreaper inherits. Takes
    // over SIGCHLD of the whole process; at most one such runner per process.
    bool reap_adopted = false;
    // How long the destructor waits for processes behind SIGKILL, and for Spawns.
    absl::Duration kill_limit = absl::Seconds(5);
  };

  static absl::StatusOr<std::unique_ptr<PosixProcessRunner>> Create(const Options& options);
  ~PosixProcessRunner() override;

  absl::StatusOr<int32_t> Spawn(const ProcessSpec& spec, OnEnd on_end) override;
  void SignalGroup(int32_t pid, int signal) override;
  void StopGroups(const std::vector<int32_t>& pids, absl::Duration grace) override;
  std::vector<int32_t> Alive() const override;

  // The same runner for who may come back from a Spawn after this object was destroyed, or only
  // then call it: FAILED_PRECONDITION, and its other methods find no process any more.
  std::shared_ptr<ProcessRunner> Outliving() const;

 private:
  // Outlives this object while a Spawn has not come back.
  class State;

  explicit PosixProcessRunner(std::shared_ptr<State> state);

  const std::shared_ptr<State> state_;
  bool takes_signal_ = false;  // SIGCHLD
  std::thread thread_;
};

}  // namespace dsrun

#endif  // DSRUN_COMMON_BASE_POSIX_PROCESS_RUNNER_H_
