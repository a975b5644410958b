#include "worker/device/cpu/cpu_device.h"

#include <sys/mman.h>

#include <cerrno>
#include <fstream>
#include <limits>

#include "absl/status/status.h"
#include "common/base/cpu_isa.h"
#include "common/base/limits.h"
#include "common/base/memory_marks.h"

namespace dsrun::worker {
namespace {

constexpr size_t kPage = 4096;
constexpr size_t kHugePage = size_t{2} << 20;

absl::Status Exhausted(const std::string& what, size_t bytes, int64_t available) {
  return absl::ResourceExhaustedError(
      "memory for " + what + ": expected " + std::to_string(bytes) + kMemoryRefused +
      std::to_string(available) + " available" +
      (IsAddressSpaceLimited() ? BecauseOfLimit(ENOMEM) : std::string()) +
      "; use a smaller model or micro-batch, more ranks, or end other programs");
}

}  // namespace

std::string CpuDevice::name() const { return "cpu (" + IsaName(BestIsa()) + ")"; }

// All spaces are the same memory here.
absl::StatusOr<Buffer> CpuDevice::Allocate(Space space, size_t bytes, const std::string& what) {
  // An anonymous mapping succeeds beyond what there is and kills the process on touch: ask first.
  const int64_t available = MemoryAvailable();
  if (bytes > static_cast<size_t>(available)) return Exhausted(what, bytes, available);
  const size_t page = bytes >= kHugePage ? kHugePage : kPage;
  const size_t mapped = (bytes + page - 1) / page * page + (bytes == 0 ? kPage : 0);
  void* data = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) return Exhausted(what, bytes, available);
  if (page == kHugePage) madvise(data, mapped, MADV_HUGEPAGE);  // advice: refusal changes nothing
  return Buffer(space, data, bytes, [mapped](void* start, size_t) { munmap(start, mapped); });
}

int64_t CpuDevice::MemoryAvailable() const {
  std::ifstream file("/proc/meminfo");
  std::string key;
  int64_t kilobytes = 0;
  std::string unit;
  while (file >> key >> kilobytes) {
    std::getline(file, unit);
    if (key == "MemAvailable:") return kilobytes * 1024;
  }
  return std::numeric_limits<int64_t>::max();  // no /proc: let mmap decide
}

}  // namespace dsrun::worker
