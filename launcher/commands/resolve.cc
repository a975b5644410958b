#include "launcher/commands/resolve.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>

#include "common/base/file_system.h"
#include "common/format/save_folder.h"
#include "common/rpc/secrets.h"
#include "launcher/commands/flag_values.h"
#include "launcher/commands/resolve_parts.h"

namespace dsrun::launcher {
namespace {

// "20261121-101500-1a2b3c"
std::string JobId(const Machine& machine) {
  char random[16];
  std::snprintf(random, sizeof(random), "-%06x", machine.random & 0xffffffu);
  return absl::FormatTime("%Y%m%d-%H%M%S", machine.now, machine.zone) + random;
}

// A folder that will be made: everything of its path that exists must be folders.
void CheckFutureFolder(ResolveContext& context, const std::string& flag, const std::string& path) {
  namespace fs = std::filesystem;
  std::error_code error;
  fs::path at = path;
  if (at.is_relative()) return;  // said already: there is no current folder
  while (!at.empty() && at != at.parent_path() && !fs::exists(at, error)) at = at.parent_path();
  if (!fs::is_directory(at, error)) {
    context.findings.AddFlag(
        flag, "expected a folder, but " + at.string() + " is a file; choose another path");
  } else if (::access(at.c_str(), W_OK) != 0) {
    context.findings.AddFlag(
        flag, "cannot write in " + at.string() + "; choose another path or change its permissions");
  }
}

bool NeedsOwnAgent(const proto::JobSpec& job) {
  for (const proto::NodeSpec& node : job.nodes()) {
    if (node.agent_port() == 0) return true;
  }
  return false;
}

bool NeedsClusterKey(const proto::JobSpec& job) {
  for (const proto::NodeSpec& node : job.nodes()) {
    if (node.agent_port() != 0) return true;
  }
  return false;
}

void ResolveAgents(ResolveContext& context) {
  Resolved& out = context.resolved;
  out.agent_binary = context.Absolute(
      context.values.Text("agent-binary").value_or(context.machine.program_dir + "/dsagent"));
  if (!context.resolved.dry_run && NeedsOwnAgent(context.resolved.job) &&
      ::access(out.agent_binary.c_str(), X_OK) != 0) {
    context.findings.AddFlag("dsrun", "expected the agent program at " + out.agent_binary +
                                          ", but it is not there or not executable; run "
                                          "tools/build, or name it with --agent-binary PATH");
  }
  if (const auto key = context.values.Text("cluster-key-file")) {
    out.cluster_key_file = context.Absolute(*key);
    const auto read = ReadClusterKeyFile(out.cluster_key_file);
    if (!read.ok()) {
      context.findings.AddFlag("--cluster-key-file", std::string(read.status().message()));
    }
  } else if (!context.resolved.dry_run && NeedsClusterKey(context.resolved.job)) {
    context.findings.AddFlag("--cluster-key-file",
                             "the hostfile names agents that are already running (HOST:PORT): "
                             "expected the key file they were started with");
  }
}

}  // namespace

std::string ResolveContext::Absolute(const std::string& path) const {
  std::filesystem::path joined = std::filesystem::path(machine.working_dir) / path;
  joined = joined.lexically_normal();
  if (!joined.has_filename() && joined.has_relative_path()) joined = joined.parent_path();
  return joined.string();
}

Resolved Resolve(const CommandLine& line, const Machine& machine, Findings& findings) {
  Resolved resolved;
  FlagValues values(line.flags, findings);
  ResolveContext context{line, machine, values, findings, resolved};
  resolved.dry_run = values.Switch("dry-run");
  resolved.json = values.Switch("json");
  if (resolved.json && !resolved.dry_run) {
    findings.AddFlag("--json", "prints what --dry-run would; add --dry-run");
  }
  proto::JobSpec& job = resolved.job;
  job.set_job_id(JobId(machine));
  job.set_working_dir(machine.working_dir);
  job.set_run_as_user(machine.user);
  job.set_run_dir(context.Absolute(values.Text("run-dir").value_or("runs/" + job.job_id())));
  resolved.run_dir_given = values.Has("run-dir");
  if (machine.working_dir.empty()) {
    findings.AddFlag("dsrun",
                     "the current folder is not there any more, or cannot be looked at; "
                     "change to another one (cd)");
  }
  CheckFutureFolder(context, "--run-dir", job.run_dir());

  ResolveHosts(context);
  ResolveMaster(context);
  ResolveLimits(context);
  ResolveEnvironment(context);
  ResolveAgents(context);
  resolved.memory_check = values.OnOff("memory-check", true);
  if (context.is_train()) {
    ResolveTrain(context);
    CheckFutureFolder(context, "--save", job.train().save_dir());
    resolved.probe_path = JoinPath(job.train().save_dir(), SaveFolderMarker(job.job_id()));
  } else {
    ResolveProgram(context);
  }
  resolved.progress_line = context.is_train() && machine.stdout_is_terminal;
  resolved.quiet_ranks = values.Switch("quiet");
  return resolved;
}

}  // namespace dsrun::launcher
