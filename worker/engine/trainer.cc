#include "worker/engine/trainer.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/clock.h"
#include "common/base/logging.h"
#include "common/base/status_macros.h"
#include "common/model/model_plan.h"
#include "common/plan/loss_scale_of_spec.h"
#include "common/plan/matrix_plan.h"
#include "common/plan/memory_input.h"
#include "common/plan/memory_plan.h"
#include "common/plan/optimizer_of_spec.h"
#include "common/plan/optimizer_plan.h"
#include "common/plan/recompute_plan.h"
#include "common/schedule/schedule_of_spec.h"
#include "worker/data/sample_values.h"
#include "worker/engine/verdict.h"
#include "worker/engine/warm_up.h"
#include "worker/model/init.h"
#include "worker/optim/clip_factor.h"

namespace dsrun::worker {
namespace {

// Times a piece of computation for the trace.
class Span {
 public:
  Span(Trace* trace, std::string name)
      : trace_(trace), name_(std::move(name)), begin_(Clock::Real().SteadyNow()) {}
  ~Span() { trace_->Add(Trace::Lane::kCompute, name_, begin_, Clock::Real().SteadyNow()); }

 private:
  Trace* const trace_;
  const std::string name_;
  const SteadyTime begin_;
};

MemoryInput PlanInput(const Trainer::Setup& setup) {
  MemoryInput input = MemoryInputFromProto(*setup.spec);
  const ModelPlan& model = setup.model->plan();
  if (!IsPlannedFamily(model.spec.family)) input.own = std::make_shared<const ModelPlan>(model);
  input.width = setup.communicator->size();
  input.rank = setup.communicator->rank();
  for (const std::vector<int64_t>& of_rank : setup.atoms) {
    input.atoms_of_ranks.push_back(static_cast<int64_t>(of_rank.size()));
  }
  return input;
}

absl::Status CheckDropout(const proto::TrainSpec& spec) {
  for (const double rate : {spec.hidden_dropout(), spec.attention_dropout()}) {
    if (IsDropoutRate(rate)) continue;
    return absl::InvalidArgumentError(absl::StrCat("dropout: ", kDropoutRateWords, ", got ", rate));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Trainer>> Trainer::Create(const Setup& setup) {
  const MemoryInput input = MemoryInputFromProto(*setup.spec);
  RETURN_IF_ERROR(ValidateBatchPlan(input.micro_batches, input.micro_batches_per_atom,
                                    setup.communicator->size()));
  if (IsPlannedFamily(input.model.family)) {
    RETURN_IF_ERROR(CheckFrozen(input.model, input.frozen));
  }
  if (!IsZeroStage(input.zero_stage)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "ZeRO stage ", input.zero_stage, " is none of this engine's: it has stages 0 to 3"));
  }
  RETURN_IF_ERROR(CheckDropout(*setup.spec));
  ASSIGN_OR_RETURN(LrSchedule schedule, ScheduleOfSpec(*setup.spec));
  ASSIGN_OR_RETURN(OptimizerSettings optimizer, OptimizerOfSpec(*setup.spec));
  ASSIGN_OR_RETURN(const LossScalePolicy loss_scale, FromProto(setup.spec->loss_scale()));
  std::unique_ptr<Trainer> trainer(
      new Trainer(setup, std::move(schedule), std::move(optimizer), loss_scale));
  RETURN_IF_ERROR(trainer->Allocate());
  return trainer;
}

Trainer::Trainer(const Setup& setup, LrSchedule schedule, OptimizerSettings optimizer,
                 const LossScalePolicy& loss_scale)
    : setup_(setup),
      spec_(*setup.spec),
      rank_(setup.communicator->rank()),
      input_(PlanInput(setup)),
      model_(ModelOf(input_)),
      layout_(model_.tensors),
      shards_(layout_, setup.communicator->size(), spec_.bucket_bytes()),
      space_(model_, layout_),
      batch_(input_.micro_batches, input_.micro_batches_per_atom, setup.communicator->size()),
      atoms_of_ranks_(setup.atoms.empty() ? batch_.AtomCounts() : input_.atoms_of_ranks),
      stage_(ZeroStageOf(input_.zero_stage)),
      places_of_sums_(layout_, shards_, space_, atoms_of_ranks_[static_cast<size_t>(rank_)],
                      stage_.sums),
      places_(Places()),
      rounds_(SizesOfAtoms(), stage_.sums),
      zero_(WithDefaults(input_.zero, model_, layout_)),
      schedule_(std::move(schedule)),
      optimizer_(*setup.kernels, layout_, std::move(optimizer)),
      exchange_(*setup.communicator, layout_.trainable_count()),
      exponents_(space_.Contributions(batch_.atoms()),
                 GuessExponent(spec_.micro_batch_size() * spec_.model().seq_length())) {
  if (input_.precision == DType::kF16) scaler_.emplace(loss_scale);
}

std::vector<Trainer::Place> Trainer::Places() const {
  std::vector<int64_t> atoms;
  if (!setup_.atoms.empty()) atoms = setup_.atoms[static_cast<size_t>(rank_)];
  const Range share = batch_.RankAtoms(rank_);
  for (int64_t atom = share.begin; setup_.atoms.empty() && atom < share.end; ++atom) {
    atoms.push_back(atom);
  }
  const bool round_each = stage_.sums == ZeroPart::kOwned;
  std::vector<Place> places;
  for (const int64_t atom : atoms) {
    const Range mine = batch_.AtomMicroBatches(atom);
    for (int64_t i = mine.begin; i < mine.end; ++i) {
      const bool last_of_atom = i + 1 == mine.end;
      places.push_back(
          {.micro_batch = i,
           .in_batch = {.first_of_atom = i == mine.begin,
                        .last_of_atom = last_of_atom,
                        .first_atom = round_each || atom == atoms.front(),
                        .last = last_of_atom && (round_each || atom == atoms.back())}});
    }
  }
  return places;
}

AtomSizes Trainer::SizesOfAtoms() const {
  if (setup_.atoms.empty()) return dsrun::SizesOfAtoms(batch_);
  AtomSizes sizes;
  for (const std::vector<int64_t>& atoms : setup_.atoms) {
    std::vector<int64_t>& of_rank = sizes.emplace_back();
    for (const int64_t atom : atoms) of_rank.push_back(batch_.AtomMicroBatches(atom).size());
  }
  return sizes;
}

absl::Duration Trainer::EstimateStep() {
  int64_t most = static_cast<int64_t>(places_.size());  // micro-batches of one rank
  for (int64_t rank = 0; rank < batch_.width(); ++rank) {
    most = std::max(most, batch_.RankMicroBatches(rank).size());
  }
  const int64_t rows = spec_.micro_batch_size() * spec_.model().seq_length();
  // Of zeros, which take as long: under ZeRO-3 a rank may store no parameter, and all are to
  // measure the same. A wide stream with narrow heads and a narrow MLP has less room than the
  // product of the warm-up would read.
  const std::span<float> window(
      window_, static_cast<size_t>(WindowElements(space_, spec_.model().hidden_size())));
  const auto half = static_cast<int64_t>(window.size() / 2);
  int64_t width = spec_.model().hidden_size();
  while (width > 1 && (4 * width * width > half || 5 * width > half)) width /= 2;
  const WarmUp warm_up{
      .width = width,
      .rows = rows,
      .weights = window.first(static_cast<size_t>(half)),
      .scratch = window.subspan(static_cast<size_t>(half)),
  };
  const ModelPlan& model = setup_.model->plan();
  const double again =
      RecomputedFlopsOfToken(model, RecomputedSegments(model, rows, 1, input_.recompute));
  double of_matrices = 0;
  if (optimizer_.needs_matrices()) {
    of_matrices = PlanMatrices(layout_, batch_.width()).FlopsOfStep(optimizer_.ns_method());
  }
  return EstimateTime(*setup_.kernels, warm_up,
                      TrainFlops(input_.model, most * rows) +
                          again * static_cast<double>(most * rows) + of_matrices);
}

absl::StatusOr<StepResult> Trainer::TrainStep(bool stop_requested) {
  const SteadyTime begin = Clock::Real().SteadyNow();
  int voids = 0;
  ASSIGN_OR_RETURN(const StepExchange::Sums sums, ComputeStep(stop_requested, &voids));
  // Without one unmasked token both sums are 0, and so is what they are divided by.
  const double tokens_of_batch = static_cast<double>(std::max<int64_t>(sums.tokens, 1));
  const double norm = std::sqrt(sums.grad_square) / tokens_of_batch * Unscaled();
  const double loss = sums.loss / tokens_of_batch;
  // Skipped steps do not count for the schedule.
  const ScheduledRates rates = schedule_.At(state_.step - state_.skipped);
  StepResult result{.step = state_.step + 1,
                    .loss = loss,
                    .grad_norm = norm,
                    .lr = rates.lr,
                    .tokens = sums.tokens,
                    .stop = sums.stop,
                    .saving = sums.saving,
                    .voids = voids,
                    .duration = {},
                    .reducing = reducer_->times().reducing,
                    .reducing_hidden = reducer_->times().hidden};
  if (IsFinite(sums, loss, norm)) {
    exponents_.Commit(sums.magnitudes);
    if (sums.tokens > 0) {
      RETURN_IF_ERROR(Update(sums, norm, rates));
    }
    if (gatherer_ != nullptr && stage_.slots == ZeroPart::kOwned) gatherer_->Start();
    if (partitioned_ != nullptr) partitioned_->Changed();
    if (scaler_) {
      RETURN_IF_ERROR(scaler_->Update(/*overflow=*/false));
    }
  } else {
    ASSIGN_OR_RETURN(result, NotFinite(sums, result));
  }
  if (!spec_.overlap_comm()) {
    RETURN_IF_ERROR(Settle());
  }
  ++state_.step;
  state_.samples += spec_.global_batch_size();
  result.loss_scale = scaler_ ? scaler_->scale() : 0;
  result.duration = Clock::Real().SteadyNow() - begin;
  return result;
}

absl::StatusOr<StepExchange::Sums> Trainer::ComputeStep(bool stop_requested, int* voids) {
  while (true) {
    StepExchange::Part part;
    RETURN_IF_ERROR(ComputeGradients(&part));
    part.stop = stop_requested;
    part.saving = setup_.saving != nullptr && setup_.saving();
    ASSIGN_OR_RETURN(StepExchange::Sums sums, exchange_.Gather(part));
    if (exponents_.Judge(sums.magnitudes) != GradientExponents::Verdict::kVoid) return sums;
    if (++*voids > 1) {
      return WithVerdict(
          absl::InternalError(absl::StrCat(
              "step ", state_.step + 1,
              ": its gradients were larger at the second computation than at "
              "the first, so the same input gave other bits; look for failing hardware on the "
              "nodes of "
              "this job (memory errors, an unstable CPU), and go on from the last checkpoint")),
          proto::Failed::kEndJob);
    }
    LOG(INFO) << "step " << state_.step + 1
              << " is void: gradients beyond the headroom of their sums; it is computed again";
    exponents_.MakeRoom(sums.magnitudes);
  }
}

absl::Status Trainer::ComputeGradients(StepExchange::Part* part) {
  reducer_->StartStep();
  sums_->StartStep();
  grad_square_ = ExactSum();
  exponents_.SetShift(GradientShift());
  setup_.model->SetGradientScale(std::ldexp(1.0f, GradientShift()));
  auto place = places_.begin();
  for (int64_t round = 0; round < rounds_.rounds(); ++round) {
    if (round > 0) {
      RETURN_IF_ERROR(reducer_->NextRound());
    }
    RETURN_IF_ERROR(PlayIdlePasses(round));
    for (int64_t i = 0; i < rounds_.MicroBatches(rank_, round); ++i) {
      ASSIGN_OR_RETURN(const LossSum sum, ForwardBackward(*place++));
      part->tokens += sum.tokens;
      part->loss.Add(sum.loss);
    }
  }
  RETURN_IF_ERROR(reducer_->Finish());
  part->grad_square = grad_square_;
  ASSIGN_OR_RETURN(const std::span<const uint32_t> magnitudes, sums_->Magnitudes());
  magnitudes_.assign(magnitudes.begin(), magnitudes.end());
  for (uint32_t& magnitude : magnitudes_) magnitude = exponents_.Unshifted(magnitude);
  part->magnitudes = magnitudes_;
  return absl::OkStatus();
}

// They come first, so that the last passes of all ranks in the round, in which sums are reduced,
// are one.
absl::Status Trainer::PlayIdlePasses(int64_t round) {
  if (partitioned_ == nullptr) return absl::OkStatus();
  const int64_t mine = rounds_.MicroBatches(rank_, round);
  const int64_t idle = rounds_.Passes(round) - mine;
  for (int64_t pass = 0; pass < idle; ++pass) {
    const bool reduces = mine == 0 && pass + 1 == idle;
    RETURN_IF_ERROR(partitioned_->PlayIdle(PassKind::kTraining, [&](size_t layer) {
      return reduces ? reducer_->Ready(places_of_sums_.ready_after(layer)) : absl::OkStatus();
    }));
  }
  return absl::OkStatus();
}

absl::Status Trainer::ReadSamples(int64_t micro_batch) {
  const int64_t inputs = model_.InputsOfSample();
  const int64_t targets = model_.TargetsOfSample();
  const int64_t first = state_.samples + micro_batch * spec_.micro_batch_size();
  for (int64_t i = 0; i < spec_.micro_batch_size(); ++i) {
    const std::span given(tokens_ + i * inputs, static_cast<size_t>(inputs));
    const std::span wanted(targets_ + i * targets, static_cast<size_t>(targets));
    setup_.sample(first + i, given, wanted);
    RETURN_IF_ERROR(CheckSample(model_, given, wanted)) << "sample " << first + i;
  }
  return absl::OkStatus();
}

PassDraws Trainer::DrawsOf(int64_t micro_batch) const {
  return {.seed = spec_.seed(),
          .step = state_.step,
          .first_sample = micro_batch * spec_.micro_batch_size(),
          .rates = {.hidden = spec_.hidden_dropout(), .attention = spec_.attention_dropout()}};
}

absl::StatusOr<LossSum> Trainer::ForwardBackward(const Place& place) {
  RETURN_IF_ERROR(ReadSamples(place.micro_batch));
  constexpr size_t kSlot = 0;
  {
    const Span span(setup_.trace, absl::StrCat("forward micro-batch ", place.micro_batch));
    store_->BeginPass(PassKind::kTraining);
    RETURN_IF_ERROR(
        setup_.model->Forward(kSlot, tokens_, targets_, DrawsOf(place.micro_batch), *store_));
  }
  const Span span(setup_.trace, absl::StrCat("backward micro-batch ", place.micro_batch));
  collector_->Start(place.in_batch);
  return setup_.model->Backward(kSlot, *store_, *collector_);
}

absl::Status Trainer::CheckCancelled() {
  if (setup_.cancelled()) return absl::AbortedError("this generation is over");
  return comm_thread_.status();
}

// In its turn: the timeout belongs to whoever exchanges.
void Trainer::SetExchangeTimeout(absl::Duration timeout) {
  comm_thread_.Add([communicator = setup_.communicator, timeout] {
    communicator->SetTimeout(timeout);
    return absl::OkStatus();
  });
}

absl::Status Trainer::Settle() {
  RETURN_IF_ERROR(comm_thread_.Wait());
  return setup_.kernels->stream().Record().Await();
}

Trainer::Drain::~Drain() {
  (void)compute.Record().Await();
  (void)communication.Record().Await();
}

absl::Status Trainer::SumSquares(std::span<const float> sums) {
  const int64_t leaves = static_cast<int64_t>(sums.size()) / kLeafElements;
  setup_.comm_kernels->LeafSquares(leaves, sums.data(), leaf_squares_);
  Stream& stream = setup_.comm_kernels->stream();
  stream.Copy(squares_.data(), leaf_squares_, static_cast<size_t>(leaves) * sizeof(double));
  RETURN_IF_ERROR(stream.Record().Await());
  for (int64_t leaf = 0; leaf < leaves; ++leaf) {
    grad_square_.Add(squares_[static_cast<size_t>(leaf)]);
  }
  return absl::OkStatus();
}

absl::Status Trainer::GatherUpdated() {
  RETURN_IF_ERROR(shares_->Gather(reduced_, "all-gather gradients"));
  if (slots_gathered_) return absl::OkStatus();
  for (size_t slot = 0; slot < state_.slots.size(); ++slot) {
    RETURN_IF_ERROR(slot_shares_[slot].Gather(state_.slots[slot], "all-gather optimizer"));
  }
  slots_gathered_ = true;
  return absl::OkStatus();
}

absl::Status Trainer::Update(const StepExchange::Sums& sums, double norm,
                             const ScheduledRates& rates) {
  if (stage_.slots == ZeroPart::kAll) {
    RETURN_IF_ERROR(GatherUpdated());
  }
  const Span span(setup_.trace, std::string(input_.optimizer.name));
  const double scale =
      ClipFactor(norm, spec_.clip_grad()) / static_cast<double>(sums.tokens) * Unscaled();
  for (const Updated& part : updated_) {
    std::array<float*, kMostOptimizerSlots> slots{};
    for (size_t i = 0; i < state_.slots.size(); ++i) {
      if (part.in_slots[i] >= 0) slots[i] = state_.slots[i] + part.in_slots[i];
    }
    optimizer_.Step(state_.step + 1 - state_.skipped, rates, scale, part.range, reduced_ + part.at,
                    part.parameters, std::span(slots.data(), state_.slots.size()));
  }
  if (matrices_ != nullptr) {
    RETURN_IF_ERROR(DescendMatrices(rates));
  }
  if (norms_ != nullptr) {
    RETURN_IF_ERROR(Descend(rates));
  }
  for (const Updated& part : updated_) RoundParameters(part.range, part.parameters);
  return absl::OkStatus();
}

absl::Status Trainer::DescendMatrices(const ScheduledRates& rates) {
  RETURN_IF_ERROR(matrices_->Orthogonalise());
  for (const Updated& part : updated_) {
    optimizer_.DescendMatrices(rates, part.range, reduced_ + part.at, part.parameters);
  }
  return absl::OkStatus();
}

absl::Status Trainer::Descend(const ScheduledRates& rates) {
  // reduced_ holds directions now.
  for (const Updated& part : updated_) {
    if (!part.owned) continue;
    RETURN_IF_ERROR(norms_->Add(part.range, part.parameters, reduced_ + part.at));
  }
  ASSIGN_OR_RETURN(const std::vector<TensorNorms::Norms> norms, norms_->Gather());
  std::vector<double> trust;
  for (const TensorNorms::Norms& of : norms) {
    trust.push_back(optimizer_.TrustRatio(of.parameter, of.direction));
  }
  for (const Updated& part : updated_) {
    optimizer_.Descend(rates, trust, part.range, reduced_ + part.at, part.parameters);
  }
  return absl::OkStatus();
}

}  // namespace dsrun::worker
