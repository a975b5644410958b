// The environment of the ranks: this process's own, then what the environment file says, then what
// torchrun sets for programs where the user set nothing.

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>

#include "common/config/env_file.h"
#include "common/config/source_file.h"
#include "launcher/commands/resolve_parts.h"

namespace dsrun::launcher {
namespace {

void SetVariable(proto::JobSpec& job, const std::string& name, const std::string& value) {
  for (proto::EnvVar& variable : *job.mutable_environment()) {
    if (variable.name() != name) continue;
    variable.set_value(value);
    return;
  }
  proto::EnvVar& variable = *job.add_environment();
  variable.set_name(name);
  variable.set_value(value);
}

void Apply(ResolveContext& context, const std::string& shown, std::string content) {
  const SourceText text(shown, std::move(content));
  for (const EnvSetting& setting : ParseEnvFile(text, context.findings)) {
    // A bare name means our own value, which is in the environment already.
    if (setting.value.has_value()) SetVariable(context.resolved.job, setting.name, *setting.value);
  }
}

// Reads it if it is there. `named_by`: the flag or variable that asks for it; empty: nobody does,
// it is one of the places where such a file may be. False: it is not there.
bool ReadIfThere(ResolveContext& context, const std::string& named_by, const std::string& path,
                 const std::string& shown) {
  std::error_code error;
  if (named_by.empty() && std::filesystem::is_directory(path, error)) return false;
  absl::StatusOr<std::string> content = ReadSourceFile(path, shown);
  if (absl::IsNotFound(content.status())) return false;
  if (content.ok()) {
    Apply(context, shown, *std::move(content));
  } else if (named_by.empty() && absl::IsPermissionDenied(content.status())) {
    // Another user's home, as after `su` without a dash: nobody asked for what is in it.
    context.Note(std::string(content.status().message()) +
                 "; no environment file is read from there");
    return false;
  } else {
    context.findings.AddFlag(named_by.empty() ? "environment file" : named_by,
                             std::string(content.status().message()));
  }
  return true;
}

void ReadFiles(ResolveContext& context) {
  namespace fs = std::filesystem;
  if (const auto given = context.values.Text("env-file")) {
    if (ReadIfThere(context, "--env-file", context.Absolute(*given), *given)) return;
    context.findings.AddFlag("--env-file",
                             "there is no file " + Quoted(*given) + "; check the path");
    return;
  }
  const char* variable = context.machine.Variable("DS_ENV_FILE");
  const bool named = variable != nullptr && *variable != '\0';
  const std::string named_by = named ? "DS_ENV_FILE" : "";
  const std::string name = named ? variable : ".deepspeed_env";
  const char* home = context.machine.Variable("HOME");
  std::string first;
  if (home != nullptr && *home != '\0') first = (fs::path(home) / name).string();
  const std::string second = context.Absolute(name);
  bool found = false;
  if (!first.empty() && first != second) found = ReadIfThere(context, named_by, first, first);
  found = ReadIfThere(context, named_by, second, name) || found;
  if (named && !found) {
    const bool everywhere = first.empty() || first == second;
    context.findings.AddFlag(
        "DS_ENV_FILE", "there is no file " + Quoted(name) +
                           (everywhere ? "" : ", neither in the home folder nor in this one") +
                           "; correct the variable or unset it");
  }
}

bool IsSet(const proto::JobSpec& job, const std::string& name) {
  for (const proto::EnvVar& variable : job.environment()) {
    if (variable.name() == name) return true;
  }
  return false;
}

// torchrun's, but one for all ranks: as soon as one node has several of them.
void SetWhereUnset(ResolveContext& context) {
  proto::JobSpec& job = context.resolved.job;
  if (!IsSet(job, "TORCH_NCCL_ASYNC_ERROR_HANDLING")) {
    SetVariable(job, "TORCH_NCCL_ASYNC_ERROR_HANDLING", "1");
  }
  const bool shared = std::any_of(job.nodes().begin(), job.nodes().end(),
                                  [](const proto::NodeSpec& n) { return n.slots_size() > 1; });
  if (!shared || IsSet(job, "OMP_NUM_THREADS")) return;
  SetVariable(job, "OMP_NUM_THREADS", "1");
  context.Note(
      "OMP_NUM_THREADS is not set, and ranks share a node: every rank gets OMP_NUM_THREADS=1, as "
      "under torchrun; set it to what is best for your program");
}

}  // namespace

void ResolveEnvironment(ResolveContext& context) {
  proto::JobSpec& job = context.resolved.job;
  for (const std::string& entry : context.machine.environment) {
    const size_t equals = entry.find('=', 1);  // a name may begin with '='
    if (equals == std::string::npos) continue;
    proto::EnvVar& variable = *job.add_environment();
    variable.set_name(entry.substr(0, equals));
    variable.set_value(entry.substr(equals + 1));
  }
  ReadFiles(context);
  if (!context.is_train()) SetWhereUnset(context);
}

}  // namespace dsrun::launcher
