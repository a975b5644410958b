// Screens that take nothing, and disks that are full: nobody is held up, what passes is gone on
// with, and what was lost is counted.

#include "launcher/console/output_writer.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include <fstream>
#include <sstream>
#include <string>

#include "common/base/clock.h"

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

class Terminal {
 public:
  Terminal() { EXPECT_EQ(openpty(&reader_, &writer_, nullptr, nullptr, nullptr), 0); }
  ~Terminal() {
    close(reader_);
    close(writer_);
  }
  int writer() const { return writer_; }
  int reader() const { return reader_; }

 private:
  int reader_ = -1;
  int writer_ = -1;
};

// More than any terminal holds, and nobody reads.
TEST(OutputWriter, TerminalThatNobodyReads_HoldsUpNobodyAndTheLossIsCounted) {
  const Terminal terminal;
  const int flags = fcntl(terminal.writer(), F_GETFL);
  OutputWriter writer({.out_fd = terminal.writer(), .err_fd = terminal.writer()});
  writer.Write(To::kOut, LinesOf('x', 10'000));
  const SteadyTime begin = Clock::Real().SteadyNow();
  const OutputWriter::Loss loss = writer.Close(absl::Milliseconds(100));
  EXPECT_LT(Clock::Real().SteadyNow() - begin, kBound);
  EXPECT_GT(loss.lines, 0);
  EXPECT_LT(loss.lines, 10'000);
  EXPECT_THAT(loss.why, HasSubstr("its reader takes nothing"));
  // The open file is shared with whoever started us: it blocks as before.
  EXPECT_EQ(fcntl(terminal.writer(), F_GETFL), flags);
}

TEST(OutputWriter, TerminalAfterCtrlS_IsGoneOnWithAfterCtrlQ) {
  const Terminal terminal;
  OutputWriter writer({.out_fd = terminal.writer(), .err_fd = terminal.writer()});
  ASSERT_EQ(tcflow(terminal.writer(), TCOOFF), 0);  // at once, where a key takes its time
  writer.Write(To::kOut, "after the pause\n");
  pollfd reader{.fd = terminal.reader(), .events = POLLIN, .revents = 0};
  ASSERT_EQ(poll(&reader, 1, 100), 0) << "the terminal is not stopped";
  ASSERT_EQ(tcflow(terminal.writer(), TCOON), 0);
  std::string got;
  while (got.find('\n') == std::string::npos && poll(&reader, 1, 20'000) == 1) {
    char byte = 0;
    if (read(terminal.reader(), &byte, 1) == 1) got += byte;
  }
  EXPECT_THAT(got, StartsWith("after the pause"));
  EXPECT_EQ(writer.Close(absl::Seconds(5)).lines, 0);
}

TEST(OutputWriter, TerminalThatStaysStopped_HoldsUpNobody) {
  const Terminal terminal;
  OutputWriter writer({.out_fd = terminal.writer(), .err_fd = terminal.writer()});
  ASSERT_EQ(tcflow(terminal.writer(), TCOOFF), 0);
  writer.Write(To::kErr, "one\ntwo\n");
  const SteadyTime begin = Clock::Real().SteadyNow();
  const OutputWriter::Loss loss = writer.Close(absl::Milliseconds(100));
  EXPECT_LT(Clock::Real().SteadyNow() - begin, kBound);
  EXPECT_EQ(loss.lines, 2);
  EXPECT_THAT(loss.why, StartsWith("standard error: "));
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
  writer.Write(To::kErr, "marker\n");  // in order: the others have been tried
  const std::string marker = ErrorLine();
  Lift();
  EXPECT_EQ(marker, "marker");
  writer.Write(To::kOut, "there is room again\n");
  EXPECT_EQ(ErrorLine(),
            "dsrun: 7 lines of standard output were lost before this one: File too large");
  EXPECT_EQ(writer.Close(absl::Seconds(5)).lines, 7);
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
