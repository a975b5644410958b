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

// Slots are given out in the order in which backward needs them. They are named by their number.
class Slots {
 public:
  // A slot for a part of `elements`. Only parts that were given to the communication thread ever
  // leave theirs. `after`: the one that had it before; none: nobody had, in this round.
  size_t Take(int64_t elements, std::optional<size_t>* after) {
    auto oldest = slots_.end();
    int64_t on_their_way = 0;
    for (auto slot = slots_.begin(); slot != slots_.end(); ++slot) {
      if (!slot->handed_over) continue;
      ++on_their_way;
      if (oldest == slots_.end() || *slot->handed_over < *oldest->handed_over) oldest = slot;
    }
    if (on_their_way < SumPlaces::kPassingAtOnce) oldest = slots_.insert(slots_.end(), Slot{});
    *after = std::exchange(oldest->handed_over, std::nullopt);
    oldest->elements = std::max(oldest->elements, elements);
    return static_cast<size_t>(oldest - slots_.begin());
  }
  void HandOver(size_t slot, size_t part) { slots_[slot].handed_over = part; }
  std::optional<size_t> last_part(size_t slot) const { return slots_[slot].handed_over; }

  // One after the other; that of the end is the size of all.
  int64_t Offset(size_t slot) const {
    int64_t offset = 0;
    for (size_t before = 0; before < slot; ++before) offset += slots_[before].elements;
    return offset;
  }
  size_t count() const { return slots_.size(); }

 private:
  struct Slot {
    std::optional<size_t> handed_over;  // the part that has it; none: one that is being filled
    int64_t elements = 0;
  };
  std::vector<Slot> slots_;
};

}  // namespace

// Plays a backward pass: what it does at the end of each layer becomes the plan.
class SumPlaces::Player {
 public:
  Player(const FlatLayout& layout, const std::vector<Range>& buckets, const GradientSpace& space,
         int64_t atoms, SumPlaces& plan)
      : layout_(layout), buckets_(buckets), space_(space), plan_(plan), slot_of_(buckets.size()) {
    // One after the other from the start of the arena: where all are held they are the arena.
    whole_.resize(buckets.size());
    for (size_t bucket = buckets.size(); bucket-- > 0;) {
      const bool passing = plan.of_owners() || (atoms == 1 && plan.used_once_[bucket]);
      whole_[bucket] = {.bucket = bucket,
                        .range = buckets[bucket],
                        .whole = true,
                        .passing = passing,
                        .offset = plan.held_elements_};
      if (!passing) plan.held_elements_ += buckets[bucket].size();
    }
  }

  void Play() {
    std::vector<size_t> begun(plan_.uses_of_tensor_.size());
    for (size_t layer = space_.layers(); layer-- > 0;) {
      std::vector<size_t> nth;  // by use: contributions of the atom to its tensor before it
      for (const GradientSpace::Place& use : space_.uses(layer)) {
        nth.push_back(begun[use.tensor]++);
      }
      const auto [first, end] = BucketsOf(buckets_, SpanOf(layout_, space_.uses(layer)));
      for (size_t bucket = first; bucket < end; ++bucket) VisitBucket(layer, bucket, nth);
      HandOver(space_.FinalFrom(layer));
      plan_.ready_after_[layer] = plan_.parts_.size();
    }
    HandOver(0);
    Finish();
  }

 private:
  // A visit whose part has its number, and whose slot its last user, only at the end.
  struct Open {
    size_t layer;
    size_t visit;
    std::optional<size_t> bucket;  // of a part that is whole
    std::optional<size_t> first_of_slot;
  };

  void VisitBucket(size_t layer, size_t bucket, const std::vector<size_t>& nth) {
    const std::vector<GradientSpace::Place>& uses = space_.uses(layer);
    std::vector<Piece> pieces;
    for (size_t use = 0; use < uses.size(); ++use) {
      const size_t tensor = uses[use].tensor;
      const Range flat = Both(layout_.entries()[tensor].flat(), buckets_[bucket]);
      if (flat.empty()) continue;
      const Piece piece{use, flat, nth[use] == 0};
      const bool last = static_cast<int64_t>(nth[use]) + 1 == plan_.uses_of_tensor_[tensor];
      if (plan_.of_owners() && !last) {
        PassEarlierUse(layer, bucket, piece, nth[use]);
      } else {
        pieces.push_back(piece);
      }
    }
    if (pieces.empty()) return;
    Open open{.layer = layer,
              .visit = plan_.visits_[layer].size(),
              .bucket = bucket,
              .first_of_slot = std::nullopt};
    Visit visit{.part = 0,
                .slot_after = std::nullopt,
                .slot_after_round = std::nullopt,
                .pieces = std::move(pieces),
                .ready = 0};
    if (whole_[bucket].passing && !slot_of_[bucket]) {
      slot_of_[bucket] = TakeSlot(buckets_[bucket].size(), visit, open);
    }
    HandOver(std::max(space_.FinalFrom(layer), buckets_[bucket].begin));
    visit.ready = plan_.parts_.size();
    plan_.visits_[layer].push_back(std::move(visit));
    open_.push_back(open);
  }

  // It goes on at once, for itself.
  void PassEarlierUse(size_t layer, size_t bucket, const Piece& piece, size_t nth) {
    const FlatLayout::Entry& entry = layout_.entries()[space_.uses(layer)[piece.use].tensor];
    Part part{.bucket = bucket, .range = piece.flat, .whole = false, .use = nth, .passing = true};
    if (piece.flat.end == entry.flat().end) part.range.end = entry.padded().end;
    Open open{.layer = layer,
              .visit = plan_.visits_[layer].size(),
              .bucket = std::nullopt,
              .first_of_slot = std::nullopt};
    Visit visit{.part = plan_.parts_.size(),
                .slot_after = std::nullopt,
                .slot_after_round = std::nullopt,
                .pieces = {piece},
                .ready = plan_.parts_.size() + 1};
    const size_t slot = TakeSlot(part.range.size(), visit, open);
    slots_.HandOver(slot, visit.part);
    slot_of_part_.push_back(slot);
    plan_.parts_.push_back(part);
    plan_.visits_[layer].push_back(std::move(visit));
    open_.push_back(open);
  }

  size_t TakeSlot(int64_t elements, Visit& visit, Open& open) {
    const size_t slot = slots_.Take(elements, &visit.slot_after);
    if (!visit.slot_after) open.first_of_slot = slot;
    return slot;
  }

  // Everything from `final_from` of the arena up is in.
  void HandOver(int64_t final_from) {
    for (; next_ < buckets_.size() && buckets_[next_].begin >= final_from; ++next_) {
      part_of_.push_back(plan_.parts_.size());
      if (slot_of_[next_]) slots_.HandOver(*slot_of_[next_], plan_.parts_.size());
      slot_of_part_.push_back(slot_of_[next_]);
      plan_.parts_.push_back(whole_[next_]);
    }
  }

  void Finish() {
    for (const Open& open : open_) {
      Visit& visit = plan_.visits_[open.layer][open.visit];
      if (open.bucket) visit.part = part_of_[*open.bucket];
      if (open.first_of_slot) visit.slot_after_round = slots_.last_part(*open.first_of_slot);
    }
    for (size_t part = 0; part < plan_.parts_.size(); ++part) {
      if (slot_of_part_[part]) plan_.parts_[part].offset = slots_.Offset(*slot_of_part_[part]);
    }
    plan_.slot_elements_ = slots_.Offset(slots_.count());
  }

  const FlatLayout& layout_;
  const std::vector<Range>& buckets_;
  const GradientSpace& space_;
  SumPlaces& plan_;
  Slots slots_;
  std::vector<Part> whole_;                          // by bucket
  std::vector<std::optional<size_t>> slot_of_;       // by bucket
  std::vector<size_t> part_of_;                      // by bucket
  std::vector<std::optional<size_t>> slot_of_part_;  // by part
  std::vector<Open> open_;
  size_t next_ = 0;  // bucket that was not handed over
};

SumPlaces::SumPlaces(const FlatLayout& layout, const std::vector<Range>& buckets,
                     const GradientSpace& space, int64_t atoms, ZeroPart sums)
    : sums_(sums),
      uses_of_tensor_(space.Contributions(/*atoms=*/1)),
      visits_(space.layers()),
      ready_after_(space.layers()) {
  for (const Range& bucket : buckets) {
    bool once = true;
    layout.ForTensors(bucket,
                      [&](size_t tensor, Range) { once = once && uses_of_tensor_[tensor] == 1; });
    used_once_.push_back(once);
  }
  Player(layout, buckets, space, atoms, *this).Play();
}

}  // namespace dsrun
