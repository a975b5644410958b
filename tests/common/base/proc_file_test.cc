#include "common/base/proc_file.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>

#include "absl/strings/str_cat.h"

namespace dsrun {
namespace {

TEST(ProcFile, Content_IsWhole) {
  const std::string status = ReadProcFile("/proc/self/status");
  EXPECT_NE(status.find(absl::StrCat("Pid:\t", getpid(), "\n")), std::string::npos) << status;
  EXPECT_EQ(ReadProcFile("/proc/self/no such file"), "");
}

// As of a process that ends after the open: the open succeeds and the read fails.
TEST(ProcFile, FileThatOpensAndCannotBeRead_IsEmptyAndThrowsNothing) {
  EXPECT_EQ(ReadProcFile("/proc/self/task"), "");
  EXPECT_EQ(ReadProcFile("/proc/self/mem"), "");
}

TEST(ProcFile, ProcessesThatEndMeanwhile_ThrowNothing) {
  for (int i = 0; i < 200; ++i) {
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) _exit(0);
    const std::string path = absl::StrCat("/proc/", child, "/status");
    while (true) {
      const std::string status = ReadProcFile(path);
      if (status.empty()) break;
      ASSERT_EQ(status.rfind("Name:", 0), 0u) << status;
      waitpid(child, nullptr, WNOHANG);
    }
  }
}

}  // namespace
}  // namespace dsrun
