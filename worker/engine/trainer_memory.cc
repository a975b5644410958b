// What a trainer has memory for: the lines of its plan, the rooms of the step that are built on
// them, and the host's way to the state in it.

#include <algorithm>
#include <string>
#include <utility>

#include "common/base/logging.h"
#include "common/base/status_macros.h"
#include "common/plan/optimizer_plan.h"
#include "common/plan/recompute_plan.h"
#include "common/plan/slot_places.h"
#include "worker/engine/trainer.h"
#include "worker/model/init.h"

namespace dsrun::worker {

absl::StatusOr<void*> Trainer::Take(const PlannedBuffer& line, int64_t elements) {
  const auto bytes = static_cast<size_t>(elements * BytesOf(line.dtype));
  ASSIGN_OR_RETURN(Buffer buffer, setup_.device->Allocate(line.space, bytes, line.name));
  memory_.push_back(std::move(buffer));
  return memory_.back().data();
}

absl::StatusOr<void*> Trainer::Take(const PlannedBuffer& line) { return Take(line, line.elements); }

absl::Status Trainer::AllocateParameters(const MemoryPlan& plan) {
  const auto allocate = [&](const char* name, Reals* out) -> absl::Status {
    const PlannedBuffer& line = plan.Find(name);
    ASSIGN_OR_RETURN(void* const data, Take(line));
    *out = Reals(data, line.dtype);
    return absl::OkStatus();
  };
  const bool gathered = stage_.parameters == ZeroPart::kOwned;
  state_.partitioned = gathered || (halves() && stage_.slots == ZeroPart::kOwned);
  Reals updated;
  if (halves() || gathered) {
    RETURN_IF_ERROR(allocate(halves() ? "master_parameters" : "parameters", &updated));
  }
  if (gathered) {
    RETURN_IF_ERROR(allocate("gathered_parameters", &pool_));
    RETURN_IF_ERROR(allocate("persistent_parameters", &persistent_));
  } else {
    RETURN_IF_ERROR(allocate("parameters", &read_));
    if (!halves()) updated = read_;
  }
  state_.parameters = updated.f32();
  return absl::OkStatus();
}

void Trainer::RoundParameters(Range range, const float* from) {
  if (!halves() || stage_.parameters == ZeroPart::kOwned) return;
  setup_.kernels->Cast(range.size(), from, read_ + range.begin);
}

void Trainer::ParametersChanged() {
  if (partitioned_ != nullptr) return partitioned_->Changed();
  if (!halves()) return;
  if (!state_.partitioned) return RoundParameters({0, layout_.size()}, state_.parameters);
  const float* from = state_.parameters;
  for (const Range& range : stored()) {
    RoundParameters(range, from);
    from += range.size();
  }
  gatherer_->StartWithFrozen();
}

void Trainer::BuildStore() {
  const auto on_span = [trace = setup_.trace](const std::string& name, SteadyTime begin,
                                              SteadyTime end) {
    trace->Add(Trace::Lane::kCommunication, name, begin, end);
  };
  if (stage_.parameters == ZeroPart::kOwned) {
    partitioned_ = std::make_unique<PartitionedParameters>(PartitionedParameters::Setup{
        .communicator = setup_.communicator,
        .thread = &comm_thread_,
        .compute = &setup_.kernels->stream(),
        .kernels = setup_.comm_kernels,
        .model = &model_,
        .layout = &layout_,
        .shards = &shards_,
        .lowest_layer = space_.lowest_layer(),
        .segments = RecomputedSegments(setup_.model->plan(),
                                       spec_.micro_batch_size() * spec_.model().seq_length(),
                                       /*slots=*/1, input_.recompute),
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
      .frozen = {layout_.trainable_size(), layout_.size()},
      .parameters = read_,
      .on_span = on_span,
  });
  replicated_ = std::make_unique<ReplicatedParameters>(model_, layout_, read_,
                                                       [this](int64_t end) -> absl::Status {
                                                         RETURN_IF_ERROR(CheckCancelled());
                                                         return gatherer_->Await(end);
                                                       });
  store_ = replicated_.get();
}

// One allocation for each line of the memory plan that is not the model's own.
absl::Status Trainer::Allocate() {
  const MemoryPlan plan = PlanMemory(input_);
  const auto allocate = [&](const char* name) { return Take(plan.Find(name)); };
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
    norms_ = std::make_unique<TensorNorms>(
        TensorNorms::Setup{.communicator = setup_.communicator,
                           .layout = &layout_,
                           .shards = &shards_,
                           .squares = {setup_.kernels, leaf_squares_, squares_}});
  }
  if (optimizer_.needs_matrices()) {
    RETURN_IF_ERROR(AllocateMatrices(plan));
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
      .places = &places_of_sums_,
      .rounds = rounds_.rounds(),
      .sums = sums_.get(),
      .result = reduced_,
      .compute = &setup_.kernels->stream(),
      .kernels = setup_.comm_kernels,
      .overlap = spec_.overlap_comm(),
      // Gathers go between the reductions: these come at the same layers on all ranks.
      .passing = places_of_sums_.slot_elements() > 0 || stage_.parameters == ZeroPart::kOwned,
      .on_reduced = [this](std::span<const float> sums) { return SumSquares(sums); },
      .on_span = on_span,
  });
  BuildShares();
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

absl::Status Trainer::AllocateMatrices(const MemoryPlan& plan) {
  ASSIGN_OR_RETURN(void* const matrix, Take(plan.Find("muon_matrix")));
  ASSIGN_OR_RETURN(void* const scratch, Take(plan.Find("muon_scratch")));
  matrices_ = std::make_unique<MatrixUpdates>(
      MatrixUpdates::Setup{.communicator = setup_.communicator,
                           .kernels = setup_.kernels,
                           .layout = &layout_,
                           .shards = &shards_,
                           .method = optimizer_.ns_method(),
                           .everywhere = stage_.slots == ZeroPart::kAll,
                           .updates = reduced_,
                           .matrix = static_cast<float*>(matrix),
                           .scratch = static_cast<float*>(scratch),
                           .squares = {setup_.kernels, leaf_squares_, squares_},
                           .check = [this] { return CheckCancelled(); }});
  return absl::OkStatus();
}

absl::Status Trainer::AllocateSums(const MemoryPlan& plan, uint32_t* magnitudes) {
  BatchSumsSetup setup{.layout = &layout_,
                       .shards = &shards_,
                       .places = &places_of_sums_,
                       .atoms_of_rank = atoms_of_ranks_,
                       .rank = rank_,
                       .kernels = setup_.kernels,
                       .magnitudes = magnitudes,
                       .route = setup_.route,
                       .slots = nullptr};
  if (places_of_sums_.of_owners() || atoms_of_ranks_[static_cast<size_t>(rank_)] == 1) {
    ASSIGN_OR_RETURN(void* const slots, Take(plan.Find("gradient_slots")));
    setup.slots = static_cast<float*>(slots);
  }
  ASSIGN_OR_RETURN(void* const sums, Take(plan.Find("gradient_sums")));
  const int64_t count = SumsScratch(setup, /*exact=*/!input_.fast_sums);
  const PlannedBuffer& planned = plan.Find("reduce_scratch");
  if (setup_.route.way == ReduceWay::kDirect) CHECK_EQ(count, planned.elements);  // planned for it
  ASSIGN_OR_RETURN(void* const scratch, Take(planned, count));
  const auto size = static_cast<size_t>(count);
  sums_ = input_.fast_sums ? FastSums(setup, static_cast<float*>(sums),
                                      std::span(static_cast<float*>(scratch), size))
                           : ExactSums(setup, exponents_, static_cast<uint64_t*>(sums),
                                       std::span(static_cast<uint64_t*>(scratch), size));
  return absl::OkStatus();
}

void Trainer::BuildShares() {
  const auto shares = [&](const auto& size_of) {
    std::vector<int64_t> sizes;
    for (int rank = 0; rank < setup_.communicator->size(); ++rank) sizes.push_back(size_of(rank));
    return ShareGather(*setup_.communicator, setup_.kernels->stream(), sizes);
  };
  shares_ =
      std::make_unique<ShareGather>(shares([&](int rank) { return shards_.OwnedSize(rank); }));
  for (const OptimizerSlot& slot : input_.optimizer.slots) {
    with_slot_.push_back(PartsWithSlot(layout_, slot, owned()));
    slot_shares_.push_back(
        shares([&](int rank) { return ElementsWithSlot(layout_, slot, shards_.Owned(rank)); }));
  }
}

// Cut where a slot begins or ends, so that a range has the whole of it or nothing.
std::vector<Trainer::Updated> Trainer::UpdatedRanges() const {
  std::vector<Updated> updated;
  int64_t at = 0;
  std::array<int64_t, kMostOptimizerSlots> next{};  // in each slot
  const auto add_part = [&](Range part, bool own) {
    Updated one{part, at, {}, state_.parameters + (state_.partitioned ? at : part.begin), own};
    for (size_t slot = 0; slot < state_.slots.size(); ++slot) {
      const int64_t elements = ElementsWithSlot(layout_, input_.optimizer.slots[slot], {part});
      one.in_slots[slot] = elements == 0 ? -1 : next[slot];
      next[slot] += elements;
    }
    updated.push_back(one);
    at += part.size();
  };
  const auto add = [&](int rank) {
    for (const Range& range : shards_.Owned(rank)) {
      for (const Range& alike : AlikeParts(range)) {
        for (int64_t begin = alike.begin; begin < alike.end;) {
          const Range part{begin, begin + std::min(zero_.sub_group_size, alike.end - begin)};
          add_part(part, rank == rank_);
          begin = part.end;
        }
      }
    }
  };
  add(rank_);
  if (stage_.slots == ZeroPart::kAll) {
    for (const int rank : shares_->others()) add(rank);
  }
  return updated;
}

std::vector<Range> Trainer::AlikeParts(Range range) const {
  if (KeepsAll(input_.optimizer)) return {range};
  std::vector<Range> parts;
  bool last = false;
  layout_.ForTensors(range, [&](size_t tensor, Range part) {
    const bool matrix = layout_.entries()[tensor].tensor.hidden_matrix;
    if (parts.empty() || matrix != last) {
      parts.push_back(part);
    } else {
      parts.back().end = part.end;
    }
    last = matrix;
  });
  return parts;
}

absl::Status Trainer::InitializeParameters(uint64_t seed) {
  {
    ASSIGN_OR_RETURN(const std::vector<HostAccess> access, OpenState());
    if (!state_.partitioned) InitParameters(layout_, seed, state_.parameters);
    float* out = state_.parameters;
    for (const Range& range : state_.partitioned ? stored() : std::vector<Range>()) {
      InitParameterRange(layout_, seed, range, out);
      out += range.size();
    }
  }
  ParametersChanged();
  return absl::OkStatus();
}

absl::StatusOr<std::vector<HostAccess>> Trainer::OpenState() const {
  Stream& stream = setup_.kernels->stream();
  RETURN_IF_ERROR(stream.Record().Await());
  std::vector<HostAccess> all;
  const auto open = [&](float* begin, size_t elements) -> absl::Status {
    ASSIGN_OR_RETURN(HostAccess access, stream.OpenForHost(begin, elements * sizeof(float)));
    all.push_back(std::move(access));
    return absl::OkStatus();
  };
  RETURN_IF_ERROR(open(state_.parameters, static_cast<size_t>(parameter_elements())));
  for (size_t slot = 0; slot < state_.slots.size(); ++slot) {
    const int64_t elements =
        ElementsWithSlot(layout_, input_.optimizer.slots[slot], shards_.Owned(rank_));
    RETURN_IF_ERROR(open(state_.slots[slot], static_cast<size_t>(elements)));
  }
  return all;
}

}  // namespace dsrun::worker
