// What the operator reads when a job has ended: the last screen, and report.json. Long, because
// most of it is that text, to be read at one place.

#include "launcher/console/report_text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

namespace dsrun::launcher {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

proto::JobSpec TrainJob() {
  proto::JobSpec job;
  job.set_job_id("j1");
  job.set_run_dir("/runs/j1");
  job.add_nodes()->set_host("127.0.0.1");
  job.add_nodes()->set_host("127.0.0.2");
  job.mutable_train()->set_train_iters(300);
  job.mutable_train()->set_log_interval(10);
  job.mutable_train()->set_save_dir("/save");
  return job;
}

Report FailedReport() {
  Report report;
  report.exit_code = 137;
  report.verdict = "rank 2 failed";
  Incident incident;
  incident.cause.host = "127.0.0.2";
  incident.cause.node = NodeId(1);
  incident.cause.slot = Slot(0);
  incident.cause.rank = Rank(2);
  incident.cause.what = "killed by signal 9 (SIGKILL)";
  incident.cause.noticed_at = absl::Seconds(100);
  incident.cause.wall_time = absl::Seconds(1'000'000) - absl::Milliseconds(12);
  for (int i = 0; i < 20; ++i) incident.cause.last_lines.push_back("line " + std::to_string(i));
  incident.failed = Generation(1);
  incident.went_on = Generation(2);
  incident.detected_at = absl::Seconds(100);
  incident.next_step_at = absl::Seconds(100.8);
  incident.last_step_before = 130;
  incident.resumed_from_step = 120;
  report.incidents.push_back(incident);
  report.started_at = absl::Seconds(90);
  report.ended_at = absl::Seconds(110);
  report.final_step = 300;
  report.manifest = "step-300.json";
  report.checkpoint_step = 300;
  return report;
}

ReportContext Context() {
  return {.job = TrainJob(),
          .log_folder = "/runs/j1/logs",
          .steady_now = absl::Seconds(110),
          .wall_now = absl::UnixEpoch() + absl::Seconds(1'000'010)};
}

TEST(ReportScreen, SaysWhatFailedWhereAndHowItWentOn) {
  const std::string screen = ReportScreen(FailedReport(), Context());
  EXPECT_THAT(screen, HasSubstr("rank 2 (node 127.0.0.2 slot 0) killed by signal 9 (SIGKILL)"));
  EXPECT_THAT(screen, HasSubstr("noticed after 12 ms"));
  EXPECT_THAT(screen, HasSubstr("generation 2 went on from step 120, next step after 0.80 s, "
                                "10 steps computed again"));
  EXPECT_THAT(screen, HasSubstr("| line 19\n"));
  EXPECT_THAT(screen, HasSubstr("/save/step-300.json (step 300)"));
  EXPECT_THAT(screen, HasSubstr("/runs/j1/logs\n"));
  EXPECT_THAT(screen, HasSubstr("  next  "));
}

TEST(ReportScreen, NothingSaved_NamesTheLogOfTheFirstFailingRank) {
  Report report = FailedReport();
  report.manifest.clear();
  Incident later = report.incidents[0];
  later.cause.rank = Rank(0);
  later.failed = Generation(4);
  report.incidents.push_back(later);
  ReportContext context = Context();
  EXPECT_THAT(ReportScreen(report, context),
              HasSubstr("next        read the first failing rank's log: "
                        "/runs/j1/logs/127.0.0.2/rank-2.gen-1.log\n"));
  context.job.mutable_nodes(1)->set_agent_port(7411);
  EXPECT_THAT(ReportScreen(report, context),
              HasSubstr("/rank-2.gen-1.log, or below the --run-dir of that node's dsagent\n"));
  report.incidents[0].cause.rank.reset();
  EXPECT_THAT(ReportScreen(report, context),
              HasSubstr("next        read the first failing rank's log in /runs/j1/logs\n"));
}

TEST(ReportScreen, SilenceIsHowLongItTookToNotice) {
  Report report = FailedReport();
  report.incidents[0].cause.silent_for = absl::Seconds(3);
  EXPECT_THAT(ReportScreen(report, Context()),
              HasSubstr("noticed after 3.00 s without a sign of life or progress; "));
}

std::string OnOneLine(std::string screen) {
  std::string line;
  for (const char c : screen) {
    if (c == '\n' || c == ' ') {
      if (!line.empty() && line.back() != ' ') line += ' ';
    } else {
      line += c;
    }
  }
  return line;
}

// A failure that came with another one: of a rank, or of a node (slot < 0).
Failure Other(int node, int slot, Failure::Kind kind, bool from_outside) {
  Failure failure;
  failure.kind = kind;
  failure.node = NodeId(node);
  if (slot >= 0) failure.slot = Slot(slot);
  failure.from_outside = from_outside;
  return failure;
}

TEST(ReportScreen, CountsNodesApartFromRanks_AndSaysWhatIsAResult) {
  using Kind = Failure::Kind;
  Report report = FailedReport();
  std::vector<Failure>& others = report.incidents[0].consequences;
  others = {Other(2, -1, Kind::kNodeLost, true)};
  EXPECT_THAT(OnOneLine(ReportScreen(report, Context())),
              HasSubstr("computed again; 1 more node was lost its last lines"));
  // Whoever reported a lost peer, and was killed a moment later, is one rank that was killed.
  others = {Other(3, 0, Kind::kWorkerReported, true), Other(3, 0, Kind::kWorkerExited, true),
            Other(3, 1, Kind::kWorkerExited, true), Other(4, 0, Kind::kWorkerReported, true)};
  EXPECT_THAT(OnOneLine(ReportScreen(report, Context())),
              HasSubstr("again; 2 more ranks were killed; 1 more rank failed as a result its"));
  // The rank of the cause itself, and what an agent swept away, are not somebody else's end.
  Failure swept = Other(5, 0, Kind::kWorkerExited, true);
  swept.killed_by_agent = true;
  const Failure& cause = report.incidents[0].cause;
  others = {Other(cause.node.value(), cause.slot->value(), Kind::kWorkerReported, true), swept};
  EXPECT_THAT(OnOneLine(ReportScreen(report, Context())),
              HasSubstr("again; 1 more rank failed as a result its"));
}

Report UnreachableReport(int nodes) {
  Report report;
  report.exit_code = 91;
  for (int i = 0; i < nodes; ++i) {
    Failure failure;
    failure.kind = Failure::Kind::kNodeNotOpened;
    failure.node = NodeId(i);
    failure.host = "127.0.0." + std::to_string(i + 1);
    failure.what =
        "could not be opened: node " + failure.host + ": expected a running dsagent at " +
        failure.host +
        ":9, but a TCP connection to it failed: Connection refused; start one there with: "
        "dsagent --listen " +
        failure.host + ":9 --cluster-key-file FILE, or correct the hostfile";
    report.launch_failures.push_back(failure);
  }
  report.verdict = std::to_string(nodes) + " of 2 nodes cannot be used: node 0 (127.0.0.1) " +
                   report.launch_failures[0].what;
  return report;
}

TEST(ReportScreen, LongReason_IsWrappedAndItsRemedyIsThere) {
  const std::string screen = ReportScreen(UnreachableReport(2), Context());
  const std::string text = OnOneLine(screen);
  EXPECT_THAT(text, HasSubstr("start one there with: dsagent --listen 127.0.0.1:9"));
  EXPECT_THAT(text, HasSubstr("127.0.0.2:9 --cluster-key-file FILE, or correct the hostfile"));
  std::stringstream lines(screen);
  for (std::string line; std::getline(lines, line);) EXPECT_LE(line.size(), 100u) << line;
}

TEST(ReportScreen, Verdict_DoesNotRepeatTheRowsBelow) {
  const std::string screen = ReportScreen(UnreachableReport(2), Context());
  EXPECT_THAT(screen, HasSubstr("dsrun: 2 of 2 nodes cannot be used (exit code 91"));
  const size_t first = screen.find("Connection refused");
  EXPECT_EQ(screen.find("Connection refused", screen.find("127.0.0.2") - 1),
            screen.rfind("Connection refused"));
  EXPECT_LT(first, screen.rfind("Connection refused"));

  Report report = FailedReport();
  report.incidents[0].cause.what = "exited with code 7";
  report.verdict = "rank 2 (127.0.0.2, slot 0) exited with code 7";
  const std::string failed = ReportScreen(report, Context());
  EXPECT_THAT(failed, HasSubstr("dsrun: rank 2 (127.0.0.2, slot 0) failed (exit code"));
  EXPECT_EQ(failed.find("exited with code 7"), failed.rfind("exited with code 7")) << failed;
}

TEST(ReportScreen, ManyUnreachableNodes_TheRemedyOfEachShownOneIsThere) {
  const std::string screen = ReportScreen(UnreachableReport(40), Context());
  EXPECT_LE(std::count(screen.begin(), screen.end(), '\n'), kMostScreenLines) << screen;
  const std::string text = OnOneLine(screen);
  for (const char* node : {"127.0.0.1", "127.0.0.5"}) {
    EXPECT_THAT(text, HasSubstr(std::string(node) + ":9 --cluster-key-file FILE, or correct"));
  }
}

TEST(ReportScreen, GenerationThatWasRestartedInVain_IsNotSaidToHaveEndedTheJob) {
  Report report = FailedReport();
  report.incidents[0].went_on.reset();
  report.incidents[0].next_step_at.reset();
  EXPECT_THAT(ReportScreen(report, Context()), HasSubstr("the job did not go on after it"));
  for (const int generation : {1, 2}) {
    report.generations.emplace_back();
    report.generations.back().generation = Generation(generation);
    report.generations.back().began_at = absl::Seconds(100);
  }
  const std::string screen = ReportScreen(report, Context());
  EXPECT_THAT(screen, Not(HasSubstr("did not go on")));
  EXPECT_THAT(screen, HasSubstr("generation 2 started after it, but finished no step"));
}

TEST(ReportScreen, LostNode_PointsToTheWordsOfItsAgent) {
  Report report = FailedReport();
  report.manifest.clear();
  Failure& cause = report.incidents[0].cause;
  cause.slot.reset();
  cause.rank.reset();
  cause.what = "its agent is gone: it was killed by signal 9 (SIGKILL)";
  const std::string own = ReportScreen(report, Context());
  EXPECT_THAT(own, HasSubstr("node 127.0.0.2: its agent is gone: it was killed by signal 9"));
  EXPECT_THAT(own, HasSubstr("/runs/j1/logs/agent-1.log"));
  ReportContext context = Context();
  context.job.mutable_nodes(1)->set_agent_port(4711);
  const std::string running = ReportScreen(report, context);
  EXPECT_THAT(running, Not(HasSubstr("agent-1.log")));
  EXPECT_THAT(running, HasSubstr("the log of the dsagent of node 127.0.0.2"));
}

TEST(ReportScreen, StoppedBeforeAnyRankFailed_DoesNotSendTheReaderToALog) {
  Report report;
  report.exit_code = 96;
  report.verdict = "stopped by the operator while no generation was running";
  const std::string screen = ReportScreen(report, Context());
  EXPECT_THAT(screen, Not(HasSubstr("failing rank")));
  EXPECT_THAT(screen, HasSubstr("start again with the same command"));
}

Report ReportThatLacksMemory() {
  Report report = FailedReport();
  report.exit_code = 95;
  report.verdict = "generation 2 does not fit into the memory of alpha at any width";
  report.incidents[0].went_on.reset();
  report.lacking_memory = {"alpha: 2 ranks of up to 5.0 GiB need 10.0 GiB, 8.0 GiB are there"};
  report.would_fit = "--micro-batch-size 2, or 1 more node like alpha (2 ranks, 8.0 GiB)";
  return report;
}

TEST(ReportScreen, LackOfMemory_SaysWhatIsThereAndWhatWouldFit) {
  Report report = ReportThatLacksMemory();
  GenerationRecord claimed;
  claimed.generation = Generation(2);
  report.generations.push_back(claimed);
  const std::string screen = ReportScreen(report, Context());
  EXPECT_THAT(screen, HasSubstr("  memory      alpha: 2 ranks of up to 5.0 GiB need 10.0 GiB, "));
  EXPECT_THAT(screen, HasSubstr("  would fit   --micro-batch-size 2, or 1 more node like alpha"));
  EXPECT_THAT(screen, HasSubstr("/save/step-300.json (step 300)"));
  EXPECT_THAT(screen, HasSubstr("go on from the checkpoint with what would fit and --load /save"));
  EXPECT_THAT(screen, HasSubstr("the job did not go on after it"));
  const auto json = nlohmann::json::parse(ReportJson(report, Context()));
  EXPECT_EQ(json["lacking_memory"][0], report.lacking_memory[0]);
  EXPECT_EQ(json["would_fit"], report.would_fit);
  report.manifest.clear();
  EXPECT_THAT(ReportScreen(report, Context()), HasSubstr("--no-memory-check"));
}

// A file may have anything in it; a terminal acts upon it.
TEST(ReportScreen, WordsOfARank_StayInAFileAndAreMadeFitForATerminal) {
  Report report = FailedReport();
  report.incidents[0].cause.last_lines = {"\033[31mred\033[2J", std::string(300, 'x'),
                                          "caf\xc3\xa9"};
  ReportContext context = Context();
  EXPECT_THAT(ReportScreen(report, context), HasSubstr("    | \033[31mred\033[2J\n"));
  context.terminal = true;
  const std::string screen = ReportScreen(report, context);
  EXPECT_THAT(screen, HasSubstr("    | \033[31mred\\x1b[2J\033[0m\n"));
  EXPECT_THAT(screen, HasSubstr("    | " + std::string(151, 'x') + "...\n"));
  EXPECT_THAT(screen, HasSubstr("    | caf\xc3\xa9\n"));
}

// A line of the screen is ours, whatever a folder is called.
TEST(ReportScreen, NewlineInAName_BeginsNoLine) {
  ReportContext context = Context();
  context.log_folder = "/runs/j1\ndsrun: forged";
  EXPECT_THAT(ReportScreen(FailedReport(), context), HasSubstr("/runs/j1\\x0adsrun: forged\n"));
}

TEST(ReportScreen, NeverMoreThan25Lines) {
  Report report = ReportThatLacksMemory();
  report.lacking_memory.assign(50, report.lacking_memory[0]);
  report.sample = "a\nb\nc\nd\ne\nf\n";
  for (int i = 0; i < 50; ++i) report.incidents.push_back(report.incidents[0]);
  for (int i = 0; i < 50; ++i) {
    report.launch_failures.push_back(report.incidents[0].cause);
    report.launch_failures.back().what = "several\nlines\nof\ntext";
  }
  const std::string screen = ReportScreen(report, Context());
  EXPECT_LE(std::count(screen.begin(), screen.end(), '\n'), kMostScreenLines) << screen;
  EXPECT_THAT(screen, HasSubstr("  next  "));
}

// A run folder belongs to one job: the same command would be refused.
TEST(ReportScreen, GivenRunFolder_TheNextCommandNeedsAnotherOne) {
  ReportContext context = Context();
  EXPECT_THAT(ReportScreen(FailedReport(), context), HasSubstr("command and --load /save\n"));
  context.run_dir_given = true;
  EXPECT_THAT(ReportScreen(FailedReport(), context),
              HasSubstr("command and --load /save and another --run-dir\n"));
  Report stopped;
  stopped.exit_code = 96;
  EXPECT_THAT(ReportScreen(stopped, context),
              HasSubstr("start again with the same command and another --run-dir\n"));
}

TEST(ReportScreen, CommitThatNobodyReported_IsNamedAsThat) {
  ReportContext context = Context();
  context.commit_unreported = true;
  EXPECT_THAT(ReportScreen(FailedReport(), context),
              HasSubstr("/save/step-300.json (step 300; it is there, but its commit was not "
                        "reported)\n"));
  EXPECT_EQ(nlohmann::json::parse(ReportJson(FailedReport(), context))["checkpoint_reported"],
            false);
  EXPECT_FALSE(
      nlohmann::json::parse(ReportJson(FailedReport(), Context())).contains("checkpoint_reported"));
}

TEST(ReportJson, JobThatDidNotFinish_HasTheHighestFinishedStep) {
  Report report = FailedReport();
  report.final_step = 0;
  for (const int64_t step : {130, 125}) {
    GenerationRecord generation;
    generation.last_step = step;
    report.generations.push_back(generation);
  }
  EXPECT_EQ(nlohmann::json::parse(ReportJson(report, Context()))["final_step"], 130);
  report.final_step = 120;  // rank 0's own word: it went back, and finished
  EXPECT_EQ(nlohmann::json::parse(ReportJson(report, Context()))["final_step"], 120);
}

TEST(ReportJson, IsWholeAndSurvivesBytesThatAreNotText) {
  Report report = FailedReport();
  report.sample = "\xff\xfe";
  const auto json = nlohmann::json::parse(ReportJson(report, Context()));
  EXPECT_EQ(json["exit_code"], 137);
  EXPECT_EQ(json["incidents"][0]["cause"]["rank"], 2);
  EXPECT_EQ(json["incidents"][0]["lost_steps"], 10);
  EXPECT_NEAR(json["incidents"][0]["cause"]["detection_s"], 0.012, 1e-9);
  EXPECT_EQ(json["incidents"][0]["noticed_at"], "1970-01-12T13:46:40.000Z");
  EXPECT_NEAR(json["incidents"][0]["next_step_after_s"], 0.8, 1e-9);
}

}  // namespace
}  // namespace dsrun::launcher
