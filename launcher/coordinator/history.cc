#include "launcher/coordinator/history.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "launcher/coordinator/root_cause.h"

namespace dsrun::launcher {

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

void History::AddFailure(Failure failure, Generation failed) {
  if (!Collecting()) {
    Incident incident;
    incident.failed = failed;
    incident.detected_at = failure.noticed_at;
    incident.failed_at = failure.noticed_at - failure.silent_for;
    incident.cause = std::move(failure);
    if (const GenerationRecord* record = Current()) incident.last_step_before = record->last_step;
    report_.incidents.push_back(std::move(incident));
    return;
  }
  Incident& incident = report_.incidents.back();
  incident.detected_at = std::min(incident.detected_at, failure.noticed_at);
  incident.failed_at = std::min(incident.failed_at, failure.noticed_at - failure.silent_for);
  // Put the cause back where it was heard, then choose again.
  std::vector<Failure> all = std::move(incident.consequences);
  all.insert(all.begin(), std::move(incident.cause));
  std::stable_sort(all.begin(), all.end(),
                   [](const Failure& a, const Failure& b) { return a.noticed_at < b.noticed_at; });
  all.push_back(std::move(failure));
  const size_t cause = ChooseCause(all);
  incident.cause = std::move(all[cause]);
  all.erase(all.begin() + static_cast<std::ptrdiff_t>(cause));
  incident.consequences = std::move(all);
}

void History::AddLate(Failure failure) {
  Incident& incident = report_.incidents.back();
  const std::optional<absl::Duration> next = Current()->began_at;
  const bool may_be_first =
      failure.happened_at && next && *failure.happened_at - failure.happened_within <= *next;
  if (!may_be_first) {
    incident.consequences.push_back(std::move(failure));
    return;
  }
  const std::optional<absl::Duration> began_at = std::exchange(incident.began_at, std::nullopt);
  AddFailure(std::move(failure), incident.failed);
  report_.incidents.back().began_at = began_at;
}

}  // namespace dsrun::launcher
