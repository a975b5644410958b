// The log on a standard error that nobody reads.

#include "common/base/logging.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>

namespace dsrun {
namespace {

using ::testing::HasSubstr;

bool AwaitByte(int fd) {
  pollfd ready{.fd = fd, .events = POLLIN, .revents = 0};
  char byte = 0;
  return poll(&ready, 1, 20'000) == 1 && read(fd, &byte, 1) == 1;
}

// In a process of its own, for logging begins once: it logs a hundred lines into a full pipe, says
// that it has come that far, and logs one more when it is told to.
TEST(Logging, FullPipe_HoldsUpNobody_AndTheLossIsSaid) {
  int log[2], from[2], to[2];
  ASSERT_EQ(pipe2(log, O_CLOEXEC), 0);
  ASSERT_EQ(pipe2(from, O_CLOEXEC), 0);
  ASSERT_EQ(pipe2(to, O_CLOEXEC), 0);
  fcntl(log[1], F_SETPIPE_SZ, 4096);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    dup2(log[1], STDERR_FILENO);
    InitLogging("test", "who");
    for (int i = 0; i < 100; ++i) LOG(WARNING) << "line " << i << ' ' << std::string(200, 'x');
    (void)!write(from[1], "r", 1);
    if (!AwaitByte(to[0])) _exit(2);
    LOG(WARNING) << "heard again";
    _exit(0);
  }
  close(log[1]);
  const bool went_on = AwaitByte(from[0]);
  EXPECT_TRUE(went_on) << "it waits for its log";
  if (!went_on) kill(child, SIGKILL);
  fcntl(log[0], F_SETFL, O_NONBLOCK);
  std::string text(1 << 16, '\0');
  const ssize_t first = read(log[0], text.data(), text.size());
  ASSERT_GT(first, 0);
  text.resize(static_cast<size_t>(first));
  EXPECT_THAT(text, HasSubstr("[who] line 0 xxx"));
  ASSERT_EQ(write(to[1], "g", 1), 1);
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  std::string rest(1 << 16, '\0');
  const ssize_t second = read(log[0], rest.data(), rest.size());
  ASSERT_GT(second, 0);
  rest.resize(static_cast<size_t>(second));
  EXPECT_THAT(rest, HasSubstr("[who] left out of this log: "));
  EXPECT_THAT(rest, HasSubstr(" lines (whoever reads standard error took nothing)\n"));
  EXPECT_THAT(rest, HasSubstr("[who] heard again\n"));
  for (const int fd : {log[0], from[0], from[1], to[0], to[1]}) close(fd);
}

}  // namespace
}  // namespace dsrun
