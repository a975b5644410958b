// Files that the job writes under a name that was given: --metrics and --trace. What is there
// already may be a text that nobody has a second copy of; and what the job writes must not become
// its text. Files of earlier jobs are gone on with or set aside (launcher/shell/set_aside.h).

#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "common/base/file_system.h"
#include "launcher/commands/resolve_parts.h"

namespace dsrun::launcher {
namespace {

// How the files of earlier jobs begin (launcher/shell/metrics_writer.cc, worker/engine/trace.cc).
constexpr std::string_view kMetricsBegin = "{\"step\":";
constexpr std::string_view kTraceBegin = "[{\"ph\":\"M\",\"name\":\"thread_name\"";

struct Input {
  std::string what;  // "the text of --data"
  std::string path;
};

std::vector<Input> InputsOf(const ResolveContext& context, const std::vector<CorpusFile>& corpus) {
  std::vector<Input> inputs;
  for (const CorpusFile& file : corpus) inputs.push_back({"a text of --data", file.path});
  for (const char* flag : {"hostfile", "env-file", "cluster-key-file"}) {
    if (const auto path = context.values.Text(flag)) {
      inputs.push_back({std::string("the file of --") + flag, context.Absolute(*path)});
    }
  }
  inputs.push_back({"the hostfile", "/job/hostfile"});
  inputs.push_back({"the agent program", context.resolved.agent_binary});
  inputs.push_back({"dsrun itself", "/proc/self/exe"});
  const std::string& run = context.resolved.job.run_dir();
  for (const char* own : {"/journal.db", "/report.json"}) {
    inputs.push_back({"a file that the job writes itself", run + own});
  }
  return inputs;
}

bool IsSameFile(const std::string& a, const struct stat* a_info, const std::string& b) {
  struct stat b_info;
  if (a == b) return true;
  return a_info != nullptr && stat(b.c_str(), &b_info) == 0 && a_info->st_dev == b_info.st_dev &&
         a_info->st_ino == b_info.st_ino;
}

bool BeginsWith(const std::string& path, std::string_view begin) {
  std::ifstream file(path, std::ios::binary);
  std::string got(begin.size(), '\0');
  file.read(got.data(), static_cast<std::streamsize>(got.size()));
  return file.gcount() == static_cast<std::streamsize>(begin.size()) && got == begin;
}

// Why `path` must not be taken; empty: it may.
std::string WhyNot(const std::vector<Input>& inputs, const std::string& path,
                   std::string_view begin, const std::string& what) {
  struct stat info;
  const bool there = stat(path.c_str(), &info) == 0;  // through links: that is what is emptied
  for (const Input& input : inputs) {
    if (!IsSameFile(path, there ? &info : nullptr, input.path)) continue;
    const std::string other = input.path == path ? "" : " (" + input.path + ")";
    return "is " + input.what + other + ", which would be written over";
  }
  if (!there || !S_ISREG(info.st_mode) || info.st_size == 0 || BeginsWith(path, begin)) return "";
  return "holds " + std::to_string(info.st_size) + " bytes that are no " + what +
         " of an earlier job";
}

// Where new text of --data would be read from: the folders that are given, and those that links in
// them lead to, by their real paths.
class TextFolders {
 public:
  TextFolders(const proto::TrainSpec& train, const std::vector<CorpusFile>& corpus) {
    std::string last;
    for (const std::string& path : train.data_paths()) {
      std::error_code error;
      if (!std::filesystem::is_directory(path, error)) continue;  // a file alone
      Add(path, path);
      const std::string below = path.ends_with('/') ? path : path + "/";
      for (const CorpusFile& file : corpus) {
        const std::string folder = FolderOf(file.path);
        if (folder == last || !file.path.starts_with(below)) continue;
        Add(folder, path);
        last = folder;
      }
    }
  }

  // The folder of --data, as it was given, to which `path` would add text; empty: to none.
  std::string Holding(const std::string& path) const {
    std::error_code error;
    std::filesystem::path real = std::filesystem::weakly_canonical(path, error);
    if (error) return "";
    for (real = real.parent_path(); !real.empty(); real = real.parent_path()) {
      const auto found = folders_.find(real);
      if (found != folders_.end()) return found->second;
      if (real == real.parent_path()) break;
    }
    return "";
  }

 private:
  void Add(const std::string& folder, const std::string& given) {
    std::error_code error;
    const std::filesystem::path real = std::filesystem::canonical(folder, error);
    if (!error) folders_.emplace(real, given);
  }

  std::map<std::string, std::string> folders_;  // real path to the one that was given
};

}  // namespace

// A restart reads the text anew, and would find its own output in it.
void CheckOutputsAreNoText(ResolveContext& context, const std::vector<CorpusFile>& corpus) {
  const proto::TrainSpec& train = context.resolved.job.train();
  const TextFolders texts(train, corpus);
  const auto check = [&](const std::string& flag, const std::string& path) {
    const std::string folder = texts.Holding(path);
    if (folder.empty()) return;
    context.findings.AddFlag(flag, path + " is inside " + folder +
                                       " of --data, so it would be read as text when a rank "
                                       "starts again; name a place outside of it");
  };
  check("--run-dir", context.resolved.job.run_dir());
  if (context.values.Has("save")) check("--save", train.save_dir());
  if (context.values.Has("metrics")) check("--metrics", train.metrics_path());
  if (context.values.Has("trace")) check("--trace", train.trace_path());
}

void CheckOutputFiles(ResolveContext& context, const std::vector<CorpusFile>& corpus) {
  const proto::TrainSpec& train = context.resolved.job.train();
  std::vector<Input> inputs = InputsOf(context, corpus);
  const auto check = [&](const char* flag, const std::string& path, std::string_view begin,
                         const std::string& what) {
    if (path.empty()) return;
    const std::string name = std::string("--") + flag;
    const std::string why = WhyNot(inputs, path, begin, what);
    if (!why.empty()) {
      context.findings.AddFlag(name,
                               path + " " + why + "; name another file, or move that one away");
    }
    inputs.push_back({"the file of " + name, path});
  };
  check("metrics", train.metrics_path(), kMetricsBegin, "metrics");
  check("trace", train.trace_path(), kTraceBegin, "trace");
  struct stat info;
  if (!train.trace_path().empty() && stat(train.trace_path().c_str(), &info) == 0 &&
      !S_ISREG(info.st_mode) && !S_ISDIR(info.st_mode)) {
    context.findings.AddFlag("--trace", train.trace_path() +
                                            " is a device, pipe or socket, which a trace would "
                                            "take the place of; name a file");
  }
}

}  // namespace dsrun::launcher
