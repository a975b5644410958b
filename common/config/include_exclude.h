// Which slots of which hosts a job uses: --include and --exclude strings, --num_nodes, --num_gpus.
//
//   NODE[@NODE...]   NODE = HOST[:SLOT[,SLOT...]]   SLOT = 3 or 0-3
//
//   --include w1              all slots of w1
//   --include w0@w1:0,2       all of w0, slots 0 and 2 of w1
//   --exclude w1:3            everything but slot 3 of w1
//   --include w1:7            with `gpu_ids`: GPU 7 of w1, also where the hostfile gives it fewer
//                             slots, as CUDA_VISIBLE_DEVICES counts; its agent must find that GPU
//
// HOST is a name of the hostfile; "w1:7411" (with the agent's port) names that entry, and w1 alone
// does so too where only one entry has that host. The result is always in the order of the
// hostfile. Pure.

#ifndef DSRUN_COMMON_CONFIG_INCLUDE_EXCLUDE_H_
#define DSRUN_COMMON_CONFIG_INCLUDE_EXCLUDE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/config/hostfile.h"
#include "common/config/source_text.h"

namespace dsrun {

// A host with the slots in use on it, ascending, at least one.
struct SelectedHost {
  HostEntry host;
  std::vector<int32_t> slots;  // from host.slots on: only with `gpu_ids`
  friend bool operator==(const SelectedHost&, const SelectedHost&) = default;
};

struct HostFilter {
  std::string include = {};  // empty: not given
  std::string exclude = {};
  std::optional<int64_t> num_nodes = {};  // -1 (DeepSpeed's default) is the same as not given
  std::optional<int64_t> num_gpus = {};
  bool gpu_ids = false;  // a slot is the id of a GPU, and not only a place for a rank
};

// Filters `hostfile`. What is wrong goes to `findings`, all of it; the result is empty then.
std::vector<SelectedHost> SelectHosts(const Hostfile& hostfile, const HostFilter& filter,
                                      Findings& findings);

}  // namespace dsrun

#endif  // DSRUN_COMMON_CONFIG_INCLUDE_EXCLUDE_H_
