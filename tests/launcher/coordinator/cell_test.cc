// Every (state, event) cell of the coordinator core, for a train job and for a program, each with
// two nodes of one slot. The event is always the second node's (rank 1), of the present generation
// and incarnation, in a job that has made a step. A cell says what happens:
//
//   "-"                     nothing: no action, the state stays
//   "preparing: lost 2xprepare"   the next state, then the actions ("=" for: the state stays)
//   "x"                     the job is never in this state
//
// The tables are complete at compile time: a new state or a new kind of event does not compile
// until it has its cells. To write the tables as they are (cells.inc), for review:
//
//   DSRUN_WRITE_CELLS=$PWD/tests/launcher/coordinator/cells.inc
//       bazel run //tests/launcher/coordinator:coordinator_test -- --gtest_filter='CellTest.*'

#include <array>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "launcher/coordinator/coordinator.h"
#include "tests/launcher/coordinator/cell_bench.h"

namespace dsrun::launcher {
namespace {

using State = Coordinator::State;

constexpr std::array kStates = {
    State::kIdle,     State::kOpening,  State::kPreparing, State::kStarting, State::kRunning,
    State::kDraining, State::kStopping, State::kEnding,    State::kEnded,
};
static_assert(static_cast<size_t>(State::kEnded) + 1 == kStates.size(), "a state is missing");

// These make the list of kinds complete: each switch names every case of what an event can be, and
// the compiler finds the missing one.
constexpr size_t kEventAlternatives = std::variant_size_v<Event>;
static_assert(kEventAlternatives == 9, "a new alternative of Event needs a Kind and its cells");

[[maybe_unused]] Kind KindOf(proto::WorkerMessage::BodyCase body) {
  switch (body) {
    case proto::WorkerMessage::kHello:
      return Kind::kHello;
    case proto::WorkerMessage::kBeat:
      return Kind::kBeat;
    case proto::WorkerMessage::kExchangePut:
      return Kind::kExchangePut;
    case proto::WorkerMessage::kJoined:
      return Kind::kJoined;
    case proto::WorkerMessage::kStepDone:
      return Kind::kStepDone;
    case proto::WorkerMessage::kFailed:
      return Kind::kFailed;
    case proto::WorkerMessage::kFinished:
      return Kind::kFinished;
    case proto::WorkerMessage::kNotice:
      return Kind::kNotice;
    case proto::WorkerMessage::kStacks:
      return Kind::kStacks;
    case proto::WorkerMessage::kShardWritten:
      return Kind::kShardWritten;
    case proto::WorkerMessage::kCommitDone:
      return Kind::kCommitDone;
    case proto::WorkerMessage::BODY_NOT_SET:
      return Kind::kEmptyReport;
  }
  return Kind::kCount;
}

[[maybe_unused]] Kind KindOf(proto::AgentMessage::BodyCase body) {
  switch (body) {
    case proto::AgentMessage::kOpened:
      return Kind::kOpened;
    case proto::AgentMessage::kPrepared:
      return Kind::kPrepared;
    case proto::AgentMessage::kWorkerStarted:
      return Kind::kWorkerStarted;
    case proto::AgentMessage::kWorkerExited:
      return Kind::kWorkerKilled;
    case proto::AgentMessage::kWorkerReport:
      return Kind::kEmptyReport;
    case proto::AgentMessage::kHeartbeat:
      return Kind::kHeartbeat;
    case proto::AgentMessage::kLogChunk:
      return Kind::kLogChunk;
    case proto::AgentMessage::kJobEnded:
      return Kind::kJobEnded;
    case proto::AgentMessage::BODY_NOT_SET:
      return Kind::kEmptyMessage;
  }
  return Kind::kCount;
}

struct Row {
  Kind kind;
  std::array<const char*, kStates.size()> cells;  // in the order of kStates
};
using Table = std::array<Row, kKinds>;

constexpr bool Complete(const Table& table) {
  for (size_t i = 0; i < table.size(); ++i) {
    if (table[i].kind != static_cast<Kind>(i)) return false;
    for (const char* cell : table[i].cells) {
      if (cell == nullptr) return false;
    }
  }
  return true;
}

// clang-format off
//                   idle, opening, preparing, starting, running, draining, stopping, ending, ended
#include "tests/launcher/coordinator/cells.inc"
// clang-format on

static_assert(Complete(kTrainTable), "a cell of the train table is missing");
static_assert(Complete(kProgramTable), "a cell of the program table is missing");

std::string Word(const Action& action) {
  if (std::holds_alternative<OpenAgent>(action)) return "open";
  if (std::holds_alternative<FenceNode>(action)) return "fence";
  if (std::holds_alternative<Raise>(action)) return "raise";
  if (const auto* end = std::get_if<EndJob>(&action)) return absl::StrCat("EXIT", end->exit_code);
  if (const auto* send = std::get_if<SendToAgent>(&action)) {
    switch (send->body->body_case()) {
      case proto::CoordinatorMessage::kPrepare:
        return "prepare";
      case proto::CoordinatorMessage::kBegin:
        return "begin";
      case proto::CoordinatorMessage::kExchangeTable:
        return "table";
      case proto::CoordinatorMessage::kStopWorkers:
        return send->body->stop_workers().checkpoint_first() ? "save" : "stop";
      case proto::CoordinatorMessage::kKillWorker:
        return "kill";
      case proto::CoordinatorMessage::kTakeStacks:
        return "stacks";
      case proto::CoordinatorMessage::kPassSignal:
        return "signal";
      case proto::CoordinatorMessage::kCommitSave:
        return "commit";
      case proto::CoordinatorMessage::kDropSave:
        return "drop";
      case proto::CoordinatorMessage::kEndJob:
        return "end";
      default:
        return "?";
    }
  }
  const OperatorEvent& told = std::get<Tell>(action).event;
  static constexpr const char* kTold[] = {"opened", "started",   "runs",   "progress", "checkpoint",
                                          "lost",   "recovered", "notice", "sample"};
  return kTold[told.index()];
}

std::string Cell(bool train, State state, Kind kind) {
  Bench bench(train);
  if (!bench.DriveTo(state)) return "x";
  const std::vector<Action> actions = bench.Feed(bench.Make(kind));
  std::vector<std::pair<std::string, int>> words;
  for (const Action& action : actions) {
    const std::string word = Word(action);
    if (!words.empty() && words.back().first == word) {
      ++words.back().second;
    } else {
      words.emplace_back(word, 1);
    }
  }
  const State after = bench.coordinator().state();
  if (words.empty() && after == state) return "-";
  std::string cell = absl::StrCat(after == state ? "=" : StateName(after), ":");
  for (const auto& [word, times] : words) {
    absl::StrAppend(&cell, " ", times > 1 ? absl::StrCat(times, "x") : "", word);
  }
  return cell;
}

void Check(bool train, const Table& table) {
  for (const Row& row : table) {
    for (size_t i = 0; i < kStates.size(); ++i) {
      EXPECT_EQ(Cell(train, kStates[i], row.kind), row.cells[i])
          << (train ? "train" : "program") << ", state " << StateName(kStates[i]) << ", event kind "
          << static_cast<int>(row.kind);
    }
  }
}

void Write(std::FILE* to, const char* name, bool train) {
  static constexpr const char* kNames[] = {
      "kStart",         "kOpened",        "kPrepared",
      "kWorkerStarted", "kWorkerKilled",  "kWorkerExitedWithZero",
      "kExchangePut",   "kJoined",        "kStepDone",
      "kFailed",        "kFailedForGood", "kFinished",
      "kNotice",        "kStacks",        "kShardWritten",
      "kCommitDone",    "kHello",         "kBeat",
      "kEmptyReport",   "kHeartbeat",     "kLogChunk",
      "kJobEnded",      "kEmptyMessage",  "kAgentGone",
      "kTick",          "kOperatorStop",  "kOperatorSignal",
      "kNodeSilent",    "kPhaseDeadline", "kCauseDeadline",
      "kProgressMade"};
  static_assert(std::size(kNames) == kKinds);
  std::fprintf(to, "constexpr Table %s = {{\n", name);
  for (size_t i = 0; i < kKinds; ++i) {
    std::fprintf(to, "    {Kind::%s,\n     {", kNames[i]);
    for (size_t s = 0; s < kStates.size(); ++s) {
      std::fprintf(to, "%s\"%s\"", s == 0 ? "" : ",\n      ",
                   Cell(train, kStates[s], static_cast<Kind>(i)).c_str());
    }
    std::fprintf(to, "}},\n");
  }
  std::fprintf(to, "}};\n");
}

// False: nobody asked for it.
bool WriteTables() {
  const char* const path = std::getenv("DSRUN_WRITE_CELLS");
  if (path == nullptr) return false;
  std::FILE* const to = std::fopen(path, "w");
  if (to == nullptr) {
    ADD_FAILURE() << path << " cannot be written";
    return true;
  }
  std::fprintf(to, "// The cells of cell_test.cc, written by it and read in review.\n\n");
  Write(to, "kTrainTable", true);
  std::fprintf(to, "\n");
  Write(to, "kProgramTable", false);
  EXPECT_EQ(std::fclose(to), 0);
  return true;
}

TEST(CellTest, EveryCellOfATrainJob) {
  if (WriteTables()) GTEST_SKIP() << "tables written";
  Check(true, kTrainTable);
}

TEST(CellTest, EveryCellOfAProgram) { Check(false, kProgramTable); }

// Whatever the state, a second delivery of what a node says changes nothing more.
TEST(CellTest, RepeatsAreHarmless) {
  for (const bool train : {true, false}) {
    for (const State state : kStates) {
      for (size_t i = 0; i < kKinds; ++i) {
        const Kind kind = static_cast<Kind>(i);
        if (kind == Kind::kOperatorStop || kind == Kind::kOperatorSignal) continue;
        if (kind == Kind::kTick || kind == Kind::kNotice) continue;
        Bench bench(train);
        if (!bench.DriveTo(state)) continue;
        const Event event = bench.Make(kind);
        bench.Feed(event);
        const uint64_t digest = bench.coordinator().Digest();
        const std::vector<Action> again = bench.Feed(event);
        EXPECT_EQ(bench.coordinator().Digest(), digest) << StateName(state) << ", event kind " << i;
        EXPECT_TRUE(again.empty()) << StateName(state) << ", event kind " << i;
      }
    }
  }
}

// The same for messages of an older generation, of another incarnation, and of a lost node.
TEST(CellTest, StaleMessagesDoNothing) {
  for (const bool train : {true, false}) {
    for (const State state : kStates) {
      for (size_t i = 0; i < kKinds; ++i) {
        Bench bench(train);
        if (!bench.DriveTo(state)) continue;
        Event event = bench.Make(static_cast<Kind>(i));
        auto* spoke = std::get_if<AgentSpoke>(&event);
        if (spoke == nullptr || spoke->message.has_opened()) continue;
        const uint64_t digest = bench.coordinator().Digest();
        AgentSpoke foreign = *spoke;
        foreign.message.set_incarnation(4711);
        EXPECT_TRUE(bench.Feed(foreign).empty()) << StateName(state) << ", event kind " << i;
        AgentSpoke unknown = *spoke;
        unknown.node = NodeId(7);
        EXPECT_TRUE(bench.Feed(unknown).empty()) << StateName(state) << ", event kind " << i;
        const proto::WorkerMessage& report = spoke->message.worker_report().message();
        const bool of_a_generation = !spoke->message.has_job_ended() && !report.has_notice() &&
                                     !report.has_shard_written() && !report.has_commit_done();
        if (of_a_generation) {
          AgentSpoke old = *spoke;
          old.message.set_generation(0);
          if (old.message.has_worker_report()) {
            old.message.mutable_worker_report()->mutable_message()->set_generation(0);
          }
          EXPECT_TRUE(bench.Feed(old).empty()) << StateName(state) << ", event kind " << i;
        }
        EXPECT_EQ(bench.coordinator().Digest(), digest) << StateName(state) << ", kind " << i;
      }
    }
  }
}

}  // namespace
}  // namespace dsrun::launcher
