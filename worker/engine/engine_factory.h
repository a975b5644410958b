// EngineFactory: the one room that knows concrete devices, kernels and models. All others hold
// interfaces.

#ifndef DSRUN_WORKER_ENGINE_ENGINE_FACTORY_H_
#define DSRUN_WORKER_ENGINE_ENGINE_FACTORY_H_

#include <memory>

#include "absl/status/statusor.h"
#include "proto/job.pb.h"
#include "worker/device/cpu/thread_pool.h"
#include "worker/device/device.h"
#include "worker/device/kernels.h"
#include "worker/model/model.h"

namespace dsrun::worker {

// What a worker process builds once and keeps through all generations. Destruction order matters:
// from the last member to the first.
struct Engine {
  std::unique_ptr<Device> device;
  std::unique_ptr<ThreadPool> pool;
  std::unique_ptr<ThreadPool> comm_pool;  // of one: the communication thread's own
  std::unique_ptr<Kernels> kernels;
  std::unique_ptr<Kernels> comm_kernels;
  std::unique_ptr<Model> model;
};

// The matrix library's own ISA cap is the process's (CapLibraryIsa), set before the first engine.
// Errors: INVALID_ARGUMENT: unknown device or ISA; FAILED_PRECONDITION: this CPU lacks the ISA;
// RESOURCE_EXHAUSTED: memory.
absl::StatusOr<Engine> BuildEngine(const proto::TrainSpec& spec);

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_ENGINE_ENGINE_FACTORY_H_
