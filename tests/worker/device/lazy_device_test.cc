// The device that finds mistakes finds them: each is planted here.

#include "tests/worker/device/lazy_device.h"

#include <gtest/gtest.h>

#include <cstring>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "common/base/cpu_isa.h"
#include "worker/device/cpu/cpu_kernels.h"

namespace dsrun::worker {
namespace {

constexpr int kSeeds = 20;
constexpr int64_t kElements = 5;
constexpr size_t kBytes = kElements * sizeof(float);

class LazyDeviceTest : public ::testing::Test {
 protected:
  Buffer Floats(LazyDevice& device, const std::string& what) {
    absl::StatusOr<Buffer> buffer = device.Allocate(Space::kDevice, kBytes, what);
    EXPECT_TRUE(buffer.ok()) << buffer.status();
    return *std::move(buffer);
  }

  // One stream makes x = 1, the other adds it to a sum, which begins as 0: what is read is 1 if the
  // second waited for the first.
  float SumOfTwoStreams(uint64_t seed, bool waits) {
    LazyDevice device(seed);
    const std::unique_ptr<Kernels> first = device.CreateKernels("first", cpu_);
    const std::unique_ptr<Kernels> second = device.CreateKernels("second", cpu_);
    const Buffer x = Floats(device, "x");
    const Buffer sum = Floats(device, "sum");
    const std::vector<float> ones(kElements, 1.0f);
    first->stream().Copy(x.data(), ones.data(), kBytes);
    if (waits) second->stream().Wait(first->stream().Record());
    second->Accumulate(kElements, x.floats(), sum.floats());
    std::vector<float> read(kElements);
    second->stream().Copy(read.data(), sum.data(), kBytes);
    EXPECT_TRUE(second->stream().Record().Await().ok());
    EXPECT_TRUE(first->stream().Record().Await().ok());
    EXPECT_TRUE(device.problems().empty());
    return read[0];
  }

  ThreadPool pool_{1};
  CpuKernels cpu_{pool_, BestIsa()};
};

TEST_F(LazyDeviceTest, EventsBetweenStreams_OrderThemUnderEverySeed) {
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    EXPECT_EQ(SumOfTwoStreams(seed, /*waits=*/true), 1.0f) << "seed " << seed;
  }
}

TEST_F(LazyDeviceTest, WaitThatIsMissing_GivesOtherBitsUnderSomeSeed) {
  std::set<float> seen;
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    seen.insert(SumOfTwoStreams(seed, /*waits=*/false));
  }
  EXPECT_EQ(seen, (std::set<float>{0.0f, 1.0f}));
}

TEST_F(LazyDeviceTest, AwaitThatIsMissing_LeavesTheHostWithOldBitsUnderSomeSeed) {
  std::set<float> seen;
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    LazyDevice device(seed, [](const std::string& lane) { return lane == "only"; });
    const std::unique_ptr<Stream> stream = device.CreateStream("only");
    const Buffer x = Floats(device, "x");
    const std::vector<float> ones(kElements, 1.0f);
    std::vector<float> read(kElements);
    stream->Copy(x.data(), ones.data(), kBytes);
    stream->Copy(read.data(), x.data(), kBytes);
    EXPECT_TRUE(stream->Record().Await().ok());
    seen.insert(read[0]);
  }
  EXPECT_EQ(seen, (std::set<float>{0.0f, 1.0f}));
}

// The host may change its own memory when Copy has returned.
TEST_F(LazyDeviceTest, CopyFromTheHost_TakesWhatStoodThere) {
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    LazyDevice device(seed);
    const std::unique_ptr<Stream> stream = device.CreateStream("only");
    const Buffer x = Floats(device, "x");
    std::vector<float> host(kElements, 1.0f);
    stream->Copy(x.data(), host.data(), kBytes);
    host.assign(kElements, 2.0f);
    stream->Copy(host.data(), x.data(), kBytes);
    ASSERT_TRUE(stream->Record().Await().ok());
    EXPECT_EQ(host, std::vector<float>(kElements, 1.0f)) << "seed " << seed;
  }
}

TEST_F(LazyDeviceTest, MemoryFreedBeforeItsOperationHasRun_IsNamed) {
  int found = 0;
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    LazyDevice device(seed);
    const std::unique_ptr<Kernels> kernels = device.CreateKernels("only", cpu_);
    const Buffer sum = Floats(device, "sum");
    {
      const Buffer x = Floats(device, "x");
      kernels->Accumulate(kElements, x.floats(), sum.floats());
    }
    EXPECT_TRUE(kernels->stream().Record().Await().ok());
    for (const std::string& problem : device.problems()) {
      EXPECT_EQ(problem, "freed x before Accumulate has run");
      ++found;
    }
  }
  EXPECT_GT(found, 0);
  EXPECT_LT(found, kSeeds) << "nothing ever ran early: the seeds draw nothing";
}

TEST_F(LazyDeviceTest, HostAccess_NeedsThatItsOperationsAreFinished) {
  int refused = 0;
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    LazyDevice device(seed);
    const std::unique_ptr<Stream> stream = device.CreateStream("only");
    const Buffer x = Floats(device, "x");
    const std::vector<float> ones(kElements, 1.0f);
    stream->Copy(x.data(), ones.data(), kBytes / kElements);
    const absl::StatusOr<HostAccess> early = stream->OpenForHost(x.data(), kBytes);
    if (!early.ok()) {
      EXPECT_EQ(early.status(), absl::InternalError("the host uses x before Copy has run"));
      ++refused;
    }
    // What nothing was enqueued on may be opened at once.
    EXPECT_TRUE(stream->OpenForHost(x.floats() + 1, kBytes - sizeof(float)).ok());
    ASSERT_TRUE(stream->Record().Await().ok());
    const absl::StatusOr<HostAccess> access = stream->OpenForHost(x.data(), kBytes);
    ASSERT_TRUE(access.ok()) << access.status();
    EXPECT_EQ(x.floats()[0], 1.0f);
    EXPECT_EQ(x.floats()[1], 0.0f);
  }
  EXPECT_GT(refused, 0);
}

using LazyDeviceDeathTest = LazyDeviceTest;

TEST_F(LazyDeviceDeathTest, HostThatTouchesDeviceMemory_IsKilled) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto touch = [&](bool opened) {
    LazyDevice device(1);
    const std::unique_ptr<Stream> stream = device.CreateStream("only");
    const Buffer x = Floats(device, "x");
    { const absl::StatusOr<HostAccess> access = stream->OpenForHost(x.data(), kBytes); }
    absl::StatusOr<HostAccess> access = HostAccess();
    if (opened) access = stream->OpenForHost(x.data(), kBytes);
    *static_cast<volatile float*>(x.data()) = 1;
  };
  touch(/*opened=*/true);
  EXPECT_DEATH(touch(/*opened=*/false), "");
}

}  // namespace
}  // namespace dsrun::worker
