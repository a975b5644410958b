// Processes on a kernel that hangs in exec, or that lacks calls.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/clock.h"
#include "common/base/mutex.h"
#include "common/base/posix_process_runner.h"
#include "common/base/process_spawn.h"
#include "common/base/process_tree.h"
#include "tests/support/kernel_faults.h"

namespace dsrun {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string ChildBinary() {
  char* path = realpath("tests/common/base/process_child", nullptr);
  const std::string binary = path == nullptr ? "" : path;
  free(path);
  return binary;
}

std::string ReadAll(int fd) {
  std::string content;
  char buffer[4096];
  ssize_t got = 0;
  while ((got = read(fd, buffer, sizeof(buffer))) > 0) content.append(buffer, got);
  close(fd);
  return content;
}

// exec waits for a file server, and with it the thread that called Spawn, and nobody else.
class HungExec : public ::testing::Test {
 protected:
  ProcessRunner::OnEnd Callback() {
    return [this](int32_t pid, const ProcessEnd& end) {
      MutexLock lock(mu_);
      ends_[pid] = end;
      changed_.NotifyAll();
    };
  }
  ProcessEnd Await(int32_t pid) {
    const absl::Duration deadline = Clock::Real().SteadyNow() + absl::Seconds(20);
    MutexLock lock(mu_);
    while (!ends_.contains(pid) && Clock::Real().SteadyNow() < deadline) {
      changed_.WaitFor(mu_, absl::Seconds(1));
    }
    EXPECT_TRUE(ends_.contains(pid)) << pid << " did not end";
    return ends_[pid];
  }
  size_t Count() {
    MutexLock lock(mu_);
    return ends_.size();
  }
  void SetUp() override {
    if (!program_.held()) GTEST_SKIP() << "no file can be leased here";
  }
  // Returns when exec hangs; the result comes with Result.
  void SpawnHung(std::function<bool()> still_wanted = nullptr) {
    spawner_ = std::thread([this, still_wanted] {
      ProcessSpec spec;
      spec.executable = program_.path();
      spec.argv = {"child", "exit", "7"};
      spec.still_wanted = still_wanted;
      result_ = runner_->Spawn(spec, Callback());
    });
    ASSERT_TRUE(program_.AwaitWaiter());
  }
  absl::StatusOr<int32_t> Result() {
    program_.LetGo();
    spawner_.join();
    return result_;
  }

  Mutex mu_;
  CondVar changed_;
  std::map<int32_t, ProcessEnd> ends_;
  HeldProgram program_{ChildBinary()};
  std::unique_ptr<PosixProcessRunner> runner_ =
      *PosixProcessRunner::Create({.reap_adopted = true, .kill_limit = absl::Milliseconds(50)});
  std::thread spawner_;
  absl::StatusOr<int32_t> result_ = 0;
};

TEST_F(HungExec, OtherProcessesAreStartedSignalledAndReaped) {
  SpawnHung();
  ProcessSpec spec;
  spec.executable = ChildBinary();
  spec.argv = {"child", "wait"};
  const absl::StatusOr<int32_t> other = runner_->Spawn(spec, Callback());
  ASSERT_TRUE(other.ok()) << other.status();
  EXPECT_THAT(runner_->Alive(), ElementsAre(*other));
  runner_->SignalGroup(*other, SIGKILL);
  EXPECT_EQ(Await(*other).term_signal, SIGKILL);
  const absl::StatusOr<int32_t> hung = Result();
  ASSERT_TRUE(hung.ok()) << hung.status();
  EXPECT_EQ(Await(*hung), (ProcessEnd{.exit_code = 7}));
}

TEST_F(HungExec, ThatIsNotWantedAnyMore_IsKilledAndNotToldOf) {
  std::atomic<bool> wanted{true};
  SpawnHung([&] { return wanted.load(); });
  wanted = false;
  EXPECT_EQ(Result().status().code(), absl::StatusCode::kCancelled);
  runner_.reset();
  EXPECT_EQ(Count(), 0u);
  EXPECT_EQ(waitpid(-1, nullptr, WNOHANG), -1);
  EXPECT_EQ(errno, ECHILD);
}

TEST_F(HungExec, RunnerThatIsDestroyed_DoesNotWaitForIt_AndItFailsWhenItComesBack) {
  SpawnHung();
  const absl::Duration begin = Clock::Real().SteadyNow();
  runner_->Alive();
  std::unique_ptr<PosixProcessRunner> gone = std::move(runner_);
  gone.reset();
  EXPECT_LT(Clock::Real().SteadyNow() - begin, absl::Seconds(10));
  EXPECT_EQ(Result().status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(waitpid(-1, nullptr, WNOHANG), -1);
  EXPECT_EQ(errno, ECHILD);
}

// Linux before 5.9, and containers that refuse what their profile does not know.
TEST(SpawnProcess, WithoutCloseRange_ItsDescriptorsAreTheOnlyOnes) {
  for (const int refusal : {ENOSYS, EPERM}) {
    int fds[2];
    ASSERT_EQ(pipe2(fds, O_CLOEXEC), 0);
    const pid_t old_kernel = fork();
    ASSERT_GE(old_kernel, 0);
    if (old_kernel == 0) {
      if (!RefuseCall(SYS_close_range, refusal)) _exit(1);
      for (int i = 0; i < 300; ++i) (void)!open("/dev/null", O_RDONLY);  // would leak
      ProcessSpec spec;
      spec.executable = ChildBinary();
      spec.argv = {"child", "fds"};
      spec.stdout_fd = fds[1];
      spec.fds = {{0, 5}};
      const absl::StatusOr<SpawnedProcess> child = SpawnProcess(spec);
      if (!child.ok()) _exit(2);
      _exit(ReapProcess(child->pid).exit_code);
    }
    close(fds[1]);
    EXPECT_THAT(ReadAll(fds[0]), HasSubstr("fds 0 1 2 5\n"));
    int status = 0;
    ASSERT_EQ(waitpid(old_kernel, &status, 0), old_kernel);
    EXPECT_EQ(status, 0);
  }
}

TEST(CheckKernel, WithoutPidfds_SaysWhatIsMissing) {
  EXPECT_EQ(CheckKernel(), absl::OkStatus());
  for (const int call : {SYS_pidfd_open, SYS_pidfd_send_signal}) {
    const pid_t old_kernel = fork();
    ASSERT_GE(old_kernel, 0);
    if (old_kernel == 0) {
      if (!RefuseCall(call, ENOSYS)) _exit(1);
      const absl::Status status = CheckKernel();
      const std::string text(status.message());
      const char* name = call == SYS_pidfd_open ? " pidfd_open," : " pidfd_send_signal,";
      _exit(absl::IsFailedPrecondition(status) && text.find(name) != std::string::npos &&
                    text.find("Linux 5.3 or newer") != std::string::npos
                ? 0
                : 2);
    }
    int status = 0;
    ASSERT_EQ(waitpid(old_kernel, &status, 0), old_kernel);
    EXPECT_EQ(status, 0);
  }
}

}  // namespace
}  // namespace dsrun
