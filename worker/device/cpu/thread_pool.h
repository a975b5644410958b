// ThreadPool: a fixed number of threads, the caller included, that run one loop at a time. The
// division of a loop is static (thread t gets the t-th of equal, consecutive parts), and no result
// may depend on it: bodies write to disjoint outputs.
//
// Every thread that computes flushes denormals (docs/numerics.md, rule m): the pool's own from
// their start, a caller from its first ParallelFor on.
//
// Threads: one thread at a time calls ParallelFor. Bodies must not throw and must not call
// ParallelFor of the same pool.

#ifndef DSRUN_WORKER_DEVICE_CPU_THREAD_POOL_H_
#define DSRUN_WORKER_DEVICE_CPU_THREAD_POOL_H_

#include <atomic>
#include <cstdint>
#include <thread>
#include <type_traits>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "common/base/mutex.h"

namespace dsrun::worker {

// Makes this thread treat denormal inputs as zero and flush denormal results to zero.
void SetFlushDenormals();
bool FlushesDenormals();

class ThreadPool {
 public:
  // REQUIRES: threads >= 1. With 1, loops run inline and no thread is started.
  explicit ThreadPool(int threads);
  ~ThreadPool();  // REQUIRES: no loop is running
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return threads_; }

  // Runs body(index, thread) for every index in [0, count); done when it returns. `thread` is in
  // [0, threads()), and no two bodies with the same `thread` run at once: scratch may be kept by
  // it.
  template <typename Body>
  void ParallelFor(int64_t count, const Body& body) {
    Run(
        count,
        [](const void* b, int64_t index, int thread) {
          (*static_cast<const Body*>(b))(index, thread);
        },
        &body);
  }

 private:
  using Call = void (*)(const void* body, int64_t index, int thread);

  void Run(int64_t count, Call call, const void* body);
  void RunPart(int thread) const;
  void ThreadMain(int thread);
  // Waits until the loop number differs from `seen`: a short while awake, then asleep.
  void AwaitLoop(uint64_t seen);

  const int threads_;

  // The current loop. Written by the caller before it raises loop_, read by threads after it.
  int64_t count_ = 0;
  Call call_ = nullptr;
  const void* body_ = nullptr;
  std::atomic<bool> stop_{false};

  std::atomic<uint64_t> loop_{0};
  std::atomic<int> running_{0};  // threads that have not finished the current loop

  Mutex mu_;
  CondVar loop_changed_;
  CondVar loop_done_;

  std::vector<std::thread> workers_;  // last: they use all of the above
};

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_DEVICE_CPU_THREAD_POOL_H_
