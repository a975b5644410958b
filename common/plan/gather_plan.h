// When parameters are gathered and let go under ZeRO-3 (Rajbhandari et al., 2020), where a rank
// keeps only its part of them. Pure: a function of the model's plan and the settings, so every rank
// makes the same exchanges in the same order, and memory is known before anything is allocated.
//
// A pass is a list of positions, each one layer played: in training every layer forward, then from
// the last to the lowest backward, where a segment that is recomputed (recompute_plan.h) is played
// forward again before the backward of its last layer. A tensor lies in the pool from the position
// at which its gather is enqueued to its last use; another may use the same bytes before and after.
// Elements below are those of the layout, padding to whole leaves included.
//
// The settings are those of DeepSpeed's stage 3, bounds where it says so:
//   prefetch               gathered ahead of the position that plays, at most; whole layers
//   persistence_threshold  tensors of fewer elements (without padding) stay gathered, outside of
//                          the pool, and are refreshed after an update
//   max_live_parameters    in the pool at a time, at most; a layer that needs more gets it
//   max_reuse_distance     a tensor that is used again stays if the layers between use at most so
//                          many elements, and the bound above allows it. Two positions next to each
//                          other have distance 0: the last layer stays between its passes
//   sub_group_size         elements that the optimizer updates in one call, rounded up to whole
//   leaves

#ifndef DSRUN_COMMON_PLAN_GATHER_PLAN_H_
#define DSRUN_COMMON_PLAN_GATHER_PLAN_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "common/base/range.h"
#include "common/model/model_plan.h"
#include "common/plan/shard_plan.h"

namespace dsrun {

// What is negative is not said: the default of the model.
struct ZeroSettings {
  int64_t prefetch = -1;
  int64_t persistence_threshold = -1;
  int64_t max_live_parameters = -1;
  int64_t max_reuse_distance = -1;
  int64_t sub_group_size = -1;
  friend bool operator==(const ZeroSettings&, const ZeroSettings&) = default;
};

// DeepSpeed's defaults (max live and reuse 1e9, prefetch 5e7, persistence 1e5) would keep a small
// model gathered as a whole. Here they follow the model: persistent is what has fewer elements than
// a 64th of its largest tensor, and never 100,000 or more; one layer of the largest size may be
// ahead of the one that plays, so two are live; what the layers between fit into one of them is
// kept; all is updated in one call.
ZeroSettings WithDefaults(ZeroSettings settings, const ModelPlan& model, const FlatLayout& layout);

enum class PassKind {
  kTraining,     // forward, and backward to the lowest layer that trains
  kForwardOnly,  // forward, and the last layer once more, for loss or logits
};

struct GatherPlan {
  struct Place {
    size_t tensor;   // entry of the layout
    int64_t offset;  // elements, in the pool; whole leaves
  };
  // One exchange.
  struct Gather {
    size_t at;    // enqueued before this position plays
    size_t for_;  // awaited before this one does
    std::vector<Place> tensors;
  };
  struct Position {
    size_t layer;
    bool backward;
    // In the order of the layer's uses; -1: the tensor is persistent.
    std::vector<int64_t> offsets;
  };
  std::vector<Position> positions;
  std::vector<Gather> gathers;    // in the order of `at`, and of `for_`
  int64_t pool_elements = 0;      // what the places need; at least most_live
  int64_t most_live = 0;          // elements, over the positions
  int64_t gathered_elements = 0;  // of all gathers: the traffic of a pass
};

// Entries of the layout that are persistent, ascending.
std::vector<size_t> PersistentTensors(const FlatLayout& layout, int64_t persistence_threshold);
// Their elements, one after the other.
int64_t PersistentElements(const FlatLayout& layout, int64_t persistence_threshold);

// `lowest_layer`: GradientSpace's; `segments`: RecomputedSegments; neither is read for
// kForwardOnly. REQUIRES: settings WithDefaults; layout is that of model.tensors.
GatherPlan PlanGathers(const ModelPlan& model, const FlatLayout& layout, size_t lowest_layer,
                       PassKind kind, const ZeroSettings& settings,
                       const std::vector<Range>& segments = {});

}  // namespace dsrun

#endif  // DSRUN_COMMON_PLAN_GATHER_PLAN_H_
