#include "common/plan/memory_words.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/units.h"
#include "common/plan/memory_plan.h"

namespace dsrun {

std::string TopConsumers(std::vector<PlannedBuffer> lines, size_t most) {
  std::stable_sort(lines.begin(), lines.end(), [](const PlannedBuffer& a, const PlannedBuffer& b) {
    return a.bytes() > b.bytes();
  });
  std::vector<std::string> words;
  for (const PlannedBuffer& line : lines) {
    if (words.size() < most) words.push_back(absl::StrCat(line.name, " ", BytesText(line.bytes())));
  }
  return absl::StrJoin(words, ", ");
}

std::string OutOfMemoryWords(FitInput question, int64_t rank, bool goes_on) {
  MemoryInput job = question.job;
  job.width = static_cast<int64_t>(question.places.size());
  job.rank = rank;
  const MemoryPlan plan = PlanMemory(job);
  const size_t at = question.places[static_cast<size_t>(rank)];
  const int64_t needed = MemoryNeeds(question)[at].needed_bytes;
  FitMachine& machine = question.machines[at];
  const bool known = machine.known;
  const bool fitted = known && machine.there_bytes >= needed;
  if (!known || fitted) {
    machine.there_bytes = needed - 1;
    machine.known = true;
  }
  const std::vector<std::string> changes = WhatWouldFit(question, goes_on);
  return absl::StrCat("by plan its engine takes ", BytesText(plan.total_bytes()), ", most of it ",
                      TopConsumers(plan.buffers), "; ",
                      fitted ? "by plan it fits, so something else takes memory there; less take: "
                      : !known ? "less take: "
                               : "fits: ",
                      changes.empty() ? "no single change; use nodes with more memory"
                                      : absl::StrJoin(changes, ", or "));
}

}  // namespace dsrun
