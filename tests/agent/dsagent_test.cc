// The real dsagent with real ranks on this machine: what is left when somebody dies.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "agent/exit_codes.h"
#include "common/base/clock.h"
#include "common/base/process_tree.h"
#include "common/rpc/dial.h"
#include "tests/agent/agent_client.h"
#include "tests/agent/dsagent_process.h"

namespace dsrun::agent {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

// A dsagent with one job whose only rank has forked twice.
struct TreeJob {
  explicit TreeJob(const std::string& id, const std::string& mode = "tree") : client(agent.port()) {
    client.Send(AgentClient::Open(id, RunDir(), Rank(mode), 1));
    client.Send(AgentClient::Begin(id, 1, {0}));
    const std::string line = client.AwaitLine("ready ").value_or("");
    int rank_pid = 0, grandchild_pid = 0;
    sscanf(line.c_str(), "ready %d %d", &rank_pid, &grandchild_pid);
    if (rank_pid > 0) rank = std::make_unique<Pinned>(rank_pid);
    if (grandchild_pid > 0) grandchild = std::make_unique<Pinned>(grandchild_pid);
    EXPECT_TRUE(mode != "tree" || (rank->Alive() && grandchild->Alive()));
  }
  DsagentProcess agent;
  AgentClient client;
  std::unique_ptr<Pinned> rank;
  std::unique_ptr<Pinned> grandchild;
};

void ExpectNothingLeftOf(const TreeJob& job) {
  EXPECT_TRUE(job.rank->AwaitEnd());
  EXPECT_TRUE(job.grandchild->AwaitEnd());
  EXPECT_TRUE(DescendantsOf(job.agent.keeper_pid()).empty());
}

TEST(Dsagent, ProgramRuns_ReportsItsEndWithItsLastLines) {
  DsagentProcess agent;
  AgentClient client(agent.port());
  const std::string run_dir = RunDir();
  client.Send(AgentClient::Open("j", run_dir, Rank("lines", "30"), 1));
  const auto opened = client.Await([](const auto& m) { return m.has_opened(); });
  ASSERT_TRUE(opened.has_value());
  EXPECT_EQ(opened->opened().pid(), agent.agent_pid());
  EXPECT_GT(opened->opened().cpu_count(), 0);
  EXPECT_GT(opened->opened().memory_bytes(), 0);
  EXPECT_GT(opened->opened().memory().total_bytes(), 0);
  proto::CoordinatorMessage prepare = AgentClient::Message("j", 1);
  prepare.mutable_prepare();
  client.Send(prepare);
  const auto prepared = client.Await([](const auto& m) { return m.has_prepared(); });
  ASSERT_TRUE(prepared.has_value());
  const proto::NodeMemory& memory = prepared->prepared().memory();
  EXPECT_GT(memory.available_bytes(), 0);
  EXPECT_LE(memory.available_bytes(), memory.total_bytes());
  EXPECT_EQ(memory.ranks_bytes(), 0);
  EXPECT_EQ(memory.boot_id().size(), 36u);
  client.Send(AgentClient::Begin("j", 1, {0}));
  const auto exited = client.Await([](const auto& m) { return m.has_worker_exited(); });
  ASSERT_TRUE(exited.has_value());
  EXPECT_EQ(exited->generation(), 1);
  EXPECT_EQ(exited->worker_exited().exit_code(), 3);
  EXPECT_EQ(exited->worker_exited().term_signal(), 0);
  EXPECT_FALSE(exited->worker_exited().killed_by_agent());
  ASSERT_EQ(exited->worker_exited().last_lines_size(), 20);
  EXPECT_EQ(exited->worker_exited().last_lines(0), "line 10");
  EXPECT_EQ(exited->worker_exited().last_lines(19), "line 29");
  std::ifstream log(run_dir + "/logs/127.0.0.1/rank-0.gen-1.log");
  std::string first;
  std::getline(log, first);
  EXPECT_EQ(first, "line 0");
  proto::CoordinatorMessage end = AgentClient::Message("j", 1);
  end.mutable_end_job();
  client.Send(end);
  ASSERT_TRUE(client.Await([](const auto& m) { return m.has_job_ended(); }).has_value());
  EXPECT_TRUE(client.AwaitEnd().ok());
}

TEST(Dsagent, ProgramGetsTheRankVariablesAndTheJobsEnvironmentBytes) {
  DsagentProcess agent;
  AgentClient client(agent.port());
  proto::CoordinatorMessage open = AgentClient::Open("j", RunDir(), Rank("print-env"), 2);
  proto::EnvVar& variable = *open.mutable_open()->mutable_job()->add_environment();
  variable.set_name("WEIRD");
  variable.set_value("\x01 $HOME `x` \xff\"'");
  proto::EnvVar& rank = *open.mutable_open()->mutable_job()->add_environment();
  rank.set_name("RANK");
  rank.set_value("of the submitter");
  client.Send(open);
  client.Send(AgentClient::Begin("j", 1, {0, 1}));
  EXPECT_EQ(client.AwaitLine("WEIRD="), "WEIRD=\x01 $HOME `x` \xff\"'");
  EXPECT_EQ(client.AwaitLine("RANK=1"), "RANK=1");
  EXPECT_EQ(client.AwaitLine("WORLD_SIZE="), "WORLD_SIZE=2");
  EXPECT_EQ(client.AwaitLine("LOCAL_RANK=1"), "LOCAL_RANK=1");
  EXPECT_EQ(client.AwaitLine("MASTER_PORT="), "MASTER_PORT=4711");
}

TEST(Dsagent, WorkerThatLoopsInItsOwnCode_IsKilledAndNamed) {
  DsagentProcess agent({"--worker-binary=" + BuiltFile("tests/agent/stuck_worker")});
  AgentClient client(agent.port());
  proto::CoordinatorMessage open = AgentClient::Open("j", RunDir(), {}, 1);
  proto::Limits& limits = *open.mutable_open()->mutable_job()->mutable_limits();
  limits.mutable_heartbeat_interval()->set_nanos(100'000'000);
  limits.mutable_progress_timeout()->set_seconds(1);
  client.Send(open);
  client.Send(AgentClient::Begin("j", 1, {0}));
  ASSERT_TRUE(client.AwaitLine("hangs").has_value());
  // Before it is killed it says where it is.
  const auto stacks = client.Await([](const auto& m) {
    return m.has_worker_report() && m.worker_report().message().has_stacks();
  });
  ASSERT_TRUE(stacks.has_value());
  std::string text;
  for (const std::string& line : stacks->worker_report().message().stacks().lines()) {
    absl::StrAppend(&text, line, "\n");
  }
  // A sanitizer may put a frame of its own on top.
  EXPECT_THAT(text, StartsWith("main thread:\n"));
  EXPECT_THAT(text, HasSubstr("  LoopForEver()\n  main\n"));
  const auto exited = client.Await([](const auto& m) { return m.has_worker_exited(); });
  ASSERT_TRUE(exited.has_value());
  EXPECT_EQ(exited->worker_exited().reason(),
            "made no progress for 1 s in 'training' after step 17, although it is alive");
  EXPECT_TRUE(exited->worker_exited().killed_by_agent());
  EXPECT_EQ(exited->worker_exited().term_signal(), SIGKILL);
}

TEST(Dsagent, AgentKilled_ItsWholeTreeIsGone) {
  TreeJob job("j");
  ASSERT_NE(job.grandchild, nullptr);
  const absl::Duration before = Clock::Real().SteadyNow();
  kill(job.agent.agent_pid(), SIGKILL);
  ASSERT_TRUE(job.rank->AwaitEnd());
  RecordProperty("rank_dead_after_ms",
                 absl::StrCat(absl::ToInt64Milliseconds(Clock::Real().SteadyNow() - before)));
  EXPECT_EQ(job.agent.AwaitEnd(), (ProcessEnd{.exit_code = kExitAgentSignal + SIGKILL}));
  ExpectNothingLeftOf(job);
}

TEST(Dsagent, AgentStopped_IsKilledWithItsTree) {
  TreeJob job("j");
  ASSERT_NE(job.grandchild, nullptr);
  kill(job.agent.agent_pid(), SIGSTOP);
  EXPECT_EQ(job.agent.AwaitEnd(), (ProcessEnd{.exit_code = kExitAgentStopped}));
  ExpectNothingLeftOf(job);
}

TEST(Dsagent, KeeperKilled_AgentAndRanksGo) {
  TreeJob job("j");
  ASSERT_NE(job.grandchild, nullptr);
  const Pinned agent(job.agent.agent_pid());
  kill(job.agent.keeper_pid(), SIGKILL);
  EXPECT_TRUE(agent.AwaitEnd());
  ExpectNothingLeftOf(job);
}

TEST(Dsagent, KeeperTerminated_EverythingEndsOrderly) {
  TreeJob job("j");
  ASSERT_NE(job.grandchild, nullptr);
  kill(job.agent.keeper_pid(), SIGTERM);
  EXPECT_EQ(job.agent.AwaitEnd(), (ProcessEnd{.exit_code = kExitOk}));
  ExpectNothingLeftOf(job);
}

TEST(Dsagent, TwoTrees_TheOtherIsUntouched) {
  TreeJob job("j");
  TreeJob other("other");
  ASSERT_NE(job.grandchild, nullptr);
  ASSERT_NE(other.grandchild, nullptr);
  kill(job.agent.agent_pid(), SIGKILL);
  EXPECT_EQ(job.agent.AwaitEnd(), (ProcessEnd{.exit_code = kExitAgentSignal + SIGKILL}));
  ExpectNothingLeftOf(job);
  EXPECT_TRUE(other.rank->Alive());
  EXPECT_TRUE(other.grandchild->Alive());
}

TEST(Dsagent, RankLeavesAGrandchild_ItIsSweptWhileTheJobGoesOn) {
  TreeJob job("j", "leave");
  ASSERT_NE(job.grandchild, nullptr);
  EXPECT_TRUE(job.grandchild->AwaitEnd());
  const auto exited = job.client.Await([](const auto& m) { return m.has_worker_exited(); });
  ASSERT_TRUE(exited.has_value());
  EXPECT_EQ(exited->worker_exited().exit_code(), 0);
}

// Nothing tells whose it is but that it is below the agent.
TEST(Dsagent, RankLeavesAGrandchildWithoutItsMark_ItIsGoneBeforeTheNextGenerationBegins) {
  TreeJob job("j", "leave-bare");
  ASSERT_NE(job.grandchild, nullptr);
  ASSERT_TRUE(job.client.Await([](const auto& m) { return m.has_worker_exited(); }).has_value());
  EXPECT_TRUE(job.grandchild->Alive());  // no sweep of its rank finds it
  job.client.Send(AgentClient::Begin("j", 2, {0}));
  const auto second =
      job.client.Await([](const auto& m) { return m.has_worker_started() && m.generation() == 2; });
  ASSERT_TRUE(second.has_value());
  EXPECT_FALSE(job.grandchild->Alive());
}

TEST(Dsagent, EndJob_DeafRankIsKilledAfterTheGrace_AndSwept) {
  TreeJob job("j");
  ASSERT_NE(job.grandchild, nullptr);
  proto::CoordinatorMessage end = AgentClient::Message("j", 1);
  end.mutable_end_job();
  job.client.Send(end);
  ASSERT_TRUE(job.client.Await([](const auto& m) { return m.has_job_ended(); }).has_value());
  EXPECT_TRUE(job.rank->AwaitEnd());
  EXPECT_TRUE(job.grandchild->AwaitEnd());
}

TEST(Dsagent, OneJob_ExitsAfterItsEnd) {
  DsagentProcess agent({"--one-job"});
  AgentClient client(agent.port());
  client.Send(AgentClient::Open("j", RunDir(), Rank("ignore-term"), 2));
  client.Send(AgentClient::Begin("j", 1, {0, 1}));
  client.AwaitLine("ready ");
  proto::CoordinatorMessage end = AgentClient::Message("j", 1);
  end.mutable_end_job();
  client.Send(end);
  ASSERT_TRUE(client.Await([](const auto& m) { return m.has_job_ended(); }).has_value());
  EXPECT_EQ(agent.AwaitEnd(), (ProcessEnd{.exit_code = kExitOk}));
}

TEST(Dsagent, OneJobThatNeverComes_EndsInTimeWithNothingLeft) {
  DsagentProcess agent({"--one-job", "--first-job-within=1s"});
  const int32_t pid = agent.agent_pid();  // 0: it is gone already
  const Pinned child(pid != 0 ? pid : agent.keeper_pid());
  EXPECT_EQ(agent.AwaitEnd(), (ProcessEnd{.exit_code = kExitOk}));
  EXPECT_TRUE(child.AwaitEnd());
}

TEST(Dsagent, OneJobOnAStreamThatNeverOpens_EndsInTimeAndTheStreamWithIt) {
  DsagentProcess agent({"--one-job", "--first-job-within=1s"});
  AgentClient client(agent.port());
  EXPECT_EQ(agent.AwaitEnd(), (ProcessEnd{.exit_code = kExitOk}));
  EXPECT_FALSE(client.AwaitEnd().ok());
}

TEST(Dsagent, OneJobThatCame_IsNotEndedByTheWaitForTheFirst) {
  DsagentProcess agent({"--one-job", "--first-job-within=2s"});
  AgentClient client(agent.port());
  proto::CoordinatorMessage open = AgentClient::Open("j", RunDir(), Rank("wait"), 1);
  open.mutable_open()->mutable_job()->mutable_limits()->mutable_heartbeat_interval()->set_nanos(
      250'000'000);
  client.Send(open);
  client.Send(AgentClient::Begin("j", 1, {0}));
  int beats = 0;
  EXPECT_TRUE(client  // 12 x 250 ms: beyond the 2 s
                  .Await([&](const auto& m) { return m.has_heartbeat() && ++beats == 12; })
                  .has_value());
}

TEST(Dsagent, NobodyReadsItsPort_OneJobEndsAtOnce) {
  const std::string key = RunDir() + "/key";
  std::ofstream(key) << "0123456789abcdef0123456789abcdef\n";
  chmod(key.c_str(), 0600);
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  close(ready[0]);
  Mutex mu;
  CondVar changed;
  std::optional<ProcessEnd> end;
  auto runner = *PosixProcessRunner::Create({});
  ProcessSpec spec;
  spec.executable = BuiltFile("agent/dsagent");
  spec.argv = {"dsagent", "--cluster-key-file=" + key, "--ready-fd=4", "--one-job"};
  spec.environment = {"PATH=/usr/bin:/bin"};
  spec.fds = {{ready[1], 4}};
  spec.stdout_fd = spec.stderr_fd = STDERR_FILENO;
  ASSERT_TRUE(runner
                  ->Spawn(spec,
                          [&](int32_t, const ProcessEnd& how) {
                            MutexLock lock(mu);
                            end = how;
                            changed.NotifyAll();
                          })
                  .ok());
  close(ready[1]);
  // Less than the 30 s that it would wait for a job.
  const SteadyTime deadline = Clock::Real().SteadyNow() + absl::Seconds(20);
  MutexLock lock(mu);
  while (!end.has_value() && Clock::Real().SteadyNow() < deadline) {
    changed.WaitFor(mu, absl::Seconds(1));
  }
  EXPECT_EQ(end, (ProcessEnd{.exit_code = kExitOk}));
}

TEST(Dsagent, CoordinatorGone_RanksRunUntilTheLease_ThenNothingIsLeft) {
  DsagentProcess agent({"--one-job"});
  auto client = std::make_unique<AgentClient>(agent.port());
  proto::CoordinatorMessage open = AgentClient::Open("j", RunDir(), Rank("wait"), 1);
  open.mutable_open()->mutable_job()->mutable_limits()->mutable_lease()->set_seconds(3);
  client->Send(open);
  client->Send(AgentClient::Begin("j", 1, {0}));
  int pid = 0;
  sscanf(client->AwaitLine("ready ").value_or("").c_str(), "ready %d", &pid);
  ASSERT_GT(pid, 0);
  const Pinned rank(pid);
  client.reset();
  EXPECT_TRUE(rank.Alive());  // not at once: the lease
  EXPECT_TRUE(rank.AwaitEnd());
  EXPECT_EQ(agent.AwaitEnd(), (ProcessEnd{.exit_code = kExitOk}));
}

TEST(Dsagent, WrongClusterKey_IsSaidOnBothSides_AndTheKeysOwnerIsServed) {
  testing::internal::CaptureStderr();
  {
    DsagentProcess agent;
    const absl::Status wrong = DialAgent(absl::StrCat("127.0.0.1:", agent.port()),
                                         "not the key of this agent", absl::Seconds(20))
                                   .status();
    EXPECT_EQ(wrong.code(), absl::StatusCode::kUnauthenticated) << wrong;
    EXPECT_THAT(std::string(wrong.message()), HasSubstr("cluster key"));
    AgentClient client(agent.port());
    client.Send(AgentClient::Open("j", RunDir(), Rank("exit", "0"), 1));
    EXPECT_TRUE(client.Await([](const auto& m) { return m.has_opened(); }).has_value());
  }
  EXPECT_THAT(testing::internal::GetCapturedStderr(),
              HasSubstr("hung up at our proof: it has another cluster key"));
}

TEST(Dsagent, OnAUnixSocket_ServesWithoutAPort) {
  const SocketFolder folder;
  const std::string socket = "unix:" + folder.path() + "/agent.sock";
  DsagentProcess agent({"--listen=" + socket});
  EXPECT_EQ(agent.port(), 0);
  AgentClient client(socket);
  client.Send(AgentClient::Open("j", RunDir(), Rank("exit", "0"), 1));
  EXPECT_TRUE(client.Await([](const auto& m) { return m.has_opened(); }).has_value());
}

TEST(Dsagent, SecondJob_IsRefusedUntilTheFirstIsOver) {
  TreeJob job("j");
  AgentClient second(job.agent.port());
  second.Send(AgentClient::Open("k", RunDir(), Rank("wait"), 1));
  EXPECT_EQ(second.AwaitEnd().code(), absl::StatusCode::kResourceExhausted);
  proto::CoordinatorMessage end = AgentClient::Message("j", 1);
  end.mutable_end_job();
  job.client.Send(end);
  ASSERT_TRUE(job.client.AwaitEnd().ok());
  AgentClient third(job.agent.port());
  third.Send(AgentClient::Open("k", RunDir(), Rank("exit", "0"), 1));
  EXPECT_TRUE(third.Await([](const auto& m) { return m.has_opened(); }).has_value());
}

TEST(Dsagent, SaveFolderNotShared_IsRefused) {
  DsagentProcess agent;
  AgentClient client(agent.port());
  proto::CoordinatorMessage open = AgentClient::Open("j", RunDir(), Rank("wait"), 1);
  open.mutable_open()->set_probe_path("/nowhere/probe");
  open.mutable_open()->set_probe_content("x");
  client.Send(open);
  const absl::Status end = client.AwaitEnd();
  EXPECT_EQ(end.code(), absl::StatusCode::kFailedPrecondition) << end;
  EXPECT_THAT(std::string(end.message()), HasSubstr("/nowhere/probe"));
}

TEST(Dsagent, KeyReadableByOthers_IsRefusedAtTheStart) {
  const std::string path = RunDir() + "/key";
  std::ofstream(path) << "0123456789abcdef0123456789abcdef\n";
  chmod(path.c_str(), 0644);
  auto runner = *PosixProcessRunner::Create({});
  Mutex mu;
  CondVar changed;
  std::optional<ProcessEnd> end;
  ProcessSpec spec;
  spec.executable = BuiltFile("agent/dsagent");
  spec.argv = {"dsagent", "--cluster-key-file", path};
  spec.stderr_fd = STDERR_FILENO;
  ASSERT_TRUE(runner
                  ->Spawn(spec,
                          [&](int32_t, const ProcessEnd& e) {
                            MutexLock lock(mu);
                            end = e;
                            changed.NotifyAll();
                          })
                  .ok());
  MutexLock lock(mu);
  while (!end.has_value()) changed.Wait(mu);
  EXPECT_EQ(end->exit_code, kExitUsage);
}

TEST(Dsagent, DescriptorThatIsNotOpen_IsRefusedAtTheStart) {
  for (const char* flag : {"--ready-fd=77", "--cluster-key-fd=77"}) {
    DsagentProcess agent({flag});
    const std::optional<ProcessEnd> end = agent.AwaitEnd();
    ASSERT_TRUE(end.has_value());
    EXPECT_EQ(end->exit_code, kExitUsage) << flag;
  }
}

TEST(Dsagent, WithoutProc_SaysThatItNeedsItAndEnds) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "the address sanitizer needs /proc itself";
#endif
  constexpr int kNotHere = 77;
  int said[2];
  ASSERT_EQ(pipe2(said, O_CLOEXEC), 0);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    const std::string binary = BuiltFile("agent/dsagent");
    if (unshare(CLONE_NEWNS) != 0 ||
        mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        mount("tmpfs", "/proc", "tmpfs", 0, nullptr) != 0) {
      _exit(kNotHere);
    }
    dup2(said[1], STDERR_FILENO);
    execl(binary.c_str(), "dsagent", "--cluster-key-file=/nowhere", nullptr);
    _exit(kNotHere);
  }
  close(said[1]);
  std::string text;
  char byte = 0;
  while (read(said[0], &byte, 1) == 1) text += byte;
  close(said[0]);
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status)) << "signal " << WTERMSIG(status);
  if (WEXITSTATUS(status) == kNotHere) GTEST_SKIP() << "needs root, and leave to mount";
  EXPECT_EQ(WEXITSTATUS(status), kExitCannotStart);
  EXPECT_THAT(text, StartsWith("dsagent: needs /proc mounted"));
}

TEST(Dsagent, SocketFolderOfAnotherAgent_IsRefusedAtTheStart_AndNotRemoved) {
  std::string folder = "/tmp/dsagent-XXXXXX";
  ASSERT_NE(mkdtemp(folder.data()), nullptr);
  const int theirs = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  ASSERT_EQ(flock(theirs, LOCK_EX | LOCK_NB), 0);
  DsagentProcess agent({"--socket-dir=" + folder});
  const std::optional<ProcessEnd> end = agent.AwaitEnd();
  ASSERT_TRUE(end.has_value());
  EXPECT_EQ(end->exit_code, kExitUsage);
  EXPECT_EQ(rmdir(folder.c_str()), 0);  // it is there, and empty
  close(theirs);
}

}  // namespace
}  // namespace dsrun::agent
