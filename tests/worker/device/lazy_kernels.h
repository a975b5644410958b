// Every operation of Kernels, enqueued on a lane of a LazyDevice with what it touches.

#ifndef DSRUN_TESTS_WORKER_DEVICE_LAZY_KERNELS_H_
#define DSRUN_TESTS_WORKER_DEVICE_LAZY_KERNELS_H_

#include <cstddef>
#include <memory>

#include "tests/worker/device/lazy_core.h"
#include "worker/device/kernels.h"
#include "worker/device/stream.h"

namespace dsrun::worker {

std::unique_ptr<Kernels> CreateLazyKernels(std::shared_ptr<LazyDevice::Core> core, size_t lane,
                                           std::unique_ptr<Stream> stream,
                                           std::shared_ptr<Kernels> inner);

}  // namespace dsrun::worker

#endif  // DSRUN_TESTS_WORKER_DEVICE_LAZY_KERNELS_H_
