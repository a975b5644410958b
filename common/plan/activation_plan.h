// Where a model keeps what it computes: one arena for the activations and workspace of its layers,
// laid out by shapes alone. The worker takes its pointers from this very plan (worker/model), and
// the memory plan prints its lines, so the two cannot disagree. Pure.
//
//   A slot holds what one micro-batch in flight keeps from forward to backward: tokens, targets,
//   the stream between layers, what the layers keep. A pipeline has several in flight, everybody
//   else one.
//   Recomputed layers (recompute_plan.h) keep nothing in a slot: what they compute lives until the
//   next layer has read it, then again from where backward plays them forward a second time. Both
//   are buffers that share bytes with all others that are not needed then, those of other segments
//   first of all, and one set serves all slots.
//   Workspace is needed while its layer computes, so it shares bytes with that of other layers and
//   with what is kept earlier or later (interval_packing.h).
//
// Offsets are bytes from the start of the arena. Each buffer begins on 64 bytes.

#ifndef DSRUN_COMMON_PLAN_ACTIVATION_PLAN_H_
#define DSRUN_COMMON_PLAN_ACTIVATION_PLAN_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "common/model/model_plan.h"
#include "common/plan/interval_packing.h"
#include "common/plan/planned_buffer.h"
#include "common/plan/recompute_plan.h"

namespace dsrun {

struct ActivationInput {
  int64_t micro_batch_size = 1;  // sequences
  int64_t threads = 1;
  int64_t slots = 1;
  Recompute recompute = {};
};

class ActivationPlan {
 public:
  struct Slot {
    int64_t tokens;
    int64_t targets;
    std::vector<int64_t> streams;            // the output of each layer but the last
    std::vector<std::vector<int64_t>> kept;  // by layer, by the kind's Kept
  };

  // REQUIRES: every part of `input` is at least 1.
  ActivationPlan(const ModelPlan& model, const ActivationInput& input);

  // Where forward writes.
  const Slot& slot(size_t index) const { return slots_[index]; }
  // Ranges of layers, ascending.
  const std::vector<Range>& segments() const { return segments_; }
  // What a layer of a segment writes when it is played again, and its workspace then.
  struct Replay {
    int64_t out = 0;
    std::vector<int64_t> kept;
    std::vector<int64_t> workspace;
  };
  // By layer; meaningless where the layer is of no segment.
  const Replay& replay(size_t layer) const { return replays_[layer]; }
  // By the kind's Work: in the layer's forward and in its backward.
  const std::vector<int64_t>& forward_workspace(size_t layer) const { return forward_[layer]; }
  const std::vector<int64_t>& backward_workspace(size_t layer) const { return backward_[layer]; }
  // By ModelPlan::tables.
  const std::vector<int64_t>& tables() const { return tables_; }
  // The gradient of the stream, (rows, width): backward carries it from layer to layer.
  int64_t stream_gradient() const { return stream_gradient_; }
  int64_t total_bytes() const { return total_bytes_; }
  // For people, and for the memory plan: what adds up to total_bytes(). A line stands for the
  // buffers of one name in all layers and slots.
  const std::vector<PlannedBuffer>& lines() const { return lines_; }

 private:
  class Packer;
  // Of what the model computes in, unless it says otherwise.
  DType TypeOf(const PlannedActivation& activation) const {
    return activation.dtype.value_or(dtype_);
  }
  int64_t Bytes(const PlannedActivation& activation) const;
  // Of one micro-batch in flight: alive from the layer's forward to its backward; with others
  // beside it, whose passes come in between, always.
  Lifetime KeptBy(size_t layer) const;
  void FindMoments(size_t layers);
  bool IsRecomputed(size_t layer) const { return again_[layer] >= 0; }
  // The stream between `layer` and the next is inside a segment.
  bool IsInside(size_t layer) const;
  void AddReplays(const ModelPlan& model, Packer& packer);
  void AddSlot(const ModelPlan& model, Slot& slot, Packer& packer);
  void AddTables(const ModelPlan& model, Packer& packer);
  void AddWorkspace(const ModelPlan& model, Packer& packer);
  void AddLine(const std::string& name, int64_t bytes, DType dtype, Lifetime life,
               const std::string& formula);

  const ActivationInput input_;
  const DType dtype_;        // what the model computes in
  const int64_t rows_;       // of one micro-batch
  const int64_t positions_;  // of one sequence
  const std::vector<Range> segments_;
  // A moment is a layer's pass: forward from 0 up, then backward from the last layer down; before a
  // segment's backward, its second forward.
  std::vector<int64_t> again_;  // by layer: its second forward, or -1
  std::vector<int64_t> backward_at_;
  int64_t last_moment_ = 0;
  std::vector<Slot> slots_;
  std::vector<std::vector<int64_t>> forward_;  // by layer
  std::vector<std::vector<int64_t>> backward_;
  std::vector<Replay> replays_;  // by layer
  std::vector<int64_t> tables_;
  int64_t stream_gradient_ = 0;
  int64_t total_bytes_ = 0;
  std::vector<PlannedBuffer> lines_;
};

}  // namespace dsrun

#endif  // DSRUN_COMMON_PLAN_ACTIVATION_PLAN_H_
