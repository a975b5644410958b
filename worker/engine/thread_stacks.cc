#include "worker/engine/thread_stacks.h"

#include <execinfo.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <fstream>
#include <memory>
#include <string_view>

#include "absl/debugging/symbolize.h"
#include "absl/strings/str_cat.h"
#include "common/base/mutex.h"

namespace dsrun::worker {
namespace {

constexpr int kMostFrames = 32;
// The handler, and the kernel's return from it.
constexpr int kOwnFrames = 2;

int StackSignal() { return SIGRTMIN + 4; }

// One request at a time: `wanted` says whose, so a late answer to an earlier one is dropped.
struct Request {
  std::atomic<pid_t> wanted{0};
  void* frames[kMostFrames + kOwnFrames];
  int count = 0;
  sem_t done;
};
Request request;
std::atomic<bool> prepared{false};

void OnStackSignal(int) {
  const int saved = errno;
  const auto self = static_cast<pid_t>(syscall(SYS_gettid));
  pid_t expected = self;
  // Whoever comes first owns the answer; nobody else writes to it.
  if (request.wanted.compare_exchange_strong(expected, -self)) {
    request.count = backtrace(request.frames, kMostFrames + kOwnFrames);
    sem_post(&request.done);
  }
  errno = saved;
}

bool AwaitAnswer(absl::Duration patience) {
  timespec until;
  clock_gettime(CLOCK_REALTIME, &until);
  const absl::Time deadline = absl::TimeFromTimespec(until) + patience;
  until = absl::ToTimespec(deadline);
  while (sem_timedwait(&request.done, &until) != 0) {
    if (errno != EINTR) return false;
  }
  return true;
}

// "state D, waits in the kernel for io_schedule".
std::string KernelState(pid_t thread) {
  const std::string folder = absl::StrCat("/proc/self/task/", thread, "/");
  std::string stat, channel;
  std::getline(std::ifstream(folder + "stat"), stat);
  std::getline(std::ifstream(folder + "wchan"), channel);
  const size_t name_end = stat.rfind(')');
  if (name_end == std::string::npos || name_end + 2 >= stat.size()) return "it has ended";
  return absl::StrCat("it does not answer; the kernel says state ", stat.substr(name_end + 2, 1),
                      channel.empty() || channel == "0" ? "" : ", waits in " + channel);
}

std::string NameOf(const void* return_address, bool innermost) {
  // The call is before the address it returns to; that may be the next function already.
  const char* const address = static_cast<const char*>(return_address) - (innermost ? 0 : 1);
  char name[512];
  if (!absl::Symbolize(address, name, sizeof(name))) return "?";
  return name;
}

// Of the calling thread, while this lives. One that has such a stack already keeps it.
class HandlerStack {
 public:
  HandlerStack() {
    stack_t present = {};
    if (sigaltstack(nullptr, &present) != 0 || (present.ss_flags & SS_DISABLE) == 0) return;
    // With room for every register, which the kernel saves there, and for backtrace.
    const size_t size = kBacktraceBytes + static_cast<size_t>(sysconf(_SC_MINSIGSTKSZ));
    memory_ = std::make_unique<char[]>(size);
    const stack_t stack = {.ss_sp = memory_.get(), .ss_flags = 0, .ss_size = size};
    sigaltstack(&stack, nullptr);
  }
  ~HandlerStack() {
    if (memory_ == nullptr) return;
    const stack_t none = {.ss_sp = nullptr, .ss_flags = SS_DISABLE, .ss_size = 0};
    sigaltstack(&none, nullptr);
  }
  HandlerStack(const HandlerStack&) = delete;
  HandlerStack& operator=(const HandlerStack&) = delete;

 private:
  static constexpr size_t kBacktraceBytes = 64 << 10;
  std::unique_ptr<char[]> memory_;
};

}  // namespace

pid_t ThisThread() {
  thread_local const HandlerStack stack;
  return static_cast<pid_t>(syscall(SYS_gettid));
}

void PrepareThreadStacks(const char* program) {
  absl::InitializeSymbolizer(program);
  sem_init(&request.done, 0, 0);
  void* frames[4];
  backtrace(frames, 4);  // the first call loads what later ones need
  struct sigaction action = {};
  action.sa_handler = OnStackSignal;
  action.sa_flags = SA_RESTART | SA_ONSTACK;
  sigaction(StackSignal(), &action, nullptr);
  prepared = true;
}

std::vector<std::string> ThreadStack(pid_t thread, absl::Duration patience) {
  static Mutex* const one_at_a_time = new Mutex;
  if (!prepared) return {"(this process does not take stacks)"};
  MutexLock lock(*one_at_a_time);
  request.wanted = thread;
  bool answered = syscall(SYS_tgkill, getpid(), thread, StackSignal()) == 0;
  answered = answered && AwaitAnswer(patience);
  // Withdrawn; or it has begun to answer this very moment, and then the end of that is near.
  pid_t wanted = thread;
  if (!answered && !request.wanted.compare_exchange_strong(wanted, 0) && wanted == -thread) {
    while (sem_wait(&request.done) != 0) {
    }
    answered = true;
  }
  request.wanted = 0;
  if (!answered) return {KernelState(thread)};
  std::vector<std::string> names;
  for (int i = std::min(kOwnFrames, request.count); i < request.count; ++i) {
    names.push_back(NameOf(request.frames[i], i == kOwnFrames));
  }
  return names;
}

}  // namespace dsrun::worker
