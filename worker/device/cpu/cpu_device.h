// CpuDevice: host memory, in pages of its own, huge ones where the kernel grants them (an optimizer
// pass reads seven arrays at once; 4 kB pages cost it a quarter of the bandwidth).

#ifndef DSRUN_WORKER_DEVICE_CPU_CPU_DEVICE_H_
#define DSRUN_WORKER_DEVICE_CPU_CPU_DEVICE_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "worker/device/device.h"

namespace dsrun::worker {

class CpuDevice final : public Device {
 public:
  std::string name() const override;
  absl::StatusOr<Buffer> Allocate(Space space, size_t bytes, const std::string& what) override;
  int64_t MemoryAvailable() const override;
};

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_DEVICE_CPU_CPU_DEVICE_H_
