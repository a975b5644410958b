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
  ~KeeperTest() override { std::filesystem::remove_all(folder_); }

  // A keeper whose agent is the rank helper; `before`: what its process does first.
  pid_t Start(const std::function<void()>& before = [] {}) {
    return Fork([&] {
      setenv("TMPDIR", folder_.c_str(), 1);
      const int log = open(LogPath().c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
      dup2(log, STDERR_FILENO);
      before();
      BlockStopSignals();
      KeeperOptions options;
      options.agent_binary = BuiltFile("tests/agent/rank_helper");
      options.agent_argv = {"rank_helper", "wait"};
      options.first_beat_within = absl::Hours(1);
      options.kill_limit = absl::Milliseconds(200);
      return RunKeeper(options);
    });
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
  bool SocketFolderIsLeft() const {
    for (const auto& entry : std::filesystem::directory_iterator(folder_)) {
      if (entry.is_directory()) return true;
    }
    return false;
  }

  std::string folder_ = "/tmp/keeper-test-XXXXXX";
};

TEST_F(KeeperTest, AgentThatIsNotGivenBack_IsNamedAndTheKeeperEnds) {
  const pid_t keeper = Start();
  const pid_t agent = AgentOf(keeper);
  ASSERT_GT(agent, 0);
  int ready[2];
  ASSERT_EQ(pipe2(ready, O_CLOEXEC), 0);
  // A debugger: the agent can be killed, and its parent does not get its end.
  const pid_t debugger = Fork([&] {
    if (ptrace(PTRACE_SEIZE, agent, nullptr, nullptr) != 0) return 1;
    (void)!write(ready[1], "r", 1);
    while (true) pause();
  });
  close(ready[1]);
  char byte = 0;
  ASSERT_EQ(read(ready[0], &byte, 1), 1) << "nobody may debug here";
  close(ready[0]);
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

}  // namespace
}  // namespace dsrun::agent
