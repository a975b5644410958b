#include "common/plan/sum_places.h"

#include <algorithm>
#include <cassert>
#include <utility>

namespace dsrun {
namespace {

Range Both(Range a, Range b) { return {std::max(a.begin, b.begin), std::min(a.end, b.end)}; }

// The least range of the arena that has all these tensors.
Range SpanOf(const FlatLayout& layout, const std::vector<GradientSpace::Place>& uses) {
  Range span = {layout.size(), 0};
  for (const GradientSpace::Place& use : uses) {
    const Range flat = layout.entries()[use.tensor].flat();
    span = {std::min(span.begin, flat.begin), std::max(span.end, flat.end)};
  }
  return span;
}

// The buckets that meet `span`, as indices [first, second): they lie next to each other,
// descending.
std::pair<size_t, size_t> BucketsOf(const std::vector<Range>& buckets, Range span) {
  const auto first = std::partition_point(buckets.begin(), buckets.end(), [&](const Range& bucket) {
    return bucket.begin >= span.end;
  });
  const auto end = std::partition_point(
      first, buckets.end(), [&](const Range& bucket) { return bucket.end > span.begin; });
  return {static_cast<size_t>(first - buckets.begin()), static_cast<size_t>(end - buckets.begin())};
}

// Slots are given out in the order in which backward needs them.
class Slots {
 public:
  // For a bucket of `elements`; those below `handed_over` have been given to the communication
  // thread, and only they ever leave their slots. `after`: who had it before.
  size_t Take(size_t bucket, int64_t elements, size_t handed_over, std::optional<size_t>* after) {
    auto oldest = slots_.end();
    int64_t on_their_way = 0;
    for (auto slot = slots_.begin(); slot != slots_.end(); ++slot) {
      if (slot->bucket >= handed_over) continue;
      ++on_their_way;
      if (oldest == slots_.end() || slot->bucket < oldest->bucket) oldest = slot;
    }
    if (on_their_way < SumPlaces::kPassingAtOnce) {
      oldest = slots_.insert(slots_.end(), Slot{});
    } else {
      *after = oldest->bucket;
    }
    oldest->bucket = bucket;
    oldest->elements = std::max(oldest->elements, elements);
    return static_cast<size_t>(oldest - slots_.begin());
  }

  // Of a slot, one after the other; that of the end is the size of all.
  int64_t Offset(size_t slot) const {
    int64_t offset = 0;
    for (size_t before = 0; before < slot; ++before) offset += slots_[before].elements;
    return offset;
  }
  size_t count() const { return slots_.size(); }

 private:
  struct Slot {
    size_t bucket = 0;  // that has it now
    int64_t elements = 0;
  };
  std::vector<Slot> slots_;
};

}  // namespace

SumPlaces::SumPlaces(const FlatLayout& layout, const std::vector<Range>& buckets,
                     const GradientSpace& space, int64_t atoms)
    : visits_(space.layers()) {
  const std::vector<int64_t> uses_of_tensor = space.Contributions(/*atoms=*/1);
  for (const Range& bucket : buckets) {
    bool once = true;
    layout.ForTensors(bucket,
                      [&](size_t tensor, Range) { once = once && uses_of_tensor[tensor] == 1; });
    used_once_.push_back(once);
  }
  std::vector<bool> begun(uses_of_tensor.size());
  for (size_t layer = space.layers(); layer-- > 0;) {
    const std::vector<GradientSpace::Place>& uses = space.uses(layer);
    std::vector<bool> first;
    for (const GradientSpace::Place& use : uses) {
      first.push_back(!begun[use.tensor]);
      begun[use.tensor] = true;
    }
    const auto [first_bucket, end_bucket] = BucketsOf(buckets, SpanOf(layout, uses));
    for (size_t bucket = first_bucket; bucket < end_bucket; ++bucket) {
      const Range within = buckets[bucket];
      std::vector<Piece> pieces;
      for (size_t use = 0; use < uses.size(); ++use) {
        const Range flat = Both(layout.entries()[uses[use].tensor].flat(), within);
        if (!flat.empty()) pieces.push_back({use, flat, first[use]});
      }
      if (pieces.empty()) continue;
      visits_[layer].push_back({.bucket = bucket,
                                .slot_after = std::nullopt,
                                .pieces = std::move(pieces),
                                .final_from = std::max(space.FinalFrom(layer), within.begin)});
    }
  }
  FindPlaces(buckets, space, atoms);
}

void SumPlaces::FindPlaces(const std::vector<Range>& buckets, const GradientSpace& space,
                           int64_t atoms) {
  // One after the other from the start of the arena: where all are held they are the arena.
  places_.resize(buckets.size());
  for (size_t bucket = buckets.size(); bucket-- > 0;) {
    const bool passing = atoms == 1 && used_once_[bucket];
    places_[bucket] = {passing, held_elements_};
    if (!passing) held_elements_ += buckets[bucket].size();
  }
  Slots slots;
  std::vector<std::optional<size_t>> slot_of(buckets.size());
  size_t handed_over = 0;
  const auto hand_over = [&](int64_t final_from) {
    while (handed_over < buckets.size() && buckets[handed_over].begin >= final_from) ++handed_over;
  };
  for (size_t layer = visits_.size(); layer-- > 0;) {
    for (Visit& visit : visits_[layer]) {
      std::optional<size_t>& slot = slot_of[visit.bucket];
      if (places_[visit.bucket].passing && !slot) {
        slot =
            slots.Take(visit.bucket, buckets[visit.bucket].size(), handed_over, &visit.slot_after);
      }
      hand_over(visit.final_from);
    }
    hand_over(space.FinalFrom(layer));
  }
  for (size_t bucket = 0; bucket < buckets.size(); ++bucket) {
    if (slot_of[bucket]) places_[bucket].offset = slots.Offset(*slot_of[bucket]);
  }
  slot_elements_ = slots.Offset(slots.count());
}

}  // namespace dsrun
