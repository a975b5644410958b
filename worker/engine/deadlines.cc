#include "worker/engine/deadlines.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "common/base/proto_duration.h"

namespace dsrun::worker {

Deadlines::Deadlines(const proto::Limits& limits)
    : collective_(PositiveOr(limits.collective_timeout(), absl::Seconds(10))),
      join_(PositiveOr(limits.join_timeout(), absl::Seconds(60))),
      first_step_(PositiveOr(limits.first_step_timeout(), absl::Minutes(10))),
      initialize_(PositiveOr(limits.initialize_timeout(), absl::Minutes(10))),
      load_(PositiveOr(limits.load_timeout(), absl::Minutes(30))),
      save_(PositiveOr(limits.save_timeout(), absl::Minutes(30))),
      commit_(PositiveOr(limits.commit_timeout(), absl::Minutes(10))),
      prune_(PositiveOr(limits.prune_timeout(), absl::Minutes(10))),
      evaluation_(PositiveOr(limits.evaluation_timeout(), absl::Minutes(10))) {}

void Deadlines::StepTook(absl::Duration step) {
  steps_.push_back(step);
  if (steps_.size() > kRemembered) steps_.pop_front();
}

absl::Duration Deadlines::FirstStep() const {
  return estimated_ ? std::min(first_step_, kFirstStepFactor * *estimated_) : first_step_;
}

absl::Duration Deadlines::Steps() const {
  if (steps_.empty()) return FirstStep();
  std::vector<absl::Duration> sorted(steps_.begin(), steps_.end());
  std::nth_element(sorted.begin(), sorted.begin() + sorted.size() / 2, sorted.end());
  return kSteps * sorted[sorted.size() / 2];
}

absl::Duration Deadlines::Move(OperationClass operation) const {
  switch (operation) {
    case OperationClass::kJoin:
      return absl::InfiniteDuration();  // the coordinator's limit, for all ranks together
    case OperationClass::kLoad:
      return load_;
    case OperationClass::kInitialize:
      return initialize_;
    case OperationClass::kFirstStep:
      return FirstStep();
    case OperationClass::kStep:
      return Steps();
    case OperationClass::kSave:
      return save_;
    case OperationClass::kCommit:
      return commit_;
    case OperationClass::kPrune:
      return prune_;
    case OperationClass::kEvaluate:
      return evaluation_;
  }
  return absl::InfiniteDuration();
}

absl::Duration Deadlines::Exchange(OperationClass operation) const {
  switch (operation) {
    case OperationClass::kJoin:
      return join_;
    case OperationClass::kFirstStep:
    case OperationClass::kStep:
      return std::max(collective_, Move(operation));
    // Until a rank has looked, nobody knows whether there is something to load.
    case OperationClass::kLoad:
    case OperationClass::kInitialize:
      return load_ + initialize_ + collective_;
    // Rank 0 commits and prunes before it tells the others.
    case OperationClass::kCommit:
    case OperationClass::kPrune:
      return commit_ + prune_ + collective_;
    case OperationClass::kSave:
    case OperationClass::kEvaluate:
      return Move(operation) + collective_;
  }
  return collective_;
}

absl::Status Deadlines::NameTheLimit(absl::Status status, OperationClass operation) {
  if (!absl::IsDeadlineExceeded(status)) return status;
  const OperationFacts& facts = FactsOf(operation);
  absl::Status named(status.code(), absl::StrCat(status.message(), "; the limit while ",
                                                 facts.phase, " comes from ", facts.flag));
  status.ForEachPayload(
      [&](absl::string_view url, const absl::Cord& payload) { named.SetPayload(url, payload); });
  return named;
}

}  // namespace dsrun::worker
