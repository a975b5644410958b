// Where a rank's files stand in a run folder. Its agent writes them, the last screen names them.
// Pure.

#ifndef DSRUN_COMMON_TOPOLOGY_RANK_FILES_H_
#define DSRUN_COMMON_TOPOLOGY_RANK_FILES_H_

#include <cstdint>
#include <string>

#include "common/base/ids.h"

namespace dsrun {

// Of one process, by the place it was started for: a process that lives through generations keeps
// its files.
struct RankFiles {
  std::string log;    // what it wrote, "RUN_DIR/logs/HOST/rank-3.gen-1.log"
  std::string error;  // a program's last exception as JSON (TORCHELASTIC_ERROR_FILE)
};

inline RankFiles FilesOfRank(const std::string& run_dir, const std::string& host, Rank rank,
                             int64_t generation) {
  const std::string stem = run_dir + "/logs/" + host + "/rank-" + std::to_string(rank.value()) +
                           ".gen-" + std::to_string(generation);
  return {stem + ".log", stem + ".error.json"};
}

}  // namespace dsrun

#endif  // DSRUN_COMMON_TOPOLOGY_RANK_FILES_H_
