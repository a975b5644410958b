// FakeProcessRunner: processes that exist only in a table. Obeys the contract of process_runner.h
// (tests/common/base/process_runner_conformance.h is passed by both).
//
// Its processes behave as the first argument after argv[0] says: "exit N" ends at once, "wait" runs
// until a signal, "ignore-term" is deaf to SIGTERM; anything else is "wait". Executables are those
// named by AddExecutable. Ends are told by a thread of the fake, as the real one does.

#ifndef DSRUN_TESTS_FAKES_FAKE_PROCESS_RUNNER_H_
#define DSRUN_TESTS_FAKES_FAKE_PROCESS_RUNNER_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/base/mutex.h"
#include "common/base/process_runner.h"

namespace dsrun {

class FakeProcessRunner : public ProcessRunner {
 public:
  FakeProcessRunner();
  ~FakeProcessRunner() override;

  absl::StatusOr<int32_t> Spawn(const ProcessSpec& spec, OnEnd on_end) override;
  void SignalGroup(int32_t pid, int signal) override;
  void StopGroups(const std::vector<int32_t>& pids, absl::Duration grace) override;
  std::vector<int32_t> Alive() const override;

  // ---- Test control

  void AddExecutable(const std::string& path);
  // The next Spawn fails with `status`.
  void FailNextSpawn(absl::Status status);
  // The process ends by itself.
  void End(int32_t pid, const ProcessEnd& end);
  // Moves the time of the stop ladders.
  void Advance(absl::Duration duration);
  // Everything started, in order.
  std::vector<ProcessSpec> spawned() const;
  // Waits until `count` processes have been started, ever; false after 20 s.
  bool AwaitSpawned(size_t count);
  // Waits until `count` signals have been sent; false after 20 s.
  bool AwaitSignals(size_t count);
  // (pid, signal) of every signal that was sent to a living group, in order.
  std::vector<std::pair<int32_t, int>> signals() const;

 private:
  struct Process {
    bool deaf = false;
    OnEnd on_end;
    absl::Duration kill_at = absl::InfiniteDuration();
  };
  struct Ended {
    int32_t pid = 0;
    ProcessEnd end;
    OnEnd on_end;
  };

  void SignalLocked(int32_t pid, int signal) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void EndLocked(int32_t pid, const ProcessEnd& end) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool AwaitLocked(const std::function<bool()>& done) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Loop();

  mutable Mutex mu_;
  CondVar changed_;
  std::set<std::string> executables_ ABSL_GUARDED_BY(mu_);
  std::map<int32_t, Process> processes_ ABSL_GUARDED_BY(mu_);
  std::vector<ProcessSpec> spawned_ ABSL_GUARDED_BY(mu_);
  std::vector<std::pair<int32_t, int>> signals_ ABSL_GUARDED_BY(mu_);
  std::deque<Ended> ended_ ABSL_GUARDED_BY(mu_);
  absl::Status next_failure_ ABSL_GUARDED_BY(mu_);
  absl::Duration now_ ABSL_GUARDED_BY(mu_);
  int32_t next_pid_ ABSL_GUARDED_BY(mu_) = 1000;
  bool closing_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;
};

}  // namespace dsrun

#endif  // DSRUN_TESTS_FAKES_FAKE_PROCESS_RUNNER_H_
