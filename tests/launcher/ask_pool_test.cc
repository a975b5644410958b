// Questions that block: a bounded number at once, and an end that waits for no more than those.

#include "launcher/shell/ask_pool.h"

#include <atomic>
#include <latch>
#include <thread>

#include "absl/status/status.h"
#include "common/base/mutex.h"
#include "gtest/gtest.h"

namespace dsrun::launcher {
namespace {

// A question that is answered when the test says so.
class Hanging {
 public:
  void Ask() {
    MutexLock lock(mu_);
    asked_ = true;
    changed_.NotifyAll();
    while (!may_end_) changed_.Wait(mu_);
  }
  void AwaitAsked() {
    MutexLock lock(mu_);
    while (!asked_) changed_.Wait(mu_);
  }
  void Answer() {
    MutexLock lock(mu_);
    may_end_ = true;
    changed_.NotifyAll();
  }

 private:
  Mutex mu_;
  CondVar changed_;
  bool asked_ = false;
  bool may_end_ = false;
};

TEST(AskPool, Stop_WaitsForWhatIsBeingAsked_AndDropsWhatWaits) {
  Hanging hanging;
  std::atomic<int> others = 0;
  AskPool pool(1);
  ASSERT_EQ(pool.Ask([&] { hanging.Ask(); }), absl::OkStatus());
  for (int i = 0; i < 50; ++i) ASSERT_EQ(pool.Ask([&] { ++others; }), absl::OkStatus());
  hanging.AwaitAsked();
  std::thread end([&] { pool.Stop(); });
  // From the moment on in which it stops, nobody may ask.
  absl::Status late;
  while ((late = pool.Ask([&] { ++others; })).ok()) std::this_thread::yield();
  EXPECT_EQ(late.code(), absl::StatusCode::kCancelled);
  hanging.Answer();
  end.join();
  EXPECT_EQ(others, 0);
}

TEST(AskPool, OneThatHangs_HoldsUpOneThread) {
  Hanging hanging;
  std::latch others(50);
  AskPool pool(2);
  ASSERT_EQ(pool.Ask([&] { hanging.Ask(); }), absl::OkStatus());
  hanging.AwaitAsked();
  for (int i = 0; i < 50; ++i) ASSERT_EQ(pool.Ask([&] { others.count_down(); }), absl::OkStatus());
  others.wait();
  hanging.Answer();
}

}  // namespace
}  // namespace dsrun::launcher
