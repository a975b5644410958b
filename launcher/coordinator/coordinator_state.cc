// The coordinator's state as text and hash, its invariants, and its configuration from a JobSpec.

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/time.h"
#include "common/base/proto_duration.h"
#include "common/plan/batch_plan.h"
#include "common/topology/plan_places.h"
#include "launcher/coordinator/coordinator.h"
#include "launcher/coordinator/generation_memory.h"
#include "launcher/coordinator/generation_planner.h"
#include "launcher/coordinator/stop_words.h"

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

void TimeText(std::string* out, absl::Duration at) { absl::StrAppend(out, Nanos(at)); }

void MemoryText(std::string* out, const std::pair<const NodeId, proto::NodeMemory>& of) {
  const proto::NodeMemory& memory = of.second;
  absl::StrAppend(out, of.first.value(), ":", memory.available_bytes(), "+", memory.ranks_bytes(),
                  "/", memory.total_bytes(), "(", memory.boot_id(), memory.cgroup(), ")");
}

absl::Status Violated(const Coordinator& coordinator, const std::string& what) {
  return absl::InternalError(absl::StrCat("coordinator invariant violated in state ",
                                          StateName(coordinator.state()), ": ", what, "\n",
                                          coordinator.DebugString()));
}

// Atoms of the batch; 0: not known.
int64_t MaxWidth(const proto::TrainSpec& train) {
  if (train.micro_batch_size() < 1) return 0;
  return AtomCount(train.global_batch_size() / train.micro_batch_size(),
                   std::max<int64_t>(train.micro_batches_per_atom(), 1));
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
  config.max_width = MaxWidth(job.train());
  const proto::Limits& limits = job.limits();
  config.node_silent_after = PositiveOr(limits.node_silent_after(), config.node_silent_after);
  config.lease = PositiveOr(limits.lease(), config.lease);
  config.stop_grace = PositiveOr(limits.stop_grace(), config.stop_grace);
  config.join_timeout = PositiveOr(limits.join_timeout(), config.join_timeout);
  config.cause_grace = PositiveOr(limits.cause_grace(), config.cause_grace);
  config.collective_timeout = PositiveOr(limits.collective_timeout(), config.collective_timeout);
  config.loading_timeout = PositiveOr(limits.load_timeout(), absl::Minutes(30)) +
                           PositiveOr(limits.initialize_timeout(), absl::Minutes(10));
  // The part before may still be on its way when the last one is written.
  config.saving_timeout = 2 * PositiveOr(limits.save_timeout(), absl::Minutes(30)) +
                          PositiveOr(limits.commit_timeout(), absl::Minutes(10)) +
                          PositiveOr(limits.prune_timeout(), absl::Minutes(10));
  // The launcher resolves both numbers; 0 restarts is a wish, not a missing value.
  config.max_restarts = limits.max_restarts();
  config.max_restarts_without_progress = limits.max_restarts_without_progress();
  if (limits.has_restart_window()) config.restart_window = FromProto(limits.restart_window());
  if (job.has_train()) config.memory = MemoryInputOf(job.train());
  config.goes_on = !job.train().load_dir().empty();
  return config;
}

std::string Coordinator::DebugString() const {
  std::string ranks;
  for (int i = 0; i < width(); ++i) {
    absl::StrAppend(&ranks, i == 0 ? "" : " ", s_.plan.members(i).node(), ":",
                    s_.plan.members(i).slot());
  }
  std::vector<std::string> suspects;
  for (const auto& [rank, failure] : s_.suspects.by_rank())
    suspects.push_back(absl::StrCat(rank.value()));
  return absl::StrCat(
      "state ", StateName(s_.phase), "\ngeneration ", s_.generation.value(), "\nnodes ",
      s_.members.ToString(), "\nplan ", s_.plan.generation(), " [", ranks, "]\nprepared ",
      JoinIds(s_.prepared), "\nmaster port ", s_.master_port, "\njoined ", JoinIds(s_.joined),
      "\nfinished ", JoinIds(s_.finished), s_.stopped_early ? " early" : "", "\nexited ",
      JoinIds(s_.exited), "\nsurvivors ", JoinIds(s_.survivors), "\nsuspects ",
      absl::StrJoin(suspects, ","), "\nrendezvous ", s_.rendezvous.ToString(), "\nphase deadline ",
      s_.phase_deadline.number, " at ", Nanos(s_.phase_deadline.at), "\ncause deadline ",
      s_.cause_deadline.number, " at ", Nanos(s_.cause_deadline.at), "\nrestarts ", s_.restarts,
      s_.restarted_at.empty() ? "" : " counted ", absl::StrJoin(s_.restarted_at, ",", TimeText),
      " failed_without_progress ", s_.failed_without_progress, " ended_from_outside ",
      s_.ended_from_outside, "\nprogressed ", s_.progressed, " first step ", s_.first_step,
      " high step ", s_.high_step, "\nsaves ", s_.saves.ToString(), "\ncheckpoint generation ",
      s_.newest_checkpoint.first, " step ", s_.newest_checkpoint.second, " ", s_.newest_manifest,
      "\ndrain for lease ", s_.drain_for_lease, "\nstops ", s_.stops,
      s_.stop_waits ? " waiting" : "", StopWords(s_.stopped), "\nexit code ", s_.exit_code,
      s_.end_waits ? " waiting" : "", "\nmemory ", absl::StrJoin(s_.memory, " ", MemoryText),
      " looks ", s_.memory_looks, " unknown ", JoinIds(s_.memory_unknown), "\n");
}

size_t Coordinator::Size() const {
  return s_.members.size() + AllRanks() + s_.suspects.size() + s_.history.CollectedFailures();
}

uint64_t Coordinator::Digest() const {
  uint64_t hash = 14695981039346656037u;  // FNV-1a, 64 bits
  for (const char c : DebugString()) {
    hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211u;
  }
  return hash;
}

absl::Status Coordinator::CheckInvariants() const {
  if (s_.plan.generation() > s_.generation.value()) {
    return Violated(*this, "the plan is newer than the claim");
  }
  if (s_.ended != (s_.phase == State::kEnded)) return Violated(*this, "EndJob and state disagree");
  const bool waits =
      s_.phase != State::kIdle && s_.phase != State::kRunning && s_.phase != State::kEnded;
  if (waits && !s_.phase_deadline.is_set()) return Violated(*this, "it waits without a deadline");
  const bool ranks_count = RanksRun() || s_.phase == State::kStopping;
  if (!s_.suspects.empty() && ranks_count && !s_.cause_deadline.is_set()) {
    return Violated(*this, "suspects without a deadline");
  }
  if (static_cast<int64_t>(s_.restarted_at.size()) > config_.max_restarts) {
    return Violated(*this, "more restarts than allowed");
  }
  if (s_.phase == State::kPreparing) {
    if (s_.plan.generation() >= s_.generation.value()) return Violated(*this, "nothing to prepare");
    for (const NodeId node : s_.prepared) {
      if (!s_.members.IsOpen(node)) return Violated(*this, "a lost node has prepared");
    }
  }
  if (const std::string saves = s_.saves.CheckInvariants(); !saves.empty()) {
    return Violated(*this, saves);
  }
  if (!ranks_count) return absl::OkStatus();
  if (s_.plan.generation() != s_.generation.value()) return Violated(*this, "the plan is old");
  if (width() == 0) return Violated(*this, "the plan is empty");
  const absl::StatusOr<Mesh> mesh = MeshOf(s_.plan);
  if (!mesh.ok()) return Violated(*this, std::string(mesh.status().message()));
  if (config_.is_train && config_.max_width > 0 && mesh->shape().dp > config_.max_width) {
    return Violated(*this, "the plan is wider than the batch has atoms");
  }
  for (int i = 0; i < width(); ++i) {
    const WorkerId worker = WorkerOf(s_.plan, Rank(i));
    if (!s_.members.IsOpen(worker.node) && !s_.finished.contains(Rank(i)) &&
        !(s_.phase == State::kStopping && s_.exited.contains(Rank(i)))) {
      return Violated(*this, absl::StrCat("rank ", i, " is on a lost node"));
    }
    if (i > 0 && !(WorkerOf(s_.plan, Rank(i - 1)) < worker)) {
      return Violated(*this, "ranks out of order");
    }
  }
  if (s_.phase == State::kRunning && s_.joined.size() != AllRanks()) {
    return Violated(*this, "running before all have joined");
  }
  if (AllRanksFinished()) return Violated(*this, "all ranks have finished, the job goes on");
  return absl::OkStatus();
}

}  // namespace dsrun::launcher
