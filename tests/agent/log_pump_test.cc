#include "agent/log_pump.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

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
        &clock_);
    pipe_ = *pump_->Open(Slot(0), Rank(3), path_);
  }
  void Write(const std::string& text) {
    ASSERT_EQ(write(pipe_.write_fd, text.data(), text.size()), static_cast<ssize_t>(text.size()));
  }
  // Ends the process and returns its last lines.
  std::vector<std::string> Finish() {
    close(pipe_.write_fd);
    std::optional<std::vector<std::string>> last;
    pump_->Finish(pipe_.id, [&](std::vector<std::string> lines) {
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
    std::ostringstream content;
    content << std::ifstream(path_).rdbuf();
    return content.str();
  }

  // Until the pump has done what there was to do: a second rank's end goes through its thread.
  void Settle() {
    const LogPump::Pipe other = *pump_->Open(Slot(1), Rank(4), path_ + ".other");
    close(other.write_fd);
    bool passed = false;
    pump_->Finish(other.id, [&](std::vector<std::string>) {
      MutexLock lock(mu_);
      passed = true;
      changed_.NotifyAll();
    });
    MutexLock lock(mu_);
    while (!passed) changed_.Wait(mu_);
  }
  void Pass(absl::Duration duration) {
    Settle();
    clock_.Advance(duration);
    Settle();
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
  EXPECT_THAT(Finish(), ::testing::ElementsAre(std::string(LogPump::kMaxLineBytes, 'y'), "z"));
}

TEST_F(LogPumpTest, EndlessLine_IsCutInPieces) {
  const std::string line(3 * LogPump::kMaxLineBytes + 5, 'y');
  Write(line);
  const std::vector<std::string> last = Finish();
  ASSERT_EQ(last.size(), 4u);
  EXPECT_EQ(last[0].size(), LogPump::kMaxLineBytes);
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

TEST_F(LogPumpTest, SuccessorThatHoldsThePipe_DoesNotHoldUpTheReport) {
  const int kept = dup(pipe_.write_fd);
  Write("last words\n");
  EXPECT_THAT(Finish(), ::testing::ElementsAre("last words"));
  close(kept);
}

}  // namespace
}  // namespace dsrun::agent
