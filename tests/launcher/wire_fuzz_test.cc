// Whatever an agent sends, the coordinator goes on: its core keeps every invariant, and what it has
// to say can be said. A walk mixes honest agents with messages filled at random and with honest
// ones whose bytes were spoilt; it is played from a seed that is printed (SEED gives it back).

#include <gtest/gtest.h>

#include <deque>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/time/time.h"
#include "launcher/console/console.h"
#include "launcher/console/report_text.h"
#include "launcher/coordinator/coordinator.h"
#include "tests/support/random_messages.h"

namespace dsrun::launcher {
namespace {

constexpr int kWalks = 1500;
constexpr int kSteps = 80;
constexpr int kNodes = 3;

proto::JobSpec Job(bool train) {
  proto::JobSpec job;
  job.set_job_id("the-job");
  for (int i = 0; i < kNodes; ++i) {
    proto::NodeSpec& node = *job.add_nodes();
    node.set_host("node-" + std::to_string(i));
    node.set_address("127.0.0." + std::to_string(i + 1));
    node.add_slots(0);
    node.add_slots(2);
  }
  if (train) {
    job.mutable_train()->set_train_iters(100);
    job.mutable_train()->set_micro_batch_size(1);
    job.mutable_train()->set_global_batch_size(8);
  } else {
    job.mutable_program()->set_executable("/bin/true");
  }
  job.mutable_limits()->set_max_restarts(20);
  return job;
}

class Walk {
 public:
  Walk(RandomMessages& random, bool train)
      : random_(random), job_(Job(train)), core_(ConfigFromJob(job_)) {}

  void Play(std::set<Coordinator::State>& seen) {
    Feed(Start{});
    for (int i = 0; i < kSteps && !ended_; ++i) {
      Feed(Next());
      seen.insert(core_.state());
    }
  }

 private:
  // ---- What comes

  Event Next() {
    now_ += absl::Milliseconds(random_.Below(random_.OneIn(8) ? 5000 : 100));
    const uint32_t what = random_.Below(100);
    if (what < 10) return Tick{HeardFrom()};
    if (what < 12) return AgentGone{AnyNode(), absl::UnavailableError(random_.Text())};
    if (what < 13) return OperatorStop{};
    if (what < 14) return OperatorSignal{random_.OneIn(2) ? 10 : 12};
    if (what < 60 && !honest_.empty()) return TakeHonest();
    return AgentSpoke{AnyNode(), Hostile()};
  }

  std::vector<NodeId> HeardFrom() {
    std::vector<NodeId> nodes;
    for (int i = 0; i < kNodes; ++i) nodes.push_back(NodeId(i));
    return nodes;
  }

  // The shell numbers the nodes, not the wire.
  NodeId AnyNode() { return NodeId(static_cast<int32_t>(random_.Below(kNodes))); }

  Event TakeHonest() {
    AgentSpoke spoke = std::move(honest_.front());
    honest_.pop_front();
    if (random_.OneIn(8)) honest_.push_back(spoke);  // again, later
    if (random_.OneIn(6)) Spoil(spoke.message);
    return spoke;
  }

  void Spoil(proto::AgentMessage& message) {
    proto::AgentMessage spoilt;
    if (spoilt.ParseFromString(random_.Spoil(message.SerializeAsString()))) message = spoilt;
  }

  proto::AgentMessage Hostile() {
    proto::AgentMessage message;
    random_.Fill(message);
    if (!random_.OneIn(4)) {  // one that is not dropped at the door
      message.set_job_id(job_.job_id());
      message.set_incarnation(kIncarnation);
      message.set_generation(Recent());
      if (message.has_worker_report()) {
        message.mutable_worker_report()->mutable_message()->set_generation(Recent());
      }
    }
    return message;
  }

  int64_t Recent() { return core_.generation().value() - (random_.OneIn(5) ? 1 : 0); }

  // ---- What goes out, and how an honest agent answers

  void Feed(const Event& first) {
    std::deque<Event> waiting = {first};
    while (!waiting.empty() && !ended_) {
      const Event event = std::move(waiting.front());
      waiting.pop_front();
      for (const Action& action : core_.Step(now_, event)) {
        if (const auto* raise = std::get_if<Raise>(&action)) {
          std::visit([&](const auto& raised) { waiting.push_back(raised); }, raise->event);
        }
        Perform(action);
      }
      const absl::Status invariants = core_.CheckInvariants();
      ASSERT_TRUE(invariants.ok()) << invariants << "\n" << core_.DebugString();
      core_.Digest();
    }
  }

  void Perform(const Action& action) {
    if (const auto* open = std::get_if<OpenAgent>(&action)) {
      proto::AgentMessage opened;
      opened.mutable_opened()->set_pid(1);
      Answer(open->node, 0, opened);
    } else if (const auto* send = std::get_if<SendToAgent>(&action)) {
      AnswerTo(send->node, send->Message());
    } else if (const auto* tell = std::get_if<Tell>(&action)) {
      OperatorText(tell->event);
      if (const auto* progress = std::get_if<Progress>(&tell->event)) {
        ProgressForms(progress->done, 100, progress->done.step_ms());
      }
    } else if (const auto* end = std::get_if<EndJob>(&action)) {
      ended_ = true;
      CheckReport(end->report);
    }
  }

  void Answer(NodeId node, int64_t generation, proto::AgentMessage message) {
    message.set_job_id(job_.job_id());
    message.set_incarnation(kIncarnation);
    message.set_generation(generation);
    honest_.push_back({node, std::move(message)});
  }

  void Report(NodeId node, int64_t generation, int slot, proto::WorkerMessage report) {
    report.set_job_id(job_.job_id());
    report.set_generation(generation);
    proto::AgentMessage message;
    message.mutable_worker_report()->set_slot(slot);
    *message.mutable_worker_report()->mutable_message() = std::move(report);
    Answer(node, generation, message);
  }

  void AnswerTo(NodeId node, const proto::CoordinatorMessage& message) {
    proto::AgentMessage answer;
    if (message.has_prepare()) {
      answer.mutable_prepared();
      Answer(node, message.generation(), answer);
    } else if (message.has_begin()) {
      plan_ = message.begin().plan();
      for (const proto::Member& member : plan_.members()) {
        if (member.node() == node.value()) Run(member);
      }
    } else if (message.has_stop_workers()) {
      for (const proto::Member& member : plan_.members()) {
        if (member.node() == node.value()) Finish(member);
      }
    } else if (message.has_end_job()) {
      answer.mutable_job_ended();
      Answer(node, message.generation(), answer);
    }
  }

  void Run(const proto::Member& member) {
    const NodeId node(member.node());
    proto::AgentMessage started;
    started.mutable_worker_started()->set_slot(member.slot());
    Answer(node, plan_.generation(), started);
    proto::WorkerMessage joined, step;
    joined.mutable_joined();
    Report(node, plan_.generation(), member.slot(), joined);
    step.mutable_step_done()->set_step(random_.Below(100));
    Report(node, plan_.generation(), member.slot(), step);
    if (random_.OneIn(4)) Finish(member);
  }

  void Finish(const proto::Member& member) {
    const NodeId node(member.node());
    proto::WorkerMessage finished;
    finished.mutable_finished()->set_step(100);
    finished.mutable_finished()->set_sample(random_.Bytes(40));
    Report(node, plan_.generation(), member.slot(), finished);
    proto::AgentMessage exited;
    exited.mutable_worker_exited()->set_slot(member.slot());
    Answer(node, plan_.generation(), exited);
  }

  void CheckReport(const launcher::Report& report) {
    const ReportContext context{.job = job_,
                                .log_folder = "/logs",
                                .steady_now = now_,
                                .wall_now = absl::UnixEpoch() + now_};
    const std::string screen = ReportScreen(report, context);
    EXPECT_FALSE(screen.empty());
    EXPECT_TRUE(nlohmann::json::accept(ReportJson(report, context)));
  }

  static constexpr uint64_t kIncarnation = 77;

  RandomMessages& random_;
  const proto::JobSpec job_;
  Coordinator core_;
  absl::Duration now_ = absl::Seconds(1);
  proto::GenerationPlan plan_;
  std::deque<AgentSpoke> honest_;
  bool ended_ = false;
};

TEST(CoordinatorWireFuzz, AnyMessagesFromAgents_KeepEveryInvariantAndCanBeReported) {
  RandomMessages random(TestSeed());
  random.SetWords({"the-job", "node-0", "communicator", "model-step-000001.manifest"});
  std::set<Coordinator::State> seen;
  for (int i = 0; i < kWalks && !::testing::Test::HasFatalFailure(); ++i) {
    SCOPED_TRACE("walk " + std::to_string(i));
    Walk(random, /*train=*/i % 2 == 0).Play(seen);
  }
  // Every state there is, or the walks are not worth much.
  EXPECT_EQ(seen.size(), static_cast<size_t>(Coordinator::State::kEnded));
}

}  // namespace
}  // namespace dsrun::launcher
