#include "common/plan/gather_plan.h"

#include <algorithm>
#include <limits>
#include <set>

#include "common/plan/interval_packing.h"

namespace dsrun {
namespace {

constexpr int64_t kFloatBytes = 4;
constexpr int64_t kMostPersistent = 100000;  // DeepSpeed's default
constexpr int64_t kAll = std::numeric_limits<int64_t>::max();

int64_t Elements(const FlatLayout& layout, size_t tensor) {
  return layout.entries()[tensor].padded().size();
}

// A tensor in the pool, from its gather to its last use.
struct Residency {
  size_t tensor;
  size_t first_use;
  size_t gathered_at;
  size_t last_use;
};

class Planner {
 public:
  Planner(const ModelPlan& model, const FlatLayout& layout, const ZeroSettings& settings)
      : model_(model), layout_(layout), settings_(settings) {}

  GatherPlan Plan(size_t lowest_layer, PassKind kind, const std::vector<Range>& segments) {
    ListPositions(lowest_layer, kind, segments);
    FindNeeds();
    DecideWhatStays();
    DecideWhenGathered();
    FindPlaces();
    plan_.most_live = *std::max_element(live_.begin(), live_.end());
    return std::move(plan_);
  }

 private:
  void ListPositions(size_t lowest_layer, PassKind kind, const std::vector<Range>& segments) {
    const size_t layers = model_.layers.size();
    const auto play = [&](size_t layer, bool backward) {
      plan_.positions.push_back({.layer = layer, .backward = backward, .offsets = {}});
    };
    for (size_t layer = 0; layer < layers; ++layer) play(layer, /*backward=*/false);
    const bool training = kind == PassKind::kTraining;
    const size_t lowest = training ? lowest_layer : layers - 1;
    for (size_t layer = layers; layer-- > lowest;) {
      for (const Range& segment : segments) {
        if (!training || static_cast<size_t>(segment.end) != layer + 1) continue;
        for (int64_t again = segment.begin; again < segment.end; ++again) {
          play(static_cast<size_t>(again), /*backward=*/false);
        }
      }
      play(layer, training);
    }
  }

  bool Persistent(size_t tensor) const {
    return layout_.entries()[tensor].tensor.size() < settings_.persistence_threshold;
  }

  // What each position cannot do without; no bound is below the largest of them.
  void FindNeeds() {
    for (const GatherPlan::Position& position : plan_.positions) {
      std::vector<size_t>& needs = needs_.emplace_back();
      int64_t elements = 0;
      for (const size_t tensor : model_.layers[position.layer].uses) {
        if (Persistent(tensor) || std::count(needs.begin(), needs.end(), tensor) > 0) continue;
        needs.push_back(tensor);
        elements += Elements(layout_, tensor);
      }
      live_.push_back(elements);
    }
    used_ = live_;
    limit_ = std::max(settings_.max_live_parameters, *std::max_element(live_.begin(), live_.end()));
  }

  // From use to use, in the order in which they would be released.
  void DecideWhatStays() {
    residency_.resize(needs_.size());
    for (size_t at = 0; at < needs_.size(); ++at) {
      for (const size_t tensor : needs_[at]) {
        const size_t mine = ResidencyAt(tensor, at);
        residency_[at].push_back(mine);
        const size_t next = NextUse(tensor, at);
        if (next < needs_.size() && MayStay(tensor, at, next)) all_[mine].last_use = next;
      }
    }
  }

  size_t ResidencyAt(size_t tensor, size_t at) {
    for (size_t index = 0; index < all_.size(); ++index) {
      if (all_[index].tensor == tensor && all_[index].last_use == at) return index;
    }
    all_.push_back({.tensor = tensor, .first_use = at, .gathered_at = at, .last_use = at});
    return all_.size() - 1;
  }

  size_t NextUse(size_t tensor, size_t after) const {
    size_t at = after + 1;
    while (at < needs_.size() && std::count(needs_[at].begin(), needs_[at].end(), tensor) == 0) {
      ++at;
    }
    return at;
  }

  // If so, it counts as live between.
  bool MayStay(size_t tensor, size_t from, size_t next) {
    const int64_t elements = Elements(layout_, tensor);
    int64_t distance = 0;
    for (size_t at = from + 1; at < next; ++at) {
      distance += used_[at];
      if (distance > settings_.max_reuse_distance || live_[at] + elements > limit_) return false;
    }
    for (size_t at = from + 1; at < next; ++at) live_[at] += elements;
    return true;
  }

  // What is gathered for position `at`.
  std::vector<size_t> GatheredFor(size_t at) const {
    std::vector<size_t> gathered;
    for (const size_t index : residency_[at]) {
      if (all_[index].first_use == at) gathered.push_back(index);
    }
    return gathered;
  }

  // In the order of use, as early as the bounds allow.
  void DecideWhenGathered() {
    size_t next = 0;  // the first position whose gather is not enqueued
    int64_t ahead = 0;
    std::vector<int64_t> enqueued(needs_.size(), 0);  // elements, by the position they are for
    for (size_t at = 0; at < needs_.size(); ++at) {
      ahead -= enqueued[at];  // 0 unless it was enqueued earlier
      for (; next < needs_.size(); ++next) {
        const std::vector<size_t> group = GatheredFor(next);
        int64_t elements = 0;
        for (const size_t index : group) elements += Elements(layout_, all_[index].tensor);
        if (next > at) {
          if (elements > settings_.prefetch - ahead || !FitsBetween(at, next, elements)) break;
          for (size_t early = at; early < next; ++early) live_[early] += elements;
          ahead += elements;
          enqueued[next] = elements;
        }
        if (group.empty()) continue;
        GatherPlan::Gather gather{.at = at, .for_ = next, .tensors = {}};
        for (const size_t index : group) {
          all_[index].gathered_at = at;
          gather.tensors.push_back({all_[index].tensor, 0});
        }
        plan_.gathers.push_back(std::move(gather));
        plan_.gathered_elements += elements;
      }
    }
  }

  bool FitsBetween(size_t from, size_t to, int64_t elements) const {
    return std::all_of(live_.begin() + static_cast<std::ptrdiff_t>(from),
                       live_.begin() + static_cast<std::ptrdiff_t>(to),
                       [&](int64_t live) { return live + elements <= limit_; });
  }

  void FindPlaces() {
    std::vector<PackedBuffer> buffers;
    for (const Residency& one : all_) {
      buffers.push_back(
          {.bytes = Elements(layout_, one.tensor) * kFloatBytes,
           .life = {static_cast<int64_t>(one.gathered_at), static_cast<int64_t>(one.last_use)}});
    }
    plan_.pool_elements = buffers.empty() ? 0 : PackIntervals(buffers) / kFloatBytes;
    const auto place = [&](size_t tensor, size_t at) -> int64_t {
      for (const size_t index : residency_[at]) {
        if (all_[index].tensor == tensor) return buffers[index].offset / kFloatBytes;
      }
      return -1;
    };
    for (size_t at = 0; at < plan_.positions.size(); ++at) {
      GatherPlan::Position& position = plan_.positions[at];
      for (const size_t tensor : model_.layers[position.layer].uses) {
        position.offsets.push_back(place(tensor, at));
      }
    }
    for (GatherPlan::Gather& gather : plan_.gathers) {
      for (GatherPlan::Place& to : gather.tensors) to.offset = place(to.tensor, gather.for_);
    }
  }

  const ModelPlan& model_;
  const FlatLayout& layout_;
  const ZeroSettings& settings_;
  GatherPlan plan_;
  std::vector<Residency> all_;
  int64_t limit_ = 0;
  // By position.
  std::vector<std::vector<size_t>> needs_;      // tensors
  std::vector<std::vector<size_t>> residency_;  // of them, of all_
  std::vector<int64_t> used_;                   // elements of needs_
  std::vector<int64_t> live_;                   // elements in the pool, as far as is decided
};

}  // namespace

ZeroSettings WithDefaults(ZeroSettings settings, const ModelPlan& model, const FlatLayout& layout) {
  const auto otherwise = [](int64_t& setting, int64_t value) {
    if (setting < 0) setting = value;
  };
  int64_t largest_tensor = 0, largest_layer = 0;
  for (const FlatLayout::Entry& entry : layout.entries()) {
    largest_tensor = std::max(largest_tensor, entry.tensor.size());
  }
  for (const LayerPlan& layer : model.layers) {
    int64_t elements = 0;
    for (const size_t tensor : std::set<size_t>(layer.uses.begin(), layer.uses.end())) {
      elements += Elements(layout, tensor);
    }
    largest_layer = std::max(largest_layer, elements);
  }
  otherwise(settings.persistence_threshold, std::min(kMostPersistent, largest_tensor / 64));
  otherwise(settings.prefetch, largest_layer);
  otherwise(settings.max_live_parameters, 2 * largest_layer);
  otherwise(settings.max_reuse_distance, largest_layer);
  otherwise(settings.sub_group_size, kAll);
  // Whole leaves, as all that is summed.
  if (settings.sub_group_size < kAll - kLeafElements) {
    settings.sub_group_size = std::max<int64_t>(
        (settings.sub_group_size + kLeafElements - 1) / kLeafElements * kLeafElements,
        kLeafElements);
  }
  return settings;
}

std::vector<size_t> PersistentTensors(const FlatLayout& layout, int64_t persistence_threshold) {
  std::vector<size_t> tensors;
  for (size_t index = 0; index < layout.entries().size(); ++index) {
    if (layout.entries()[index].tensor.size() < persistence_threshold) tensors.push_back(index);
  }
  return tensors;
}

int64_t PersistentElements(const FlatLayout& layout, int64_t persistence_threshold) {
  int64_t elements = 0;
  for (const size_t tensor : PersistentTensors(layout, persistence_threshold)) {
    elements += Elements(layout, tensor);
  }
  return elements;
}

GatherPlan PlanGathers(const ModelPlan& model, const FlatLayout& layout, size_t lowest_layer,
                       PassKind kind, const ZeroSettings& settings,
                       const std::vector<Range>& segments) {
  return Planner(model, layout, settings).Plan(lowest_layer, kind, segments);
}

}  // namespace dsrun
