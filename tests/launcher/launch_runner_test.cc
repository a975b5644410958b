// The runner over fake agents: events reach the core, its actions reach the agents, in order and
// only after they are written down.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <variant>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "common/base/clock.h"
#include "common/base/mutex.h"
#include "common/base/proto_duration.h"
#include "launcher/shell/runner.h"
#include "tests/fakes/fake_clock.h"
#include "tests/launcher/fake_agents.h"

namespace dsrun::launcher {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;

class RunnerTest : public ::testing::Test {
 protected:
  // A program on `nodes` nodes of one slot.
  void MakeJob(int nodes) {
    job_.set_job_id("test-job");
    job_.mutable_program()->set_executable("/bin/true");
    for (int i = 0; i < nodes; ++i) {
      proto::NodeSpec& node = *job_.add_nodes();
      node.set_host("host" + std::to_string(i));
      node.add_slots(0);
    }
  }

  std::unique_ptr<Runner> MakeRunner() {
    Runner::Doors doors;
    doors.clock = clock_;
    doors.client = &agents_;
    doors.starter = [this](NodeId) -> AgentStarter& { return *starter_; };
    doors.record = [this](absl::Duration, const Event& event, const Coordinator&) {
      recorded_.push_back(event);
      if (on_record_) on_record_();
    };
    doors.commit = [this](bool announces) {
      announced_ += announces ? 1 : 0;
      const absl::Status status = commit_status_ ? commit_status_() : absl::OkStatus();
      if (status.ok()) committed_ = recorded_.size();
      return status;
    };
    doors.tell = [this](const OperatorEvent& event) {
      told_.push_back(event);
      if (Notices("whole again") > 0) told_again_ = true;
    };
    doors.output = [this](NodeId node, const proto::LogChunk& chunk) {
      output_ += std::to_string(node.value()) + ":" + chunk.text();
    };
    Runner::Options options;
    options.job = job_;
    options.job_token = "token";
    options.tick_interval = tick_interval_;
    options.heartbeat_interval = absl::Milliseconds(10);
    options.most_asked_at_once = most_asked_at_once_;
    return std::make_unique<Runner>(Coordinator(ConfigFromJob(job_)), std::move(doors),
                                    std::move(options));
  }

  static proto::AgentMessage Exited(int slot, int code) {
    proto::AgentMessage message;
    message.mutable_worker_exited()->set_slot(slot);
    message.mutable_worker_exited()->set_pid(100 + slot);
    message.mutable_worker_exited()->set_exit_code(code);
    return message;
  }

  int Notices(const std::string& words) const {
    return static_cast<int>(std::count_if(told_.begin(), told_.end(), [&](const auto& event) {
      const auto* notice = std::get_if<NoticeText>(&event);
      return notice != nullptr && notice->text.find(words) != std::string::npos;
    }));
  }

  bool HasBegin(int node) {
    const std::vector<proto::CoordinatorMessage> received = agents_.Received(node);
    return std::any_of(received.begin(), received.end(),
                       [](const auto& m) { return m.has_begin(); });
  }

  proto::JobSpec job_;
  FakeAgents agents_;
  std::vector<Event> recorded_;
  size_t committed_ = 0;
  int announced_ = 0;  // commits before a generation is announced
  std::function<void()> on_record_;
  std::function<absl::Status()> commit_status_;
  Clock* clock_ = &Clock::Real();
  AgentStarter* starter_ = &agents_;
  size_t most_asked_at_once_ = 64;
  absl::Duration tick_interval_ = absl::Milliseconds(5);
  std::vector<OperatorEvent> told_;
  std::atomic<bool> told_again_ = false;
  std::string output_;
};

TEST_F(RunnerTest, ProgramThatExitsZero_JobEndsZero) {
  MakeJob(2);
  const std::unique_ptr<Runner> runner = MakeRunner();
  std::thread ranks([&] {
    ASSERT_TRUE(agents_.Await([&] { return HasBegin(0) && HasBegin(1); }));
    agents_.Say(0, Exited(0, 0));
    agents_.Say(1, Exited(0, 0));
  });
  const RunResult result = runner->Run();
  ranks.join();
  EXPECT_EQ(result.exit_code, 0) << result.report.verdict;
}

TEST_F(RunnerTest, RanksOwnExitCode_IsTheJobs) {
  MakeJob(1);
  const std::unique_ptr<Runner> runner = MakeRunner();
  std::thread ranks([&] {
    ASSERT_TRUE(agents_.Await([&] { return HasBegin(0); }));
    agents_.Say(0, Exited(0, 7));
  });
  const RunResult result = runner->Run();
  ranks.join();
  EXPECT_EQ(result.exit_code, 7) << result.report.verdict;
  ASSERT_EQ(result.report.incidents.size(), 1u);
  EXPECT_THAT(result.report.incidents[0].cause.what, HasSubstr("7"));
}

TEST_F(RunnerTest, Open_CarriesTokenAndJob) {
  MakeJob(1);
  const std::unique_ptr<Runner> runner = MakeRunner();
  std::thread ranks([&] {
    ASSERT_TRUE(agents_.Await([&] { return HasBegin(0); }));
    agents_.Say(0, Exited(0, 0));
  });
  runner->Run();
  ranks.join();
  const proto::CoordinatorMessage first = agents_.Received(0).at(0);
  ASSERT_TRUE(first.has_open());
  EXPECT_EQ(first.open().job_token(), "token");
  EXPECT_EQ(first.open().job().job_id(), "test-job");
  EXPECT_EQ(first.incarnation(), 0u);
}

TEST_F(RunnerTest, NothingLeaves_BeforeItsEventIsOnDisk) {
  MakeJob(1);
  // When a Prepare or Begin arrives, everything recorded so far must have been committed.
  std::vector<std::string> early;
  agents_.set_hook([&](int, const proto::CoordinatorMessage& message) {
    if (message.has_heartbeat() || message.has_open()) return false;
    if (committed_ != recorded_.size()) early.push_back(message.ShortDebugString());
    return false;
  });
  const std::unique_ptr<Runner> runner = MakeRunner();
  std::thread ranks([&] {
    ASSERT_TRUE(agents_.Await([&] { return HasBegin(0); }));
    agents_.Say(0, Exited(0, 0));
  });
  runner->Run();
  ranks.join();
  EXPECT_TRUE(early.empty()) << early.front();
  EXPECT_GE(recorded_.size(), 4u);  // Start, Opened, Prepared, WorkerExited at least
  EXPECT_EQ(committed_, recorded_.size());
}

TEST_F(RunnerTest, JournalFails_IsToldOnceAndTheJobGoesOn) {
  MakeJob(1);
  commit_status_ = [] { return absl::ResourceExhaustedError("disk full"); };
  const std::unique_ptr<Runner> runner = MakeRunner();
  std::thread ranks([&] {
    ASSERT_TRUE(agents_.Await([&] { return HasBegin(0); }));
    agents_.Say(0, Exited(0, 0));
  });
  const RunResult result = runner->Run();
  ranks.join();
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_EQ(Notices("disk full"), 1);
  EXPECT_EQ(Notices("whole again"), 0);
  EXPECT_EQ(announced_, 2);  // Prepare and Begin
  EXPECT_GE(recorded_.size(), 4u) << "what happens is recorded all the same";
}

// It is asked again while nothing happens, and everything that was recorded meanwhile is there.
TEST_F(RunnerTest, JournalThatCanBeWrittenAgain_IsToldWithoutAnyEvent) {
  MakeJob(1);
  std::atomic<bool> is_full = true;
  commit_status_ = [&] {
    return is_full ? absl::ResourceExhaustedError("disk full") : absl::OkStatus();
  };
  const std::unique_ptr<Runner> runner = MakeRunner();
  std::thread ranks([&] {
    ASSERT_TRUE(agents_.Await([&] { return HasBegin(0); }));
    is_full = false;
    ASSERT_TRUE(agents_.Await([&] { return told_again_.load(); }));
    agents_.Say(0, Exited(0, 0));
  });
  const RunResult result = runner->Run();
  ranks.join();
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_EQ(Notices("disk full"), 1);
  EXPECT_EQ(Notices("the journal is whole again"), 1);
  EXPECT_EQ(committed_, recorded_.size());
}

// Of a coordinator that has long work and short work in turns, every tick comes late: node 1 is
// gone all the same, and node 0, which is heard all the time, is not.
TEST_F(RunnerTest, BusyCoordinator_FindsASilentNode_WithALimitOfASecond) {
  MakeJob(2);
  *job_.mutable_limits()->mutable_node_silent_after() = ToProto(absl::Seconds(1));
  FakeClock clock;
  clock_ = &clock;
  tick_interval_ = absl::Milliseconds(50);
  const SteadyTime begin = clock.SteadyNow();
  int events = 0;
  // Each event takes its time and leaves the next one behind.
  on_record_ = [&] {
    if (clock.SteadyNow() - begin > absl::Hours(1)) return;
    clock.Advance(++events % 2 == 0 ? absl::Milliseconds(600) : absl::Milliseconds(20));
    proto::AgentMessage again;
    again.mutable_prepared();
    if (HasBegin(1)) agents_.Say(0, again);
  };
  std::thread first([&] {
    ASSERT_TRUE(agents_.Await([&] { return HasBegin(1); }));
    agents_.Say(0, Exited(1, 0));  // of no rank: the first of the events
  });
  const RunResult result = MakeRunner()->Run();
  first.join();
  ASSERT_EQ(result.report.incidents.size(), 1u) << result.report.verdict;
  EXPECT_EQ(result.report.incidents[0].cause.node, NodeId(1));
  EXPECT_THAT(result.report.incidents[0].cause.what, HasSubstr("has been silent for 1s"));
  EXPECT_TRUE(result.report.incidents[0].consequences.empty());
  EXPECT_LT(clock.SteadyNow() - begin, absl::Seconds(30));
}

// Starts agents, all but the first one only when the first one may; counts how many at once.
class SlowStarter : public AgentStarter {
 public:
  explicit SlowStarter(FakeAgents& agents) : agents_(agents) {}
  absl::StatusOr<AgentEndpoint> Start(NodeId id, const proto::NodeSpec& node) override {
    {
      MutexLock lock(mu_);
      most_at_once_ = std::max(most_at_once_, ++at_once_);
      changed_.NotifyAll();
      while (id == NodeId(0) && !first_may_) changed_.Wait(mu_);
    }
    absl::StatusOr<AgentEndpoint> endpoint = agents_.Start(id, node);
    MutexLock lock(mu_);
    --at_once_;
    ++started_;
    changed_.NotifyAll();
    return endpoint;
  }
  void End(NodeId id, absl::Duration grace) override { agents_.End(id, grace); }
  void EndAll(absl::Duration) override {}
  std::string HowItEnded(NodeId, absl::Duration) override { return ""; }

  void AwaitStarted(int nodes) {
    MutexLock lock(mu_);
    while (started_ < nodes) changed_.Wait(mu_);
  }
  void LetTheFirst() {
    MutexLock lock(mu_);
    first_may_ = true;
    changed_.NotifyAll();
  }
  int most_at_once() {
    MutexLock lock(mu_);
    return most_at_once_;
  }

 private:
  FakeAgents& agents_;
  Mutex mu_;
  CondVar changed_;
  int at_once_ ABSL_GUARDED_BY(mu_) = 0;
  int most_at_once_ ABSL_GUARDED_BY(mu_) = 0;
  int started_ ABSL_GUARDED_BY(mu_) = 0;
  bool first_may_ ABSL_GUARDED_BY(mu_) = false;
};

TEST_F(RunnerTest, ManyNodes_AreStartedAFewAtATime_AndOneThatHangsHoldsUpNoOther) {
  constexpr int kNodes = 100;
  MakeJob(kNodes);
  SlowStarter starter(agents_);
  starter_ = &starter;
  most_asked_at_once_ = 4;
  const std::unique_ptr<Runner> runner = MakeRunner();
  std::thread ranks([&] {
    starter.AwaitStarted(kNodes - 1);  // all but the one that hangs
    starter.LetTheFirst();
    ASSERT_TRUE(agents_.Await([&] { return HasBegin(kNodes - 1); }));
    for (int node = 0; node < kNodes; ++node) agents_.Say(node, Exited(0, 0));
  });
  EXPECT_EQ(runner->Run().exit_code, 0);
  ranks.join();
  EXPECT_LE(starter.most_at_once(), 4);
}

TEST_F(RunnerTest, AgentCannotBeStarted_JobEndsUnreachableAndTheOthersAreEnded) {
  MakeJob(2);
  agents_.set_start_error(1, absl::UnavailableError("connection refused at 127.0.0.2:1"));
  const std::unique_ptr<Runner> runner = MakeRunner();
  const RunResult result = runner->Run();
  EXPECT_EQ(result.exit_code, kExitUnreachable) << result.report.verdict;
  ASSERT_EQ(result.report.launch_failures.size(), 1u);
  EXPECT_THAT(result.report.launch_failures[0].what, HasSubstr("127.0.0.2:1"));
  std::vector<proto::CoordinatorMessage> received = agents_.Received(0);
  std::erase_if(received, [](const auto& message) { return message.has_heartbeat(); });
  EXPECT_TRUE(received.empty() || received.back().has_end_job());
}

TEST_F(RunnerTest, OperatorStopsTwice_JobIsCancelled) {
  MakeJob(1);
  const std::unique_ptr<Runner> runner = MakeRunner();
  agents_.set_hook([&](int, const proto::CoordinatorMessage& message) {
    if (message.has_begin()) {
      runner->Post(OperatorStop{});
      runner->Post(OperatorStop{});
    }
    return false;
  });
  const RunResult result = runner->Run();
  EXPECT_EQ(result.exit_code, kExitCancelled) << result.report.verdict;
}

TEST_F(RunnerTest, Heartbeats_GoToOpenAgents) {
  MakeJob(1);
  const std::unique_ptr<Runner> runner = MakeRunner();
  std::thread ranks([&] {
    ASSERT_TRUE(agents_.Await([&] {
      const std::vector<proto::CoordinatorMessage> received = agents_.Received(0);
      return std::count_if(received.begin(), received.end(),
                           [](const auto& m) { return m.has_heartbeat(); }) >= 3;
    }));
    EXPECT_EQ(agents_.Received(0).back().incarnation(), 1000u);
    agents_.Say(0, Exited(0, 0));
  });
  runner->Run();
  ranks.join();
}

TEST_F(RunnerTest, LogChunks_GoToTheConsoleAndNotToTheJournal) {
  MakeJob(1);
  const std::unique_ptr<Runner> runner = MakeRunner();
  std::thread ranks([&] {
    ASSERT_TRUE(agents_.Await([&] { return HasBegin(0); }));
    proto::AgentMessage chunk;
    chunk.mutable_log_chunk()->set_text("hello\n");
    agents_.Say(0, chunk);
    agents_.Say(0, Exited(0, 0));
  });
  runner->Run();
  ranks.join();
  EXPECT_EQ(output_, "0:hello\n");
  for (const Event& event : recorded_) {
    const auto* spoke = std::get_if<AgentSpoke>(&event);
    EXPECT_FALSE(spoke != nullptr && spoke->message.has_log_chunk());
  }
}

TEST_F(RunnerTest, BrokenStream_IsReportedWithHowTheAgentEnded) {
  MakeJob(1);
  agents_.set_end_words(0, "it was killed by signal 9");
  const std::unique_ptr<Runner> runner = MakeRunner();
  std::thread ranks([&] {
    ASSERT_TRUE(agents_.Await([&] { return HasBegin(0); }));
    agents_.Break(0, absl::UnavailableError("Socket closed"));
  });
  const RunResult result = runner->Run();
  ranks.join();
  EXPECT_EQ(result.exit_code, kExitNoNodesLeft) << result.report.verdict;
  ASSERT_EQ(result.report.incidents.size(), 1u);
  EXPECT_EQ(result.report.incidents[0].cause.what, "its agent is gone: it was killed by signal 9");
}

TEST_F(RunnerTest, MessageThatCannotBeDecoded_IsTheReasonWhateverTheAgentDoesNext) {
  MakeJob(1);
  agents_.set_end_words(0, "it exited with code 0");
  const std::unique_ptr<Runner> runner = MakeRunner();
  std::thread ranks([&] {
    ASSERT_TRUE(agents_.Await([&] { return HasBegin(0); }));
    agents_.Break(0, absl::DataLossError("a message of 6 bytes cannot be decoded"));
  });
  const RunResult result = runner->Run();
  ranks.join();
  ASSERT_EQ(result.report.incidents.size(), 1u);
  EXPECT_EQ(result.report.incidents[0].cause.what,
            "its agent is gone: a message of 6 bytes cannot be decoded");
}

TEST_F(RunnerTest, AgentThatRefuses_IsReportedInItsOwnWords) {
  MakeJob(1);
  agents_.set_end_words(0, "it exited with code 1");
  agents_.set_hook([&](int node, const proto::CoordinatorMessage& message) {
    if (!message.has_open()) return false;
    agents_.Break(node, absl::UnauthenticatedError("wrong cluster key"));
    return true;
  });
  const RunResult result = MakeRunner()->Run();
  EXPECT_EQ(result.exit_code, kExitPreflight) << result.report.verdict;
  ASSERT_EQ(result.report.launch_failures.size(), 1u);
  EXPECT_THAT(result.report.launch_failures[0].what, HasSubstr("wrong cluster key"));
}

TEST_F(RunnerTest, AgentThatDoesNotAdmitUs_HasRefusedTheJob) {
  MakeJob(1);
  agents_.set_hook([&](int node, const proto::CoordinatorMessage& message) {
    if (!message.has_open()) return false;
    agents_.Break(node, absl::PermissionDeniedError("this process is none that it admits"));
    return true;
  });
  const RunResult result = MakeRunner()->Run();
  EXPECT_EQ(result.exit_code, kExitPreflight) << result.report.verdict;
}

TEST_F(RunnerTest, LostNode_IsFencedAndItsAgentEnded) {
  MakeJob(2);
  const std::unique_ptr<Runner> runner = MakeRunner();
  std::thread ranks([&] {
    ASSERT_TRUE(agents_.Await([&] { return HasBegin(0) && HasBegin(1); }));
    agents_.Break(1, absl::UnavailableError("connection reset"));
    agents_.Say(0, Exited(0, 143));
    ASSERT_TRUE(agents_.Await([&] {
      const std::vector<int> ended = agents_.Ended();
      return std::find(ended.begin(), ended.end(), 1) != ended.end();
    }));
    runner->Post(OperatorStop{});
    runner->Post(OperatorStop{});
  });
  const RunResult result = runner->Run();
  ranks.join();
  EXPECT_NE(result.exit_code, 0);
  EXPECT_THAT(agents_.Ended(), Contains(1));
}

}  // namespace
}  // namespace dsrun::launcher
