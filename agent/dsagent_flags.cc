#include "agent/dsagent_flags.h"

#include <map>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"

namespace dsrun::agent {

const char kDsagentUsage[] =
    "usage: dsagent (--cluster-key-file FILE | --cluster-key-fd N) [flags]\n"
    "  --listen HOST:PORT       numeric loopback address; port 0: any (default 127.0.0.1:0)\n"
    "  --cluster-key-file FILE  mode 0600: the key that admits a job\n"
    "  --cluster-key-fd N       the same from an inherited descriptor\n"
    "  --ready-fd N             gets \"PORT\\n\" when the agent listens\n"
    "  --run-dir DIR            where logs go (default: as the job says)\n"
    "  --worker-binary FILE     dsworker (default: beside dsagent)\n"
    "  --socket-dir DIR         private and empty; removed at the end (default: made in /tmp)\n"
    "  --one-job                exit after the first job\n"
    "  --first-job-within TIME  with --one-job: exit when none has come by then (default 30s)\n"
    "A signal to stop ends an agent without a job; with one, the job's coordinator decides, and a\n"
    "second one, 0.3 s or more after the first, ends everything.\n"
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
  for (size_t i = 0; i < arguments.size(); ++i) {
    const size_t equals = arguments[i].find('=');
    const std::string name = arguments[i].substr(0, equals);
    if (const auto it = switches.find(name); it != switches.end() && equals == std::string::npos) {
      *it->second = true;
      continue;
    }
    const auto text = texts.find(name);
    const auto number = numbers.find(name);
    const auto duration = durations.find(name);
    if (text == texts.end() && number == numbers.end() && duration == durations.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat("unknown flag ", arguments[i], "; see dsagent --help"));
    }
    if (equals == std::string::npos && i + 1 == arguments.size()) {
      return absl::InvalidArgumentError(absl::StrCat(name, ": expected a value, got nothing"));
    }
    const std::string value =
        equals == std::string::npos ? arguments[++i] : arguments[i].substr(equals + 1);
    if (text != texts.end()) {
      *text->second = value;
    } else if (duration != durations.end()) {
      if (!absl::ParseDuration(value, duration->second) ||
          *duration->second <= absl::ZeroDuration()) {
        return absl::InvalidArgumentError(absl::StrCat(
            name, ": expected a duration above zero such as 30s or 500ms, got \"", value, "\""));
      }
    } else if (!absl::SimpleAtoi(value, number->second) || *number->second < 0) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, ": expected a descriptor number, got \"", value, "\""));
    }
  }
  return flags;
}

}  // namespace dsrun::agent
