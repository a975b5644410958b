// gpu_check: what the CUDA rooms can do on this machine's GPUs: memory and copies, checked, with
// their bandwidth. Exit code 0: all GPUs passed; 1: one failed; 2: there is none.

#include <cstdio>
#include <cstring>
#include <vector>

#include "absl/status/status.h"
#include "common/base/clock.h"
#include "common/base/status_macros.h"
#include "worker/device/cuda_device.h"

namespace dsrun::worker {
namespace {

constexpr size_t kBytes = size_t{256} << 20;

double GigabytesPerSecond(SteadyTime begin) {
  return static_cast<double>(kBytes) / 1e9 /
         absl::ToDoubleSeconds(Clock::Real().SteadyNow() - begin);
}

absl::Status CheckCopies(CudaDevice& device) {
  ASSIGN_OR_RETURN(Buffer buffer, device.Allocate(Space::kDevice, kBytes, "the copy check"));
  std::vector<unsigned char> sent(kBytes);
  std::vector<unsigned char> received(kBytes, 1);
  RETURN_IF_ERROR(device.CopyToHost(received.data(), buffer.data(), kBytes));
  for (const unsigned char byte : received) {
    if (byte != 0) return absl::DataLossError("fresh device memory is not zero");
  }
  for (size_t i = 0; i < kBytes; ++i) sent[i] = static_cast<unsigned char>(i * 2654435761u >> 13);
  const SteadyTime down = Clock::Real().SteadyNow();
  RETURN_IF_ERROR(device.CopyToDevice(buffer.data(), sent.data(), kBytes));
  const double to_device = GigabytesPerSecond(down);
  const SteadyTime up = Clock::Real().SteadyNow();
  RETURN_IF_ERROR(device.CopyToHost(received.data(), buffer.data(), kBytes));
  const double to_host = GigabytesPerSecond(up);
  if (std::memcmp(sent.data(), received.data(), kBytes) != 0) {
    return absl::DataLossError("bytes came back changed");
  }
  std::printf("%s: %.1f GB free, copies %.1f GB/s to the device, %.1f GB/s back (pageable)\n",
              device.name().c_str(), static_cast<double>(device.MemoryAvailable()) / 1e9, to_device,
              to_host);
  return absl::OkStatus();
}

int Main() {
  const std::vector<CudaDeviceInfo> devices = ListCudaDevices();
  if (devices.empty()) {
    std::fprintf(stderr, "gpu_check: this machine has no GPU that CUDA can use\n");
    return 2;
  }
  int failed = 0;
  for (const CudaDeviceInfo& info : devices) {
    absl::StatusOr<std::unique_ptr<CudaDevice>> device = CudaDevice::Create(info.ordinal);
    const absl::Status status = device.ok() ? CheckCopies(**device) : device.status();
    if (!status.ok()) {
      std::fprintf(stderr, "gpu_check: GPU %d (%s): %s\n", info.ordinal, info.name.c_str(),
                   std::string(status.message()).c_str());
      ++failed;
    }
  }
  return failed == 0 ? 0 : 1;
}

}  // namespace
}  // namespace dsrun::worker

int main() { return dsrun::worker::Main(); }
