// ReplicatedParameters: the store of ZeRO-0 and ZeRO-1, where every rank has all parameters in one
// arena (Rajbhandari et al., 2020). Nothing is gathered for a pass and nothing released: a layer
// waits until what the owners have updated is there.
//
// Threads: as ParameterStore.

#ifndef DSRUN_WORKER_PARALLEL_REPLICATED_PARAMETERS_H_
#define DSRUN_WORKER_PARALLEL_REPLICATED_PARAMETERS_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/model/model_plan.h"
#include "common/plan/shard_plan.h"
#include "worker/model/pass_memory.h"

namespace dsrun::worker {

class ReplicatedParameters final : public ParameterStore {
 public:
  // Returns when the elements of the arena below `end` are there. Errors end the pass.
  using AwaitFn = std::function<absl::Status(int64_t end)>;

  // `arena` is laid out by `layout`, which is that of model.tensors. `await` empty: all is there.
  ReplicatedParameters(const ModelPlan& model, const FlatLayout& layout, ConstReals arena,
                       AwaitFn await = nullptr);

  absl::StatusOr<std::span<const ConstReals>> Acquire(size_t layer) override;
  void Release(size_t) override {}

 private:
  struct LayerPlace {
    std::vector<ConstReals> tensors;
    int64_t end = 0;  // of the arena that it uses
  };
  std::vector<LayerPlace> layers_;
  const AwaitFn await_;
};

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_PARALLEL_REPLICATED_PARAMETERS_H_
