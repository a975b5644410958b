#include "launcher/coordinator/stop_words.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "launcher/coordinator/exit_words.h"

namespace dsrun::launcher {
namespace {

constexpr int kKill = 9;
constexpr int kSignalCode = 128;  // what a shell adds to a signal's number
// Of different ends; more would hide what most did.
constexpr size_t kMostEnds = 4;

}  // namespace

bool EndedByStopSignal(const proto::WorkerExited& exited) {
  if (exited.killed_by_agent()) return false;
  if (exited.term_signal() != 0) return IsStopSignal(exited.term_signal());
  return exited.exit_code() > kSignalCode && IsStopSignal(exited.exit_code() - kSignalCode);
}

std::string HowItStopped(const proto::WorkerExited& exited, absl::Duration stop_grace) {
  if (exited.killed_by_agent() && exited.term_signal() == kKill) {
    return absl::StrCat("cut off by SIGKILL (--stop-grace ", absl::FormatDuration(stop_grace), ")");
  }
  return ExitWords(exited.exit_code(), exited.term_signal(), exited.core_dumped());
}

std::string RankWords(const std::set<Rank>& ranks) {
  std::string text = ranks.size() == 1 ? "rank " : "ranks ";
  for (auto it = ranks.begin(); it != ranks.end();) {
    const int first = it->value();
    int last = first;
    for (++it; it != ranks.end() && it->value() == last + 1; ++it) ++last;
    absl::StrAppend(&text, first == ranks.begin()->value() ? "" : ",", first);
    if (last > first) absl::StrAppend(&text, last == first + 1 ? "," : "-", last);
  }
  return text;
}

std::string StopWords(const std::map<Rank, std::string>& how) {
  std::map<std::string, std::set<Rank>> groups;
  for (const auto& [rank, words] : how) groups[words].insert(rank);
  std::vector<std::pair<std::string, std::set<Rank>>> ends(groups.begin(), groups.end());
  std::stable_sort(ends.begin(), ends.end(),
                   [](const auto& a, const auto& b) { return a.second.size() > b.second.size(); });
  std::string text;
  for (size_t i = 0; i < ends.size() && i < kMostEnds; ++i) {
    absl::StrAppend(&text, "; ", RankWords(ends[i].second), " ", ends[i].first);
  }
  if (ends.size() > kMostEnds) {
    absl::StrAppend(&text, "; ", ends.size() - kMostEnds, " other ways to end stand in their logs");
  }
  return text;
}

}  // namespace dsrun::launcher
