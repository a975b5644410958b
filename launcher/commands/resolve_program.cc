// Which file is started for PROGRAM, and that it can be.

#include <unistd.h>

#include <filesystem>
#include <sstream>

#include "common/config/nearest.h"
#include "launcher/commands/resolve_parts.h"

namespace dsrun::launcher {
namespace {

namespace fs = std::filesystem;

bool IsExecutableFile(const std::string& path) {
  std::error_code error;
  return fs::is_regular_file(path, error) && ::access(path.c_str(), X_OK) == 0;
}

// As the shell would find it: through PATH where the name has no slash.
std::string FindExecutable(const ResolveContext& context, const std::string& name) {
  if (name.find('/') != std::string::npos) return context.Absolute(name);
  const char* path = context.machine.Variable("PATH");
  std::stringstream folders(path == nullptr ? "/usr/local/bin:/usr/bin:/bin" : path);
  std::string folder;
  while (std::getline(folders, folder, ':')) {
    const std::string candidate = context.Absolute((fs::path(folder) / name).string());
    if (IsExecutableFile(candidate)) return candidate;
  }
  return "";
}

std::string WhyNot(const ResolveContext& context, const std::string& name,
                   const std::string& path) {
  std::error_code error;
  const bool python = name.size() > 3 && name.substr(name.size() - 3) == ".py";
  if (python && fs::is_regular_file(context.Absolute(name), error)) {
    return Quoted(name) + " is not executable; run it as `python3 -u " + name + " ...`";
  }
  if (path.empty()) {
    const bool here = fs::is_regular_file(context.Absolute(name), error);
    return "there is no program " + Quoted(name) + " in PATH" +
           (here ? "; there is one in this folder: write ./" + name
                 : DidYouMean(name, {"train", "checkpoint", "help"}));
  }
  if (!fs::exists(path, error)) return "there is no file " + Quoted(name) + "; check the path";
  if (fs::is_directory(path, error)) return Quoted(name) + " is a folder, not a program";
  return Quoted(name) + " is not executable; chmod +x makes it so";
}

}  // namespace

void ResolveProgram(ResolveContext& context) {
  const std::string& name = context.line.program.front();
  const std::string path = name.empty() ? "" : FindExecutable(context, name);
  if (path.empty() || !IsExecutableFile(path)) {
    context.findings.AddFlag("PROGRAM", WhyNot(context, name, path));
  }
  proto::ProgramSpec& program = *context.resolved.job.mutable_program();
  program.set_executable(path);
  for (const std::string& arg : context.line.program) program.add_argv(arg);
  program.set_append_local_rank(context.values.Switch("append-local-rank"));
}

}  // namespace dsrun::launcher
