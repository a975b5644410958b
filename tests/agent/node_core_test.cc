// NodeCore: the life of a job as scripts. Every state against every event: node_core_table_test.cc.
// Long, because the scripts share the words that they are written in.

#include "agent/node_core.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/operation_class.h"
#include "tests/agent/scripted_node.h"

namespace dsrun::agent {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

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

TEST(NodeCore, Prepare_OfAProgramOnNode0_ReservesThePortOfRank0First) {
  Node node(/*program=*/true);
  node.Open();
  EXPECT_THAT(node.Prepare(1), ElementsAre("reserve@1"));
  EXPECT_THAT(node.Step(PortReserved{Generation(1), 29500, ""}),
              ElementsAre("prepared@1 port 29500"));
  // A repeat asks for no other port; a newer claim does, and an answer to an older one is late.
  EXPECT_THAT(node.Prepare(1), ElementsAre("prepared@1 port 29500"));
  EXPECT_THAT(node.Prepare(2), ElementsAre("reserve@2"));
  EXPECT_THAT(node.Step(PortReserved{Generation(1), 29501, ""}), IsEmpty());
  EXPECT_THAT(node.Step(PortReserved{Generation(2), 0, "none is free"}),
              ElementsAre("prepared@2 no port: none is free"));
}

TEST(NodeCore, Begin_SurvivorGetsThePlan_MissingIsSpawned_StrangerIsKilled) {
  Node node;
  node.Run({0, 1, 2});
  EXPECT_THAT(node.Ended(1, 9), ElementsAre("exited@1 1", "sweep 1"));
  EXPECT_THAT(node.Begin(2, {0, 1}), ElementsAre("to 0: plan@2", "kill 2", "spawn 1 as 1"));
  // The stranger's end is reported under its own generation: nobody counts on it.
  EXPECT_THAT(node.Ended(2, 9), ElementsAre("exited@1 2 killed", "sweep 2"));
}

// A save may be of a generation that is over: neither way is there a fence for it.
TEST(NodeCore, Saves_PassWhateverGenerationTheyAreOf) {
  Node node;
  node.Run({0, 1});
  node.Begin(2, {0, 1});
  for (const int64_t generation : {1, 2}) {
    proto::WorkerMessage written;
    written.set_generation(generation);
    written.mutable_shard_written()->set_record("record");
    EXPECT_THAT(node.Step(WorkerReceived{Slot(1), written}), ElementsAre("report@2 1"));
    proto::WorkerMessage done;
    done.set_generation(generation);
    done.mutable_commit_done()->set_manifest("manifest");
    EXPECT_THAT(node.Step(WorkerReceived{Slot(0), done}), ElementsAre("report@2 0"));

    proto::CoordinatorMessage commit = Node::Message(generation);
    commit.mutable_commit_save()->set_slot(1);
    commit.mutable_commit_save()->mutable_commit()->set_attempt(7);
    EXPECT_THAT(node.Step(CoordinatorReceived{commit}), ElementsAre("to 1: commit 7"));
    proto::CoordinatorMessage drop = Node::Message(generation);
    drop.mutable_drop_save()->mutable_save()->set_step(40);
    EXPECT_THAT(node.Step(CoordinatorReceived{drop}),
                ElementsAre("to 0: drop 40", "to 1: drop 40"));
  }
  // Who is not connected, or gone, gets none: the coordinator hears of its end and asks another.
  node.Ended(1, 9);
  proto::CoordinatorMessage commit = Node::Message(2);
  commit.mutable_commit_save()->set_slot(1);
  EXPECT_THAT(node.Step(CoordinatorReceived{commit}), IsEmpty());
  commit.mutable_commit_save()->set_slot(5);
  EXPECT_THAT(node.Step(CoordinatorReceived{commit}), IsEmpty());
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

// ---- A worker that is dead and does not end

TEST(NodeCore, CannotEnd_IsReportedAndNamed_AndItsSlotIsFree) {
  Node node;
  node.Run({0, 1});
  EXPECT_THAT(node.CannotEnd(1), ElementsAre("exited@1 1", "report@1 1", "leave 1"));
  EXPECT_EQ(node.exited().term_signal(), 9);
  EXPECT_EQ(node.exited().pid(), 101);
  EXPECT_EQ(node.exited().reason(), "it waits in the kernel");
  EXPECT_FALSE(node.exited().killed_by_agent());
  EXPECT_TRUE(node.reported().notice().warning());
  EXPECT_EQ(node.reported().notice().text(),
            "process 7 waits in the kernel; its slot is free, its memory is not; look at the disk "
            "or file server");
  EXPECT_THAT(node.Prepare(2), ElementsAre("prepared@2 0"));
  EXPECT_THAT(node.Begin(2, {0, 1}), ElementsAre("to 0: plan@2", "spawn 1 as 1"));
}

TEST(NodeCore, CannotEnd_WhatItHadSentCountsNoMore_AndItsSessionIsNobodys) {
  Node node;
  node.Run({0, 1});
  node.CannotEnd(1);
  const auto written = [](auto& m) { m.mutable_shard_written()->set_record("record"); };
  EXPECT_THAT(node.Says(1, 1, written), IsEmpty());
  node.Begin(2, {0, 1});
  node.Spawned(1);
  EXPECT_THAT(node.Says(1, 1, written), IsEmpty());
  node.Step(WorkerHello{Slot(1), Incarnation(99)});
  EXPECT_THAT(node.Says(1, 1, written), IsEmpty());
  EXPECT_THAT(node.StepDone(1, 2), IsEmpty());
  node.Step(WorkerSessionClosed{Slot(1), Incarnation(51)});
  EXPECT_EQ(node.state(1), WorkerState::kConnected);
  // Its end is told to people, and changes nothing for the process that is there now.
  EXPECT_THAT(node.Step(LeftoverEnded{Slot(1), 101, absl::Seconds(42)}), ElementsAre("report@2 1"));
  EXPECT_EQ(node.reported().notice().text(),
            "process 101 has ended at last, 42 s after its death: its memory is free");
  EXPECT_EQ(node.state(1), WorkerState::kConnected);
}

TEST(NodeCore, CannotEnd_AfterOurKill_SaysBoth_AndMakesRoom) {
  Node node;
  node.Run({0, 1});
  node.Begin(2, {1});  // kills slot 0
  node.Begin(3, {0, 1});
  EXPECT_THAT(node.CannotEnd(0),
              ElementsAre("exited@1 0 killed", "report@3 0", "leave 0", "spawn 0 as 0"));
  EXPECT_EQ(node.exited().reason(), "not a member of generation 2; it waits in the kernel");
}

TEST(NodeCore, CannotEnd_OfAProgram_TheNextGenerationDoesNotWaitForIt) {
  Node node(/*program=*/true);
  node.Run({0, 1});
  node.Ended(0, 9);
  EXPECT_THAT(node.Begin(2, {0, 1}), ElementsAre("ladder 1"));
  EXPECT_THAT(node.CannotEnd(1), ElementsAre("exited@1 1 killed", "report@2 1", "leave 1",
                                             "spawn 0 as 0", "spawn 1 as 1"));
}

TEST(NodeCore, CannotEnd_TheEndOfTheJobDoesNotWaitForIt) {
  Node node;
  node.Run({0});
  EXPECT_THAT(node.End(), ElementsAre("kill 0"));
  EXPECT_THAT(node.CannotEnd(0), ElementsAre("exited@1 0 killed", "report@1 0", "leave 0",
                                             "sweep all", "job-ended", "over"));
  EXPECT_THAT(node.Step(LeftoverEnded{Slot(0), 100, absl::Seconds(1)}), IsEmpty());
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
  EXPECT_FALSE(node.exited().has_silent_for());
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
  // It was silent from the start: its hello was the last that was heard.
  EXPECT_EQ(node.exited().silent_for().seconds(), 3);
}

// Lets slot 0 beat twice a second without a move, until something other than a heartbeat comes or
// `most` has passed. Returns how long that took.
absl::Duration BeatsWithoutAMove(Node& node, absl::Duration patience, absl::Duration most,
                                 std::vector<std::string>& actions,
                                 const char* phase = "training") {
  absl::Duration passed;
  while (actions.empty() && passed < most) {
    node.CoordinatorBeat();
    node.BeatAt(0, 7, patience, phase);
    actions = node.Ticking(absl::Milliseconds(500));
    passed += absl::Milliseconds(500);
  }
  return passed;
}

TEST(NodeCore, WorkerThatBeatsWithoutAMove_IsKilledAfterTheProgressTimeout) {
  Node node;
  node.Run({0});
  std::vector<std::string> actions;
  const absl::Duration took =
      BeatsWithoutAMove(node, absl::Milliseconds(10), absl::Minutes(2), actions);
  // First it is asked what it is doing, and what it says is passed on.
  EXPECT_THAT(actions, ElementsAre("inspect 0", "to 0: stacks"));
  EXPECT_THAT(node.Says(0, 1, [](auto& m) { m.mutable_stacks()->add_lines("main"); }),
              ElementsAre("report@1 0"));
  EXPECT_THAT(node.Ticking(absl::Seconds(1)), ElementsAre("kill 0"));
  EXPECT_GE(took, absl::Seconds(30));
  EXPECT_LE(took, absl::Seconds(31));
  node.Ended(0, 9);
  EXPECT_EQ(node.exited().reason(),
            "made no progress for 30 s in 'training' after step 5, although it is alive");
  EXPECT_EQ(node.exited().silent_for().seconds(), 30);
}

// A disk that does not answer is not the program's doing: the coordinator counts it as from
// outside.
TEST(NodeCore, WorkerThatHangsInStorage_IsKilledByItsOwnLimitAndNotBlamed) {
  for (const OperationFacts& operation : kOperations) {
    Node node;
    node.Run({0});
    std::vector<std::string> actions;
    const absl::Duration took =
        BeatsWithoutAMove(node, absl::Seconds(50), absl::Minutes(2), actions, operation.phase);
    EXPECT_GE(took, absl::Seconds(50)) << operation.phase;
    EXPECT_LE(took, absl::Seconds(51)) << operation.phase;
    EXPECT_THAT(node.Ticking(absl::Seconds(1)), ElementsAre("kill 0"));
    node.Ended(0, 9);
    EXPECT_TRUE(node.exited().killed_by_agent());
    EXPECT_EQ(node.exited().stuck(), !operation.storage) << operation.phase;
    EXPECT_EQ(node.exited().reason().find(operation.flag) != std::string::npos, operation.storage)
        << node.exited().reason();
  }
}

TEST(NodeCore, WorkerWithLongSteps_GetsItsOwnPatience) {
  Node node;
  node.Run({0});
  std::vector<std::string> actions;
  const absl::Duration took = BeatsWithoutAMove(node, absl::Seconds(50), absl::Minutes(2), actions);
  EXPECT_THAT(actions, ElementsAre("inspect 0", "to 0: stacks"));
  EXPECT_GE(took, absl::Seconds(50));
  EXPECT_LE(took, absl::Seconds(51));
}

TEST(NodeCore, WorkerThatMoves_OrDeclaresALongOperation_IsLeftAlone) {
  Node node;
  node.Run({0, 1});
  for (uint64_t i = 0; i < 240; ++i) {
    node.CoordinatorBeat();
    // A move every 29.5 s, and never one due.
    ASSERT_THAT(node.BeatAt(0, i / 59, absl::ZeroDuration()), IsEmpty());
    ASSERT_THAT(node.BeatAt(1, 7, std::nullopt), IsEmpty());
    ASSERT_THAT(node.Ticking(absl::Milliseconds(500)), IsEmpty()) << "after " << i << " beats";
  }
}

TEST(NodeCore, WorkerWithoutAMove_IsNotExcusedByANewPlan) {
  Node node;
  node.Run({0});
  std::vector<std::string> actions;
  BeatsWithoutAMove(node, absl::ZeroDuration(), absl::Seconds(20), actions);
  ASSERT_THAT(actions, IsEmpty());
  EXPECT_THAT(node.Begin(2, {0}), ElementsAre("to 0: plan@2"));
  const absl::Duration took =
      BeatsWithoutAMove(node, absl::ZeroDuration(), absl::Minutes(2), actions);
  EXPECT_THAT(actions, ElementsAre("inspect 0", "to 0: stacks"));
  EXPECT_LE(took, absl::Seconds(11));
}

TEST(NodeCore, WorkerWithoutAMove_IsNotBlamedForTheAgentsOwnPause) {
  Node node;
  node.Run({0});
  std::vector<std::string> actions;
  BeatsWithoutAMove(node, absl::ZeroDuration(), absl::Seconds(20), actions);
  EXPECT_THAT(node.After(absl::Seconds(20)), ElementsAre("heartbeat"));
  const absl::Duration took =
      BeatsWithoutAMove(node, absl::ZeroDuration(), absl::Minutes(2), actions);
  EXPECT_THAT(actions, ElementsAre("inspect 0", "to 0: stacks"));
  EXPECT_GE(took, absl::Seconds(9));
}

TEST(NodeCore, TakeStacks_AsksEveryMember_AndAnswersForOneThatIsStopped) {
  Node node;
  node.Run({0, 1});
  proto::CoordinatorMessage message = Node::Message(1);
  message.mutable_take_stacks();
  EXPECT_THAT(node.Step(CoordinatorReceived{message}),
              ElementsAre("inspect 0", "to 0: stacks", "inspect 1", "to 1: stacks"));
  EXPECT_THAT(node.Step(WorkerInspected{Slot(0), 'S', "futex_wait"}), IsEmpty());
  EXPECT_THAT(node.Step(WorkerInspected{Slot(1), 'T', "do_signal_stop"}),
              ElementsAre("report@1 1"));
  EXPECT_EQ(node.reported().stacks().state(), "stopped (state T, in do_signal_stop)");
  // Of another generation, nobody is asked.
  message.set_generation(2);
  EXPECT_THAT(node.Step(CoordinatorReceived{message}), IsEmpty());
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

TEST(NodeCore, StopWithCheckpoint_WhileTheGenerationStarts_ReachesEveryMember) {
  Node node;
  node.Run({0, 1, 2});
  node.Ended(1, 9);
  node.Begin(2, {0, 1});
  EXPECT_THAT(node.Begin(3, {0, 1, 2}), ElementsAre("to 0: plan@3"));
  // Slot 1 is being started, slot 2 is still dying: both belong to the generation, and get there.
  EXPECT_THAT(node.Stop(3, true), ElementsAre("to 0: stop-save"));
  EXPECT_THAT(node.Ended(2, 9), ElementsAre("exited@1 2 killed", "sweep 2", "spawn 2 as 2"));
  for (const int slot : {1, 2}) {
    node.Spawned(slot);
    const std::string to = absl::StrCat("to ", slot, ": ");
    EXPECT_THAT(node.Hello(slot), ElementsAre(absl::StrCat("started@3 ", slot), to + "welcome",
                                              to + "plan@3", to + "stop-save"));
  }
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

// A plan that only a coordinator of another version sends: its ranks here have ended, and why.
TEST(NodeCore, APlanThatItCannotFollow_IsRefusedAloud) {
  const auto begin = [](int64_t generation, const auto& spoil) {
    proto::CoordinatorMessage message = Node::Message(generation);
    proto::GenerationPlan& plan = *message.mutable_begin()->mutable_plan();
    plan.set_generation(generation);
    for (const int slot : {0, 1}) plan.add_members()->set_slot(slot);
    spoil(plan);
    return CoordinatorReceived{message};
  };
  Node node;
  node.Run({0, 1});
  const std::vector<std::string> ended = {"exited@2 0", "exited@2 1"};
  EXPECT_EQ(node.Step(begin(2, [](auto& plan) { plan.mutable_members()->SwapElements(0, 1); })),
            ended);
  EXPECT_EQ(node.exited().exit_code(), 126);
  EXPECT_THAT(node.exited().reason(), HasSubstr("cannot follow the plan of generation 2: rank 0"));
  EXPECT_THAT(node.exited().reason(), HasSubstr("must be of one version"));
  EXPECT_EQ(node.Step(begin(2, [](auto& plan) { plan.mutable_members(1)->set_slot(99); })),
            (std::vector<std::string>{"exited@2 0", "exited@2 99"}));
  EXPECT_THAT(node.exited().reason(), HasSubstr("a slot that the job does not have"));
  EXPECT_EQ(node.state(0), WorkerState::kConnected) << "nothing else has changed";
  EXPECT_EQ(node.Begin(2, {0, 1}), (std::vector<std::string>{"to 0: plan@2", "to 1: plan@2"}));
}

TEST(NodeCore, TableOfAGroup_GoesToItsRanksAlone) {
  Node node;
  node.Run({0, 1});  // ranks 0 and 1; rank 2 is elsewhere
  const auto table = [&](const std::string& group) {
    proto::CoordinatorMessage message = Node::Message(1);
    message.mutable_exchange_table()->set_name("communicator");
    message.mutable_exchange_table()->set_group(group);
    return node.Step(CoordinatorReceived{message});
  };
  EXPECT_THAT(table(""), ElementsAre("to 0: table communicator", "to 1: table communicator"));
  EXPECT_THAT(table("dp@0"), ElementsAre("to 0: table communicator", "to 1: table communicator"));
  EXPECT_THAT(table("tp@1"), ElementsAre("to 1: table communicator"));
  EXPECT_THAT(table("tp@2"), IsEmpty());
  EXPECT_THAT(table("tp@3"), IsEmpty()) << "no group of this plan";
}

}  // namespace
}  // namespace dsrun::agent
