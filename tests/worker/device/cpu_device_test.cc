#include "worker/device/cpu/cpu_device.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <utility>

namespace dsrun::worker {
namespace {

TEST(CpuDeviceTest, Allocate_GivesAlignedZeroedWritableMemory) {
  CpuDevice device;
  for (const size_t bytes : {size_t{0}, size_t{1}, size_t{4097}, size_t{5} << 20}) {
    absl::StatusOr<Buffer> buffer = device.Allocate(Space::kDevice, bytes, "test");
    ASSERT_TRUE(buffer.ok()) << buffer.status();
    EXPECT_EQ(buffer->bytes(), bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer->data()) % 64, 0u);
    char* const data = static_cast<char*>(buffer->data());
    for (size_t i = 0; i < bytes; i += 509) {
      ASSERT_EQ(data[i], 0);
      data[i] = 1;
    }
  }
}

TEST(CpuDeviceTest, Allocate_MoreThanThereIs_IsResourceExhaustedWithNumbers) {
  CpuDevice device;
  const absl::StatusOr<Buffer> buffer =
      device.Allocate(Space::kDevice, size_t{1} << 60, "gradients");
  ASSERT_EQ(buffer.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(buffer.status().message().find("gradients"), absl::string_view::npos);
  EXPECT_NE(buffer.status().message().find("1152921504606846976"), absl::string_view::npos);
}

TEST(BufferTest, Move_ReleasesOnce) {
  int released = 0;
  int memory = 0;
  {
    Buffer first(Space::kHost, &memory, sizeof(memory), [&](void*, size_t) { ++released; });
    Buffer second = std::move(first);
    EXPECT_EQ(first.data(), nullptr);  // NOLINT: moved-from is empty by contract
    first = std::move(second);
    EXPECT_EQ(first.data(), &memory);
    EXPECT_EQ(released, 0);
  }
  EXPECT_EQ(released, 1);
}

}  // namespace
}  // namespace dsrun::worker
