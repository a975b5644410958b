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
#include <filesystem>
#include <fstream>
#include <memory>
#include <set>
#include <sstream>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "common/base/clock.h"
#include "common/base/posix_process_runner.h"
#include "common/base/process_tree.h"
#include "launcher/starters/local_starter.h"
#include "launcher/starters/running_starter.h"
#include "tests/support/kernel_faults.h"

namespace dsrun::launcher {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

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

// Inodes of the TCP sockets that listen in this network namespace.
std::set<std::string> ListeningInodes() {
  std::set<std::string> inodes;
  for (const char* table : {"/proc/net/tcp", "/proc/net/tcp6"}) {
    std::ifstream file(table);
    std::string line;
    while (std::getline(file, line)) {
      std::stringstream words(line);
      std::vector<std::string> fields;
      for (std::string field; words >> field;) fields.push_back(field);
      if (fields.size() > 9 && fields[3] == "0A") inodes.insert(fields[9]);
    }
  }
  return inodes;
}

// Those of them that `pid` holds.
int PortsOf(int32_t pid) {
  const std::set<std::string> listening = ListeningInodes();
  int count = 0;
  const std::string folder = "/proc/" + std::to_string(pid) + "/fd";
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    std::error_code gone;
    const std::string link = std::filesystem::read_symlink(entry.path(), gone).string();
    if (link.rfind("socket:[", 0) == 0)
      count += listening.contains(link.substr(8, link.size() - 9));
  }
  return count;
}

TEST(LocalStarter, TwoNodes_ListenOnNoPortAndAreGoneAfterEndAll) {
  {
    const std::unique_ptr<LocalStarter> starter = MakeLocal(AgentBinary());
    const auto first = starter->Start(NodeId(0), Node("127.0.0.1"));
    const auto second = starter->Start(NodeId(1), Node("127.0.0.2"));
    ASSERT_TRUE(first.ok()) << first.status();
    ASSERT_TRUE(second.ok()) << second.status();
    EXPECT_THAT(first->target, StartsWith("unix:/"));
    EXPECT_THAT(second->target, StartsWith("unix:/"));
    EXPECT_NE(first->target, second->target);
    const std::vector<ProcessInfo> below = DescendantsOf(getpid());
    EXPECT_EQ(below.size(), 4u);
    for (const ProcessInfo& process : below) EXPECT_EQ(PortsOf(process.pid), 0);
    starter->EndAll(absl::Seconds(10));
    for (const ProcessInfo& process : DescendantsOf(getpid())) EXPECT_EQ(process.state, 'Z');
  }
  EXPECT_TRUE(DescendantsOf(getpid()).empty());
}

TEST(LocalStarter, AddressThatIsNotOfThisMachine_IsSaidBeforeAnythingStarts) {
  const std::unique_ptr<LocalStarter> starter = MakeLocal(AgentBinary());
  const absl::Status status = starter->Start(NodeId(0), Node("192.0.2.1")).status();
  EXPECT_THAT(std::string(status.message()), HasSubstr("192.0.2.1"));
  EXPECT_TRUE(DescendantsOf(getpid()).empty());
}

TEST(LocalStarter, Key_IsNotInArgumentsOrEnvironment) {
  const std::unique_ptr<LocalStarter> starter = MakeLocal(AgentBinary());
  const auto endpoint = starter->Start(NodeId(0), Node("127.0.0.1"));
  ASSERT_TRUE(endpoint.ok()) << endpoint.status();
  for (const ProcessInfo& process : DescendantsOf(getpid())) {
    const std::string folder = "/proc/" + std::to_string(process.pid);
    EXPECT_THAT(ReadAll(folder + "/cmdline"), Not(HasSubstr(starter->cluster_key())));
    EXPECT_THAT(ReadAll(folder + "/environ"), Not(HasSubstr(starter->cluster_key())));
  }
}

TEST(LocalStarter, TwoStarters_HaveDifferentKeys) {
  std::string first;
  for (int i = 0; i < 2; ++i) {
    const std::unique_ptr<LocalStarter> starter = MakeLocal(AgentBinary());
    const auto endpoint = starter->Start(NodeId(0), Node("127.0.0.1"));
    ASSERT_TRUE(endpoint.ok()) << endpoint.status();
    const std::string& key = starter->cluster_key();
    EXPECT_GE(key.size(), 32u);
    EXPECT_NE(key, first);
    // A key that ended in a newline would lose it on the way.
    EXPECT_EQ(key.find_first_not_of("0123456789abcdef"), std::string::npos);
    first = key;
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

// Nobody has refused anything: the agent was not started (docs/errors.md, exit codes).
TEST(LocalStarter, BinaryThatMayNotBeExecuted_IsNoRefusalOfTheNode) {
  const std::string binary = TemporaryFolder() + "/agent";
  std::ofstream(binary) << "#!/bin/sh\n";
  const std::unique_ptr<LocalStarter> starter = MakeLocal(binary);
  const auto endpoint = starter->Start(NodeId(0), Node("127.0.0.1"));
  EXPECT_EQ(endpoint.status().code(), absl::StatusCode::kUnavailable) << endpoint.status();
  EXPECT_THAT(std::string(endpoint.status().message()), HasSubstr("may not be executed"));
}

TEST(LocalStarter, AgentThatNeverSaysThatItListens_IsGivenUpAndKilled) {
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
  EXPECT_EQ(access((folder + "/agent.sock").c_str(), F_OK), 0);
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
  std::ofstream(script) << "#!/bin/sh\ntrap '' TERM\necho 0 >&4\nexit 111\n";  // docs/errors.md
  chmod(script.c_str(), 0755);
  const std::unique_ptr<LocalStarter> starter = MakeLocal(script);
  EXPECT_FALSE(
      starter->Start(NodeId(0), Node("127.0.0.1")).ok());  // nobody is there to prove itself
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

// The binary's file server does not answer; End is called by the thread that decides.
TEST(LocalStarter, EndOfAnAgentWhoseStartHangs_DoesNotWaitForIt) {
  HeldProgram program("/bin/true");
  if (!program.held()) GTEST_SKIP() << "no file can be leased here";
  const std::unique_ptr<LocalStarter> starter = MakeLocal(program.path());
  absl::Status started;
  std::thread start([&] { started = starter->Start(NodeId(0), Node("127.0.0.1")).status(); });
  ASSERT_TRUE(program.AwaitWaiter());
  const SteadyTime begin = Clock::Real().SteadyNow();
  starter->End(NodeId(0), absl::ZeroDuration());
  EXPECT_EQ(starter->HowItEnded(NodeId(0), absl::ZeroDuration()), "");
  EXPECT_LT(Clock::Real().SteadyNow() - begin, absl::Seconds(10));
  program.LetGo();
  start.join();
  EXPECT_TRUE(absl::IsCancelled(started)) << started;
  EXPECT_EQ(starter->pid(NodeId(0)), 0);
}

TEST(LocalStarter, EndAllWhileAStartHangs_EndsThatStart) {
  HeldProgram program("/bin/true");
  if (!program.held()) GTEST_SKIP() << "no file can be leased here";
  std::unique_ptr<LocalStarter> starter = MakeLocal(program.path());
  absl::Status started;
  std::thread start([&] { started = starter->Start(NodeId(0), Node("127.0.0.1")).status(); });
  ASSERT_TRUE(program.AwaitWaiter());
  starter->EndAll(absl::ZeroDuration());
  start.join();
  EXPECT_TRUE(absl::IsCancelled(started)) << started;
  starter.reset();  // waits for what it has killed
  EXPECT_TRUE(DescendantsOf(getpid()).empty());
}

TEST(LocalStarter, StartThatHangsForGood_IsGivenUpAndSaysWhatToLookAt) {
  HeldProgram program("/bin/true");
  if (!program.held()) GTEST_SKIP() << "no file can be leased here";
  const std::string folder = TemporaryFolder();
  auto starter = LocalStarter::Create({.agent_binary = program.path(),
                                       .run_dir = folder,
                                       .log_folder = folder,
                                       .spawn_timeout = absl::Milliseconds(200)});
  ASSERT_TRUE(starter.ok()) << starter.status();
  const absl::Status status = (*starter)->Start(NodeId(0), Node("127.0.0.1")).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_THAT(std::string(status.message()),
              StartsWith("cannot start an agent for node the-host: expected it to be started "
                         "within 200ms, but the kernel has not come back with " +
                         program.path()));
  EXPECT_THAT(std::string(status.message()), HasSubstr("--agent-binary"));
  program.LetGo();  // what comes of it now is not wanted
  (*starter)->EndAll(absl::ZeroDuration());
  starter->reset();
  EXPECT_TRUE(DescendantsOf(getpid()).empty());
}

// A named pipe that nobody reads is a log that never comes open.
TEST(LocalStarter, LogThatDoesNotOpen_IsGivenUpAndNamed) {
  const std::string folder = TemporaryFolder();
  const std::string log = folder + "/agent-0.log";
  ASSERT_EQ(mkfifo(log.c_str(), 0600), 0);
  auto starter = LocalStarter::Create({.agent_binary = AgentBinary(),
                                       .run_dir = folder,
                                       .log_folder = folder,
                                       .spawn_timeout = absl::Milliseconds(200)});
  ASSERT_TRUE(starter.ok()) << starter.status();
  const absl::Status status = (*starter)->Start(NodeId(0), Node("127.0.0.1")).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("or of its log " + log));
  EXPECT_THAT(std::string(status.message()), HasSubstr("--run-dir"));
  (*starter)->EndAll(absl::ZeroDuration());
  starter->reset();
  const int reader = open(log.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);  // lets the thread go
  EXPECT_GE(reader, 0);
  close(reader);
  EXPECT_TRUE(DescendantsOf(getpid()).empty()) << "nothing is started after the end";
}

TEST(LocalStarter, LogThatCannotBeRead_HoldsUpNoMessage) {
  const std::string folder = TemporaryFolder();
  const std::string script = folder + "/agent";
  const std::string log = folder + "/agent-0.log";
  // Whoever reads its log from then on waits for a writer.
  std::ofstream(script) << "#!/bin/sh\nrm " << log << "\nmkfifo " << log << "\nexit 3\n";
  chmod(script.c_str(), 0755);
  const std::string said = [&] {
    auto starter =
        LocalStarter::Create({.agent_binary = script, .run_dir = folder, .log_folder = folder});
    EXPECT_TRUE(starter.ok()) << starter.status();
    return std::string((*starter)->Start(NodeId(0), Node("127.0.0.1")).status().message());
  }();
  EXPECT_THAT(said,
              HasSubstr("it exited with code 3; its own log says (" + log + "):\n  (no answer"));
  const int writer = open(log.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC);  // lets the thread go
  EXPECT_GE(writer, 0);
  close(writer);
}

TEST(LocalStarter, OrphanOfAKilledAgent_IsKilledByEndAll) {
  const std::string folder = TemporaryFolder();
  const std::string script = folder + "/agent";
  // Leaves a grandchild in a session of its own, and says what no agent says.
  std::ofstream(script) << "#!/bin/sh\nsetsid sleep 1000 &\necho 4711 >&4\nexec sleep 1000\n";
  chmod(script.c_str(), 0755);
  auto starter =
      LocalStarter::Create({.agent_binary = script, .run_dir = folder, .log_folder = folder});
  ASSERT_TRUE(starter.ok()) << starter.status();
  const auto endpoint = (*starter)->Start(NodeId(0), Node("127.0.0.1"));
  EXPECT_THAT(std::string(endpoint.status().message()), HasSubstr("got \"4711\""));
  // The start that failed has asked it to end, and it may have.
  if (const int32_t pid = (*starter)->pid(NodeId(0)); pid != 0) kill(pid, SIGKILL);
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

// A dsagent that somebody has started by hand.
class RunningAgent {
 public:
  explicit RunningAgent(const std::string& key_file) {
    runner_ = *PosixProcessRunner::Create({});
    int ready[2];
    EXPECT_EQ(pipe2(ready, O_CLOEXEC), 0);
    ProcessSpec spec;
    spec.executable = AgentBinary();
    spec.argv = {"dsagent", "--cluster-key-file=" + key_file, "--ready-fd=3"};
    spec.environment = {"PATH=/usr/bin:/bin"};
    spec.stderr_fd = STDERR_FILENO;
    spec.fds = {{ready[1], 3}};
    const absl::StatusOr<int32_t> pid = runner_->Spawn(spec, [](int32_t, const ProcessEnd&) {});
    EXPECT_TRUE(pid.ok()) << pid.status();
    keeper_ = pid.value_or(0);
    close(ready[1]);
    char line[16] = "";
    EXPECT_GT(read(ready[0], line, sizeof(line) - 1), 0);
    close(ready[0]);
    port_ = atoi(line);
  }
  ~RunningAgent() {
    runner_->StopGroups({keeper_}, absl::Seconds(10));
    while (!runner_->Alive().empty()) sched_yield();
  }
  int port() const { return port_; }

 private:
  std::unique_ptr<PosixProcessRunner> runner_;
  int32_t keeper_ = 0;
  int port_ = 0;
};

class RunningStarterTest : public ::testing::Test {
 protected:
  std::string KeyFile(mode_t mode, char letter = 'k') {
    const std::string path = TemporaryFolder() + "/key";
    std::ofstream(path) << std::string(32, letter);
    chmod(path.c_str(), mode);
    return path;
  }
};

TEST_F(RunningStarterTest, AgentThatRuns_IsConnectedAndProven) {
  const RunningAgent agent(KeyFile(0600));
  auto starter = RunningStarter::Create({.cluster_key_file = KeyFile(0600)});
  ASSERT_TRUE(starter.ok()) << starter.status();
  const auto endpoint = (*starter)->Start(NodeId(0), Node("127.0.0.1", agent.port()));
  ASSERT_TRUE(endpoint.ok()) << endpoint.status();
  EXPECT_EQ(endpoint->target, "127.0.0.1:" + std::to_string(agent.port()));
  EXPECT_GE(endpoint->connection->fd.get(), 0);
}

TEST_F(RunningStarterTest, AgentWithAnotherKey_IsUnauthenticatedAndSaysWhatToDo) {
  const RunningAgent agent(KeyFile(0600, 'x'));
  auto starter = RunningStarter::Create({.cluster_key_file = KeyFile(0600)});
  ASSERT_TRUE(starter.ok()) << starter.status();
  const absl::Status status =
      (*starter)->Start(NodeId(0), Node("127.0.0.1", agent.port())).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnauthenticated);
  EXPECT_THAT(std::string(status.message()),
              StartsWith("node the-host: expected a running dsagent"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("give both the same one"));
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
