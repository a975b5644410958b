// The memory of a dry run: bytes a rank by group, and of rank 0 every line of the plan. Pure.

#ifndef DSRUN_LAUNCHER_COMMANDS_DRY_RUN_MEMORY_H_
#define DSRUN_LAUNCHER_COMMANDS_DRY_RUN_MEMORY_H_

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "common/topology/placement.h"
#include "launcher/commands/resolve.h"

namespace dsrun::launcher {

// A table, and what is in which space; empty: nothing is planned.
std::string MemoryText(const Resolved& resolved);
// {group: bytes, ..., "libraries": bytes, "total": bytes} of one rank. REQUIRES: it is planned.
nlohmann::ordered_json MemoryJson(const Resolved& resolved, const RankPlace& place);
// Every line: name, space, type, elements, bytes, the moments of its life, formula.
nlohmann::ordered_json MemoryLinesJson(const Resolved& resolved);

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_COMMANDS_DRY_RUN_MEMORY_H_
