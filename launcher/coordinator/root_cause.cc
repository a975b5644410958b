#include "launcher/coordinator/root_cause.h"

#include <algorithm>
#include <string>
#include <tuple>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "common/base/proto_duration.h"
#include "launcher/coordinator/events.h"
#include "launcher/coordinator/exit_words.h"

namespace dsrun::launcher {
namespace {

// Smaller is more likely the cause.
int Weight(const Failure& failure) {
  switch (failure.kind) {
    case Failure::Kind::kWorkerExited:
      return failure.killed_by_agent ? 1 : 0;
    case Failure::Kind::kNodeLost:
    case Failure::Kind::kNodeNotOpened:
      return 0;
    case Failure::Kind::kWorkerNotJoined:
    case Failure::Kind::kWorkerMissed:
      return 1;
    case Failure::Kind::kWorkerReported:
      return failure.fatal || failure.replace_process ? 0 : 2;
  }
  return 2;
}

// Known from their times; else neither is before the other.
bool CertainlyBefore(const Failure& a, const Failure& b) {
  if (a.node == b.node) {
    if (a.node_time && b.node_time) return *a.node_time < *b.node_time;
    return a.wall_time && b.wall_time && *a.wall_time < *b.wall_time;
  }
  return a.happened_at && b.happened_at &&
         *a.happened_at + a.happened_within < *b.happened_at - b.happened_within;
}

}  // namespace

size_t ChooseCause(const std::vector<Failure>& failures) {
  size_t cause = 0;
  bool cause_preceded = true;
  for (size_t i = 0; i < failures.size(); ++i) {
    const Failure& failure = failures[i];
    // Estimates of one clock, taken at different times, may contradict each other in a circle: then
    // everybody has somebody before them, and the order of hearing decides alone.
    const bool preceded = std::any_of(failures.begin(), failures.end(), [&](const Failure& other) {
      return Weight(other) == Weight(failure) && CertainlyBefore(other, failure);
    });
    const Failure& best = failures[cause];
    const bool better = std::tuple(Weight(failure), preceded, failure.noticed_at) <
                        std::tuple(Weight(best), cause_preceded, best.noticed_at);
    if (i > 0 && !better) continue;
    cause = i;
    cause_preceded = preceded;
  }
  return cause;
}

std::optional<Rank> AwaitedRank(const std::map<Rank, Failure>& reports) {
  std::map<Rank, int> waiters;
  bool timed_out = false;
  for (const auto& [rank, report] : reports) {
    timed_out |= report.timed_out;
    Rank end = rank;
    // As many steps as there are reports lead to the end, or round in a circle.
    for (size_t i = 0; i < reports.size() && reports.contains(end); ++i) {
      end = Rank(reports.at(end).peer_rank);
    }
    if (end.value() >= 0 && !reports.contains(end)) ++waiters[end];
  }
  std::optional<Rank> odd;
  for (const auto& [rank, count] : waiters) {
    if (!odd || count > waiters[*odd]) odd = rank;
  }
  return timed_out ? odd : std::nullopt;
}

Failure FailureFromExit(const proto::WorkerExited& exited) {
  Failure failure;
  failure.kind = Failure::Kind::kWorkerExited;
  failure.slot = Slot(exited.slot());
  failure.pid = exited.pid();
  failure.killed_by_agent = exited.killed_by_agent();
  failure.what = ExitWords(exited.exit_code(), exited.term_signal(), exited.core_dumped());
  if (exited.killed_by_agent()) {
    failure.what = absl::StrCat("killed by its agent: ",
                                exited.reason().empty() ? "no reason given" : exited.reason());
  } else if (exited.node_lacked()) {
    failure.what =
        absl::StrCat("was not started, because its node lacked what that takes: ", exited.reason());
  } else if (!exited.reason().empty()) {
    absl::StrAppend(&failure.what, ": ", exited.reason());
  }
  failure.from_outside = exited.killed_by_agent()
                             ? !exited.stuck()
                             : exited.node_lacked() || (exited.term_signal() != 0 &&
                                                        !IsOwnSignal(exited.term_signal()));
  failure.silent_for = FromProto(exited.silent_for());
  failure.exit_code = ShellExitCode(exited.exit_code(), exited.term_signal());
  failure.last_lines.assign(exited.last_lines().begin(), exited.last_lines().end());
  if (exited.has_wall_time()) {
    failure.wall_time = FromProto(exited.wall_time());
  }
  if (exited.has_steady_time()) failure.node_time = FromProto(exited.steady_time());
  if (exited.has_launcher_time()) {
    failure.happened_at = FromProto(exited.launcher_time());
    failure.happened_within = FromProto(exited.launcher_time_within());
  }
  return failure;
}

Failure FailureFromReport(const proto::Failed& failed) {
  Failure failure;
  failure.kind = Failure::Kind::kWorkerReported;
  const auto verdict = failed.verdict() != proto::Failed::kUnset ? failed.verdict()
                       : failed.fatal()                          ? proto::Failed::kEndJob
                                                                 : proto::Failed::kRetry;
  failure.fatal = verdict == proto::Failed::kEndJob;
  failure.replace_process = verdict == proto::Failed::kReplaceProcess;
  const bool of_its_own = failure.fatal || failure.replace_process;
  failure.exit_code = kExitFailed;
  failure.peer_rank = failed.peer_rank();
  const auto code = static_cast<absl::StatusCode>(failed.code());
  failure.timed_out = code == absl::StatusCode::kDeadlineExceeded;
  // Who waited in vain may wait for its own mistake; who lost a peer has made none.
  failure.from_outside = failed.peer_rank() >= 0 && !of_its_own && !failure.timed_out;
  failure.what = absl::StrCat("reported ", absl::StatusCodeToString(code), ": ", failed.message());
  if (failed.peer_rank() >= 0 && !of_its_own) {
    absl::StrAppend(&failure.what, " (peer: rank ", failed.peer_rank(), ")");
  }
  return failure;
}

std::string FailureSentence(const Failure& failure) {
  if (!failure.slot) {
    return absl::StrCat("node ", failure.node.value(), " (", failure.host, ") ", failure.what);
  }
  std::string who = failure.rank ? absl::StrCat("rank ", failure.rank->value()) : "a worker";
  return absl::StrCat(who, " (", failure.host, ", slot ", failure.slot->value(), ") ",
                      failure.what);
}

}  // namespace dsrun::launcher
