// NodeCore: a table of every worker state against every event.

#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "agent/node_core.h"
#include "tests/agent/scripted_node.h"

namespace dsrun::agent {
namespace {

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
  proto::CoordinatorMessage stacks1 = Node::Message(1);
  stacks1.mutable_take_stacks();
  struct Row {
    const char* name;
    std::function<std::vector<std::string>(Node&)> event;
    Cell cells[6];  // in the order of kStates
  };
  const std::string hello = "started@1 0, to 0: welcome, to 0: plan@1";
  const std::string gone = "exited@1 0, sweep 0";
  const std::string left = "exited@1 0, report@1 0, leave 0";
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
      {"cannot end",
       [](Node& n) { return n.CannotEnd(0); },
       {{E, ""},
        {S, ""},
        {E, left},
        {E, left},
        {E, left},
        {E, "exited@1 0 killed, report@2 0, leave 0"}}},
      {"a leftover has ended",
       [](Node& n) {
         return n.Step(LeftoverEnded{Slot(0), 7, absl::Seconds(5)});
       },
       {{E, "report@0 0"},
        {S, "report@1 0"},
        {U, "report@1 0"},
        {C, "report@1 0"},
        {F, "report@1 0"},
        {K, "report@2 0"}}},
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
      {"take stacks",
       [&](Node& n) { return n.Step(CoordinatorReceived{stacks1}); },
       {{E, ""}, {S, ""}, {U, ""}, {C, "inspect 0, to 0: stacks"}, {F, ""}, {K, ""}}},
      {"inspected, stopped",
       [](Node& n) {
         return n.Step(WorkerInspected{Slot(0), 'T', ""});
       },
       {{E, ""},
        {S, "report@1 0"},
        {U, "report@1 0"},
        {C, "report@1 0"},
        {F, "report@1 0"},
        {K, ""}}},
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
