// Limits, met on purpose: each is named with its value, and threads report what libraries throw.

#include "common/base/limits.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "common/base/file_system.h"
#include "common/base/process_spawn.h"
#include "common/base/thread.h"

namespace dsrun {
namespace {

using ::testing::ExitedWithCode;
using ::testing::HasSubstr;

void Limit(int resource, rlim_t value) {
  rlimit now;
  getrlimit(resource, &now);
  const rlimit wanted = {value, now.rlim_max};
  if (setrlimit(resource, &wanted) != 0) abort();
}

class LimitsDeathTest : public ::testing::Test {
 protected:
  LimitsDeathTest() { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
};

TEST(Limits, WordsNameTheLimitItsValueAndTheWayOut) {
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit lower = {77, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &lower), 0);
  EXPECT_EQ(LimitWords(EMFILE),
            "the limit of a process's descriptors (RLIMIT_NOFILE) is 77; raise it with ulimit -n");
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_EQ(LimitWords(ENOENT), "");
  EXPECT_EQ(BecauseOfLimit(ENOENT), "");
  EXPECT_THAT(BecauseOfLimit(EMFILE), HasSubstr("; the limit of"));
}

TEST(Limits, NeedsThatCanBeHad_AreOk) {
  EXPECT_EQ(CheckLimits({.threads = 40, .descriptors = 10, .what = "this test"}), absl::OkStatus());
}

TEST(Limits, TooFewDescriptors_AreRefusedWithTheNumbers) {
  const absl::Status status =
      CheckLimits({.threads = 0, .descriptors = 100'000'000, .what = "this test"});
  rlimit now;
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &now), 0);
  if (now.rlim_cur == RLIM_INFINITY) GTEST_SKIP() << "descriptors are not limited here";
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("this test: expected room for 100000000 more descriptors, got "));
  EXPECT_THAT(std::string(status.message()), HasSubstr("RLIMIT_NOFILE"));
}

TEST_F(LimitsDeathTest, ClosedStandardDescriptors_AreFilled) {
  EXPECT_EXIT(
      {
        for (const int fd : {0, 1, 2}) close(fd);
        PrepareForLimits("limits_test");
        int ends[2];
        const bool apart = pipe(ends) == 0 && ends[0] > 2 && ends[1] > 2;
        // Nobody reads it, and nobody is told otherwise.
        _exit(apart && write(1, "x", 1) < 0 && write(2, "x", 1) == 1 ? 0 : 1);
      },
      ::testing::ExitedWithCode(0), "");
}

// What a child of ours sees with `ulimit -Sn`, said by its exit code: 0 if it is `wanted`.
int ChildFinds(rlim_t wanted) {
  ProcessSpec spec;
  spec.executable = "/bin/sh";
  spec.argv = {"sh", "-c", absl::StrCat("test \"$(ulimit -Sn)\" = ", wanted)};
  const absl::StatusOr<SpawnedProcess> child = SpawnProcess(spec);
  if (!child.ok()) return -1;
  const ProcessEnd end = ReapProcess(child->pid);
  close(child->pidfd);
  return end.exit_code;
}

// 77 stands for the 1024 that most programs are started with.
TEST_F(LimitsDeathTest, Descriptors_AreRaisedForUsAndGivenBackToChildren) {
  EXPECT_EXIT(
      {
        Limit(RLIMIT_NOFILE, 77);
        PrepareForLimits("this test");
        rlimit now;
        getrlimit(RLIMIT_NOFILE, &now);
        if (now.rlim_cur != now.rlim_max || now.rlim_max < 200) exit(1);
        // More than it was given, and the child is none the worse for it.
        for (int i = 0; i < 150; ++i) {
          if (open("/dev/null", O_RDONLY | O_CLOEXEC) < 0) exit(2);
        }
        if (CheckLimits({.threads = 1, .descriptors = 40, .what = "this test"}) !=
            absl::OkStatus()) {
          exit(3);
        }
        exit(ChildFinds(77) == 0 ? 0 : 4);
      },
      ExitedWithCode(0), "");
}

TEST_F(LimitsDeathTest, FileThatIsTooLarge_IsAnErrorAndNoSignal) {
  EXPECT_EXIT(
      {
        PrepareForLimits("this test");
        Limit(RLIMIT_FSIZE, 4096);
        char path[] = "/tmp/limits-XXXXXX";
        close(mkstemp(path));
        auto file = FileSystem::Real().CreateOrTruncate(path);
        const std::vector<std::byte> bytes(10'000);
        const absl::Status status = (*file)->Append(bytes);
        unlink(path);
        exit(status.code() == absl::StatusCode::kResourceExhausted ? 7 : 8);
      },
      ExitedWithCode(7), "");
}

TEST_F(LimitsDeathTest, NoMemory_EndsWithTheLimitsName) {
  EXPECT_EXIT(
      {
        PrepareForLimits("this test");
        Limit(RLIMIT_AS, 64 << 20);
        while (true) {
          char* const volatile memory = new char[1 << 20];  // as the compiler must not leave out
          memory[0] = 1;
        }
      },
      ExitedWithCode(kExitLimit), "this test: out of memory: .*RLIMIT_AS\\) is 65536 KiB");
}

TEST_F(LimitsDeathTest, ThreadThatCannotBeStarted_IsAnErrorThatNamesTheLimit) {
  EXPECT_EXIT(
      {
        PrepareForLimits("this test");
        Limit(RLIMIT_AS, 64 << 20);
        std::vector<std::thread> threads;
        while (true) {
          absl::StatusOr<std::thread> thread = StartThread("a test", [] { pause(); });
          if (thread.ok()) {
            threads.push_back(*std::move(thread));
            continue;
          }
          const std::string text(thread.status().message());
          (void)!write(STDERR_FILENO, text.data(), text.size());
          _exit(absl::IsResourceExhausted(thread.status()) ? 7 : 8);
        }
      },
      ExitedWithCode(7), "cannot start a thread for a test: .*RLIMIT_AS");
}

TEST_F(LimitsDeathTest, ExceptionInAThread_EndsWithItsNameAndTheThreads) {
  EXPECT_EXIT(
      { StartThreadOrEnd("a test", [] { throw std::runtime_error("a library's words"); }).join(); },
      ExitedWithCode(kExitLimit), "exception in the thread of a test: a library's words");
}

TEST_F(LimitsDeathTest, AbortWhileALimitIsMet_NamesIt) {
  EXPECT_EXIT(
      {
        PrepareForLimits("this test");
        Limit(RLIMIT_NOFILE, 3);
        abort();
      },
      ExitedWithCode(kExitLimit),
      "this test: a library gave up at a limit: .*RLIMIT_NOFILE\\) is 3");
}

TEST_F(LimitsDeathTest, AbortWithoutALimit_IsAnAbort) {
  EXPECT_EXIT(
      {
        PrepareForLimits("this test");
        abort();
      },
      ::testing::KilledBySignal(SIGABRT), "");
}

TEST_F(LimitsDeathTest, StackThatIsTooSmallForMain_IsRefused) {
  EXPECT_EXIT(
      {
        Limit(RLIMIT_STACK, 256 << 10);
        PrepareForLimits("this test");
      },
      ExitedWithCode(kExitLimit), "expected a stack of at least 512 KiB: .*RLIMIT_STACK");
}

}  // namespace
}  // namespace dsrun
