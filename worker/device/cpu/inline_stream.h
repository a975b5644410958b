// InlineStream: the CPU's stream. Everything is done when the call returns.

#ifndef DSRUN_WORKER_DEVICE_CPU_INLINE_STREAM_H_
#define DSRUN_WORKER_DEVICE_CPU_INLINE_STREAM_H_

#include <cstddef>
#include <cstring>

#include "absl/status/statusor.h"
#include "worker/device/stream.h"

namespace dsrun::worker {

class InlineStream final : public Stream {
 public:
  Event Record() override { return {}; }
  void Wait(const Event&) override {}
  void Copy(void* to, const void* from, size_t bytes) override {
    if (bytes > 0) std::memcpy(to, from, bytes);
  }
  void Zero(void* to, size_t bytes) override {
    if (bytes > 0) std::memset(to, 0, bytes);
  }
  absl::StatusOr<HostAccess> OpenForHost(const void*, size_t) override { return HostAccess(); }
};

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_DEVICE_CPU_INLINE_STREAM_H_
