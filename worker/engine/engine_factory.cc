#include "worker/engine/engine_factory.h"

#include "absl/strings/str_cat.h"
#include "common/base/cpu_isa.h"
#include "common/base/status_macros.h"
#include "common/model/model_spec.h"
#include "common/model/model_spec_proto.h"
#include "common/plan/memory_input.h"
#include "common/plan/memory_plan.h"
#include "worker/device/cpu/cpu_device.h"
#include "worker/device/cpu/cpu_kernels.h"
#include "worker/model/model.h"

namespace dsrun::worker {

absl::StatusOr<Engine> BuildEngine(const proto::TrainSpec& spec) {
  if (spec.device() != "cpu") {
    return absl::InvalidArgumentError(
        absl::StrCat("no engine for device \"", spec.device(), "\"; use --device cpu"));
  }
  ASSIGN_OR_RETURN(const CpuIsa isa, ParseIsa(spec.isa_cap()));
  if (BestIsa() < isa) {
    return absl::FailedPreconditionError(
        absl::StrCat("--isa-cap ", spec.isa_cap(), " is more than this CPU has (",
                     IsaName(BestIsa()), "); use the least of all nodes"));
  }
  if (spec.micro_batch_size() < 1) {
    return absl::InvalidArgumentError(absl::StrCat("micro-batches of ", spec.micro_batch_size(),
                                                   " sequences; expected 1 or more"));
  }
  RETURN_IF_ERROR(Validate(FromProto(spec.model())));
  RETURN_IF_ERROR(CheckPlannable(MemoryInputFromProto(spec)));
  Engine engine;
  engine.device = std::make_unique<CpuDevice>();
  engine.pool = std::make_unique<ThreadPool>(spec.threads_per_rank());
  engine.comm_pool = std::make_unique<ThreadPool>(1);
  engine.kernels = std::make_unique<CpuKernels>(*engine.pool, isa);
  engine.comm_kernels = std::make_unique<CpuKernels>(*engine.comm_pool, isa);
  ASSIGN_OR_RETURN(engine.model, CreateModel(FromProto(spec.model()),
                                             {.micro_batch_size = spec.micro_batch_size(),
                                              .threads = spec.threads_per_rank(),
                                              .recompute = FromProto(spec.recompute())},
                                             *engine.kernels, *engine.device,
                                             MemoryInputFromProto(spec).precision));
  return engine;
}

}  // namespace dsrun::worker
