// The supervisor and its node with fake processes and a fake clock: no gRPC, no fork, no waiting
// for time. Long, because they share these fakes.

#include "agent/supervisor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "agent/agent_node.h"
#include "agent/worker_command.h"
#include "common/base/clock.h"
#include "common/base/mutex.h"
#include "common/base/process_runner.h"
#include "tests/fakes/fake_clock.h"
#include "tests/fakes/fake_process_runner.h"

namespace dsrun::agent {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

constexpr char kToken[] = "the token of this job";

// Remembers what was sent and waits for it.
template <typename Base, typename Message>
class FakePeer : public Base {
 public:
  void Send(Message message) override {
    MutexLock lock(mu_);
    sent_.push_back(std::move(message));
    changed_.NotifyAll();
  }
  void Close(absl::Status status) override {
    MutexLock lock(mu_);
    closed_ = std::move(status);
    changed_.NotifyAll();
  }
  // Waits for the first message that `which` holds for; fails the test after 20 s.
  std::optional<Message> Await(const std::function<bool(const Message&)>& which) {
    const absl::Duration deadline = Clock::Real().SteadyNow() + absl::Seconds(20);
    MutexLock lock(mu_);
    while (true) {
      for (const Message& message : sent_) {
        if (which(message)) return message;
      }
      const absl::Duration left = deadline - Clock::Real().SteadyNow();
      if (left <= absl::ZeroDuration()) {
        ADD_FAILURE() << "the awaited message was not sent";
        return std::nullopt;
      }
      changed_.WaitFor(mu_, left);
    }
  }
  absl::Status AwaitClosed(absl::Duration limit = absl::Seconds(20)) {
    const absl::Duration deadline = Clock::Real().SteadyNow() + limit;
    MutexLock lock(mu_);
    while (!closed_.has_value()) {
      const absl::Duration left = deadline - Clock::Real().SteadyNow();
      if (left <= absl::ZeroDuration()) return absl::DeadlineExceededError("not closed");
      changed_.WaitFor(mu_, left);
    }
    return *closed_;
  }

 protected:
  Mutex mu_;
  CondVar changed_;
  std::vector<Message> sent_;
  std::optional<absl::Status> closed_;
};

class FakeCoordinator : public FakePeer<CoordinatorPeer, proto::AgentMessage> {
 public:
  bool TrySendBulk(proto::AgentMessage message) override {
    Send(std::move(message));
    return true;
  }
};
using FakeWorker = FakePeer<WorkerPeer, proto::HostMessage>;

class SupervisorTest : public ::testing::Test {
 protected:
  SupervisorTest() {
    run_dir_ = ::testing::TempDir() + "/runXXXXXX";
    EXPECT_NE(mkdtemp(run_dir_.data()), nullptr);
    runner_.AddExecutable("/bin/true");  // stands for dsworker: must exist on disk
    MakeNode(/*gpus=*/0);
  }
  void MakeNode(int gpus, ProcessRunner* runner = nullptr,
                std::function<void(const JobOver&)> on_job_over = nullptr,
                absl::Duration door_waits = Supervisor::kDoorWaits) {
    proto::Opened inventory;
    inventory.set_gpu_count(gpus);
    node_ = std::make_unique<AgentNode>(
        AgentNode::Options{.runner = std::shared_ptr<ProcessRunner>(
                               std::shared_ptr<void>(), runner == nullptr ? &runner_ : runner),
                           .clock = &clock_,
                           .incarnation = Incarnation(7),
                           .inventory = inventory,
                           .open_worker_door = nullptr,
                           .worker_binary = "/bin/true",
                           .run_dir = "",
                           .tick_period = absl::InfiniteDuration(),
                           .sweep =
                               [this](const std::string& tag) {
                                 MutexLock lock(mu_);
                                 swept_.push_back(tag);
                                 return std::string();
                               },
                           .door_waits = door_waits,
                           .look_at_dying =
                               [this](int32_t pid) {
                                 MutexLock lock(mu_);
                                 return dying_[pid];
                               },
                           .may_be_child = [this](int32_t pid) { return pid != stranger_; },
                           .memory =
                               [this](const std::string&, const auto& pids) {
                                 MutexLock lock(mu_);
                                 counted_ = pids;
                                 return proto::NodeMemory();
                               },
                           .on_job_over = std::move(on_job_over)});
  }
  // From now on /proc says of the process that it is dead, and that a thread of it waits.
  void Stick(int32_t pid) {
    MutexLock lock(mu_);
    dying_[pid] = {.dying = true,
                   .stuck_thread = pid + 1,
                   .thread_name = "save-writer",
                   .wait_channel = "folio_wait_bit",
                   .program = "dsworker",
                   .end = {.term_signal = SIGKILL}};
  }
  // Two looks, so far apart as it takes.
  void LookTwice() {
    supervisor_->Tick();
    AwaitTick();
    clock_.Advance(absl::Milliseconds(100));
    supervisor_->Tick();
  }
  // What was queued before has been taken: an answer to something queued behind it is there.
  void AwaitTick() {
    proto::CoordinatorMessage prepare = Message(++claim_);
    prepare.mutable_prepare();
    supervisor_->OnCoordinatorMessage(prepare);
    coordinator_->Await(
        [&](const proto::AgentMessage& m) { return m.has_prepared() && m.generation() == claim_; });
  }

  static proto::CoordinatorMessage Message(int64_t generation) {
    proto::CoordinatorMessage message;
    message.set_job_id("j");
    message.set_generation(generation);
    return message;
  }
  proto::CoordinatorMessage Open(int slots) const {
    proto::CoordinatorMessage message = Message(0);
    proto::Open& open = *message.mutable_open();
    open.set_job_token(kToken);
    open.set_protocol_version(1);
    open.mutable_job()->set_job_id("j");
    open.mutable_job()->set_run_dir(run_dir_);
    open.mutable_job()->mutable_train();
    proto::NodeSpec& node = *open.mutable_job()->add_nodes();
    node.set_host("h0");
    for (int slot = 0; slot < slots; ++slot) node.add_slots(slot);
    return message;
  }
  // One rank that behaves as the fake runner's `mode`.
  proto::CoordinatorMessage OpenProgram(const char* mode) const {
    proto::CoordinatorMessage open = Open(1);
    proto::ProgramSpec& program = *open.mutable_open()->mutable_job()->mutable_program();
    program.set_executable("/bin/true");
    for (const char* argument : {"p", mode}) program.add_argv(argument);
    return open;
  }
  void Start(const proto::CoordinatorMessage& open) {
    coordinator_ = std::make_shared<FakeCoordinator>();
    const auto admitted = node_->Admit(open, coordinator_);
    ASSERT_TRUE(admitted.ok()) << admitted.status();
    supervisor_ = *admitted;
  }
  void Begin(int64_t generation, int slots) {
    proto::CoordinatorMessage message = Message(generation);
    message.mutable_begin()->mutable_plan()->set_generation(generation);
    for (int slot = 0; slot < slots; ++slot) {
      message.mutable_begin()->mutable_plan()->add_members()->set_slot(slot);
    }
    supervisor_->OnCoordinatorMessage(message);
  }
  static proto::WorkerMessage Hello(int slot, const std::string& token = kToken) {
    proto::WorkerMessage message;
    message.set_incarnation(50 + slot);
    message.mutable_hello()->set_slot(slot);
    message.mutable_hello()->set_token(token);
    message.mutable_hello()->set_protocol_version(1);
    return message;
  }
  // As a worker does: through the door, which waits for a pid that is not told yet.
  std::shared_ptr<FakeWorker> Connect(int slot, int32_t pid) {
    const absl::Status admitted = supervisor_->CheckWorker(pid, geteuid());
    EXPECT_TRUE(admitted.ok()) << admitted;
    auto worker = std::make_shared<FakeWorker>();
    const absl::Status status = supervisor_->OnWorkerHello(Hello(slot), pid, worker);
    EXPECT_TRUE(status.ok()) << status;
    return worker;
  }
  std::vector<int32_t> AwaitPids(size_t count) {
    EXPECT_TRUE(runner_.AwaitSpawned(count));
    return runner_.Alive();
  }
  std::optional<proto::WorkerExited> AwaitExited(int slot, int64_t generation) {
    const auto message = coordinator_->Await([&](const proto::AgentMessage& m) {
      return m.has_worker_exited() && m.worker_exited().slot() == slot &&
             m.generation() == generation;
    });
    if (!message.has_value()) return std::nullopt;
    return message->worker_exited();
  }

  FakeClock clock_;
  FakeProcessRunner runner_;
  std::string run_dir_;
  Mutex mu_;
  std::vector<std::string> swept_;
  std::map<int32_t, DyingLook> dying_;
  std::atomic<int32_t> stranger_ = 0;  // no child of the agent
  std::vector<int32_t> counted_;       // whose memory was counted as the job's
  int64_t claim_ = 100;
  std::shared_ptr<FakeCoordinator> coordinator_;
  std::unique_ptr<AgentNode> node_;
  std::shared_ptr<Supervisor> supervisor_;
};

TEST_F(SupervisorTest, WorkerIsStartedWithItsBootstrapAndNoSecretInSight) {
  Start(Open(1));
  Begin(1, 1);
  const std::vector<int32_t> pids = AwaitPids(1);
  const ProcessSpec spec = runner_.spawned()[0];
  EXPECT_THAT(spec.argv, ElementsAre("/bin/true", "--bootstrap-fd", "3"));
  ASSERT_EQ(spec.fds.size(), 1u);
  EXPECT_EQ(spec.fds[0].to, kBootstrapFd);
  for (const auto* strings : {&spec.argv, &spec.environment}) {
    for (const std::string& s : *strings) EXPECT_EQ(s.find(kToken), std::string::npos) << s;
  }
  const auto worker = Connect(0, pids[0]);
  const auto welcome = worker->Await([](const auto& m) { return m.has_welcome(); });
  EXPECT_EQ(welcome->welcome().job().job_id(), "j");
  EXPECT_TRUE(worker->Await([](const auto& m) { return m.has_plan(); }).has_value());
}

TEST_F(SupervisorTest, WrongToken_Stranger_OtherVersion_AreRefused) {
  Start(Open(1));
  Begin(1, 1);
  const std::vector<int32_t> pids = AwaitPids(1);
  ASSERT_TRUE(supervisor_->CheckWorker(pids[0], geteuid()).ok());
  const auto refused = [&](const proto::WorkerMessage& hello, int32_t pid) {
    return supervisor_->OnWorkerHello(hello, pid, std::make_shared<FakeWorker>()).code();
  };
  EXPECT_EQ(refused(Hello(0, "another token"), pids[0]), absl::StatusCode::kUnauthenticated);
  EXPECT_EQ(refused(Hello(0, ""), pids[0]), absl::StatusCode::kUnauthenticated);
  EXPECT_EQ(refused(Hello(0), pids[0] + 1), absl::StatusCode::kAborted);
  EXPECT_EQ(refused(Hello(5), pids[0]), absl::StatusCode::kAborted);
  proto::WorkerMessage newer = Hello(0);
  newer.mutable_hello()->set_protocol_version(2);
  EXPECT_EQ(refused(newer, pids[0]), absl::StatusCode::kInvalidArgument);
  // What a process says of itself counts for nothing.
  proto::WorkerMessage claims = Hello(0);
  claims.mutable_hello()->set_pid(pids[0]);
  EXPECT_EQ(refused(claims, pids[0] + 1), absl::StatusCode::kAborted);
}

TEST_F(SupervisorTest, OnlyLiveRanksOfTheRightUser_PassTheWorkersDoor) {
  Start(Open(2));
  EXPECT_TRUE(absl::IsPermissionDenied(supervisor_->CheckWorker(getpid(), geteuid())));
  Begin(1, 2);
  const std::vector<int32_t> pids = AwaitPids(2);
  EXPECT_TRUE(supervisor_->CheckWorker(pids[0], geteuid()).ok());
  EXPECT_TRUE(supervisor_->CheckWorker(pids[1], geteuid()).ok());
  EXPECT_TRUE(absl::IsPermissionDenied(supervisor_->CheckWorker(pids[0], geteuid() + 1)));
  EXPECT_TRUE(absl::IsPermissionDenied(supervisor_->CheckWorker(getpid(), geteuid())));
  EXPECT_TRUE(absl::IsPermissionDenied(supervisor_->CheckWorker(0, geteuid())));
}

TEST_F(SupervisorTest, WorkerDies_ReportedAndSweptByItsTag_SurvivorKeepsItsProcess) {
  Start(Open(2));
  Begin(1, 2);
  const std::vector<int32_t> pids = AwaitPids(2);
  const auto survivor = Connect(0, pids[0]);
  Connect(1, pids[1]);
  runner_.End(pids[1], {.term_signal = SIGSEGV, .core_dumped = true});
  const auto exited = AwaitExited(1, 1);
  ASSERT_TRUE(exited.has_value());
  EXPECT_EQ(exited->term_signal(), SIGSEGV);
  EXPECT_TRUE(exited->core_dumped());
  EXPECT_EQ(exited->pid(), pids[1]);
  Begin(2, 2);
  EXPECT_TRUE(
      survivor->Await([](const auto& m) { return m.has_plan() && m.plan().generation() == 2; })
          .has_value());
  ASSERT_TRUE(runner_.AwaitSpawned(3));
  EXPECT_THAT(runner_.Alive(), Contains(pids[0]));
  const std::string tag_of_dead = runner_.spawned()[1].environment.back();
  MutexLock lock(mu_);
  ASSERT_EQ(swept_.size(), 1u);
  EXPECT_EQ(std::string(kWorkerTagVariable) + "=" + swept_[0], tag_of_dead);
}

TEST_F(SupervisorTest, SilentWorker_IsKilledWhenTheFakeClockSaysSo) {
  Start(Open(1));
  Begin(1, 1);
  const std::vector<int32_t> pids = AwaitPids(1);
  const auto worker = Connect(0, pids[0]);
  worker->Await([](const auto& m) { return m.has_plan(); });
  for (int i = 0; i < 13; ++i) {
    clock_.Advance(absl::Milliseconds(250));
    // The heartbeat's number shows that the tick before has been taken with its own time.
    supervisor_->Tick();
    const auto beat = [n = 0, i](const proto::AgentMessage& m) mutable {
      return m.has_heartbeat() && n++ >= i / 2;
    };
    if (i % 2 == 1) coordinator_->Await(beat);
  }
  const auto exited = AwaitExited(0, 1);
  ASSERT_TRUE(exited.has_value());
  EXPECT_TRUE(exited->killed_by_agent());
  EXPECT_THAT(exited->reason(), HasSubstr("silent for 3 s"));
  EXPECT_THAT(runner_.signals(), ElementsAre(Pair(pids[0], SIGKILL)));
}

TEST_F(SupervisorTest, DeadWorkerThatDoesNotEnd_IsLeftBehindAndItsSlotFilled) {
  Start(Open(2));
  Begin(1, 2);
  const std::vector<int32_t> pids = AwaitPids(2);
  Connect(0, pids[0]);
  const auto dead = Connect(1, pids[1]);
  Stick(pids[1]);
  LookTwice();
  const auto exited = AwaitExited(1, 1);
  ASSERT_TRUE(exited.has_value());
  EXPECT_EQ(exited->term_signal(), SIGKILL);
  EXPECT_FALSE(exited->killed_by_agent());
  EXPECT_EQ(exited->reason(),
            "its thread save-writer waits in the kernel (state D), so it ends when the disk "
            "answers");
  EXPECT_TRUE(coordinator_->Await([&](const proto::AgentMessage& m) {
    return m.worker_report().message().notice().text().starts_with(absl::StrCat(
        "process ", pids[1], " (dsworker) is dead and does not end: its thread ", pids[1] + 1,
        " (save-writer) waits in the kernel (state D, in folio_wait_bit)"));
  }));
  EXPECT_TRUE(absl::IsAborted(dead->AwaitClosed()));
  // Its memory is not the job's to use again; its name opens no session any more.
  AwaitTick();
  {
    MutexLock lock(mu_);
    EXPECT_THAT(counted_, ElementsAre(pids[0]));
  }
  EXPECT_TRUE(absl::IsAborted(
      supervisor_->OnWorkerHello(Hello(1), pids[1], std::make_shared<FakeWorker>())));
  Begin(claim_ + 1, 2);
  ASSERT_TRUE(runner_.AwaitSpawned(3));
  // It is the runner's until it ends, and that changes nothing in its slot.
  runner_.End(pids[1], {.term_signal = SIGKILL});
  EXPECT_TRUE(coordinator_->Await([&](const proto::AgentMessage& m) {
    return m.worker_report().message().notice().text().starts_with(
        absl::StrCat("process ", pids[1], " has ended at last"));
  }));
}

TEST_F(SupervisorTest, WorkerThatIsDyingForAMoment_IsReportedByItsEndAlone) {
  Start(Open(1));
  Begin(1, 1);
  const std::vector<int32_t> pids = AwaitPids(1);
  Connect(0, pids[0]);
  Stick(pids[0]);
  supervisor_->Tick();
  AwaitTick();
  {
    MutexLock lock(mu_);
    dying_.clear();
  }
  clock_.Advance(absl::Milliseconds(100));
  supervisor_->Tick();
  AwaitTick();
  Stick(pids[0]);
  supervisor_->Tick();
  AwaitTick();
  runner_.End(pids[0], {.term_signal = SIGSEGV});
  const auto exited = AwaitExited(0, 1);
  ASSERT_TRUE(exited.has_value());
  EXPECT_EQ(exited->term_signal(), SIGSEGV);
  EXPECT_EQ(exited->reason(), "");
}

// The runner outlives the job, and so may a process that was left behind.
TEST_F(SupervisorTest, LeftoverThatEndsAfterItsJob_HarmsNobody) {
  Start(Open(1));
  Begin(1, 1);
  const std::vector<int32_t> pids = AwaitPids(1);
  Connect(0, pids[0]);
  Stick(pids[0]);
  LookTwice();
  ASSERT_TRUE(AwaitExited(0, 1).has_value());
  proto::CoordinatorMessage end = Message(claim_);
  end.mutable_end_job();
  supervisor_->OnCoordinatorMessage(end);
  EXPECT_TRUE(coordinator_->AwaitClosed().ok());
  supervisor_.reset();
  Start(Open(1));  // another job; the first one's supervisor is gone
  runner_.End(pids[0], {.term_signal = SIGKILL});
  Begin(1, 1);
  ASSERT_TRUE(runner_.AwaitSpawned(2));
}

TEST_F(SupervisorTest, SpawnFailure_IsReportedWithTheReason) {
  Start(Open(1));
  runner_.FailNextSpawn(absl::NotFoundError("no such dsworker"));
  Begin(1, 1);
  const auto exited = AwaitExited(0, 1);
  ASSERT_TRUE(exited.has_value());
  EXPECT_EQ(exited->exit_code(), 127);
  EXPECT_THAT(exited->reason(), HasSubstr("no such dsworker"));
}

// A runner whose Spawn hangs until it is told how it ends. Its process is a number.
class HangingRunner : public ProcessRunner {
 public:
  absl::StatusOr<int32_t> Spawn(const ProcessSpec&, OnEnd on_end) override {
    MutexLock lock(mu_);
    on_end_ = std::move(on_end);
    hangs_ = true;
    changed_.NotifyAll();
    while (!result_.has_value()) changed_.Wait(mu_);
    return *result_;
  }
  void SignalGroup(int32_t pid, int signal) override {
    MutexLock lock(mu_);
    if (signal == SIGKILL) killed_.insert(pid);
    changed_.NotifyAll();
  }
  void StopGroups(const std::vector<int32_t>&, absl::Duration) override {}
  std::vector<int32_t> Alive() const override { return {}; }

  void AwaitSpawn() {
    MutexLock lock(mu_);
    while (!hangs_) changed_.Wait(mu_);
  }
  // The first time counts.
  void ComeBack(absl::StatusOr<int32_t> pid) {
    MutexLock lock(mu_);
    if (!result_.has_value()) result_ = std::move(pid);
    changed_.NotifyAll();
  }
  void End(int32_t pid) {
    OnEnd on_end;
    {
      MutexLock lock(mu_);
      on_end = on_end_;
    }
    on_end(pid, ProcessEnd{.exit_code = 0});
  }
  bool AwaitKilled(int32_t pid) {
    const SteadyTime deadline = Clock::Real().SteadyNow() + absl::Seconds(20);
    MutexLock lock(mu_);
    while (killed_.count(pid) == 0) {
      const absl::Duration left = deadline - Clock::Real().SteadyNow();
      if (left <= absl::ZeroDuration()) return false;
      changed_.WaitFor(mu_, left);
    }
    return true;
  }

 private:
  Mutex mu_;
  CondVar changed_;
  bool hangs_ = false;
  OnEnd on_end_;
  std::optional<absl::StatusOr<int32_t>> result_;
  std::set<int32_t> killed_;
};

class HangingStartTest : public SupervisorTest {
 protected:
  static constexpr int32_t kPid = 4711;

  HangingStartTest() {
    MakeNode(/*gpus=*/0, &hanging_, [this](const JobOver&) {
      if (comes_back_at_the_end_) hanging_.ComeBack(kPid);
    });
  }
  ~HangingStartTest() override {
    hanging_.ComeBack(absl::NotFoundError("no such dsworker"));
    supervisor_.reset();
    node_.reset();
  }
  void StartThatHangs() {
    Start(Open(1));
    Begin(1, 1);
    hanging_.AwaitSpawn();
  }
  // The job ends, and with it the wait for its start.
  void EndTheJob() {
    supervisor_->OnKeeperGone();
    do {
      clock_.Advance(Supervisor::kUnwantedStartLimit);
      supervisor_->Tick();
    } while (absl::IsDeadlineExceeded(coordinator_->AwaitClosed(absl::Milliseconds(5))));
  }

  // By a process's tag; the end of a job sweeps without one.
  bool AwaitSwept() {
    const SteadyTime deadline = Clock::Real().SteadyNow() + absl::Seconds(20);
    while (Clock::Real().SteadyNow() < deadline) {
      {
        MutexLock lock(mu_);
        for (const std::string& tag : swept_) {
          if (!tag.empty()) return true;
        }
      }
      sched_yield();
    }
    return false;
  }

  bool comes_back_at_the_end_ = false;
  HangingRunner hanging_;
};

// The first is asked by the door's only thread, the second is one of gRPC's.
TEST_F(HangingStartTest, CallerAtTheDoor_WaitsShortlyForAPid_AndAHelloNotAtAll) {
  // On a busy machine, and less than anybody would wait for a start.
  constexpr absl::Duration kShortly = absl::Seconds(4);
  StartThatHangs();
  SteadyTime begin = Clock::Real().SteadyNow();
  EXPECT_TRUE(absl::IsPermissionDenied(supervisor_->CheckWorker(getpid(), geteuid())));
  EXPECT_GE(Clock::Real().SteadyNow() - begin, Supervisor::kDoorWaits);
  EXPECT_LT(Clock::Real().SteadyNow() - begin, kShortly);

  begin = Clock::Real().SteadyNow();
  for (int i = 0; i < 100; ++i) {
    const absl::Status status =
        supervisor_->OnWorkerHello(Hello(0), getpid(), std::make_shared<FakeWorker>());
    EXPECT_TRUE(absl::IsAborted(status)) << status;
  }
  EXPECT_LT(Clock::Real().SteadyNow() - begin, kShortly);
}

// Any process of the ranks' user can call as often as it likes.
TEST_F(HangingStartTest, CallerAtTheDoorThatIsNoChild_IsRefusedAtOnce) {
  MakeNode(/*gpus=*/0, &hanging_, nullptr, /*door_waits=*/absl::Hours(1));
  stranger_ = kPid + 1;
  StartThatHangs();
  EXPECT_TRUE(absl::IsPermissionDenied(supervisor_->CheckWorker(stranger_, geteuid())));
}

TEST_F(HangingStartTest, CallerAtTheDoor_ComesInWhenItsPidIsTold) {
  MakeNode(/*gpus=*/0, &hanging_, nullptr, /*door_waits=*/absl::Hours(1));
  StartThatHangs();
  // Told while it waits, or before: both is right.
  std::atomic<int> tid = 0;
  absl::Status status;
  std::thread door([&] {
    tid = gettid();
    status = supervisor_->CheckWorker(kPid, geteuid());
  });
  while (tid == 0) sched_yield();
  hanging_.ComeBack(kPid);
  door.join();
  EXPECT_TRUE(status.ok()) << status;
  Connect(0, kPid);
  hanging_.End(kPid);
}

TEST_F(HangingStartTest, ThatComesBackWhileTheJobEnds_IsKilled) {
  comes_back_at_the_end_ = true;
  StartThatHangs();
  EndTheJob();
  EXPECT_TRUE(hanging_.AwaitKilled(kPid));
  EXPECT_TRUE(AwaitSwept());
}

TEST_F(HangingStartTest, ThatComesBackAfterItsJob_IsKilled) {
  StartThatHangs();
  EndTheJob();
  hanging_.ComeBack(kPid);
  EXPECT_TRUE(hanging_.AwaitKilled(kPid));
  EXPECT_TRUE(AwaitSwept()) << "and what it had started";
}

TEST_F(HangingStartTest, ThatComesBackWhenNobodyIsThereAnyMore_IsKilled) {
  StartThatHangs();
  EndTheJob();
  supervisor_.reset();
  node_.reset();
  hanging_.ComeBack(kPid);
  EXPECT_TRUE(hanging_.AwaitKilled(kPid));
  EXPECT_TRUE(AwaitSwept()) << "and what it had started";
}

TEST_F(SupervisorTest, CrashLoop_EveryGenerationGetsANewProcessAndANewTag) {
  Start(Open(1));
  std::string last_tag;
  for (int generation = 1; generation <= 20; ++generation) {
    Begin(generation, 1);
    const std::vector<int32_t> pids = AwaitPids(generation);
    const std::string tag = runner_.spawned().back().environment.back();
    EXPECT_NE(tag, last_tag);
    last_tag = tag;
    runner_.End(pids[0], {.exit_code = 1});
    ASSERT_TRUE(AwaitExited(0, generation).has_value());
  }
}

// The machine was suspended for longer than the coordinator waits for lease and grace: what waited
// in the socket is not heard before the ranks are killed.
TEST_F(SupervisorTest, ProgramOnAMachineThatSlept_IsKilledBeforeAnythingIsHeard) {
  Start(OpenProgram("ignore-term"));
  Begin(1, 1);
  const std::vector<int32_t> pids = AwaitPids(1);
  coordinator_->Await([](const auto& m) { return m.has_worker_started(); });
  clock_.Sleep(absl::Seconds(45));
  Begin(2, 1);
  const auto exited = AwaitExited(0, 1);
  ASSERT_TRUE(exited.has_value());
  EXPECT_EQ(exited->term_signal(), SIGKILL);
  EXPECT_THAT(exited->reason(), HasSubstr("this machine was suspended for 45 s"));
  EXPECT_TRUE(absl::IsUnavailable(coordinator_->AwaitClosed()));
  EXPECT_EQ(runner_.spawned().size(), 1u);
}

TEST_F(SupervisorTest, DeafProgram_LadderEndsInKill) {
  Start(OpenProgram("ignore-term"));
  Begin(1, 1);
  const std::vector<int32_t> pids = AwaitPids(1);
  proto::CoordinatorMessage end = Message(1);
  end.mutable_end_job();
  coordinator_->Await([](const auto& m) { return m.has_worker_started(); });
  supervisor_->OnCoordinatorMessage(end);
  ASSERT_TRUE(runner_.AwaitSignals(1));
  runner_.Advance(absl::Seconds(15));
  EXPECT_TRUE(coordinator_->Await([](const auto& m) { return m.has_job_ended(); }).has_value());
  EXPECT_TRUE(coordinator_->AwaitClosed().ok());
  EXPECT_THAT(runner_.signals(), ElementsAre(Pair(pids[0], SIGTERM), Pair(pids[0], SIGKILL)));
}

TEST_F(SupervisorTest, Admission_RefusesWhatItMust) {
  const auto code = [&](const proto::CoordinatorMessage& open) {
    return node_->Admit(open, std::make_shared<FakeCoordinator>()).status().code();
  };
  proto::CoordinatorMessage open = Open(1);
  EXPECT_EQ(code(Message(1)), absl::StatusCode::kInvalidArgument);
  open = Open(1);
  open.mutable_open()->set_protocol_version(2);
  EXPECT_EQ(code(open), absl::StatusCode::kInvalidArgument);
  open = Open(1);
  open.mutable_open()->set_node(1);
  EXPECT_EQ(code(open), absl::StatusCode::kInvalidArgument);
  open = Open(1);
  open.mutable_open()->clear_job_token();
  EXPECT_EQ(code(open), absl::StatusCode::kInvalidArgument);
  open = Open(1);
  open.mutable_open()->mutable_job()->set_run_as_user("no-such-user-here");
  EXPECT_EQ(code(open), absl::StatusCode::kFailedPrecondition);
  open = Open(1);
  open.mutable_open()->mutable_job()->set_run_dir("/proc/nowhere");
  EXPECT_EQ(code(open), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(node_->Running().status().code(), absl::StatusCode::kUnauthenticated);
  // A refusal leaves the node free.
  Start(Open(1));
  EXPECT_EQ(code(Open(1)), absl::StatusCode::kResourceExhausted);
}

TEST_F(SupervisorTest, SlotBeyondTheHostfiles_IsAdmittedOnlyWhereThatGpuIs) {
  struct Row {
    int gpus;
    std::vector<int32_t> slots;
    const char* refusal;  // empty: admitted
  };
  const std::vector<Row> table = {
      {0, {0, 1, 2, 3}, ""},
      {8, {0, 7}, ""},
      {0, {7}, "but the node has no GPU;"},
      {1, {0, 4}, "but the node has GPU 0 alone;"},
      {7, {6, 7}, "but the node has GPUs 0-6;"},
  };
  for (const Row& row : table) {
    proto::CoordinatorMessage open = Open(1);
    proto::NodeSpec& spec = *open.mutable_open()->mutable_job()->mutable_nodes(0);
    spec.clear_slots();
    for (const int32_t slot : row.slots) spec.add_slots(slot);
    spec.set_hostfile_slots(4);
    MakeNode(row.gpus);
    const absl::Status status = node_->Admit(open, std::make_shared<FakeCoordinator>()).status();
    if (*row.refusal == '\0') {
      EXPECT_TRUE(status.ok()) << status;
    } else {
      EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
      EXPECT_THAT(std::string(status.message()), HasSubstr(row.refusal));
      EXPECT_THAT(std::string(status.message()),
                  HasSubstr(absl::StrCat("--include: expected GPU ", row.slots.back())));
    }
  }
}

}  // namespace
}  // namespace dsrun::agent
