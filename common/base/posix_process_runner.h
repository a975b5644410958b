// ProcessRunner on real processes. One thread waits on all pidfds, so an end is noticed at once and
// without polling.

#ifndef DSRUN_COMMON_BASE_POSIX_PROCESS_RUNNER_H_
#define DSRUN_COMMON_BASE_POSIX_PROCESS_RUNNER_H_

#include <cstdint>
#include <map>
#include <memory>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/mutex.h"
#include "common/base/process_runner.h"

namespace dsrun {

class PosixProcessRunner : public ProcessRunner {
 public:
  struct Options {
    // Also reap children that were not started here: orphans that a child subreaper inherits. Takes
    // over SIGCHLD of the whole process; at most one such runner per process.
    bool reap_adopted = false;
    // How long the destructor waits for processes behind SIGKILL.
    absl::Duration kill_limit = absl::Seconds(5);
  };

  static absl::StatusOr<std::unique_ptr<PosixProcessRunner>> Create(const Options& options);
  ~PosixProcessRunner() override;

  absl::StatusOr<int32_t> Spawn(const ProcessSpec& spec, OnEnd on_end) override;
  void SignalGroup(int32_t pid, int signal) override;
  void StopGroups(const std::vector<int32_t>& pids, absl::Duration grace) override;
  std::vector<int32_t> Alive() const override;

 private:
  struct Child {
    int pidfd = -1;
    OnEnd on_end;
    absl::Duration kill_at = absl::InfiniteDuration();  // steady
    bool held = false;  // its pidfd says that it has ended, and it cannot be reaped yet
  };
  struct Ended {
    int32_t pid = 0;
    ProcessEnd end;
    OnEnd on_end;
  };

  PosixProcessRunner(const Options& options, int wake_fd);
  void Loop();
  void Wake();
  // Kills what is due, then reaps what has ended.
  void KillDueLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  std::vector<Ended> CollectLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void ReapAdoptedLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Closing: what SIGKILL did not end in time is named and forgotten.
  void GiveUpLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  int PollTimeoutLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  // Constant after construction.
  const Options options_;
  const int wake_fd_;

  // Held across clone() too: a child that ends at once must be in the map before anybody reaps.
  mutable Mutex mu_;
  std::map<int32_t, Child> children_ ABSL_GUARDED_BY(mu_);
  bool closing_ ABSL_GUARDED_BY(mu_) = false;
  absl::Duration give_up_at_ ABSL_GUARDED_BY(mu_) = absl::InfiniteDuration();  // steady

  std::thread thread_;
};

}  // namespace dsrun

#endif  // DSRUN_COMMON_BASE_POSIX_PROCESS_RUNNER_H_
