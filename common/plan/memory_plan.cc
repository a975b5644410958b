#include "common/plan/memory_plan.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <set>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/model/model_plan.h"
#include "common/numerics/loss_scaler.h"
#include "common/plan/activation_plan.h"
#include "common/plan/batch_plan.h"
#include "common/plan/gradient_space.h"
#include "common/plan/matrix_plan.h"
#include "common/plan/shard_plan.h"
#include "common/plan/slot_places.h"
#include "common/plan/sum_places.h"
#include "common/plan/zero_stage.h"

namespace dsrun {
namespace {

// A bucket of every kind, by its index: those of one size, all of whose tensors are used once or
// not, need the same of a rank. A large model has ten thousands of buckets, and two or three kinds.
std::vector<size_t> KindsOfBuckets(const ShardSizes& shards, const SumPlaces& places) {
  std::vector<size_t> kinds;
  std::set<std::pair<int64_t, bool>> known;
  for (size_t bucket = 0; bucket < shards.buckets().size(); ++bucket) {
    if (known.emplace(shards.buckets()[bucket].size(), places.used_once(bucket)).second) {
      kinds.push_back(bucket);
    }
  }
  return kinds;
}

std::vector<int64_t> AtomsOfRanks(const MemoryInput& input) {
  if (!input.atoms_of_ranks.empty()) return input.atoms_of_ranks;
  return BatchPlan(input.micro_batches, input.micro_batches_per_atom, input.width).AtomCounts();
}

}  // namespace

ModelPlan ModelOf(const MemoryInput& input) {
  return input.own != nullptr ? *input.own : PlanModel(input.model, input.frozen, input.precision);
}

int64_t MemoryPlan::total_bytes() const {
  int64_t total = 0;
  for (const PlannedBuffer& buffer : buffers) total += buffer.bytes();
  return total;
}

int64_t MemoryPlan::bytes_in(Space space) const {
  int64_t total = 0;
  for (const PlannedBuffer& buffer : buffers) {
    if (buffer.space == space) total += buffer.bytes();
  }
  return total;
}

const PlannedBuffer& MemoryPlan::Find(const std::string& name) const {
  for (const PlannedBuffer& buffer : buffers) {
    if (buffer.name == name) return buffer;
  }
  std::fprintf(stderr, "MemoryPlan::Find: no buffer \"%s\"\n", name.c_str());
  std::abort();
}

namespace {

// What the ranks of one width share. Its parts refer to one another, so it stays where it is.
class Planner {
 public:
  explicit Planner(const MemoryInput& input)
      : input_(input),
        model_(ModelOf(input)),
        layout_(model_.tensors),
        shards_(layout_, input.width, input.bucket_bytes),
        space_(model_, layout_),
        atoms_(AtomsOfRanks(input)),
        ranks_of_one_atom_(std::count(atoms_.begin(), atoms_.end(), 1)),
        places_of_one_atom_(layout_, shards_.buckets(), space_, 1),
        places_of_several_(layout_, shards_.buckets(), space_, 2),
        kinds_(KindsOfBuckets(shards_, places_of_one_atom_)),
        activations_(model_, {.micro_batch_size = input.micro_batch_size,
                              .threads = input.threads,
                              .recompute = input.recompute}) {
    if (!KeepsAll(input.optimizer)) owners_.emplace(layout_, input.width, input.bucket_bytes);
    if (OrthogonalisesMatrices(input.optimizer)) matrices_ = PlanMatrices(layout_, input.width);
    if (sums_of_owners()) {
      places_of_owners_.emplace(layout_, shards_.buckets(), space_, 1, ZeroPart::kOwned);
    }
    if (input.zero_stage != 3) return;
    const ZeroSettings zero = WithDefaults(input.zero, model_, layout_);
    for (const PassKind kind : {PassKind::kTraining, PassKind::kForwardOnly}) {
      const GatherPlan plan =
          PlanGathers(model_, layout_, space_.lowest_layer(), kind, zero, activations_.segments());
      pool_elements_ = std::max(pool_elements_, plan.pool_elements);
    }
    persistent_elements_ = PersistentElements(layout_, zero.persistence_threshold);
  }
  Planner(const Planner&) = delete;
  Planner& operator=(const Planner&) = delete;

  MemoryPlan Plan(int64_t rank) const {
    const DType sum = input_.fast_sums ? DType::kF32 : DType::kI64;
    int64_t largest = 0;  // of what it owns of a bucket
    for (const size_t bucket : kinds_) {
      largest = std::max(largest, shards_.OwnedOf(shards_.buckets()[bucket], rank));
    }
    const bool one_atom = atoms_[static_cast<size_t>(rank)] == 1;
    const int64_t owned = shards_.OwnedSize(rank);
    const int64_t tokens =
        input_.micro_batch_size * (model_.InputsOfSample() + model_.TargetsOfSample());
    const bool frozen = !input_.frozen.empty();
    const std::string trained = frozen ? "T (trainable of P)" : "P";
    MemoryPlan plan;
    const auto add = [&](std::string name, const char* group, int64_t elements, DType dtype,
                         std::string formula, Space space = Space::kDevice) {
      plan.buffers.push_back({.name = std::move(name),
                              .group = group,
                              .space = space,
                              .dtype = dtype,
                              .elements = elements,
                              .formula = std::move(formula)});
    };
    AddParameters(rank, add);
    add("gradients", "gradients", WindowElements(space_, model_.spec.hidden_size), DType::kF32,
        "of one micro-batch and the layer that has most");
    if (input_.micro_batches_per_atom > 1) {
      add("atom_gradients", "gradients", space_.size(), DType::kF32,
          trained + " + second uses of tensors, of one atom");
    }
    AddSums(rank, one_atom, trained, add);
    add("magnitudes", "gradients", 2 * static_cast<int64_t>(layout_.trainable_count()), DType::kU32,
        "2 x tensors, the greatest contribution to each");
    const bool all = ZeroStageOf(input_.zero_stage).slots == ZeroPart::kAll;
    const int64_t updated = all ? layout_.trainable_size() : owned;
    const std::string updated_of = (all ? "all of " : "owned share of ") + trained;
    add("reduced_gradients", "gradients", updated, DType::kF32, updated_of + ", rounded once");
    int64_t of_slots = 0;
    for (const OptimizerSlot& slot : input_.optimizer.slots) {
      const int64_t of_slot = OwnedWithSlot(slot, rank);
      of_slots += of_slot;
      const bool others = slot.of == OptimizerSlot::Of::kOthers;
      add(PlannedName(slot), "optimizer",
          all ? ElementsWithSlot(layout_, slot, Trainable()) : of_slot, slot.dtype,
          updated_of + (others ? ", without hidden matrices" : ""));
    }
    int64_t squares = largest / kLeafElements;
    if (matrices_) {
      squares = std::max(squares, matrices_->MatrixElements(rank) / kLeafElements);
      add("muon_matrix", "optimizer", matrices_->MatrixElements(rank), DType::kF32,
          "the largest matrix that this rank orthogonalises");
      add("muon_scratch", "optimizer", matrices_->ScratchElements(rank), DType::kF32,
          "of Newton-Schulz: a second one, and 4 x (its smaller side)^2");
    }
    // Files hold fp32 alone, and so do slots so far.
    const auto slots = static_cast<int64_t>(input_.optimizer.slots.size());
    add("save_snapshot", "checkpoint",
        shards_.StoredSize(rank) + of_slots + static_cast<int64_t>(layout_.trainable_count()) +
            (input_.precision == DType::kF16 ? kLossScaleValues : 0),
        DType::kF32,
        (!KeepsAll(input_.optimizer) ? "share of P and of the slots"
         : frozen ? "share of P + " + std::to_string(slots) + " x owned share of T"
                  : std::to_string(1 + slots) + " x owned share of P") +
            " + tensors: parameters and moments, written behind the next steps",
        Space::kHost);
    add("reduce_scratch", "communication", ScratchElements(rank, one_atom), sum,
        input_.fast_sums || (ranks_of_one_atom_ == 0 && !sums_of_owners())
            ? "owned share of the largest bucket x other ranks"
            : "owned share of the largest bucket x other ranks, half of single contributions");
    add("leaf_squares", "communication", squares, DType::kF64,
        squares * kLeafElements == largest ? "leaves of the owned share of the largest bucket"
                                           : "leaves of the largest matrix");
    add("tokens", "activations", tokens, DType::kI32,
        model_.sample == SampleShape() ? "2 x B x T" : "B x (inputs + targets)", Space::kHost);
    const std::vector<PlannedBuffer>& lines = activations_.lines();
    plan.buffers.insert(plan.buffers.end(), lines.begin(), lines.end());
    return plan;
  }

 private:
  std::vector<Range> Trainable() const { return {{0, layout_.trainable_size()}}; }
  // What layers read is of the type that they compute in; what the optimizer updates is fp32, and
  // the same memory where layers read fp32. Under ZeRO-3 they are gathered for their use
  // (gather_plan.h).
  template <typename Add>
  void AddParameters(int64_t rank, const Add& add) const {
    const bool halves = input_.precision != DType::kF32;
    const ZeroStage& stage = ZeroStageOf(input_.zero_stage);
    if (halves) {
      const bool all = stage.slots == ZeroPart::kAll;
      add("master_parameters", "parameters", all ? layout_.size() : shards_.StoredSize(rank),
          DType::kF32, all ? "P (leaf padding included), in fp32" : "owned share of P, in fp32");
    }
    if (stage.parameters == ZeroPart::kAll) {
      add("parameters", "parameters", layout_.size(), input_.precision,
          "P (leaf padding included)");
      return;
    }
    if (!halves) {
      add("parameters", "parameters", shards_.StoredSize(rank), DType::kF32, "owned share of P");
    }
    add("gathered_parameters", "parameters", pool_elements_, input_.precision,
        "layers between their gather and their release");
    add("persistent_parameters", "parameters", persistent_elements_, input_.precision,
        "tensors below the persistence threshold, gathered for good");
  }

  // Of what `rank` owns, where the slot is of all tensors without looking at each of them.
  int64_t OwnedWithSlot(const OptimizerSlot& slot, int64_t rank) const {
    if (!owners_) return shards_.OwnedSize(rank);
    return ElementsWithSlot(layout_, slot, owners_->Owned(rank));
  }

  bool sums_of_owners() const { return ZeroStageOf(input_.zero_stage).sums == ZeroPart::kOwned; }

  // The lines of the sums over the batch (sum_places.h).
  template <typename Add>
  void AddSums(int64_t rank, bool one_atom, const std::string& trained, const Add& add) const {
    const DType sum = input_.fast_sums ? DType::kF32 : DType::kI64;
    const int64_t rounds = *std::max_element(atoms_.begin(), atoms_.end());
    const SumPlaces& places = places_of_owners_ ? *places_of_owners_
                              : one_atom        ? places_of_one_atom_
                                                : places_of_several_;
    int64_t elements = places.held_elements();
    const std::vector<Range>& buckets = shards_.buckets();
    for (size_t bucket = 0; sums_of_owners() && bucket < buckets.size(); ++bucket) {
      if (places.IsSummed(bucket, rounds)) elements += shards_.OwnedOf(buckets[bucket], rank);
    }
    add("gradient_sums", "gradients", elements, sum,
        sums_of_owners() ? OwnersSumsFormula(rounds, trained) : SumsFormula(one_atom, trained));
    if (!one_atom && !sums_of_owners()) return;
    add("gradient_slots", "gradients", places.slot_elements(), DType::kF32,
        "buckets of one contribution on their way to the wire");
  }

  std::string OwnersSumsFormula(int64_t rounds, const std::string& trained) const {
    return "owned share of " + (rounds > 1 ? trained : "buckets with tensors that are used twice") +
           (input_.fast_sums ? ", sums over the batch" : ", exact sums over the batch");
  }

  // `trained`: of what, in words.
  std::string SumsFormula(bool one_atom, const std::string& trained) const {
    if (one_atom) return "buckets with tensors that are used twice; no others: one atom a step";
    return trained + (input_.fast_sums ? ", sums over the batch" : ", exact sums over the batch");
  }

  // What others send this rank of one bucket, each its sums, or floats where they are single
  // contributions; and the total of it, where this rank's own are floats, too
  // (ReduceScratchElements, kDirect).
  int64_t ScratchElements(int64_t rank, bool one_atom) const {
    const bool single = one_atom || sums_of_owners();  // this rank
    const int64_t singles = sums_of_owners() ? input_.width : ranks_of_one_atom_;
    int64_t most = 0;
    for (const size_t bucket : kinds_) {
      const bool floats =
          !input_.fast_sums && (sums_of_owners() || places_of_one_atom_.used_once(bucket));
      const int64_t owned = shards_.OwnedOf(shards_.buckets()[bucket], rank);
      const int64_t halves = floats ? singles - (single ? 1 : 0) : 0;
      const int64_t total = floats && single ? owned : 0;
      most = std::max(most, owned * (input_.width - 1 - halves) + owned / 2 * halves + total);
    }
    return most;
  }

  const MemoryInput input_;
  const ModelPlan model_;
  const FlatLayout layout_;
  const ShardSizes shards_;
  std::optional<ShardPlan> owners_;  // where some slot is of some tensors
  const GradientSpace space_;
  const std::vector<int64_t> atoms_;  // by rank
  const int64_t ranks_of_one_atom_;
  const SumPlaces places_of_one_atom_;
  const SumPlaces places_of_several_;
  std::optional<SumPlaces> places_of_owners_;  // where sums are the owners'
  std::optional<MatrixPlan> matrices_;         // where some are orthogonalised
  const std::vector<size_t> kinds_;            // of buckets
  const ActivationPlan activations_;
  int64_t pool_elements_ = 0;  // of ZeRO-3
  int64_t persistent_elements_ = 0;
};

}  // namespace

absl::Status CheckPlannable(const MemoryInput& input) {
  constexpr double kMostBytes = 1e18;
  const ModelPlan model = ModelOf(input);
  const double rows =
      static_cast<double>(input.micro_batch_size) * static_cast<double>(input.model.seq_length);
  double activations = 0;
  const auto add = [&](const PlannedActivation& activation) {
    const bool of_threads = activation.per == PlannedActivation::Per::kThread;
    const double count = of_threads ? static_cast<double>(input.threads) : rows;
    activations += count * static_cast<double>(activation.elements) *
                   static_cast<double>(BytesOf(activation.dtype.value_or(input.precision)));
  };
  for (const LayerPlan& layer : model.layers) {
    activations += rows * static_cast<double>(input.model.hidden_size) *
                   static_cast<double>(BytesOf(input.precision));
    for (const PlannedActivation& kept : layer.kept) add(kept);
    for (const PlannedActivation& work : layer.workspace) add(work);
  }
  // Of parameters: themselves, sums, slots, snapshot, and scratch for the sums of other ranks.
  double states = 0;
  for (const LogicalTensor& tensor : model.tensors)
    states += 64.0 * static_cast<double>(tensor.size());
  states += 8.0 * static_cast<double>(input.bucket_bytes) * static_cast<double>(input.width);
  if (activations > kMostBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("a micro-batch of ", input.micro_batch_size, " sequences of ",
                     input.model.seq_length, " tokens needs about ", activations,
                     " bytes of activations a rank, more than an exabyte; use a smaller "
                     "micro-batch, or shorter sequences"));
  }
  if (states > kMostBytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        "parameters, gradients and optimizer need about ", states,
        " bytes a rank, more than an exabyte; use a smaller model or smaller buckets"));
  }
  return absl::OkStatus();
}

MemoryPlan PlanMemory(const MemoryInput& input) { return Planner(input).Plan(input.rank); }

std::vector<MemoryPlan> PlanMemoryOfRanks(const MemoryInput& input) {
  const Planner planner(input);
  std::vector<MemoryPlan> plans;
  for (int64_t rank = 0; rank < input.width; ++rank) plans.push_back(planner.Plan(rank));
  return plans;
}

}  // namespace dsrun
