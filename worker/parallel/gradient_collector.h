// GradientCollector: takes the gradients of a rank's micro-batches, layer by layer, into the sums
// over the batch, in the order of the plan (common/plan/sum_places.h), and tells the reducer what
// is final. Where an atom is several micro-batches (docs/numerics.md) it adds them up in fp32
// first.
//
// Threads: as GradientSink.

#ifndef DSRUN_WORKER_PARALLEL_GRADIENT_COLLECTOR_H_
#define DSRUN_WORKER_PARALLEL_GRADIENT_COLLECTOR_H_

#include <cstddef>
#include <functional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "common/plan/gradient_space.h"
#include "common/plan/shard_plan.h"
#include "common/plan/sum_places.h"
#include "worker/device/kernels.h"
#include "worker/model/pass_memory.h"
#include "worker/parallel/batch_sums.h"
#include "worker/parallel/gradient_reducer.h"

namespace dsrun::worker {

// Where a micro-batch stands among those of its rank. A round is what ends with a reduction
// (common/plan/step_rounds.h): a step, or an atom.
struct InBatch {
  bool first_of_atom;
  bool last_of_atom;
  bool first_atom;  // of the rank in the round
  bool last;        // likewise
};

class GradientCollector final : public GradientSink {
 public:
  struct Setup {
    const FlatLayout* layout;
    const GradientSpace* space;
    const SumPlaces* places;
    Kernels* kernels;
    BatchSums* sums;
    GradientReducer* reducer;
    float* window;  // (space->largest_window())
    float* atom;    // (space->size()); null where an atom is one micro-batch
    // Asked after every layer; an error ends the pass.
    std::function<absl::Status()> check;
  };

  explicit GradientCollector(Setup setup);

  // The next pass is that of this micro-batch.
  void Start(const InBatch& place) { place_ = place; }

  std::span<float* const> Begin(size_t layer) override;
  size_t lowest_layer() const override { return setup_.space->lowest_layer(); }
  absl::Status End(size_t layer) override;

 private:
  absl::Status EndOfAtom(size_t layer);
  // Null at the uses of frozen tensors.
  std::vector<float*> ForBackward(size_t layer, const std::vector<float*>& places) const;

  using ByLayer = std::vector<std::vector<float*>>;

  const Setup setup_;
  ByLayer in_window_;
  ByLayer in_atom_;  // the same as in_window_ where an atom is one micro-batch
  // The same, by all uses of the layer.
  ByLayer backward_window_;
  ByLayer backward_atom_;
  InBatch place_{};
};

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_PARALLEL_GRADIENT_COLLECTOR_H_
