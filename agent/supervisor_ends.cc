// Supervisor, second part: how processes end, and what becomes of those that are dead and do not.

#include <csignal>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "agent/supervisor.h"
#include "common/base/dying_process.h"
#include "common/base/logging.h"
#include "common/base/process_tree.h"

namespace dsrun::agent {

void Supervisor::OnEnd(Slot slot, int64_t log_id, const std::shared_ptr<Fate>& fate, int32_t pid,
                       const ProcessEnd& end) {
  const Ended ended{pid, end, options_.clock->WallNow(), options_.clock->SteadyNow()};
  {
    MutexLock lock(mu_);
    if (fate->forgotten) return;
    if (!fate->known) {
      fate->early = ended;
      return;
    }
  }
  TellEnd(slot, log_id, fate, ended);
}

void Supervisor::TellEnd(Slot slot, int64_t log_id, const std::shared_ptr<Fate>& fate,
                         const Ended& ended) {
  bool told = false;
  bool by_order = false;
  {
    MutexLock lock(mu_);
    fate->ended = true;
    told = fate->told;
    by_order = fate->killed;
    if (fate->given_up && !told) return;  // it is told behind that
  }
  if (told) {
    return Enqueue(LeftoverEnded{slot, ended.pid, ended.steady_time - fate->dying_since});
  }
  // A kill of this agent needs no other cause, and must not take one from another rank's end.
  const bool kernel = ended.end.term_signal == SIGKILL && !by_order;
  std::string cause = kernel ? killed_.Explain() : "";
  logs_->Finish(log_id, [this, slot, ended, cause](std::vector<std::string> lines) {
    Enqueue(WorkerEnded{slot, ended.end.exit_code, ended.end.term_signal, ended.end.core_dumped,
                        std::move(lines), ended.wall_time, ended.steady_time, cause});
  });
}

// ---- Processes that are dead and do not end

void Supervisor::LookForDying() {
  const absl::Duration now = options_.clock->SteadyNow();
  for (auto& [slot, process] : processes_) {
    const DyingLook look = options_.look_at_dying(process.pid);
    if (process.dying.Note(look, now)) GiveUp(slot, process, look);
  }
}

void Supervisor::GiveUp(Slot slot, const Process& process, const DyingLook& look) {
  const std::shared_ptr<Fate> fate = process.fate;
  {
    MutexLock lock(mu_);
    if (fate->ended || fate->given_up) return;
    fate->given_up = true;
    fate->dying_since = process.dying.since();
  }
  WorkerCannotEnd event;
  event.end.slot = slot;
  event.end.exit_code = look.end.exit_code;
  event.end.term_signal = look.end.term_signal;
  event.end.steady_time = fate->dying_since;
  event.end.wall_time =
      options_.clock->WallNow() - (options_.clock->SteadyNow() - fate->dying_since);
  event.cause = DyingCause(look);
  event.words = DyingWords(process.pid, look);
  logs_->Finish(process.log_id,
                [this, event, fate, pid = process.pid](std::vector<std::string> lines) mutable {
                  event.end.last_lines = std::move(lines);
                  {
                    MutexLock lock(mu_);
                    fate->told = true;
                    const Slot slot = event.end.slot;
                    queue_.push_back(std::move(event));
                    const absl::Duration after = options_.clock->SteadyNow() - fate->dying_since;
                    if (fate->ended) queue_.push_back(LeftoverEnded{slot, pid, after});
                  }
                  changed_.NotifyOne();
                });
}

void Supervisor::Do(const LeaveBehind& action) {
  const auto it = processes_.find(action.slot);
  if (it == processes_.end()) return;
  const Process process = std::move(it->second);
  processes_.erase(it);
  leftovers_.push_back({process.pid, process.fate});
  std::shared_ptr<WorkerPeer> peer;
  {
    MutexLock lock(mu_);
    ForgetPid(action.slot);
    if (const auto session = sessions_.find(action.slot); session != sessions_.end()) {
      peer = std::move(session->second.peer);
      sessions_.erase(session);
    }
  }
  LOG(WARNING) << "slot " << action.slot
               << ": left behind until it ends: " << ProcessWords(process.pid);
  // One that dumps a core may have no SIGKILL before it yet.
  options_.runner->SignalGroup(process.pid, SIGKILL);
  if (peer != nullptr) peer->Close(absl::AbortedError("this process is dead to its agent"));
  options_.sweep(process.tag);
}

}  // namespace dsrun::agent
