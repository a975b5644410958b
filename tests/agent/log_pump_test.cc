#include "agent/log_pump.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "agent/log_file.h"
#include "common/base/clock.h"
#include "common/base/mutex.h"
#include "tests/fakes/fake_clock.h"

namespace dsrun::agent {
namespace {

class LogPumpTest : public ::testing::Test {
 protected:
  LogPumpTest() {
    path_ = ::testing::TempDir() + "/logsXXXXXX";
    EXPECT_NE(mkdtemp(path_.data()), nullptr);
    path_ += "/a/rank.log";
    pump_ = *LogPump::Create(
        [this](LogLines lines) {
          if (!accept_) return false;
          MutexLock lock(mu_);
          forwarded_ += lines.text;
          dropped_ += lines.dropped_lines;
          return true;
        },
        &clock_,
        [this](Slot slot, const std::string& text) {
          MutexLock lock(mu_);
          troubles_.push_back(absl::StrCat(slot.value(), ": ", text));
          changed_.NotifyAll();
        });
    pipe_ = *pump_->Open(Slot(0), Rank(3), path_);
  }
  void Write(const std::string& text) {
    ASSERT_EQ(write(pipe_.write_fd, text.data(), text.size()), static_cast<ssize_t>(text.size()));
  }
  // Ends the process and returns its last lines.
  std::vector<std::string> Finish() { return Finish(pipe_); }
  std::vector<std::string> Finish(const LogPump::Pipe& pipe) {
    close(pipe.write_fd);
    std::optional<std::vector<std::string>> last;
    pump_->Finish(pipe.id, [&](std::vector<std::string> lines) {
      MutexLock lock(mu_);
      last = std::move(lines);
      changed_.NotifyAll();
    });
    const absl::Duration deadline = Clock::Real().SteadyNow() + absl::Seconds(20);
    MutexLock lock(mu_);
    while (!last.has_value() && Clock::Real().SteadyNow() < deadline) {
      changed_.WaitFor(mu_, absl::Seconds(20));
    }
    EXPECT_TRUE(last.has_value());
    return last.value_or(std::vector<std::string>());
  }
  std::string File() const {
    EXPECT_THAT(pump_->Flush(absl::Seconds(20)), ::testing::IsEmpty());
    std::ostringstream content;
    content << std::ifstream(path_).rdbuf();
    return content.str();
  }

  // Until the pump has done what there was to do: a second rank's end goes through its thread. That
  // rank's file is closed by then: it must be in no call that takes long by clock_.
  void Settle() {
    const LogPump::Pipe other = *pump_->Open(Slot(1), Rank(4), path_ + ".other");
    close(other.write_fd);
    bool passed = false;
    pump_->Finish(other.id, [&](std::vector<std::string>) {
      MutexLock lock(mu_);
      passed = true;
      changed_.NotifyAll();
    });
    {
      MutexLock lock(mu_);
      while (!passed) changed_.Wait(mu_);
    }
    other.file->Close();
    EXPECT_EQ(other.file->AwaitWritten(absl::Seconds(20)), 0u);
    EXPECT_TRUE(other.file->done());
  }
  void Pass(absl::Duration duration) {
    Settle();
    clock_.Advance(duration);
    Settle();
  }
  // A rank whose log is on a disk that does not answer: a named pipe, which nobody reads yet.
  LogPump::Pipe OpenHung(int slot) {
    EXPECT_TRUE(pipe_.file->AwaitOpen(absl::Seconds(20)).ok());  // so the folder is there
    hung_path_ = path_ + ".hung";
    EXPECT_EQ(mkfifo(hung_path_.c_str(), 0600), 0);
    return *pump_->Open(Slot(slot), Rank(slot), hung_path_);
  }
  // It answers: what was written so far, until the pump has closed it.
  std::string ReadHung() const {
    std::ostringstream content;
    content << std::ifstream(hung_path_).rdbuf();
    return content.str();
  }
  std::vector<std::string> AwaitTroubles(size_t count) {
    const absl::Duration deadline = Clock::Real().SteadyNow() + absl::Seconds(20);
    MutexLock lock(mu_);
    while (troubles_.size() < count && Clock::Real().SteadyNow() < deadline) {
      changed_.WaitFor(mu_, absl::Seconds(20));
    }
    return troubles_;
  }
  std::string Forwarded() {
    MutexLock lock(mu_);
    return std::exchange(forwarded_, {});
  }

  FakeClock clock_;
  std::string path_;
  std::atomic<bool> accept_{true};
  Mutex mu_;
  CondVar changed_;
  std::string forwarded_;
  int64_t dropped_ = 0;
  std::vector<std::string> troubles_;
  std::string hung_path_;
  std::unique_ptr<LogPump> pump_;
  LogPump::Pipe pipe_;
};

TEST_F(LogPumpTest, EveryByteIsInTheFile_WholeLinesAreForwarded_TheLastOneIsClosed) {
  Write("one\ntw");
  Write("o\nthree");
  EXPECT_THAT(Finish(), ::testing::ElementsAre("one", "two", "three"));
  EXPECT_EQ(File(), "one\ntwo\nthree");
  EXPECT_EQ(forwarded_, "one\ntwo\nthree\n");
}

TEST_F(LogPumpTest, ListenerThatCannotKeepUp_CostsLinesOnTheConsoleOnly) {
  accept_ = false;
  std::string all;
  // Far more than a pipe holds: the writer would hang here if the pump waited for its listener.
  for (int i = 0; i < 5000; ++i)
    all += "line " + std::to_string(i) + " " + std::string(90, 'x') + "\n";
  Write(all);
  EXPECT_EQ(Finish().size(), LogPump::kLastLines);
  EXPECT_EQ(File(), all);
  EXPECT_EQ(forwarded_, "");
}

TEST_F(LogPumpTest, DroppedLinesAreCounted_AndTheCountArrives) {
  accept_ = false;
  Write("a\nb\n");
  Settle();
  accept_ = true;
  Write("c\n");
  Finish();
  EXPECT_EQ(forwarded_, "c\n");
  EXPECT_EQ(dropped_, 2);
}

TEST_F(LogPumpTest, LineOfTheLargestSize_IsOneLine) {
  Write(std::string(LogPump::kMaxLineBytes, 'y') + "\nz\n");
  EXPECT_EQ(Finish().size(), 2u);
  EXPECT_EQ(Forwarded(), std::string(LogPump::kMaxLineBytes, 'y') + "\nz\n");
}

TEST_F(LogPumpTest, LongLastLine_IsCutWithAMark_BetweenTwoCharacters) {
  const std::string start(LogPump::kLastLineBytes - 1, 'y');
  Write(start + "\xc3\xa4" + std::string(100, 'z') + "\n");
  EXPECT_THAT(Finish(), ::testing::ElementsAre(start + " [... 102 bytes more]"));
}

TEST_F(LogPumpTest, LastLines_AreBoundedTogether) {
  for (int i = 0; i < 40; ++i) Write(std::string(LogPump::kMaxLineBytes, 'a' + i % 20) + "\n");
  size_t bytes = 0;
  const std::vector<std::string> last = Finish();
  for (const std::string& line : last) bytes += line.size();
  EXPECT_LE(bytes, LogPump::kLastBytes);
  EXPECT_GE(bytes, LogPump::kLastBytes - 2 * LogPump::kLastLineBytes);
  EXPECT_EQ(last.back()[0], 'a' + 39 % 20);
}

TEST_F(LogPumpTest, EndlessLine_IsCutInPieces) {
  const std::string line(3 * LogPump::kMaxLineBytes + 5, 'y');
  Write(line);
  const std::vector<std::string> last = Finish();
  ASSERT_EQ(last.size(), 4u);
  EXPECT_EQ(last[3].size(), 5u);
  EXPECT_EQ(File(), line);
}

TEST_F(LogPumpTest, PartOfALine_IsForwardedWhenItHasWaited_AndItsRestAfterIt) {
  Write("one\nname: ");
  Pass(LogPump::kPartialAfter - absl::Milliseconds(1));
  EXPECT_EQ(Forwarded(), "one\n");
  Pass(absl::Milliseconds(1));
  EXPECT_EQ(Forwarded(), "name: ");
  Pass(absl::Hours(1));
  EXPECT_EQ(Forwarded(), "");
  Write("x");
  Pass(LogPump::kPartialAfter);
  EXPECT_EQ(Forwarded(), "x");
  Write("y\nlast");
  EXPECT_THAT(Finish(), ::testing::ElementsAre("one", "name: xy", "last"));
  EXPECT_EQ(Forwarded(), "y\nlast\n");
  EXPECT_EQ(File(), "one\nname: xy\nlast");
}

TEST_F(LogPumpTest, CarriageReturn_StartsTheLineAnew_AndOnlyItsNewestStateIsForwarded) {
  for (int percent = 0; percent <= 50; ++percent) Write(std::to_string(percent) + "%\r");
  Pass(LogPump::kPartialAfter);
  EXPECT_EQ(Forwarded(), "50%");
  Write("51%\r");
  Write("\r52%");
  Pass(LogPump::kPartialAfter);
  EXPECT_EQ(Forwarded(), "\r52%");
  Write(" of it\r\ndone\r\n");
  Settle();
  EXPECT_EQ(Forwarded(), " of it\ndone\n");
  Write("99%\r100%\n");
  EXPECT_THAT(Finish(), ::testing::ElementsAre("52% of it", "done", "100%"));
  EXPECT_EQ(Forwarded(), "100%\n");
  EXPECT_THAT(File(), ::testing::HasSubstr("0%\r1%\r2%\r"));  // every byte
  EXPECT_THAT(File(), ::testing::EndsWith("52% of it\r\ndone\r\n99%\r100%\n"));
}

TEST_F(LogPumpTest, PartOfALineThatIsRefused_IsNotLost) {
  accept_ = false;
  Write("half");
  Pass(LogPump::kPartialAfter);
  accept_ = true;
  Pass(LogPump::kPartialAfter);
  EXPECT_EQ(Forwarded(), "half");
  Write(" and half\n");
  Finish();
  EXPECT_EQ(Forwarded(), " and half\n");
  EXPECT_EQ(dropped_, 0);
}

TEST_F(LogPumpTest, FileThatHangs_HoldsUpNeitherItsRanksEndNorAnotherFile) {
  const LogPump::Pipe hung = OpenHung(1);
  EXPECT_TRUE(absl::IsDeadlineExceeded(hung.file->AwaitOpen(absl::ZeroDuration())));
  ASSERT_EQ(write(hung.write_fd, "last words\n", 11), 11);
  EXPECT_THAT(Finish(hung), ::testing::ElementsAre("last words"));
  Write("of the other rank\n");
  EXPECT_THAT(Finish(), ::testing::ElementsAre("of the other rank"));
  EXPECT_THAT(pump_->Flush(absl::ZeroDuration()),
              ::testing::Contains("the log " + hung_path_ +
                                  " lacks 11 bytes that its disk or file server has not taken; "
                                  "look there"));
  EXPECT_EQ(ReadHung(), "last words\n");
  EXPECT_EQ(File(), "of the other rank\n");
}

TEST_F(LogPumpTest, FileThatHangs_HoldsUpItsOwnRankWhenMuchWaits_AndLosesNothing) {
  const LogPump::Pipe hung = OpenHung(1);
  fcntl(hung.write_fd, F_SETFL, O_NONBLOCK);
  std::string written;
  for (int refused = 0; refused < 3 && written.size() < 4 * LogFile::kRoomBytes;) {
    const std::string line = "line " + std::to_string(written.size()) + "\n";
    if (write(hung.write_fd, line.data(), line.size()) == static_cast<ssize_t>(line.size())) {
      written += line;
      refused = 0;
    } else {
      Settle();  // and another rank's output passes
      ++refused;
    }
  }
  EXPECT_GE(written.size(), LogFile::kRoomBytes);
  EXPECT_LT(written.size(), 2 * LogFile::kRoomBytes);
  const std::vector<std::string> last = Finish(hung);
  ASSERT_EQ(last.size(), LogPump::kLastLines);
  EXPECT_THAT(written, ::testing::EndsWith("\n" + last.back() + "\n"));
  EXPECT_EQ(ReadHung(), written);
  Finish();
}

TEST_F(LogPumpTest, FileThatHangs_IsToldOnce_AndThatItGoesOn) {
  const LogPump::Pipe hung = OpenHung(1);
  Pass(LogPump::kStalledAfter - absl::Milliseconds(1));
  EXPECT_THAT(AwaitTroubles(0), ::testing::IsEmpty());
  Pass(absl::Milliseconds(1));
  Pass(absl::Hours(1));
  EXPECT_THAT(AwaitTroubles(1),
              ::testing::ElementsAre(::testing::StartsWith(
                  "1: the log " + hung_path_ + " has taken nothing for 5s: its disk or file")));
  const int reader = open(hung_path_.c_str(), O_RDONLY);
  EXPECT_THAT(AwaitTroubles(2),
              ::testing::Contains(::testing::HasSubstr("the logs of this node are written again")));
  // The next file of such a disk is not waited for; that of a disk that answers is.
  EXPECT_EQ(hung.open_within, LogPump::kOpenWithin);
  close(reader);
  Finish(hung);
  Finish();
}

TEST_F(LogPumpTest, FileOfADiskThatHangs_IsNotWaitedForAgain) {
  const LogPump::Pipe hung = OpenHung(1);
  clock_.Advance(LogPump::kOpenWithin);
  const LogPump::Pipe next = *pump_->Open(Slot(2), Rank(2), path_ + ".next");
  EXPECT_EQ(next.open_within, absl::ZeroDuration());
  Finish(next);
  Finish(hung);
  EXPECT_EQ(ReadHung(), "");
  Finish();
}

TEST_F(LogPumpTest, FileThatCannotBeWritten_IsTold_AndTheRestFlows) {
  const LogPump::Pipe full = *pump_->Open(Slot(1), Rank(1), "/dev/full");
  EXPECT_TRUE(full.file->AwaitOpen(absl::Seconds(20)).ok());
  ASSERT_EQ(write(full.write_fd, "x\n", 2), 2);
  EXPECT_THAT(AwaitTroubles(1), ::testing::ElementsAre(::testing::AllOf(
                                    ::testing::StartsWith("1: cannot write the log /dev/full: No "
                                                          "space left on device"),
                                    ::testing::HasSubstr("goes to the console only"))));
  EXPECT_THAT(Finish(full), ::testing::ElementsAre("x"));
  Finish();
}

TEST_F(LogPumpTest, FileThatCannotBeOpened_IsToldToWhoeverWaitsForIt) {
  Write("x");  // a file by now
  Settle();
  EXPECT_TRUE(pipe_.file->AwaitOpen(absl::Seconds(20)).ok());
  const LogPump::Pipe pipe = *pump_->Open(Slot(1), Rank(1), path_ + "/below-a-file");
  const absl::Status status = pipe.file->AwaitOpen(absl::Seconds(20));
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_THAT(std::string(status.message()),
              ::testing::HasSubstr("/below-a-file: Not a directory"));
  Finish(pipe);
  Finish();
  EXPECT_THAT(AwaitTroubles(0), ::testing::IsEmpty());
}

TEST_F(LogPumpTest, SuccessorThatHoldsThePipe_DoesNotHoldUpTheReport) {
  const int kept = dup(pipe_.write_fd);
  Write("last words\n");
  EXPECT_THAT(Finish(), ::testing::ElementsAre("last words"));
  close(kept);
}

}  // namespace
}  // namespace dsrun::agent
