// CudaDevice: memory of one NVIDIA GPU. Exists only in builds that found the CUDA Toolkit.
//
// The GPU's Kernels are not there yet, so no job is given to it: `--device cuda` is refused by the
// launcher. tools/gpu_check exercises what is here.

#ifndef DSRUN_WORKER_DEVICE_CUDA_DEVICE_H_
#define DSRUN_WORKER_DEVICE_CUDA_DEVICE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/device/device.h"

namespace dsrun::worker {

struct CudaDeviceInfo {
  int ordinal = 0;
  std::string name;
  int64_t memory_bytes = 0;
  int compute_capability = 0;  // 90 for 9.0
};

// The GPUs of this machine; empty without a driver or a GPU.
std::vector<CudaDeviceInfo> ListCudaDevices();

class CudaDevice final : public Device {
 public:
  // Errors: NOT_FOUND: no such GPU; the message says how many there are.
  static absl::StatusOr<std::unique_ptr<CudaDevice>> Create(int ordinal);

  std::string name() const override;
  // Of Space::kDevice; UNIMPLEMENTED: another.
  absl::StatusOr<Buffer> Allocate(Space space, size_t bytes, const std::string& what) override;
  int64_t MemoryAvailable() const override;

  // Copies between host and this device; finished when they return.
  // Errors: INTERNAL with the call and CUDA's own words.
  absl::Status CopyToDevice(void* device, const void* host, size_t bytes);
  absl::Status CopyToHost(void* host, const void* device, size_t bytes);

 private:
  explicit CudaDevice(CudaDeviceInfo info) : info_(std::move(info)) {}
  const CudaDeviceInfo info_;
};

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_DEVICE_CUDA_DEVICE_H_
