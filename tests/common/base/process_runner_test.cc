// One conformance suite for every ProcessRunner, then what only real processes can show.

#include "common/base/process_runner.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "common/base/clock.h"
#include "common/base/mutex.h"
#include "common/base/posix_process_runner.h"
#include "common/base/process_spawn.h"
#include "common/base/process_tree.h"
#include "common/base/process_user.h"
#include "tests/fakes/fake_process_runner.h"

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

// Remembers ends and waits for them.
class Ends {
 public:
  ProcessRunner::OnEnd Callback() {
    return [this](int32_t pid, const ProcessEnd& end) {
      MutexLock lock(mu_);
      ends_.emplace(pid, end);
      changed_.NotifyAll();
    };
  }
  // How `pid` ended; fails the test after 20 s.
  ProcessEnd Await(int32_t pid) {
    const absl::Duration deadline = Clock::Real().SteadyNow() + absl::Seconds(20);
    MutexLock lock(mu_);
    while (!ends_.contains(pid)) {
      const absl::Duration left = deadline - Clock::Real().SteadyNow();
      if (left <= absl::ZeroDuration()) {
        ADD_FAILURE() << "pid " << pid << " did not end";
        return {};
      }
      changed_.WaitFor(mu_, left);
    }
    return ends_.find(pid)->second;
  }
  size_t CountOf(int32_t pid) {
    MutexLock lock(mu_);
    return ends_.count(pid);
  }
  size_t Count() {
    MutexLock lock(mu_);
    return ends_.size();
  }

 private:
  Mutex mu_;
  CondVar changed_;
  std::multimap<int32_t, ProcessEnd> ends_;
};

// An implementation under test.
struct Subject {
  std::unique_ptr<ProcessRunner> runner;
  std::string executable;
  std::function<void(absl::Duration)> pass_time;  // for ladders; real time passes by itself
  bool real = false;
};

Subject MakeReal() {
  return {*PosixProcessRunner::Create({}), ChildBinary(), [](absl::Duration) {}, true};
}

Subject MakeFake() {
  auto fake = std::make_unique<FakeProcessRunner>();
  fake->AddExecutable("/fake/child");
  FakeProcessRunner* control = fake.get();
  return {std::move(fake), "/fake/child", [control](absl::Duration d) { control->Advance(d); },
          false};
}

class ProcessRunnerTest : public ::testing::TestWithParam<Subject (*)()> {
 protected:
  // Starts a child and, where that means something, waits until it is in its final state.
  int32_t Start(std::vector<std::string> arguments) {
    int fds[2] = {-1, -1};
    EXPECT_EQ(pipe2(fds, O_CLOEXEC), 0);
    ProcessSpec spec;
    spec.executable = subject_.executable;
    spec.argv = {"child"};
    spec.argv.insert(spec.argv.end(), arguments.begin(), arguments.end());
    spec.stdout_fd = fds[1];
    const absl::StatusOr<int32_t> pid = subject_.runner->Spawn(spec, ends_.Callback());
    EXPECT_TRUE(pid.ok()) << pid.status();
    close(fds[1]);
    char ready = 0;
    if (subject_.real && arguments[0] != "exit") {
      EXPECT_EQ(read(fds[0], &ready, 1), 1);
    }
    close(fds[0]);
    return pid.value_or(-1);
  }
  Ends ends_;
  Subject subject_ = GetParam()();
};

TEST_P(ProcessRunnerTest, Exit_IsToldOnceWithItsCode) {
  const int32_t pid = Start({"exit", "7"});
  EXPECT_EQ(ends_.Await(pid), (ProcessEnd{.exit_code = 7}));
  subject_.runner.reset();
  EXPECT_EQ(ends_.CountOf(pid), 1u);
}

TEST_P(ProcessRunnerTest, Kill_IsToldWithItsSignal) {
  const int32_t pid = Start({"wait"});
  EXPECT_THAT(subject_.runner->Alive(), ElementsAre(pid));
  subject_.runner->SignalGroup(pid, SIGKILL);
  EXPECT_EQ(ends_.Await(pid).term_signal, SIGKILL);
  EXPECT_THAT(subject_.runner->Alive(), ElementsAre());
}

TEST_P(ProcessRunnerTest, SignalAfterTheEnd_IsHarmless) {
  const int32_t pid = Start({"exit", "0"});
  ends_.Await(pid);
  subject_.runner->SignalGroup(pid, SIGKILL);
  subject_.runner->StopGroups({pid, 999999}, absl::ZeroDuration());
}

TEST_P(ProcessRunnerTest, NoSuchExecutable_IsNotFound) {
  ProcessSpec spec;
  spec.executable = "/nowhere/at/all";
  spec.argv = {"x"};
  EXPECT_EQ(subject_.runner->Spawn(spec, ends_.Callback()).status().code(),
            absl::StatusCode::kNotFound);
  subject_.runner.reset();
  EXPECT_EQ(ends_.Count(), 0u);
}

TEST_P(ProcessRunnerTest, NulByteInArgv_IsInvalid) {
  ProcessSpec spec;
  spec.executable = subject_.executable;
  spec.argv = {"child", std::string("a\0b", 3)};
  EXPECT_EQ(subject_.runner->Spawn(spec, ends_.Callback()).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_P(ProcessRunnerTest, Ladder_TermForTheWilling_KillForTheDeaf_OneGraceForAll) {
  const absl::Duration grace = absl::Milliseconds(300);
  const int32_t willing = Start({"wait"});
  std::vector<int32_t> pids = {willing};
  for (int i = 0; i < 4; ++i) pids.push_back(Start({"ignore-term"}));
  const absl::Duration before = Clock::Real().SteadyNow();
  subject_.runner->StopGroups(pids, grace);
  EXPECT_EQ(ends_.Await(willing).term_signal, SIGTERM);
  subject_.pass_time(grace);
  for (size_t i = 1; i < pids.size(); ++i) EXPECT_EQ(ends_.Await(pids[i]).term_signal, SIGKILL);
  if (subject_.real) {
    EXPECT_GE(Clock::Real().SteadyNow() - before, grace);
  }
}

TEST_P(ProcessRunnerTest, SecondLadder_ShortensTheGrace) {
  const int32_t deaf = Start({"ignore-term"});
  subject_.runner->StopGroups({deaf}, absl::Hours(1));
  subject_.runner->StopGroups({deaf}, absl::Milliseconds(10));
  subject_.pass_time(absl::Milliseconds(10));
  EXPECT_EQ(ends_.Await(deaf).term_signal, SIGKILL);
}

TEST_P(ProcessRunnerTest, Destruction_KillsAndTellsEveryEnd) {
  const int32_t one = Start({"wait"});
  const int32_t two = Start({"ignore-term"});
  subject_.runner.reset();
  EXPECT_EQ(ends_.CountOf(one), 1u);
  EXPECT_EQ(ends_.CountOf(two), 1u);
  if (subject_.real) {
    // No zombie is left: this process has no child at all.
    EXPECT_EQ(waitpid(-1, nullptr, WNOHANG), -1);
    EXPECT_EQ(errno, ECHILD);
  }
}

INSTANTIATE_TEST_SUITE_P(All, ProcessRunnerTest, ::testing::Values(&MakeReal, &MakeFake),
                         [](const auto& info) { return info.index == 0 ? "Posix" : "Fake"; });

// ---- Real processes only

std::string ReadAll(int fd) {
  std::string content;
  char buffer[65536];
  ssize_t got = 0;
  while ((got = read(fd, buffer, sizeof(buffer))) > 0) content.append(buffer, got);
  close(fd);
  return content;
}

// Runs the child and returns what it wrote to standard output.
std::string Output(PosixProcessRunner& runner, ProcessSpec spec) {
  int fds[2];
  EXPECT_EQ(pipe2(fds, O_CLOEXEC), 0);
  spec.executable = ChildBinary();
  spec.stdout_fd = fds[1];
  Ends ends;
  const absl::StatusOr<int32_t> pid = runner.Spawn(spec, ends.Callback());
  EXPECT_TRUE(pid.ok()) << pid.status();
  close(fds[1]);
  std::string content = ReadAll(fds[0]);
  if (pid.ok()) {
    EXPECT_EQ(ends.Await(*pid), ProcessEnd{});
  }
  return content;
}

std::vector<std::string> ParseStrings(std::string_view bytes, uint32_t* argument_count) {
  memcpy(argument_count, bytes.data(), 4);
  bytes.remove_prefix(4);
  std::vector<std::string> strings;
  while (bytes.size() >= 4) {
    uint32_t size = 0;
    memcpy(&size, bytes.data(), 4);
    strings.emplace_back(bytes.substr(4, size));
    bytes.remove_prefix(4 + size);
  }
  return strings;
}

TEST(PosixProcessRunner, ArgvAndEnvironmentArriveByteForByte) {
  const unsigned seed = std::random_device()();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  const auto bytes = [&](size_t max) {
    std::string s(std::uniform_int_distribution<size_t>(0, max)(random), '\0');
    for (char& c : s) c = static_cast<char>(std::uniform_int_distribution<int>(1, 255)(random));
    return s;
  };
  auto runner = *PosixProcessRunner::Create({});
  int vectors = 0;
  while (vectors < 1000) {
    ProcessSpec spec;
    std::vector<std::string> expected;
    spec.argv = {"child", "echo"};
    for (int i = 0; i < 20; ++i, ++vectors) {
      spec.argv.push_back(bytes(i == 0 ? 100'000 : 200));
      expected.push_back(spec.argv.back());
    }
    for (int i = 0; i < 20; ++i, ++vectors) {
      std::string name = "N" + std::to_string(i);
      spec.environment.push_back(name + "=" + bytes(i == 0 ? 100'000 : 200));
      expected.push_back(spec.environment.back());
    }
    uint32_t count = 0;
    ASSERT_EQ(ParseStrings(Output(*runner, spec), &count), expected);
    ASSERT_EQ(count, 20u);
  }
}

TEST(PosixProcessRunner, ChildHasItsDescriptorsItsFolderAndDefaultSignals) {
  auto runner = *PosixProcessRunner::Create({});
  // Open descriptors without close-on-exec, an ignored and a blocked signal: none may leak.
  const int leak = open("/dev/null", O_RDONLY);
  const int other = open("/dev/zero", O_RDONLY);
  signal(SIGUSR1, SIG_IGN);
  ProcessSpec spec;
  spec.argv = {"child", "fds"};
  // Under address sanitizer the child would install handlers of its own.
  spec.environment = {
      "ASAN_OPTIONS=handle_segv=0:handle_sigbus=0:handle_sigfpe=0:handle_sigill=0:handle_abort=0"};
  spec.working_dir = "/proc";
  // A swap of numbers that are in use here.
  spec.fds = {{leak, other}, {other, leak == 3 ? 3 : leak}};
  const int low = std::min(leak, other), high = std::max(leak, other);
  const std::string output = Output(*runner, spec);
  signal(SIGUSR1, SIG_DFL);
  close(leak);
  close(other);
  EXPECT_THAT(output,
              HasSubstr("fds 0 1 2 " + std::to_string(low) + " " + std::to_string(high) + "\n"));
  EXPECT_THAT(output, HasSubstr("folder /proc\n"));
  EXPECT_THAT(output, HasSubstr("leader 1 1\n"));
  EXPECT_THAT(output, HasSubstr("signals 0\n"));
}

TEST(PosixProcessRunner, RestOfTheGroupDiesWithItsLeader) {
  ASSERT_TRUE(BecomeSubreaper());
  auto runner = *PosixProcessRunner::Create({.reap_adopted = true});
  ProcessSpec spec;
  spec.argv = {"child", "group"};
  const int32_t left_behind = atoi(Output(*runner, spec).c_str());
  ASSERT_GT(left_behind, 0);
  EXPECT_EQ(KillDescendants(
                getpid(), [](const ProcessInfo&) { return false; }, absl::Seconds(1)),
            0);
  runner.reset();
  // Adopted by this process and already dead; whoever is still a zombie is reaped here.
  while (waitpid(-1, nullptr, 0) > 0) {
  }
  EXPECT_EQ(kill(left_behind, 0), -1);
  EXPECT_EQ(errno, ESRCH);
}

// Waits for the letter that a child writes when it is ready. False: it ended without one.
bool AwaitReady(int fd) {
  char ready = 0;
  return read(fd, &ready, 1) == 1;
}

// A process that its parent cannot reap, whatever it is sent: what a child in a system call that
// does not come back looks like from outside.
TEST(PosixProcessRunner, ProcessThatIsNotGivenBack_IsNamedAndLeftAfterTheLimit) {
  constexpr absl::Duration kLimit = absl::Milliseconds(200);
  auto runner = *PosixProcessRunner::Create({.reap_adopted = false, .kill_limit = kLimit});
  auto debuggers = *PosixProcessRunner::Create({});
  Ends ends;
  int fds[2];
  ASSERT_EQ(pipe2(fds, O_CLOEXEC), 0);
  ProcessSpec spec;
  spec.executable = ChildBinary();
  spec.argv = {"child", "wait"};
  spec.stdout_fd = fds[1];
  const int32_t held = *runner->Spawn(spec, ends.Callback());
  ASSERT_TRUE(AwaitReady(fds[0]));
  spec.argv = {"child", "debug", std::to_string(held)};
  const int32_t debugger = *debuggers->Spawn(spec, ends.Callback());
  close(fds[1]);
  const bool debugs = AwaitReady(fds[0]);
  close(fds[0]);
  if (!debugs) {  // the runners end both
    GTEST_SKIP() << "nobody may debug here but a parent (/proc/sys/kernel/yama/ptrace_scope)";
  }
  ::testing::internal::CaptureStderr();
  const absl::Duration begin = Clock::Real().SteadyNow();
  runner.reset();
  const absl::Duration took = Clock::Real().SteadyNow() - begin;
  const std::string said = ::testing::internal::GetCapturedStderr();
  EXPECT_GE(took, kLimit);
  EXPECT_LT(took, absl::Seconds(10));
  EXPECT_EQ(ends.CountOf(held), 0u);
  EXPECT_THAT(said, HasSubstr("process " + std::to_string(held) + " ("));
  EXPECT_THAT(said, HasSubstr("state Z"));
  EXPECT_THAT(said, HasSubstr("debugged by process " + std::to_string(debugger)));
  EXPECT_THAT(said, HasSubstr("200ms of SIGKILL"));
  debuggers.reset();
  EXPECT_EQ(waitpid(held, nullptr, 0), held);  // given back with the death of its debugger
}

TEST(ReapWithin, ChildThatLives_IsWaitedForNoLongerThanTheLimit) {
  ProcessSpec spec;
  spec.executable = ChildBinary();
  spec.argv = {"child", "wait"};
  const SpawnedProcess child = *SpawnProcess(spec);
  EXPECT_EQ(ReapWithin(child.pid, child.pidfd, absl::Milliseconds(50)), std::nullopt);
  kill(child.pid, SIGKILL);
  const std::optional<ProcessEnd> end = ReapWithin(child.pid, child.pidfd, absl::Seconds(20));
  ASSERT_TRUE(end.has_value());
  EXPECT_EQ(end->term_signal, SIGKILL);
  close(child.pidfd);
}

// A child that was there before, its own child in another session, one that it starts later in yet
// another one, and one of ours: only the last is ended.
TEST(BornBefore, ChildrenOfSomebodyElse_AreNotEnded) {
  int fds[2], later[2];
  ASSERT_EQ(pipe2(fds, O_CLOEXEC), 0);
  ASSERT_EQ(pipe2(later, O_CLOEXEC), 0);
  const pid_t foreign = fork();
  ASSERT_GE(foreign, 0);
  if (foreign == 0) {
    const pid_t below = fork();
    if (below == 0) setsid();
    (void)!write(fds[1], "r", 1);
    if (below != 0 && AwaitReady(later[0]) && fork() == 0) {
      setsid();
      (void)!write(fds[1], "r", 1);
    }
    while (true) pause();
  }
  ASSERT_TRUE(AwaitReady(fds[0]) && AwaitReady(fds[0]));
  const BornBefore before = BornBefore::Look();
  EXPECT_EQ(write(later[1], "r", 1), 1);
  ASSERT_TRUE(AwaitReady(fds[0]));
  auto runner = *PosixProcessRunner::Create({});
  Ends ends;
  ProcessSpec spec;
  spec.executable = ChildBinary();
  spec.argv = {"child", "wait"};
  const int32_t ours = *runner->Spawn(spec, ends.Callback());
  const std::vector<ProcessInfo> found = before.OurDescendants();
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].pid, ours);
  EXPECT_EQ(before.KillOurDescendants(absl::Seconds(20)), 0);
  EXPECT_EQ(ends.Await(ours).term_signal, SIGKILL);
  std::vector<ProcessInfo> others = DescendantsOf(getpid());
  std::erase_if(others, [](const ProcessInfo& process) { return process.state == 'Z'; });
  EXPECT_EQ(others.size(), 3u);
  EXPECT_EQ(KillDescendants(getpid(), nullptr, absl::Seconds(20)), 0);
  EXPECT_EQ(waitpid(foreign, nullptr, 0), foreign);
  while (waitpid(-1, nullptr, 0) > 0) {  // its child, where this process adopts orphans
  }
  for (const int fd : {fds[0], fds[1], later[0], later[1]}) close(fd);
}

TEST(PosixProcessRunner, NoSuchFolder_SaysWhichOne) {
  auto runner = *PosixProcessRunner::Create({});
  ProcessSpec spec;
  spec.executable = ChildBinary();
  spec.argv = {"child", "exit", "0"};
  spec.working_dir = "/nowhere";
  const absl::Status status = runner->Spawn(spec, nullptr).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("/nowhere"));
}

TEST(PosixProcessRunner, NotAnExecutableFormat_IsInvalid_NoShellTriesIt) {
  std::string path = ::testing::TempDir() + "/scriptXXXXXX";
  const int fd = mkstemp(path.data());
  ASSERT_EQ(write(fd, "echo hello\n", 11), 11);
  fchmod(fd, 0755);
  close(fd);
  auto runner = *PosixProcessRunner::Create({});
  ProcessSpec spec;
  spec.executable = path;
  spec.argv = {path};
  EXPECT_EQ(runner->Spawn(spec, nullptr).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(ProcessUser, UnknownUser_IsAFailedPreconditionThatNamesIt) {
  const absl::Status status = ResolveProcessUser("no-such-user-here").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("no-such-user-here"));
  EXPECT_FALSE(ResolveProcessUser("")->change);
}

// Containers run as ids that no passwd entry names.
TEST(ProcessUser, Number_IsThatUserId) {
  const absl::StatusOr<ProcessUser> own = ResolveProcessUser(std::to_string(geteuid()));
  ASSERT_TRUE(own.ok()) << own.status();
  EXPECT_FALSE(own->change);
  const absl::Status nobodys = ResolveProcessUser("3999999999").status();
  EXPECT_EQ(nobodys.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(nobodys.message()),
              HasSubstr("uid 3999999999, for which this node has no passwd entry"));
  // -1, to the kernel: no change.
  EXPECT_THAT(std::string(ResolveProcessUser("4294967295").status().message()),
              HasSubstr("expected a user of this node"));
}

TEST(ProcessUser, MayWrite_IsAnsweredWithTheRightsOfTheUserAndNotOurs) {
  if (geteuid() != 0) GTEST_SKIP() << "only root can ask for another user";
  std::string folder = "/tmp/ownedXXXXXX";  // every user may get there
  ASSERT_NE(mkdtemp(folder.data()), nullptr);
  if (chown(folder.c_str(), 1, 1) != 0 || chown(folder.c_str(), 0, 0) != 0) {
    GTEST_SKIP() << "this sandbox knows no other user";
  }
  const ProcessUser user{.change = true, .uid = 1, .gid = 1, .groups = {1}};
  ASSERT_EQ(chmod(folder.c_str(), 0755), 0);
  EXPECT_TRUE(CheckMayWrite({}, folder).ok());
  const absl::Status refused = CheckMayWrite(user, folder);
  EXPECT_EQ(refused.code(), absl::StatusCode::kPermissionDenied) << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr(folder));
  ASSERT_EQ(chmod(folder.c_str(), 0777), 0);
  EXPECT_EQ(CheckMayWrite(user, folder), absl::OkStatus());
  EXPECT_EQ(CheckMayWrite(user, folder + "/missing").code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(CheckMayExecute(user, "/bin/true"), absl::OkStatus());
  EXPECT_EQ(CheckMayExecute(user, "/etc/passwd").code(), absl::StatusCode::kPermissionDenied);
  // The question has left our own rights as they were.
  ASSERT_EQ(chmod(folder.c_str(), 0), 0);
  EXPECT_EQ(access(folder.c_str(), W_OK), 0);
  rmdir(folder.c_str());
}

}  // namespace
}  // namespace dsrun
