#include "worker/engine/generation.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/clock.h"
#include "common/base/logging.h"
#include "common/base/proto_duration.h"
#include "common/base/status_macros.h"
#include "common/model_spec/model_spec.h"
#include "worker/engine/checkpointing.h"
#include "worker/engine/exchange_timeout.h"
#include "worker/engine/generate.h"
#include "worker/engine/model_spec_proto.h"
#include "worker/engine/saving.h"
#include "worker/engine/trace.h"

namespace dsrun::worker {
namespace {

// The coordinator as this generation's meeting point.
class SessionRendezvous : public Rendezvous {
 public:
  SessionRendezvous(Session& session, Generation generation, Rank rank)
      : session_(session), generation_(generation), rank_(rank) {}
  absl::StatusOr<std::vector<std::string>> Exchange(const std::string& name,
                                                    const std::string& mine) override {
    return session_.Exchange(generation_, rank_, name, mine);
  }

 private:
  Session& session_;
  const Generation generation_;
  const Rank rank_;
};

double StepFlops(const proto::TrainSpec& spec) {
  return TrainFlops(FromProto(spec.model()), spec.global_batch_size() * spec.model().seq_length());
}

class GenerationRun {
 public:
  GenerationRun(const GenerationSetup& setup, const proto::GenerationPlan& plan, Rank rank)
      : setup_(setup),
        session_(*setup.session),
        job_(setup.session->job()),
        spec_(job_.train()),
        generation_(plan.generation()),
        rank_(rank),
        size_(plan.members_size()),
        exchange_timeout_(dsrun::FromProto(job_.limits().collective_timeout()), StepFlops(spec_)),
        patience_(absl::ZeroDuration(), StepFlops(spec_)),
        trace_(!spec_.trace_path().empty() && rank.value() == 0, rank.value()) {}

  ~GenerationRun() { session_.OnSuperseded(generation_, nullptr); }

  absl::StatusOr<proto::Finished> Run() {
    RETURN_IF_ERROR(Join());
    RETURN_IF_ERROR(Load());
    ASSIGN_OR_RETURN(const bool stopped, TrainSteps());
    return Finish(stopped);
  }

 private:
  absl::Status Join();
  absl::Status Load();
  absl::StatusOr<bool> TrainSteps();  // whether the operator ended it
  absl::StatusOr<proto::Finished> Finish(bool stopped);
  void Report(const StepResult& result);
  void Notice(bool warning, const std::string& text);
  // Without `patience`: a declared long operation.
  void SetPhase(const std::string& phase, absl::Duration patience = absl::InfiniteDuration()) {
    setup_.progress->Set(trainer_ == nullptr ? 0 : trainer_->state().step, phase, patience);
  }

  const GenerationSetup& setup_;
  Session& session_;
  const proto::JobSpec& job_;
  const proto::TrainSpec& spec_;
  const Generation generation_;
  const Rank rank_;
  const int size_;
  ExchangeTimeout exchange_timeout_;
  ExchangeTimeout patience_;  // from move to move; the same rule without the least
  Trace trace_;
  double last_loss_ = 0;
  // Destroyed from the last to the first: the trainer's thread uses the communicator.
  std::unique_ptr<Communicator> communicator_;
  std::unique_ptr<Trainer> trainer_;
  std::unique_ptr<Checkpointing> checkpointing_;
  std::unique_ptr<Saving> saving_;
};

absl::Status GenerationRun::Join() {
  SetPhase("joining");
  SessionRendezvous rendezvous(session_, generation_, rank_);
  CommunicatorRequest request;
  request.rank = rank_.value();
  request.size = size_;
  request.generation = generation_;
  request.bind_address = setup_.bind_address;
  request.job_token = setup_.job_token;
  request.timeout = exchange_timeout_.Current();
  request.connect_timeout = dsrun::FromProto(job_.limits().join_timeout());
  request.check = spec_.check_collectives();
  request.shared_memory = spec_.shared_memory();
  request.cancelled = [this] { return session_.Superseded(generation_); };
  ASSIGN_OR_RETURN(communicator_, setup_.build_communicator(request, rendezvous));
  communicator_ = WatchExchanges(
      std::move(communicator_), request.timeout,
      WatchOf(setup_.progress,
              [](const std::string& what, absl::Duration waited, const proto::Stacks& stacks) {
                LOG(WARNING) << "waited " << waited << " in vain in '" << what << "'\n"
                             << StacksText(stacks);
              }));
  session_.OnSuperseded(generation_, [communicator = communicator_.get()] {
    communicator->Abort("a newer generation was announced");
  });
  Trainer::Setup trainer;
  trainer.spec = &spec_;
  trainer.communicator = communicator_.get();
  trainer.device = setup_.engine->device.get();
  trainer.model = setup_.engine->model.get();
  trainer.kernels = setup_.engine->kernels.get();
  trainer.comm_kernels = setup_.engine->comm_kernels.get();
  trainer.sample = setup_.sample;
  trainer.cancelled = [this] {
    setup_.progress->Moved();  // asked from block to block of the model
    return session_.Superseded(generation_);
  };
  trainer.saving = [this] { return setup_.save_writer->Busy(); };
  trainer.reserve_snapshot = [this](size_t bytes) { return setup_.save_writer->Reserve(bytes); };
  trainer.trace = &trace_;
  ASSIGN_OR_RETURN(trainer_, Trainer::Create(trainer));
  return absl::OkStatus();
}

absl::Status GenerationRun::Load() {
  SetPhase("loading");
  Checkpointing::Setup setup;
  setup.file_system = setup_.file_system;
  setup.job = &job_;
  setup.communicator = communicator_.get();
  setup.trainer = trainer_.get();
  setup.kernels_fingerprint = setup_.engine->kernels->Fingerprint();
  setup.corpus_sha256 = setup_.corpus_sha256;
  setup.warn = [this](const std::string& text) { Notice(/*warning=*/true, text); };
  checkpointing_ = std::make_unique<Checkpointing>(std::move(setup));
  ASSIGN_OR_RETURN(const std::string manifest, checkpointing_->Resume());
  saving_ = std::make_unique<Saving>(Saving::Setup{
      .job = &job_,
      .session = &session_,
      .writer = setup_.save_writer,
      .trainer = trainer_.get(),
      .generation = generation_,
      .rank = rank_,
      .width = size_,
      .notice = [this](bool warning, const std::string& text) { Notice(warning, text); }});
  if (!checkpointing_->newest().empty()) saving_->WentOnFrom(checkpointing_->newest());
  proto::WorkerMessage message;
  message.mutable_joined()->set_start_step(trainer_->state().step);
  message.mutable_joined()->set_loaded_from(manifest);
  session_.Send(generation_, std::move(message));
  return absl::OkStatus();
}

absl::StatusOr<bool> GenerationRun::TrainSteps() {
  bool stopped = false;
  while (!stopped && trainer_->state().step < spec_.train_iters()) {
    SetPhase("training", patience_.Current());
    ASSIGN_OR_RETURN(const StepResult result, trainer_->TrainStep(session_.StopRequested()));
    stopped = result.stop;
    last_loss_ = result.loss;
    exchange_timeout_.StepTook(result.duration);
    patience_.StepTook(result.duration);
    trainer_->SetExchangeTimeout(exchange_timeout_.Current());
    Report(result);
    const bool due = spec_.save_interval() > 0 && result.step % spec_.save_interval() == 0;
    const bool last = stopped || result.step == spec_.train_iters();  // saved at the end
    if (due && !last) {
      SetPhase("saving");
      const SteadyTime begin = Clock::Real().SteadyNow();
      saving_->Save(result.saving);
      trace_.Add(Trace::Lane::kCompute, "snapshot", begin, Clock::Real().SteadyNow());
    }
  }
  return stopped;
}

// The last checkpoint is part of what was asked for: without it the run has not succeeded.
absl::StatusOr<proto::Finished> GenerationRun::Finish(bool stopped) {
  RETURN_IF_ERROR(trainer_->Settle());
  SetPhase("saving");
  ASSIGN_OR_RETURN(const std::string manifest, saving_->SaveLast());
  proto::Finished finished;
  finished.set_step(trainer_->state().step);
  finished.set_loss(last_loss_);
  finished.set_manifest(manifest);
  finished.set_stopped_early(stopped);
  if (trace_.enabled()) {
    const std::string temporary = spec_.trace_path() + ".partial";
    const absl::Status written =
        WriteFileAtomically(*setup_.file_system, spec_.trace_path(), temporary, trace_.Json(),
                            FileSystem::IfExists::kReplace);
    if (!written.ok()) Notice(true, absl::StrCat("no trace: ", written.message()));
  }
  if (rank_.value() == 0 && !spec_.prompt().empty() && !stopped) {
    SetPhase("sampling");
    GenerateOptions options;
    options.length = spec_.sample_tokens();
    options.seed = spec_.seed();
    finished.set_sample(Generate(*setup_.engine->model, FromProto(spec_.model()),
                                 trainer_->state().parameters, spec_.prompt(), options));
  }
  return finished;
}

void GenerationRun::Report(const StepResult& result) {
  if (rank_.value() != 0) return;  // the others' beats carry their step
  const double seconds = absl::ToDoubleSeconds(result.duration);
  proto::WorkerMessage message;
  proto::StepDone* const done = message.mutable_step_done();
  done->set_step(result.step);
  done->set_loss(result.loss);
  done->set_grad_norm(result.grad_norm);
  done->set_lr(result.lr);
  done->set_tokens_per_s(static_cast<double>(result.tokens) / seconds);
  done->set_step_ms(seconds * 1e3);
  done->set_comm_ms(absl::ToDoubleMilliseconds(result.reducing));
  done->set_comm_hidden_ms(absl::ToDoubleMilliseconds(result.reducing_hidden));
  session_.Send(generation_, std::move(message));
}

void GenerationRun::Notice(bool warning, const std::string& text) {
  proto::WorkerMessage message;
  message.mutable_notice()->set_warning(warning);
  message.mutable_notice()->set_text(text);
  session_.Send(generation_, std::move(message));
}

}  // namespace

absl::StatusOr<proto::Finished> RunGeneration(const GenerationSetup& setup,
                                              const proto::GenerationPlan& plan, Rank rank) {
  return GenerationRun(setup, plan, rank).Run();
}

bool IsFatal(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kAborted:
    case absl::StatusCode::kDeadlineExceeded:
    case absl::StatusCode::kCancelled:
    case absl::StatusCode::kDataLoss:          // the previous checkpoint is looked for
    case absl::StatusCode::kPermissionDenied:  // a stranger at the port
      return false;
    default:
      return true;
  }
}

absl::StatusOr<Rank> FindRank(const proto::GenerationPlan& plan, WorkerId worker) {
  for (int rank = 0; rank < plan.members_size(); ++rank) {
    if (plan.members(rank).node() == worker.node.value() &&
        plan.members(rank).slot() == worker.slot.value()) {
      return Rank(rank);
    }
  }
  return absl::NotFoundError(absl::StrCat("generation ", plan.generation(),
                                          " has no place for node ", worker.node.value(), " slot ",
                                          worker.slot.value()));
}

}  // namespace dsrun::worker
