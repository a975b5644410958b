#include "tests/worker/engine/worker_cluster.h"

#include <map>
#include <span>
#include <thread>
#include <utility>

#include "common/base/mutex.h"
#include "gtest/gtest.h"
#include "tests/worker/checkpoint/training_state.h"
#include "tests/worker/engine/training_ranks.h"
#include "worker/comm/in_process/in_process_communicator.h"
#include "worker/engine/generation.h"
#include "worker/engine/session_state.h"

namespace dsrun::worker {

// What all sessions of one generation share.
struct WorkerCluster::Hub {
  WorkerCluster* cluster = nullptr;
  int64_t generation = 0;
  std::vector<std::unique_ptr<SessionState>> states;  // by rank
  Mutex mu;
  std::map<std::string, std::map<int, std::string>> puts ABSL_GUARDED_BY(mu);
  std::vector<std::string> warnings ABSL_GUARDED_BY(mu);

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

namespace {

class ClusterSession : public Session {
 public:
  ClusterSession(std::shared_ptr<WorkerCluster::Hub> hub, const proto::JobSpec& job, Rank rank)
      : hub_(std::move(hub)), job_(job), rank_(rank) {}

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
                                                    const std::string& name,
                                                    const std::string& value) override {
    hub_->Put(rank, name, value);
    return state().WaitForTable(generation, name);
  }
  void Send(Generation, proto::WorkerMessage message) override {
    if (message.notice().warning()) {
      MutexLock lock(hub_->mu);
      hub_->warnings.push_back(message.notice().text());
    }
    if (hub_->cluster->on_message) hub_->cluster->on_message(rank_, message);
  }

 private:
  SessionState& state() const { return *hub_->states[static_cast<size_t>(rank_.value())]; }

  const std::shared_ptr<WorkerCluster::Hub> hub_;
  const proto::JobSpec job_;
  const Rank rank_;
};

}  // namespace

WorkerCluster::WorkerCluster(proto::JobSpec job, FaultyFileSystem& file_system)
    : job_(std::move(job)), file_system_(file_system) {
  EXPECT_TRUE(BeginJob(file_system_, job_.train().save_dir(), job_.job_id()).ok());
}

void WorkerCluster::Announce() {
  proto::GenerationPlan plan;
  plan.set_generation(generation_ + 1);
  for (auto& state : hub_->states) state->PlanAnnounced(plan);
}

void WorkerCluster::RequestStop() {
  for (auto& state : hub_->states) state->StopAnnounced();
}

std::vector<std::string> WorkerCluster::warnings() {
  MutexLock lock(hub_->mu);
  return hub_->warnings;
}

std::vector<absl::StatusOr<proto::Finished>> WorkerCluster::Run(int width) {
  ++generation_;
  proto::GenerationPlan plan;
  plan.set_generation(generation_);
  plan.set_floor_step(floor_step);
  plan.set_floor_manifest(floor_manifest);
  hub_ = std::make_shared<Hub>();
  hub_->cluster = this;
  hub_->generation = generation_;
  for (int rank = 0; rank < width; ++rank) {
    plan.add_members()->set_slot(rank);
    hub_->states.push_back(std::make_unique<SessionState>());
  }
  for (auto& state : hub_->states) state->PlanAnnounced(plan);
  while (progress_.size() < static_cast<size_t>(width)) progress_.emplace_back();

  std::vector<std::unique_ptr<Communicator>> group = CreateInProcessGroup(width, {});
  std::vector<absl::StatusOr<proto::Finished>> outcomes(static_cast<size_t>(width),
                                                        absl::UnknownError("did not run"));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < width; ++rank) {
    threads.emplace_back([&, rank] {
      ClusterSession session(hub_, job_, Rank(rank));
      absl::StatusOr<Engine> engine = BuildEngine(job_.train());
      if (adjust_engine) adjust_engine(Rank(rank), *engine);
      GenerationSetup setup;
      setup.engine = &*engine;
      setup.sample = [&](int64_t index, std::span<int32_t> tokens, std::span<int32_t> targets) {
        if (before_sample) before_sample(Rank(rank));
        SampleText(index, tokens, targets);
        if (adjust_sample) adjust_sample(index, targets);
      };
      setup.session = &session;
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
      setup.incarnation = Incarnation(static_cast<uint64_t>(generation_ * 100 + rank));
      absl::StatusOr<proto::Finished>& outcome = outcomes[static_cast<size_t>(rank)];
      outcome = RunGeneration(setup, plan, Rank(rank));
      if (on_outcome) on_outcome(Rank(rank), outcome.status());
    });
  }
  for (std::thread& thread : threads) thread.join();
  return outcomes;
}

}  // namespace dsrun::worker
