// SumPlaces: where a rank's sums over the batch stand before they are reduced, bucket by bucket,
// and in which order backward fills them. Pure.
//
//   held      the sum has a place of its own for the whole step. So where several contributions of
//             this rank are added: the rank has several atoms a step, or the bucket has a tensor
//             that several layers use (a tied one: from its first use to its last).
//   passing   the rank has one contribution for every element. Nothing is added, so it goes as it
//             is from backward's window into a slot, and on to the wire: the slot is used again as
//             soon as its bucket is reduced. Where that takes longer than backward, backward waits.
//
// A plan is played: visits(layer) is what the end of a layer's backward does. Buckets are finished
// in their order, whatever stands where, so ranks that hold and ranks that pass say the same on the
// wire. What is decided here follows from the number of atoms and the model alone.

#ifndef DSRUN_COMMON_PLAN_SUM_PLACES_H_
#define DSRUN_COMMON_PLAN_SUM_PLACES_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "common/base/range.h"
#include "common/plan/gradient_space.h"
#include "common/plan/shard_plan.h"

namespace dsrun {

class SumPlaces {
 public:
  // One is filled, two are on their way: one more than the communication thread can work on, so
  // that it does not wait for the next.
  static constexpr int64_t kPassingAtOnce = 3;

  // `buckets`: ShardPlan's; `atoms`: of this rank in a step.
  SumPlaces(const FlatLayout& layout, const std::vector<Range>& buckets, const GradientSpace& space,
            int64_t atoms);
  SumPlaces(const FlatLayout& layout, const ShardPlan& shards, const GradientSpace& space,
            int64_t atoms)
      : SumPlaces(layout, shards.buckets(), space, atoms) {}

  // A contribution's part in one bucket.
  struct Piece {
    size_t use;  // of the layer
    Range flat;
    bool first;  // of the atom's contributions to these elements
  };
  struct Visit {
    size_t bucket;
    // Had the slot before, in this step: it must be reduced first.
    std::optional<size_t> slot_after;
    std::vector<Piece> pieces;
    // After the pieces, and those of the visits before, all from here up is final.
    int64_t final_from;
  };
  // Of the layers, from the last to the first.
  const std::vector<Visit>& visits(size_t layer) const { return visits_[layer]; }

  struct Place {
    bool passing;
    int64_t offset;  // elements: of the bucket's first, in the held ones or in the slots
  };
  const Place& place(size_t bucket) const { return places_[bucket]; }
  // Every tensor in it is used once: a rank with one atom has one contribution for each element.
  bool used_once(size_t bucket) const { return used_once_[bucket]; }

  int64_t held_elements() const { return held_elements_; }
  int64_t slot_elements() const { return slot_elements_; }  // of all slots together

 private:
  void FindPlaces(const std::vector<Range>& buckets, const GradientSpace& space, int64_t atoms);

  std::vector<std::vector<Visit>> visits_;  // by layer
  std::vector<Place> places_;               // by bucket
  std::vector<bool> used_once_;             // by bucket
  int64_t held_elements_ = 0;
  int64_t slot_elements_ = 0;
};

}  // namespace dsrun

#endif  // DSRUN_COMMON_PLAN_SUM_PLACES_H_
