#include "agent/worker_command.h"

#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/logging.h"
#include "common/topology/placement.h"
#include "common/topology/plan_places.h"
#include "common/topology/rank_environment.h"
#include "common/topology/rank_files.h"

namespace dsrun::agent {
namespace {

// The agent has looked at the plan before it took it (node_core).
RankPlace PlaceOf(const proto::GenerationPlan& plan, Rank rank) {
  const absl::StatusOr<std::vector<RankPlace>> places = PlacesOf(plan);
  CHECK(places.ok()) << places.status();
  return (*places)[static_cast<size_t>(rank.value())];
}

std::vector<std::pair<std::string, std::string>> RankVariables(const WorkerCommandInput& input,
                                                               const RankPlace& place) {
  RankEnvironmentInput variables;
  variables.place = place;
  variables.world_size = input.plan.members_size();
  variables.master_addr = input.job.master_addr();
  variables.master_port = input.plan.master_port();
  variables.job_id = input.job.job_id();
  variables.error_file = FilesOfRank(input.run_dir, input.job.nodes(input.node).host(), input.rank,
                                     input.plan.generation())
                             .error;
  variables.restart_count = input.plan.generation() - 1;
  variables.max_restarts = input.job.limits().max_restarts();
  if (input.node_has_gpus && input.node < input.job.nodes_size()) {
    for (const int slot : input.job.nodes(input.node).slots()) {
      variables.visible_gpus.push_back(Slot(slot));
    }
  }
  return RankEnvironment(variables);
}

void SetEnvironment(const WorkerCommandInput& input,
                    std::vector<std::pair<std::string, std::string>> own, ProcessSpec& spec) {
  own.emplace_back(kWorkerTagVariable, input.tag);
  std::set<std::string> replaced;
  for (const auto& [name, value] : own) replaced.insert(name);
  for (const proto::EnvVar& variable : input.job.environment()) {
    if (replaced.contains(variable.name())) continue;
    spec.environment.push_back(variable.name() + "=" + variable.value());
  }
  for (const auto& [name, value] : own) spec.environment.push_back(name + "=" + value);
}

}  // namespace

ProcessSpec BuildWorkerCommand(const WorkerCommandInput& input) {
  ProcessSpec spec;
  spec.working_dir = input.job.working_dir();
  if (!input.job.has_program()) {
    spec.executable = input.worker_binary;
    spec.argv = {input.worker_binary, "--bootstrap-fd", absl::StrCat(kBootstrapFd)};
    SetEnvironment(input, {}, spec);
    return spec;
  }
  const proto::ProgramSpec& program = input.job.program();
  spec.executable = program.executable();
  spec.argv.assign(program.argv().begin(), program.argv().end());
  if (spec.argv.empty()) spec.argv.push_back(spec.executable);
  const RankPlace place = PlaceOf(input.plan, input.rank);
  if (program.append_local_rank()) {
    spec.argv.push_back(absl::StrCat("--local_rank=", place.local_rank));
  }
  SetEnvironment(input, RankVariables(input, place), spec);
  return spec;
}

}  // namespace dsrun::agent
