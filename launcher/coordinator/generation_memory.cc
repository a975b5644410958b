#include "launcher/coordinator/generation_memory.h"

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/counted.h"
#include "common/base/limits.h"
#include "common/base/memory_marks.h"
#include "common/base/units.h"
#include "common/model/model_plan.h"
#include "common/model/model_spec.h"
#include "common/plan/batch_plan.h"
#include "common/plan/memory_fit.h"
#include "common/plan/memory_input.h"
#include "common/plan/memory_words.h"
#include "common/plan/zero_stage.h"

namespace dsrun::launcher {
namespace {

constexpr size_t kMostNames = 3;

// A machine's nodes and their memory.
struct Machine {
  std::vector<std::string> hosts;
  std::optional<proto::NodeMemory> memory;  // of them together
};

struct Machines {
  std::vector<Machine> all;
  std::vector<size_t> of_node;  // index = place in the question
};

void Join(const proto::NodeMemory& more, proto::NodeMemory& memory) {
  // Measured at two moments: the lesser of what is available; each node's own ranks.
  memory.set_total_bytes(std::min(memory.total_bytes(), more.total_bytes()));
  memory.set_available_bytes(std::min(memory.available_bytes(), more.available_bytes()));
  memory.set_ranks_bytes(memory.ranks_bytes() + more.ranks_bytes());
}

Machines GroupNodes(const std::vector<PlannedNode>& nodes,
                    const std::map<NodeId, proto::NodeMemory>& memory) {
  Machines machines;
  std::map<std::pair<std::string, std::string>, size_t> known;  // boot id, control group
  for (const PlannedNode& node : nodes) {
    const auto reported = memory.find(node.id);
    size_t index = machines.all.size();
    if (reported != memory.end() && !reported->second.boot_id().empty()) {
      index = known.emplace(std::pair(reported->second.boot_id(), reported->second.cgroup()), index)
                  .first->second;
    }
    machines.of_node.push_back(index);
    if (index == machines.all.size()) machines.all.emplace_back();
    Machine& machine = machines.all[index];
    machine.hosts.push_back(node.host);
    if (reported == memory.end()) continue;
    if (machine.memory) {
      Join(reported->second, *machine.memory);
    } else {
      machine.memory = reported->second;
    }
  }
  return machines;
}

std::string Names(const std::vector<std::string>& names) {
  const size_t shown = std::min(names.size(), kMostNames);
  std::string text =
      absl::StrJoin(names.begin(), names.begin() + static_cast<std::ptrdiff_t>(shown), ", ");
  if (shown < names.size()) absl::StrAppend(&text, " and ", names.size() - shown, " more");
  return text;
}

FitInput QuestionOf(const MemoryInput& job, const std::vector<PlannedNode>& nodes,
                    const Machines& machines) {
  FitInput input;
  input.job = job;
  for (const Machine& machine : machines.all) {
    FitMachine& fit = input.machines.emplace_back();
    fit.name = Names(machine.hosts);
    fit.known = machine.memory.has_value();
    if (!fit.known) continue;
    const int64_t there = machine.memory->available_bytes() + machine.memory->ranks_bytes();
    fit.there_bytes = std::min(there, machine.memory->total_bytes());
  }
  for (size_t i = 0; i < nodes.size(); ++i) {
    input.places.insert(input.places.end(), nodes[i].slots.size(), machines.of_node[i]);
  }
  return input;
}

std::string Lack(const MachineNeed& need, const FitMachine& fit, const proto::NodeMemory& memory) {
  return absl::StrCat(fit.name, ": ", Counted(need.ranks, "rank"), " of up to ",
                      BytesText(need.largest_rank_bytes), " ", need.ranks == 1 ? "needs " : "need ",
                      BytesText(need.needed_bytes), ", ", BytesText(need.there_bytes),
                      " are there (",
                      memory.limited_by().empty() ? "this machine" : memory.limited_by(), ", ",
                      BytesText(memory.total_bytes()), " in all)");
}

std::vector<PlannedNode> Keep(const std::vector<PlannedNode>& nodes,
                              const std::vector<bool>& kept) {
  std::vector<PlannedNode> fitting;
  size_t place = 0;
  for (const PlannedNode& node : nodes) {
    PlannedNode with = {node.id, node.host, {}, node.of};
    for (const Slot slot : node.slots) {
      if (kept[place++]) with.slots.push_back(slot);
    }
    if (!with.slots.empty()) fitting.push_back(std::move(with));
  }
  return fitting;
}

}  // namespace

std::optional<MemoryInput> MemoryInputOf(const proto::TrainSpec& train) {
  if (train.micro_batch_size() < 1) return std::nullopt;
  const MemoryInput input = MemoryInputFromProto(train);
  if (!CanBePlanned(input)) return std::nullopt;
  return input;
}

bool CanBePlanned(const MemoryInput& job) {
  return Validate(job.model).ok() && job.micro_batch_size >= 1 && job.bucket_bytes >= 1 &&
         job.threads >= 1 && IsZeroStage(job.zero_stage) &&
         CheckFrozen(job.model, job.frozen).ok() &&
         ValidateBatchPlan(job.micro_batches, job.micro_batches_per_atom, /*width=*/1).ok() &&
         CheckPlannable(job).ok();
}

MemoryAnswer AskMemory(const MemoryInput& job, const std::vector<PlannedNode>& nodes,
                       const std::map<NodeId, proto::NodeMemory>& memory, bool goes_on) {
  const Machines machines = GroupNodes(nodes, memory);
  const FitInput question = QuestionOf(job, nodes, machines);
  MemoryAnswer answer;
  std::vector<std::string> names;
  for (const MachineNeed& need : MemoryShortages(question)) {
    const FitMachine& machine = question.machines[need.machine];
    names.push_back(machine.name);
    answer.lacking.push_back(Lack(need, machine, *machines.all[need.machine].memory));
  }
  if (answer.lacking.empty()) {
    answer.fitting = nodes;
    return answer;
  }
  answer.where = Names(names);
  answer.fitting = Keep(nodes, PlacesThatFit(question));
  MemoryInput first = job;
  first.width = static_cast<int64_t>(
      std::min(question.places.size(),
               static_cast<size_t>(AtomCount(job.micro_batches, job.micro_batches_per_atom))));
  answer.consumers = TopConsumers(PlanMemory(first).buffers);
  answer.would_fit = absl::StrJoin(WhatWouldFit(question, goes_on), ", or ");
  if (answer.would_fit.empty()) answer.would_fit = "no single change; use nodes with more memory";
  return answer;
}

std::string MemoryMetWords(const MemoryInput& job, const std::vector<PlannedNode>& nodes,
                           const std::map<NodeId, proto::NodeMemory>& memory, Rank rank,
                           bool goes_on) {
  FitInput question = QuestionOf(job, nodes, GroupNodes(nodes, memory));
  const auto atoms = static_cast<size_t>(AtomCount(job.micro_batches, job.micro_batches_per_atom));
  question.places.resize(std::min(question.places.size(), atoms));
  if (rank.value() < 0 || static_cast<size_t>(rank.value()) >= question.places.size()) return "";
  return OutOfMemoryWords(std::move(question), rank.value(), goes_on);
}

bool SaysOutOfMemory(const proto::WorkerExited& exited) {
  if (absl::StrContains(exited.reason(), kKilledForMemory)) return true;
  if (exited.term_signal() != 0 || exited.exit_code() != kExitLimit) return false;
  return std::any_of(exited.last_lines().begin(), exited.last_lines().end(),
                     [](const std::string& line) { return absl::StrContains(line, kOutOfMemory); });
}

bool SaysOutOfMemory(const proto::Failed& failed) {
  return failed.code() == static_cast<int>(absl::StatusCode::kResourceExhausted) &&
         absl::StrContains(failed.message(), kMemoryRefused);
}

}  // namespace dsrun::launcher
