#include "tests/worker/comm/rank_threads.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <sstream>
#include <thread>
#include <utility>

#include "common/base/clock.h"
#include "common/base/proc_file.h"
#include "tests/worker/comm/in_memory_rendezvous.h"
#include "worker/comm/core/checked_communicator.h"
#include "worker/comm/core/queued_communicator.h"
#include "worker/comm/gloo/gloo_communicator.h"
#include "worker/comm/in_process/in_process_communicator.h"
#include "worker/comm/shared_memory/shared_memory_communicator.h"

// Debian's Gloo forgets an address list when a bind address is refused.
extern "C" const char* __lsan_default_suppressions() {
  return "leak:gloo::transport::tcp::CreateDeviceAttr\n";
}

namespace dsrun::worker {
namespace {

Group MakeGlooGroup(int size, absl::Duration timeout, size_t part_bytes) {
  InMemoryRendezvousTable table(size);
  Group group(static_cast<size_t>(size));
  RunRanks(size, [&](int rank) {
    GlooOptions options;
    options.rank = rank;
    options.size = size;
    options.timeout = timeout;
    options.connect_timeout = absl::Seconds(20);
    options.job_token = "token";
    options.generation = 1;
    options.part_bytes = part_bytes;
    const std::unique_ptr<Rendezvous> rendezvous = table.ForRank(rank);
    auto communicator = GlooCommunicator::Create(options, *rendezvous);
    ASSERT_TRUE(communicator.ok()) << communicator.status();
    group[static_cast<size_t>(rank)] = *std::move(communicator);
  });
  return group;
}

// Puts shared memory around every rank of `group`, `nodes` nodes in turn. The rings are short: long
// messages go round them many times.
void ShareMemory(Group& group, int nodes, absl::Duration timeout) {
  InMemoryRendezvousTable table(static_cast<int>(group.size()));
  RunRanks(static_cast<int>(group.size()), [&](int rank) {
    SharedMemoryOptions options;
    options.node = "node " + std::to_string(rank % nodes);
    options.timeout = timeout;
    options.ring_bytes = 5000;
    const std::unique_ptr<Rendezvous> rendezvous = table.ForRank(rank);
    std::unique_ptr<Communicator>& mine = group[static_cast<size_t>(rank)];
    auto communicator = CreateSharedMemoryCommunicator(std::move(mine), options, *rendezvous);
    ASSERT_TRUE(communicator.ok()) << communicator.status();
    mine = *std::move(communicator);
  });
}

// The state letter of a thread of this process ('S': sleeps), or 0.
char ThreadState(pid_t thread) {
  const std::string stat = ReadProcFile("/proc/self/task/" + std::to_string(thread) + "/stat");
  const size_t name_end = stat.rfind(") ");
  return name_end == std::string::npos ? 0 : stat[name_end + 2];
}

}  // namespace

std::string BackendName(Backend backend) {
  switch (backend) {
    case Backend::kInProcess:
      return "InProcess";
    case Backend::kGloo:
      return "Gloo";
    case Backend::kSharedMemory:
      return "SharedMemory";
    case Backend::kSharedMemoryGloo:
      return "SharedMemoryGloo";
    case Backend::kCheckedInProcess:
      return "CheckedInProcess";
    case Backend::kCheckedGloo:
      return "CheckedGloo";
    case Backend::kCheckedSharedMemory:
      return "CheckedSharedMemory";
    case Backend::kQueuedInProcess:
      return "QueuedInProcess";
  }
  return "";
}

Group MakeGroup(Backend backend, int size, absl::Duration timeout, size_t part_bytes) {
  const bool gloo = backend == Backend::kGloo || backend == Backend::kCheckedGloo ||
                    backend == Backend::kSharedMemoryGloo;
  const bool checked = backend == Backend::kCheckedGloo || backend == Backend::kCheckedInProcess ||
                       backend == Backend::kCheckedSharedMemory;
  Group group = gloo ? MakeGlooGroup(size, timeout, part_bytes)
                     : CreateInProcessGroup(size, InProcessOptions{timeout});
  if (backend == Backend::kSharedMemoryGloo) ShareMemory(group, 2, timeout);
  if (backend == Backend::kSharedMemory || backend == Backend::kCheckedSharedMemory) {
    ShareMemory(group, 1, timeout);
  }
  for (std::unique_ptr<Communicator>& rank : group) {
    if (checked) rank = CreateCheckedCommunicator(std::move(rank), CheckPolicy::Always());
    if (backend == Backend::kQueuedInProcess) rank = QueueOperations(std::move(rank));
  }
  return group;
}

void RunRanks(int size, const std::function<void(int rank)>& work) {
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank) threads.emplace_back([&work, rank] { work(rank); });
  for (std::thread& thread : threads) thread.join();
}

struct BackgroundCall::State {
  Mutex mu;
  CondVar changed;
  pid_t thread_id ABSL_GUARDED_BY(mu) = 0;
  bool done ABSL_GUARDED_BY(mu) = false;
  absl::Status result ABSL_GUARDED_BY(mu);
  std::thread thread;
};

BackgroundCall::BackgroundCall(std::function<absl::Status()> call)
    : state_(std::make_shared<State>()) {
  State* state = state_.get();
  state->thread = std::thread([state, call = std::move(call)] {
    {
      MutexLock lock(state->mu);
      state->thread_id = gettid();
    }
    absl::Status result = call();
    MutexLock lock(state->mu);
    state->result = std::move(result);
    state->done = true;
    state->changed.NotifyAll();
  });
}

BackgroundCall::~BackgroundCall() { state_->thread.join(); }

bool BackgroundCall::WaitUntilBlocked(absl::Duration timeout) {
  const SteadyTime deadline = Clock::Real().SteadyNow() + timeout;
  while (Clock::Real().SteadyNow() < deadline) {
    pid_t thread_id;
    {
      MutexLock lock(state_->mu);
      if (state_->done) return false;
      thread_id = state_->thread_id;
    }
    if (thread_id != 0 && ThreadState(thread_id) == 'S') return true;
    std::this_thread::yield();
  }
  return false;
}

bool BackgroundCall::WaitUntilDone(absl::Duration timeout) {
  const SteadyTime deadline = Clock::Real().SteadyNow() + timeout;
  MutexLock lock(state_->mu);
  while (!state_->done) {
    const absl::Duration left = deadline - Clock::Real().SteadyNow();
    if (left <= absl::ZeroDuration()) return false;
    state_->changed.WaitFor(state_->mu, left);
  }
  return true;
}

absl::Status BackgroundCall::result() {
  MutexLock lock(state_->mu);
  return state_->result;
}

}  // namespace dsrun::worker
