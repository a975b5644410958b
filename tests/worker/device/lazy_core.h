// The inside of LazyDevice: pages, queues and the scheduler. lazy_kernels.cc enqueues through it.

#ifndef DSRUN_TESTS_WORKER_DEVICE_LAZY_CORE_H_
#define DSRUN_TESTS_WORKER_DEVICE_LAZY_CORE_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/mutex.h"
#include "tests/worker/device/lazy_device.h"

namespace dsrun::worker {

class LazyDevice::Core : public std::enable_shared_from_this<LazyDevice::Core> {
 public:
  // All that was enqueued on a lane before its operation number `count`.
  struct Point {
    size_t lane = 0;
    uint64_t count = 0;
  };

  Core(uint64_t seed, Forgets forgets) : random_(seed), forgets_(std::move(forgets)) {}

  absl::StatusOr<Buffer> Allocate(Space space, size_t bytes, const std::string& what);
  size_t AddLane(const std::string& name);
  void Enqueue(size_t lane, std::string name, std::vector<Touched> touched,
               std::function<void()> run);
  void EnqueueWait(size_t lane, const Event& event);
  Event Record(size_t lane);
  // Runs an operation where the point is not reached.
  absl::StatusOr<bool> Poll(const Point& point);
  absl::StatusOr<HostAccess> OpenForHost(const void* begin, size_t bytes);
  // Whether the pointer is into a buffer of this device, pinned host memory included.
  bool Owns(const void* pointer);
  void Stop();
  void LoseAfter(int64_t operations);

  std::vector<std::string> problems();
  int64_t postponed();
  int64_t operations();

 private:
  struct Operation {
    std::string name;
    std::vector<Touched> touched;
    std::function<void()> run;  // empty: a wait
    Point after;                // count 0: of nothing
  };
  struct Lane {
    std::string name;
    std::deque<Operation> queue;
    uint64_t enqueued = 0;
    uint64_t finished = 0;
  };
  struct Memory {
    std::string what;
    Space space;
    char* begin;
    size_t bytes;
    size_t mapped;
    int open = 0;  // host accesses
  };
  class Opened;  // HostAccess::State

  bool ReachedLocked(const Point& point) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return lanes_[point.lane].finished >= point.count;
  }
  bool RunOneLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void LoseLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void PushLocked(size_t lane, Operation operation) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  Memory* FindLocked(const void* pointer) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void OpenLocked(Memory& memory) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void CloseLocked(Memory& memory) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void ProtectLocked(const Touched& range, int access) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // The operation that has yet to use some of these bytes; null: none.
  Operation* PendingLocked(const void* begin, size_t bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Free(void* begin);

  Mutex mu_;
  std::mt19937_64 random_ ABSL_GUARDED_BY(mu_);
  const Forgets forgets_;
  std::vector<Lane> lanes_ ABSL_GUARDED_BY(mu_);
  std::list<Memory> memory_ ABSL_GUARDED_BY(mu_);
  std::vector<std::string> problems_ ABSL_GUARDED_BY(mu_);
  int64_t postponed_ ABSL_GUARDED_BY(mu_) = 0;
  int64_t operations_left_ ABSL_GUARDED_BY(mu_) = -1;  // until it is lost; -1: never
  bool lost_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace dsrun::worker

#endif  // DSRUN_TESTS_WORKER_DEVICE_LAZY_CORE_H_
