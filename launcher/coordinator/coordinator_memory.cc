// Between Prepared and Begin: does the generation fit into its nodes' memory?

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "common/base/counted.h"
#include "launcher/coordinator/coordinator.h"
#include "launcher/coordinator/generation_memory.h"
#include "launcher/coordinator/generation_planner.h"

namespace dsrun::launcher {
namespace {

size_t SlotsOf(const std::vector<PlannedNode>& nodes) {
  size_t slots = 0;
  for (const PlannedNode& node : nodes) slots += node.slots.size();
  return slots;
}

}  // namespace

std::vector<PlannedNode> Coordinator::LiveNodes() const {
  std::vector<PlannedNode> nodes;
  for (const NodeId id : s_.members.Live()) {
    const CoordinatorConfig::Node& node = config_.nodes[static_cast<size_t>(id.value())];
    nodes.push_back({id, node.host, node.slots, static_cast<int32_t>(node.slots.size())});
  }
  return nodes;
}

void Coordinator::NoteMemory(NodeId node, const proto::NodeMemory& memory) {
  if (memory.total_bytes() > 0) s_.memory[node] = memory;
}

void Coordinator::SayWhoseMemoryIsUnknown() {
  for (const NodeId node : s_.members.Live()) {
    if (s_.memory.contains(node) || !s_.memory_unknown.insert(node).second) continue;
    Notice(true, absl::StrCat("node ", node.value(), " (", HostOf(node),
                              "): its agent reports no memory, so what is started there is not "
                              "checked against it; is its dsagent of this version?"));
  }
}

void Coordinator::BeginIfItFits() {
  const std::vector<PlannedNode> nodes = LiveNodes();
  if (!config_.memory || !config_.check_memory) return Begin(nodes);
  SayWhoseMemoryIsUnknown();
  const bool goes_on = config_.goes_on || !s_.history.report().manifest.empty();
  const MemoryAnswer answer = AskMemory(*config_.memory, nodes, s_.memory, goes_on);
  if (answer.lacking.empty()) return Begin(nodes);
  if (s_.memory_looks < kMemoryLooks) {
    if (s_.memory_looks++ == 0) {
      Notice(false, absl::StrCat("generation ", s_.generation.value(),
                                 " does not fit yet: ", answer.lacking.front(), "; looking again"));
    }
    return Enter(State::kPreparing, kBetweenMemoryLooks);
  }
  // What was asked for is not quietly made smaller; what is left of it may be.
  const bool asked_for = s_.plan.generation() == 0;
  if (asked_for || answer.fitting.empty()) return EndForMemory(answer);
  const auto width = [this](const std::vector<PlannedNode>& of) {
    return std::min(SlotsOf(of), static_cast<size_t>(config_.max_width));
  };
  Notice(true, absl::StrCat("generation ", s_.generation.value(), " goes on with ",
                            Counted(width(answer.fitting), "rank"), " instead of ", width(nodes),
                            ", which do not fit: ", answer.lacking.front()));
  Begin(answer.fitting);
}

// Whoever was late has answered now: memory that was on its way back may be there.
void Coordinator::LookAgainForMemory() {
  s_.prepared.clear();
  Enter(State::kPreparing, 2 * config_.node_silent_after);
  proto::CoordinatorMessage message;
  message.mutable_prepare();
  SendToLive(message);
}

void Coordinator::EndForMemory(const MemoryAnswer& answer) {
  Report& report = s_.history.report();
  report.lacking_memory = answer.lacking;
  absl::StrAppend(&report.lacking_memory.front(), "; most of a rank's: ", answer.consumers);
  report.would_fit = answer.would_fit;
  const bool first = s_.plan.generation() == 0;
  const std::string words =
      absl::StrCat(first ? "the job" : absl::StrCat("generation ", s_.generation.value()),
                   " does not fit into the memory of ", answer.where,
                   first ? ", so no rank was started" : " at any width, so it was not begun");
  if (s_.stop_waits) {
    return BeginEnding(
        kExitCancelled,
        absl::StrCat("stopped by the operator; no checkpoint at the end, because ", words), true);
  }
  BeginEnding(first ? kExitPreflight : kExitNoNodesLeft, words, true);
}

void Coordinator::AddMemoryWords(std::optional<Rank> rank, std::string& what) {
  if (s_.memory_told || !config_.memory || !rank || rank->value() >= width()) return;
  s_.memory_told = true;
  const bool goes_on = config_.goes_on || !s_.history.WholeReport().manifest.empty();
  const std::string words =
      MemoryMetWords(*config_.memory, PlannedNodes(), s_.memory, *rank, goes_on);
  if (!words.empty()) absl::StrAppend(&what, "; ", words);
}

// The nodes of the plan, with the slots that it has, in the order of its ranks.
std::vector<PlannedNode> Coordinator::PlannedNodes() const {
  std::vector<PlannedNode> nodes;
  for (int rank = 0; rank < width(); ++rank) {
    const WorkerId worker = WorkerOf(s_.plan, Rank(rank));
    if (nodes.empty() || nodes.back().id != worker.node) {
      nodes.push_back({worker.node, HostOf(worker.node), {}, 0});
    }
    nodes.back().slots.push_back(worker.slot);
  }
  return nodes;
}

}  // namespace dsrun::launcher
