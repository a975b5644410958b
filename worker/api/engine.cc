#include "worker/api/engine.h"

#include <algorithm>
#include <cstddef>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/base/usable_processors.h"
#include "common/plan/memory_input.h"
#include "proto/job.pb.h"
#include "worker/api/rank_checkpoints.h"
#include "worker/api/spec_of_config.h"
#include "worker/comm/tcp/tcp_rendezvous.h"
#include "worker/data/sample_values.h"
#include "worker/engine/communicator_factory.h"
#include "worker/engine/engine_factory.h"
#include "worker/engine/trace.h"
#include "worker/engine/trainer.h"

namespace dsrun {
namespace {

absl::StatusOr<std::unique_ptr<worker::Communicator>> Join(const JobPlace& place,
                                                           const std::string& job,
                                                           const Config& config) {
  ASSIGN_OR_RETURN(const std::unique_ptr<worker::TcpRendezvous> rendezvous,
                   worker::TcpRendezvous::Meet({.rank = place.rank,
                                                .size = place.size,
                                                .address = place.address,
                                                .job = job,
                                                .generation = place.generation,
                                                .timeout = config.join_timeout}));
  worker::CommunicatorRequest request;
  request.rank = place.rank;
  request.size = place.size;
  request.generation = Generation(place.generation);
  request.bind_address = place.address.substr(0, place.address.rfind(':'));
  if (request.bind_address.starts_with("[")) {
    request.bind_address = request.bind_address.substr(1, request.bind_address.size() - 2);
  }
  request.job_token = rendezvous->token();
  request.timeout = config.collective_timeout;
  request.connect_timeout = config.join_timeout;
  request.check = config.check_collectives;
  request.shared_memory = config.shared_memory;
  return worker::BuildCommunicator(request, *rendezvous);
}

// The memory plan of one's own rank, of what this engine has: a save is written from the arenas.
MemoryPlan PlanOf(const proto::TrainSpec& spec, const ModelPlan& model,
                  const worker::Communicator& communicator) {
  MemoryInput input = MemoryInputFromProto(spec);
  input.own = std::make_shared<const ModelPlan>(model);
  input.width = communicator.size();
  input.rank = communicator.rank();
  MemoryPlan plan = PlanMemory(input);
  std::erase_if(plan.buffers,
                [](const PlannedBuffer& buffer) { return buffer.name == "save_snapshot"; });
  return plan;
}

class RankEngine final : public Engine {
 public:
  RankEngine(const Config& config, const JobPlace& place, proto::JobSpec job,
             std::unique_ptr<worker::Communicator> communicator, worker::Engine parts)
      : config_(config),
        place_(place),
        job_(std::move(job)),
        communicator_(std::move(communicator)),
        parts_(std::move(parts)),
        trace_(/*enabled=*/false, place.rank) {}
  // In order: what the last step left under way arrives.
  ~RankEngine() override {
    if (trainer_ != nullptr) trainer_->Settle().IgnoreError();
  }

  absl::Status Prepare(const SampleShape& shape, SampleFn sample, FileSystem& file_system) {
    worker::Trainer::Setup setup;
    setup.spec = &job_.train();
    setup.communicator = communicator_.get();
    setup.device = parts_.device.get();
    setup.model = parts_.model.get();
    setup.kernels = parts_.kernels.get();
    setup.comm_kernels = parts_.comm_kernels.get();
    setup.sample = SampleWords(shape, std::move(sample));
    setup.cancelled = [] { return false; };
    setup.trace = &trace_;
    ASSIGN_OR_RETURN(trainer_, worker::Trainer::Create(setup));
    memory_plan_ = PlanOf(job_.train(), parts_.model->plan(), *communicator_);
    checkpoints_ = std::make_unique<RankCheckpoints>(
        RankCheckpoints::Setup{.file_system = &file_system,
                               .job = &job_,
                               .generation = Generation(place_.generation),
                               .communicator = communicator_.get(),
                               .trainer = trainer_.get(),
                               .kernels = parts_.kernels.get(),
                               .exchange_timeout = config_.collective_timeout,
                               .save_timeout = config_.save_timeout});
    RETURN_IF_ERROR(trainer_->InitializeParameters(job_.train().seed()));
    return trainer_->Settle();
  }

  absl::StatusOr<TrainedBatch> TrainBatch() override {
    has_trained_ = true;
    ASSIGN_OR_RETURN(const worker::StepResult result,
                     trainer_->TrainStep(/*stop_requested=*/false));
    return TrainedBatch{.step = result.step,
                        .loss = result.loss,
                        .grad_norm = result.grad_norm,
                        .lr = result.lr,
                        .rows = result.tokens,
                        .duration = result.duration};
  }

  absl::StatusOr<std::string> Save(const std::string& folder) override {
    RETURN_IF_ERROR(trainer_->Settle());
    return checkpoints_->Save(folder);
  }

  absl::StatusOr<LoadedCheckpoint> Load(const std::string& folder) override {
    if (has_trained_) {
      return absl::FailedPreconditionError(
          "Load comes before the first TrainBatch; to go back, initialize another engine");
    }
    ASSIGN_OR_RETURN(std::string manifest, checkpoints_->Load(folder));
    return LoadedCheckpoint{.step = step(), .manifest = std::move(manifest)};
  }

  absl::StatusOr<std::vector<float>> Outputs(const SampleFn& sample, int64_t first,
                                             int64_t count) override;

  int64_t step() const override { return trainer_->state().step; }
  int rank() const override { return communicator_->rank(); }
  int size() const override { return communicator_->size(); }
  const MemoryPlan& memory_plan() const override { return memory_plan_; }

 private:
  const Config config_;
  const JobPlace place_;
  const proto::JobSpec job_;
  bool has_trained_ = false;
  MemoryPlan memory_plan_;
  // Destroyed from the last to the first: the trainer's thread uses all of them.
  std::unique_ptr<worker::Communicator> communicator_;
  worker::Engine parts_;
  worker::Trace trace_;
  std::unique_ptr<worker::Trainer> trainer_;
  std::unique_ptr<RankCheckpoints> checkpoints_;
};

absl::StatusOr<std::vector<float>> RankEngine::Outputs(const SampleFn& sample, int64_t first,
                                                       int64_t count) {
  if (count < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("outputs of ", count, " samples were asked for; expected 1 or more"));
  }
  const ModelPlan& plan = parts_.model->plan();
  const int64_t batch = config_.micro_batch_size;
  const auto inputs = static_cast<size_t>(plan.InputsOfSample());
  const auto targets = static_cast<size_t>(plan.TargetsOfSample());
  const int64_t of_sample = plan.spec.seq_length * plan.spec.vocab_size;
  const auto fill = SampleWords(plan.sample, sample);
  std::vector<int32_t> given(inputs * static_cast<size_t>(batch));
  std::vector<int32_t> wanted(targets * static_cast<size_t>(batch));
  std::vector<float> out(static_cast<size_t>(batch * of_sample));
  std::vector<float> all;
  RETURN_IF_ERROR(trainer_->Settle());
  for (int64_t begin = 0; begin < count; begin += batch) {
    for (int64_t i = 0; i < batch; ++i) {
      // A pass is whole: behind the last sample comes the last one again.
      const int64_t index = first + std::min(begin + i, count - 1);
      const std::span one(given.data() + static_cast<size_t>(i) * inputs, inputs);
      const std::span its(wanted.data() + static_cast<size_t>(i) * targets, targets);
      fill(index, one, its);
      RETURN_IF_ERROR(worker::CheckSample(plan, one, its)) << "sample " << index;
    }
    trainer_->parameters().BeginPass(PassKind::kForwardOnly);
    RETURN_IF_ERROR(parts_.model->Forward(0, given.data(), wanted.data(), trainer_->parameters()));
    RETURN_IF_ERROR(parts_.model->Outputs(0, trainer_->parameters(), out.data()));
    const int64_t samples = std::min(batch, count - begin);
    all.insert(all.end(), out.begin(), out.begin() + samples * of_sample);
  }
  return all;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Engine>> Engine::Create(
    const OwnModel& model, SampleFn sample, const Config& config, const JobPlace& place,
    std::unique_ptr<worker::Communicator> communicator, FileSystem& file_system) {
  ASSIGN_OR_RETURN(const worker::OwnModel own, PlanModel(model));
  proto::JobSpec job;
  // A program that no job has started is known by its model.
  job.set_job_id(place.job.empty() ? model.name : place.job);
  const int processors = UsableProcessors() / std::max(1, place.local_size);
  ASSIGN_OR_RETURN(*job.mutable_train(), SpecOfConfig(config, own.plan, processors));
  RETURN_IF_ERROR(worker::CapLibraryOnce(job.train().isa_cap()));
  ASSIGN_OR_RETURN(worker::Engine parts, worker::BuildEngine(job.train(), &own));
  auto engine = std::make_unique<RankEngine>(config, place, std::move(job), std::move(communicator),
                                             std::move(parts));
  RETURN_IF_ERROR(engine->Prepare(model.sample, std::move(sample), file_system));
  return engine;
}

absl::StatusOr<std::unique_ptr<Engine>> Engine::Initialize(const OwnModel& model, SampleFn sample,
                                                           const Config& config) {
  // What is wrong in the program is said before anybody waits for others.
  ASSIGN_OR_RETURN(const worker::OwnModel own, PlanModel(model));
  RETURN_IF_ERROR(SpecOfConfig(config, own.plan, /*processors=*/1).status());
  ASSIGN_OR_RETURN(const JobPlace place, JobPlace::FromEnvironment());
  ASSIGN_OR_RETURN(std::unique_ptr<worker::Communicator> communicator,
                   Join(place, place.job.empty() ? model.name : place.job, config));
  return Create(model, std::move(sample), config, place, std::move(communicator));
}

}  // namespace dsrun
