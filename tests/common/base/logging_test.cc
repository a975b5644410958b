// The log on a standard error that takes nothing, and what is said right before an end.

#include "common/base/logging.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <new>
#include <stdexcept>
#include <string>

#include "common/base/clock.h"
#include "common/base/limits.h"
#include "common/base/thread.h"

namespace dsrun {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr int kPipeBytes = 4096;

bool AwaitByte(int fd) {
  pollfd ready{.fd = fd, .events = POLLIN, .revents = 0};
  char byte = 0;
  return poll(&ready, 1, 20'000) == 1 && read(fd, &byte, 1) == 1;
}

// A process of its own, for logging begins once, whose standard error is a small pipe.
class LoggingProcess {
 public:
  // `from` and `to` are its ends of two pipes, on which it speaks with the test.
  using Body = std::function<void(int from, int to)>;

  explicit LoggingProcess(const Body& body) {
    for (int* const ends : {log_, from_, to_}) EXPECT_EQ(pipe2(ends, O_CLOEXEC), 0);
    fcntl(log_[1], F_SETPIPE_SZ, kPipeBytes);
    pid_ = fork();
    if (pid_ == 0) {
      dup2(log_[1], STDERR_FILENO);
      signal(SIGSEGV, SIG_DFL);  // a sanitizer would turn it into an exit code
      InitLogging("test", "who");
      body(from_[1], to_[0]);
      exit(0);
    }
    close(log_[1]);
  }
  ~LoggingProcess() {
    if (pid_ > 0) kill(pid_, SIGKILL);
    if (pid_ > 0) waitpid(pid_, nullptr, 0);
    for (const int fd : {log_[0], from_[0], from_[1], to_[0], to_[1]}) close(fd);
  }

  bool AwaitIt() const { return AwaitByte(from_[0]); }
  void Tell() const { EXPECT_EQ(write(to_[1], "g", 1), 1); }
  // Until the log has this; what there is at the deadline.
  std::string ReadLogUntil(const std::string& end) const {
    std::string text;
    pollfd ready{.fd = log_[0], .events = POLLIN, .revents = 0};
    while (text.find(end) == std::string::npos && poll(&ready, 1, 20'000) == 1) {
      char bytes[4096];
      const ssize_t got = read(log_[0], bytes, sizeof(bytes));
      if (got <= 0) break;
      text.append(bytes, static_cast<size_t>(got));
    }
    return text;
  }
  // As wait tells it.
  int AwaitEnd() {
    int status = -1;
    EXPECT_EQ(waitpid(pid_, &status, 0), pid_);
    pid_ = 0;
    return status;
  }

 private:
  int log_[2], from_[2], to_[2];
  pid_t pid_ = 0;
};

void LogLines(int count, const std::string& more) {
  for (int i = 0; i < count; ++i) LOG(WARNING) << "line " << i << ' ' << more;
}

// More than the pipe holds, and less than the queue.
TEST(Logging, FullPipe_HoldsUpNobody_AndAllIsThereWhenItIsRead) {
  LoggingProcess process([](int from, int) {
    LogLines(100, std::string(200, 'x'));
    (void)!write(from, "r", 1);
  });
  ASSERT_TRUE(process.AwaitIt()) << "it waits for its log";
  const std::string text = process.ReadLogUntil("[who] line 99 ");
  for (const char* line : {"[who] line 0 xxx", "[who] line 50 xxx", "[who] line 99 xxx"}) {
    EXPECT_THAT(text, HasSubstr(line));
  }
  EXPECT_THAT(text, Not(HasSubstr("left out")));
  EXPECT_EQ(process.AwaitEnd(), 0);
}

TEST(Logging, MoreThanTheQueueHolds_IsCountedAndSaid) {
  LoggingProcess process([](int from, int to) {
    LogLines(300, std::string(8'000, 'x'));
    (void)!write(from, "r", 1);
    AwaitByte(to);
    LOG(WARNING) << "heard again";
  });
  ASSERT_TRUE(process.AwaitIt()) << "it waits for its log";
  process.ReadLogUntil("[who] line 100 ");  // there is room
  process.Tell();
  const std::string rest = process.ReadLogUntil("[who] heard again\n");
  EXPECT_THAT(rest, HasSubstr("\n[who] left out of this log: 1"));
  EXPECT_THAT(rest, HasSubstr(" lines (whoever reads standard error took nothing)\n"));
  EXPECT_THAT(rest, HasSubstr("[who] heard again\n"));
  EXPECT_EQ(process.AwaitEnd(), 0);
}

TEST(Logging, EndOfAProcessWhoseLogNobodyReads_HasABound) {
  LoggingProcess process([](int, int) { LogLines(100, std::string(200, 'x')); });
  const SteadyTime begin = Clock::Real().SteadyNow();
  EXPECT_EQ(process.AwaitEnd(), 0);
  EXPECT_LT(Clock::Real().SteadyNow() - begin, absl::Seconds(10));
}

// What glog writes after the message, its stack, would wait for ever.
TEST(Logging, FailedCheckOnAFullPipe_EndsTheProcessAllTheSame) {
  LoggingProcess process([](int, int) {
    LogLines(100, std::string(200, 'x'));
    CHECK(false) << "the cause";
  });
  const int status = process.AwaitEnd();
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT) << status;
}

TEST(Logging, FailedCheck_IsTheLastThingThatIsSaid) {
  LoggingProcess process([](int, int) {
    LOG(WARNING) << "before";
    CHECK(false) << "the cause";
  });
  const int status = process.AwaitEnd();
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT) << status;
  const std::string text = process.ReadLogUntil("the cause");
  EXPECT_THAT(text, HasSubstr("[who] before\n"));
  EXPECT_THAT(text, HasSubstr("[who] Check failed: false the cause"));
}

TEST(Logging, WhatIsSaidBeforeAFaultOrAnEndAtOnce_IsThere) {
  for (const int fault : {SIGSEGV, SIGABRT, 0}) {
    LoggingProcess process([fault](int, int) {
      LogLines(10, "");
      LOG(WARNING) << "last words";
      if (fault == 0) FlushLog();
      if (fault == 0) _exit(0);
      raise(fault);
    });
    const int status = process.AwaitEnd();
    EXPECT_EQ(WIFSIGNALED(status) ? WTERMSIG(status) : 0, fault);
    EXPECT_THAT(process.ReadLogUntil("last words\n"), HasSubstr("[who] last words\n"));
  }
}

// More than the pipe holds: it is on its way while the process ends.
TEST(Logging, WhatIsSaidBeforeAnEndAtALimitOrByAnException_IsThere) {
  for (const bool at_limit : {true, false}) {
    LoggingProcess process([at_limit](int, int) {
      PrepareForLimits("test");
      LogLines(40, std::string(200, 'x'));
      LOG(WARNING) << "last words";
      if (at_limit) std::get_new_handler()();
      StartThreadOrEnd("a test", [] { throw std::runtime_error("the cause"); }).join();
    });
    const std::string end = at_limit ? "out of memory" : "the cause";
    EXPECT_THAT(process.ReadLogUntil(end), HasSubstr("[who] last words\n"));
    const int status = process.AwaitEnd();
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == kExitLimit) << status;
  }
}

// It would end the process, where the others have blocked it to take it by a descriptor.
TEST(Logging, ItsThread_TakesNoSignals) {
  LoggingProcess process([](int, int) {
    sigset_t term;
    sigemptyset(&term);
    sigaddset(&term, SIGTERM);
    sigprocmask(SIG_BLOCK, &term, nullptr);
    LOG(WARNING) << "the thread is there";
    kill(getpid(), SIGTERM);
    int taken = 0;
    sigwait(&term, &taken);
    _exit(taken == SIGTERM ? 0 : 1);
  });
  EXPECT_EQ(process.AwaitEnd(), 0);
}

}  // namespace
}  // namespace dsrun
