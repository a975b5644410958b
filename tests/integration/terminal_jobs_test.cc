// Jobs on a real terminal (a pty that is the session's own), with its keys, its sizes and its
// pauses; and screens that take nothing, are full, or have gone away. docs/errors.md has the codes.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_replace.h"
#include "common/base/process_tree.h"
#include "tests/integration/job_fixture.h"
#include "tests/integration/training_job.h"
#include "tests/support/terminal.h"

namespace dsrun {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr int kCancelled = 96;
constexpr int kOutputLost = 99;

constexpr char kCtrlS[] = "\x13";
constexpr char kCtrlZ[] = "\x1a";
constexpr char kCtrlC[] = "\x03";

// A script that stands for dsrun.
Job::Options By(const std::string& folder, const std::string& command) {
  const std::string path = folder + "/start";
  std::ofstream(path) << "#!/bin/bash\n" << command << "\n";
  chmod(path.c_str(), 0755);
  Job::Options options;
  options.dsrun_binary = path;
  return options;
}

Job::Options On(const Terminal& terminal, const std::string& folder, const char* how = "fg") {
  return By(folder, "exec " + UserProgram() + " session " + terminal.path() + " " + how + " " +
                        DsrunBinary() + " \"$@\"");
}

bool AwaitWaiting(Terminal& terminal, int ranks) {
  for (int i = 0; i < ranks; ++i) {
    if (!terminal.Await(" waits\r\n")) return false;
  }
  return true;
}

TEST(TerminalJob, CtrlZ_IsRefusedWithALineAndTheJobGoesOn) {
  const TemporaryFolder folder;
  Terminal terminal(200);
  Job job({"--num_gpus=1", UserProgram(), "handle", "0"}, On(terminal, folder.path()));
  ASSERT_TRUE(AwaitWaiting(terminal, 1)) << terminal.text();
  for (int i = 0; i < 2; ++i) {
    terminal.Type(kCtrlZ);
    ASSERT_TRUE(
        terminal.Await("dsrun: Ctrl-Z is not taken: while dsrun is stopped nobody "
                       "coordinates the job, and its agents end it after 30s (--lease)"))
        << terminal.text();
  }
  const std::vector<pid_t> launchers = job.Find(Role::kLauncher);
  ASSERT_EQ(launchers.size(), 1u);
  EXPECT_NE(KernelStateOf(launchers[0]).state, 'T');
  terminal.Type(kCtrlC);
  EXPECT_TRUE(terminal.Await("rank 0 has saved")) << terminal.text();
  EXPECT_EQ(job.AwaitExit(), kCancelled) << terminal.text();
  EXPECT_TRUE(job.NothingIsLeft());
}

// `stty tostop` stops who writes there from the background, and a coordinator that is stopped loses
// its job.
TEST(TerminalJob, InTheBackgroundOfATerminalWithTostop_WritesAndIsNotStopped) {
  const TemporaryFolder folder;
  Terminal terminal(200);
  Job job({"--num_gpus=1", UserProgram(), "exit", "3"}, On(terminal, folder.path(), "bg"));
  EXPECT_EQ(job.AwaitExit(), 3);
  EXPECT_TRUE(terminal.Await("rank 0 exits")) << terminal.text();
  EXPECT_TRUE(terminal.Await("exited with code 3")) << terminal.text();
  EXPECT_TRUE(job.NothingIsLeft());
}

TEST(TerminalJob, PausedByCtrlSToTheEnd_DsrunEndsAndItsCodeSaysWhatWasLost) {
  const TemporaryFolder folder;
  const std::string fifo = folder.path() + "/go";
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  Terminal terminal(200);
  Job job({"--num_gpus=1", "/bin/sh", "-c", "echo waits; read x <" + fifo + "; seq 100000"},
          On(terminal, folder.path()));
  ASSERT_TRUE(AwaitWaiting(terminal, 1)) << terminal.text();
  terminal.Type(kCtrlS);
  std::ofstream(fifo) << "go\n";
  EXPECT_EQ(job.AwaitExit(), kOutputLost);
  const nlohmann::json report = job.ReportJson();
  EXPECT_EQ(report["exit_code"], 0) << "the job has done what was asked";
  ASSERT_TRUE(report.contains("screen")) << report;
  EXPECT_GT(report["screen"]["lines_lost"].get<int64_t>(), 50'000);
  EXPECT_EQ(report["screen"]["why"], "standard output: its reader takes nothing");
  // Every line is in the rank's file.
  EXPECT_THAT(ReadWholeFile(job.run_dir() + "/logs/localhost/rank-0.gen-1.log"),
              HasSubstr("\n100000\n"));
  EXPECT_TRUE(job.NothingIsLeft());
}

TEST(TerminalJob, StatusLine_IsNeverWrappedAndFollowsTheSize) {
  const TemporaryFolder folder;
  Terminal terminal(60);
  Job job(Train({"--num_gpus=1"}, folder.path(), {"--train-iters", "1000000"}),
          On(terminal, folder.path()));
  ASSERT_TRUE(terminal.Await("tokens/s")) << terminal.text();
  ASSERT_TRUE(terminal.Await("tokens/s")) << terminal.text();
  terminal.Resize(30);
  const size_t before = terminal.text().size();
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(terminal.Await("\033[Kstep ")) << terminal.text();
  terminal.Type(kCtrlC);
  EXPECT_EQ(job.AwaitExit(), kCancelled) << terminal.text();
  terminal.Drain();
  // Every status line by itself: it begins where the one before is cleared, and ends at the next.
  // The terminal's echo of the key is no part of it.
  const std::string text = absl::StrReplaceAll(terminal.text(), {{"^C", ""}});
  int seen = 0;
  for (size_t at = 0; (at = text.find("step ", at)) != std::string::npos; ++at) {
    const size_t end = text.find_first_of("\r\n", at);
    if (at < 4 || text.compare(at - 4, 4, "\r\033[K") != 0 || end == std::string::npos) continue;
    ++seen;
    EXPECT_LT(end - at, 60u) << text.substr(at, end - at);
  }
  EXPECT_GT(seen, 3);
  EXPECT_THAT(text.substr(before), HasSubstr("loss"));
  EXPECT_TRUE(job.NothingIsLeft());
}

TEST(TerminalJob, BytesOfARank_ForgeNoLineAndMoveNoCursor) {
  const TemporaryFolder folder;
  Terminal terminal(200);
  Job job({"--num_gpus=1", "/bin/sh", "-c",
           R"(printf '\033[31mred\n\033[2J\033[1;1Hdsrun: forged\n\rdsrun: forged\v'; exit 5)"},
          On(terminal, folder.path()));
  EXPECT_EQ(job.AwaitExit(), 5);
  terminal.Drain();
  ScreenModel screen(200);
  screen.Feed(terminal.text());
  EXPECT_EQ(screen.strange(), "");
  EXPECT_THAT(terminal.text(), HasSubstr("[localhost:0] \033[31mred\033[0m\r\n"));
  EXPECT_THAT(terminal.text(), HasSubstr("[localhost:0] \\x1b[2J\\x1b[1;1Hdsrun: forged\r\n"));
  EXPECT_THAT(terminal.text(), HasSubstr("| dsrun: forged\\x0b\r\n")) << "on the last screen";
  for (size_t row = 0; row < screen.rows().size(); ++row) {
    EXPECT_THAT(screen.Row(row), Not(::testing::StartsWith("dsrun: forged")));
  }
  // Its file has them all.
  EXPECT_THAT(ReadWholeFile(job.run_dir() + "/logs/localhost/rank-0.gen-1.log"),
              HasSubstr("\033[2J\033[1;1Hdsrun: forged\n\rdsrun: forged\v"));
}

// A row that is filled up to the window's width, with blanks or tabs, in one line or in pieces:
// what follows would stand at the beginning of the next row.
TEST(TerminalJob, LineOfARankThatIsWiderThanTheWindow_ForgesNoLine) {
  constexpr int kColumns = 60;
  const std::string blanks(kColumns - std::string("[localhost:0] ").size(), ' ');
  const TemporaryFolder folder;
  Terminal terminal(kColumns);
  Job job({"--num_gpus=1", "/bin/sh", "-c",
           "printf '%s\\n' '" + blanks + "dsrun: forged 1'; printf '%s' '" + blanks +
               "'; read x; printf 'dsrun: forged 2\\n'; "
               "printf '\\t\\t\\t\\t\\t\\t\\t\\t\\t\\t\\txdsrun: forged 3\\n'; exit 5"},
          On(terminal, folder.path()));
  EXPECT_EQ(job.AwaitExit(), 5);
  terminal.Drain();
  ScreenModel screen(kColumns);
  screen.Feed(terminal.text());
  EXPECT_EQ(screen.strange(), "");
  int seen = 0;
  for (size_t row = 0; row < screen.rows().size(); ++row) {
    EXPECT_THAT(screen.Row(row), Not(::testing::StartsWith("dsrun: forged")));
    seen += screen.Row(row).find("dsrun: forged") != std::string::npos;
  }
  EXPECT_GE(seen, 3) << terminal.text();
}

// ---- Output that cannot be written

struct Ended {
  int code = 0;
  std::string errors;
};

// `dsrun COMMAND`, its standard output as the shell is told.
Ended Dsrun(const std::string& command) {
  const TemporaryFolder folder;
  const std::string errors = folder.path() + "/errors";
  const std::string line = DsrunBinary() + " " + command + " 2>" + errors;
  const int status = std::system(line.c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, ReadWholeFile(errors)};
}

TEST(OutputLost, CommandsWhoseOutputIsTheirResult_SayItAndExit99) {
  for (const std::string command : {"help", "--version", "--dry-run /bin/true", "--help",
                                    "--dry-run --json /bin/true", "checkpoint --help"}) {
    SCOPED_TRACE(command);
    const Ended ended = Dsrun(command + " >/dev/full");
    EXPECT_EQ(ended.code, kOutputLost);
    EXPECT_THAT(ended.errors,
                HasSubstr("dsrun: standard output is not complete: No space left on device\n"));
    EXPECT_EQ(Dsrun(command + " >/dev/null").code, 0);
    const Ended closed = Dsrun(command + " >&-");
    EXPECT_EQ(closed.code, kOutputLost);
    EXPECT_THAT(closed.errors,
                HasSubstr("dsrun: standard output is not complete: Bad file descriptor\n"));
  }
}

// A pager that is paused is waited for, and nobody has to wait with it.
TEST(OutputLost, CommandWhoseReaderReadsNothing_WaitsAndHeedsTerm) {
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  fcntl(ends[1], F_SETPIPE_SZ, 4096);
  const std::string filling(4096, 'x');
  ASSERT_EQ(write(ends[1], filling.data(), filling.size()), 4096);
  Job::Options options;
  options.stdout_fd = ends[1];
  Job job({"--help"}, options);
  int asleep = 0;  // looks in a row: it waits for its reader
  ASSERT_TRUE(Eventually([&] {
    asleep = KernelStateOf(job.pid()).state == 'S' ? asleep + 1 : 0;
    return asleep == 20;
  }));
  EXPECT_FALSE(job.Ended());
  job.Signal(SIGTERM);
  EXPECT_EQ(job.AwaitExit(), kCancelled) << job.Words();
  close(ends[0]);
  close(ends[1]);
}

TEST(OutputLost, OfAJobThatWentWell_IsItsExitCode) {
  const int full = open("/dev/full", O_WRONLY | O_CLOEXEC);
  ASSERT_GE(full, 0);
  Job::Options options;
  options.stdout_fd = full;
  Job job({"--num_gpus=1", "/bin/echo", "words"}, options);
  EXPECT_EQ(job.AwaitExit(), kOutputLost) << job.Words();
  EXPECT_THAT(job.err(), HasSubstr("1 line of standard output were lost: No space left"));
  EXPECT_EQ(job.ReportJson()["exit_code"], 0);
  close(full);
}

TEST(OutputLost, MetricsOfAJobThatWentWell_AreItsExitCode) {
  const TemporaryFolder folder;
  Args args = Train({"--num_gpus=1"}, folder.path(), {"--train-iters", "3"});
  std::replace(args.begin(), args.end(), folder.path() + "/metrics", std::string("/dev/full"));
  Job job(args);
  EXPECT_EQ(job.AwaitExit(), kOutputLost) << job.Words();
  EXPECT_THAT(job.err(), HasSubstr("warning: metrics are missing in /dev/full: 3 lines (cannot "));
  EXPECT_EQ(job.ReportJson()["final_step"], 3);
}

TEST(OutputLost, MetricsPipeWhoseReaderHasStopped_HoldsUpNobody) {
  const TemporaryFolder folder;
  const std::string pipe = folder.path() + "/pipe";
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  const int reader = open(pipe.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC);
  ASSERT_GE(reader, 0);
  const std::string page(4096, 'x');
  while (write(reader, page.data(), page.size()) > 0) {
  }
  Args args = Train({"--num_gpus=1"}, folder.path(), {"--train-iters", "3"});
  std::replace(args.begin(), args.end(), folder.path() + "/metrics", pipe);
  Job job(args);
  EXPECT_EQ(job.AwaitExit(), kOutputLost) << job.Words();
  EXPECT_THAT(job.err(), HasSubstr("metrics are missing in " + pipe + ": 3 lines (the file has"));
  EXPECT_EQ(job.ReportJson()["final_step"], 3);
  close(reader);
}

TEST(OutputLost, OfAJobThatFailed_ItsOwnCodeStays) {
  Job::Options options;
  options.stdout_fd = open("/dev/full", O_WRONLY | O_CLOEXEC);
  Job job({"--num_gpus=1", "/bin/sh", "-c", "echo words; exit 7"}, options);
  EXPECT_EQ(job.AwaitExit(), 7) << job.Words();
  close(options.stdout_fd);
}

TEST(OutputLost, ToAReaderWhoWentAway_IsNoFault) {
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  close(ends[0]);
  Job::Options options;
  options.stdout_fd = ends[1];
  Job job({"--num_gpus=1", "/bin/echo", "words"}, options);
  close(ends[1]);
  EXPECT_EQ(job.AwaitExit(), 0) << job.Words();
}

// From the beginning of the job on: what is said before it is waited for, as by any tool.
TEST(OutputLost, StandardErrorThatNobodyReads_CostsNoLeaseAndTermIsHeeded) {
  const TemporaryFolder folder;
  const std::string fifo = folder.path() + "/errors";
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  const int reader = open(fifo.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC);
  ASSERT_GE(reader, 0);
  Job job({"--node-silent-after", "1s", "--lease", "2s", "--heartbeat-interval", "300ms",
           "--num_gpus=2", UserProgram(), "handle", "0"},
          By(folder.path(), "export GLOG_v=1\nexec " + DsrunBinary() + " \"$@\" 2>" + fifo));
  for (const char* rank : {"rank 0 waits", "rank 1 waits"}) {
    ASSERT_TRUE(job.AwaitOutput(rank)) << job.Words();
  }
  while (write(reader, "x", 1) == 1) {  // until it is full
  }
  // Signals that are passed on, each with words of dsrun's: more of them than the lease lasts.
  for (int i = 0; i < 30; ++i) {
    job.Signal(SIGUSR1);
    job.Signal(SIGTSTP);
  }
  EXPECT_TRUE(job.AwaitOutput("rank 1 got signal 10")) << job.Words();
  job.Signal(SIGTERM);
  EXPECT_TRUE(job.AwaitOutput("rank 1 has saved")) << job.Words();
  // Now it is read, or the end would wait 5 s for that.
  EXPECT_TRUE(Eventually([&] {
    char bytes[4096];
    while (read(reader, bytes, sizeof(bytes)) > 0) {
    }
    return job.Ended();
  }));
  EXPECT_EQ(job.AwaitExit(), kCancelled);
  EXPECT_EQ(job.ReportJson()["restarts"], 0);
  EXPECT_TRUE(job.NothingIsLeft());
  close(reader);
}

}  // namespace
}  // namespace dsrun
