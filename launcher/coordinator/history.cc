#include "launcher/coordinator/history.h"

#include <algorithm>
#include <cstddef>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace dsrun::launcher {
namespace {

// Of one incident, what stays.
struct Share {
  size_t consequences;
  size_t line_bytes_of_the_cause;
  size_t line_bytes_of_others;
};
constexpr Share kClosed = {History::kMostConsequences, 64 << 10, 64 << 10};
constexpr Share kOld = {8, 4 << 10, 0};
// A job of a month has thousands; the report has them all.
constexpr size_t kIncidentsWithDetails = 100;

size_t LineBytes(const Failure& failure) {
  size_t bytes = 0;
  for (const std::string& line : failure.last_lines) bytes += line.size() + 1;
  for (const std::string& line : failure.stack) bytes += line.size() + 1;
  return bytes;
}

// The last of its last lines and the innermost of its stack stay, as many as have room.
void ShortenLines(Failure& failure, size_t room) {
  size_t bytes = 0;
  const auto fits = [&](const std::string& line) { return (bytes += line.size() + 1) <= room; };
  size_t stack = 0;
  while (stack < failure.stack.size() && fits(failure.stack[stack])) ++stack;
  size_t first = failure.last_lines.size();
  while (first > 0 && bytes <= room && fits(failure.last_lines[first - 1])) --first;
  failure.lines_left_out += static_cast<int>(first + failure.stack.size() - stack);
  failure.stack.resize(stack);
  failure.last_lines.erase(failure.last_lines.begin(),
                           failure.last_lines.begin() + static_cast<std::ptrdiff_t>(first));
}

void LeaveOut(Incident& incident, size_t most) {
  if (incident.consequences.size() <= most) return;
  incident.more += static_cast<int64_t>(incident.consequences.size() - most);
  incident.consequences.erase(incident.consequences.begin() + static_cast<std::ptrdiff_t>(most),
                              incident.consequences.end());
  incident.consequences.shrink_to_fit();
}

void Shorten(Incident& incident, const Share& share) {
  LeaveOut(incident, share.consequences);
  ShortenLines(incident.cause, share.line_bytes_of_the_cause);
  size_t room = share.line_bytes_of_others;
  for (Failure& each : incident.consequences) {
    ShortenLines(each, room);
    room -= LineBytes(each);
  }
}

}  // namespace

GenerationRecord* History::Current() {
  return report_.generations.empty() ? nullptr : &report_.generations.back();
}

void History::Claimed(Generation generation, std::string reason, absl::Duration now) {
  if (GenerationRecord* last = Current(); last != nullptr && !last->ended_at) last->ended_at = now;
  GenerationRecord record;
  record.generation = generation;
  record.reason = std::move(reason);
  record.claimed_at = now;
  report_.generations.push_back(std::move(record));
}

void History::Began(std::vector<WorkerId> ranks, absl::Duration now) {
  Current()->ranks = std::move(ranks);
  Current()->began_at = now;
  for (Incident& incident : report_.incidents) {
    if (!incident.began_at) incident.began_at = now;
  }
}

void History::Joined(int64_t start_step, const std::string& loaded_from) {
  GenerationRecord* record = Current();
  record->start_step = start_step;
  record->loaded_from = loaded_from;
  record->last_step = std::max(record->last_step, start_step);
}

void History::AllJoined(absl::Duration now) {
  Current()->joined_at = now;
  for (Incident& incident : report_.incidents) {
    if (!incident.joined_at) incident.joined_at = now;
  }
}

void History::StepFinished(int64_t step) {
  Current()->last_step = std::max(Current()->last_step, step);
}

std::optional<History::Recovery> History::FirstStep(absl::Duration now) {
  Current()->first_step_at = now;
  std::optional<Recovery> recovery;
  for (Incident& incident : report_.incidents) {
    if (incident.went_on) continue;
    incident.went_on = Current()->generation;
    incident.next_step_at = now;
    incident.resumed_from_step = Current()->start_step;
    report_.lost_steps += incident.lost_steps();
    if (!recovery) {
      recovery.emplace();
      recovery->since_failure = now - incident.failed_at;
      report_.lost_time += recovery->since_failure;
    }
    recovery->lost_steps += incident.lost_steps();
  }
  return recovery;
}

void History::OpenIncident(Failure failure, Generation failed) {
  CloseNewest();
  Incident incident;
  incident.failed = failed;
  incident.detected_at = failure.noticed_at;
  incident.failed_at = failure.noticed_at - failure.silent_for;
  if (const GenerationRecord* record = Current()) incident.last_step_before = record->last_step;
  ShortenLines(failure, kMostLineBytesOfACause);
  incident.cause = std::move(failure);
  chooser_.Add(incident.cause);
  cause_ = chooser_.Choose();
  place_ = {0};
  report_.incidents.push_back(std::move(incident));
}

void History::AddFailure(Failure failure, Generation failed) {
  if (!Collecting()) return OpenIncident(std::move(failure), failed);
  Incident& incident = report_.incidents.back();
  incident.detected_at = std::min(incident.detected_at, failure.noticed_at);
  incident.failed_at = std::min(incident.failed_at, failure.noticed_at - failure.silent_for);
  if (chooser_.size() >= kMostFailures) {
    ++incident.more;
    return;
  }
  const size_t added = chooser_.size();
  chooser_.Add(failure);
  const size_t cause = chooser_.Choose();
  if (cause == added) {
    ShortenLines(failure, kMostLineBytesOfACause);
    std::swap(incident.cause, failure);
    place_.push_back(0);
    place_[cause_] = incident.consequences.size();
  } else {
    place_.push_back(incident.consequences.size());
  }
  Keep(std::move(failure));
  if (cause != cause_ && cause != added) {
    Failure& first = incident.consequences[place_[cause]];
    line_bytes_ += LineBytes(incident.cause) - LineBytes(first);
    std::swap(incident.cause, first);
    place_[cause_] = place_[cause];
  }
  cause_ = cause;
}

void History::Keep(Failure failure) {
  const size_t room = kMostLineBytesOfOthers - std::min(line_bytes_, kMostLineBytesOfOthers);
  ShortenLines(failure, room);
  line_bytes_ += LineBytes(failure);
  report_.incidents.back().consequences.push_back(std::move(failure));
}

void History::AddLate(Failure failure) {
  Incident& incident = report_.incidents.back();
  const std::optional<absl::Duration> next = Current()->began_at;
  const bool may_be_first =
      failure.happened_at && next && *failure.happened_at - failure.happened_within <= *next;
  if (may_be_first) {
    const std::optional<absl::Duration> began_at = std::exchange(incident.began_at, std::nullopt);
    AddFailure(std::move(failure), incident.failed);
    report_.incidents.back().began_at = began_at;
  } else if (chooser_.size() >= kMostFailures) {
    ++incident.more;
  } else {
    chooser_.Add(failure);
    place_.push_back(incident.consequences.size());
    Keep(std::move(failure));
  }
}

void History::SortNewest(std::vector<Failure>& consequences) const {
  std::vector<size_t> heard;  // numbers
  for (size_t number = 0; number < place_.size(); ++number) {
    if (number != cause_) heard.push_back(number);
  }
  std::sort(heard.begin(), heard.end(),
            [this](size_t a, size_t b) { return chooser_.HeardBefore(a, b); });
  std::vector<Failure> sorted;
  sorted.reserve(heard.size());
  for (const size_t number : heard) sorted.push_back(std::move(consequences[place_[number]]));
  consequences = std::move(sorted);
}

void History::CloseNewest() {
  if (HasIncident()) {
    Incident& newest = report_.incidents.back();
    SortNewest(newest.consequences);
    Shorten(newest, kClosed);
  }
  if (report_.incidents.size() > kIncidentsWithDetails) {
    Shorten(report_.incidents[report_.incidents.size() - 1 - kIncidentsWithDetails], kOld);
  }
  chooser_ = CauseChooser();
  place_.clear();
  line_bytes_ = 0;
}

Report History::WholeReport() const {
  Report report = report_;
  if (!report.incidents.empty()) SortNewest(report.incidents.back().consequences);
  return report;
}

Report History::ToldReport() const {
  Report report = WholeReport();
  if (!report.incidents.empty()) LeaveOut(report.incidents.back(), kMostConsequences);
  return report;
}

History History::Of(Report report) {
  History history;
  history.report_ = std::move(report);
  if (!history.HasIncident()) return history;
  // As they were heard: the cause first of its time.
  const Incident& incident = history.report_.incidents.back();
  const auto after = std::lower_bound(
      incident.consequences.begin(), incident.consequences.end(), incident.cause.noticed_at,
      [](const Failure& each, absl::Duration at) { return each.noticed_at < at; });
  const auto add = [&history](const Failure& failure) { history.chooser_.Add(failure); };
  std::for_each(incident.consequences.begin(), after, add);
  history.cause_ = history.chooser_.size();
  add(incident.cause);
  std::for_each(after, incident.consequences.end(), add);
  history.place_.resize(history.chooser_.size());
  size_t place = 0;
  for (size_t number = 0; number < history.place_.size(); ++number) {
    if (number != history.cause_) history.place_[number] = place++;
  }
  for (const Failure& each : incident.consequences) history.line_bytes_ += LineBytes(each);
  return history;
}

}  // namespace dsrun::launcher
