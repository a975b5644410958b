// Supervisor, third part: how processes are started, on a thread that may hang.

#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "agent/supervisor.h"
#include "agent/worker_command.h"
#include "common/base/descriptor.h"
#include "common/base/logging.h"
#include "common/base/status_macros.h"

namespace dsrun::agent {
namespace {

// What a shell would say.
constexpr int kNotFound = 127;
constexpr int kNotExecuted = 126;

WorkerSpawnFailed FailedStart(Slot slot, const absl::Status& status) {
  return {.slot = slot,
          .exit_code = absl::IsNotFound(status) ? kNotFound : kNotExecuted,
          .why = std::string(status.message()),
          .node_lacked = absl::IsResourceExhausted(status) || absl::IsDeadlineExceeded(status)};
}

}  // namespace

// Owns all that a start needs: the supervisor may be gone before it comes back.
struct Supervisor::StartTask {
  std::shared_ptr<Start> start;
  std::shared_ptr<Ends> ends;
  std::shared_ptr<ProcessRunner> runner;
  Sweep sweep;
  ProcessSpec spec;
  LogPump::Pipe pipe;
  SteadyTime open_by;  // real time; the files of all starts are being opened at once
  std::optional<Descriptor> output;
  std::optional<Descriptor> bootstrap;
};

void Supervisor::Do(const SpawnWorker& action) {
  absl::StatusOr<std::shared_ptr<Start>> start = BeginStart(action);
  if (start.ok()) {
    LOG(INFO) << "slot " << action.slot << ": rank " << action.rank << " of generation "
              << action.plan.generation() << " is started";
    starts_[action.slot] = *std::move(start);
    return;
  }
  LOG(ERROR) << "slot " << action.slot << ": " << start.status();
  own_events_.push_back(FailedStart(action.slot, start.status()));
}

absl::StatusOr<std::shared_ptr<Supervisor::Start>> Supervisor::BeginStart(
    const SpawnWorker& action) {
  auto task = std::make_shared<StartTask>();
  task->start = std::make_shared<Start>();
  task->ends = ends_;
  task->runner = options_.runner;
  task->sweep = options_.sweep;
  Start& start = *task->start;
  start.slot = action.slot;
  start.began = options_.clock->SteadyNow();
  start.process.fate = std::make_shared<Fate>();
  start.process.tag =
      absl::StrCat(job_.job_id(), "/", options_.incarnation.value(), "/", next_tag_++);
  task->spec = BuildWorkerCommand({.job = job_,
                                   .plan = action.plan,
                                   .node = node_,
                                   .slot = action.slot,
                                   .rank = action.rank,
                                   .run_dir = options_.run_dir,
                                   .worker_binary = options_.worker_binary,
                                   .tag = start.process.tag,
                                   .node_has_gpus = options_.inventory.gpu_count() > 0});
  start.what = task->spec.executable;
  task->spec.user = options_.user;
  task->spec.still_wanted = [start = task->start] { return !start->unwanted; };
  if (!job_.has_program()) {
    ASSIGN_OR_RETURN(const int bootstrap, MakeBootstrap(action.slot));
    task->bootstrap.emplace(bootstrap);
    task->spec.fds.push_back({bootstrap, kBootstrapFd});
  }
  ASSIGN_OR_RETURN(task->pipe, logs_->Open(action.slot, action.rank, LogPath(action)));
  task->open_by = Clock::Real().SteadyNow() + task->pipe.open_within;
  start.process.log_id = task->pipe.id;
  task->output.emplace(task->pipe.write_fd);
  task->spec.stdout_fd = task->spec.stderr_fd = task->pipe.write_fd;
  {
    MutexLock lock(mu_);
    pids_[action.slot] = 0;
  }
  starter_->Do([task] { RunStart(*task); });
  return task->start;
}

// On the thread of the starts. A log that is not open yet is no reason not to start; one that
// cannot be opened is.
void Supervisor::RunStart(StartTask& task) {
  const absl::Status log = task.pipe.file->AwaitOpen(task.open_by - Clock::Real().SteadyNow());
  absl::StatusOr<int32_t> pid = absl::CancelledError("not wanted any more when its turn came");
  if (!log.ok() && !absl::IsDeadlineExceeded(log)) {
    pid = log;
  } else if (!task.start->unwanted) {
    pid = task.runner->Spawn(task.spec,
                             [ends = task.ends, slot = task.start->slot, log = task.pipe.id,
                              fate = task.start->process.fate](int32_t pid, const ProcessEnd& end) {
                               MutexLock lock(ends->mu);
                               if (ends->supervisor != nullptr)
                                 ends->supervisor->OnEnd(slot, log, fate, pid, end);
                             });
  }
  task.output.reset();
  task.bootstrap.reset();
  bool taken = false;
  {
    MutexLock lock(task.ends->mu);
    Supervisor* const supervisor = task.ends->supervisor;
    taken = supervisor != nullptr && supervisor->OnStarted(task.start, pid);
  }
  if (!taken) KillStarted(*task.start, pid, *task.runner, task.sweep);
}

bool Supervisor::OnStarted(const std::shared_ptr<Start>& start,
                           const absl::StatusOr<int32_t>& pid) {
  Fate& fate = *start->process.fate;
  std::optional<Ended> early;
  bool too_late = false;
  {
    MutexLock lock(mu_);
    too_late = looped_;
    if (pid.ok() && !start->given_up && !too_late) {
      pids_[start->slot] = *pid;
      fate.known = true;
      early = std::exchange(fate.early, std::nullopt);
    }
    if (!too_late) started_.push_back({start, pid});
    pids_changed_.NotifyAll();
  }
  if (too_late) return false;
  changed_.NotifyOne();
  if (early) TellEnd(start->slot, start->process.log_id, start->process.fate, *early);
  return true;
}

// Nobody waits for it any more.
void Supervisor::KillStarted(const Start& start, const absl::StatusOr<int32_t>& pid,
                             ProcessRunner& runner, const Sweep& sweep) {
  if (!pid.ok()) {
    LOG(WARNING) << "slot " << start.slot
                 << ": a start that nobody waits for any more has failed: " << pid.status();
    return;
  }
  LOG(WARNING) << "slot " << start.slot << ": pid " << *pid
               << " was started when nobody waited for it any more, and is killed";
  runner.SignalGroup(*pid, SIGKILL);
  sweep(start.process.tag);
}

// What came back while the last events were taken, and whatever will.
void Supervisor::KillLateStarts() {
  std::vector<Started> late;
  {
    MutexLock lock(mu_);
    looped_ = true;
    late.swap(started_);
  }
  for (const Started& each : late) {
    KillStarted(*each.start, each.pid, *options_.runner, options_.sweep);
  }
}

void Supervisor::FinishStart(const Started& started) {
  Start& start = *started.start;
  const auto it = starts_.find(start.slot);
  if (it == starts_.end() || it->second != started.start) {
    return KillStarted(start, started.pid, *options_.runner, options_.sweep);
  }
  starts_.erase(it);
  if (!started.pid.ok()) {
    LOG(ERROR) << "slot " << start.slot << ": " << started.pid.status();
    {
      MutexLock lock(mu_);
      ForgetPid(start.slot);
    }
    logs_->Finish(start.process.log_id, [](std::vector<std::string>) {});
    return StepAll(FailedStart(start.slot, started.pid.status()));
  }
  start.process.pid = *started.pid;
  processes_[start.slot] = start.process;
  LOG(INFO) << "slot " << start.slot << ": started, pid " << *started.pid;
  StepAll(WorkerSpawned{start.slot, *started.pid});
  if (start.grace == absl::ZeroDuration()) {
    options_.runner->SignalGroup(*started.pid, SIGKILL);
  } else if (start.grace != absl::InfiniteDuration()) {
    options_.runner->StopGroups({*started.pid}, start.grace);
  }
}

bool Supervisor::StopStart(Slot slot, absl::Duration grace) {
  const auto it = starts_.find(slot);
  if (it == starts_.end()) return false;
  Start& start = *it->second;
  start.unwanted = true;
  start.unwanted_since = std::min(start.unwanted_since, options_.clock->SteadyNow());
  start.grace = std::min(start.grace, grace);
  LOG(INFO) << "slot " << slot << ": its start is not wanted any more";
  return true;
}

void Supervisor::LookAtStarts() {
  const absl::Duration now = options_.clock->SteadyNow();
  for (auto it = starts_.begin(); it != starts_.end();) {
    const std::shared_ptr<Start> start = it->second;
    const absl::Duration limit = start->unwanted ? kUnwantedStartLimit : kStartLimit;
    if (now - (start->unwanted ? start->unwanted_since : start->began) < limit) {
      ++it;
      continue;
    }
    it = starts_.erase(it);
    start->unwanted = true;
    {
      MutexLock lock(mu_);
      start->given_up = true;
      start->process.fate->forgotten = true;
      ForgetPid(start->slot);
    }
    logs_->Finish(start->process.log_id, [](std::vector<std::string>) {});
    const absl::Status why = absl::DeadlineExceededError(absl::StrCat(
        "cannot start ", start->what, ": the kernel has not come back with it for ",
        absl::FormatDuration(absl::Trunc(now - start->began, absl::Seconds(1))),
        "; its disk or file server, or that of its log or working directory, does not answer"));
    LOG(ERROR) << "slot " << start->slot << ": " << why;
    own_events_.push_back(FailedStart(start->slot, why));
  }
}

}  // namespace dsrun::agent
