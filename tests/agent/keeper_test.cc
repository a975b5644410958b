// The keeper alone, in a process of its own, with a stand-in for the agent: what it leaves behind,
// and that no wait of it is without a bound.

#include "agent/keeper.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <functional>
#include <sstream>
#include <string>
#include <vector>

#include "agent/exit_codes.h"
#include "agent/stop_signals.h"
#include "common/base/clock.h"
#include "common/base/process_tree.h"
#include "tests/agent/dsagent_process.h"

namespace dsrun::agent {
namespace {

using ::testing::HasSubstr;

constexpr absl::Duration kPatience = absl::Seconds(20);

// A process that runs `body` and exits with what it returns.
pid_t Fork(const std::function<int()>& body) {
  const pid_t pid = fork();
  if (pid == 0) _exit(body());
  EXPECT_GT(pid, 0);
  return pid;
}

class KeeperTest : public ::testing::Test {
 protected:
  KeeperTest() {
    EXPECT_NE(mkdtemp(folder_.data()), nullptr);
    chmod(folder_.c_str(), 0755);  // others may pass through: it is used as TMPDIR
  }
  // Also of a test that failed in the middle, nothing stays.
  ~KeeperTest() override {
    for (const pid_t keeper : started_) {
      if (waitpid(keeper, nullptr, WNOHANG) != 0) continue;  // it was reaped before, or is now
      KillDescendants(keeper, nullptr, kPatience);
      kill(keeper, SIGKILL);
      waitpid(keeper, nullptr, 0);
    }
    std::filesystem::remove_all(folder_);
  }

  struct Setting {
    std::string agent = "wait";  // what the rank helper, which is its agent, does
    int32_t starter_pid = 0;
  };

  pid_t Start(const std::function<void()>& before = [] {}) { return Start({}, before); }
  // `before`: what the keeper's process does first.
  pid_t Start(
      const Setting& setting, const std::function<void()>& before = [] {}) {
    started_.push_back(Fork([&] {
      setenv("TMPDIR", folder_.c_str(), 1);
      const int log = open(LogPath().c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0600);
      dup2(log, STDOUT_FILENO);
      dup2(log, STDERR_FILENO);
      before();
      BlockStopSignals();
      KeeperOptions options;
      options.agent_binary = BuiltFile("tests/agent/rank_helper");
      options.agent_argv = {"rank_helper", setting.agent};
      options.starter_pid = setting.starter_pid;
      options.first_beat_within = absl::Hours(1);
      options.kill_limit = absl::Milliseconds(200);
      return RunKeeper(options);
    }));
    return started_.back();
  }

  // Below the keeper, and leads a session as what it starts does; 0: none within 20 s.
  static pid_t AgentOf(pid_t keeper) {
    const absl::Duration deadline = Clock::Real().SteadyNow() + kPatience;
    while (Clock::Real().SteadyNow() < deadline) {
      for (const ProcessInfo& process : DescendantsOf(keeper)) {
        if (process.session == process.pid) return process.pid;
      }
    }
    return 0;
  }

  // Its exit code within 20 s; -1: it goes on.
  static int AwaitExit(pid_t keeper) {
    const Pinned pinned(keeper);
    if (!pinned.AwaitEnd()) {
      kill(keeper, SIGKILL);
      waitpid(keeper, nullptr, 0);
      return -1;
    }
    int status = 0;
    waitpid(keeper, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }

  std::string LogPath() const { return folder_ + "/log"; }
  std::string Log() const {
    std::ifstream file(LogPath());
    std::stringstream text;
    text << file.rdbuf();
    return text.str();
  }
  // False: they do not come within 20 s.
  bool AwaitLog(const std::string& words) const {
    const absl::Duration deadline = Clock::Real().SteadyNow() + kPatience;
    while (Log().find(words) == std::string::npos) {
      if (Clock::Real().SteadyNow() >= deadline) return false;
    }
    return true;
  }
  bool SocketFolderIsLeft() const {
    for (const auto& entry : std::filesystem::directory_iterator(folder_)) {
      if (entry.is_directory()) return true;
    }
    return false;
  }

  std::string folder_ = "/tmp/keeper-test-XXXXXX";
  std::vector<pid_t> started_;
};

TEST_F(KeeperTest, AgentThatIsNotGivenBack_IsNamedAndTheKeeperEnds) {
  const pid_t keeper = Start();
  const pid_t agent = AgentOf(keeper);
  ASSERT_GT(agent, 0);
  int ready[2];
  ASSERT_EQ(pipe2(ready, O_CLOEXEC), 0);
  // A debugger: the agent can be killed, and its parent does not get its end.
  const pid_t debugger = Fork([&] {
    if (ptrace(PTRACE_SEIZE, agent, nullptr, nullptr) != 0) return errno;
    (void)!write(ready[1], "r", 1);
    while (true) pause();
  });
  close(ready[1]);
  char byte = 0;
  const bool debugs = read(ready[0], &byte, 1) == 1;
  close(ready[0]);
  if (!debugs) {
    int status = 0;
    waitpid(debugger, &status, 0);
    ASSERT_EQ(WEXITSTATUS(status), EPERM);
    GTEST_SKIP() << "nobody may debug here but a parent (/proc/sys/kernel/yama/ptrace_scope)";
  }
  kill(agent, SIGKILL);
  EXPECT_EQ(AwaitExit(keeper), kExitAgentStopped);
  EXPECT_THAT(Log(), HasSubstr("the agent cannot be ended, 200ms after SIGKILL: process " +
                               std::to_string(agent)));
  EXPECT_THAT(Log(), HasSubstr("debugged by process " + std::to_string(debugger)));
  EXPECT_FALSE(SocketFolderIsLeft());
  kill(debugger, SIGKILL);
  EXPECT_EQ(waitpid(debugger, nullptr, 0), debugger);
}

TEST_F(KeeperTest, ThatCannotStart_LeavesNoSocketFolder) {
  const pid_t keeper = Start([] {
    const rlimit few = {3, 3};  // no room for its signals
    setrlimit(RLIMIT_NOFILE, &few);
  });
  EXPECT_EQ(AwaitExit(keeper), kExitCannotStart);
  EXPECT_THAT(Log(), HasSubstr("keeper: cannot start"));
  EXPECT_FALSE(SocketFolderIsLeft());
}

TEST_F(KeeperTest, AgentThatIsKilled_TheTreeGoesAndAChildOfWhoeverStartedIsLeft) {
  int alive[2];
  ASSERT_EQ(pipe2(alive, O_CLOEXEC), 0);
  const pid_t keeper = Start([&] {
    // As `exec dsagent > >(tee log)`.
    Fork([&] {
      (void)!write(alive[1], "r", 1);
      while (true) pause();
      return 0;
    });
  });
  close(alive[1]);
  const pid_t agent = AgentOf(keeper);
  ASSERT_GT(agent, 0);
  const std::vector<ProcessInfo> below = DescendantsOf(keeper);
  ASSERT_EQ(below.size(), 2u);
  const pid_t foreign = below[0].pid == agent ? below[1].pid : below[0].pid;
  kill(agent, SIGKILL);
  EXPECT_EQ(AwaitExit(keeper), kExitAgentSignal + SIGKILL);
  EXPECT_EQ(kill(foreign, 0), 0);
  kill(foreign, SIGKILL);
  close(alive[0]);
}

// `trap '' CHLD` and a mask of whoever started it.
TEST_F(KeeperTest, SignalsThatWereIgnoredAndBlocked_AreTakenOver) {
  const pid_t keeper = Start([] {
    signal(SIGCHLD, SIG_IGN);
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, nullptr);
  });
  const pid_t agent = AgentOf(keeper);
  ASSERT_GT(agent, 0);
  kill(agent, SIGTERM);  // its own mask is empty: it dies of it
  EXPECT_EQ(AwaitExit(keeper), kExitAgentSignal + SIGTERM);
}

// As `nohup dsagent`, or `dsagent &` in a script: its terminal's signals are not its business. The
// kernel gives the lower number first, so the agent would die of the one that is ignored.
TEST_F(KeeperTest, SignalOfTheTerminalThatIsIgnoredAtTheStart_IsNotARequest) {
  for (const int ignored : {SIGHUP, SIGINT, SIGQUIT}) {
    const pid_t keeper = Start([ignored] { signal(ignored, SIG_IGN); });
    ASSERT_GT(AgentOf(keeper), 0);
    kill(keeper, ignored);
    kill(keeper, SIGTERM);
    EXPECT_EQ(AwaitExit(keeper), kExitAgentSignal + SIGTERM) << ignored;
  }
}

// A shell has started it, and its Ctrl-C is sent by the kernel: nobody whom the keeper knows.
TEST_F(KeeperTest, SecondSignal_IsAnOrderWhoeverSendsIt) {
  constexpr int kSomebodyElse = 1;
  const pid_t keeper = Start({.agent = "ignore-term", .starter_pid = kSomebodyElse});
  // The agent is deaf to what is passed on from here on, and dies of an order.
  ASSERT_TRUE(AwaitLog("ready "));
  const Pinned pinned(keeper);
  const absl::Duration deadline = Clock::Real().SteadyNow() + kPatience;
  do {
    kill(keeper, SIGTERM);
  } while (!pinned.AwaitEnd(absl::Milliseconds(400)) && Clock::Real().SteadyNow() < deadline);
  EXPECT_EQ(AwaitExit(keeper), kExitAgentSignal + KeepersOrder());
}

}  // namespace
}  // namespace dsrun::agent
