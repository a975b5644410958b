#include "launcher/commands/dry_run_memory.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "common/base/units.h"
#include "common/plan/library_plan.h"
#include "common/plan/memory_input.h"
#include "common/plan/memory_plan.h"
#include "launcher/commands/text_table.h"

namespace dsrun::launcher {
namespace {

using Json = nlohmann::ordered_json;

// What the engine plans, then what libraries take beside it.
std::vector<PlannedBuffer> LinesOf(const Resolved& resolved, const RankPlace& place) {
  std::vector<PlannedBuffer> lines =
      resolved.memory[static_cast<size_t>(place.rank.value())].buffers;
  const auto width = static_cast<int64_t>(resolved.ranks.size());
  const int64_t of_node = resolved.job.nodes(place.node.value()).slots_size();
  for (PlannedBuffer& line : PlanLibraries({.threads = resolved.job.train().threads_per_rank(),
                             .width = width,
                             .ranks_of_machine = std::min(of_node, width),
                             .precision = MemoryInputFromProto(resolved.job.train()).precision})) {
    lines.push_back(std::move(line));
  }
  return lines;
}

// Bytes by group, in the plan's order.
std::vector<std::pair<std::string, int64_t>> Groups(const std::vector<PlannedBuffer>& lines) {
  std::vector<std::pair<std::string, int64_t>> out;
  for (const PlannedBuffer& line : lines) {
    auto found = std::find_if(out.begin(), out.end(),
                              [&](const auto& entry) { return entry.first == line.group; });
    if (found == out.end()) found = out.insert(out.end(), {line.group, 0});
    found->second += line.bytes();
  }
  return out;
}

int64_t Total(const std::vector<PlannedBuffer>& lines) {
  int64_t total = 0;
  for (const PlannedBuffer& line : lines) total += line.bytes();
  return total;
}

std::string SpacesText(const std::vector<PlannedBuffer>& lines) {
  std::string text;
  for (const Space space : {Space::kDevice, Space::kPinned, Space::kHost}) {
    int64_t bytes = 0;
    for (const PlannedBuffer& line : lines) bytes += line.space == space ? line.bytes() : 0;
    if (bytes == 0) continue;
    text += (text.empty() ? "" : ", ") + BytesText(bytes) + " of the " + std::string(NameOf(space));
  }
  return text;
}

}  // namespace

std::string MemoryText(const Resolved& resolved) {
  if (resolved.memory.empty()) return "";
  std::vector<std::vector<std::string>> rows = {{"rank"}};
  for (const auto& [group, bytes] : Groups(LinesOf(resolved, resolved.ranks.front()))) {
    rows[0].push_back(group);
  }
  rows[0].push_back("total");
  for (const RankPlace& place : resolved.ranks) {
    const std::vector<PlannedBuffer> lines = LinesOf(resolved, place);
    rows.push_back({std::to_string(place.rank.value())});
    for (const auto& [group, bytes] : Groups(lines)) rows.back().push_back(BytesText(bytes));
    rows.back().push_back(BytesText(Total(lines)));
  }
  return "\nMemory by plan\n" + TextTable(rows) +
         "  rank 0: " + SpacesText(LinesOf(resolved, resolved.ranks.front())) +
         "; a CPU's device memory is the host's\n";
}

Json MemoryJson(const Resolved& resolved, const RankPlace& place) {
  const std::vector<PlannedBuffer> lines = LinesOf(resolved, place);
  Json memory = Json::object();
  for (const auto& [group, bytes] : Groups(lines)) memory[group] = bytes;
  memory["total"] = Total(lines);
  return memory;
}

Json MemoryLinesJson(const Resolved& resolved) {
  Json json = Json::array();
  for (const PlannedBuffer& line : LinesOf(resolved, resolved.ranks.front())) {
    Json one = {{"name", line.name},
                {"group", line.group},
                {"space", std::string(NameOf(line.space))},
                {"dtype", std::string(NameOf(line.dtype))},
                {"elements", line.elements},
                {"bytes", line.bytes()},
                {"formula", line.formula}};
    if (line.life.last != kAlways.last) {
      one["first_moment"] = line.life.first;
      one["last_moment"] = line.life.last;
    }
    json.push_back(std::move(one));
  }
  return json;
}

}  // namespace dsrun::launcher
