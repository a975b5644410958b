// The real dsagent where the machine fails it: disks that do not answer, descriptors that are not
// there, an old kernel, strangers among its children.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "agent/exit_codes.h"
#include "common/base/logging.h"
#include "common/base/process_tree.h"
#include "tests/agent/agent_client.h"
#include "tests/agent/dsagent_process.h"
#include "tests/support/kernel_faults.h"

namespace dsrun::agent {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

proto::CoordinatorMessage EndOf(const std::string& id) {
  proto::CoordinatorMessage end = AgentClient::Message(id, 1);
  end.mutable_end_job();
  return end;
}

const std::string& NoticeIn(const proto::AgentMessage& message) {
  return message.worker_report().message().notice().text();
}

// A named pipe that nobody reads stands for a log on a disk that does not answer.
TEST(Dsagent, LogThatHangs_TheRanksEndIsToldAtOnce_AndWhatTheLogLacks) {
  DsagentProcess agent;
  AgentClient client(agent.port());
  const std::string run_dir = RunDir();
  const std::string log = run_dir + "/logs/127.0.0.1/rank-0.gen-1.log";
  std::filesystem::create_directories(std::filesystem::path(log).parent_path());
  ASSERT_EQ(mkfifo(log.c_str(), 0600), 0);
  client.Send(AgentClient::Open("j", run_dir, Rank("lines", "30"), 2));
  client.Send(AgentClient::Begin("j", 1, {0, 1}));
  for (const int slot : {0, 1}) {
    const auto exited = client.Await(
        [&](const auto& m) { return m.has_worker_exited() && m.worker_exited().slot() == slot; });
    ASSERT_TRUE(exited.has_value());
    EXPECT_EQ(exited->worker_exited().exit_code(), 3);
    EXPECT_EQ(exited->worker_exited().last_lines_size(), 20);
    EXPECT_EQ(exited->worker_exited().last_lines(19), "line 29");
  }
  client.Send(EndOf("j"));
  EXPECT_TRUE(client.Await([&](const auto& m) {
    return NoticeIn(m).starts_with("the log " + log + " lacks 230 bytes");
  }));
  EXPECT_TRUE(client.AwaitEnd().ok());
  std::ifstream other(run_dir + "/logs/127.0.0.1/rank-1.gen-1.log");
  EXPECT_EQ(std::string(std::istreambuf_iterator<char>(other), {}).size(), 230u);
  std::ifstream read(log);  // the disk answers
  EXPECT_EQ(std::string(std::istreambuf_iterator<char>(read), {}).size(), 230u);
}

// A limit of descriptors under which that process can open two more: enough to look at /proc, and
// not to start a process.
rlim_t LimitWithTwoFree(int32_t pid) {
  std::set<rlim_t> open;
  for (const auto& entry :
       std::filesystem::directory_iterator(absl::StrCat("/proc/", pid, "/fd"))) {
    open.insert(static_cast<rlim_t>(atoi(entry.path().filename().c_str())));
  }
  rlim_t limit = 0;
  for (int free = 0; free < 2; ++limit) free += open.contains(limit) ? 0 : 1;
  return limit;
}

TEST(Dsagent, NoDescriptorLeft_IsTheNodesLackAndNotTheRanksEnd) {
  DsagentProcess agent;
  AgentClient client(agent.port());
  client.Send(AgentClient::Open("j", RunDir(), Rank("exit", "0"), 1));
  ASSERT_TRUE(client.Await([](const auto& m) { return m.has_opened(); }).has_value());
  const int32_t pid = agent.agent_pid();
  rlimit before;
  ASSERT_EQ(prlimit(pid, RLIMIT_NOFILE, nullptr, &before), 0);
  const rlimit few = {LimitWithTwoFree(pid), before.rlim_max};
  ASSERT_EQ(prlimit(pid, RLIMIT_NOFILE, &few, nullptr), 0);
  client.Send(AgentClient::Begin("j", 1, {0}));
  const auto exited = client.Await([](const auto& m) { return m.has_worker_exited(); });
  ASSERT_TRUE(exited.has_value());
  EXPECT_TRUE(exited->worker_exited().node_lacked());
  EXPECT_THAT(exited->worker_exited().reason(),
              HasSubstr(absl::StrCat("(RLIMIT_NOFILE) is ", few.rlim_cur, "; raise it with")));
  prlimit(pid, RLIMIT_NOFILE, &before, nullptr);
  client.Send(AgentClient::Begin("j", 2, {0}));
  EXPECT_TRUE(client.Await([](const auto& m) { return m.has_worker_started(); }).has_value());
}

// exec of the ranks' program does not come back. The agent's own heartbeats, and its end, do not
// wait for it.
TEST(Dsagent, ExecThatHangs_HoldsUpNeitherHeartbeatsNorTheEndOfTheJob) {
  HeldProgram program(BuiltFile("tests/agent/rank_helper"));
  if (!program.held()) GTEST_SKIP() << "no file can be leased here";
  DsagentProcess agent;
  AgentClient client(agent.port());
  proto::CoordinatorMessage open = AgentClient::Open("j", RunDir(), {program.path(), "wait"}, 2);
  open.mutable_open()->mutable_job()->mutable_limits()->mutable_heartbeat_interval()->set_nanos(
      100'000'000);
  client.Send(open);
  client.Send(AgentClient::Begin("j", 1, {0, 1}));
  ASSERT_TRUE(program.AwaitWaiter());
  int beats = 0;
  EXPECT_TRUE(client.Await([&](const auto& m) { return m.has_heartbeat() && ++beats == 5; }));
  client.Send(EndOf("j"));
  const auto exited = client.Await([](const auto& m) { return m.has_worker_exited(); });
  ASSERT_TRUE(exited.has_value());
  EXPECT_THAT(exited->worker_exited().reason(), HasSubstr("the kernel has not come back with it"));
  EXPECT_TRUE(exited->worker_exited().node_lacked());
  EXPECT_TRUE(client.Await([](const auto& m) { return m.has_job_ended(); }).has_value());
  EXPECT_TRUE(client.AwaitEnd().ok());
  std::vector<ProcessInfo> left = DescendantsOf(agent.agent_pid());
  std::erase_if(left, [](const ProcessInfo& info) { return info.state == 'Z'; });
  EXPECT_TRUE(left.empty());  // swept: it never runs
}

TEST(Dsagent, KernelWithoutPidfds_SaysThatItNeedsThemAndEnds) {
  int said[2];
  ASSERT_EQ(pipe2(said, O_CLOEXEC), 0);
  const std::string binary = BuiltFile("agent/dsagent");
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    if (!RefuseCall(SYS_pidfd_open, ENOSYS)) _exit(kExitOk);
    dup2(said[1], STDERR_FILENO);
    execl(binary.c_str(), "dsagent", "--cluster-key-file=/nowhere", nullptr);
    _exit(kExitOk);
  }
  close(said[1]);
  std::string text;
  char byte = 0;
  while (read(said[0], &byte, 1) == 1) text += byte;
  close(said[0]);
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(WEXITSTATUS(status), kExitCannotStart);
  EXPECT_THAT(text, StartsWith("dsagent: needs the system call pidfd_open"));
}

// As `exec dsagent > >(tee log)` in a shell, whose tee starts somebody who gets lost: nobody of
// whoever was there before dsagent ends with it.
TEST(Dsagent, ChildrenOfWhoeverStartedIt_AreLeft_AlsoThoseThatLoseTheirParent) {
  const std::string key = RunDir() + "/key";
  std::ofstream(key) << "0123456789abcdef0123456789abcdef\n";
  chmod(key.c_str(), 0600);
  const std::string binary = BuiltFile("agent/dsagent");
  int ready[2], go[2], lost[2], held[2], stay[2];
  for (int* pipe : {go, lost, held, stay}) ASSERT_EQ(pipe2(pipe, O_CLOEXEC), 0);
  ASSERT_EQ(pipe(ready), 0);
  const pid_t dsagent = fork();
  ASSERT_GE(dsagent, 0);
  char byte = 0;
  if (dsagent == 0) {
    close(stay[1]);
    if (fork() == 0) {
      (void)!read(go[0], &byte, 1);
      if (fork() == 0) {
        if (fork() != 0) _exit(0);
        setsid();
        (void)!write(lost[1], "r", 1);
        (void)!read(stay[0], &byte, 1);
        _exit(0);
      }
      close(held[1]);
      (void)!read(stay[0], &byte, 1);
      _exit(0);
    }
    const std::string ready_fd = absl::StrCat("--ready-fd=", ready[1]);
    execl(binary.c_str(), "dsagent", ("--cluster-key-file=" + key).c_str(), ready_fd.c_str(),
          nullptr);
    _exit(1);
  }
  close(held[1]);
  close(ready[1]);
  while (read(ready[0], &byte, 1) == 1 && byte != '\n') {
  }
  ASSERT_EQ(write(go[1], "r", 1), 1);
  ASSERT_EQ(read(lost[0], &byte, 1), 1);
  kill(dsagent, SIGTERM);  // no job: it ends
  int status = 0;
  ASSERT_EQ(waitpid(dsagent, &status, 0), dsagent);
  EXPECT_EQ(WEXITSTATUS(status), kExitOk);
  pollfd end{.fd = held[0], .events = POLLIN, .revents = 0};
  EXPECT_EQ(poll(&end, 1, 0), 0) << "the lost one was ended";
  for (const int fd : {ready[0], go[0], go[1], lost[0], lost[1], stay[0], stay[1]}) close(fd);
  EXPECT_EQ(read(held[0], &byte, 1), 0);  // it ends now
  close(held[0]);
}

// An agent for one job, started as `exec dsagent --one-job > >(tee log)` in a shell: its signals
// reach it through the process that stays behind.
class StandsApart {
 public:
  StandsApart() {
    const std::string key = RunDir() + "/key";
    std::ofstream(key) << "0123456789abcdef0123456789abcdef\n";
    chmod(key.c_str(), 0600);
    const std::string binary = BuiltFile("agent/dsagent");
    int ready[2], said[2], stay[2];
    PCHECK(pipe(ready) == 0 && pipe2(said, O_CLOEXEC) == 0 && pipe2(stay, O_CLOEXEC) == 0);
    pid_ = fork();
    PCHECK(pid_ >= 0);
    if (pid_ == 0) {
      close(stay[1]);
      char byte = 0;
      if (fork() == 0) {
        close(ready[1]);  // the agent's alone: its end, ready or not, ends the wait below
        _exit(static_cast<int>(read(stay[0], &byte, 1)));
      }
      dup2(said[1], STDERR_FILENO);
      const std::string ready_fd = absl::StrCat("--ready-fd=", ready[1]);
      execl(binary.c_str(), "dsagent", "--one-job", ("--cluster-key-file=" + key).c_str(),
            ready_fd.c_str(), nullptr);
      _exit(1);
    }
    for (const int fd : {ready[1], said[1], stay[0]}) close(fd);
    char byte = 0;
    while (read(ready[0], &byte, 1) == 1 && byte != '\n') {
    }
    close(ready[0]);
    said_ = said[0];
    stay_ = stay[1];
  }
  ~StandsApart() {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    close(stay_);
    Hear("nothing that it says: until all of it has ended");
    close(said_);
  }

  pid_t pid() const { return pid_; }
  // What it says, to the first line with one of these words or its end.
  std::string Hear(const std::string& words, const std::string& others = "\n\n") {
    std::string line;
    char byte = 0;
    while (read(said_, &byte, 1) == 1) {
      line += byte;
      if (byte != '\n') continue;
      if (line.find(words) != line.npos || line.find(others) != line.npos) return line;
      line.clear();
    }
    return line;
  }

 private:
  pid_t pid_ = 0;
  int said_ = -1;
  int stay_ = -1;
};

TEST(Dsagent, OneJobThatStandsApart_TakesItsStartersTermAsAnOrderAndAnybodyElsesAsARequest) {
  constexpr char kRequest[] = "got signal 15 from process";
  constexpr char kOrder[] = "told to end";
  {
    StandsApart agent;
    const pid_t stranger = fork();
    if (stranger == 0) _exit(kill(agent.pid(), SIGTERM) == 0 ? 0 : 1);
    waitpid(stranger, nullptr, 0);
    EXPECT_THAT(agent.Hear(kRequest, kOrder), HasSubstr(kRequest));
  }
  StandsApart agent;
  kill(agent.pid(), SIGTERM);
  EXPECT_THAT(agent.Hear(kRequest, kOrder), HasSubstr(kOrder));
}

}  // namespace
}  // namespace dsrun::agent
