// Flags + hostfile + files -> one JobSpec. Everything that is wrong is found here, together, before
// any process starts; nothing downstream parses text again.
//
// resolve_hosts, resolve_limits, resolve_program and resolve_train each fill their part; this pair
// runs them in order. Reads files and asks for addresses and ports; writes nothing.

#ifndef DSRUN_LAUNCHER_COMMANDS_RESOLVE_H_
#define DSRUN_LAUNCHER_COMMANDS_RESOLVE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "common/config/include_exclude.h"
#include "common/config/source_text.h"
#include "common/plan/memory_plan.h"
#include "common/topology/placement.h"
#include "launcher/commands/command_line.h"
#include "launcher/commands/machine.h"
#include "proto/job.pb.h"

namespace dsrun::launcher {

struct Resolved {
  proto::JobSpec job;
  // For LaunchJob, beside the job (launch_job.h says what each is for).
  std::string agent_binary;
  std::string cluster_key_file;
  std::string probe_path;
  bool progress_line = false;
  bool quiet_ranks = false;
  bool memory_check = true;
  bool run_dir_given = false;

  bool dry_run = false;
  bool json = false;

  // For --dry-run.
  std::vector<RankPlace> ranks;
  std::vector<MemoryPlan> memory;  // by rank; empty for programs
  int64_t corpus_files = 0;
  int64_t corpus_bytes = 0;

  // One line each, for standard error: what was decided that the user may not expect.
  std::vector<std::string> notes;
};

// REQUIRES: command is kTrain or kProgram. The result is complete only if `findings` has no error;
// with --dry-run, hosts off loopback are notes, not errors.
Resolved Resolve(const CommandLine& line, const Machine& machine, Findings& findings);

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_COMMANDS_RESOLVE_H_
