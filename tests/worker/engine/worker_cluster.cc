#include "tests/worker/engine/worker_cluster.h"

#include <map>
#include <set>
#include <span>
#include <thread>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "common/base/mutex.h"
#include "common/format/save_outcome.h"
#include "gtest/gtest.h"
#include "launcher/coordinator/save_ledger.h"
#include "tests/worker/checkpoint/training_state.h"
#include "tests/worker/engine/engine_under_test.h"
#include "tests/worker/engine/training_ranks.h"
#include "worker/comm/in_process/in_process_communicator.h"
#include "worker/engine/generation.h"
#include "worker/engine/save_writer.h"
#include "worker/engine/saving.h"
#include "worker/engine/session_state.h"

namespace dsrun::worker {

using launcher::SaveLedger;

// What all sessions of one generation share.
struct WorkerCluster::Hub {
  WorkerCluster* cluster = nullptr;
  int64_t generation = 0;
  std::vector<std::unique_ptr<SessionState>> states;  // by rank
  Mutex mu;
  std::map<std::string, std::map<int, std::string>> puts ABSL_GUARDED_BY(mu);

  void Put(Rank rank, const std::string& name, const std::string& value) {
    proto::ExchangeTable table;
    {
      MutexLock lock(mu);
      std::map<int, std::string>& values = puts[name];
      values[rank.value()] = value;
      if (values.size() < states.size()) return;
      table.set_name(name);
      for (const auto& [r, v] : values) table.add_values(v);
    }
    for (auto& state : states) state->TableArrived(Generation(generation), table);
  }
};

// What a worker process keeps through its generations.
struct WorkerCluster::Worker {
  Engine engine;
  std::unique_ptr<SaveWriter> writer;
  Incarnation incarnation;
};

// Saves, as the coordinator handles them (launcher/coordinator/coordinator_saves.cc).
struct WorkerCluster::Coordinator {
  explicit Coordinator(WorkerCluster* cluster) : cluster(cluster) {}

  static WorkerId Place(Rank rank) { return {NodeId(0), Slot(rank.value())}; }

  void Began(int width, const std::set<WorkerId>& survivors) {
    MutexLock lock(mu);
    warnings.clear();
    std::vector<WorkerId> ranks;
    for (int rank = 0; rank < width; ++rank) ranks.push_back(Place(Rank(rank)));
    PerformLocked(ledger.Began(cluster->generation(), ranks, survivors));
  }

  void Ended(Rank rank) {
    MutexLock lock(mu);
    PerformLocked(ledger.ProcessEnded(Place(rank), cluster->generation()));
  }

  // `worker`: who speaks; null: its session does.
  void Heard(Rank rank, const Worker* worker, const proto::WorkerMessage& message) {
    MutexLock lock(mu);
    if (closed) return;
    if (worker != nullptr && (Index(rank) >= cluster->workers_.size() ||
                              cluster->workers_[Index(rank)].get() != worker)) {
      return;  // dead
    }
    if (message.notice().warning()) warnings.push_back(message.notice().text());
    if (message.has_joined()) PerformLocked(ledger.Joined(Place(rank)));
    if (message.has_shard_written()) {
      PerformLocked(ledger.Written(Place(rank), message.shard_written()));
    }
    if (message.has_commit_done()) PerformLocked(ledger.Done(Place(rank), message.commit_done()));
  }

  void PerformLocked(const SaveLedger::Effects& effects) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) {
    for (const SaveLedger::Effect& effect : effects) {
      proto::HostMessage message;
      if (const auto* granted = std::get_if<SaveLedger::Granted>(&effect)) {
        *message.mutable_commit_save() = granted->commit;
        cluster->workers_[Index(Rank(granted->to.slot.value()))]->writer->OnHost(message);
      } else if (const auto* dropped = std::get_if<SaveLedger::Dropped>(&effect)) {
        message.mutable_drop_save()->mutable_save()->set_step(dropped->id.step);
        message.mutable_drop_save()->mutable_save()->set_generation(dropped->id.generation);
        for (const auto& worker : cluster->workers_) {
          if (dropped->remove && worker != nullptr) worker->writer->OnHost(message);
        }
        if (!dropped->failed) continue;
        warnings.push_back(absl::StrCat("CHECKPOINT OF STEP ", dropped->id.step,
                                        " COULD NOT BE WRITTEN: ", dropped->reason));
        TellLocked(dropped->id, "", dropped->reason, dropped->code);
      } else {
        const auto& committed = std::get<SaveLedger::Committed>(effect);
        TellLocked(committed.id, committed.manifest, "", 0);
      }
    }
  }

  void TellLocked(SaveLedger::Id id, const std::string& manifest, const std::string& error,
                  int code) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) {
    const std::shared_ptr<Hub> hub = cluster->hub_;
    if (hub == nullptr || id.generation != hub->generation) return;
    proto::ExchangeTable table;
    table.set_name(SaveOutcomeName(id.step));
    table.add_values(manifest);
    table.add_values(error);
    table.add_values(std::to_string(code));
    for (auto& state : hub->states) state->TableArrived(Generation(id.generation), table);
  }

  static size_t Index(Rank rank) { return static_cast<size_t>(rank.value()); }

  WorkerCluster* const cluster;
  Mutex mu;
  SaveLedger ledger ABSL_GUARDED_BY(mu);
  std::vector<std::string> warnings ABSL_GUARDED_BY(mu);
  bool closed ABSL_GUARDED_BY(mu) = false;
};

namespace {

class ClusterSession : public Session {
 public:
  using OnSend = std::function<void(const proto::WorkerMessage&)>;
  ClusterSession(std::shared_ptr<WorkerCluster::Hub> hub, const proto::JobSpec& job, Rank rank,
                 OnSend on_send)
      : hub_(std::move(hub)), job_(job), rank_(rank), on_send_(std::move(on_send)) {}

  const proto::JobSpec& job() const override { return job_; }
  absl::StatusOr<proto::GenerationPlan> WaitForPlan(Generation after) override {
    return state().WaitForPlan(after);
  }
  bool Superseded(Generation generation) const override { return state().Superseded(generation); }
  void OnSuperseded(Generation generation, std::function<void()> interrupt) override {
    state().OnSuperseded(generation, std::move(interrupt));
  }
  bool StopRequested() const override { return state().StopRequested(); }
  absl::StatusOr<std::vector<std::string>> Exchange(Generation generation, Rank rank,
                                                    const std::string& group,
                                                    const std::string& name,
                                                    const std::string& value) override {
    EXPECT_EQ(group, "") << "the engine has one group yet";
    hub_->Put(rank, name, value);
    return state().WaitForTable(generation, name);
  }
  absl::StatusOr<std::vector<std::string>> AwaitTable(Generation generation,
                                                      const std::string& name,
                                                      absl::Duration timeout) override {
    return state().WaitForTable(generation, name, timeout);
  }
  void OnSaveMessage(std::function<void(const proto::HostMessage&)>) override {}  // see Coordinator
  void Send(Generation, proto::WorkerMessage message) override { on_send_(message); }

 private:
  SessionState& state() const { return *hub_->states[static_cast<size_t>(rank_.value())]; }

  const std::shared_ptr<WorkerCluster::Hub> hub_;
  const proto::JobSpec job_;
  const Rank rank_;
  const OnSend on_send_;
};

}  // namespace

WorkerCluster::WorkerCluster(proto::JobSpec job, FileSystem& file_system)
    : job_(std::move(job)),
      file_system_(file_system),
      coordinator_(std::make_unique<Coordinator>(this)) {
  EXPECT_TRUE(BeginJob(file_system_, job_.train().save_dir(), job_.job_id()).ok());
}

WorkerCluster::~WorkerCluster() {
  MutexLock lock(coordinator_->mu);
  coordinator_->closed = true;
}

void WorkerCluster::Announce() {
  proto::GenerationPlan plan;
  std::shared_ptr<Hub> hub;
  {
    MutexLock lock(coordinator_->mu);
    plan.set_generation(generation_ + 1);
    hub = hub_;
  }
  for (auto& state : hub->states) state->PlanAnnounced(plan);
}

// A part that is written makes a commit, that one what is dropped: one look would not do.
void WorkerCluster::AwaitSaves() {
  constexpr int kQuietLooks = 4;
  for (int quiet = 0; quiet < kQuietLooks; ++quiet) {
    bool busy = false;
    {
      MutexLock lock(coordinator_->mu);
      for (const auto& worker : workers_) busy |= worker != nullptr && worker->writer->Busy();
    }
    if (!busy) continue;
    quiet = -1;
    std::this_thread::yield();
  }
}

void WorkerCluster::AwaitDead() { dead_.clear(); }

void WorkerCluster::RequestStop() {
  for (auto& state : hub_->states) state->StopAnnounced();
}

void WorkerCluster::Kill(Rank rank) {
  coordinator_->Ended(rank);
  MutexLock lock(coordinator_->mu);
  dead_.push_back(std::move(workers_[static_cast<size_t>(rank.value())]));
}

std::vector<std::string> WorkerCluster::warnings() {
  MutexLock lock(coordinator_->mu);
  return coordinator_->warnings;
}

std::unique_ptr<WorkerCluster::Worker> WorkerCluster::Start(Rank rank) {
  auto worker = std::make_unique<Worker>();
  absl::StatusOr<Engine> engine = BuildEngineUnderTest(job_.train());
  worker->engine = *std::move(engine);
  if (adjust_engine) adjust_engine(rank, worker->engine);
  worker->incarnation = Incarnation(++born_);
  SaveWriter::Setup setup;
  setup.file_system = file_system_of ? file_system_of(rank) : &file_system_;
  setup.device = worker->engine.device.get();
  setup.folder = job_.train().save_dir();
  setup.facts = FactsOfJob(job_, worker->engine.kernels->Fingerprint(), "");
  setup.facts.incarnation = worker->incarnation;
  setup.prune = PruneOfJob(job_);
  setup.wait = [this](absl::Duration duration, const std::function<bool()>& cancelled) {
    if (on_wait) on_wait(duration);
    return !cancelled();
  };
  setup.send = [this, rank, me = worker.get()](Generation, const proto::WorkerMessage& message) {
    if (on_message) on_message(rank, message);
    coordinator_->Heard(rank, me, message);
  };
  worker->writer = std::make_unique<SaveWriter>(std::move(setup));
  return worker;
}

std::vector<absl::StatusOr<proto::Finished>> WorkerCluster::Run(int width) {
  proto::GenerationPlan plan;
  {
    MutexLock lock(coordinator_->mu);  // writers of older generations speak
    plan.set_generation(++generation_);
    plan.set_floor_step(floor_step);
    plan.set_floor_manifest(floor_manifest);
    hub_ = std::make_shared<Hub>();
    hub_->cluster = this;
    hub_->generation = generation_;
    for (int rank = 0; rank < width; ++rank) {
      plan.add_members()->set_slot(rank);
      hub_->states.push_back(std::make_unique<SessionState>());
    }
    if (adjust_plan != nullptr) adjust_plan(plan);
    for (auto& state : hub_->states) state->PlanAnnounced(plan);
  }
  while (progress_.size() < static_cast<size_t>(width)) progress_.emplace_back();
  std::set<WorkerId> survivors;
  {
    MutexLock lock(coordinator_->mu);
    // Who is no member is ended by its agent.
    while (workers_.size() > static_cast<size_t>(width)) {
      dead_.push_back(std::move(workers_.back()));
      workers_.pop_back();
    }
    workers_.resize(static_cast<size_t>(width));
    for (int rank = 0; rank < width; ++rank) {
      std::unique_ptr<Worker>& worker = workers_[static_cast<size_t>(rank)];
      if (worker != nullptr) {
        survivors.insert(Coordinator::Place(Rank(rank)));
      } else {
        worker = Start(Rank(rank));
      }
    }
  }
  coordinator_->Began(width, survivors);

  std::vector<std::unique_ptr<Communicator>> group = CreateInProcessGroup(width, {});
  std::vector<absl::StatusOr<proto::Finished>> outcomes(static_cast<size_t>(width),
                                                        absl::UnknownError("did not run"));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < width; ++rank) {
    threads.emplace_back([&, rank] {
      ClusterSession session(hub_, job_, Rank(rank), [&, rank](const proto::WorkerMessage& m) {
        if (await_saves && rank == 0 && m.has_step_done()) AwaitSaves();
        coordinator_->Heard(Rank(rank), nullptr, m);
        if (on_message) on_message(Rank(rank), m);
      });
      Worker& worker = *workers_[static_cast<size_t>(rank)];
      GenerationSetup setup;
      setup.engine = &worker.engine;
      setup.sample = [&](int64_t index, std::span<int32_t> tokens, std::span<int32_t> targets) {
        if (before_sample) before_sample(Rank(rank));
        SampleText(index, tokens, targets);
        if (adjust_sample) adjust_sample(index, targets);
      };
      setup.session = &session;
      setup.save_writer = worker.writer.get();
      setup.file_system = &file_system_;
      setup.wait = [this](absl::Duration duration, const std::function<bool()>& cancelled) {
        if (on_wait) on_wait(duration);
        return !cancelled();
      };
      setup.build_communicator =
          [&](const CommunicatorRequest& request,
              Rendezvous& rendezvous) -> absl::StatusOr<std::unique_ptr<Communicator>> {
        const auto met = rendezvous.Exchange("mesh", "here");
        if (!met.ok()) return met.status();
        std::unique_ptr<Communicator> mine = std::move(group[static_cast<size_t>(request.rank)]);
        mine->SetTimeout(request.timeout);
        return wrap_communicator ? wrap_communicator(Rank(rank), std::move(mine)) : std::move(mine);
      };
      setup.progress = &progress_[static_cast<size_t>(rank)];
      setup.incarnation = worker.incarnation;
      absl::StatusOr<proto::Finished>& outcome = outcomes[static_cast<size_t>(rank)];
      outcome = RunGeneration(setup, plan, Rank(rank));
      if (on_outcome) on_outcome(Rank(rank), outcome.status());
    });
  }
  for (std::thread& thread : threads) thread.join();
  return outcomes;
}

}  // namespace dsrun::worker
