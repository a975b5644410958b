#include "launcher/coordinator/root_cause.h"

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "common/base/proto_duration.h"
#include "launcher/coordinator/events.h"
#include "launcher/coordinator/exit_words.h"

namespace dsrun::launcher {
namespace {

// Where the chains of waiting ranks end, each chain walked once.
class Chains {
 public:
  explicit Chains(const std::map<Rank, Failure>& reports) : reports_(reports) {}

  // Absent: it ends in a circle, or at a rank that names nobody.
  std::optional<Rank> EndOf(Rank rank) {
    std::vector<Rank> walked;
    std::optional<Rank> end;
    while (true) {
      const auto report = reports_.find(rank);
      if (report == reports_.end()) {
        if (rank.value() >= 0) end = rank;
        break;
      }
      // Whoever is on the way now has no end yet: to meet it again is to walk in a circle.
      const auto [known, is_new] = ends_.try_emplace(rank, std::nullopt);
      if (!is_new) {
        end = known->second;
        break;
      }
      walked.push_back(rank);
      rank = Rank(report->second.peer_rank);
    }
    for (const Rank each : walked) ends_[each] = end;
    return end;
  }

 private:
  const std::map<Rank, Failure>& reports_;
  std::map<Rank, std::optional<Rank>> ends_;
};

// What a rank or an agent says of a failure is a sentence; whoever sends more is quoted so far.
constexpr size_t kMostWords = 4096;

std::string Clipped(std::string words) {
  if (words.size() <= kMostWords) return words;
  const size_t left_out = words.size() - kMostWords;
  words.resize(kMostWords);
  return absl::StrCat(words, "... (", left_out, " bytes more)");
}

}  // namespace

std::optional<Rank> AwaitedRank(const std::map<Rank, Failure>& reports) {
  std::map<Rank, int> waiters;
  bool timed_out = false;
  Chains chains(reports);
  for (const auto& [rank, report] : reports) {
    timed_out |= report.timed_out;
    if (const std::optional<Rank> end = chains.EndOf(rank)) ++waiters[*end];
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
  failure.what = Clipped(std::move(failure.what));
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
  failure.what =
      absl::StrCat("reported ", absl::StatusCodeToString(code), ": ", Clipped(failed.message()));
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
