// The engine that this room's tests train with: that of the CPU, or, where the environment variable
// DSRUN_LAZY_SEED is a number, the same kernels on a LazyDevice of that seed
// (tests/worker/device/lazy_device.h), whose problems fail the test. So the whole suite runs on
// both.

#ifndef DSRUN_TESTS_WORKER_ENGINE_ENGINE_UNDER_TEST_H_
#define DSRUN_TESTS_WORKER_ENGINE_ENGINE_UNDER_TEST_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "proto/job.pb.h"
#include "tests/worker/device/lazy_device.h"
#include "worker/engine/engine_factory.h"

namespace dsrun::worker {

// BuildEngine's, on whichever of the two is asked for; every engine's seed is another.
absl::StatusOr<Engine> BuildEngineUnderTest(const proto::TrainSpec& spec);

// Puts an engine of the CPU on a device that it then owns.
LazyDevice& PutOnLazyDevice(const proto::TrainSpec& spec, uint64_t seed, Engine& engine,
                            LazyDevice::Forgets forgets = nullptr);

}  // namespace dsrun::worker

#endif  // DSRUN_TESTS_WORKER_ENGINE_ENGINE_UNDER_TEST_H_
