// SumPlaces: where a rank's sums over the batch stand before they are reduced, part by part, and in
// which order backward fills them. Pure.
//
//   held      the sum has a place of its own for the whole step. So where several contributions of
//             this rank are added: the rank has several atoms a step, or the bucket has a tensor
//             that several layers use (a tied one: from its first use to its last).
//   passing   the rank has one contribution for every element. Nothing is added, so it goes as it
//             is from backward's window into a slot, and on to the wire: the slot is used again as
//             soon as its part is reduced. Where that takes longer than backward, backward waits.
//
// What is reduced at a time, a part, is a bucket. Where the owners alone hold sums (ZeRO-2) all
// passes, of every atom: the same parts again in each round (step_rounds.h). There a tensor that
// several layers use goes on once a use: the last one of backward in its bucket, each earlier one
// as a part of its own, so that nobody but the owner adds the two.
//
// A plan is played: visits(layer) is what the end of a layer's backward does. Parts are finished in
// their order, whatever stands where, so ranks that hold and ranks that pass say the same on the
// wire. What is decided here follows from the number of atoms, the stage and the model alone.

#ifndef DSRUN_COMMON_PLAN_SUM_PLACES_H_
#define DSRUN_COMMON_PLAN_SUM_PLACES_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "common/base/range.h"
#include "common/plan/gradient_space.h"
#include "common/plan/shard_plan.h"
#include "common/plan/zero_stage.h"

namespace dsrun {

class SumPlaces {
 public:
  // One is filled, two are on their way: one more than the communication thread can work on, so
  // that it does not wait for the next.
  static constexpr int64_t kPassingAtOnce = 3;

  // `buckets`: ShardPlan's. `atoms`: of this rank in a step; not read where the owners hold the
  // sums
  // (`sums`). REQUIRES: there every trainable tensor is used.
  SumPlaces(const FlatLayout& layout, const std::vector<Range>& buckets, const GradientSpace& space,
            int64_t atoms, ZeroPart sums = ZeroPart::kAll);
  SumPlaces(const FlatLayout& layout, const ShardPlan& shards, const GradientSpace& space,
            int64_t atoms, ZeroPart sums = ZeroPart::kAll)
      : SumPlaces(layout, shards.buckets(), space, atoms, sums) {}

  // What is reduced at a time.
  struct Part {
    size_t bucket;
    Range range;     // whole leaves: the bucket's, where it is `whole`
    bool whole;      // the last part of its bucket, and but for earlier uses the only one
    size_t use = 0;  // of an earlier use: which one of its tensor, in the order of backward
    bool passing = false;
    int64_t offset = 0;  // elements: of the first of range, in the held ones or in the slots
  };
  // In the order in which they are finished. Those that are whole are in the order of buckets.
  const std::vector<Part>& parts() const { return parts_; }
  // The part has the first contribution of an atom to the elements of `tensor`, one of its.
  bool IsFirst(const Part& part, size_t tensor) const {
    return part.whole ? uses_of_tensor_[tensor] == 1 : part.use == 0;
  }

  // A contribution's piece of one part.
  struct Piece {
    size_t use;  // of the layer
    Range flat;
    bool first;  // of the atom's contributions to these elements
  };
  struct Visit {
    size_t part;
    // Had the slot before, in this round: it must be reduced first.
    std::optional<size_t> slot_after;
    // Had it last in a round, where this one is the first to have it: that of the round before.
    std::optional<size_t> slot_after_round;
    std::vector<Piece> pieces;
    // After the pieces, and those of the visits before, the parts below are whole.
    size_t ready;
  };
  // Of the layers, from the last to the first.
  const std::vector<Visit>& visits(size_t layer) const { return visits_[layer]; }
  // After the layer's visits, the parts below are whole.
  size_t ready_after(size_t layer) const { return ready_after_[layer]; }

  // Every tensor in it is used once: a rank with one atom has one contribution for each element.
  bool used_once(size_t bucket) const { return used_once_[bucket]; }
  bool of_owners() const { return sums_ == ZeroPart::kOwned; }
  // of_owners(): the bucket gets several contributions in a step of `rounds`, which its owner adds.
  bool IsSummed(size_t bucket, int64_t rounds) const { return rounds > 1 || !used_once_[bucket]; }

  int64_t held_elements() const { return held_elements_; }
  int64_t slot_elements() const { return slot_elements_; }  // of all slots together

 private:
  class Player;

  const ZeroPart sums_;
  const std::vector<int64_t> uses_of_tensor_;
  std::vector<std::vector<Visit>> visits_;  // by layer
  std::vector<size_t> ready_after_;         // by layer
  std::vector<Part> parts_;
  std::vector<bool> used_once_;  // by bucket
  int64_t held_elements_ = 0;
  int64_t slot_elements_ = 0;
};

}  // namespace dsrun

#endif  // DSRUN_COMMON_PLAN_SUM_PLACES_H_
