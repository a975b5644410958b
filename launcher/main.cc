// dsrun: resolve what was typed, then run it. Only wires.

#include <signal.h>
#include <string.h>
#include <unistd.h>

#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/clock.h"
#include "common/base/counted.h"
#include "common/base/escaped.h"
#include "common/base/limits.h"
#include "common/base/logging.h"
#include "common/base/nonblocking_output.h"
#include "common/base/process_tree.h"
#include "common/base/stand_apart.h"
#include "common/base/start_signals.h"
#include "common/config/source_text.h"
#include "launcher/commands/checkpoint_command.h"
#include "launcher/commands/command_line.h"
#include "launcher/commands/config_file.h"
#include "launcher/commands/dry_run.h"
#include "launcher/commands/help.h"
#include "launcher/commands/machine.h"
#include "launcher/commands/plan_answer.h"
#include "launcher/commands/resolve.h"
#include "launcher/commands/resolve_plan.h"
#include "launcher/commands/result_output.h"
#include "launcher/commands/stop_flag.h"
#include "launcher/coordinator/events.h"
#include "launcher/shell/launch_job.h"
#include "launcher/shell/operator_stops.h"
#include "launcher/shell/signal_watch.h"

namespace dsrun::launcher {
namespace {

constexpr int kBadUsage = 90;  // docs/errors.md

int Refuse(const Findings& findings) {
  std::cerr << findings.Render();
  const auto count = static_cast<int64_t>(findings.errors().size());
  std::cerr << "dsrun: nothing was started (" << Counted(count, "finding") << ")\n";
  return kBadUsage;
}

int Launch(CommandLine line, std::vector<std::string> notes, Findings findings,
           OperatorStops& stops) {
  // First: what is missed without it would be reported as something else.
  if (const absl::Status proc = CheckProcIsMounted(); !proc.ok()) {
    std::cerr << "dsrun: " << std::string(proc.message()) << "; nothing was started\n";
    return kExitUnreachable;
  }
  if (const absl::Status kernel = CheckKernel(); !kernel.ok()) {
    std::cerr << "dsrun: " << std::string(kernel.message()) << "; nothing was started\n";
    return kExitUnreachable;
  }
  const Machine machine = ReadMachine(Clock::Real());
  const std::optional<ConfigFile> config = ConfigFile::Take(line, findings, notes);
  if (!config && ConfigFile::IsNamed(line.flags)) return Refuse(findings);
  Resolved resolved = Resolve(line, machine, findings);
  if (config) findings = config->PointedInto(findings);
  if (findings.has_errors()) return Refuse(findings);
  notes.insert(notes.end(), resolved.notes.begin(), resolved.notes.end());
  resolved.notes = notes;
  std::cerr << findings.Render();  // warnings
  for (const std::string& note : notes) std::cerr << "dsrun: " << Escaped(note, "\n\t") << "\n";
  if (resolved.dry_run) {
    std::cout << (resolved.json ? DryRunJson(resolved, machine) : DryRunText(resolved, machine));
    return 0;
  }
  LaunchOptions options;
  options.agent_binary = resolved.agent_binary;
  options.cluster_key_file = resolved.cluster_key_file;
  options.probe_path = resolved.probe_path;
  options.progress_line = resolved.progress_line;
  options.terminal = machine.stdout_is_terminal;
  options.quiet_ranks = resolved.quiet_ranks;
  options.run_dir_given = resolved.run_dir_given;
  options.memory_check = resolved.memory_check;
  return LaunchJob(resolved.job, options, stops);
}

int Plan(const CommandLine& line, std::vector<std::string> notes, Findings findings) {
  const Machine machine = ReadMachine(Clock::Real());
  const std::optional<PlanQuestion> question = ResolvePlan(line, machine, findings, notes);
  if (!question) return Refuse(findings);
  for (const std::string& note : notes) std::cerr << "dsrun: " << Escaped(note, "\n\t") << "\n";
  const PlanAnswer answer = AnswerPlan(*question);
  std::cout << (question->json ? PlanJson(answer) : PlanText(answer, machine.stdout_is_terminal));
  return 0;
}

// Never destroyed: a signal may come at the very end.
StopFlag& CheckpointStop() {
  static auto* const flag = new StopFlag();
  return *flag;
}

int Main(const std::vector<std::string>& args, OperatorStops& stops) {
  using Command = CommandLine::Command;
  Findings findings;
  std::vector<std::string> notes;
  const CommandLine line = ParseCommandLine(args, findings, notes);
  switch (line.command) {
    case Command::kHelp:
      if (findings.has_errors()) return Refuse(findings);
      std::cout << (line.help_markdown ? HelpMarkdown()
                    : line.help_plan   ? PlanHelpText()
                                       : HelpText(line.help_train));
      return 0;
    case Command::kPlan:
      return Plan(line, std::move(notes), std::move(findings));
    case Command::kVersion:
      std::cout << VersionText();
      return 0;
    case Command::kTrain:
    case Command::kProgram:
      return Launch(line, std::move(notes), std::move(findings), stops);
    case Command::kCheckpoint:
      if (findings.has_errors()) return Refuse(findings);
      stops.HandTo([](int signal, bool) {
        if (signal == SIGTSTP) return SignalWatch::ActByDefault(signal);
        if (signal == SIGWINCH || !CheckpointStop().MayEndNow()) return;
        const std::string words = std::string("dsrun: got ") + strsignal(signal) + ": stopped\n";
        WriteLastWords(STDERR_FILENO, words.data(), words.size());
        _exit(kExitCancelled);
      });
      return CheckpointCommand(line.checkpoint, CheckpointStop());
    case Command::kNone:
      return Refuse(findings);
  }
  return kBadUsage;
}

}  // namespace
}  // namespace dsrun::launcher

int main(int argc, char** argv) {
  using dsrun::launcher::OperatorStops;
  dsrun::StandApart();
  dsrun::PrepareForLimits("dsrun");
  // Before anything else, and never destroyed: at no moment does a signal just kill.
  static auto* const stops =
      new absl::StatusOr<std::unique_ptr<OperatorStops>>(OperatorStops::Create());
  if (!stops->ok()) {
    std::cerr << "dsrun: " << std::string(stops->status().message()) << "\n";
    return dsrun::kExitLimit;
  }
  dsrun::TakeOverSignals();
  dsrun::InitLogging(argv[0], "dsrun");
  dsrun::launcher::ResultOutput output;
  const int code = dsrun::launcher::Main(std::vector<std::string>(argv + 1, argv + argc), ***stops);
  const absl::Status written = output.Finish();
  if (written.ok()) return code;
  std::cerr << "dsrun: " << std::string(written.message()) << "\n";
  return code == 0 ? dsrun::launcher::kExitOutputLost : code;
}
