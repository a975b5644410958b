// The coordinator's state as text and hash, its invariants, and its configuration from a JobSpec.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/time.h"
#include "common/base/proto_duration.h"
#include "launcher/coordinator/coordinator.h"
#include "launcher/coordinator/generation_planner.h"

namespace dsrun::launcher {
namespace {

template <typename Ids>
std::string JoinIds(const Ids& ids) {
  return absl::StrJoin(ids, ",",
                       [](std::string* out, const auto& id) { absl::StrAppend(out, id.value()); });
}

std::string Nanos(absl::Duration at) {
  return at == absl::InfiniteDuration() ? "none" : absl::StrCat(absl::ToInt64Nanoseconds(at));
}

absl::Status Violated(const Coordinator& coordinator, const std::string& what) {
  return absl::InternalError(absl::StrCat("coordinator invariant violated in state ",
                                          StateName(coordinator.state()), ": ", what, "\n",
                                          coordinator.DebugString()));
}

}  // namespace

CoordinatorConfig ConfigFromJob(const proto::JobSpec& job) {
  CoordinatorConfig config;
  config.job_id = job.job_id();
  for (const proto::NodeSpec& node : job.nodes()) {
    CoordinatorConfig::Node facts;
    facts.host = node.host();
    for (const int32_t slot : node.slots()) facts.slots.push_back(Slot(slot));
    config.nodes.push_back(std::move(facts));
  }
  config.is_train = job.has_train();
  config.canonical_blocks = job.train().canonical_blocks();
  const proto::Limits& limits = job.limits();
  config.node_silent_after = PositiveOr(limits.node_silent_after(), config.node_silent_after);
  config.lease = PositiveOr(limits.lease(), config.lease);
  config.stop_grace = PositiveOr(limits.stop_grace(), config.stop_grace);
  config.join_timeout = PositiveOr(limits.join_timeout(), config.join_timeout);
  config.cause_grace = PositiveOr(limits.cause_grace(), config.cause_grace);
  config.collective_timeout = PositiveOr(limits.collective_timeout(), config.collective_timeout);
  // The launcher resolves both numbers; 0 restarts is a wish, not a missing value.
  config.max_restarts = limits.max_restarts();
  config.max_restarts_without_progress = limits.max_restarts_without_progress();
  return config;
}

std::string Coordinator::DebugString() const {
  std::string ranks;
  for (int i = 0; i < width(); ++i) {
    absl::StrAppend(&ranks, i == 0 ? "" : " ", plan_.members(i).node(), ":",
                    plan_.members(i).slot());
  }
  std::vector<std::string> suspects;
  for (const auto& [rank, failure] : suspects_) suspects.push_back(absl::StrCat(rank.value()));
  return absl::StrCat(
      "state ", StateName(state_), "\ngeneration ", generation_.value(), "\nnodes ",
      members_.ToString(), "\nplan ", plan_.generation(), " [", ranks, "]\nprepared ",
      JoinIds(prepared_), "\njoined ", JoinIds(joined_), "\nfinished ", JoinIds(finished_),
      stopped_early_ ? " early" : "", "\nexited ", JoinIds(exited_), "\nsurvivors ",
      JoinIds(survivors_), "\nsuspects ", absl::StrJoin(suspects, ","), "\nrendezvous ",
      rendezvous_.ToString(), "\nphase deadline ", phase_deadline_.number, " at ",
      Nanos(phase_deadline_.at), "\ncause deadline ", cause_deadline_.number, " at ",
      Nanos(cause_deadline_.at), "\nrestarts ", restarts_, " failed_without_progress ",
      failed_without_progress_, " ended_from_outside ", ended_from_outside_, "\nprogressed ",
      progressed_, " first step ", first_step_, " high step ", high_step_,
      "\ncheckpoint generation ", newest_checkpoint_.first, " step ", newest_checkpoint_.second,
      "\ndrain for lease ", drain_for_lease_, "\nstops ", stops_, stop_waits_ ? " waiting" : "",
      "\nexit code ", exit_code_, "\n");
}

uint64_t Coordinator::Digest() const {
  uint64_t hash = 14695981039346656037u;  // FNV-1a, 64 bits
  for (const char c : DebugString()) {
    hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211u;
  }
  return hash;
}

absl::Status Coordinator::CheckInvariants() const {
  if (plan_.generation() > generation_.value()) {
    return Violated(*this, "the plan is newer than the claim");
  }
  if (ended_ != (state_ == State::kEnded)) return Violated(*this, "EndJob and state disagree");
  const bool waits = state_ != State::kIdle && state_ != State::kRunning && state_ != State::kEnded;
  if (waits && !phase_deadline_.is_set()) return Violated(*this, "it waits without a deadline");
  const bool ranks_count = RanksRun() || state_ == State::kStopping;
  if (!suspects_.empty() && ranks_count && !cause_deadline_.is_set()) {
    return Violated(*this, "suspects without a deadline");
  }
  if (restarts_ > 0 && restarts_ > config_.max_restarts) {
    return Violated(*this, "more restarts than allowed");
  }
  if (state_ == State::kPreparing) {
    if (plan_.generation() >= generation_.value()) return Violated(*this, "nothing to prepare");
    for (const NodeId node : prepared_) {
      if (!members_.IsOpen(node)) return Violated(*this, "a lost node has prepared");
    }
  }
  if (!ranks_count) return absl::OkStatus();
  if (plan_.generation() != generation_.value()) return Violated(*this, "the plan is old");
  if (width() == 0) return Violated(*this, "the plan is empty");
  if (config_.is_train && config_.canonical_blocks > 0 && width() > config_.canonical_blocks) {
    return Violated(*this, "the plan is wider than the canonical blocks");
  }
  for (int i = 0; i < width(); ++i) {
    const WorkerId worker = WorkerOf(plan_, Rank(i));
    if (!members_.IsOpen(worker.node) && !finished_.contains(Rank(i)) &&
        !(state_ == State::kStopping && exited_.contains(Rank(i)))) {
      return Violated(*this, absl::StrCat("rank ", i, " is on a lost node"));
    }
    if (i > 0 && !(WorkerOf(plan_, Rank(i - 1)) < worker)) {
      return Violated(*this, "ranks out of order");
    }
  }
  if (state_ == State::kRunning && joined_.size() != AllRanks()) {
    return Violated(*this, "running before all have joined");
  }
  if (AllRanksFinished()) return Violated(*this, "all ranks have finished, the job goes on");
  return absl::OkStatus();
}

}  // namespace dsrun::launcher
