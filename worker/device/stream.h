// Stream: one lane of a device. What is enqueued runs in order; between streams only events order.
// Kernels belong to one stream. A number comes to the host by a Copy and an Await; the host looks
// at device memory itself only while it holds a HostAccess.
//
// On the CPU a call is finished when it returns, and all that waits is free: events are empty, and
// an empty one is waited for without a call.
//
// Threads: one thread at a time enqueues on a stream. Events may be awaited by any.

#ifndef DSRUN_WORKER_DEVICE_STREAM_H_
#define DSRUN_WORKER_DEVICE_STREAM_H_

#include <cstddef>
#include <functional>
#include <memory>
#include <thread>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace dsrun::worker {

// A point of a stream: all that was enqueued before it. Cheap to copy. May outlive its stream.
class Event {
 public:
  class State {
   public:
    virtual ~State() = default;
    // Whether it is reached. Never blocks. Errors: the device's, INTERNAL.
    virtual absl::StatusOr<bool> Poll() = 0;
  };

  Event() = default;  // reached
  explicit Event(std::shared_ptr<State> state) : state_(std::move(state)) {}

  bool empty() const { return state_ == nullptr; }
  const std::shared_ptr<State>& state() const { return state_; }

  // Returns when it is reached: polls, so that no driver's call can hold the thread.
  // Errors: the device's; ABORTED: `cancelled` said so. Without it: work of a device alone, which
  // waits for no peer, ends.
  absl::Status Await(const std::function<bool()>& cancelled = nullptr) const {
    if (empty()) return absl::OkStatus();
    while (true) {
      const absl::StatusOr<bool> reached = state_->Poll();
      if (!reached.ok()) return reached.status();
      if (*reached) return absl::OkStatus();
      if (cancelled && cancelled()) return absl::AbortedError("cancelled while the device worked");
      std::this_thread::yield();
    }
  }

 private:
  std::shared_ptr<State> state_;
};

// The host may read and write a range of memory as long as this lives.
class HostAccess {
 public:
  class State {
   public:
    virtual ~State() = default;
  };
  HostAccess() = default;  // nothing to give back
  explicit HostAccess(std::unique_ptr<State> state) : state_(std::move(state)) {}

 private:
  std::unique_ptr<State> state_;
};

class Stream {
 public:
  virtual ~Stream() = default;

  // The point that this stream has come to.
  virtual Event Record() = 0;
  // What is enqueued from here on runs after `event`, of any stream of the device.
  virtual void Wait(const Event& event) = 0;

  // Between any two spaces; the two do not overlap. Host memory that is not pinned is read before
  // this returns, and written before an event that is recorded afterwards is reached.
  virtual void Copy(void* to, const void* from, size_t bytes) = 0;
  virtual void Zero(void* to, size_t bytes) = 0;

  // For initialisation, loading, saving and communication by the host. REQUIRES: everything that
  // was enqueued on these bytes, on any stream, is finished.
  // Errors: INTERNAL: it is not, where the device can tell; the message names the operation.
  virtual absl::StatusOr<HostAccess> OpenForHost(const void* begin, size_t bytes) = 0;
};

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_DEVICE_STREAM_H_
