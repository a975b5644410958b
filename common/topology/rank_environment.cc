#include "common/topology/rank_environment.h"

namespace dsrun {

std::vector<std::pair<std::string, std::string>> RankEnvironment(
    const RankEnvironmentInput& input) {
  const RankPlace& p = input.place;
  const std::string rank = std::to_string(p.rank.value());
  const std::string world = std::to_string(input.world_size);
  const std::string local_size = std::to_string(p.local_size);
  const std::string node = std::to_string(p.cross_rank);
  const std::string nodes = std::to_string(p.cross_size);
  std::vector<std::pair<std::string, std::string>> out = {
      {"RANK", rank},
      {"LOCAL_RANK", std::to_string(p.local_rank)},
      {"WORLD_SIZE", world},
      {"LOCAL_WORLD_SIZE", local_size},
      {"LOCAL_SIZE", local_size},
      {"CROSS_RANK", node},  // deepspeed's: the node's rank
      {"CROSS_SIZE", nodes},
      {"NODE_RANK", node},
      {"MASTER_ADDR", input.master_addr},
      {"MASTER_PORT", std::to_string(input.master_port)},
      {"GROUP_RANK", node},  // torchrun's: a group is a node
      {"GROUP_WORLD_SIZE", nodes},
      {"ROLE_RANK", rank},
      {"ROLE_WORLD_SIZE", world},
      {"ROLE_NAME", "default"},
      {"TORCHELASTIC_RESTART_COUNT", std::to_string(input.restart_count)},
      {"TORCHELASTIC_MAX_RESTARTS", std::to_string(input.max_restarts)},
      {"TORCHELASTIC_RUN_ID", input.job_id},
      // Rank 0 of the program opens the store at MASTER_PORT itself; no agent holds one.
      {"TORCHELASTIC_USE_AGENT_STORE", "False"},
  };
  if (!input.error_file.empty()) out.emplace_back("TORCHELASTIC_ERROR_FILE", input.error_file);
  if (!input.visible_gpus.empty()) {
    std::string list;
    for (const Slot slot : input.visible_gpus) {
      list += (list.empty() ? "" : ",") + std::to_string(slot.value());
    }
    out.emplace_back("CUDA_VISIBLE_DEVICES", list);
  }
  return out;
}

}  // namespace dsrun
