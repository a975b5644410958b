// NodeCore: the life of a job as scripts, and a table of every worker state against every event.

#include "agent/node_core.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"

namespace dsrun::agent {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

// One action as one word and its numbers, so that a whole step reads as a line.
std::string Name(const proto::AgentMessage& m) {
  const std::string g = absl::StrCat("@", m.generation());
  switch (m.body_case()) {
    case proto::AgentMessage::kOpened:
      return "opened";
    case proto::AgentMessage::kPrepared: {
      std::string text = "prepared" + g;
      for (const int slot : m.prepared().live_slots()) absl::StrAppend(&text, " ", slot);
      return text;
    }
    case proto::AgentMessage::kWorkerStarted:
      return absl::StrCat("started", g, " ", m.worker_started().slot());
    case proto::AgentMessage::kWorkerExited:
      return absl::StrCat("exited", g, " ", m.worker_exited().slot(),
                          m.worker_exited().killed_by_agent() ? " killed" : "");
    case proto::AgentMessage::kWorkerReport:
      return absl::StrCat("report", g, " ", m.worker_report().slot());
    case proto::AgentMessage::kHeartbeat:
      return "heartbeat";
    case proto::AgentMessage::kLogChunk:
      return "log";
    case proto::AgentMessage::kJobEnded:
      return "job-ended";
    case proto::AgentMessage::BODY_NOT_SET:
      return "?";
  }
  return "?";
}

std::string Name(const proto::HostMessage& m) {
  switch (m.body_case()) {
    case proto::HostMessage::kWelcome:
      return "welcome";
    case proto::HostMessage::kPlan:
      return absl::StrCat("plan@", m.plan().generation());
    case proto::HostMessage::kExchangeTable:
      return "table " + m.exchange_table().name();
    case proto::HostMessage::kStop:
      return m.stop().checkpoint_first() ? "stop-save" : "stop-now";
    case proto::HostMessage::BODY_NOT_SET:
      return "?";
  }
  return "?";
}

std::string Name(const NodeAction& action) {
  struct Visitor {
    std::string operator()(const SpawnWorker& a) {
      return absl::StrCat("spawn ", a.slot.value(), " as ", a.rank.value());
    }
    std::string operator()(const KillWorker& a) { return absl::StrCat("kill ", a.slot.value()); }
    std::string operator()(const StopLadder& a) {
      std::string text = "ladder";
      for (const Slot slot : a.slots) absl::StrAppend(&text, " ", slot.value());
      return text;
    }
    std::string operator()(const SendToCoordinator& a) { return Name(a.message); }
    std::string operator()(const SendToWorker& a) {
      return absl::StrCat("to ", a.slot.value(), ": ", Name(a.message));
    }
    std::string operator()(const SweepOrphans& a) {
      return a.slot.has_value() ? absl::StrCat("sweep ", a.slot->value()) : "sweep all";
    }
    std::string operator()(const JobOver& a) { return a.abandoned ? "abandoned" : "over"; }
  };
  return std::visit(Visitor(), action);
}

// A core with its own idea of time, spoken to in short words.
class Node {
 public:
  explicit Node(bool program = false) : program_(program), core_({Incarnation(7), {}}) {}

  std::vector<std::string> Step(const NodeEvent& event) {
    actions_ = core_.Step(now_, event);
    std::vector<std::string> names;
    for (const NodeAction& action : actions_) names.push_back(Name(action));
    return names;
  }
  std::vector<std::string> After(absl::Duration duration) {
    now_ += duration;
    return Step(Tick{});
  }
  // Ticks as the shell does, so that the core sees no pause of its own; everything but heartbeats.
  std::vector<std::string> Ticking(absl::Duration duration) {
    std::vector<std::string> all;
    for (absl::Duration t; t < duration; t += absl::Milliseconds(250)) {
      for (std::string& name : After(absl::Milliseconds(250))) {
        if (name != "heartbeat") all.push_back(std::move(name));
      }
    }
    return all;
  }
  static proto::CoordinatorMessage Message(int64_t generation) {
    proto::CoordinatorMessage message;
    message.set_job_id("job");
    message.set_generation(generation);
    return message;
  }
  std::vector<std::string> Open() {
    proto::CoordinatorMessage message = Message(0);
    proto::JobSpec& job = *message.mutable_open()->mutable_job();
    job.set_job_id("job");
    if (program_) {
      job.mutable_program()->set_executable("/bin/x");
    } else {
      job.mutable_train();
    }
    return Step(CoordinatorReceived{message});
  }
  std::vector<std::string> Prepare(int64_t generation) {
    proto::CoordinatorMessage message = Message(generation);
    message.mutable_prepare();
    return Step(CoordinatorReceived{message});
  }
  // Members of this node; node 1 has one more, last.
  std::vector<std::string> Begin(int64_t generation, const std::vector<int>& slots) {
    proto::CoordinatorMessage message = Message(generation);
    proto::GenerationPlan& plan = *message.mutable_begin()->mutable_plan();
    plan.set_generation(generation);
    for (const int slot : slots) plan.add_members()->set_slot(slot);
    plan.add_members()->set_node(1);
    return Step(CoordinatorReceived{message});
  }
  std::vector<std::string> Stop(int64_t generation, bool checkpoint_first) {
    proto::CoordinatorMessage message = Message(generation);
    message.mutable_stop_workers()->set_checkpoint_first(checkpoint_first);
    return Step(CoordinatorReceived{message});
  }
  std::vector<std::string> End() {
    proto::CoordinatorMessage message = Message(0);
    message.mutable_end_job();
    return Step(CoordinatorReceived{message});
  }
  std::vector<std::string> CoordinatorBeat() {
    proto::CoordinatorMessage message = Message(0);
    message.mutable_heartbeat();
    return Step(CoordinatorReceived{message});
  }
  std::vector<std::string> Spawned(int slot) { return Step(WorkerSpawned{Slot(slot), 100 + slot}); }
  std::vector<std::string> Hello(int slot) {
    return Step(WorkerHello{Slot(slot), Incarnation(50 + slot)});
  }
  std::vector<std::string> Ended(int slot, int signal = 0) {
    WorkerEnded ended;
    ended.slot = Slot(slot);
    ended.term_signal = signal;
    return Step(ended);
  }
  std::vector<std::string> Says(int slot, int64_t generation,
                                const std::function<void(proto::WorkerMessage&)>& what) {
    proto::WorkerMessage message;
    message.set_incarnation(50 + slot);
    message.set_generation(generation);
    what(message);
    return Step(WorkerReceived{Slot(slot), message});
  }
  std::vector<std::string> StepDone(int slot, int64_t generation) {
    return Says(slot, generation, [](auto& m) { m.mutable_step_done()->set_step(1); });
  }
  std::vector<std::string> Beat(int slot) {
    return Says(slot, 0, [](auto& m) { m.mutable_beat()->set_step(5); });
  }
  std::vector<std::string> Finished(int slot, int64_t generation) {
    return Says(slot, generation, [](auto& m) { m.mutable_finished(); });
  }
  // Opened, and generation 1 runs on these slots.
  void Run(const std::vector<int>& slots) {
    Open();
    Begin(1, slots);
    for (const int slot : slots) {
      Spawned(slot);
      if (!program_) Hello(slot);
    }
  }
  const NodeCore& core() const { return core_; }
  WorkerState state(int slot) const { return core_.state(Slot(slot)); }
  // The last WorkerExited among the last step's actions.
  proto::WorkerExited exited() const {
    for (const NodeAction& action : actions_) {
      const auto* send = std::get_if<SendToCoordinator>(&action);
      if (send != nullptr && send->message.has_worker_exited()) {
        return send->message.worker_exited();
      }
    }
    ADD_FAILURE() << "no WorkerExited";
    return {};
  }

 private:
  const bool program_;
  absl::Duration now_ = absl::Seconds(1000);
  NodeCore core_;
  std::vector<NodeAction> actions_;
};

TEST(NodeCore, FirstGeneration_OpenSpawnHelloPlan) {
  Node node;
  EXPECT_THAT(node.Open(), ElementsAre("opened"));
  EXPECT_THAT(node.Prepare(1), ElementsAre("prepared@1"));
  EXPECT_THAT(node.Begin(1, {0, 1}), ElementsAre("spawn 0 as 0", "spawn 1 as 1"));
  EXPECT_THAT(node.Spawned(0), IsEmpty());
  EXPECT_THAT(node.Hello(0), ElementsAre("started@1 0", "to 0: welcome", "to 0: plan@1"));
}

TEST(NodeCore, Prepare_RepeatedIsAnsweredAgain_StaleIsNot) {
  Node node;
  node.Run({0, 1});
  EXPECT_THAT(node.Prepare(3), ElementsAre("prepared@3 0 1"));
  EXPECT_THAT(node.Prepare(3), ElementsAre("prepared@3 0 1"));
  EXPECT_THAT(node.Prepare(2), IsEmpty());
  EXPECT_THAT(node.Begin(2, {0, 1}), IsEmpty());
  EXPECT_EQ(node.core().generation(), Generation(1));
}

TEST(NodeCore, Begin_SurvivorGetsThePlan_MissingIsSpawned_StrangerIsKilled) {
  Node node;
  node.Run({0, 1, 2});
  EXPECT_THAT(node.Ended(1, 9), ElementsAre("exited@1 1", "sweep 1"));
  EXPECT_THAT(node.Begin(2, {0, 1}), ElementsAre("to 0: plan@2", "kill 2", "spawn 1 as 1"));
  // The stranger's end is reported under its own generation: nobody counts on it.
  EXPECT_THAT(node.Ended(2, 9), ElementsAre("exited@1 2 killed", "sweep 2"));
}

TEST(NodeCore, Begin_Repeated_IsIgnored) {
  Node node;
  node.Run({0});
  EXPECT_THAT(node.Begin(1, {0}), IsEmpty());
}

TEST(NodeCore, Begin_WhileAWorkerIsDying_ItIsSpawnedAfterItsEnd) {
  Node node;
  node.Run({0, 1});
  node.Begin(2, {1});  // kills slot 0
  EXPECT_EQ(node.state(0), WorkerState::kStopping);
  EXPECT_THAT(node.Begin(3, {0, 1}), ElementsAre("to 1: plan@3"));
  EXPECT_THAT(node.Ended(0, 9), ElementsAre("exited@1 0 killed", "sweep 0", "spawn 0 as 0"));
}

TEST(NodeCore, Reports_OfThePresentGenerationOnly) {
  Node node;
  node.Run({0});
  EXPECT_THAT(node.StepDone(0, 1), ElementsAre("report@1 0"));
  node.Begin(2, {0});
  EXPECT_THAT(node.StepDone(0, 1), IsEmpty());
  EXPECT_THAT(node.StepDone(0, 2), ElementsAre("report@2 0"));
  EXPECT_THAT(node.Says(0, 1, [](auto& m) { m.mutable_notice()->set_text("disk full"); }),
              ElementsAre("report@2 0"));
}

TEST(NodeCore, MessageOfAnotherIncarnation_IsDropped) {
  Node node;
  node.Run({0});
  EXPECT_THAT(node.Says(0, 1,
                        [](auto& m) {
                          m.set_incarnation(999);
                          m.mutable_step_done();
                        }),
              IsEmpty());
}

TEST(NodeCore, ExchangeTable_GoesToEveryMember) {
  Node node;
  node.Run({0, 1});
  proto::CoordinatorMessage message = Node::Message(1);
  message.mutable_exchange_table()->set_name("world");
  EXPECT_THAT(node.Step(CoordinatorReceived{message}),
              ElementsAre("to 0: table world", "to 1: table world"));
  message.set_generation(0);
  EXPECT_THAT(node.Step(CoordinatorReceived{message}), IsEmpty());
}

TEST(NodeCore, FinishedWorker_ExitsNormally_AndIsNotRestarted) {
  Node node;
  node.Run({0});
  EXPECT_THAT(node.Finished(0, 1), ElementsAre("report@1 0"));
  EXPECT_EQ(node.state(0), WorkerState::kFinished);
  EXPECT_THAT(node.Ended(0), ElementsAre("exited@1 0", "sweep 0"));
  EXPECT_FALSE(node.exited().killed_by_agent());
}

TEST(NodeCore, FinishedWorkerThatLingers_IsKilledAfterTheGrace) {
  Node node;
  node.Run({0});
  node.Finished(0, 1);
  for (int i = 0; i < 14; ++i) {
    EXPECT_THAT(node.Ticking(absl::Seconds(1)), IsEmpty());
    node.CoordinatorBeat();
  }
  EXPECT_THAT(node.Ticking(absl::Seconds(2)), ElementsAre("kill 0"));
}

TEST(NodeCore, SilentWorker_IsKilled_OneThatBeatsIsNot) {
  Node node;
  node.Run({0, 1});
  for (int i = 0; i < 11; ++i) {
    EXPECT_THAT(node.Ticking(absl::Milliseconds(250)), IsEmpty());
    node.Beat(1);
  }
  EXPECT_THAT(node.Ticking(absl::Milliseconds(250)), ElementsAre("kill 0"));
  EXPECT_THAT(node.Ended(0, 9), ElementsAre("exited@1 0 killed", "sweep 0"));
  EXPECT_EQ(node.exited().reason(), "silent for 3 s, probably stopped");
}

TEST(NodeCore, OwnPause_IsNotHeldAgainstTheWorkers) {
  Node node;
  node.Run({0});
  node.Ticking(absl::Seconds(1));
  EXPECT_THAT(node.After(absl::Seconds(10)), ElementsAre("heartbeat"));
  EXPECT_EQ(node.state(0), WorkerState::kConnected);
}

TEST(NodeCore, WorkerThatNeverSaysHello_IsKilledLater) {
  Node node;
  node.Open();
  node.Begin(1, {0});
  node.Spawned(0);
  EXPECT_THAT(node.Ticking(absl::Seconds(8)), IsEmpty());
  EXPECT_THAT(node.Ticking(absl::Seconds(1.25)), ElementsAre("kill 0"));
}

TEST(NodeCore, ClosedSession_MustBeFollowedByTheEnd) {
  Node node;
  node.Run({0});
  EXPECT_THAT(node.Step(WorkerSessionClosed{Slot(0), Incarnation(999)}), IsEmpty());
  EXPECT_EQ(node.state(0), WorkerState::kConnected);
  node.Step(WorkerSessionClosed{Slot(0), Incarnation(50)});
  EXPECT_EQ(node.state(0), WorkerState::kUp);
  EXPECT_THAT(node.Ticking(absl::Seconds(3)), ElementsAre("kill 0"));
}

TEST(NodeCore, StopWithCheckpoint_AsksAndWaits_StopNow_KillsAfterTheGrace) {
  Node node;
  node.Run({0});
  EXPECT_THAT(node.Stop(1, true), ElementsAre("to 0: stop-save"));
  for (int i = 0; i < 20; ++i) {
    EXPECT_THAT(node.Ticking(absl::Seconds(1)), IsEmpty());
    node.Beat(0);
    node.CoordinatorBeat();
  }
  EXPECT_THAT(node.Stop(1, false), ElementsAre("to 0: stop-now"));
  for (int i = 0; i < 14; ++i) {
    EXPECT_THAT(node.Ticking(absl::Seconds(1)), IsEmpty());
    node.Beat(0);
    node.CoordinatorBeat();
  }
  EXPECT_THAT(node.Ticking(absl::Seconds(1.25)), ElementsAre("kill 0"));
  // Nothing is started again until the next Begin.
  EXPECT_THAT(node.Ended(0, 9), ElementsAre("exited@1 0 killed", "sweep 0"));
}

TEST(NodeCore, EndJob_KillsSweepsAndSaysSo) {
  Node node;
  node.Run({0, 1});
  EXPECT_THAT(node.End(), ElementsAre("kill 0", "kill 1"));
  EXPECT_THAT(node.Ended(1, 9), ElementsAre("exited@1 1 killed", "sweep 1"));
  EXPECT_THAT(node.Ended(0, 9),
              ElementsAre("exited@1 0 killed", "sweep 0", "sweep all", "job-ended", "over"));
  EXPECT_TRUE(node.core().over());
  EXPECT_THAT(node.Begin(2, {0}), IsEmpty());
}

TEST(NodeCore, EndJob_WithNothingAlive_IsOverAtOnce) {
  Node node;
  node.Open();
  EXPECT_THAT(node.End(), ElementsAre("sweep all", "job-ended", "over"));
}

TEST(NodeCore, CoordinatorGone_WorkersGoOnUntilTheLease) {
  Node node;
  node.Run({0});
  EXPECT_THAT(node.Step(CoordinatorGone{"reset"}), IsEmpty());
  for (int i = 0; i < 29; ++i) {
    EXPECT_THAT(node.Ticking(absl::Seconds(1)), IsEmpty());
    node.Beat(0);
  }
  EXPECT_THAT(node.Ticking(absl::Seconds(1)), ElementsAre("kill 0"));
  EXPECT_THAT(node.Ended(0, 9), ElementsAre("sweep 0", "sweep all", "abandoned"));
}

TEST(NodeCore, CoordinatorGone_NothingAlive_IsOverAtOnce) {
  Node node;
  node.Open();
  EXPECT_THAT(node.Step(CoordinatorGone{"reset"}), ElementsAre("sweep all", "abandoned"));
}

TEST(NodeCore, SilentCoordinator_RunsOutTheLeaseToo_ItsBeatRenewsIt) {
  Node node;
  node.Run({0});
  for (int i = 0; i < 60; ++i) {
    EXPECT_THAT(node.Ticking(absl::Seconds(1)), IsEmpty());
    node.Beat(0);
    node.CoordinatorBeat();
  }
  std::vector<std::string> actions;
  for (int i = 0; i < 30; ++i) {
    for (std::string& a : node.Ticking(absl::Seconds(1))) actions.push_back(a);
    node.Beat(0);
  }
  EXPECT_THAT(actions, ElementsAre("kill 0"));
}

TEST(NodeCore, KeeperGone_KillsAtOnce) {
  Node node(/*program=*/true);
  node.Run({0, 1});
  EXPECT_THAT(node.Step(KeeperGone{}), ElementsAre("kill 0", "kill 1"));
}

TEST(NodeCore, MessageForAnotherJobOrIncarnation_IsDropped) {
  Node node;
  node.Run({0});
  proto::CoordinatorMessage message = Node::Message(0);
  message.mutable_end_job();
  message.set_job_id("another");
  EXPECT_THAT(node.Step(CoordinatorReceived{message}), IsEmpty());
  message.set_job_id("job");
  message.set_incarnation(8);
  EXPECT_THAT(node.Step(CoordinatorReceived{message}), IsEmpty());
}

TEST(NodeCore, Heartbeat_CarriesTheBeatsOfConnectedWorkers) {
  Node node;
  node.Run({0, 1});
  node.Beat(1);
  EXPECT_THAT(node.After(absl::Milliseconds(100)), IsEmpty());
  EXPECT_THAT(node.After(absl::Milliseconds(400)), ElementsAre("heartbeat"));
}

TEST(NodeCore, Program_IsReportedWhenItIsUp_AndNeverSilent) {
  Node node(/*program=*/true);
  node.Open();
  EXPECT_THAT(node.Begin(1, {0}), ElementsAre("spawn 0 as 0"));
  EXPECT_THAT(node.Spawned(0), ElementsAre("started@1 0"));
  for (int i = 0; i < 100; ++i) {
    EXPECT_THAT(node.Ticking(absl::Seconds(1)), IsEmpty());
    node.CoordinatorBeat();
  }
}

TEST(NodeCore, Program_RestartsWhole_WhenTheLastOfTheOldIsDead) {
  Node node(/*program=*/true);
  node.Run({0, 1, 2});
  node.Ended(1, 11);
  EXPECT_THAT(node.Begin(2, {0, 1, 2}), ElementsAre("ladder 0 2"));
  EXPECT_THAT(node.Ended(2, 15), ElementsAre("exited@1 2 killed", "sweep 2"));
  EXPECT_THAT(node.Ended(0, 9), ElementsAre("exited@1 0 killed", "sweep 0", "spawn 0 as 0",
                                            "spawn 1 as 1", "spawn 2 as 2"));
}

TEST(NodeCore, Program_StopWorkers_IsTheLadder_AndWithoutPatienceTheEnd) {
  Node node(/*program=*/true);
  node.Run({0, 1});
  EXPECT_THAT(node.Stop(1, true), ElementsAre("ladder 0 1"));
  EXPECT_THAT(node.Stop(1, true), IsEmpty());
  EXPECT_THAT(node.Stop(1, false), ElementsAre("kill 0", "kill 1"));
  EXPECT_THAT(node.Ended(0, 15), ElementsAre("exited@1 0 killed", "sweep 0"));
}

TEST(NodeCore, SpawnFailure_IsReportedLikeAnExit) {
  Node node(/*program=*/true);
  node.Open();
  node.Begin(1, {0});
  EXPECT_THAT(node.Step(WorkerSpawnFailed{Slot(0), 127, "no such file"}),
              ElementsAre("exited@1 0"));
  EXPECT_EQ(node.exited().exit_code(), 127);
  EXPECT_EQ(node.exited().reason(), "no such file");
}

// ---- The table

// Brings slot 0 of an engine job into `state`.
void Reach(Node& node, WorkerState state) {
  node.Open();
  node.Prepare(1);
  if (state == WorkerState::kEmpty) return;
  node.Begin(1, {0});
  if (state == WorkerState::kStarting) return;
  node.Spawned(0);
  if (state == WorkerState::kUp) return;
  node.Hello(0);
  if (state == WorkerState::kFinished) node.Finished(0, 1);
  if (state == WorkerState::kStopping) node.Begin(2, {});
}

using Cell = std::pair<WorkerState, std::string>;  // state after, actions joined with ", "

TEST(NodeCore, EveryStateAgainstEveryEvent) {
  constexpr WorkerState kStates[] = {WorkerState::kEmpty,    WorkerState::kStarting,
                                     WorkerState::kUp,       WorkerState::kConnected,
                                     WorkerState::kFinished, WorkerState::kStopping};
  constexpr WorkerState E = WorkerState::kEmpty, S = WorkerState::kStarting, U = WorkerState::kUp,
                        C = WorkerState::kConnected, F = WorkerState::kFinished,
                        K = WorkerState::kStopping;
  proto::CoordinatorMessage kill1 = Node::Message(1);
  kill1.mutable_kill_worker()->set_reason("the operator said so");
  struct Row {
    const char* name;
    std::function<std::vector<std::string>(Node&)> event;
    Cell cells[6];  // in the order of kStates
  };
  const std::string hello = "started@1 0, to 0: welcome, to 0: plan@1";
  const std::string gone = "exited@1 0, sweep 0";
  // Spawned has no business in any state but kStarting, and so on: those cells are "nothing".
  const std::vector<Row> rows = {
      {"spawned",
       [](Node& n) { return n.Spawned(0); },
       {{E, ""}, {U, ""}, {U, ""}, {C, ""}, {F, ""}, {K, ""}}},
      {"spawn failed",
       [](Node& n) {
         return n.Step(WorkerSpawnFailed{Slot(0), 126, "x"});
       },
       {{E, ""}, {E, "exited@1 0"}, {U, ""}, {C, ""}, {F, ""}, {K, ""}}},
      {"hello",
       [](Node& n) { return n.Hello(0); },
       {{E, ""}, {S, ""}, {C, hello}, {C, hello}, {F, ""}, {K, ""}}},
      {"ended",
       [](Node& n) { return n.Ended(0); },
       {{E, ""},
        {E, "exited@1 0"},
        {E, gone},
        {E, gone},
        {E, gone},
        {E, "exited@1 0 killed, sweep 0"}}},
      {"session closed",
       [](Node& n) {
         return n.Step(WorkerSessionClosed{Slot(0), Incarnation(50)});
       },
       {{E, ""}, {S, ""}, {U, ""}, {U, ""}, {F, ""}, {K, ""}}},
      {"step done",
       [](Node& n) { return n.StepDone(0, 1); },
       {{E, ""}, {S, ""}, {U, ""}, {C, "report@1 0"}, {F, ""}, {K, ""}}},
      {"finished",
       [](Node& n) { return n.Finished(0, 1); },
       {{E, ""}, {S, ""}, {U, ""}, {F, "report@1 0"}, {F, ""}, {K, ""}}},
      {"begin 3 as a member",
       [](Node& n) { return n.Begin(3, {0}); },
       {{S, "spawn 0 as 0"}, {S, ""}, {U, ""}, {C, "to 0: plan@3"}, {K, "kill 0"}, {K, ""}}},
      {"begin 3 without it",
       [](Node& n) { return n.Begin(3, {}); },
       {{E, ""}, {K, "kill 0"}, {K, "kill 0"}, {K, "kill 0"}, {K, "kill 0"}, {K, ""}}},
      {"stop now",
       [](Node& n) { return n.Stop(2, false); },
       {{E, ""}, {K, "kill 0"}, {K, "kill 0"}, {C, "to 0: stop-now"}, {F, ""}, {K, ""}}},
      {"stop with checkpoint",
       [](Node& n) { return n.Stop(2, true); },
       {{E, ""}, {S, ""}, {U, ""}, {C, "to 0: stop-save"}, {F, ""}, {K, ""}}},
      {"kill 1",
       [&](Node& n) { return n.Step(CoordinatorReceived{kill1}); },
       {{E, ""}, {K, "kill 0"}, {K, "kill 0"}, {K, "kill 0"}, {K, "kill 0"}, {K, ""}}},
      {"end job",
       [](Node& n) { return n.End(); },
       {{E, "sweep all, job-ended, over"},
        {K, "kill 0"},
        {K, "kill 0"},
        {K, "kill 0"},
        {F, ""},
        {K, "kill 0"}}},
      {"keeper gone",
       [](Node& n) { return n.Step(KeeperGone{}); },
       {{E, "sweep all, abandoned"},
        {K, "kill 0"},
        {K, "kill 0"},
        {K, "kill 0"},
        {K, "kill 0"},
        {K, "kill 0"}}},
      {"coordinator gone",
       [](Node& n) { return n.Step(CoordinatorGone{"x"}); },
       {{E, "sweep all, abandoned"}, {S, ""}, {U, ""}, {C, ""}, {F, ""}, {K, ""}}},
      {"a short tick",
       [](Node& n) { return n.After(absl::Milliseconds(100)); },
       {{E, ""}, {S, ""}, {U, ""}, {C, ""}, {F, ""}, {K, ""}}},
      {"10 s of ticks",
       [](Node& n) { return n.Ticking(absl::Seconds(10)); },
       {{E, ""}, {K, "kill 0"}, {K, "kill 0"}, {K, "kill 0"}, {F, ""}, {K, ""}}},
  };
  for (const Row& row : rows) {
    for (int i = 0; i < 6; ++i) {
      SCOPED_TRACE(absl::StrCat(row.name, " in ", WorkerStateName(kStates[i])));
      Node node;
      Reach(node, kStates[i]);
      ASSERT_EQ(node.state(0), kStates[i]);
      std::string actions;
      for (const std::string& name : row.event(node)) {
        absl::StrAppend(&actions, actions.empty() ? "" : ", ", name);
      }
      EXPECT_EQ(node.state(0), row.cells[i].first) << node.state(0);
      EXPECT_EQ(actions, row.cells[i].second);
    }
  }
}

}  // namespace
}  // namespace dsrun::agent
