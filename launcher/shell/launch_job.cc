#include "launcher/shell/launch_job.h"

#include <signal.h>

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "common/base/clock.h"
#include "common/base/file_system.h"
#include "common/base/logging.h"
#include "common/base/mutex.h"
#include "common/base/proto_duration.h"
#include "common/base/status_macros.h"
#include "common/rpc/secrets.h"
#include "launcher/console/console.h"
#include "launcher/console/report_text.h"
#include "launcher/coordinator/coordinator.h"
#include "launcher/shell/grpc_agent_client.h"
#include "launcher/shell/journal.h"
#include "launcher/shell/metrics_writer.h"
#include "launcher/shell/run_folder.h"
#include "launcher/shell/runner.h"
#include "launcher/starters/local_starter.h"
#include "launcher/starters/running_starter.h"

namespace dsrun::launcher {
namespace {

constexpr size_t kTokenBytes = 32;
constexpr int kExitBadInput = 90;  // docs/errors.md

// The status with what to do about it; a good result as it is.
absl::Status OrElse(const absl::Status& status, std::string_view what_next) {
  if (status.ok()) return status;
  return absl::Status(status.code(),
                      absl::StrCat(std::string(status.message()), "; ", std::string(what_next)));
}

template <typename T>
absl::StatusOr<T> OrElse(absl::StatusOr<T> result, std::string_view what_next) {
  if (result.ok()) return result;
  return OrElse(result.status(), what_next);
}

bool WantsOwnAgent(const proto::NodeSpec& node) { return node.agent_port() == 0; }

// Both kinds of agents, of which a job may have either or a mixture.
struct Starters {
  std::unique_ptr<LocalStarter> own;
  std::unique_ptr<RunningStarter> running;

  static absl::StatusOr<Starters> Create(const proto::JobSpec& job, const LaunchOptions& options,
                                         const RunFolder& folder) {
    Starters starters;
    const absl::Duration lease =
        PositiveOr(job.limits().lease(), LocalStarter::Options().first_job_within);
    for (const proto::NodeSpec& node : job.nodes()) {
      if (WantsOwnAgent(node) && starters.own == nullptr) {
        ASSIGN_OR_RETURN(starters.own, LocalStarter::Create({.agent_binary = options.agent_binary,
                                                             .run_dir = job.run_dir(),
                                                             .log_folder = folder.logs,
                                                             .first_job_within = lease}));
      } else if (!WantsOwnAgent(node) && starters.running == nullptr) {
        ASSIGN_OR_RETURN(starters.running,
                         RunningStarter::Create({.cluster_key_file = options.cluster_key_file}));
      }
    }
    return starters;
  }

  AgentStarter& Of(const proto::NodeSpec& node) const {
    if (WantsOwnAgent(node)) return *own;
    return *running;
  }

  void EndAll(absl::Duration grace) {
    if (own != nullptr) own->EndAll(grace);
    if (running != nullptr) running->EndAll(grace);
  }
};

// Everything that one job needs, in the order in which it is built; torn down in reverse.
class Launch {
 public:
  Launch(const proto::JobSpec& job, const LaunchOptions& options)
      : job_(job),
        options_(options),
        config_(ConfigFromJob(job)),
        console_(job, {.progress_line = options.progress_line,
                       .quiet_ranks = options.quiet_ranks,
                       .output = {}}) {
    if (!options.memory_check) config_.memory.reset();
  }

  int Run() {
    const absl::StatusOr<RunResult> result = RunToEnd();
    if (!result.ok()) {
      console_.Finish(
          absl::StrCat("dsrun: cannot start the job: ", std::string(result.status().message()),
                       "; nothing was started\n"),
          /*failed=*/true);
      return absl::IsInternal(result.status()) ? kExitFailed : kExitBadInput;
    }
    WriteReport(*result);
    return result->exit_code;
  }

  void OnSignal(int signal) {
    MutexLock lock(stop_mu_);
    console_.Say(absl::StrCat("got ", strsignal(signal), StopWords(stops_asked_++)));
    if (runner_ != nullptr) runner_->Post(OperatorStop{});
  }

 private:
  // Errors: only before anything was started.
  absl::StatusOr<RunResult> RunToEnd() {
    FileSystem& fs = FileSystem::Real();
    ASSIGN_OR_RETURN(folder_, OrElse(PrepareRunFolder(fs, job_.run_dir()),
                                     "choose another folder with --run-dir"));
    // The first file of all: it refuses the folder of another job, whose files stay as they are.
    ASSIGN_OR_RETURN(journal_, OrElse(Journal::Create(folder_.journal, config_, {}),
                                      "choose another folder with --run-dir"));
    if (!job_.train().metrics_path().empty()) {
      ASSIGN_OR_RETURN(metrics_, OrElse(MetricsWriter::Create(fs, job_.train().metrics_path()),
                                        "choose another file with --metrics"));
    }
    if (!options_.probe_path.empty()) {
      RETURN_IF_ERROR(
          OrElse(PrepareSaveFolder(fs, FolderOf(options_.probe_path), job_.run_as_user()),
                 "choose another folder with --save"));
    }
    ASSIGN_OR_RETURN(const ProbeFile probe, OrElse(ProbeFile::Write(fs, options_.probe_path),
                                                   "choose another folder with --save"));
    ASSIGN_OR_RETURN(Starters starters, Starters::Create(job_, options_, folder_));

    GrpcAgentClient client;
    RunResult result;
    {
      Runner runner(Coordinator(config_), DoorsTo(client, starters), OptionsOf(probe));
      HandStopsTo(&runner);
      result = runner.Run();
      HandStopsTo(nullptr);
    }
    starters.EndAll(kAgentGrace);
    return result;
  }

  // null: the runner has ended. What was asked before there was one is not lost.
  void HandStopsTo(Runner* runner) {
    MutexLock lock(stop_mu_);
    runner_ = runner;
    ended_ = runner == nullptr;
    for (int i = 0; runner != nullptr && i < stops_asked_; ++i) runner->Post(OperatorStop{});
  }

  const char* StopWords(int asked_before) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(stop_mu_) {
    if (ended_) return ": the job has ended, its agents are being ended";
    if (asked_before > 0) return ": stopping now";
    return job_.has_train() ? ": checkpoint, then stop; once more stops now"
                            : ": stopping the ranks; once more stops now";
  }

  Runner::Doors DoorsTo(GrpcAgentClient& client, const Starters& starters) {
    Runner::Doors doors;
    doors.clock = &Clock::Real();
    doors.client = &client;
    doors.starter = [this, &starters](NodeId node) -> AgentStarter& {
      return starters.Of(job_.nodes(node.value()));
    };
    doors.record = [this](absl::Duration now, const Event& event, const Coordinator& core) {
      return journal_->Append(now, Clock::Real().WallNow(), event, core);
    };
    doors.commit = [this] { return journal_->Commit(); };
    doors.tell = [this](const OperatorEvent& event) { Tell(event); };
    doors.output = [this](NodeId node, const proto::LogChunk& chunk) {
      console_.RankOutput(node, chunk);
    };
    return doors;
  }

  Runner::Options OptionsOf(const ProbeFile& probe) const {
    Runner::Options options;
    options.job = job_;
    options.job_token = RandomBytes(kTokenBytes);
    options.probe_path = probe.path();
    options.probe_content = probe.content();
    options.heartbeat_interval =
        PositiveOr(job_.limits().heartbeat_interval(), options.heartbeat_interval);
    options.agent_grace = kAgentGrace;
    return options;
  }

  void Tell(const OperatorEvent& event) {
    console_.Tell(event);
    const auto* progress = std::get_if<Progress>(&event);
    if (progress == nullptr || metrics_ == nullptr) return;
    const absl::Status written = metrics_->Write(*progress);
    if (written.ok()) return;
    console_.Say(absl::StrCat("warning: metrics are not written any more: ",
                              std::string(written.message())));
    metrics_.reset();
  }

  void WriteReport(const RunResult& result) {
    const ReportContext context{.job = job_,
                                .log_folder = folder_.logs,
                                .steady_now = result.steady_at_end,
                                .wall_now = result.wall_at_end};
    const absl::Status written =
        WriteFileAtomically(FileSystem::Real(), folder_.report, folder_.report + ".new",
                            ReportJson(result.report, context), FileSystem::IfExists::kReplace);
    if (!written.ok()) {
      console_.Say(absl::StrCat("warning: no report.json: ", std::string(written.message())));
    }
    const bool quiet =
        result.exit_code == 0 && job_.has_program() && result.report.incidents.empty();
    console_.Finish(quiet ? "" : ReportScreen(result.report, context),
                    /*failed=*/result.exit_code != 0);
  }

  // For agents of our own, from TERM to KILL. Longer than an agent that is stuck takes to be
  // noticed and ended by its keeper, which sweeps better than we can from here.
  static constexpr absl::Duration kAgentGrace = absl::Seconds(10);

  const proto::JobSpec& job_;
  const LaunchOptions& options_;
  CoordinatorConfig config_;
  RunFolder folder_;
  std::unique_ptr<MetricsWriter> metrics_;
  std::unique_ptr<Journal> journal_;

  Mutex stop_mu_;
  int stops_asked_ ABSL_GUARDED_BY(stop_mu_) = 0;
  Runner* runner_ ABSL_GUARDED_BY(stop_mu_) = nullptr;
  bool ended_ ABSL_GUARDED_BY(stop_mu_) = false;

  Console console_;
};

// Writing to a pipe that nobody reads must not end a job; it comes back as EPIPE instead.
class IgnoreBrokenPipes {
 public:
  IgnoreBrokenPipes() {
    struct sigaction ignore = {};
    ignore.sa_handler = SIG_IGN;
    sigaction(SIGPIPE, &ignore, &previous_);
  }
  ~IgnoreBrokenPipes() { sigaction(SIGPIPE, &previous_, nullptr); }

 private:
  struct sigaction previous_;
};

}  // namespace

int LaunchJob(const proto::JobSpec& job, const LaunchOptions& options, OperatorStops& stops) {
  const IgnoreBrokenPipes ignore;
  Launch launch(job, options);
  stops.HandTo([&launch](int signal) { launch.OnSignal(signal); });
  const int code = launch.Run();
  // Only now: a second Ctrl-C while agents are still being ended must not leave them behind.
  stops.Over();
  return code;
}

}  // namespace dsrun::launcher
