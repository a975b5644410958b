#include "common/base/limits.h"

#include <dirent.h>
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <exception>
#include <fstream>
#include <new>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/base/memory_marks.h"
#include "common/base/nonblocking_output.h"

namespace dsrun {
namespace {

constexpr size_t kThreadStackBytes = 8 << 20;
constexpr size_t kSmallStackBytes = 2 << 20;
// main itself runs on what `ulimit -s` gives it.
constexpr rlim_t kLeastStackBytes = 512 << 10;
// More address space than one thread's stack asks for.
constexpr size_t kProbeBytes = 16 << 20;

struct LimitName {
  int resource;
  const char* words;
  const char* name;
  const char* flag;
  rlim_t unit;  // what the flag counts
  const char* unit_words;
};
constexpr LimitName kProcesses = {
    RLIMIT_NPROC, "this user's processes and threads", "RLIMIT_NPROC", "-u", 1, ""};
constexpr LimitName kDescriptors = {
    RLIMIT_NOFILE, "a process's descriptors", "RLIMIT_NOFILE", "-n", 1, ""};
constexpr LimitName kAddressSpace = {
    RLIMIT_AS, "a process's address space", "RLIMIT_AS", "-v", 1024, " KiB"};
constexpr LimitName kFileSize = {RLIMIT_FSIZE, "a file's size", "RLIMIT_FSIZE", "-f", 1024, " KiB"};
constexpr LimitName kStack = {RLIMIT_STACK, "a process's stack", "RLIMIT_STACK", "-s", 1024,
                              " KiB"};

rlim_t ValueOf(const LimitName& limit) {
  rlimit value = {RLIM_INFINITY, RLIM_INFINITY};
  getrlimit(limit.resource, &value);
  return value.rlim_cur;
}

// One line, made without allocating: for handlers.
class Line {
 public:
  Line& Add(const char* text) {
    while (*text != '\0' && size_ + 1 < sizeof(text_)) text_[size_++] = *text++;
    return *this;
  }
  Line& Add(uint64_t number) {
    char digits[24];
    char* at = digits + sizeof(digits) - 1;
    *at = '\0';
    do {
      *--at = static_cast<char>('0' + number % 10);
      number /= 10;
    } while (number != 0);
    return Add(at);
  }
  Line& Add(const LimitName& limit) {
    const rlim_t value = ValueOf(limit);
    Add("the limit of ").Add(limit.words).Add(" (").Add(limit.name).Add(") is ");
    if (value == RLIM_INFINITY) return Add("none");
    return Add(value / limit.unit)
        .Add(limit.unit_words)
        .Add("; raise it with ulimit ")
        .Add(limit.flag);
  }
  bool empty() const { return size_ == 0; }
  const char* text() {
    text_[size_] = '\0';
    return text_;
  }
  void WriteAndEndLine() {
    text_[size_++] = '\n';
    WriteLastWords(STDERR_FILENO, text_, size_);
  }

 private:
  char text_[1024];
  size_t size_ = 0;
};

bool IsLimited(const LimitName& limit) { return ValueOf(limit) != RLIM_INFINITY; }

// ---- What is met at this moment: asked by trying. Safe in a signal handler.

bool ProcessesAreUsedUp() {
  const long child = syscall(SYS_clone, SIGCHLD, nullptr, nullptr, nullptr, nullptr);
  if (child == 0) syscall(SYS_exit_group, 0);
  if (child < 0) return errno == EAGAIN;
  waitpid(static_cast<pid_t>(child), nullptr, 0);
  return false;
}

bool DescriptorsAreUsedUp() {
  const int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return errno == EMFILE || errno == ENFILE;
  close(fd);
  return false;
}

bool AddressSpaceIsUsedUp() {
  void* const memory = mmap(nullptr, kProbeBytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return true;
  munmap(memory, kProbeBytes);
  return false;
}

void AddProcessWords(Line& line) {
  if (IsLimited(kProcesses)) {
    line.Add(kProcesses).Add(" (or pids.max of a control group is met)");
  } else {
    line.Add(
        "no process or thread can be added: pids.max of a control group, or "
        "kernel.threads-max, is met");
  }
}

void AddMemoryWords(Line& line) {
  if (IsLimited(kAddressSpace)) {
    line.Add(kAddressSpace);
  } else {
    line.Add("there is no memory left");
  }
}

// Nothing is added when no limit is met.
void AddMetLimit(Line& line) {
  if (DescriptorsAreUsedUp()) {
    line.Add(kDescriptors);
  } else if (AddressSpaceIsUsedUp()) {
    AddMemoryWords(line);
  } else if (ProcessesAreUsedUp()) {
    AddProcessWords(line);
  }
}

// ---- Ends

std::atomic<const char*> program_name{"dsrun"};

[[noreturn]] void EndOfLimit(const char* why, Line& limit) {
  Line line;
  line.Add(program_name).Add(": ").Add(why).Add(": ").Add(limit.text()).WriteAndEndLine();
  _exit(kExitLimit);
}

void OnNoMemory() {
  Line limit;
  AddMemoryWords(limit);
  EndOfLimit(kOutOfMemory, limit);
}

// A library's check has failed. A limit that is met right now is the likeliest reason: they abort
// when a thread cannot be started.
void OnAbort(int) {
  Line limit;
  AddMetLimit(limit);
  if (!limit.empty()) EndOfLimit("a library gave up at a limit", limit);
  signal(SIGABRT, SIG_DFL);
  raise(SIGABRT);
}

// Without address space the stack of the main thread cannot grow, and the kernel says it like this.
void OnSegmentationFault(int) {
  if (AddressSpaceIsUsedUp()) {
    Line limit;
    AddMemoryWords(limit);
    EndOfLimit("the stack cannot grow", limit);
  }
  signal(SIGSEGV, SIG_DFL);
  raise(SIGSEGV);
}

// On a stack of its own: the other one is what is missing.
void CatchSegmentationFaults() {
  static char stack[64 << 10];
  const stack_t alternative = {.ss_sp = stack, .ss_flags = 0, .ss_size = sizeof(stack)};
  if (sigaltstack(&alternative, nullptr) != 0) return;
  struct sigaction action = {};
  action.sa_handler = &OnSegmentationFault;
  action.sa_flags = SA_ONSTACK;
  sigaction(SIGSEGV, &action, nullptr);
}

void OnUncaught() {
  Line limit;
  const char* what = "an exception";
  try {
    if (const std::exception_ptr current = std::current_exception()) {
      std::rethrow_exception(current);
    }
  } catch (const std::system_error& error) {
    what = error.what();
    if (error.code().value() == EAGAIN) AddProcessWords(limit);
  } catch (const std::exception& error) {
    what = error.what();
  } catch (...) {
  }
  if (limit.empty()) AddMetLimit(limit);
  if (!limit.empty()) EndOfLimit(what, limit);
  Line line;
  line.Add(program_name).Add(": ended by an exception that nobody caught: ").Add(what);
  line.WriteAndEndLine();
  abort();
}

// What is opened first must not become standard input, output or error: a pipe of ours there would
// read what the ranks print. What goes to a standard output that was closed is lost, and must not
// look as if it had been written: there, writing fails.
void FillStandardDescriptors() {
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (fcntl(fd, F_GETFD) >= 0 || errno != EBADF) continue;
    // The lowest number that is free, which is this one.
    if (open("/dev/null", fd == STDERR_FILENO ? O_RDWR : O_RDONLY) < 0) return;
  }
}

constexpr rlim_t kNotRaised = RLIM_INFINITY;  // what is not limited is not raised
rlim_t descriptors_before = kNotRaised;

void RaiseDescriptorLimit() {
  rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= limit.rlim_max) return;
  const rlim_t before = std::exchange(limit.rlim_cur, limit.rlim_max);
  if (setrlimit(RLIMIT_NOFILE, &limit) == 0) descriptors_before = before;
}

// ---- Threads, tried

// Threads that live until the last one is there.
class ParkedThreads {
 public:
  ParkedThreads() { sem_init(&leave_, 0, 0); }
  ~ParkedThreads() {
    for (size_t i = 0; i < threads_.size(); ++i) sem_post(&leave_);
    for (const pthread_t thread : threads_) pthread_join(thread, nullptr);
    sem_destroy(&leave_);
  }
  // 0, or the errno. `own`: with the stack of a thread of this process; else with a small one.
  int Start(bool own) {
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    if (own) {
      pthread_getattr_default_np(&attributes);
    } else {
      pthread_attr_setstacksize(&attributes, kStackBytes);
    }
    pthread_t thread;
    const int error = pthread_create(&thread, &attributes, &Wait, &leave_);
    pthread_attr_destroy(&attributes);
    if (error == 0) threads_.push_back(thread);
    return error;
  }

 private:
  static constexpr size_t kStackBytes = 256 << 10;  // with room for what libraries keep per thread
  static void* Wait(void* leave) {
    while (sem_wait(static_cast<sem_t*>(leave)) != 0) {
    }
    return nullptr;
  }
  sem_t leave_;
  std::vector<pthread_t> threads_;
};

int OpenDescriptors() {
  int count = 0;
  DIR* const folder = opendir("/proc/self/fd");
  if (folder == nullptr) return 0;
  while (readdir(folder) != nullptr) ++count;
  closedir(folder);
  return count - 3;  // ".", ".." and the folder itself
}

absl::Status TooFew(const LimitNeeds& needs, const char* of_what, int want, int got, int error) {
  return absl::ResourceExhaustedError(absl::StrCat(needs.what, ": expected room for ", want, " ",
                                                   of_what, ", got ", std::max(got, 0), ": ",
                                                   strerror(error), BecauseOfLimit(error)));
}

}  // namespace

std::string LimitWords(int error) {
  Line line;
  switch (error) {
    case EAGAIN:
      // The C library says EAGAIN also for a stack that does not fit.
      if (IsLimited(kAddressSpace) && AddressSpaceIsUsedUp()) {
        line.Add(kAddressSpace);
      } else {
        AddProcessWords(line);
      }
      break;
    case EMFILE:
      line.Add(kDescriptors);
      break;
    case ENFILE:
      line.Add("the system's limit of open files (fs.file-max) is met");
      break;
    case ENOMEM:
      AddMemoryWords(line);
      break;
    case EFBIG:
      if (IsLimited(kFileSize)) line.Add(kFileSize);
      break;
    default:
      break;
  }
  return line.text();
}

bool IsAddressSpaceLimited() { return IsLimited(kAddressSpace); }

std::string BecauseOfLimit(int error) {
  const std::string words = LimitWords(error);
  return words.empty() ? "" : absl::StrCat("; ", words);
}

void GiveBackDescriptorLimit() {
  if (descriptors_before == kNotRaised) return;
  rlimit limit;
  if (syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, nullptr, &limit) != 0) return;
  limit.rlim_cur = std::min(descriptors_before, limit.rlim_max);
  syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, &limit, nullptr);
}

void PrepareForLimits(const char* program) {
  FillStandardDescriptors();
  RaiseDescriptorLimit();
  program_name = program;
  signal(SIGXFSZ, SIG_IGN);
  if (ValueOf(kStack) < kLeastStackBytes) {
    Line limit;
    limit.Add(kStack);
    EndOfLimit("expected a stack of at least 512 KiB", limit);
  }
  const bool narrow = IsLimited(kAddressSpace);
  if (narrow) {
    mallopt(M_ARENA_MAX, 1);  // else 64 MiB for each thread
    CatchSegmentationFaults();
  }
  pthread_attr_t attributes;
  if (pthread_attr_init(&attributes) == 0) {
    pthread_attr_setstacksize(&attributes, narrow ? kSmallStackBytes : kThreadStackBytes);
    pthread_setattr_default_np(&attributes);
    pthread_attr_destroy(&attributes);
  }
  std::set_new_handler(&OnNoMemory);
  std::set_terminate(&OnUncaught);
  signal(SIGABRT, &OnAbort);
}

absl::Status CheckLimits(const LimitNeeds& needs) {
  const rlim_t descriptors = ValueOf(kDescriptors);
  const int open_now = OpenDescriptors();
  if (descriptors != RLIM_INFINITY &&
      descriptors < static_cast<rlim_t>(open_now + needs.descriptors)) {
    return TooFew(needs, "more descriptors", needs.descriptors,
                  static_cast<int>(descriptors) - open_now, EMFILE);
  }
  ParkedThreads threads;
  const int all = needs.threads + needs.elsewhere;
  for (int i = 0; i < all; ++i) {
    const int error = threads.Start(/*own=*/i < needs.threads);
    if (error == 0) continue;
    return TooFew(needs, "more processes and threads", all, i, error);
  }
  return absl::OkStatus();
}

}  // namespace dsrun
