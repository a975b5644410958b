#include "worker/engine/session_state.h"

#include "absl/strings/str_cat.h"

namespace dsrun::worker {

void SessionState::PlanAnnounced(const proto::GenerationPlan& plan) {
  MutexLock interrupt_lock(interrupt_mu_);
  {
    MutexLock lock(mu_);
    if (plan.generation() <= plan_.generation()) return;
    plan_ = plan;
    std::erase_if(tables_, [&](const auto& entry) {
      return entry.first.first < Generation(plan.generation());
    });
    changed_.NotifyAll();
  }
  if (interrupt_ && interrupt_generation_ < Generation(plan.generation())) {
    std::exchange(interrupt_, nullptr)();
  }
}

void SessionState::TableArrived(Generation generation, const proto::ExchangeTable& table) {
  MutexLock lock(mu_);
  if (generation < newest_locked()) return;
  tables_[{generation, table.name()}] = {table.values().begin(), table.values().end()};
  changed_.NotifyAll();
}

void SessionState::StopAnnounced() {
  MutexLock lock(mu_);
  stop_ = true;
  changed_.NotifyAll();
}

void SessionState::Ended() {
  MutexLock lock(mu_);
  ended_ = true;
  changed_.NotifyAll();
}

absl::StatusOr<proto::GenerationPlan> SessionState::WaitForPlan(Generation after) {
  MutexLock lock(mu_);
  while (!ended_ && newest_locked() <= after) changed_.Wait(mu_);
  if (ended_) return absl::CancelledError("the agent has closed the session");
  return plan_;
}

bool SessionState::Superseded(Generation generation) const {
  MutexLock lock(mu_);
  return generation < newest_locked();
}

void SessionState::OnSuperseded(Generation generation, std::function<void()> interrupt) {
  MutexLock interrupt_lock(interrupt_mu_);
  interrupt_ = nullptr;
  if (!interrupt) return;
  if (Superseded(generation)) {
    interrupt();
    return;
  }
  interrupt_generation_ = generation;
  interrupt_ = std::move(interrupt);
}

bool SessionState::StopRequested() const {
  MutexLock lock(mu_);
  return stop_;
}

Generation SessionState::Newest() const {
  MutexLock lock(mu_);
  return newest_locked();
}

absl::StatusOr<std::vector<std::string>> SessionState::WaitForTable(Generation generation,
                                                                    const std::string& name) {
  MutexLock lock(mu_);
  while (true) {
    if (ended_) return absl::CancelledError("the agent has closed the session");
    if (generation < newest_locked()) {
      return absl::AbortedError(absl::StrCat("generation ", generation.value(),
                                             " was replaced by generation ",
                                             newest_locked().value()));
    }
    const auto table = tables_.find({generation, name});
    if (table != tables_.end()) return table->second;
    changed_.Wait(mu_);
  }
}

}  // namespace dsrun::worker
