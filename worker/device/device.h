// Device: where a rank's memory is. The engine takes its arenas from here, once, as the memory plan
// says, and nothing of size from anywhere else. One implementation per kind of device (cpu_device);
// Kernels of the same kind compute on its memory, in the order of their stream (stream.h).
//
// Thread-safe.

#ifndef DSRUN_WORKER_DEVICE_DEVICE_H_
#define DSRUN_WORKER_DEVICE_DEVICE_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "common/plan/space.h"

namespace dsrun::worker {

// Owns a piece of one device's memory. Movable, not copyable. Must not outlive its Device, and not
// be given back while something that was enqueued uses it.
class Buffer {
 public:
  Buffer() = default;
  // `release` gives the memory back; called once.
  Buffer(Space space, void* data, size_t bytes, std::function<void(void*, size_t)> release)
      : space_(space), data_(data), bytes_(bytes), release_(std::move(release)) {}
  Buffer(Buffer&& other) noexcept { *this = std::move(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    if (this != &other) {
      Release();
      space_ = other.space_;
      data_ = std::exchange(other.data_, nullptr);
      bytes_ = std::exchange(other.bytes_, 0);
      release_ = std::move(other.release_);
    }
    return *this;
  }
  ~Buffer() { Release(); }

  Space space() const { return space_; }
  void* data() const { return data_; }
  float* floats() const { return static_cast<float*>(data_); }
  size_t bytes() const { return bytes_; }

 private:
  void Release() {
    if (data_ != nullptr) release_(data_, bytes_);
    data_ = nullptr;
  }

  Space space_ = Space::kHost;
  void* data_ = nullptr;
  size_t bytes_ = 0;
  std::function<void(void*, size_t)> release_;
};

class Device {
 public:
  virtual ~Device() = default;

  // For people: "cpu (2 threads, avx512)".
  virtual std::string name() const = 0;

  // Zeroed memory, aligned to 64 bytes at least. `what` names it in errors ("gradients").
  // Errors: RESOURCE_EXHAUSTED: the space does not have that much; the message has both numbers.
  virtual absl::StatusOr<Buffer> Allocate(Space space, size_t bytes, const std::string& what) = 0;

  // Bytes that could be allocated now, as far as the device knows.
  virtual int64_t MemoryAvailable() const = 0;
};

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_DEVICE_DEVICE_H_
