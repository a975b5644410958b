#include "agent/dsagent_flags.h"

#include <unistd.h>

#include <charconv>
#include <filesystem>
#include <map>
#include <optional>
#include <system_error>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "common/base/time_text.h"
#include "common/rpc/loopback.h"

namespace dsrun::agent {
namespace {

// Digits and nothing else, as dsrun reads its numbers. Below 3 are input, output and errors, which
// have another use here.
bool ParseDescriptor(const std::string& text, int* number) {
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, *number);
  return error == std::errc() && stop == end && *number > STDERR_FILENO;
}

absl::Status MakeAbsolute(const std::string& flag, std::string& path) {
  if (path.empty() || path.front() == '/') return absl::OkStatus();
  std::error_code error;
  const std::filesystem::path here = std::filesystem::current_path(error);
  if (error) {
    return absl::InvalidArgumentError(
        absl::StrCat(flag, ": \"", path, "\" is relative, and the present folder is not known (",
                     error.message(), "); give the whole path"));
  }
  path = (here / path).lexically_normal().string();
  return absl::OkStatus();
}

}  // namespace

const char kDsagentUsage[] =
    "usage: dsagent (--cluster-key-file FILE | --cluster-key-fd N) [flags]\n"
    "  --listen ADDRESS         numeric loopback HOST:PORT, port 0: any (default 127.0.0.1:0); or\n"
    "                           unix:PATH, for this user and root alone\n"
    "  --cluster-key-file FILE  mode 0600: the key that admits a job\n"
    "  --cluster-key-fd N       the same from an inherited descriptor\n"
    "  --ready-fd N             gets \"PORT\\n\" (of a unix socket 0) when the agent listens\n"
    "  --run-dir DIR            where logs go, a folder a job (default: as the job says)\n"
    "  --worker-binary FILE     dsworker (default: beside dsagent)\n"
    "  --socket-dir DIR         private and empty; removed at the end (default: made in $TMPDIR or "
    "/tmp)\n"
    "  --one-job                exit after the first job\n"
    "  --first-job-within TIME  with --one-job: exit when none has come by then (default 30s)\n"
    "A signal to stop ends an agent without a job (with --one-job it goes on waiting for that\n"
    "job); with one, the job's coordinator decides. A second one, 0.3 s or more after the first,\n"
    "ends everything.\n"
    "Exit codes: 0 over, 1 cannot start, 90 bad usage or key, 98 a limit (ulimit) was met, 111 "
    "the\n"
    "agent was stopped, 128 + n the agent was ended by signal n; nothing is left behind.\n";

absl::StatusOr<DsagentFlags> ParseDsagentFlags(const std::vector<std::string>& arguments) {
  DsagentFlags flags;
  const std::map<std::string, std::string*> texts = {
      {"--listen", &flags.listen},   {"--cluster-key-file", &flags.cluster_key_file},
      {"--run-dir", &flags.run_dir}, {"--worker-binary", &flags.worker_binary},
      {"--role", &flags.role},       {"--socket-dir", &flags.socket_dir},
  };
  const std::map<std::string, int*> numbers = {{"--cluster-key-fd", &flags.cluster_key_fd},
                                               {"--ready-fd", &flags.ready_fd}};
  const std::map<std::string, absl::Duration*> durations = {
      {"--first-job-within", &flags.first_job_within}};
  const std::map<std::string, bool*> switches = {{"--one-job", &flags.one_job},
                                                 {"--help", &flags.help}};
  const auto known = [&](const std::string& name) {
    return texts.contains(name) || numbers.contains(name) || durations.contains(name) ||
           switches.contains(name);
  };
  for (size_t i = 0; i < arguments.size(); ++i) {
    const size_t equals = arguments[i].find('=');
    const std::string name = arguments[i].substr(0, equals);
    if (!known(name)) {
      return absl::InvalidArgumentError(
          absl::StrCat("unknown flag ", arguments[i], "; see dsagent --help"));
    }
    if (const auto it = switches.find(name); it != switches.end()) {
      if (equals != std::string::npos) {
        return absl::InvalidArgumentError(absl::StrCat(name,
                                                       ": is a switch and takes no value, got \"",
                                                       arguments[i].substr(equals + 1), "\""));
      }
      *it->second = true;
      continue;
    }
    // A flag that follows is the next flag rather than this one's value.
    const bool last = i + 1 == arguments.size();
    if (equals == std::string::npos && (last || known(arguments[i + 1]))) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, ": expected a value, got ", last ? "nothing" : arguments[i + 1]));
    }
    const std::string value =
        equals == std::string::npos ? arguments[++i] : arguments[i].substr(equals + 1);
    if (const auto text = texts.find(name); text != texts.end()) {
      if (value.empty()) {
        return absl::InvalidArgumentError(
            absl::StrCat(name, ": expected a value, got an empty one"));
      }
      *text->second = value;
    } else if (const auto duration = durations.find(name); duration != durations.end()) {
      const std::optional<absl::Duration> time = ParseTime(value);
      if (!time.has_value() || *time <= absl::ZeroDuration()) {
        return absl::InvalidArgumentError(absl::StrCat(
            name, ": expected a duration above zero such as 30s or 500ms, got \"", value, "\""));
      }
      *duration->second = *time;
    } else if (!ParseDescriptor(value, numbers.at(name))) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, ": expected a descriptor number from 3 up, got \"", value, "\""));
    }
  }
  for (const char* flag : {"--cluster-key-file", "--run-dir", "--worker-binary", "--socket-dir"}) {
    if (absl::Status made = MakeAbsolute(flag, *texts.at(flag)); !made.ok()) return made;
  }
  if (absl::StartsWith(flags.listen, kUnixScheme)) {
    std::string path = flags.listen.substr(kUnixScheme.size());
    if (absl::Status made = MakeAbsolute("--listen", path); !made.ok()) return made;
    flags.listen = absl::StrCat(kUnixScheme, path);
  }
  return flags;
}

}  // namespace dsrun::agent
