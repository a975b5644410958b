#include "worker/device/cpu/thread_pool.h"

#include <pmmintrin.h>
#include <xmmintrin.h>

#include "common/base/logging.h"
#include "common/base/thread.h"

namespace dsrun::worker {
namespace {

constexpr unsigned kFlushBits = _MM_FLUSH_ZERO_ON | _MM_DENORMALS_ZERO_ON;

// How often a thread looks for work before it sleeps: about 20 microseconds, the cost of being
// woken. Loops of one step follow each other faster than that.
constexpr int kSpins = 1000;

}  // namespace

void SetFlushDenormals() {
  if (!FlushesDenormals()) _mm_setcsr(_mm_getcsr() | kFlushBits);
}

bool FlushesDenormals() { return (_mm_getcsr() & kFlushBits) == kFlushBits; }

ThreadPool::ThreadPool(int threads) : threads_(threads) {
  CHECK_GE(threads, 1);
  for (int thread = 1; thread < threads; ++thread) {
    workers_.push_back(StartThreadOrEnd("the kernels", [this, thread] { ThreadMain(thread); }));
  }
}

ThreadPool::~ThreadPool() {
  stop_.store(true, std::memory_order_relaxed);
  {
    MutexLock lock(mu_);
    loop_.fetch_add(1, std::memory_order_release);
  }
  loop_changed_.NotifyAll();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::Run(int64_t count, Call call, const void* body) {
  SetFlushDenormals();
  if (threads_ == 1 || count <= 1) {
    for (int64_t index = 0; index < count; ++index) call(body, index, 0);
    return;
  }
  count_ = count;
  call_ = call;
  body_ = body;
  running_.store(threads_ - 1, std::memory_order_relaxed);
  {
    // Under the lock, so that a thread on its way to sleep cannot miss it.
    MutexLock lock(mu_);
    loop_.fetch_add(1, std::memory_order_release);
  }
  loop_changed_.NotifyAll();
  RunPart(0);
  for (int spin = 0; spin < kSpins; ++spin) {
    if (running_.load(std::memory_order_acquire) == 0) return;
    _mm_pause();
  }
  MutexLock lock(mu_);
  while (running_.load(std::memory_order_acquire) != 0) loop_done_.Wait(mu_);
}

void ThreadPool::RunPart(int thread) const {
  const int64_t begin = count_ * thread / threads_;
  const int64_t end = count_ * (thread + 1) / threads_;
  for (int64_t index = begin; index < end; ++index) call_(body_, index, thread);
}

void ThreadPool::ThreadMain(int thread) {
  SetFlushDenormals();
  for (uint64_t seen = 0;; ++seen) {
    AwaitLoop(seen);
    if (stop_.load(std::memory_order_relaxed)) return;
    RunPart(thread);
    if (running_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
      { MutexLock lock(mu_); }  // the caller is either before its check or asleep
      loop_done_.NotifyAll();
    }
  }
}

void ThreadPool::AwaitLoop(uint64_t seen) {
  for (int spin = 0; spin < kSpins; ++spin) {
    if (loop_.load(std::memory_order_acquire) != seen) return;
    _mm_pause();
  }
  MutexLock lock(mu_);
  while (loop_.load(std::memory_order_acquire) == seen) loop_changed_.Wait(mu_);
}

}  // namespace dsrun::worker
