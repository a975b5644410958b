#include "worker/engine/engine_factory.h"

#include "absl/strings/str_cat.h"
#include "common/base/cpu_isa.h"
#include "common/base/mutex.h"
#include "common/base/status_macros.h"
#include "common/model/model_spec.h"
#include "common/numerics/precision.h"
#include "common/plan/memory_input.h"
#include "common/plan/memory_plan.h"
#include "worker/device/cpu/cpu_device.h"
#include "worker/device/cpu/cpu_kernels.h"
#include "worker/device/cpu/cpu_matmul.h"
#include "worker/model/model.h"

namespace dsrun::worker {

absl::StatusOr<Engine> BuildEngine(const proto::TrainSpec& spec, const OwnModel* own) {
  if (spec.device() != "cpu") {
    return absl::InvalidArgumentError(
        absl::StrCat("no engine for device \"", spec.device(), "\"; use --device cpu"));
  }
  ASSIGN_OR_RETURN(const CpuIsa isa, ParseIsa(spec.isa_cap()));
  if (BestLibraryIsa() < isa) {
    return absl::FailedPreconditionError(
        absl::StrCat("--isa-cap ", spec.isa_cap(), " is more than this CPU has (",
                     IsaName(BestLibraryIsa()), "); use the least of all nodes"));
  }
  if (!PrecisionNamed(spec.precision())) {
    return absl::InvalidArgumentError(
        absl::StrCat("precision \"", spec.precision(), "\": expected fp32, bf16 or fp16"));
  }
  if (spec.micro_batch_size() < 1) {
    return absl::InvalidArgumentError(absl::StrCat("micro-batches of ", spec.micro_batch_size(),
                                                   " sequences; expected 1 or more"));
  }
  MemoryInput input = MemoryInputFromProto(spec);
  if (own == nullptr) {
    RETURN_IF_ERROR(Validate(input.model));
  } else {
    input.own = std::make_shared<const ModelPlan>(own->plan);
  }
  RETURN_IF_ERROR(CheckPlannable(input));
  Engine engine;
  engine.device = std::make_unique<CpuDevice>();
  engine.pool = std::make_unique<ThreadPool>(spec.threads_per_rank());
  engine.comm_pool = std::make_unique<ThreadPool>(1);
  engine.kernels = std::make_unique<CpuKernels>(*engine.pool, isa);
  engine.comm_kernels = std::make_unique<CpuKernels>(*engine.comm_pool, isa);
  ASSIGN_OR_RETURN(engine.model, BuildModel(spec, *engine.kernels, *engine.device, own));
  return engine;
}

absl::StatusOr<std::unique_ptr<Model>> BuildModel(const proto::TrainSpec& spec, Kernels& kernels,
                                                  Device& device, const OwnModel* own) {
  const ActivationInput activations{.micro_batch_size = spec.micro_batch_size(),
                                    .threads = spec.threads_per_rank(),
                                    .recompute = FromProto(spec.recompute())};
  if (own != nullptr) return CreateModel(own->plan, own->layers, activations, kernels, device);
  const MemoryInput input = MemoryInputFromProto(spec);
  return CreateModel(input.model, activations, kernels, device, input.precision);
}

absl::Status CapLibraryOnce(const std::string& isa_cap) {
  static Mutex& mu = *new Mutex;
  static std::string* capped = nullptr;
  ASSIGN_OR_RETURN(const CpuIsa isa, ParseIsa(isa_cap));
  MutexLock lock(mu);
  if (capped == nullptr) {
    RETURN_IF_ERROR(CapLibraryIsa(isa));
    capped = new std::string(isa_cap);
  }
  if (*capped == isa_cap) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("--isa-cap ", isa_cap, ": another engine of this process has capped it at ",
                   *capped, ", which holds for the whole process; give both the same"));
}

}  // namespace dsrun::worker
