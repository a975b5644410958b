#include "launcher/shell/launch_job.h"

#include <poll.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include <algorithm>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "common/base/clock.h"
#include "common/base/counted.h"
#include "common/base/escaped.h"
#include "common/base/file_system.h"
#include "common/base/limits.h"
#include "common/base/logging.h"
#include "common/base/mutex.h"
#include "common/base/process_tree.h"
#include "common/base/proto_duration.h"
#include "common/base/status_macros.h"
#include "common/base/thread.h"
#include "common/rpc/secrets.h"
#include "launcher/console/console.h"
#include "launcher/console/output_writer.h"
#include "launcher/console/report_text.h"
#include "launcher/coordinator/coordinator.h"
#include "launcher/shell/grpc_agent_client.h"
#include "launcher/shell/job_files.h"
#include "launcher/shell/marker_keeper.h"
#include "launcher/shell/run_folder.h"
#include "launcher/shell/runner.h"
#include "launcher/shell/stop_requests.h"
#include "launcher/shell/unreported_commit.h"
#include "launcher/starters/local_starter.h"
#include "launcher/starters/running_starter.h"

namespace dsrun::launcher {
namespace {

constexpr size_t kTokenBytes = 32;
constexpr int kExitBadInput = 90;  // docs/errors.md

// What runs on this machine, at least. Threads that gRPC and the engine start when there is work
// for them come on top.
LimitNeeds NeedsOf(const proto::JobSpec& job) {
  constexpr int kOwnThreads = 15;    // beside main, signals and the console
  constexpr int kAskedAtOnce = 64;   // Runner::Options::most_asked_at_once
  constexpr int kAskThreads = 3;     // of a start, of what may hang of it, and of an end
  constexpr int kAgentThreads = 19;  // keeper and agent
  constexpr int kLogThreads = 1;     // of an agent, for each of its ranks
  constexpr int kWorkerThreads = 12;
  constexpr int kOwnDescriptors = 25;
  // Its connection and the pidfd of an agent of our own; and while one is started its pipe, its
  // key, its log and what is handed down of them.
  constexpr int kDescriptorsPerNode = 2;
  constexpr int kDescriptorsPerStart = 6;
  const int rank = job.has_train() ? kWorkerThreads + job.train().threads_per_rank() : 1;
  const int asked_at_once = std::min(kAskedAtOnce, job.nodes_size());
  LimitNeeds needs{.threads = kOwnThreads + kAskThreads * asked_at_once,
                   .descriptors = kOwnDescriptors,
                   .what = "this job"};
  needs.descriptors += kDescriptorsPerStart * asked_at_once;
  for (const proto::NodeSpec& node : job.nodes()) {
    needs.descriptors += kDescriptorsPerNode;
    if (node.agent_port() != 0) continue;
    needs.elsewhere += kAgentThreads + node.slots_size() * (rank + kLogThreads);
  }
  return needs;
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
        ASSIGN_OR_RETURN(
            starters.running,
            DoStep<std::unique_ptr<RunningStarter>>(
                JobFiles::Limits().step, "read the cluster key", options.cluster_key_file,
                "choose another file with --cluster-key-file", [file = options.cluster_key_file] {
                  return RunningStarter::Create({.cluster_key_file = file});
                }));
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
        shared_console_(
            std::make_shared<Console>(job, Console::Options{.progress_line = options.progress_line,
                                                            .terminal = options.terminal,
                                                            .quiet_ranks = options.quiet_ranks,
                                                            .output = {}})),
        files_(job, options.probe_path, [this](const std::string& line) { console_.Say(line); }) {
    config_.check_memory = options.memory_check;
  }

  int Run() {
    if (const absl::Status room = CheckLimits(NeedsOf(job_)); !room.ok()) {
      console_.Finish(
          absl::StrCat("dsrun: ", std::string(room.message()), "; nothing was started\n"),
          /*failed=*/true);
      return kExitLimit;
    }
    absl::StatusOr<RunResult> result = RunToEnd();
    if (!result.ok()) {
      console_.Finish(absl::StrCat("dsrun: cannot start the job: ",
                                   Escaped(std::string(result.status().message()), "\n\t"),
                                   "; nothing was started\n"),
                      /*failed=*/true);
      return absl::IsInternal(result.status()) ? kExitFailed : kExitBadInput;
    }
    const int exit_code = result->exit_code;
    const bool all_said = WriteReport(*std::move(result)) && !metrics_lost_;
    return exit_code == 0 && !all_said ? kExitOutputLost : exit_code;
  }

  void OnSignal(int signal, bool by_key) {
    if (signal == SIGTSTP) return RefusePause();
    if (signal == SIGWINCH) return console_.Resized();
    MutexLock lock(stop_mu_);
    if (job_.has_program() && (signal == SIGUSR1 || signal == SIGUSR2)) {
      return PassOn(signal);
    }
    if (!stops_.Take(Clock::Real().SteadyNow(), signal == SIGHUP, by_key)) return;
    console_.Say(absl::StrCat("got ", strsignal(signal), StopWords()));
    if (runner_ != nullptr) runner_->Post(OperatorStop{});
    if (ended_ && ++stops_after_end_ == 2) EndAtOnce();
  }

 private:
  // All threads would be stopped, those that the job lives by, too.
  void RefusePause() {
    console_.Say(absl::StrCat(
        "Ctrl-Z is not taken: while dsrun is stopped nobody coordinates the job, and its agents "
        "end it after ",
        absl::FormatDuration(config_.lease), " (--lease). Ctrl-C ",
        job_.has_train() ? "saves a checkpoint and stops" : "stops the ranks",
        "; to keep the terminal free, start dsrun in the background (dsrun ... &)"));
  }

  // Errors: only before anything was started.
  absl::StatusOr<RunResult> RunToEnd() {
    absl::StatusOr<Starters> prepared = Prepare();
    if (!prepared.ok()) {
      files_.TakeBack();
      return prepared.status();
    }
    Starters& starters = *prepared;
    ProbeFile& probe = files_.probe();
    GrpcAgentClient client;
    RunResult result;
    {
      const MarkerKeeper marker(
          LookForMarker(files_.save_lock().fd(), NameOf(probe.path()), probe.content()),
          [this](const std::string& line) { console_.Say(line); });
      Runner runner(Coordinator(config_), DoorsTo(client, starters), OptionsOf(probe));
      HandStopsTo(runner);
      result = runner.Run();
      RunnerEnded(result.exit_code);
      runner.EndSessions();
      starters.EndAll(kAgentGrace);  // also the starts under way, for which the runner waits
    }
    FinishMetrics();
    if (const absl::Status removed = probe.Remove(ProbeFile::kRemoveWithin); !removed.ok()) {
      console_.Say(absl::StrCat("warning: ", std::string(removed.message())));
    }
    return result;
  }

  // First everything that can refuse, then what leaves something for good: files of earlier jobs
  // that are set aside, and `latest`.
  absl::StatusOr<Starters> Prepare() {
    RETURN_IF_ERROR(files_.Claim(config_));
    ASSIGN_OR_RETURN(Starters starters, Starters::Create(job_, options_, files_.folder()));
    RETURN_IF_ERROR(files_.MakeRoom());
    return starters;
  }

  static std::string NameOf(const std::string& path) {
    return path.substr(path.rfind('/') + 1);  // npos + 1 is 0
  }

  // What was asked before there was a runner is not lost.
  void HandStopsTo(Runner& runner) {
    MutexLock lock(stop_mu_);
    runner_ = &runner;
    for (int i = 0; i < stops_.count(); ++i) runner.Post(OperatorStop{});
  }

  void RunnerEnded(int exit_code) {
    MutexLock lock(stop_mu_);
    runner_ = nullptr;
    ended_ = true;
    exit_code_ = exit_code;
  }

  void PassOn(int signal) ABSL_EXCLUSIVE_LOCKS_REQUIRED(stop_mu_) {
    if (runner_ != nullptr) return runner_->Post(OperatorSignal{signal});
    console_.Say(absl::StrCat("got ", strsignal(signal), ": no rank is running to pass it on to"));
  }

  // The operator has no patience with what still goes on after the end of the job, and something
  // may be stuck there for good. The usual way out is the faster one as soon as nothing of the job
  // is left; if it is not, this one is taken.
  void EndAtOnce() ABSL_EXCLUSIVE_LOCKS_REQUIRED(stop_mu_) {
    // The usual way out may be through with this object while the thread is not.
    StartThreadOrEnd("the end", [code = exit_code_, born_before = born_before_,
                                 console = shared_console_] {
      born_before.KillOurDescendants(kLastSweep);
      poll(nullptr, 0, static_cast<int>(absl::ToInt64Milliseconds(kLastSweep)));
      console->Flush(kFlushTime);
      FlushLog();
      _exit(code);
    }).detach();
  }

  const char* StopWords() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(stop_mu_) {
    if (ended_) {
      return stops_after_end_ == 0
                 ? ": the job has ended, its agents are being ended; once more ends dsrun at once"
                 : ": ending at once";
    }
    if (stops_.count() > 1) return ": stopping now";
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
      files_.journal().Append(now, Clock::Real().WallNow(), event, core);
    };
    doors.commit = [this](bool announces) { return files_.journal().Commit(/*urgent=*/announces); };
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
    if (progress == nullptr || files_.metrics() == nullptr) return;
    const absl::Status written = files_.metrics()->Write(*progress);
    if (!written.ok()) console_.Say(absl::StrCat("warning: ", std::string(written.message())));
  }

  void FinishMetrics() {
    if (files_.metrics() == nullptr) return;
    const absl::Status written = files_.metrics()->Finish();
    if (written.ok()) return;
    console_.Say(absl::StrCat("warning: ", std::string(written.message())));
    metrics_lost_ = true;
  }

  // A job that ended well has reported its last checkpoint; one that began nothing has none.
  bool AddUnreportedCommit(Report& report) const {
    if (!job_.has_train() || report.exit_code == 0 || report.generations.empty()) return false;
    const std::optional<UnreportedCommit> found = FindUnreportedCommitWithin(
        kLookTime, FileSystem::Real(), job_.train().save_dir(), job_.job_id(), report.manifest);
    if (!found) return false;
    report.manifest = found->manifest;
    report.checkpoint_step = found->step;
    return true;
  }

  // On the screen and in report.json. False: of that, or of what the ranks said, something was lost
  // that somebody misses.
  bool WriteReport(RunResult result) {
    const bool unreported = AddUnreportedCommit(result.report);
    ReportContext context{.job = job_,
                          .log_folder = files_.folder().logs,
                          .run_dir_given = options_.run_dir_given,
                          .commit_unreported = unreported,
                          .steady_now = result.steady_at_end,
                          .wall_now = result.wall_at_end};
    const absl::Status written =
        WriteReportFile(files_.folder().report, ReportJson(result.report, context), kReportTime);
    if (!written.ok()) {
      console_.Say(absl::StrCat("warning: no report.json: ", std::string(written.message())));
    }
    const bool failed = result.exit_code != 0;
    const int screen = failed ? STDERR_FILENO : STDOUT_FILENO;
    context.terminal = isatty(screen) == 1;
    context.columns = RowColumns(screen);
    const bool quiet = !failed && job_.has_program() && result.report.incidents.empty();
    const OutputWriter::Loss loss =
        console_.Finish(quiet ? "" : ReportScreen(result.report, context), failed);
    // One that the file server may still be at is not written over.
    if (loss.lines == 0 || absl::IsDeadlineExceeded(written)) return written.ok();
    // Where the screen cannot say it: the report once more.
    context.screen_lines_lost = loss.lines;
    context.screen_lost_why = loss.why;
    const absl::Status again =
        WriteReportFile(files_.folder().report, ReportJson(result.report, context), kReportTime);
    LOG_IF(ERROR, !again.ok()) << "report.json does not say that " << Counted(loss.lines, "line")
                               << " of the screen were lost (" << loss.why << "): " << again;
    return again.ok() && !loss.failed;
  }

  // For agents of our own, from TERM to KILL. Longer than an agent that is stuck takes to be
  // noticed and ended by its keeper, which sweeps better than we can from here.
  static constexpr absl::Duration kAgentGrace = absl::Seconds(10);
  static constexpr absl::Duration kLastSweep = absl::Seconds(2);
  static constexpr absl::Duration kFlushTime = absl::Milliseconds(200);
  static constexpr absl::Duration kReportTime = absl::Seconds(2);
  static constexpr absl::Duration kLookTime = absl::Seconds(5);  // for a commit after the end

  const proto::JobSpec& job_;
  const LaunchOptions& options_;
  const BornBefore born_before_ = BornBefore::Look();
  CoordinatorConfig config_;
  bool metrics_lost_ = false;

  Mutex stop_mu_;
  StopRequests stops_ ABSL_GUARDED_BY(stop_mu_);
  int stops_after_end_ ABSL_GUARDED_BY(stop_mu_) = 0;
  int exit_code_ ABSL_GUARDED_BY(stop_mu_) = 0;  // once ended_
  Runner* runner_ ABSL_GUARDED_BY(stop_mu_) = nullptr;
  bool ended_ ABSL_GUARDED_BY(stop_mu_) = false;

  const std::shared_ptr<Console> shared_console_;
  Console& console_ = *shared_console_;
  JobFiles files_;
};

// What must not end or stop a job: writing to a pipe that nobody reads comes back as EPIPE, and a
// process in the background writes to its terminal all the same (`stty tostop`), for a coordinator
// that is stopped loses its job.
class IgnoreSignals {
 public:
  IgnoreSignals() {
    struct sigaction ignore = {};
    ignore.sa_handler = SIG_IGN;
    for (size_t i = 0; i < std::size(kSignals); ++i) sigaction(kSignals[i], &ignore, &previous_[i]);
  }
  ~IgnoreSignals() {
    for (size_t i = 0; i < std::size(kSignals); ++i) {
      sigaction(kSignals[i], &previous_[i], nullptr);
    }
  }

 private:
  static constexpr int kSignals[] = {SIGPIPE, SIGTTOU, SIGTTIN};
  struct sigaction previous_[std::size(kSignals)];
};

}  // namespace

int LaunchJob(const proto::JobSpec& job, const LaunchOptions& options, OperatorStops& stops) {
  const IgnoreSignals ignore;
  Launch launch(job, options);
  stops.HandTo([&launch](int signal, bool by_key) { launch.OnSignal(signal, by_key); });
  const int code = launch.Run();
  // Only now: a second Ctrl-C while agents are still being ended must not leave them behind.
  stops.Over(code);
  return code;
}

}  // namespace dsrun::launcher
