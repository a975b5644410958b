// The environment of the ranks: this process's own, then what the environment file says, then what
// torchrun sets for programs where the user set nothing.

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "common/config/env_file.h"
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

void ApplyFile(ResolveContext& context, const std::string& shown, const std::string& absolute) {
  std::ifstream in(absolute, std::ios::binary);
  std::ostringstream content;
  // A file that breaks off would be half an environment.
  if (!in.is_open() || !(content << in.rdbuf() || in.peek() == EOF) || in.bad()) {
    context.findings.AddFlag(
        "--env-file", "cannot read " + Quoted(shown) + "; check the path and its permissions");
    return;
  }
  const SourceText text(shown, content.str());
  for (const EnvSetting& setting : ParseEnvFile(text, context.findings)) {
    // A bare name means our own value, which is in the environment already.
    if (setting.value.has_value()) SetVariable(context.resolved.job, setting.name, *setting.value);
  }
}

// Whether it is there to be read. What cannot be looked at is not taken for missing: it is a
// finding.
bool IsFile(ResolveContext& context, const std::string& path) {
  std::error_code error;
  const bool is_file = std::filesystem::is_regular_file(path, error);
  if (!error || error == std::errc::no_such_file_or_directory ||
      error == std::errc::not_a_directory) {
    return is_file;
  }
  context.findings.AddFlag("--env-file", "cannot tell whether there is a file " + Quoted(path) +
                                             ": " + error.message() +
                                             "; make it readable or remove it");
  return false;
}

void ReadFiles(ResolveContext& context) {
  namespace fs = std::filesystem;
  if (const auto given = context.values.Text("env-file")) {
    const std::string path = context.Absolute(*given);
    std::error_code error;
    if (fs::is_regular_file(path, error)) {
      ApplyFile(context, *given, path);
    } else {
      context.findings.AddFlag("--env-file",
                               "there is no file " + Quoted(*given) + "; check the path");
    }
    return;
  }
  const char* named = context.machine.Variable("DS_ENV_FILE");
  const std::string name = named != nullptr && *named != '\0' ? named : ".deepspeed_env";
  const char* home = context.machine.Variable("HOME");
  std::string first;
  if (home != nullptr && *home != '\0') first = (fs::path(home) / name).string();
  const std::string second = context.Absolute(name);
  if (!first.empty() && first != second && IsFile(context, first)) {
    ApplyFile(context, first, first);
  }
  if (IsFile(context, second)) ApplyFile(context, name, second);
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
