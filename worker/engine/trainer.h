// Trainer: one rank's training step in one generation. The step reads top to bottom in TrainStep:
// backward of every micro-batch of the rank's atoms, whose gradients go into exact sums,
// reduce-scatter hidden behind the last one, norm, clip, the optimizer on the owned elements,
// all-gather hidden behind the next step's first forward pass.
//
// For one global batch, seed and fingerprint the result has the same bits for every width, every
// assignment of atoms to ranks, every route and bucket size of the reduction, every thread count,
// and with or without overlap (docs/numerics.md); not so with fast sums (batch_sums.h).
//
// Under ZeRO-0 every rank updates all elements, after an all-gather of the reduced gradients, and
// parameters are not gathered. Under ZeRO-2 the owners alone hold sums over the batch, and every
// atom's gradients are reduced behind its backward. Under ZeRO-3 parameters lie with their owners
// and are gathered for each pass (common/plan/zero_stage.h).
//
// A step whose gradients jump beyond the headroom of the sums is void (gradient_exponents.h):
// nothing of it counts, and TrainStep computes it again.
//
// Threads: one thread calls everything. From its first step on the trainer owns the communicator,
// until Settle has returned.

#ifndef DSRUN_WORKER_ENGINE_TRAINER_H_
#define DSRUN_WORKER_ENGINE_TRAINER_H_

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/range.h"
#include "common/model/model_plan.h"
#include "common/numerics/dropout.h"
#include "common/numerics/exact_sum.h"
#include "common/numerics/loss_scaler.h"
#include "common/plan/batch_plan.h"
#include "common/plan/gather_plan.h"
#include "common/plan/gradient_space.h"
#include "common/plan/memory_plan.h"
#include "common/plan/optimizer_plan.h"
#include "common/plan/optimizer_settings.h"
#include "common/plan/shard_plan.h"
#include "common/plan/step_rounds.h"
#include "common/plan/sum_places.h"
#include "common/plan/zero_stage.h"
#include "common/schedule/lr_schedule.h"
#include "proto/job.pb.h"
#include "worker/comm/core/communicator.h"
#include "worker/comm/core/reduce_scatter.h"
#include "worker/device/device.h"
#include "worker/device/kernels.h"
#include "worker/device/reals.h"
#include "worker/engine/trace.h"
#include "worker/model/model.h"
#include "worker/optim/optimizer.h"
#include "worker/parallel/batch_sums.h"
#include "worker/parallel/comm_thread.h"
#include "worker/parallel/gradient_collector.h"
#include "worker/parallel/gradient_exponents.h"
#include "worker/parallel/gradient_reducer.h"
#include "worker/parallel/matrix_updates.h"
#include "worker/parallel/parameter_gatherer.h"
#include "worker/parallel/partitioned_parameters.h"
#include "worker/parallel/replicated_parameters.h"
#include "worker/parallel/sharded_state.h"
#include "worker/parallel/share_gather.h"
#include "worker/parallel/step_exchange.h"
#include "worker/parallel/tensor_norms.h"

namespace dsrun::worker {

// Tokens and targets of training sample `index`, seq_length each, or what else ModelPlan::sample
// says. A pure function of the index.
using SampleFn =
    std::function<void(int64_t index, std::span<int32_t> tokens, std::span<int32_t> targets)>;

struct StepResult {
  int64_t step = 0;  // finished steps, this one included
  double loss = 0;   // nats per token
  double grad_norm = 0;
  double lr = 0;
  int64_t tokens = 0;   // unmasked; 0: nothing was there to learn, nothing was updated
  bool stop = false;    // some rank was asked to stop: all ranks learn it in the same step
  bool saving = false;  // some rank's older save is not through: likewise
  int voids = 0;        // times that it was computed in vain before: 0 or 1
  // Of fp16 (common/numerics/loss_scaler.h). Skipped: a gradient overflowed, and nothing was
  // updated; loss and norm may be no numbers.
  bool skipped = false;
  double loss_scale = 0;  // of the next step; 0: there is none
  std::string note = {};  // what was skipped, for people
  absl::Duration duration;
  absl::Duration reducing;         // gradient reduction
  absl::Duration reducing_hidden;  // of it, inside the backward pass
};

class Trainer {
 public:
  struct Setup {
    const proto::TrainSpec* spec;
    Communicator* communicator;
    Device* device;
    Model* model;
    Kernels* kernels;       // for the calling thread
    Kernels* comm_kernels;  // for the communication thread
    SampleFn sample;
    std::function<bool()> cancelled;  // asked at every layer of the model, in both passes
    // This rank still writes a save, or does not know yet what became of it; empty: never.
    std::function<bool()> saving = nullptr;
    // Memory that outlives this generation: the plan's line for snapshots. Empty: nothing is saved.
    std::function<absl::Status(size_t bytes)> reserve_snapshot = nullptr;
    // How sums travel over the ranks, and which atoms each rank computes, by rank, in this order;
    // empty: its share in order. All ranks are told the same, and have every atom once. Neither
    // changes a bit of exact sums.
    ReduceRoute route = {};
    std::vector<std::vector<int64_t>> atoms = {};
    Trace* trace;
  };

  // Allocates everything of this generation, from the memory plan. The state is not initialised.
  // Errors: INVALID_ARGUMENT: width and batch do not fit, CheckFrozen, the schedule or
  // the optimizer is none, a ZeRO stage that there is not;
  // RESOURCE_EXHAUSTED: memory.
  static absl::StatusOr<std::unique_ptr<Trainer>> Create(const Setup& setup);

  // How long a step of the rank with the most to do would take at the speed of this device now
  // (warm_up.h), without the waiting for others. Only before the first step: uses the gradients'
  // memory. Takes some ten milliseconds, less than two seconds on the slowest machine.
  absl::Duration EstimateStep();

  // A batch in which every target is masked is a step that changes nothing but the counters: loss
  // and norm are 0, parameters and moments stay as they are, to the bit. AdamW with gradients of
  // zero would go on along the old moments and decay the weights, with nothing learned.
  //
  // Errors: the communicator's first one; ABORTED: cancelled; OUT_OF_RANGE: the loss or a gradient
  // is not finite (nothing was updated), in fp16 with a loss scale that cannot become smaller;
  // INVALID_ARGUMENT: a sample has a token or target that the
  // model's vocabulary does not have; INTERNAL: the same step was void twice, so its second
  // computation had other bits than its first.
  absl::StatusOr<StepResult> TrainStep(bool stop_requested);

  // Waits for what the last step left under way: afterwards the parameters of other owners are of
  // that step, too, and the communicator is the caller's. Errors: the communicator's first one, the
  // device's.
  absl::Status Settle();
  // Communicator::SetTimeout, from the next exchange on that is not yet under way.
  void SetExchangeTimeout(absl::Duration timeout);

  // Parameters as a run without a checkpoint begins: what state() has of them; ParametersChanged
  // with it.
  // Errors: the device's.
  absl::Status InitializeParameters(uint64_t seed);
  // Under ZeRO-3, between steps, by all ranks: PartitionedParameters::WithGathered. REQUIRES: it
  // is.
  PartitionedParameters& partitioned() { return *partitioned_; }
  // Whoever has written state().parameters says so, on all ranks, before the next pass, and holds
  // them no more. The communicator is the trainer's from then on, until Settle: where layers read
  // 16 bits, they are gathered now.
  void ParametersChanged();
  // All ranks must take part in passes outside of steps: parameters are gathered for them.
  bool gathers_for_passes() const { return partitioned_ != nullptr; }

  // The arenas of state() are the device's: the host reads and writes them while it holds what this
  // returns, which waits for the kernels' last step. Errors: the device's.
  absl::StatusOr<std::vector<HostAccess>> OpenState() const;
  // Parameters: before the first step, and after Settle; those owned here between any two steps.
  ShardedState& state() { return state_; }
  const ShardedState& state() const { return state_; }
  // For passes outside of steps: after Settle; all ranks play the same where gathers_for_passes().
  ParameterStore& parameters() { return *store_; }
  // Where the points of the exact sums stand: state, like the parameters.
  GradientExponents& exponents() { return exponents_; }
  const GradientExponents& exponents() const { return exponents_; }
  // So do the loss scale and the number of skipped steps, of fp16: kLossScaleValues of them
  // (common/format/model_tensors.h), or none. Errors: DATA_LOSS: they are none.
  std::vector<float> LossScale() const;
  absl::Status RestoreLossScale(std::span<const float> values);
  const FlatLayout& layout() const { return layout_; }
  // The model's own plan: its tensors in its own order, whichever are frozen.
  const ModelPlan& plan() const { return setup_.model->plan(); }
  // What this rank owns of the arena's trainable part: it updates it and has its slots.
  const std::vector<Range>& owned() const { return shards_.Owned(rank_); }
  // What of it has a slot of the optimizer, by number: how state().slots[slot] is laid out.
  const std::vector<Range>& owned_with_slot(size_t slot) const { return with_slot_[slot]; }
  // What it writes into checkpoints: the same, and its part of frozen tensors.
  const std::vector<Range>& stored() const { return shards_.Stored(rank_); }

 private:
  Trainer(const Setup& setup, LrSchedule schedule, OptimizerSettings optimizer,
          const LossScalePolicy& loss_scale);
  absl::Status Allocate();
  absl::Status AllocateSums(const MemoryPlan& plan, uint32_t* magnitudes);
  // Memory of this generation for a line of the plan; the second where another route of the
  // reduction takes another number. Errors: RESOURCE_EXHAUSTED.
  absl::StatusOr<void*> Take(const PlannedBuffer& line);
  absl::StatusOr<void*> Take(const PlannedBuffer& line, int64_t elements);
  absl::Status AllocateParameters(const MemoryPlan& plan);
  // Layers read other memory than the optimizer updates: 16 bits of it.
  bool halves() const { return input_.precision != DType::kF32; }
  // From fp32 to what layers read, where that is another arena.
  void RoundParameters(Range range, const float* from);
  // log2 of what gradients come multiplied by: a loss scale by the tokens of a micro-batch, about.
  int GradientShift() const;
  // What reduced gradients are to be multiplied by: fast sums still have that factor.
  double Unscaled() const;
  void BuildStore();
  int64_t parameter_elements() const {  // of state_
    return state_.partitioned ? shards_.StoredSize(rank_) : layout_.size();
  }
  AtomSizes SizesOfAtoms() const;
  // Gradients and the sums over all ranks; again where the step was void.
  absl::StatusOr<StepExchange::Sums> ComputeStep(bool stop_requested, int* voids);
  // Backward of all micro-batches, and the reduction over the ranks. Fills `part` but for the
  // flags.
  absl::Status ComputeGradients(StepExchange::Part* part);
  // Reads the samples of a micro-batch, and trusts none of their ids.
  absl::Status ReadSamples(int64_t micro_batch);
  struct Place {
    int64_t micro_batch;
    InBatch in_batch;
  };
  // Where a micro-batch's random bits come from: its place in the step, whichever rank computes it.
  PassDraws DrawsOf(int64_t micro_batch) const;
  std::vector<Place> Places() const;
  // Under ZeRO-3, passes of this rank's that are only gathers: another has more micro-batches in
  // the round. Of a round in which it has none, the last hands on nothing where others hand on
  // sums.
  absl::Status PlayIdlePasses(int64_t round);
  // Errors: the communicator's, while parameters were waited for.
  absl::StatusOr<LossSum> ForwardBackward(const Place& place);
  // Asked inside both passes: those of a large model take minutes on a CPU, and are in vain once
  // the generation is over or an exchange under way has failed.
  absl::Status CheckCancelled();
  // For the norm: the squares of what the communication thread, which calls this, has just reduced.
  absl::Status SumSquares(std::span<const float> sums);
  // Loss and norm of the whole batch.
  bool IsFinite(const StepExchange::Sums& sums, double loss, double norm) const;
  // They are not: OUT_OF_RANGE, with the place; of fp16 a step that changes the loss scale alone.
  absl::StatusOr<StepResult> NotFinite(const StepExchange::Sums& sums, StepResult result);
  // Words for the layer where it began, found by playing forward once more if the loss is no
  // number.
  absl::StatusOr<std::string> WhereNotFinite(const StepExchange::Sums& sums, double loss);
  absl::StatusOr<size_t> FirstBadLayer();
  absl::Status PlayIdleForwardPasses();
  // Of what this rank updates. Errors: the communicator's, the device's.
  absl::Status Update(const StepExchange::Sums& sums, double norm, const ScheduledRates& rates);
  // The second half, of an optimizer that needs norms.
  absl::Status Descend(const ScheduledRates& rates);
  // Likewise, of one that needs matrices.
  absl::Status DescendMatrices(const ScheduledRates& rates);
  absl::Status AllocateMatrices(const MemoryPlan& plan);
  // A range that this rank updates.
  struct Updated {
    Range range;
    int64_t at;                                         // where it stands in the reduced gradients
    std::array<int64_t, kMostOptimizerSlots> in_slots;  // and in each slot; -1: it has none of it
    float* parameters;                                  // its own
    bool owned;                                         // by this rank
  };
  // What it owns comes first; under ZeRO-0 the shares of the others follow.
  std::vector<Updated> UpdatedRanges() const;
  // Parts of which all elements have the same slots, ascending.
  std::vector<Range> AlikeParts(Range range) const;
  void BuildShares();
  // Under ZeRO-0: the reduced gradients of all owners; the first time their slots, too, of which
  // this rank was given its own share alone.
  absl::Status GatherUpdated();

  // Constant after construction.
  const Setup setup_;
  const proto::TrainSpec& spec_;
  const int rank_;
  const MemoryInput input_;
  const ModelPlan model_;
  const FlatLayout layout_;
  const ShardPlan shards_;
  const GradientSpace space_;
  const BatchPlan batch_;
  const std::vector<int64_t> atoms_of_ranks_;
  const ZeroStage stage_;
  const SumPlaces places_of_sums_;
  const std::vector<Place> places_;
  const StepRounds rounds_;
  const ZeroSettings zero_;
  const LrSchedule schedule_;
  Optimizer optimizer_;
  StepExchange exchange_;
  GradientExponents exponents_;
  std::optional<LossScaler> scaler_;  // of fp16
  std::vector<uint32_t> magnitudes_;  // of the step, without its loss scale

  std::vector<Buffer> memory_;
  Reals read_;  // the arena that layers read; not ZeRO-3's
  Reals pool_;  // of gathered parameters, and persistent ones; ZeRO-3's
  Reals persistent_;
  float* window_ = nullptr;     // gradients of one micro-batch and layer
  float* atom_ = nullptr;       // of one atom, of all layers; null where atoms are one micro-batch
  float* reduced_ = nullptr;    // the batch's, (owned size), of ZeRO-0 as share_gather.h
  int32_t* tokens_ = nullptr;   // (micro_batch_size, InputsOfSample)
  int32_t* targets_ = nullptr;  // (micro_batch_size, TargetsOfSample)
  double* leaf_squares_ = nullptr;
  std::vector<double> squares_;  // of the host; the communication thread's
  ExactSum grad_square_;         // of this step; the communication thread's until Finish has waited
  std::unique_ptr<TensorNorms> norms_;       // null: the optimizer needs none
  std::unique_ptr<MatrixUpdates> matrices_;  // likewise
  ShardedState state_;
  std::unique_ptr<BatchSums> sums_;
  std::unique_ptr<GradientReducer> reducer_;
  std::unique_ptr<ParameterGatherer> gatherer_;
  std::vector<std::vector<Range>> with_slot_;  // by slot, of what this rank owns
  std::unique_ptr<ShareGather> shares_;        // of the reduced gradients
  std::vector<ShareGather> slot_shares_;       // by slot
  bool slots_gathered_ = false;
  std::unique_ptr<GradientCollector> collector_;
  std::vector<Updated> updated_;
  // One of the two, by the stage of ZeRO.
  std::unique_ptr<ReplicatedParameters> replicated_;
  std::unique_ptr<PartitionedParameters> partitioned_;
  ParameterStore* store_ = nullptr;
  // What is enqueued uses the memory above, which goes when nothing of it is left.
  struct Drain {
    Stream& compute;
    Stream& communication;
    ~Drain();
  } drain_{setup_.kernels->stream(), setup_.comm_kernels->stream()};
  CommThread comm_thread_;  // last: its tasks use everything above
};

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_ENGINE_TRAINER_H_
