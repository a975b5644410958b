// Where a model keeps what it computes: one arena for the activations and workspace of its layers,
// laid out by shapes alone. The worker takes its pointers from this very plan (worker/model), and
// the memory plan prints its lines, so the two cannot disagree. Pure.
//
//   A slot holds what one micro-batch in flight keeps from forward to backward: tokens, targets,
//   the stream between layers, what the layers keep. A pipeline has several in flight, everybody
//   else one.
//   Workspace is shared: only one layer computes at a time, so all of them use the same bytes.
//
// Offsets are bytes from the start of the arena. Each buffer begins on 64 bytes.

#ifndef DSRUN_COMMON_PLAN_ACTIVATION_PLAN_H_
#define DSRUN_COMMON_PLAN_ACTIVATION_PLAN_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "common/model/model_plan.h"
#include "common/plan/planned_buffer.h"

namespace dsrun {

struct ActivationInput {
  int64_t micro_batch_size = 1;  // sequences
  int64_t threads = 1;
  int64_t slots = 1;
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

  const Slot& slot(size_t index) const { return slots_[index]; }
  // By the kind's Work.
  const std::vector<int64_t>& workspace(size_t layer) const { return workspace_[layer]; }
  // The gradient of the stream, (rows, width): backward carries it from layer to layer.
  int64_t stream_gradient() const { return stream_gradient_; }
  int64_t total_bytes() const { return total_bytes_; }
  // For people, and for the memory plan: what adds up to total_bytes(). A line stands for the
  // buffers of one name in all layers and slots.
  const std::vector<PlannedBuffer>& lines() const { return lines_; }

 private:
  int64_t Elements(const PlannedActivation& activation) const;
  // The offset of a new buffer.
  int64_t Place(int64_t bytes);
  void PlaceSlot(const ModelPlan& model);
  void PlaceWorkspace(const ModelPlan& model);
  void AddLine(const std::string& group, const std::string& name, int64_t elements,
               int64_t element_bytes, const std::string& formula);

  const ActivationInput input_;
  const int64_t rows_;  // of one micro-batch
  std::vector<Slot> slots_;
  std::vector<std::vector<int64_t>> workspace_;
  int64_t stream_gradient_ = 0;
  int64_t total_bytes_ = 0;
  std::vector<PlannedBuffer> lines_;
};

}  // namespace dsrun

#endif  // DSRUN_COMMON_PLAN_ACTIVATION_PLAN_H_
