// What the operator reads while a job runs: single lines, the progress line, the ranks' output, the
// metrics.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <string>

#include "launcher/console/console.h"
#include "launcher/console/output_writer.h"
#include "launcher/shell/metrics_writer.h"
#include "tests/fakes/fake_clock.h"

namespace dsrun::launcher {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

proto::StepDone Done(int64_t step) {
  proto::StepDone done;
  done.set_step(step);
  done.set_loss(2.34125);
  done.set_lr(1e-3);
  done.set_grad_norm(0.8299);
  done.set_tokens_per_s(41234);
  done.set_step_ms(100);
  return done;
}

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

TEST(ClockText, ShowsHoursOnlyWhenThereAreAny) {
  EXPECT_EQ(ClockText(absl::Seconds(7)), "0:07");
  EXPECT_EQ(ClockText(absl::Seconds(754)), "12:34");
  EXPECT_EQ(ClockText(absl::Seconds(3723)), "1:02:03");
}

TEST(ProgressForms, TheFirst_HasEverythingInOneLine) {
  EXPECT_EQ(ProgressForms(Done(120), 300, 100).front(),
            "step 120/300  loss 2.3413  lr 1.00e-03  grad norm 0.830  41.2k tokens/s  0:18 left");
}

TEST(MetricsLine, IsOneJsonObject) {
  struct Progress progress {
    Generation(2), Done(7)
  };
  progress.done.set_grad_norm(std::nan(""));
  const auto json = nlohmann::json::parse(MetricsLine(progress));
  EXPECT_EQ(json["step"], 7);
  EXPECT_EQ(json["generation"], 2);
  EXPECT_DOUBLE_EQ(json["loss"], 2.34125);
  EXPECT_DOUBLE_EQ(json["tokens_per_s"], 41234);
  EXPECT_TRUE(json["grad_norm"].is_null());
}

// Both ends of a pipe, and what came through it.
class Pipe {
 public:
  Pipe() { EXPECT_EQ(pipe(ends_), 0); }
  ~Pipe() {
    CloseWriteEnd();
    close(ends_[0]);
  }
  int write_end() const { return ends_[1]; }
  void CloseWriteEnd() {
    if (ends_[1] >= 0) close(ends_[1]);
    ends_[1] = -1;
  }
  std::string ReadLine() {
    std::string line;
    for (char c; read(ends_[0], &c, 1) == 1 && c != '\n';) line += c;
    return line;
  }
  std::string ReadAll() {
    CloseWriteEnd();
    std::string all;
    char buffer[4096];
    for (ssize_t got; (got = read(ends_[0], buffer, sizeof(buffer))) > 0;) all.append(buffer, got);
    return all;
  }

 private:
  int ends_[2];
};

TEST(Console, InAFile_ProgressIsALineEveryLogInterval) {
  Pipe out, err;
  {
    Console console(TrainJob(), {.output = {.out_fd = out.write_end(), .err_fd = err.write_end()}});
    for (int64_t step = 1; step <= 30; ++step) {
      console.Tell(OperatorEvent(Progress{Generation(1), Done(step)}));
    }
    console.Finish("", false);
  }
  const std::string text = out.ReadAll();
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 4) << text;  // 1, 10, 20, 30
  EXPECT_THAT(text, Not(HasSubstr("\r")));
}

TEST(Console, OnATerminal_ProgressIsRewrittenInPlaceBelowOtherLines) {
  Pipe out;
  {
    Console console(TrainJob(), {.progress_line = true,
                                 .output = {.out_fd = out.write_end(), .err_fd = out.write_end()}});
    console.Tell(OperatorEvent(Progress{Generation(1), Done(1)}));
    console.Tell(
        OperatorEvent(NoticeText{.warning = true, .text = "disk full", .from = {}, .rank = {}}));
    console.Tell(OperatorEvent(Progress{Generation(1), Done(2)}));
    console.Finish("", false);
  }
  const std::string text = out.ReadAll();
  EXPECT_THAT(text, HasSubstr("dsrun: warning: disk full\n"));
  EXPECT_THAT(text, HasSubstr("step 2/300"));
  EXPECT_EQ(text.back(), '\n');
  // The last progress line comes after the warning, not in the middle of a line.
  EXPECT_GT(text.rfind("step 2/300"), text.find("disk full"));
}

TEST(Console, OnATerminal_TheLastScreenReplacesTheProgressLine) {
  Pipe out;
  {
    Console console(TrainJob(), {.progress_line = true,
                                 .output = {.out_fd = out.write_end(), .err_fd = out.write_end()}});
    console.Tell(OperatorEvent(Progress{Generation(1), Done(300)}));
    console.Finish("dsrun: done\n", false);
  }
  const std::string text = out.ReadAll();
  EXPECT_EQ(text.substr(text.find("dsrun: done")), "dsrun: done\n");
}

TEST(Console, RankOutput_IsPrefixedLineByLineAndBytesAreKept) {
  Pipe out, err;
  {
    Console console(TrainJob(), {.output = {.out_fd = out.write_end(), .err_fd = err.write_end()}});
    proto::LogChunk chunk;
    chunk.set_rank(3);
    chunk.set_text("one\n\xff two\nno newline");
    chunk.set_dropped_lines(4);
    console.RankOutput(NodeId(1), chunk);
    console.Finish("", false);
  }
  const std::string text = out.ReadAll();
  EXPECT_THAT(text, HasSubstr("[127.0.0.2:3] (4 lines not shown, the console was too slow; all are "
                              "in the rank's file)\n[127.0.0.2:3] one\n[127.0.0.2:3] \xff two\n"
                              "[127.0.0.2:3] no newline\n"));
  EXPECT_EQ(err.ReadAll(), "");
}

TEST(Console, OneOfAThing_IsSingular) {
  const std::vector<std::pair<OperatorEvent, std::string>> table = {
      {AgentsOpened{1, 1}, "1 agent with 1 slot is ready"},
      {AgentsOpened{1, 4}, "1 agent with 4 slots is ready"},
      {AgentsOpened{2, 3}, "2 agents with 3 slots are ready"},
      {GenerationStarted{Generation(2), {WorkerId{NodeId(0), Slot(0)}}, "why"},
       "generation 2 starts with 1 rank: why"},
      {Recovered{Generation(2), absl::Seconds(1), 7, 1},
       "recovered in 1.00 s: generation 2 finished step 7, 1 step again"},
      {Recovered{Generation(2), absl::Seconds(1), 7, 0},
       "recovered in 1.00 s: generation 2 finished step 7, 0 steps again"},
  };
  for (const auto& [event, text] : table) EXPECT_EQ(OperatorText(event), text);
}

// Nothing is waited for: what dsrun says, and its end, bring out what the ranks had said before.
TEST(Console, SameLineOfAllRanks_IsShownOnce_BeforeWhatIsSaidLater) {
  Pipe out;
  FakeClock clock;
  {
    Console console(TrainJob(), {.output = {.out_fd = out.write_end(), .err_fd = out.write_end()},
                                 .clock = &clock});
    proto::LogChunk chunk;
    chunk.set_text("hello\n");
    for (int rank = 0; rank < 3; ++rank) {
      chunk.set_rank(rank);
      console.RankOutput(NodeId(0), chunk);
    }
    console.Say("something happened");
    chunk.set_rank(2);
    console.RankOutput(NodeId(0), chunk);
    console.Finish("", false);
  }
  EXPECT_EQ(out.ReadAll(),
            "[127.0.0.1:0-2] hello\ndsrun: something happened\n[127.0.0.1:2] hello\n");
}

// Without another word of anybody: the window alone brings it out.
TEST(Console, LineOfOneOfSeveralRanks_IsShownAfterTheWindow) {
  Pipe out;
  Console console(TrainJob(), {.output = {.out_fd = out.write_end(), .err_fd = out.write_end()}});
  proto::LogChunk chunk;
  chunk.set_text("alone\n");
  console.RankOutput(NodeId(0), chunk);
  EXPECT_EQ(out.ReadLine(), "[127.0.0.1:0] alone");
  console.Finish("", false);
}

// What the console makes of texts of rank 0 and rank 1, one after another.
std::string Shown(const std::vector<std::pair<int, std::string>>& texts, bool terminal,
                  bool progress_line = false) {
  Pipe out;
  FakeClock clock;
  {
    Console console(TrainJob(), {.progress_line = progress_line,
                                 .terminal = terminal,
                                 .output = {.out_fd = out.write_end(), .err_fd = out.write_end()},
                                 .clock = &clock});
    for (const auto& [rank, text] : texts) {
      proto::LogChunk chunk;
      chunk.set_rank(rank);
      chunk.set_text(text);
      console.RankOutput(NodeId(0), chunk);
    }
    console.Finish("", false);
  }
  return out.ReadAll();
}

TEST(Console, LineThatIsNotWhole_IsShownAndGoneOnWith) {
  EXPECT_EQ(Shown({{0, "name: "}, {0, "x"}, {0, "y\n"}, {0, "next\n"}}, false),
            "[127.0.0.1:0] name: xy\n[127.0.0.1:0] next\n");
  // Its end comes with the end of the job at the latest.
  EXPECT_EQ(Shown({{0, "first\nname: "}}, false), "[127.0.0.1:0] first\n[127.0.0.1:0] name: \n");
}

TEST(Console, LineThatIsRedrawn_KeepsItsPrefix) {
  const std::vector<std::pair<int, std::string>> bar = {
      {0, "10%"}, {0, "\r100%"}, {0, "\r\n"}, {0, "done\n"}};
  EXPECT_EQ(Shown(bar, false), "[127.0.0.1:0] 10%\r[127.0.0.1:0] 100%\n[127.0.0.1:0] done\n");
  EXPECT_EQ(Shown(bar, true), "[127.0.0.1:0] 10%\r[127.0.0.1:0] 100%\033[K\n[127.0.0.1:0] done\n");
}

TEST(Console, BytesOfARank_AreMadeFitForATerminalAndStayInAFile) {
  const std::vector<std::pair<int, std::string>> forged = {
      {0, "\033[2J\033[Hdsrun: forged\n"}, {1, "\033[31mred\n"}, {0, "\033[1"}, {0, "A\n"}};
  EXPECT_EQ(Shown(forged, false),
            "[127.0.0.1:0] \033[2J\033[Hdsrun: forged\n[127.0.0.1:0] \033[1A\n"
            "[127.0.0.1:1] \033[31mred\n");
  EXPECT_EQ(Shown(forged, true),
            "[127.0.0.1:0] \\x1b[2J\\x1b[Hdsrun: forged\n[127.0.0.1:0] \\x1b[1A\n"
            "[127.0.0.1:1] \033[31mred\033[0m\n");
}

TEST(Console, WordsOfOthersInSeveralLines_BeginNoLineOfTheirOwn) {
  Pipe out, err;
  {
    Console console(TrainJob(), {.output = {.out_fd = out.write_end(), .err_fd = err.write_end()}});
    console.Tell(OperatorEvent(
        NoticeText{.warning = true, .text = "x\ndsrun: forged", .from = {}, .rank = Rank(2)}));
    console.Finish("", false);
  }
  EXPECT_EQ(err.ReadAll(), "dsrun: warning: rank 2: x\n  dsrun: forged\n");
}

TEST(Console, LineThatIsInterrupted_IsEndedAndGoesOnWithItsPrefix) {
  EXPECT_EQ(Shown({{0, "loading .."}, {1, "name: "}, {0, " done\n"}, {1, "x\n"}}, false),
            "[127.0.0.1:0] loading ..\n[127.0.0.1:1] name: \n[127.0.0.1:0]  done\n"
            "[127.0.0.1:1] x\n");
}

TEST(Console, BelowAProgressLine_EveryPieceIsALineOfItsOwn) {
  EXPECT_EQ(Shown({{0, "name: "}, {0, "x\n"}}, true, /*progress_line=*/true),
            "[127.0.0.1:0] name: \n[127.0.0.1:0] x\n");
}

TEST(OutputWriter, ReaderThatDoesNotRead_HoldsUpNobody) {
  Pipe out;
  OutputWriter writer(
      {.out_fd = out.write_end(), .err_fd = out.write_end(), .most_bytes = 1 << 20});
  int dropped = 0;
  for (int i = 0; i < 400; ++i) {
    if (!writer.WriteDroppable(OutputWriter::To::kOut, std::string(8192, 'x'))) ++dropped;
  }
  writer.Close(absl::Milliseconds(100));  // returns although nobody has read
  EXPECT_GT(dropped, 0);
}

}  // namespace
}  // namespace dsrun::launcher
