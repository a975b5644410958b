// Starters with the real dsagent: it listens, its key is nowhere to be read, it is ended and
// reaped.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "common/base/process_tree.h"
#include "launcher/starters/local_starter.h"
#include "launcher/starters/running_starter.h"

namespace dsrun::launcher {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

std::string AgentBinary() {
  const char* root = getenv("TEST_SRCDIR");
  return std::string(root == nullptr ? "." : root) + "/" + getenv("TEST_WORKSPACE") +
         "/agent/dsagent";
}

std::string TemporaryFolder() {
  std::string path = std::string(getenv("TEST_TMPDIR")) + "/starter-XXXXXX";
  EXPECT_NE(mkdtemp(path.data()), nullptr);
  return path;
}

std::string ReadAll(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

proto::NodeSpec Node(const std::string& address, int port = 0) {
  proto::NodeSpec node;
  node.set_host("the-host");
  node.set_address(address);
  node.set_agent_port(port);
  return node;
}

std::unique_ptr<LocalStarter> MakeLocal(const std::string& binary) {
  const std::string folder = TemporaryFolder();
  absl::StatusOr<std::unique_ptr<LocalStarter>> starter =
      LocalStarter::Create({.agent_binary = binary, .run_dir = folder, .log_folder = folder});
  EXPECT_TRUE(starter.ok()) << starter.status();
  return *std::move(starter);
}

TEST(LocalStarter, TwoNodes_ListenOnTheirAddressesAndAreGoneAfterEndAll) {
  {
    const std::unique_ptr<LocalStarter> starter = MakeLocal(AgentBinary());
    const auto first = starter->Start(NodeId(0), Node("127.0.0.1"));
    const auto second = starter->Start(NodeId(1), Node("127.0.0.2"));
    ASSERT_TRUE(first.ok()) << first.status();
    ASSERT_TRUE(second.ok()) << second.status();
    EXPECT_THAT(first->target, HasSubstr("127.0.0.1:"));
    EXPECT_THAT(second->target, HasSubstr("127.0.0.2:"));
    EXPECT_GE(first->cluster_key.size(), 32u);
    EXPECT_EQ(first->cluster_key, second->cluster_key);
    EXPECT_GE(DescendantsOf(getpid()).size(), 2u);
    starter->EndAll(absl::Seconds(10));
    for (const ProcessInfo& process : DescendantsOf(getpid())) EXPECT_EQ(process.state, 'Z');
  }
  EXPECT_TRUE(DescendantsOf(getpid()).empty());
}

TEST(LocalStarter, Key_IsNotInArgumentsOrEnvironment) {
  const std::unique_ptr<LocalStarter> starter = MakeLocal(AgentBinary());
  const auto endpoint = starter->Start(NodeId(0), Node("127.0.0.1"));
  ASSERT_TRUE(endpoint.ok()) << endpoint.status();
  for (const ProcessInfo& process : DescendantsOf(getpid())) {
    const std::string folder = "/proc/" + std::to_string(process.pid);
    EXPECT_THAT(ReadAll(folder + "/cmdline"), Not(HasSubstr(endpoint->cluster_key)));
    EXPECT_THAT(ReadAll(folder + "/environ"), Not(HasSubstr(endpoint->cluster_key)));
  }
}

TEST(LocalStarter, TwoStarters_HaveDifferentKeys) {
  std::string first;
  for (int i = 0; i < 2; ++i) {
    const std::unique_ptr<LocalStarter> starter = MakeLocal(AgentBinary());
    const auto endpoint = starter->Start(NodeId(0), Node("127.0.0.1"));
    ASSERT_TRUE(endpoint.ok()) << endpoint.status();
    EXPECT_NE(endpoint->cluster_key, first);
    // A key that ended in a newline would lose it on the way.
    EXPECT_EQ(endpoint->cluster_key.find_first_not_of("0123456789abcdef"), std::string::npos);
    first = endpoint->cluster_key;
  }
}

TEST(LocalStarter, AgentThatExitsAtOnce_IsUnavailableWithItsCode) {
  const std::unique_ptr<LocalStarter> starter = MakeLocal("/bin/false");
  const auto endpoint = starter->Start(NodeId(0), Node("127.0.0.1"));
  EXPECT_EQ(endpoint.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(endpoint.status().message()), HasSubstr("the-host"));
  EXPECT_THAT(std::string(endpoint.status().message()), HasSubstr("exited with code 1"));
}

TEST(LocalStarter, MissingBinary_IsNamed) {
  const std::unique_ptr<LocalStarter> starter = MakeLocal("/no/such/dsagent");
  const auto endpoint = starter->Start(NodeId(0), Node("127.0.0.1"));
  EXPECT_EQ(endpoint.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(endpoint.status().message()), HasSubstr("/no/such/dsagent"));
}

TEST(LocalStarter, AgentThatNeverSaysItsPort_IsGivenUpAndKilled) {
  const std::string folder = TemporaryFolder();
  const std::string script = folder + "/mute";
  std::ofstream(script) << "#!/bin/sh\nexec sleep 1000\n";
  chmod(script.c_str(), 0755);
  auto starter = LocalStarter::Create({.agent_binary = script,
                                       .run_dir = folder,
                                       .log_folder = folder,
                                       .ready_timeout = absl::Milliseconds(200)});
  ASSERT_TRUE(starter.ok()) << starter.status();
  const auto endpoint = (*starter)->Start(NodeId(0), Node("127.0.0.1"));
  EXPECT_EQ(endpoint.status().code(), absl::StatusCode::kUnavailable);
  (*starter)->EndAll(absl::Seconds(1));
  for (const ProcessInfo& process : DescendantsOf(getpid())) EXPECT_EQ(process.state, 'Z');
}

// What follows "--socket-dir=" on the command line of a process below this one; empty: none.
std::string SocketFolder() {
  for (const ProcessInfo& process : DescendantsOf(getpid())) {
    std::stringstream all(ReadAll("/proc/" + std::to_string(process.pid) + "/cmdline"));
    const std::string name = "--socket-dir=";
    for (std::string argument; std::getline(all, argument, '\0');) {
      if (argument.rfind(name, 0) == 0) return argument.substr(name.size());
    }
  }
  return "";
}

TEST(LocalStarter, AgentThatRuns_HasItsSocketInAFolderThatNobodyElseMayEnter) {
  const std::unique_ptr<LocalStarter> starter = MakeLocal(AgentBinary());
  ASSERT_TRUE(starter->Start(NodeId(0), Node("127.0.0.1")).ok());
  const std::string folder = SocketFolder();
  struct stat info;
  ASSERT_EQ(stat(folder.c_str(), &info), 0) << folder;
  EXPECT_EQ(info.st_mode & 0777, 0700u);
  EXPECT_EQ(access((folder + "/worker.sock").c_str(), F_OK), 0);
  starter->EndAll(absl::Seconds(10));
  EXPECT_NE(access(folder.c_str(), F_OK), 0) << folder << " stayed behind";
}

// The keeper's child.
int32_t AgentBelow(int32_t keeper) {
  for (const ProcessInfo& process : DescendantsOf(keeper)) {
    if (process.parent == keeper) return process.pid;
  }
  return 0;
}

TEST(LocalStarter, KilledAgent_IsSaidWithItsSignal) {
  const std::unique_ptr<LocalStarter> starter = MakeLocal(AgentBinary());
  ASSERT_TRUE(starter->Start(NodeId(0), Node("127.0.0.1")).ok());
  EXPECT_EQ(starter->HowItEnded(NodeId(0), absl::ZeroDuration()), "");  // it lives
  kill(AgentBelow(starter->pid(NodeId(0))), SIGKILL);
  EXPECT_THAT(starter->HowItEnded(NodeId(0), absl::Seconds(20)),
              HasSubstr("it was killed by signal 9 (SIGKILL)"));
}

TEST(LocalStarter, KeeperThatEndedASilentAgent_IsTurnedIntoWords) {
  const std::string folder = TemporaryFolder();
  const std::string script = folder + "/agent";
  std::ofstream(script) << "#!/bin/sh\necho 4711 >&4\nexit 111\n";  // docs/errors.md
  chmod(script.c_str(), 0755);
  const std::unique_ptr<LocalStarter> starter = MakeLocal(script);
  ASSERT_TRUE(starter->Start(NodeId(0), Node("127.0.0.1")).ok());
  EXPECT_THAT(starter->HowItEnded(NodeId(0), absl::Seconds(20)), HasSubstr("it fell silent"));
}

TEST(LocalStarter, KilledKeeper_IsSaid) {
  const std::unique_ptr<LocalStarter> starter = MakeLocal(AgentBinary());
  ASSERT_TRUE(starter->Start(NodeId(0), Node("127.0.0.1")).ok());
  kill(starter->pid(NodeId(0)), SIGKILL);
  EXPECT_THAT(starter->HowItEnded(NodeId(0), absl::Seconds(20)),
              HasSubstr("its keeper was killed by signal 9"));
}

TEST(LocalStarter, KeeperAndAgentKilledTogether_LeaveNoSocketFolder) {
  const std::unique_ptr<LocalStarter> starter = MakeLocal(AgentBinary());
  ASSERT_TRUE(starter->Start(NodeId(0), Node("127.0.0.1")).ok());
  const std::string folder = SocketFolder();
  ASSERT_EQ(access(folder.c_str(), F_OK), 0);
  const std::vector<ProcessInfo> both = DescendantsOf(getpid());
  ASSERT_EQ(both.size(), 2u);
  for (const ProcessInfo& process : both) kill(process.pid, SIGSTOP);
  for (const ProcessInfo& process : both) kill(process.pid, SIGKILL);
  starter->EndAll(absl::Seconds(10));
  EXPECT_NE(access(folder.c_str(), F_OK), 0) << folder << " stayed behind";
}

TEST(LocalStarter, StartThatIsGivenUp_LeavesNoSocketFolder) {
  const std::string folder = TemporaryFolder();
  const std::string script = folder + "/mute";
  std::ofstream(script) << "#!/bin/sh\nfor a in \"$@\"; do echo \"$a\"; done > " << folder
                        << "/arguments\nexec sleep 1000\n";
  chmod(script.c_str(), 0755);
  auto starter = LocalStarter::Create({.agent_binary = script,
                                       .run_dir = folder,
                                       .log_folder = folder,
                                       .ready_timeout = absl::Seconds(3)});
  ASSERT_TRUE(starter.ok()) << starter.status();
  EXPECT_FALSE((*starter)->Start(NodeId(0), Node("127.0.0.1")).ok());
  const std::string arguments = ReadAll(folder + "/arguments");
  const size_t at = arguments.find("--socket-dir=/tmp/");
  ASSERT_NE(at, std::string::npos) << arguments;
  const std::string path = arguments.substr(at + 13, arguments.find('\n', at) - at - 13);
  (*starter)->EndAll(absl::ZeroDuration());
  EXPECT_NE(access(path.c_str(), F_OK), 0) << path << " stayed behind";
}

TEST(LocalStarter, EndedBeforeStart_IsCancelled) {
  const std::unique_ptr<LocalStarter> starter = MakeLocal(AgentBinary());
  starter->End(NodeId(0), absl::ZeroDuration());
  EXPECT_EQ(starter->Start(NodeId(0), Node("127.0.0.1")).status().code(),
            absl::StatusCode::kCancelled);
}

TEST(LocalStarter, OrphanOfAKilledAgent_IsKilledByEndAll) {
  const std::string folder = TemporaryFolder();
  const std::string script = folder + "/agent";
  // Says a port, leaves a grandchild in a session of its own, and waits.
  std::ofstream(script) << "#!/bin/sh\nsetsid sleep 1000 &\necho 4711 >&4\nexec sleep 1000\n";
  chmod(script.c_str(), 0755);
  auto starter =
      LocalStarter::Create({.agent_binary = script, .run_dir = folder, .log_folder = folder});
  ASSERT_TRUE(starter.ok()) << starter.status();
  const auto endpoint = (*starter)->Start(NodeId(0), Node("127.0.0.1"));
  ASSERT_TRUE(endpoint.ok()) << endpoint.status();
  kill((*starter)->pid(NodeId(0)), SIGKILL);
  (*starter)->EndAll(absl::Seconds(1));
  // Zombies may wait a moment longer for the runner's thread.
  for (const ProcessInfo& process : DescendantsOf(getpid())) EXPECT_EQ(process.state, 'Z');
}

// What SIGKILL does not end would be waited for a second time.
TEST(LocalStarter, EndAllThatIsThrough_IsNotRepeatedByTheDestructor) {
  std::unique_ptr<LocalStarter> starter = MakeLocal(AgentBinary());
  ASSERT_TRUE(starter->Start(NodeId(0), Node("127.0.0.1")).ok());
  starter->EndAll(absl::Seconds(10));
  const pid_t later = fork();  // with a session of its own: whoever sweeps once more ends it
  ASSERT_GE(later, 0);
  if (later == 0) {
    setsid();
    while (true) pause();
  }
  while (getsid(later) != later) sched_yield();
  starter.reset();
  int status = 0;
  EXPECT_EQ(waitpid(later, &status, WNOHANG), 0) << "it was ended";
  kill(later, SIGKILL);
  waitpid(later, nullptr, 0);
}

class RunningStarterTest : public ::testing::Test {
 protected:
  std::string KeyFile(mode_t mode) {
    const std::string path = TemporaryFolder() + "/key";
    std::ofstream(path) << std::string(32, 'k');
    chmod(path.c_str(), mode);
    return path;
  }
};

TEST_F(RunningStarterTest, AgentThatRuns_GivesItsTargetAndTheKeyOfTheFile) {
  const std::unique_ptr<LocalStarter> local = MakeLocal(AgentBinary());
  const auto running_agent = local->Start(NodeId(0), Node("127.0.0.1"));
  ASSERT_TRUE(running_agent.ok()) << running_agent.status();
  const int port = std::stoi(running_agent->target.substr(running_agent->target.rfind(':') + 1));

  auto starter = RunningStarter::Create({.cluster_key_file = KeyFile(0600)});
  ASSERT_TRUE(starter.ok()) << starter.status();
  const auto endpoint = (*starter)->Start(NodeId(0), Node("127.0.0.1", port));
  ASSERT_TRUE(endpoint.ok()) << endpoint.status();
  EXPECT_EQ(endpoint->target, running_agent->target);
  EXPECT_EQ(endpoint->cluster_key, std::string(32, 'k'));
}

TEST_F(RunningStarterTest, NobodyListens_SaysWhoWhereHowAndWhatToDo) {
  auto starter = RunningStarter::Create({.cluster_key_file = KeyFile(0600)});
  ASSERT_TRUE(starter.ok()) << starter.status();
  const auto endpoint = (*starter)->Start(NodeId(0), Node("127.0.0.3", 1));
  EXPECT_EQ(endpoint.status().code(), absl::StatusCode::kUnavailable);
  const std::string text(endpoint.status().message());
  EXPECT_THAT(text, HasSubstr("node the-host: expected a running dsagent at 127.0.0.3:1"));
  EXPECT_THAT(text, HasSubstr("Connection refused"));
  EXPECT_THAT(text, HasSubstr("start one there with: dsagent --listen 127.0.0.3:1"));
}

TEST_F(RunningStarterTest, OffLoopback_IsRefused) {
  auto starter = RunningStarter::Create({.cluster_key_file = KeyFile(0600)});
  ASSERT_TRUE(starter.ok()) << starter.status();
  EXPECT_EQ((*starter)->Start(NodeId(0), Node("192.0.2.1", 1)).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST_F(RunningStarterTest, KeyFileThatOthersCanRead_IsRefused) {
  EXPECT_EQ(RunningStarter::Create({.cluster_key_file = KeyFile(0644)}).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace dsrun::launcher
