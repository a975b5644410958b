// What a trainer has memory for: the lines of its plan, the rooms of the step that are built on
// them, and the host's way to the state in it.

#include <algorithm>
#include <string>
#include <utility>

#include "common/base/logging.h"
#include "common/base/status_macros.h"
#include "common/plan/optimizer_plan.h"
#include "worker/engine/trainer.h"
#include "worker/model/init.h"

namespace dsrun::worker {

absl::Status Trainer::AllocateParameters(const MemoryPlan& plan) {
  const auto allocate = [&](const char* name, float** out) -> absl::Status {
    const PlannedBuffer& line = plan.Find(name);
    ASSIGN_OR_RETURN(Buffer buffer,
                     setup_.device->Allocate(line.space, static_cast<size_t>(line.bytes()), name));
    memory_.push_back(std::move(buffer));
    *out = static_cast<float*>(memory_.back().data());
    return absl::OkStatus();
  };
  state_.partitioned = input_.zero_stage == 3;
  RETURN_IF_ERROR(allocate("parameters", &state_.parameters));
  if (!state_.partitioned) return absl::OkStatus();
  RETURN_IF_ERROR(allocate("gathered_parameters", &pool_));
  return allocate("persistent_parameters", &persistent_);
}

void Trainer::BuildStore() {
  const auto on_span = [trace = setup_.trace](const std::string& name, SteadyTime begin,
                                              SteadyTime end) {
    trace->Add(Trace::Lane::kCommunication, name, begin, end);
  };
  if (state_.partitioned) {
    partitioned_ = std::make_unique<PartitionedParameters>(PartitionedParameters::Setup{
        .communicator = setup_.communicator,
        .thread = &comm_thread_,
        .compute = &setup_.kernels->stream(),
        .stream = &setup_.comm_kernels->stream(),
        .model = &model_,
        .layout = &layout_,
        .shards = &shards_,
        .lowest_layer = space_.lowest_layer(),
        .settings = zero_,
        .shard = state_.parameters,
        .pool = pool_,
        .persistent = persistent_,
        .check = [this] { return CheckCancelled(); },
        .on_span = on_span,
    });
    store_ = partitioned_.get();
    return;
  }
  gatherer_ = std::make_unique<ParameterGatherer>(ParameterGatherer::Setup{
      .communicator = setup_.communicator,
      .thread = &comm_thread_,
      .compute = &setup_.kernels->stream(),
      .stream = &setup_.comm_kernels->stream(),
      .shards = &shards_,
      .parameters = state_.parameters,
      .on_span = on_span,
  });
  replicated_ = std::make_unique<ReplicatedParameters>(model_, layout_, state_.parameters,
                                                       [this](int64_t end) -> absl::Status {
                                                         RETURN_IF_ERROR(CheckCancelled());
                                                         return gatherer_->Await(end);
                                                       });
  store_ = replicated_.get();
}

// One allocation for each line of the memory plan that is not the model's own.
absl::Status Trainer::Allocate() {
  const MemoryPlan plan = PlanMemory(input_);
  const auto allocate = [&](const char* name) -> absl::StatusOr<void*> {
    const PlannedBuffer& line = plan.Find(name);
    ASSIGN_OR_RETURN(Buffer buffer,
                     setup_.device->Allocate(line.space, static_cast<size_t>(line.bytes()), name));
    memory_.push_back(std::move(buffer));
    return memory_.back().data();
  };
  const auto floats = [&](const char* name, float** out) -> absl::Status {
    ASSIGN_OR_RETURN(void* const data, allocate(name));
    *out = static_cast<float*>(data);
    return absl::OkStatus();
  };
  if (setup_.reserve_snapshot != nullptr) {
    RETURN_IF_ERROR(
        setup_.reserve_snapshot(static_cast<size_t>(plan.Find("save_snapshot").bytes())));
  }
  RETURN_IF_ERROR(AllocateParameters(plan));
  for (const OptimizerSlot& slot : input_.optimizer.slots) {
    RETURN_IF_ERROR(floats(PlannedName(slot).c_str(), &state_.slots.emplace_back()));
  }
  RETURN_IF_ERROR(floats("gradients", &window_));
  RETURN_IF_ERROR(floats("reduced_gradients", &reduced_));
  if (input_.micro_batches_per_atom > 1) {
    RETURN_IF_ERROR(floats("atom_gradients", &atom_));
  }
  ASSIGN_OR_RETURN(void* const magnitudes, allocate("magnitudes"));
  RETURN_IF_ERROR(AllocateSums(plan, static_cast<uint32_t*>(magnitudes)));
  ASSIGN_OR_RETURN(void* const leaf_squares, allocate("leaf_squares"));
  squares_.resize(static_cast<size_t>(plan.Find("leaf_squares").elements));
  leaf_squares_ = static_cast<double*>(leaf_squares);
  if (optimizer_.needs_norms()) {
    // A rank without a leaf of its own has no square to take, but hears of the others'.
    squares_.resize(std::max<size_t>(squares_.size(), 1));
    norms_ = std::make_unique<TensorNorms>(TensorNorms::Setup{.communicator = setup_.communicator,
                                                              .layout = &layout_,
                                                              .shards = &shards_,
                                                              .kernels = setup_.kernels,
                                                              .leaf_squares = leaf_squares_,
                                                              .squares = squares_});
  }
  ASSIGN_OR_RETURN(void* const tokens, allocate("tokens"));
  tokens_ = static_cast<int32_t*>(tokens);
  targets_ = tokens_ + spec_.micro_batch_size() * model_.InputsOfSample();
  const auto on_span = [trace = setup_.trace](const std::string& name, SteadyTime begin,
                                              SteadyTime end) {
    trace->Add(Trace::Lane::kCommunication, name, begin, end);
  };
  reducer_ = std::make_unique<GradientReducer>(GradientReducer::Setup{
      .communicator = setup_.communicator,
      .thread = &comm_thread_,
      .shards = &shards_,
      .sums = sums_.get(),
      .result = reduced_,
      .compute = &setup_.kernels->stream(),
      .kernels = setup_.comm_kernels,
      .overlap = spec_.overlap_comm(),
      // Gathers go between the reductions: these come at the same layers on all ranks.
      .passing = places_of_sums_.slot_elements() > 0 || state_.partitioned,
      .on_reduced = [this](std::span<const float> sums) { return SumSquares(sums); },
      .on_span = on_span,
  });
  shares_ = std::make_unique<ShareGather>(*setup_.communicator, setup_.kernels->stream(), shards_);
  updated_ = UpdatedRanges();
  collector_ = std::make_unique<GradientCollector>(GradientCollector::Setup{
      .layout = &layout_,
      .space = &space_,
      .places = &places_of_sums_,
      .kernels = setup_.kernels,
      .sums = sums_.get(),
      .reducer = reducer_.get(),
      .window = window_,
      .atom = atom_,
      .check = [this] { return CheckCancelled(); },
  });
  BuildStore();
  return absl::OkStatus();
}

absl::Status Trainer::AllocateSums(const MemoryPlan& plan, uint32_t* magnitudes) {
  const auto allocate = [&](const PlannedBuffer& line, int64_t elements) -> absl::StatusOr<void*> {
    ASSIGN_OR_RETURN(
        Buffer buffer,
        setup_.device->Allocate(line.space, static_cast<size_t>(elements * BytesOf(line.dtype)),
                                line.name));
    memory_.push_back(std::move(buffer));
    return memory_.back().data();
  };
  BatchSumsSetup setup{.layout = &layout_,
                       .shards = &shards_,
                       .places = &places_of_sums_,
                       .atoms_of_rank = atoms_of_ranks_,
                       .kernels = setup_.kernels,
                       .magnitudes = magnitudes,
                       .route = setup_.route,
                       .slots = nullptr};
  if (atoms_of_ranks_[static_cast<size_t>(rank_)] == 1) {
    const PlannedBuffer& line = plan.Find("gradient_slots");
    ASSIGN_OR_RETURN(void* const slots, allocate(line, line.elements));
    setup.slots = static_cast<float*>(slots);
  }
  const PlannedBuffer& line = plan.Find("gradient_sums");
  ASSIGN_OR_RETURN(void* const sums, allocate(line, line.elements));
  const int64_t count = SumsScratch(setup, /*exact=*/!input_.fast_sums, rank_);
  const PlannedBuffer& planned = plan.Find("reduce_scratch");
  if (setup_.route.way == ReduceWay::kDirect) CHECK_EQ(count, planned.elements);  // planned for it
  ASSIGN_OR_RETURN(void* const scratch, allocate(planned, count));
  const auto size = static_cast<size_t>(count);
  sums_ = input_.fast_sums ? FastSums(setup, static_cast<float*>(sums),
                                      std::span(static_cast<float*>(scratch), size))
                           : ExactSums(setup, exponents_, static_cast<uint64_t*>(sums),
                                       std::span(static_cast<uint64_t*>(scratch), size));
  return absl::OkStatus();
}

std::vector<Trainer::Updated> Trainer::UpdatedRanges() const {
  std::vector<Updated> updated;
  int64_t at = 0;
  const auto add = [&](int rank) {
    for (const Range& range : shards_.Owned(rank)) {
      for (int64_t begin = range.begin; begin < range.end;) {
        const Range part{begin, begin + std::min(zero_.sub_group_size, range.end - begin)};
        float* const own = state_.parameters + (state_.partitioned ? at : begin);
        updated.push_back({part, at, own, rank == rank_});
        at += part.size();
        begin = part.end;
      }
    }
  };
  add(rank_);
  if (stage_.slots == ZeroPart::kAll) {
    for (const int rank : shares_->others()) add(rank);
  }
  return updated;
}

absl::Status Trainer::InitializeParameters(uint64_t seed) {
  ASSIGN_OR_RETURN(const std::vector<HostAccess> access, OpenState());
  ParametersChanged();
  if (!state_.partitioned) {
    InitParameters(layout_, seed, state_.parameters);
    return absl::OkStatus();
  }
  float* out = state_.parameters;
  for (const Range& range : stored()) {
    InitParameterRange(layout_, seed, range, out);
    out += range.size();
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<HostAccess>> Trainer::OpenState() const {
  Stream& stream = setup_.kernels->stream();
  RETURN_IF_ERROR(stream.Record().Await());
  const auto owned = static_cast<size_t>(shards_.OwnedSize(rank_));
  std::vector<HostAccess> all;
  const auto open = [&](float* begin, size_t elements) -> absl::Status {
    ASSIGN_OR_RETURN(HostAccess access, stream.OpenForHost(begin, elements * sizeof(float)));
    all.push_back(std::move(access));
    return absl::OkStatus();
  };
  RETURN_IF_ERROR(open(state_.parameters, static_cast<size_t>(parameter_elements())));
  for (float* const slot : state_.slots) RETURN_IF_ERROR(open(slot, owned));
  return all;
}

}  // namespace dsrun::worker
