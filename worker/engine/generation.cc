#include "worker/engine/generation.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/clock.h"
#include "common/base/counted.h"
#include "common/base/logging.h"
#include "common/base/proto_duration.h"
#include "common/base/status_macros.h"
#include "common/format/tags.h"
#include "worker/checkpoint/checkpoint_writer.h"
#include "worker/comm/core/collectives.h"
#include "worker/engine/deadlines.h"
#include "worker/engine/generate.h"
#include "worker/engine/resume.h"
#include "worker/engine/saving.h"
#include "worker/engine/trace.h"
#include "worker/engine/verdict.h"

namespace dsrun::worker {
namespace {

// The coordinator as this generation's meeting point.
class SessionRendezvous : public Rendezvous {
 public:
  SessionRendezvous(Session& session, Generation generation, Rank rank)
      : session_(session), generation_(generation), rank_(rank) {}
  absl::StatusOr<std::vector<std::string>> Exchange(const std::string& name,
                                                    const std::string& mine) override {
    return session_.Exchange(generation_, rank_, /*group=*/"", name, mine);
  }

 private:
  Session& session_;
  const Generation generation_;
  const Rank rank_;
};

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
        replica_size_(plan.has_mesh() ? size_ / std::max(plan.mesh().dp(), 1) : 1),
        floor_step_(plan.floor_step()),
        floor_manifest_(plan.floor_manifest()),
        deadlines_(job_.limits()),
        trace_(!spec_.trace_path().empty() && rank.value() == 0, rank.value()) {}

  // Threads first, while a newer generation can still wake them, then what they use.
  ~GenerationRun() {
    saving_.reset();
    trainer_.reset();
    session_.OnSuperseded(generation_, nullptr);
  }

  absl::StatusOr<proto::Finished> Run() {
    absl::StatusOr<proto::Finished> finished = RunPhases();
    if (finished.ok()) return finished;
    const absl::Status status = Deadlines::NameTheLimit(finished.status(), operation_);
    // The communication thread may wait for a peer that never answers, and is joined next.
    if (communicator_ != nullptr) {
      communicator_->Abort(absl::StrCat("its generation has failed: ", status.message()));
    }
    return status;
  }

 private:
  absl::StatusOr<proto::Finished> RunPhases() {
    RETURN_IF_ERROR(Join());
    RETURN_IF_ERROR(Load());
    RETURN_IF_ERROR(WarmUp());
    ASSIGN_OR_RETURN(const bool stopped, TrainSteps());
    return Finish(stopped);
  }
  absl::Status Join();
  absl::Status Load();
  // Measures what a first step may take, and waits until everybody has come as far: who loads from
  // a slow disk is not waited for by a limit of training.
  absl::Status WarmUp();
  absl::StatusOr<bool> TrainSteps();  // whether the operator ended it
  absl::StatusOr<proto::Finished> Finish(bool stopped);
  // The continuation of the prompt: the first rank\'s; empty on the others, which only take part.
  absl::StatusOr<std::string> Sample();
  void Tag(const std::string& manifest);  // of the last checkpoint
  void Report(const StepResult& result);
  void Notice(bool warning, const std::string& text);
  void NoticeMaskedBatch(int64_t step);
  // From here on the rank does `operation`: its beat says so, with the limit of that class, and
  // exchanges get the class's. The communicator is the caller's: not while a step is under way.
  void Enter(OperationClass operation) {
    Say(operation);
    if (communicator_ != nullptr) communicator_->SetTimeout(deadlines_.Exchange(operation));
  }
  // The same, while the communication thread may be exchanging.
  void EnterStep() {
    Say(deadlines_.NextStep());
    trainer_->SetExchangeTimeout(deadlines_.Exchange(operation_));
  }
  void Say(OperationClass operation) {
    operation_ = operation;
    setup_.progress->Set(trainer_ == nullptr ? 0 : trainer_->state().step, FactsOf(operation).phase,
                         deadlines_.Move(operation));
  }

  const GenerationSetup& setup_;
  Session& session_;
  const proto::JobSpec& job_;
  const proto::TrainSpec& spec_;
  const Generation generation_;
  const Rank rank_;
  const int size_;
  const int replica_size_;
  const int64_t floor_step_;
  const std::string floor_manifest_;
  Deadlines deadlines_;
  OperationClass operation_ = OperationClass::kJoin;
  Trace trace_;
  double last_loss_ = 0;
  int64_t masked_batches_ = 0;
  // Destroyed from the last to the first: the trainer's thread uses the communicator.
  std::unique_ptr<Communicator> communicator_;
  std::unique_ptr<Trainer> trainer_;
  std::unique_ptr<Saving> saving_;
};

absl::Status GenerationRun::Join() {
  Enter(OperationClass::kJoin);
  if (replica_size_ != 1) {
    return WithVerdict(
        absl::UnimplementedError(
            absl::StrCat("a plan whose replicas have ", replica_size_,
                         " ranks: this engine trains data parallel alone, and would train wrongly; "
                         "leave tensor, context and pipeline parallelism out")),
        proto::Failed::kEndJob);
  }
  SessionRendezvous rendezvous(session_, generation_, rank_);
  CommunicatorRequest request;
  request.rank = rank_.value();
  request.size = size_;
  request.generation = generation_;
  request.bind_address = setup_.bind_address;
  request.job_token = setup_.job_token;
  request.timeout = deadlines_.Exchange(OperationClass::kJoin);
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
  // Now the coordinator knows that everybody is here, and gives the time to load.
  RETURN_IF_ERROR(rendezvous.Exchange(kConnectedTable, "").status());
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
  trainer.saving = [this] {
    return setup_.save_writer->Busy() || (saving_ != nullptr && saving_->AwaitsOutcome());
  };
  trainer.reserve_snapshot = [this](size_t bytes) { return setup_.save_writer->Reserve(bytes); };
  trainer.trace = &trace_;
  ASSIGN_OR_RETURN(trainer_, Trainer::Create(trainer));
  return absl::OkStatus();
}

absl::Status GenerationRun::Load() {
  Enter(OperationClass::kLoad);
  ResumeSetup resume;
  resume.file_system = setup_.file_system;
  resume.job = &job_;
  resume.communicator = communicator_.get();
  resume.trainer = trainer_.get();
  resume.kernels_fingerprint = setup_.engine->kernels->Fingerprint();
  resume.moved = [this] { setup_.progress->Moved(); };
  resume.corpus_sha256 = setup_.corpus_sha256;
  resume.floor_step = floor_step_;
  resume.floor_manifest = floor_manifest_;
  resume.restart = generation_ > Generation(1);
  resume.clock = setup_.clock;
  resume.wait = [this](absl::Duration duration) {
    return setup_.wait(duration, [this] { return session_.Superseded(generation_); });
  };
  resume.warn = [this](const std::string& text) { Notice(/*warning=*/true, text); };
  resume.enter = [this](OperationClass operation) { Enter(operation); };
  ASSIGN_OR_RETURN(const Resumed resumed, Resume(resume));
  saving_ = std::make_unique<Saving>(Saving::Setup{
      .job = &job_,
      .session = &session_,
      .writer = setup_.save_writer,
      .trainer = trainer_.get(),
      .generation = generation_,
      .rank = rank_,
      .width = size_,
      .notice = [this](bool warning, const std::string& text) { Notice(warning, text); },
      .moved = [this] { setup_.progress->Moved(); }});
  if (!resumed.manifest.empty() && resumed.folder == spec_.save_dir()) {
    saving_->WentOnFrom(resumed.manifest);
  }
  proto::WorkerMessage message;
  message.mutable_joined()->set_start_step(trainer_->state().step);
  message.mutable_joined()->set_loaded_from(resumed.manifest);
  session_.Send(generation_, std::move(message));
  return absl::OkStatus();
}

absl::Status GenerationRun::WarmUp() {
  const absl::Duration step = trainer_->EstimateStep();
  deadlines_.StepEstimated(step);
  if (rank_.value() == 0 && deadlines_.FirstStepMayNotFit()) {
    Notice(/*warning=*/true,
           absl::StrCat("a step of this model and batch takes ", absl::FormatDuration(step),
                        " on this machine, by the speed of its products; in the first one ranks "
                        "wait for each other for ",
                        absl::FormatDuration(deadlines_.first_step_timeout()),
                        " (--first-step-timeout): raise that if they give up in vain"));
  }
  setup_.progress->Moved();
  return AllGather(*communicator_, "", "everybody is ready for the first step").status();
}

absl::StatusOr<bool> GenerationRun::TrainSteps() {
  bool stopped = false;
  while (!stopped && trainer_->state().step < spec_.train_iters()) {
    EnterStep();
    ASSIGN_OR_RETURN(const StepResult result, trainer_->TrainStep(session_.StopRequested()));
    stopped = result.stop;
    if (std::isfinite(result.loss)) last_loss_ = result.loss;
    deadlines_.StepTook(result.duration);
    Report(result);
    const bool due = spec_.save_interval() > 0 && result.step % spec_.save_interval() == 0;
    const bool last = stopped || result.step == spec_.train_iters();  // saved at the end
    if (due && !last) {
      Say(OperationClass::kSave);  // the communicator may be in use: not Enter
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
  Enter(OperationClass::kSave);
  ASSIGN_OR_RETURN(const std::string manifest, saving_->SaveLast());
  if (rank_.value() == 0 && !spec_.tag().empty()) Tag(manifest);
  proto::Finished finished;
  finished.set_step(trainer_->state().step);
  finished.set_loss(last_loss_);
  finished.set_manifest(manifest);
  finished.set_stopped_early(stopped);
  if (trace_.enabled()) {
    // A name that nobody has: a file of another's is not written over.
    const std::string temporary = absl::StrCat(spec_.trace_path(), ".", RandomDigits());
    const absl::StatusOr<FileInfo> there = setup_.file_system->Stat(spec_.trace_path());
    const absl::Status written =
        there.ok() && there->kind != FileKind::kRegular
            ? absl::FailedPreconditionError(spec_.trace_path() + " is no file by now")
            : WriteFileAtomically(*setup_.file_system, spec_.trace_path(), temporary, trace_.Json(),
                                  FileSystem::IfExists::kReplace);
    if (!written.ok()) Notice(true, absl::StrCat("no trace: ", written.message()));
  }
  if (!spec_.prompt().empty() && !stopped) {
    ASSIGN_OR_RETURN(*finished.mutable_sample(), Sample());
  }
  return finished;
}

absl::StatusOr<std::string> GenerationRun::Sample() {
  const bool all_play = trainer_->gathers_for_passes();
  if (rank_.value() != 0 && !all_play) return std::string();
  if (all_play) {
    // The first rank may still tidy up behind the commit: the others wait for it as for that.
    Enter(OperationClass::kCommit);
    RETURN_IF_ERROR(AllGather(*communicator_, "", "everybody is ready to sample").status());
  }
  Enter(OperationClass::kEvaluate);
  GenerateOptions options;
  options.length = spec_.sample_tokens();
  options.seed = spec_.seed();
  options.on_byte = [this] { setup_.progress->Moved(); };
  // Where all gather for each byte, all must end with the same one: they ask one another.
  options.stopped = [&]() -> absl::StatusOr<bool> {
    const bool asked = session_.StopRequested();
    if (!all_play) return asked;
    ASSIGN_OR_RETURN(const std::vector<std::string> all,
                     AllGather(*communicator_, asked ? "stop" : "", "who is to stop sampling"));
    return std::any_of(all.begin(), all.end(), [](const std::string& of) { return !of.empty(); });
  };
  ASSIGN_OR_RETURN(std::string sample, Generate(*setup_.engine->model, trainer_->parameters(),
                                                spec_.prompt(), options));
  if (rank_.value() != 0) return std::string();
  if (static_cast<int64_t>(sample.size()) < spec_.sample_tokens()) {
    Notice(true, absl::StrCat("the sample ends after ", sample.size(), " of ",
                              spec_.sample_tokens(), " bytes: the job was asked to stop"));
  }
  return sample;
}

// What was trained is safe without it, so a tag that cannot be written is told and ends nothing.
void GenerationRun::Tag(const std::string& manifest) {
  Enter(OperationClass::kCommit);
  const absl::StatusOr<std::vector<dsrun::Tag>> before =
      ReadTags(*setup_.file_system, spec_.save_dir());
  for (const dsrun::Tag& tag : before.ok() ? *before : std::vector<dsrun::Tag>()) {
    if (tag.name != spec_.tag() || tag.manifest == manifest) continue;
    Notice(/*warning=*/true, absl::StrCat("the tag ", tag.name, " named ", tag.manifest,
                                          " until now, which nothing keeps any longer; it names ",
                                          manifest, " from here on"));
  }
  const absl::Status tagged =
      WriteTag(*setup_.file_system, spec_.save_dir(), spec_.tag(), manifest);
  if (tagged.ok()) return;
  Notice(/*warning=*/true,
         absl::StrCat("THE TAG ", spec_.tag(), " COULD NOT BE WRITTEN: ", tagged.message(),
                      "; give it with: dsrun checkpoint tag ", spec_.save_dir(), " ", spec_.tag(),
                      " --step ", trainer_->state().step));
}

void GenerationRun::Report(const StepResult& result) {
  if (rank_.value() != 0) return;  // the others' beats carry their step
  if (result.tokens == 0) NoticeMaskedBatch(result.step);
  if (!result.note.empty()) Notice(/*warning=*/false, result.note);
  if (result.voids > 0) {
    Notice(/*warning=*/false,
           absl::StrCat("step ", result.step, " was computed twice: some gradient was more than ",
                        1 << GradientExponents::kHeadroom,
                        " times larger than any of the steps before; nothing is lost"));
  }
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
  done->set_loss_scale(result.loss_scale);
  done->set_skipped(result.skipped);
  session_.Send(generation_, std::move(message));
}

// The first one, and then more and more seldom.
void GenerationRun::NoticeMaskedBatch(int64_t step) {
  ++masked_batches_;
  if ((masked_batches_ & (masked_batches_ - 1)) != 0) return;
  Notice(
      /*warning=*/true,
      absl::StrCat("step ", step, ": every target of the batch is masked, so there was nothing ",
                   "to learn: loss 0, nothing was updated (", Counted(masked_batches_, "such step"),
                   " in this generation); look at the ", "masks of the text"));
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
