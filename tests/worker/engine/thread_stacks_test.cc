#include "worker/engine/thread_stacks.h"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <string>
#include <thread>
#include <vector>

#include "common/base/mutex.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace dsrun::worker {

// Outside of an unnamed namespace, and with something to do after the wait, so that they stay
// functions of their own on the stack.
[[gnu::noinline]] int WaitsForARelease(Mutex& mu, CondVar& changed, const bool& released) {
  MutexLock lock(mu);
  while (!released) changed.Wait(mu);
  return released ? 1 : 2;
}

[[gnu::noinline]] int TurnsUntilReleased(const std::atomic<bool>& released) {
  int turns = 0;
  while (!released) ++turns;
  return turns;
}

namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class ThreadStacks : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    EXPECT_THAT(ThreadStack(getpid()), ElementsAre("(this process does not take stacks)"));
    PrepareThreadStacks(program_invocation_name);
  }
};

// A thread that tells its name first.
template <typename Work>
std::thread Start(std::atomic<pid_t>& thread, Work work) {
  std::thread started([&thread, work] {
    thread = ThisThread();
    work();
  });
  while (thread == 0) std::this_thread::yield();
  return started;
}

TEST_F(ThreadStacks, OneThatWaits_IsNamed_AndWaitsOn) {
  Mutex mu;
  CondVar changed;
  bool released = false;
  std::atomic<pid_t> id{0};
  std::atomic<int> result{0};
  std::thread thread = Start(id, [&] { result = WaitsForARelease(mu, changed, released); });
  // It may still be on its way there.
  std::vector<std::string> stack = ThreadStack(id);
  while (!testing::Value(stack, Contains(HasSubstr("WaitsForARelease")))) {
    stack = ThreadStack(id);
  }
  EXPECT_EQ(result, 0);
  {
    MutexLock lock(mu);
    released = true;
    changed.NotifyAll();
  }
  thread.join();
  EXPECT_EQ(result, 1);
}

TEST_F(ThreadStacks, OneThatLoops_IsInterruptedForAMoment) {
  std::atomic<bool> released{false};
  std::atomic<pid_t> id{0};
  std::thread thread = Start(id, [&] { TurnsUntilReleased(released); });
  while (!testing::Value(ThreadStack(id), Contains(HasSubstr("TurnsUntilReleased")))) {
  }
  released = true;
  thread.join();
}

TEST_F(ThreadStacks, TheCallerItself_IsNamed) {
  EXPECT_THAT(ThreadStack(ThisThread()), Contains("main"));
}

TEST_F(ThreadStacks, OneThatHasEnded_IsSaidToHave) {
  std::atomic<pid_t> id{0};
  Start(id, [] {}).join();
  // The kernel may need a moment to forget it.
  while (!testing::Value(ThreadStack(id), ElementsAre("it has ended"))) {
  }
}

#if defined(__x86_64__)
// As products of the library compute: with the stack pointer in a buffer on the heap. Nothing may
// be written below it.
TEST_F(ThreadStacks, OneWhoseStackPointerIsInAHeapBuffer_SpoilsNothingThere) {
  constexpr char kCanary = 0x5A;
  std::vector<char> buffer(256 << 10, kCanary);
  char* const top = buffer.data() + buffer.size() / 2;
  std::atomic<int> released{0};
  std::atomic<bool> inside{false};
  std::atomic<pid_t> id{0};
  std::thread thread = Start(id, [&] {
    inside = true;
    asm volatile(
        "mov %%rsp, %%rbx\n\t"
        "mov %[top], %%rsp\n"
        "1: pause\n\t"
        "cmpl $0, (%[flag])\n\t"
        "je 1b\n\t"
        "mov %%rbx, %%rsp\n\t"
        :
        : [top] "r"(top), [flag] "r"(&released)
        : "rbx", "memory", "cc");
  });
  while (!inside) std::this_thread::yield();
  for (int i = 0; i < 20; ++i) EXPECT_FALSE(ThreadStack(id).empty());
  released = 1;
  thread.join();
  EXPECT_TRUE(std::all_of(buffer.begin(), buffer.end(), [](char byte) { return byte == kCanary; }));
}
#endif

// As a thread would be that sleeps in the kernel without being interruptible.
TEST_F(ThreadStacks, OneThatDoesNotAnswer_IsDescribedByTheKernel) {
  std::atomic<bool> blocked{false}, released{false};
  std::atomic<pid_t> id{0};
  std::thread thread = Start(id, [&] {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, nullptr);
    blocked = true;
    TurnsUntilReleased(released);
  });
  while (!blocked) std::this_thread::yield();
  EXPECT_THAT(ThreadStack(id, absl::Milliseconds(20)),
              ElementsAre(HasSubstr("it does not answer; the kernel says state ")));
  // What was asked of it in vain does not disturb the next answer.
  EXPECT_THAT(ThreadStack(ThisThread()), Contains("main"));
  released = true;
  thread.join();
}

}  // namespace
}  // namespace dsrun::worker
