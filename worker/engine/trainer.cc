#include "worker/engine/trainer.h"

#include <algorithm>
#include <cmath>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/clock.h"
#include "common/base/logging.h"
#include "common/base/status_macros.h"
#include "common/model_spec/model_spec.h"
#include "common/plan/memory_plan.h"
#include "worker/data/token_ids.h"
#include "worker/engine/model_spec_proto.h"
#include "worker/engine/warm_up.h"
#include "worker/optim/gradient_norm.h"

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

int64_t MicroBatches(const proto::TrainSpec& spec) {
  return spec.global_batch_size() / spec.micro_batch_size();
}

MemoryInput PlanInput(const proto::TrainSpec& spec, int width, int rank) {
  MemoryInput input;
  input.model = FromProto(spec.model());
  input.micro_batch_size = spec.micro_batch_size();
  input.micro_batches = MicroBatches(spec);
  input.blocks = spec.canonical_blocks();
  input.width = width;
  input.rank = rank;
  input.bucket_bytes = spec.bucket_bytes();
  input.threads = spec.threads_per_rank();
  return input;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Trainer>> Trainer::Create(const Setup& setup) {
  RETURN_IF_ERROR(ValidateBatchPlan(MicroBatches(*setup.spec), setup.spec->canonical_blocks(),
                                    setup.communicator->size()));
  std::unique_ptr<Trainer> trainer(new Trainer(setup));
  RETURN_IF_ERROR(trainer->Allocate());
  return trainer;
}

Trainer::Trainer(const Setup& setup)
    : setup_(setup),
      spec_(*setup.spec),
      rank_(setup.communicator->rank()),
      layout_(LogicalTensors(FromProto(spec_.model()))),
      shards_(layout_, setup.communicator->size(), spec_.bucket_bytes()),
      space_(layout_, shards_, spec_.bucket_bytes()),
      batch_(MicroBatches(spec_), spec_.canonical_blocks(), setup.communicator->size()),
      accumulation_(PlanAccumulation(batch_, rank_)),
      schedule_{spec_.lr(), spec_.min_lr(), spec_.lr_warmup_iters(), spec_.train_iters()},
      adamw_(*setup.kernels, layout_,
             {spec_.adam_beta1(), spec_.adam_beta2(), spec_.adam_eps(), spec_.weight_decay()}),
      exchange_(*setup.communicator, batch_, layout_, shards_) {}

// One allocation for each line of the memory plan that is not the model's own.
absl::Status Trainer::Allocate() {
  const MemoryPlan plan = PlanMemory(PlanInput(spec_, setup_.communicator->size(), rank_));
  const auto allocate = [&](const char* name) -> absl::StatusOr<void*> {
    ASSIGN_OR_RETURN(Buffer buffer,
                     setup_.device->Allocate(static_cast<size_t>(plan.Find(name).bytes()), name));
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
  float* gradients = nullptr;
  float* scratch = nullptr;
  RETURN_IF_ERROR(floats("parameters", &state_.parameters));
  RETURN_IF_ERROR(floats("adam_m", &state_.adam_m));
  RETURN_IF_ERROR(floats("adam_v", &state_.adam_v));
  RETURN_IF_ERROR(floats("gradients", &gradients));
  RETURN_IF_ERROR(floats("reduce_scratch", &scratch));
  ASSIGN_OR_RETURN(void* const tokens, allocate("tokens"));
  tokens_ = static_cast<int32_t*>(tokens);
  targets_ = tokens_ + spec_.micro_batch_size() * spec_.model().seq_length();
  for (int i = 0; i < accumulation_.buffer_count; ++i) {
    gradients_.push_back(gradients + i * space_.size());
  }
  const int64_t scratch_elements = plan.Find("reduce_scratch").elements;
  CHECK_LE(GradientReducer::ScratchElements(batch_, space_, rank_), scratch_elements);
  const auto on_span = [trace = setup_.trace](const std::string& name, SteadyTime begin,
                                              SteadyTime end) {
    trace->Add(Trace::Lane::kCommunication, name, begin, end);
  };
  reducer_ = std::make_unique<GradientReducer>(GradientReducer::Setup{
      .communicator = setup_.communicator,
      .thread = &comm_thread_,
      .batch = &batch_,
      .space = &space_,
      .accumulation = &accumulation_,
      .buffers = gradients_,
      .scratch = std::span(scratch, static_cast<size_t>(scratch_elements)),
      .kernels = setup_.comm_kernels,
      .overlap = spec_.overlap_comm(),
      .on_reduced = [this](Range range) { SumSquares(*setup_.comm_kernels, range); },
      .on_span = on_span,
  });
  gatherer_ = std::make_unique<ParameterGatherer>(ParameterGatherer::Setup{
      .communicator = setup_.communicator,
      .thread = &comm_thread_,
      .space = &space_,
      .parameters = state_.parameters,
      .on_span = on_span,
  });
  return absl::OkStatus();
}

absl::Duration Trainer::EstimateStep() {
  int64_t most = 0;  // micro-batches of one rank
  for (int64_t rank = 0; rank < batch_.width(); ++rank) {
    int64_t mine = 0;
    const Range blocks = batch_.RankBlocks(rank);
    for (int64_t block = blocks.begin; block < blocks.end; ++block) {
      mine += batch_.BlockMicroBatches(block).size();
    }
    most = std::max(most, mine);
  }
  const int64_t rows = spec_.micro_batch_size() * spec_.model().seq_length();
  const WarmUp warm_up{
      .width = spec_.model().hidden_size(),
      .rows = rows,
      .weights = std::span(state_.parameters, static_cast<size_t>(layout_.size())),
      .scratch = std::span(gradients_[0], static_cast<size_t>(space_.size())),
  };
  return EstimateTime(*setup_.kernels, warm_up, TrainFlops(FromProto(spec_.model()), most * rows));
}

absl::StatusOr<StepResult> Trainer::TrainStep(bool stop_requested) {
  const SteadyTime begin = Clock::Real().SteadyNow();
  int64_t tokens = 0;
  RETURN_IF_ERROR(ComputeGradients(&tokens));
  JoinTiedGradients();
  ASSIGN_OR_RETURN(
      const StepExchange::Sums sums,
      exchange_.Gather(tokens, stop_requested, setup_.saving != nullptr && setup_.saving()));
  // Without one unmasked token both sums are 0, and so is what they are divided by.
  const double tokens_of_batch = static_cast<double>(std::max<int64_t>(sums.tokens, 1));
  const double norm = std::sqrt(sums.grad_square) / tokens_of_batch;
  const double loss = sums.loss / tokens_of_batch;
  if (!std::isfinite(norm) || !std::isfinite(loss)) {
    return absl::OutOfRangeError(absl::StrCat(
        "step ", state_.step + 1, ": loss ", loss, " and gradient norm ", norm,
        " must be finite; the run has diverged: lower --lr, add --lr-warmup-iters or set "
        "--clip-grad, and go on from the last checkpoint"));
  }
  const double lr = schedule_.At(state_.step);
  if (sums.tokens > 0) Update(sums, norm, lr);
  gatherer_->Start();
  if (!spec_.overlap_comm()) {
    RETURN_IF_ERROR(Settle());
  }
  ++state_.step;
  state_.samples += spec_.global_batch_size();
  return StepResult{.step = state_.step,
                    .loss = loss,
                    .grad_norm = norm,
                    .lr = lr,
                    .tokens = sums.tokens,
                    .stop = sums.stop,
                    .saving = sums.saving,
                    .duration = Clock::Real().SteadyNow() - begin,
                    .reducing = reducer_->times().reducing,
                    .reducing_hidden = reducer_->times().hidden};
}

absl::Status Trainer::ComputeGradients(int64_t* tokens) {
  const Range blocks = batch_.RankBlocks(rank_);
  std::span<double> block_losses = exchange_.block_losses();
  int64_t block = blocks.begin;
  double block_loss = 0;
  reducer_->StartStep();
  for (const AccumulationStep& step : accumulation_.steps) {
    ASSIGN_OR_RETURN(const LossSum sum,
                     ForwardBackward(step, &step == &accumulation_.steps.back()));
    *tokens += sum.tokens;
    const Range micro_batches = batch_.BlockMicroBatches(block);
    block_loss = step.micro_batch == micro_batches.begin ? sum.loss : block_loss + sum.loss;
    block_losses[static_cast<size_t>(block - blocks.begin)] = block_loss;
    if (step.micro_batch + 1 == micro_batches.end) ++block;
  }
  return reducer_->Finish();
}

absl::Status Trainer::ReadSamples(int64_t micro_batch) {
  const int64_t length = spec_.model().seq_length();
  const int64_t first = state_.samples + micro_batch * spec_.micro_batch_size();
  for (int64_t i = 0; i < spec_.micro_batch_size(); ++i) {
    const std::span tokens(tokens_ + i * length, static_cast<size_t>(length));
    const std::span targets(targets_ + i * length, static_cast<size_t>(length));
    setup_.sample(first + i, tokens, targets);
    RETURN_IF_ERROR(CheckTokens(tokens, targets, spec_.model().vocab_size()))
        << "sample " << first + i;
  }
  return absl::OkStatus();
}

absl::StatusOr<LossSum> Trainer::ForwardBackward(const AccumulationStep& step, bool last) {
  RETURN_IF_ERROR(ReadSamples(step.micro_batch));
  LossSum sum;
  {
    const Span span(setup_.trace, absl::StrCat("forward micro-batch ", step.micro_batch));
    const auto gathered = [&](Range range) -> absl::Status {
      RETURN_IF_ERROR(CheckCancelled());
      return gatherer_->Await(range.end);
    };
    ASSIGN_OR_RETURN(sum, setup_.model->Forward(state_.parameters, tokens_, targets_, gathered));
  }
  const Span span(setup_.trace, absl::StrCat("backward micro-batch ", step.micro_batch));
  float* const target = gradients_[static_cast<size_t>(step.target)];
  RETURN_IF_ERROR(setup_.model->Backward(state_.parameters, target, [&](Range range) {
    if (last) reducer_->Ready(range);
    return CheckCancelled();
  }));
  if (!last) {  // the last additions belong to the reducer, bucket by bucket
    for (const BufferAdd& add : step.adds) {
      setup_.kernels->Accumulate(space_.size(), gradients_[static_cast<size_t>(add.from)],
                                 gradients_[static_cast<size_t>(add.into)]);
    }
  }
  return sum;
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

void Trainer::JoinTiedGradients() {
  for (const Range& range : shards_.Owned(rank_, space_.tied())) {
    setup_.kernels->Accumulate(range.size(), reducer_->result() + layout_.size() + range.begin,
                               reducer_->result() + range.begin);
    SumSquares(*setup_.kernels, range);
  }
}

void Trainer::SumSquares(Kernels& kernels, Range range) {
  if (range.begin >= layout_.size()) return;  // counted where it is joined
  size_t leaf = 0;                            // of the rank's owned ones
  for (const Range& mine : owned()) {
    if (range.begin < mine.end) {
      leaf += static_cast<size_t>((range.begin - mine.begin) / kLeafElements);
      break;
    }
    leaf += static_cast<size_t>(mine.size() / kLeafElements);
  }
  kernels.LeafSquares(range.size() / kLeafElements, reducer_->result() + range.begin,
                      exchange_.leaf_squares().data() + leaf);
}

void Trainer::Update(const StepExchange::Sums& sums, double norm, double lr) {
  const Span span(setup_.trace, "adamw");
  const double scale = ClipFactor(norm, spec_.clip_grad()) / static_cast<double>(sums.tokens);
  int64_t moments = 0;
  for (const Range& range : owned()) {
    adamw_.Step(state_.step + 1, lr, scale, range, reducer_->result() + range.begin,
                state_.parameters + range.begin, state_.adam_m + moments, state_.adam_v + moments);
    moments += range.size();
  }
}

}  // namespace dsrun::worker
