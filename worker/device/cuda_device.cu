#include <cuda_runtime.h>

#include "absl/strings/str_cat.h"
#include "worker/device/cuda_device.h"

namespace dsrun::worker {
namespace {

// CUDA's code as a Status: the call, CUDA's name and words for it.
absl::Status ToStatus(cudaError_t error, const std::string& call) {
  if (error == cudaSuccess) return absl::OkStatus();
  const std::string text =
      absl::StrCat(call, ": ", cudaGetErrorName(error), " (", cudaGetErrorString(error), ")");
  return error == cudaErrorMemoryAllocation ? absl::ResourceExhaustedError(text)
                                            : absl::InternalError(text);
}

}  // namespace

std::vector<CudaDeviceInfo> ListCudaDevices() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) return {};
  std::vector<CudaDeviceInfo> devices;
  for (int ordinal = 0; ordinal < count; ++ordinal) {
    cudaDeviceProp properties;
    if (cudaGetDeviceProperties(&properties, ordinal) != cudaSuccess) continue;
    devices.push_back({ordinal, properties.name, static_cast<int64_t>(properties.totalGlobalMem),
                       properties.major * 10 + properties.minor});
  }
  return devices;
}

absl::StatusOr<std::unique_ptr<CudaDevice>> CudaDevice::Create(int ordinal) {
  const std::vector<CudaDeviceInfo> devices = ListCudaDevices();
  for (const CudaDeviceInfo& info : devices) {
    if (info.ordinal != ordinal) continue;
    if (absl::Status set = ToStatus(cudaSetDevice(ordinal), "cudaSetDevice"); !set.ok()) return set;
    return std::unique_ptr<CudaDevice>(new CudaDevice(info));
  }
  return absl::NotFoundError(
      absl::StrCat("no GPU ", ordinal, ": this machine has ", devices.size()));
}

std::string CudaDevice::name() const {
  return absl::StrCat("cuda:", info_.ordinal, " (", info_.name, ")");
}

absl::StatusOr<Buffer> CudaDevice::Allocate(Space space, size_t bytes, const std::string& what) {
  if (space != Space::kDevice) {
    return absl::UnimplementedError(absl::StrCat(what, ": only memory of the GPU itself"));
  }
  if (bytes == 0) return Buffer();
  void* data = nullptr;
  // A status of its own each: nvcc takes the value of an assignment for one that is thrown away.
  if (absl::Status status = ToStatus(cudaMalloc(&data, bytes),
                                     absl::StrCat("cudaMalloc of ", bytes, " bytes for ", what));
      !status.ok()) {
    return status;
  }
  if (absl::Status status = ToStatus(cudaMemset(data, 0, bytes), "cudaMemset"); !status.ok()) {
    cudaFree(data);
    return status;
  }
  return Buffer(space, data, bytes, [](void* memory, size_t) { cudaFree(memory); });
}

int64_t CudaDevice::MemoryAvailable() const {
  size_t free = 0;
  size_t total = 0;
  return cudaMemGetInfo(&free, &total) == cudaSuccess ? static_cast<int64_t>(free) : 0;
}

absl::Status CudaDevice::CopyToDevice(void* device, const void* host, size_t bytes) {
  return ToStatus(cudaMemcpy(device, host, bytes, cudaMemcpyHostToDevice), "cudaMemcpy to device");
}

absl::Status CudaDevice::CopyToHost(void* host, const void* device, size_t bytes) {
  return ToStatus(cudaMemcpy(host, device, bytes, cudaMemcpyDeviceToHost), "cudaMemcpy to host");
}

}  // namespace dsrun::worker
