#include "launcher/commands/recompute_text.h"

#include <cstdint>
#include <cstdio>
#include <vector>

#include "common/base/units.h"
#include "common/model/model_plan.h"
#include "common/model/model_spec_proto.h"
#include "common/plan/activation_plan.h"
#include "common/plan/memory_input.h"
#include "common/plan/recompute_plan.h"

namespace dsrun::launcher {

std::string RecomputeText(const proto::TrainSpec& train) {
  const Recompute recompute = FromProto(train.recompute());
  if (!recompute.any()) return "";
  const ModelPlan model =
      PlanModel(FromProto(train.model()), {}, MemoryInputFromProto(train).precision);
  const int64_t rows = train.micro_batch_size() * model.spec.seq_length;
  const std::vector<Range> segments = RecomputedSegments(model, rows, /*slots=*/1, recompute);
  ActivationInput input{.micro_batch_size = train.micro_batch_size(),
                        .threads = train.threads_per_rank()};
  const int64_t before = ActivationPlan(model, input).total_bytes();
  input.recompute = recompute;
  const int64_t after = ActivationPlan(model, input).total_bytes();
  // Of one step, all ranks together.
  const double flops = RecomputedFlopsOfToken(model, segments) *
                       static_cast<double>(train.global_batch_size() * model.spec.seq_length);
  const double all = TrainFlops(model.spec, train.global_batch_size() * model.spec.seq_length);
  char added[64];
  std::snprintf(added, sizeof(added), "%.3g FLOP a step more (%.1f %%)", flops, 100 * flops / all);
  return std::to_string(BlocksOf(model, segments)) + " of " +
         std::to_string(model.spec.num_layers) + " layers play forward again: kept activations " +
         BytesText(KeptBytes(model, rows, 1, segments)) + " in place of " +
         BytesText(KeptBytes(model, rows, 1, {})) + ", with workspace " + BytesText(after) +
         " in place of " + BytesText(before) + "; " + added;
}

}  // namespace dsrun::launcher
