#include "tests/worker/engine/engine_under_test.h"

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "common/base/status_macros.h"
#include "gtest/gtest.h"

namespace dsrun::worker {
namespace {

// Fails the test over what its device has found, when its engine ends.
class WatchedDevice final : public Device {
 public:
  WatchedDevice(uint64_t seed, LazyDevice::Forgets forgets, bool watched)
      : seed_(seed), watched_(watched), lazy_(seed, std::move(forgets)) {}
  ~WatchedDevice() override {
    if (!watched_) return;
    for (const std::string& problem : lazy_.problems()) {
      ADD_FAILURE() << "device of seed " << seed_ << ": " << problem;
    }
  }

  LazyDevice& lazy() { return lazy_; }
  std::string name() const override { return lazy_.name(); }
  absl::StatusOr<Buffer> Allocate(Space space, size_t bytes, const std::string& what) override {
    return lazy_.Allocate(space, bytes, what);
  }
  int64_t MemoryAvailable() const override { return lazy_.MemoryAvailable(); }

 private:
  const uint64_t seed_;
  const bool watched_;
  LazyDevice lazy_;
};

LazyDevice& Put(const proto::TrainSpec& spec, uint64_t seed, Engine& engine,
                LazyDevice::Forgets forgets, bool watched) {
  engine.model.reset();
  auto device = std::make_unique<WatchedDevice>(seed, std::move(forgets), watched);
  LazyDevice& lazy = device->lazy();
  engine.kernels = lazy.CreateKernels("compute", std::move(engine.kernels));
  engine.comm_kernels = lazy.CreateKernels("communication", std::move(engine.comm_kernels));
  engine.device = std::move(device);
  engine.model = BuildModel(spec, *engine.kernels, *engine.device).value();
  return lazy;
}

std::optional<uint64_t> SeedAskedFor() {
  const char* const text = std::getenv("DSRUN_LAZY_SEED");
  if (text == nullptr) return std::nullopt;
  static const uint64_t seed = [text] {
    const uint64_t number = std::strtoull(text, nullptr, 10);
    std::printf("on a LazyDevice, DSRUN_LAZY_SEED=%llu\n", static_cast<unsigned long long>(number));
    return number;
  }();
  return seed;
}

}  // namespace

LazyDevice& PutOnLazyDevice(const proto::TrainSpec& spec, uint64_t seed, Engine& engine,
                            LazyDevice::Forgets forgets) {
  return Put(spec, seed, engine, std::move(forgets), /*watched=*/false);
}

absl::StatusOr<Engine> BuildEngineUnderTest(const proto::TrainSpec& spec) {
  static std::atomic<uint64_t> built{0};
  absl::StatusOr<Engine> engine = BuildEngine(spec);
  const std::optional<uint64_t> seed = SeedAskedFor();
  if (!engine.ok() || !seed) return engine;
  Put(spec, *seed * 1'000'003 + built++, *engine, nullptr, /*watched=*/true);
  return engine;
}

}  // namespace dsrun::worker
