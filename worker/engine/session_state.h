// SessionState: what a session knows, and the waiting for it; no transport. GrpcSession feeds it
// from the wire, the tests' in-process session feeds it directly, so both behave alike.
//
// Threads: all methods are thread-safe.

#ifndef DSRUN_WORKER_ENGINE_SESSION_STATE_H_
#define DSRUN_WORKER_ENGINE_SESSION_STATE_H_

#include <functional>
#include <map>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/ids.h"
#include "common/base/mutex.h"
#include "proto/worker.pb.h"

namespace dsrun::worker {

class SessionState {
 public:
  // From the wire. A plan or table of an older generation is dropped.
  void PlanAnnounced(const proto::GenerationPlan& plan);
  void TableArrived(Generation generation, const proto::ExchangeTable& table);
  void StopAnnounced();
  void SaveMessageArrived(const proto::HostMessage& message);
  void Ended();  // wakes every waiter with CANCELLED

  // For the engine: see Session.
  absl::StatusOr<proto::GenerationPlan> WaitForPlan(Generation after);
  bool Superseded(Generation generation) const;
  void OnSuperseded(Generation generation, std::function<void()> interrupt);
  bool StopRequested() const;
  Generation Newest() const;  // of the announced plans; 0: none yet
  absl::StatusOr<std::vector<std::string>> WaitForTable(
      Generation generation, const std::string& name,
      absl::Duration timeout = absl::InfiniteDuration(), const std::string& group = "");
  void OnSaveMessage(std::function<void(const proto::HostMessage&)> handler);

 private:
  Generation newest_locked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return Generation(plan_.generation());
  }

  mutable Mutex mu_;
  CondVar changed_;
  // Held while the interrupt runs, so that OnSuperseded can promise that the old one is not
  // running. Always taken before mu_.
  Mutex interrupt_mu_;
  bool ended_ ABSL_GUARDED_BY(mu_) = false;
  bool stop_ ABSL_GUARDED_BY(mu_) = false;
  proto::GenerationPlan plan_ ABSL_GUARDED_BY(mu_);
  // By generation, group and name.
  std::map<std::tuple<Generation, std::string, std::string>, std::vector<std::string>> tables_
      ABSL_GUARDED_BY(mu_);
  Generation interrupt_generation_ ABSL_GUARDED_BY(interrupt_mu_);
  std::function<void()> interrupt_ ABSL_GUARDED_BY(interrupt_mu_);
  // Held while the handler runs, as interrupt_mu_. Never with another.
  Mutex save_mu_;
  std::function<void(const proto::HostMessage&)> on_save_ ABSL_GUARDED_BY(save_mu_);
  std::vector<proto::HostMessage> early_saves_ ABSL_GUARDED_BY(save_mu_);  // before any handler
};

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_ENGINE_SESSION_STATE_H_
