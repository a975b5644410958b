#include "worker/engine/session_state.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/clock.h"

namespace dsrun::worker {
namespace {

// While a worker still builds its engine it is granted few commits, if any.
constexpr size_t kMostEarlySaves = 64;

}  // namespace

void SessionState::PlanAnnounced(const proto::GenerationPlan& plan) {
  MutexLock interrupt_lock(interrupt_mu_);
  {
    MutexLock lock(mu_);
    if (plan.generation() <= plan_.generation()) return;
    plan_ = plan;
    std::erase_if(tables_, [&](const auto& entry) {
      return std::get<Generation>(entry.first) < Generation(plan.generation());
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
  tables_[{generation, table.group(), table.name()}] = {table.values().begin(),
                                                        table.values().end()};
  changed_.NotifyAll();
}

void SessionState::StopAnnounced() {
  MutexLock lock(mu_);
  stop_ = true;
  changed_.NotifyAll();
}

void SessionState::SaveMessageArrived(const proto::HostMessage& message) {
  MutexLock lock(save_mu_);
  if (on_save_) {
    on_save_(message);
  } else if (early_saves_.size() < kMostEarlySaves) {
    early_saves_.push_back(message);
  }
}

void SessionState::OnSaveMessage(std::function<void(const proto::HostMessage&)> handler) {
  MutexLock lock(save_mu_);
  on_save_ = std::move(handler);
  if (!on_save_) return;
  for (const proto::HostMessage& message : std::exchange(early_saves_, {})) on_save_(message);
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
                                                                    const std::string& name,
                                                                    absl::Duration timeout,
                                                                    const std::string& group) {
  const SteadyTime begin = Clock::Real().SteadyNow();
  MutexLock lock(mu_);
  while (true) {
    if (ended_) return absl::CancelledError("the agent has closed the session");
    if (generation < newest_locked()) {
      return absl::AbortedError(absl::StrCat("generation ", generation.value(),
                                             " was replaced by generation ",
                                             newest_locked().value()));
    }
    const auto table = tables_.find({generation, group, name});
    if (table != tables_.end()) return table->second;
    if (timeout == absl::InfiniteDuration()) {
      changed_.Wait(mu_);
      continue;
    }
    const absl::Duration left = timeout - (Clock::Real().SteadyNow() - begin);
    if (left <= absl::ZeroDuration()) {
      return absl::DeadlineExceededError(absl::StrCat("the coordinator did not say '", name,
                                                      "' within ", absl::FormatDuration(timeout)));
    }
    changed_.WaitFor(mu_, left);
  }
}

}  // namespace dsrun::worker
