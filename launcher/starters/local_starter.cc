#include "launcher/starters/local_starter.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <set>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/clock.h"
#include "common/base/counted.h"
#include "common/base/do_within.h"
#include "common/base/leavable_thread.h"
#include "common/base/limits.h"
#include "common/base/logging.h"
#include "common/base/mutex.h"
#include "common/base/private_folder.h"
#include "common/base/process_tree.h"
#include "common/base/status_macros.h"
#include "common/base/waits.h"
#include "common/rpc/dial.h"
#include "common/rpc/loopback.h"
#include "common/rpc/secrets.h"
#include "common/rpc/sockets.h"

extern char** environ;

namespace dsrun::launcher {
namespace {

constexpr int kKeyBytes = 32;
// What the child finds its two descriptors under.
constexpr int kChildKeyFd = 3;
constexpr int kChildReadyFd = 4;
// For an agent whose start is given up: it has no ranks yet.
constexpr absl::Duration kStartGrace = absl::Seconds(2);
constexpr absl::Duration kEndPatience = absl::Seconds(5);  // from its closed pipe to its end
constexpr absl::Duration kSweepLimit = absl::Seconds(5);
constexpr absl::Duration kOrphanGrace = absl::Seconds(2);
constexpr absl::Duration kLogTime = absl::Seconds(2);  // to read its last words
constexpr absl::Duration kBetweenLooks = absl::Milliseconds(10);

// As text: a newline at the end of a key file is not part of the key, so no key may end in one.
std::string FreshKey() {
  const std::string bytes = RandomBytes(kKeyBytes);
  return absl::BytesToHexString(absl::string_view(bytes.data(), bytes.size()));
}

// A memory file that holds `secret`, read from its beginning.
absl::StatusOr<Descriptor> MakeSecretFile(const std::string& secret) {
  Descriptor fd(memfd_create("cluster-key", MFD_CLOEXEC));
  const auto size = static_cast<ssize_t>(secret.size());
  if (fd.get() < 0 || write(fd.get(), secret.data(), secret.size()) != size ||
      lseek(fd.get(), 0, SEEK_SET) != 0) {
    const int error = errno;
    return absl::ResourceExhaustedError(absl::StrCat(
        "cannot make a memory file for the cluster key: ", strerror(error), BecauseOfLimit(error)));
  }
  return fd;
}

std::vector<std::string> OwnEnvironment() {
  std::vector<std::string> environment;
  for (char** entry = environ; *entry != nullptr; ++entry) environment.emplace_back(*entry);
  return environment;
}

std::string ReadLastLines(const std::string& path, size_t count) {
  std::ifstream file(path);
  std::vector<std::string> lines;
  for (std::string line; std::getline(file, line);) {
    lines.push_back("  " + line);
    if (lines.size() > count) lines.erase(lines.begin());
  }
  return lines.empty() ? "  (it wrote nothing)" : absl::StrJoin(lines, "\n");
}

// The same, of a file that may not answer.
std::string LastLines(const std::string& path, size_t count) {
  const auto lines = std::make_shared<std::string>();
  const absl::Status read = DoWithin(kLogTime, "an agent's log", [lines, path, count] {
    *lines = ReadLastLines(path, count);
    return absl::OkStatus();
  });
  return read.ok() ? *lines : absl::StrCat("  (", std::string(read.message()), ")");
}

// Exit codes of dsagent, whose keeper is what we wait for (docs/errors.md).
constexpr int kExitAgentStopped = 111;
constexpr int kExitAgentSignal = 128;

std::string ListenTarget(const std::string& socket_folder) {
  return absl::StrCat(kUnixScheme, socket_folder, "/agent.sock");
}

// The agent does not listen there, but the ranks will meet there.
absl::Status CheckIsHere(const std::string& address) {
  const bool is_v6 = address.find(':') != std::string::npos;
  return ListenOn(is_v6 ? absl::StrCat("[", address, "]:0") : absl::StrCat(address, ":0")).status();
}

std::string SignalWords(int signal) {
  const char* const name = sigabbrev_np(signal);
  return name == nullptr ? absl::StrCat("signal ", signal)
                         : absl::StrCat("signal ", signal, " (SIG", name, ")");
}

std::string EndInWords(const ProcessEnd& end) {
  if (end.term_signal != 0) {
    return absl::StrCat("its keeper was killed by ", SignalWords(end.term_signal));
  }
  if (end.exit_code > kExitAgentSignal) {
    return absl::StrCat("it was killed by ", SignalWords(end.exit_code - kExitAgentSignal));
  }
  if (end.exit_code == kExitAgentStopped) {
    return "it fell silent (stopped, or stuck), so its keeper ended it";
  }
  return end.exit_code == 0 ? "" : absl::StrCat("it exited with code ", end.exit_code);
}

absl::Status Unwanted() { return absl::CancelledError("the job is ending"); }

std::string Describe(const ProcessEnd& end) {
  if (end.term_signal != 0) return absl::StrCat("was killed by signal ", end.term_signal);
  return absl::StrCat("exited with code ", end.exit_code);
}

// PERMISSION_DENIED is an agent's own word, and here there is none yet.
absl::Status NotStarted(const absl::Status& why, const proto::NodeSpec& node) {
  const std::string text = absl::StrCat("cannot start an agent for node ", node.host(), ": ",
                                        std::string(why.message()));
  return absl::Status(absl::IsPermissionDenied(why) ? absl::StatusCode::kUnavailable : why.code(),
                      text);
}

}  // namespace

absl::StatusOr<std::unique_ptr<LocalStarter>> LocalStarter::Create(Options options) {
  if (!BecomeSubreaper()) {
    return absl::InternalError(
        absl::StrCat("cannot become a child subreaper: ", strerror(errno),
                     "; without it processes of a dead agent could stay behind"));
  }
  ASSIGN_OR_RETURN(std::unique_ptr<PosixProcessRunner> runner,
                   PosixProcessRunner::Create({.reap_adopted = true}));
  return std::unique_ptr<LocalStarter>(new LocalStarter(std::move(options), std::move(runner)));
}

struct LocalStarter::State {
  bool IsWanted(NodeId id) {
    MutexLock lock(mu);
    return IsWantedLocked(id);
  }
  // Neither End nor EndAll came.
  bool IsWantedLocked(NodeId id) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) {
    return !closing && !unwanted.contains(id);
  }
  void OnEnd(NodeId id, int32_t pid, const ProcessEnd& end);

  // Never held across what a disk or file server may hold up, exec and the agents' logs: End is
  // called by who decides.
  Mutex mu;
  CondVar changed;
  std::map<NodeId, int32_t> pids ABSL_GUARDED_BY(mu);
  std::set<int32_t> ended_early ABSL_GUARDED_BY(mu);  // before their Spawn returned
  std::map<NodeId, ProcessEnd> ended ABSL_GUARDED_BY(mu);
  std::set<NodeId> unwanted ABSL_GUARDED_BY(mu);  // End came
  bool closing ABSL_GUARDED_BY(mu) = false;       // EndAll came
  bool ended_all ABSL_GUARDED_BY(mu) = false;     // EndAll returned: nothing was started since
  int starting ABSL_GUARDED_BY(mu) = 0;  // calls of Begin, and threads that they left behind
  std::vector<std::string> socket_folders ABSL_GUARDED_BY(mu);
};

// The part of a start that may hang in the kernel, on a thread that is left behind then. Owns all
// that it needs: the starter may be gone before it comes back.
struct LocalStarter::Spawning {
  void Run();
  absl::Status OpenAndSpawn();
  bool IsWanted() const { return !given_up && state->IsWanted(id); }

  NodeId id;
  std::shared_ptr<State> state;
  std::shared_ptr<ProcessRunner> runner;
  std::string log_path;
  ProcessSpec spec;
  // What the child gets. Closed by the thread, or the agent's end is never noticed.
  std::optional<Descriptor> key;
  std::optional<Descriptor> ready;
  std::atomic<bool> given_up = false;
  std::optional<absl::Status> done;  // under state->mu
};

LocalStarter::LocalStarter(Options options, std::unique_ptr<PosixProcessRunner> runner)
    : options_(std::move(options)),
      cluster_key_(FreshKey()),
      state_(std::make_shared<State>()),
      runner_(std::move(runner)) {}

LocalStarter::~LocalStarter() { EndAll(absl::ZeroDuration()); }

std::string LocalStarter::LogPath(NodeId id) const {
  return absl::StrCat(options_.log_folder, "/agent-", id.value(), ".log");
}

// One more that makes processes and folders, for as long as it lives.
class LocalStarter::Starting {
 public:
  explicit Starting(std::shared_ptr<State> state) : state_(std::move(state)) {
    MutexLock lock(state_->mu);
    ++state_->starting;
  }
  ~Starting() {
    MutexLock lock(state_->mu);
    --state_->starting;
    state_->changed.NotifyAll();
  }
  Starting(const Starting&) = delete;
  Starting& operator=(const Starting&) = delete;

 private:
  const std::shared_ptr<State> state_;
};

absl::StatusOr<AgentEndpoint> LocalStarter::Start(NodeId id, const proto::NodeSpec& node) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) {
    const int error = errno;
    return absl::UnavailableError(
        absl::StrCat("cannot make a pipe: ", strerror(error), BecauseOfLimit(error)));
  }
  const Descriptor ready(ends[0]);
  Descriptor write_end(ends[1]);
  RETURN_IF_ERROR(CheckIsHere(node.address())) << "node " << node.host();
  const absl::StatusOr<std::string> target = Begin(id, std::move(write_end));
  if (!target.ok()) return NotStarted(target.status(), node);
  absl::StatusOr<AgentEndpoint> endpoint = Call(id, *target, ready.get());
  if (endpoint.ok()) return endpoint;
  End(id, kStartGrace);
  return Annotate(endpoint.status(), absl::StrCat("own agent for node ", node.host()));
}

absl::StatusOr<std::string> LocalStarter::Begin(NodeId id, Descriptor ready) {
  const Starting starting(state_);
  if (!state_->IsWanted(id)) return Unwanted();
  ASSIGN_OR_RETURN(const std::string socket_folder, MakeSocketFolder());
  RETURN_IF_ERROR(Spawn(id, socket_folder, std::move(ready)));
  return ListenTarget(socket_folder);
}

absl::StatusOr<AgentEndpoint> LocalStarter::Call(NodeId id, const std::string& target,
                                                 int ready_fd) {
  RETURN_IF_ERROR(AwaitReady(id, ready_fd));
  absl::StatusOr<Connection> connection =
      DialAgent(target, cluster_key_, options_.ready_timeout, geteuid());
  if (!connection.ok()) {
    return absl::Status(
        connection.status().code(),
        absl::StrCat(std::string(connection.status().message()), "; its own log says (",
                     LogPath(id), "):\n", LastLines(LogPath(id), 5)));
  }
  return AgentEndpoint{.target = target,
                       .connection = std::make_shared<Connection>(*std::move(connection))};
}

absl::StatusOr<std::string> LocalStarter::MakeSocketFolder() {
  // One folder per agent and none around them: the ranks may run as another user and have to pass
  // through it.
  ASSIGN_OR_RETURN(std::string folder, MakePrivateFolder("dsagent-"));
  {
    MutexLock lock(state_->mu);
    if (!state_->closing) {
      state_->socket_folders.push_back(folder);
      return folder;
    }
  }
  std::error_code ignored;  // it is empty, and ours
  std::filesystem::remove(folder, ignored);
  return Unwanted();
}

void LocalStarter::RemoveSocketFolders() {
  std::vector<std::string> folders;
  {
    MutexLock lock(state_->mu);
    folders.swap(state_->socket_folders);
  }
  for (const std::string& folder : folders) {
    std::error_code error;
    std::filesystem::remove_all(folder, error);
    LOG_IF(WARNING, error) << "cannot remove " << folder << ": " << error.message();
  }
}

ProcessSpec LocalStarter::SpecOf(const std::string& socket_folder) const {
  ProcessSpec spec;
  spec.executable = options_.agent_binary;
  spec.argv = {
      options_.agent_binary,
      "--listen",
      ListenTarget(socket_folder),
      "--cluster-key-fd",
      absl::StrCat(kChildKeyFd),
      "--ready-fd",
      absl::StrCat(kChildReadyFd),
      "--run-dir",
      options_.run_dir,
      absl::StrCat("--socket-dir=", socket_folder),
      "--one-job",  // ours alone: when the job is over, or our lease, so is the agent
      absl::StrCat("--first-job-within=", absl::FormatDuration(options_.first_job_within))};
  spec.environment = OwnEnvironment();
  return spec;
}

absl::Status LocalStarter::Spawn(NodeId id, const std::string& socket_folder, Descriptor ready) {
  ASSIGN_OR_RETURN(Descriptor key, MakeSecretFile(cluster_key_));
  const auto spawning = std::make_shared<Spawning>();
  spawning->id = id;
  spawning->state = state_;
  spawning->runner = runner_->Outliving();
  spawning->log_path = LogPath(id);
  spawning->spec = SpecOf(socket_folder);
  spawning->spec.fds = {{key.get(), kChildKeyFd}, {ready.get(), kChildReadyFd}};
  // By address: it is a part of what it looks at.
  spawning->spec.still_wanted = [s = spawning.get()] { return s->IsWanted(); };
  spawning->key.emplace(std::move(key));
  spawning->ready.emplace(std::move(ready));
  ASSIGN_OR_RETURN(LeavableThread thread,
                   LeavableThread::Start("the start of an agent", [spawning] { spawning->Run(); }));
  const SteadyTime deadline = Clock::Real().SteadyNow() + options_.spawn_timeout;
  std::optional<absl::Status> done;
  bool wanted = true;
  {
    MutexLock lock(state_->mu);
    while (!spawning->done && state_->IsWantedLocked(id) &&
           state_->changed.WaitUntil(state_->mu, deadline)) {
      continue;
    }
    wanted = state_->IsWantedLocked(id);
    done = spawning->done;
    if (!done) spawning->given_up = true;
  }
  thread.JoinOrLeave(done ? absl::InfiniteDuration() : absl::ZeroDuration());
  if (done) return *done;
  if (!wanted) return Unwanted();
  return absl::UnavailableError(absl::StrCat(
      "expected it to be started within ", absl::FormatDuration(options_.spawn_timeout),
      ", but the kernel has not come back with ", options_.agent_binary, ": the disk or file ",
      "server of that program, or of its log ", LogPath(id), ", does not answer; look at both, or ",
      "choose others with --agent-binary and --run-dir"));
}

void LocalStarter::Spawning::Run() {
  const Starting starting(state);
  absl::Status status = OpenAndSpawn();
  key.reset();
  ready.reset();
  MutexLock lock(state->mu);
  done = std::move(status);
  state->changed.NotifyAll();
}

absl::Status LocalStarter::Spawning::OpenAndSpawn() {
  const Descriptor log(open(log_path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644));
  if (log.get() < 0) {
    const int error = errno;
    return absl::UnavailableError(
        absl::StrCat("cannot write ", log_path, ": ", strerror(error), BecauseOfLimit(error)));
  }
  spec.stdout_fd = log.get();
  spec.stderr_fd = log.get();
  // No lock is held: exec may wait for a file server, and End must not wait with it.
  if (!IsWanted()) return Unwanted();
  const auto on_end = [state = state, id = id](int32_t ended, const ProcessEnd& end) {
    state->OnEnd(id, ended, end);
  };
  ASSIGN_OR_RETURN(const int32_t pid, runner->Spawn(spec, on_end));
  {
    MutexLock lock(state->mu);
    if (state->ended_early.erase(pid) == 0) state->pids[id] = pid;
    if (!given_up && state->IsWantedLocked(id)) return absl::OkStatus();
  }
  runner->StopGroups({pid}, kStartGrace);  // End came before its pid was known
  return Unwanted();
}

absl::Status LocalStarter::AwaitReady(NodeId id, int fd) {
  const SteadyTime deadline = Clock::Real().SteadyNow() + options_.ready_timeout;
  std::string line;
  while (true) {
    const absl::Duration left = deadline - Clock::Real().SteadyNow();
    if (left <= absl::ZeroDuration()) {
      return absl::UnavailableError(absl::StrCat(
          "expected it to listen within ", absl::FormatDuration(options_.ready_timeout),
          ", got nothing; its own log says (", LogPath(id), "):\n", LastLines(LogPath(id), 5)));
    }
    pollfd waiting{.fd = fd, .events = POLLIN, .revents = 0};
    if (poll(&waiting, 1, PollMilliseconds(left)) <= 0) continue;
    char byte;
    const ssize_t got = read(fd, &byte, 1);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    if (byte != '\n') {
      line += byte;
      continue;
    }
    if (line == "0") return absl::OkStatus();  // a unix socket has no port
    return absl::InternalError(absl::StrCat("expected 0, for it listens on no port, got \"", line,
                                            "\"; are dsrun and dsagent of one build?"));
  }
  std::string how = "closed its ready pipe";
  {
    MutexLock lock(state_->mu);
    if (!state_->IsWantedLocked(id)) return Unwanted();
    const SteadyTime patience = Clock::Real().SteadyNow() + kEndPatience;
    while (!state_->ended.contains(id) && state_->changed.WaitUntil(state_->mu, patience)) continue;
    if (state_->ended.contains(id)) how = Describe(state_->ended[id]);
  }
  return absl::UnavailableError(absl::StrCat("expected it to listen, but it ", how,
                                             "; its own log says (", LogPath(id), "):\n",
                                             LastLines(LogPath(id), 5)));
}

void LocalStarter::State::OnEnd(NodeId id, int32_t pid, const ProcessEnd& end) {
  MutexLock lock(mu);
  if (pids.erase(id) == 0) ended_early.insert(pid);
  ended[id] = end;
  changed.NotifyAll();
}

void LocalStarter::End(NodeId id, absl::Duration grace) {
  int32_t pid = 0;
  {
    MutexLock lock(state_->mu);
    state_->unwanted.insert(id);
    state_->changed.NotifyAll();
    const auto found = state_->pids.find(id);
    if (found != state_->pids.end()) pid = found->second;
  }
  if (pid != 0) runner_->StopGroups({pid}, grace);
}

// Nobody begins any more; who hangs in the kernel is left.
void LocalStarter::AwaitStarts(absl::Duration limit) {
  const SteadyTime deadline = Clock::Real().SteadyNow() + limit;
  MutexLock lock(state_->mu);
  while (state_->starting > 0 && state_->changed.WaitUntil(state_->mu, deadline)) continue;
}

void LocalStarter::EndAll(absl::Duration grace) {
  {
    MutexLock lock(state_->mu);
    if (state_->ended_all) return;  // what did not end then would only be waited for again
    state_->closing = true;
    state_->changed.NotifyAll();
  }
  AwaitStarts(kStartGrace);  // an agent that was just begun is in no list yet
  std::vector<int32_t> pids;
  {
    MutexLock lock(state_->mu);
    for (const auto& [id, pid] : state_->pids) pids.push_back(pid);
  }
  if (!pids.empty()) runner_->StopGroups(pids, grace);
  AwaitEnds(grace + kEndPatience);  // the ladder ends in KILL
  AwaitOrphans();
  if (const int left = born_before_.KillOurDescendants(kSweepLimit); left > 0) {
    const std::string words = ProcessWords(born_before_.OurDescendants());
    LOG_IF(ERROR, !words.empty()) << Counted(left, "process")
                                  << " of this job did not end after SIGKILL and may still hold "
                                  << "its files and ports: " << words;
  }
  RemoveSocketFolders();
  MutexLock lock(state_->mu);
  state_->ended_all = true;
}

// What cannot die (stuck in the kernel) is not waited for.
void LocalStarter::AwaitEnds(absl::Duration limit) {
  const SteadyTime deadline = Clock::Real().SteadyNow() + limit;
  MutexLock lock(state_->mu);
  while (!state_->pids.empty() && state_->changed.WaitUntil(state_->mu, deadline)) continue;
}

std::string LocalStarter::HowItEnded(NodeId id, absl::Duration limit) {
  const SteadyTime deadline = Clock::Real().SteadyNow() + limit;
  ProcessEnd end;
  {
    MutexLock lock(state_->mu);
    while (state_->pids.contains(id) && !state_->ended.contains(id)) {
      if (!state_->changed.WaitUntil(state_->mu, deadline)) return "";
    }
    const auto found = state_->ended.find(id);
    if (found == state_->ended.end()) return "";
    end = found->second;
  }
  if (end.exit_code == kExitLimit) {
    return absl::StrCat("it met a limit of its system; its log ends with:\n",
                        LastLines(LogPath(id), 1));
  }
  return EndInWords(end);
}

// An agent whose keeper was killed ends its ranks and itself, and removes its sockets: it must not
// be killed in the middle of that.
void LocalStarter::AwaitOrphans() const {
  const SteadyTime deadline = Clock::Real().SteadyNow() + kOrphanGrace;
  const auto alive = [this] {
    const std::vector<ProcessInfo> below = born_before_.OurDescendants();
    return std::any_of(below.begin(), below.end(),
                       [](const ProcessInfo& process) { return process.state != 'Z'; });
  };
  while (alive() && Clock::Real().SteadyNow() < deadline) {
    poll(nullptr, 0, PollMilliseconds(kBetweenLooks));
  }
}

int32_t LocalStarter::pid(NodeId id) const {
  MutexLock lock(state_->mu);
  const auto found = state_->pids.find(id);
  return found == state_->pids.end() ? 0 : found->second;
}

}  // namespace dsrun::launcher
