#include "common/plan/recompute_plan.h"

#include <algorithm>
#include <cstddef>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/base/units.h"

namespace dsrun {
namespace {

constexpr int64_t kAlignBytes = 64;  // of activation_plan.h

int64_t Aligned(int64_t bytes) { return (bytes + kAlignBytes - 1) / kAlignBytes * kAlignBytes; }

// Layers of one block; the embedding stands before the first, the head behind the last.
int64_t LayersOfBlock(const ModelPlan& model) {
  return (static_cast<int64_t>(model.layers.size()) - 2) / model.spec.num_layers;
}

Range LayersOfBlocks(const ModelPlan& model, int64_t begin, int64_t end) {
  const int64_t layers = LayersOfBlock(model);
  return {1 + begin * layers, 1 + end * layers};
}

// The lowest `blocks`, each by itself.
std::vector<Range> Lowest(const ModelPlan& model, int64_t blocks) {
  std::vector<Range> segments;
  for (int64_t i = 0; i < blocks; ++i) segments.push_back(LayersOfBlocks(model, i, i + 1));
  return segments;
}

}  // namespace

std::vector<Range> RecomputedSegments(const ModelPlan& model, int64_t rows, int64_t slots,
                                      const Recompute& recompute) {
  const int64_t blocks = model.spec.num_layers;
  std::vector<Range> segments;
  if (!recompute.any()) return segments;
  if (recompute.every > 0) {
    for (int64_t begin = 0; begin < blocks;) {
      const int64_t end = begin + std::min(recompute.every, blocks - begin);
      segments.push_back(LayersOfBlocks(model, begin, end));
      begin = end;
    }
    return segments;
  }
  // Blocks are alike.
  const int64_t all = KeptBytes(model, rows, slots, {});
  const int64_t saved_by_one = all - KeptBytes(model, rows, slots, Lowest(model, 1));
  const int64_t over = std::max<int64_t>(0, all - recompute.budget_bytes);
  return Lowest(model, std::min(blocks, (over + saved_by_one - 1) / saved_by_one));
}

int64_t KeptBytes(const ModelPlan& model, int64_t rows, int64_t slots,
                  const std::vector<Range>& segments) {
  const auto layers = static_cast<int64_t>(model.layers.size());
  const auto kept_of = [&](int64_t layer) {
    int64_t bytes = 0;
    for (const PlannedActivation& kept : model.layers[static_cast<size_t>(layer)].kept) {
      bytes += Aligned(rows * kept.elements * BytesOf(kept.dtype.value_or(model.dtype)));
    }
    return bytes;
  };
  const int64_t stream = Aligned(rows * model.spec.hidden_size * BytesOf(model.dtype));
  int64_t bytes = (layers - 1) * stream;
  for (int64_t layer = 0; layer < layers; ++layer) bytes += kept_of(layer);
  for (const Range& segment : segments) {
    bytes -= (segment.size() - 1) * stream;
    for (int64_t layer = segment.begin; layer < segment.end; ++layer) bytes -= kept_of(layer);
  }
  return slots * bytes;
}

double RecomputedFlopsOfToken(const ModelPlan& model, const std::vector<Range>& segments) {
  double flops = 0;
  for (const Range& segment : segments) {
    for (int64_t layer = segment.begin; layer < segment.end; ++layer) {
      flops += model.layers[static_cast<size_t>(layer)].flops_of_token;
    }
  }
  return flops;
}

int64_t BlocksOf(const ModelPlan& model, const std::vector<Range>& segments) {
  int64_t layers = 0;
  for (const Range& segment : segments) layers += segment.size();
  return layers / LayersOfBlock(model);
}

Recompute BudgetForBlocks(const ModelPlan& model, int64_t rows, int64_t slots, int64_t blocks) {
  std::vector<Range> segments = RecomputedSegments(model, rows, slots, {.every = 1});
  segments.resize(static_cast<size_t>(blocks));
  return {.budget_bytes = KeptBytes(model, rows, slots, segments)};
}

std::optional<int64_t> FewestBlocks(int64_t most, const std::function<bool(int64_t)>& fits) {
  if (!fits(most)) return std::nullopt;
  int64_t too_few = 0;
  int64_t enough = most;
  while (enough - too_few > 1) {
    const int64_t middle = too_few + (enough - too_few) / 2;
    (fits(middle) ? enough : too_few) = middle;
  }
  return enough;
}

absl::Status CheckRecompute(const ModelPlan& model, int64_t rows, int64_t slots,
                            const Recompute& recompute) {
  if (recompute.every < 0 || recompute.budget_bytes < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("recomputation: expected numbers of at least 0, got every ", recompute.every,
                     " and a budget of ", recompute.budget_bytes, " bytes"));
  }
  if (recompute.every > 0 && recompute.budget_bytes > 0) {
    return absl::InvalidArgumentError(
        "recomputation: expected every or a budget, got both; give one of them");
  }
  if (recompute.budget_bytes == 0) return absl::OkStatus();
  const int64_t least =
      KeptBytes(model, rows, slots, RecomputedSegments(model, rows, slots, {.every = 1}));
  if (recompute.budget_bytes >= least) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "a budget of ", BytesText(recompute.budget_bytes),
      " for kept activations is less than the inputs of all layers, which stay: ", least,
      " bytes (", BytesText(least), "); give at least that, or a smaller micro-batch"));
}

}  // namespace dsrun
