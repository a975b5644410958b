// EngineFactory: the one room that knows concrete devices, kernels and models. All others hold
// interfaces.

#ifndef DSRUN_WORKER_ENGINE_ENGINE_FACTORY_H_
#define DSRUN_WORKER_ENGINE_ENGINE_FACTORY_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/model/model_plan.h"
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

// A model that the spec does not say, in place of its (common/model/own_model.h).
struct OwnModel {
  ModelPlan plan;
  LayerFactory layers;
};

// The matrix library's own ISA cap is the process's (CapLibraryIsa), set before the first engine.
// Errors: INVALID_ARGUMENT: unknown device or ISA; FAILED_PRECONDITION: this CPU lacks the ISA;
// RESOURCE_EXHAUSTED: memory.
// `own`: null where the spec names a family.
absl::StatusOr<Engine> BuildEngine(const proto::TrainSpec& spec, const OwnModel* own = nullptr);

// Its model alone, on what there is. Both must outlive it. REQUIRES: BuildEngine would take the
// spec.
absl::StatusOr<std::unique_ptr<Model>> BuildModel(const proto::TrainSpec& spec, Kernels& kernels,
                                                  Device& device, const OwnModel* own = nullptr);

// CapLibraryIsa for processes that may build several engines: the first one's cap is everybody's.
// Thread-safe. Errors: INVALID_ARGUMENT: no such instruction set; FAILED_PRECONDITION: the library
// is capped otherwise, or has been used before it was capped.
absl::Status CapLibraryOnce(const std::string& isa_cap);

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_ENGINE_ENGINE_FACTORY_H_
