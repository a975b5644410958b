// LazyDevice: a device that finds what a GPU would turn into a rare wrong bit. Its streams are
// queues: what is enqueued runs later, one operation at a time, in an order that a seed draws among
// the legal ones (in order within a stream, by events between streams). Its device memory is pages
// that nobody may touch but the operation that runs, and the host while it holds a HostAccess.
//
//   missing wait       other bits under some seed, or an error of OpenForHost
//   early free         a line of problems(): the buffer and the operation that still needs it
//   stray host access  SIGSEGV
// A device that is lost, as a GPU that has fallen off its bus, is planted by LoseAfter.
//
// An operation may touch the pages of the ranges that it names, and no other device memory.
//
// Threads: thread-safe; operations run in whoever enqueues or polls.

#ifndef DSRUN_TESTS_WORKER_DEVICE_LAZY_DEVICE_H_
#define DSRUN_TESTS_WORKER_DEVICE_LAZY_DEVICE_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "worker/device/device.h"
#include "worker/device/kernels.h"
#include "worker/device/stream.h"

namespace dsrun::worker {

// What an operation reads or writes.
struct Touched {
  const void* begin = nullptr;  // null: nothing
  size_t bytes = 0;
  bool and_rest = false;  // how far it goes is not known: up to the end of its buffer at most
};

class LazyDevice final : public Device {
 public:
  // A mistake of the program, for tests of the device itself: `forgets(lane)` says whose Record
  // gives an event that is reached from the beginning.
  using Forgets = std::function<bool(const std::string& lane)>;

  explicit LazyDevice(uint64_t seed, Forgets forgets = nullptr);
  // What was not run by now never is.
  ~LazyDevice() override;

  std::string name() const override { return "lazy"; }
  absl::StatusOr<Buffer> Allocate(Space space, size_t bytes, const std::string& what) override;
  int64_t MemoryAvailable() const override;

  std::unique_ptr<Stream> CreateStream(const std::string& lane);
  // `inner` on a stream of their own; it must outlive them, or is theirs.
  std::unique_ptr<Kernels> CreateKernels(const std::string& lane, Kernels& inner);
  std::unique_ptr<Kernels> CreateKernels(const std::string& lane, std::unique_ptr<Kernels> inner);

  // After `operations` more the device is lost: nothing runs any more, and whoever asks for
  // anything gets INTERNAL.
  void LoseAfter(int64_t operations);

  std::vector<std::string> problems() const;
  // Operations that waited in their queue while another was enqueued: 0 means that nothing was
  // lazy.
  int64_t postponed() const;
  int64_t operations() const;  // that have run

  class Core;

 private:
  std::unique_ptr<Kernels> CreateKernelsOn(const std::string& lane, std::shared_ptr<Kernels> inner);

  const std::shared_ptr<Core> core_;
};

}  // namespace dsrun::worker

#endif  // DSRUN_TESTS_WORKER_DEVICE_LAZY_DEVICE_H_
