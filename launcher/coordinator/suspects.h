// Suspects: what ranks of the generation begun have reported while the cause is not known yet, one
// report a rank. Pure; copyable.

#ifndef DSRUN_LAUNCHER_COORDINATOR_SUSPECTS_H_
#define DSRUN_LAUNCHER_COORDINATOR_SUSPECTS_H_

#include <cstddef>
#include <map>
#include <utility>

#include "common/base/ids.h"
#include "launcher/coordinator/report.h"

namespace dsrun::launcher {

class Suspects {
 public:
  // Instead of what the rank has said before.
  void Put(Rank rank, Failure failure) {
    Erase(rank);
    PutFirst(rank, std::move(failure));
  }
  // Unless the rank has said something before.
  void PutFirst(Rank rank, Failure failure) {
    const auto [at, is_new] = by_rank_.try_emplace(rank, std::move(failure));
    if (is_new && at->second.timed_out) ++timed_out_;
  }
  void Erase(Rank rank) {
    const auto at = by_rank_.find(rank);
    if (at == by_rank_.end()) return;
    if (at->second.timed_out) --timed_out_;
    by_rank_.erase(at);
  }
  std::map<Rank, Failure> TakeAll() {
    timed_out_ = 0;
    return std::exchange(by_rank_, {});
  }

  const std::map<Rank, Failure>& by_rank() const { return by_rank_; }
  bool empty() const { return by_rank_.empty(); }
  size_t size() const { return by_rank_.size(); }
  // Some rank has waited for a peer until its deadline.
  bool AnyTimedOut() const { return timed_out_ > 0; }

 private:
  std::map<Rank, Failure> by_rank_;
  size_t timed_out_ = 0;
};

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_COORDINATOR_SUSPECTS_H_
