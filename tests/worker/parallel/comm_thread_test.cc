#include "worker/parallel/comm_thread.h"

#include <atomic>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace dsrun::worker {
namespace {

using ::testing::ElementsAre;

TEST(CommThreadTest, RunsTasksInOrder) {
  CommThread thread;
  std::vector<int> ran;  // the thread's until Wait has returned
  for (int i = 0; i < 4; ++i) {
    thread.Add([&ran, i] {
      ran.push_back(i);
      return absl::OkStatus();
    });
  }
  EXPECT_TRUE(thread.Wait().ok());
  EXPECT_THAT(ran, ElementsAre(0, 1, 2, 3));
}

// The second task cannot end before the caller has come back from waiting for the first.
TEST(CommThreadTest, WaitsForNoMoreThanTheTicket) {
  CommThread thread;
  std::atomic<bool> first_ran = false;
  std::atomic<bool> back = false;
  const CommThread::Ticket first = thread.Add([&] {
    first_ran = true;
    return absl::OkStatus();
  });
  thread.Add([&] {
    back.wait(false);
    return absl::OkStatus();
  });
  EXPECT_TRUE(thread.Wait(first).ok());
  EXPECT_TRUE(first_ran);
  back = true;
  back.notify_all();
  EXPECT_TRUE(thread.status().ok());
  EXPECT_TRUE(thread.Wait().ok());
  EXPECT_TRUE(thread.Wait(first).ok()) << "again, for what is done long since";
}

TEST(CommThreadTest, FirstError_DropsLaterTasks) {
  CommThread thread;
  std::atomic<int> ran = 0;
  thread.Add([] { return absl::UnavailableError("rank 1 is gone"); });
  thread.Add([&ran] {
    ++ran;
    return absl::OkStatus();
  });
  EXPECT_EQ(thread.Wait(), absl::UnavailableError("rank 1 is gone"));
  thread.Add([&ran] {
    ++ran;
    return absl::AbortedError("later");
  });
  EXPECT_EQ(thread.Wait(), absl::UnavailableError("rank 1 is gone"));
  EXPECT_EQ(thread.status(), absl::UnavailableError("rank 1 is gone"));
  EXPECT_EQ(ran, 0);
}

TEST(CommThreadTest, DestructorRunsWhatIsOutstanding) {
  std::atomic<int> ran = 0;
  {
    CommThread thread;
    for (int i = 0; i < 3; ++i) {
      thread.Add([&ran] {
        ++ran;
        return absl::OkStatus();
      });
    }
  }
  EXPECT_EQ(ran, 3);
}

}  // namespace
}  // namespace dsrun::worker
