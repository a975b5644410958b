// Screens that take nothing, and disks that are full: nobody is held up, what passes is gone on
// with, and what was lost is counted.

#include "launcher/console/output_writer.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "common/base/clock.h"
#include "launcher/console/console.h"
#include "tests/support/terminal.h"

namespace dsrun::launcher {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::StartsWith;
using To = OutputWriter::To;

constexpr absl::Duration kBound = absl::Seconds(20);

std::string LinesOf(char letter, int count) {
  std::string text;
  for (int i = 0; i < count; ++i) text += std::string(99, letter) + "\n";
  return text;
}

// More than any terminal holds, and nobody reads.
TEST(OutputWriter, TerminalThatNobodyReads_HoldsUpNobodyAndTheLossIsCounted) {
  const Terminal terminal;
  const int flags = fcntl(terminal.programs_end(), F_GETFL);
  OutputWriter writer({.out_fd = terminal.programs_end(), .err_fd = terminal.programs_end()});
  writer.Write(To::kOut, LinesOf('x', 10'000));
  const SteadyTime begin = Clock::Real().SteadyNow();
  const OutputWriter::Loss loss = writer.Close(absl::Milliseconds(100));
  EXPECT_LT(Clock::Real().SteadyNow() - begin, kBound);
  EXPECT_GT(loss.lines, 0);
  EXPECT_LT(loss.lines, 10'000);
  EXPECT_THAT(loss.why, HasSubstr("its reader takes nothing"));
  // The open file is shared with whoever started us: it blocks as before.
  EXPECT_EQ(fcntl(terminal.programs_end(), F_GETFL), flags);
}

TEST(OutputWriter, TerminalAfterCtrlS_IsGoneOnWithAfterCtrlQ) {
  Terminal terminal;
  OutputWriter writer({.out_fd = terminal.programs_end(), .err_fd = terminal.programs_end()});
  ASSERT_EQ(tcflow(terminal.programs_end(), TCOOFF), 0);  // at once, where a key takes its time
  writer.Write(To::kOut, "after the pause\n");
  ASSERT_FALSE(terminal.Await("after", absl::Milliseconds(100))) << "the terminal is not stopped";
  ASSERT_EQ(tcflow(terminal.programs_end(), TCOON), 0);
  EXPECT_TRUE(terminal.Await("after the pause"));
  const OutputWriter::Loss loss = writer.Close(absl::Seconds(5));
  EXPECT_EQ(loss.lines, 0);
  EXPECT_FALSE(loss.failed);
}

TEST(OutputWriter, TerminalThatStaysStopped_HoldsUpNobody) {
  const Terminal terminal;
  OutputWriter writer({.out_fd = terminal.programs_end(), .err_fd = terminal.programs_end()});
  ASSERT_EQ(tcflow(terminal.programs_end(), TCOOFF), 0);
  writer.Write(To::kErr, "one\ntwo\n");
  const SteadyTime begin = Clock::Real().SteadyNow();
  const OutputWriter::Loss loss = writer.Close(absl::Milliseconds(100));
  EXPECT_LT(Clock::Real().SteadyNow() - begin, kBound);
  EXPECT_EQ(loss.lines, 2);
  EXPECT_THAT(loss.why, StartsWith("standard error: "));
  EXPECT_TRUE(loss.failed);
}

// Each stream's text is tried to the end; the patience is one for both.
// A reader who takes a byte at a time, for ever: whoever waits for nothing but progress waits for
// days.
class SlowReader {
 public:
  SlowReader() {
    EXPECT_EQ(pipe2(ends_, O_CLOEXEC), 0);
    thread_ = std::thread([this] {
      char byte;
      while (read(ends_[0], &byte, 1) == 1) {
        taken_ += byte;
        std::this_thread::yield();
      }
    });
  }
  ~SlowReader() { close(ends_[0]); }
  int end() const { return ends_[1]; }
  // All that it took.
  std::string Finish() {
    close(ends_[1]);
    thread_.join();
    return taken_;
  }

 private:
  int ends_[2];
  std::string taken_;
  std::thread thread_;
};

TEST(OutputWriter, ReaderWhoTakesALittleNowAndThen_IsGivenUpWhenTheTimeIsOver) {
  SlowReader reader;
  auto writer =
      std::make_unique<OutputWriter>(OutputWriter::Options{.out_fd = reader.end(),
                                                           .err_fd = reader.end(),
                                                           .most_kept_bytes = 64 << 20,
                                                           .end_within = absl::Milliseconds(200)});
  writer->Write(To::kOut, LinesOf('x', 60'000));  // 6 MB
  const SteadyTime begin = Clock::Real().SteadyNow();
  const OutputWriter::Loss loss = writer->Close(kBound);
  EXPECT_LT(Clock::Real().SteadyNow() - begin, kBound);
  writer.reset();  // it has the pipe, too
  EXPECT_TRUE(loss.failed);
  EXPECT_GT(loss.lines, 0);
  EXPECT_THAT(loss.why, HasSubstr("its reader was too slow at the end"));
  // What was lost, and what was not, is all that there was.
  const std::string taken = reader.Finish();
  EXPECT_GT(taken.size(), 0u);
  EXPECT_LE(std::count(taken.begin(), taken.end(), '\n') + loss.lines, 60'000 + 1);
  EXPECT_GE(std::count(taken.begin(), taken.end(), '\n') + loss.lines, 60'000);
}

TEST(OutputWriter, SlowReaderAtTheEnd_GetsTheLastScreenAndNotWhatMayBeLeftOut) {
  SlowReader reader;
  auto writer =
      std::make_unique<OutputWriter>(OutputWriter::Options{.out_fd = reader.end(),
                                                           .err_fd = reader.end(),
                                                           .most_bytes = 64 << 20,
                                                           .end_within = absl::Seconds(4)});
  for (int i = 0; i < 60'000; ++i) {
    ASSERT_TRUE(writer->WriteDroppable(To::kOut, LinesOf('x', 1)));
  }
  writer->Write(To::kErr, "the last screen\n");
  const OutputWriter::Loss loss = writer->Close(kBound);
  writer.reset();             // it has the pipe, too
  EXPECT_FALSE(loss.failed);  // what was left out is in files
  EXPECT_GT(loss.lines, 0);
  EXPECT_THAT(reader.Finish(), HasSubstr("\nthe last screen\n"));
}

TEST(OutputWriter, ReaderOfOneStreamThatTakesNothing_IsSaidOnTheOther) {
  const Terminal stopped;
  Terminal other;
  OutputWriter writer({.out_fd = stopped.programs_end(), .err_fd = other.programs_end()});
  ASSERT_EQ(tcflow(stopped.programs_end(), TCOOFF), 0);
  writer.Write(To::kOut, "one\ntwo\n");
  const OutputWriter::Loss loss = writer.Close(absl::Milliseconds(100));
  EXPECT_EQ(loss.lines, 2);
  EXPECT_TRUE(other.Await("dsrun: 2 lines of standard output were lost: its reader takes nothing"))
      << other.text();
}

// As of a program that reads the one to its end before it looks at the other.
TEST(OutputWriter, ReaderOfOneStreamThatTakesNothing_DoesNotHoldUpTheOther) {
  for (const To stuck : {To::kOut, To::kErr}) {
    const Terminal stopped;
    Terminal other;
    const int ends[] = {stopped.programs_end(), other.programs_end()};
    ASSERT_EQ(tcflow(stopped.programs_end(), TCOOFF), 0);
    OutputWriter writer(
        {.out_fd = ends[stuck == To::kOut ? 0 : 1], .err_fd = ends[stuck == To::kOut ? 1 : 0]});
    writer.Write(stuck, "nobody reads this\n");
    writer.Write(stuck == To::kOut ? To::kErr : To::kOut, "heard\n");
    EXPECT_TRUE(other.Await("heard"));
    EXPECT_EQ(writer.Close(absl::Milliseconds(100)).lines, 1);
  }
}

// A pipe that is full to its last byte. Its reader is the test.
class FullPipe {
 public:
  FullPipe() {
    EXPECT_EQ(pipe2(ends_, O_CLOEXEC | O_NONBLOCK), 0);
    while (write(ends_[1], "x", 1) == 1) continue;
    fcntl(ends_[1], F_SETFL, 0);
  }
  ~FullPipe() {
    close(ends_[0]);
    close(ends_[1]);
  }
  int end() const { return ends_[1]; }
  // All that is in it and that comes until `last` was there, without what filled it.
  std::string TakeUntil(const std::string& last) const {
    std::string text;
    pollfd input{.fd = ends_[0], .events = POLLIN, .revents = 0};
    while (text.find(last) == std::string::npos && poll(&input, 1, 20'000) == 1) {
      char bytes[4096];
      const ssize_t count = read(ends_[0], bytes, sizeof(bytes));
      if (count > 0) text.append(bytes, static_cast<size_t>(count));
    }
    return text.substr(std::min(text.find_first_not_of('x'), text.size()));
  }

 private:
  int ends_[2];
};

int ThreadsNamed(const std::string& name) {
  int count = 0;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    std::string comm;
    std::getline(std::ifstream(task.path() / "comm"), comm);
    count += comm == name ? 1 : 0;
  }
  return count;
}

TEST(OutputWriter, PipesThatNobodyReads_HoldUpNobody) {
  const FullPipe out;
  const FullPipe err;
  OutputWriter writer(
      {.out_fd = out.end(), .err_fd = err.end(), .last_words_within = absl::Milliseconds(100)});
  writer.Write(To::kOut, "one\n");
  writer.Write(To::kErr, "two\n");
  const SteadyTime begin = Clock::Real().SteadyNow();
  const OutputWriter::Loss loss = writer.Close(absl::Milliseconds(100));
  EXPECT_LT(Clock::Real().SteadyNow() - begin, kBound);
  EXPECT_EQ(loss.lines, 2);
  EXPECT_TRUE(loss.failed);
}

// The reader of standard error has its pause, too, and it is over when that of standard output has
// used up the patience of both.
TEST(OutputWriter, LineAboutTheLoss_HasTimeOfItsOwn) {
  const FullPipe out;
  const FullPipe err;
  OutputWriter writer({.out_fd = out.end(), .err_fd = err.end(), .last_words_within = kBound});
  writer.Write(To::kOut, "one\ntwo\n");
  std::thread closing([&] { EXPECT_EQ(writer.Close(absl::Milliseconds(10)).lines, 2); });
  while (ThreadsNamed("standard output") > 0) std::this_thread::yield();
  poll(nullptr, 0, 200);  // the reader's pause; the line would come after any that is shorter, too
  EXPECT_EQ(err.TakeUntil("\n"),
            "dsrun: 2 lines of standard output were lost: its reader takes nothing\n");
  closing.join();
}

TEST(OutputWriter, ReaderWhoWentAway_MissesNothing) {
  signal(SIGPIPE, SIG_IGN);
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  close(ends[0]);
  OutputWriter writer({.out_fd = ends[1], .err_fd = ends[1]});
  writer.Write(To::kOut, "nobody reads this\n");
  const OutputWriter::Loss loss = writer.Close(absl::Seconds(10));
  EXPECT_EQ(loss.lines, 1);
  EXPECT_FALSE(loss.failed);
  close(ends[1]);
}

// ---- The status line

std::vector<std::string> Forms() {
  proto::StepDone done;
  done.set_step(120);
  done.set_loss(2.3413);
  done.set_lr(1e-3);
  done.set_grad_norm(0.83);
  done.set_tokens_per_s(41234);
  return ProgressForms(done, 300, 100);
}

TEST(StatusLine, OnATerminalOfAnyWidth_IsNeverWrappedAndKeepsTheEssential) {
  const std::vector<std::pair<int, std::string>> table = {
      {200, "step 120/300  loss 2.3413  lr 1.00e-03  grad norm 0.830  41.2k tokens/s  0:18 left"},
      {80, "step 120/300  loss 2.3413  41.2k tokens/s  0:18 left"},
      {53, "step 120/300  loss 2.3413  41.2k tokens/s  0:18 left"},
      {52, "step 120/300  loss 2.3413  0:18 left"},
      {30, "step 120/300  loss 2.3413"},
      {20, "120  2.3413"},
      {5, "120"},
      {3, "12"},
      {1, ""},
      {0, "step 120/300  loss 2.3413  41.2k tokens/s  0:18 left"},  // it does not say: 80
  };
  for (const auto& [columns, shown] : table) {
    SCOPED_TRACE(columns);
    Terminal terminal(columns);
    OutputWriter writer({.out_fd = terminal.programs_end(), .err_fd = terminal.programs_end()});
    writer.SetStatusLine(Forms());
    writer.Write(To::kErr, "x\n");
    EXPECT_EQ(writer.Close(absl::Seconds(20)).lines, 0);
    terminal.Drain();
    ScreenModel screen(columns == 0 ? 80 : static_cast<size_t>(columns));
    screen.Feed(terminal.text());
    EXPECT_EQ(screen.wraps(), 0) << terminal.text();
    EXPECT_EQ(screen.strange(), "");
    ASSERT_GE(screen.rows().size(), 2u);
    EXPECT_EQ(screen.Row(0), "x");
    EXPECT_EQ(screen.Row(1), shown);
  }
}

TEST(StatusLine, WhenTheTerminalIsResized_IsDrawnAnewAtOnce) {
  Terminal terminal(100);
  OutputWriter writer({.out_fd = terminal.programs_end(), .err_fd = terminal.programs_end()});
  writer.SetStatusLine(Forms());
  ASSERT_TRUE(terminal.Await("left"));
  ScreenModel screen(100);
  screen.Feed(terminal.text());
  const size_t before = terminal.text().size();
  terminal.Resize(40);
  screen.Resize(40);
  writer.Resized();
  ASSERT_TRUE(terminal.Await("left"));
  screen.Feed(terminal.text().substr(before));
  EXPECT_EQ(screen.rows().size(), 1u);
  EXPECT_EQ(screen.wraps(), 0);
  EXPECT_EQ(screen.LastRow(), "step 120/300  loss 2.3413  0:18 left");
  writer.Close(absl::Seconds(5));
}

// Words of dsrun itself are kept, but not without an end.
TEST(OutputWriter, QueueOfWhatIsKept_IsBounded) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  OutputWriter writer({.out_fd = ends[1], .err_fd = ends[1], .most_kept_bytes = 1 << 20});
  for (int i = 0; i < 1000; ++i) writer.Write(To::kErr, LinesOf('x', 100));
  const OutputWriter::Loss loss = writer.Close(absl::Milliseconds(100));
  EXPECT_GT(loss.lines, 90'000);
  EXPECT_LT(loss.lines, 100'000);
  close(ends[0]);
  close(ends[1]);
}

class FullDisk : public ::testing::Test {
 protected:
  FullDisk() {
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &before_);
    EXPECT_GE(file_, 0);
    unlink(path_.c_str());
    EXPECT_EQ(pipe2(err_, O_CLOEXEC | O_NONBLOCK), 0);
  }
  ~FullDisk() override {
    SetLimit(before_.rlim_cur);
    close(file_);
    close(err_[0]);
    close(err_[1]);
  }
  // A file that may not grow: the error is EFBIG, and passes as a full disk does. Meanwhile this
  // process can write no longer file than that, so nothing may be said.
  void SetLimit(rlim_t bytes) const {
    const rlimit limit = {bytes, before_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  void Lift() const { SetLimit(before_.rlim_cur); }
  off_t Size() const {
    struct stat info;
    return fstat(file_, &info) == 0 ? info.st_size : -1;
  }
  std::string Content() const {
    std::string content(static_cast<size_t>(Size()), '\0');
    EXPECT_EQ(pread(file_, content.data(), content.size(), 0), Size());
    return content;
  }
  // The next line on standard error, within 20 s.
  std::string ErrorLine() const {
    std::string line;
    pollfd reader{.fd = err_[0], .events = POLLIN, .revents = 0};
    while (poll(&reader, 1, 20'000) == 1) {
      char byte = 0;
      if (read(err_[0], &byte, 1) != 1 || byte == '\n') break;
      line += byte;
    }
    return line;
  }

  std::string path_ = ::testing::TempDir() + "/full-XXXXXX";
  const int file_ = mkstemp(path_.data());
  int err_[2];
  rlimit before_ = {};
};

TEST_F(FullDisk, ThatHasRoomAgain_IsWrittenOnAndTheLostLinesAreCounted) {
  OutputWriter writer({.out_fd = file_, .err_fd = err_[1]});
  SetLimit(150);
  writer.Write(To::kOut, LinesOf('a', 3));  // one whole line, half of another
  writer.Write(To::kOut, LinesOf('b', 5));
  writer.Flush(absl::Seconds(20));  // both have been tried
  Lift();
  writer.Write(To::kOut, "there is room again\n");
  EXPECT_EQ(ErrorLine(),
            "dsrun: 7 lines of standard output were lost before this one: File too large");
  const OutputWriter::Loss loss = writer.Close(absl::Seconds(5));
  EXPECT_EQ(loss.lines, 7);
  EXPECT_TRUE(loss.failed);
  EXPECT_EQ(Content(), LinesOf('a', 1) + std::string(50, 'a') + "\n" + "there is room again\n");
}

TEST_F(FullDisk, ToTheEnd_IsSaidOnTheOtherStreamAndReturned) {
  const int full = open("/dev/full", O_WRONLY | O_CLOEXEC);
  ASSERT_GE(full, 0);
  OutputWriter writer({.out_fd = full, .err_fd = err_[1]});
  writer.Write(To::kOut, LinesOf('a', 3));
  const OutputWriter::Loss loss = writer.Close(absl::Seconds(5));
  EXPECT_EQ(loss.lines, 3);
  EXPECT_EQ(loss.why, "standard output: No space left on device");
  EXPECT_EQ(ErrorLine(), "dsrun: 3 lines of standard output were lost: No space left on device");
  close(full);
}

}  // namespace
}  // namespace dsrun::launcher
