#include "tests/worker/device/lazy_device.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/logging.h"
#include "tests/worker/device/lazy_core.h"
#include "tests/worker/device/lazy_kernels.h"

namespace dsrun::worker {
namespace {

constexpr size_t kPage = 4096;

absl::Status LostError() { return absl::InternalError("the device is lost"); }

class LazyEvent final : public Event::State {
 public:
  LazyEvent(std::shared_ptr<LazyDevice::Core> core, LazyDevice::Core::Point point)
      : core_(std::move(core)), point_(point) {}
  absl::StatusOr<bool> Poll() override { return core_->Poll(point_); }
  const LazyDevice::Core::Point& point() const { return point_; }

 private:
  const std::shared_ptr<LazyDevice::Core> core_;
  const LazyDevice::Core::Point point_;
};

class LazyStream final : public Stream {
 public:
  LazyStream(std::shared_ptr<LazyDevice::Core> core, size_t lane)
      : core_(std::move(core)), lane_(lane) {}

  Event Record() override { return core_->Record(lane_); }
  void Wait(const Event& event) override { core_->EnqueueWait(lane_, event); }
  void Copy(void* to, const void* from, size_t bytes) override {
    if (bytes == 0) return;
    if (core_->Owns(from)) {
      core_->Enqueue(lane_, "Copy", {{to, bytes}, {from, bytes}},
                     [=] { std::memcpy(to, from, bytes); });
      return;
    }
    const auto* const begin = static_cast<const char*>(from);
    core_->Enqueue(lane_, "Copy", {{to, bytes}},
                   [to, staged = std::vector<char>(begin, begin + bytes)] {
                     std::memcpy(to, staged.data(), staged.size());
                   });
  }
  void Zero(void* to, size_t bytes) override {
    if (bytes == 0) return;
    core_->Enqueue(lane_, "Zero", {{to, bytes}}, [=] { std::memset(to, 0, bytes); });
  }
  absl::StatusOr<HostAccess> OpenForHost(const void* begin, size_t bytes) override {
    return core_->OpenForHost(begin, bytes);
  }

 private:
  const std::shared_ptr<LazyDevice::Core> core_;
  const size_t lane_;
};

}  // namespace

class LazyDevice::Core::Opened final : public HostAccess::State {
 public:
  Opened(std::shared_ptr<Core> core, void* begin) : core_(std::move(core)), begin_(begin) {}
  ~Opened() override {
    MutexLock lock(core_->mu_);
    if (Memory* const memory = core_->FindLocked(begin_)) core_->CloseLocked(*memory);
  }

 private:
  const std::shared_ptr<Core> core_;
  void* const begin_;
};

absl::StatusOr<Buffer> LazyDevice::Core::Allocate(Space space, size_t bytes,
                                                  const std::string& what) {
  const size_t mapped = (bytes / kPage + 1) * kPage;
  const int access = space == Space::kDevice ? PROT_NONE : PROT_READ | PROT_WRITE;
  void* const data = mmap(nullptr, mapped, access, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) return absl::ResourceExhaustedError(absl::StrCat("memory for ", what));
  MutexLock lock(mu_);
  memory_.push_back({what, space, static_cast<char*>(data), bytes, mapped});
  return Buffer(space, data, bytes,
                [core = shared_from_this()](void* begin, size_t) { core->Free(begin); });
}

void LazyDevice::Core::Free(void* begin) {
  MutexLock lock(mu_);
  const auto memory = std::find_if(memory_.begin(), memory_.end(),
                                   [&](const Memory& one) { return one.begin == begin; });
  CHECK(memory != memory_.end());
  while (Operation* const pending = PendingLocked(begin, memory->bytes)) {
    problems_.push_back(
        absl::StrCat("freed ", memory->what, " before ", pending->name, " has run"));
    pending->touched.clear();
    pending->run = nullptr;
  }
  if (memory->open > 0) {
    problems_.push_back(absl::StrCat("freed ", memory->what, " while the host uses it"));
  }
  munmap(begin, memory->mapped);
  memory_.erase(memory);
}

size_t LazyDevice::Core::AddLane(const std::string& name) {
  MutexLock lock(mu_);
  lanes_.push_back({.name = name, .queue = {}});
  return lanes_.size() - 1;
}

void LazyDevice::Core::PushLocked(size_t lane, Operation operation) {
  if (lost_) return;
  if (!lanes_[lane].queue.empty()) ++postponed_;
  lanes_[lane].queue.push_back(std::move(operation));
  ++lanes_[lane].enqueued;
  while (random_() % 2 == 0 && RunOneLocked()) {
  }
}

void LazyDevice::Core::Enqueue(size_t lane, std::string name, std::vector<Touched> touched,
                               std::function<void()> run) {
  MutexLock lock(mu_);
  PushLocked(lane, {std::move(name), std::move(touched), std::move(run), {}});
}

void LazyDevice::Core::EnqueueWait(size_t lane, const Event& event) {
  if (event.empty()) return;
  const auto* const ours = dynamic_cast<const LazyEvent*>(event.state().get());
  CHECK(ours != nullptr) << "an event of another device";
  MutexLock lock(mu_);
  PushLocked(lane, {"Wait", {}, nullptr, ours->point()});
}

Event LazyDevice::Core::Record(size_t lane) {
  MutexLock lock(mu_);
  if (forgets_ && forgets_(lanes_[lane].name)) return {};
  return Event(std::make_shared<LazyEvent>(shared_from_this(), Point{lane, lanes_[lane].enqueued}));
}

absl::StatusOr<bool> LazyDevice::Core::Poll(const Point& point) {
  MutexLock lock(mu_);
  if (lost_) return LostError();
  if (ReachedLocked(point)) return true;
  if (RunOneLocked()) return ReachedLocked(point);
  return lost_ ? LostError() : absl::InternalError("the streams wait for each other");
}

void LazyDevice::Core::LoseAfter(int64_t operations) {
  MutexLock lock(mu_);
  operations_left_ = operations;
}

void LazyDevice::Core::LoseLocked() {
  lost_ = true;
  for (Lane& lane : lanes_) lane.queue.clear();
}

// A lane whose first operation may run, drawn among all of them.
bool LazyDevice::Core::RunOneLocked() {
  std::vector<Lane*> ready;
  for (Lane& lane : lanes_) {
    if (!lane.queue.empty() && ReachedLocked(lane.queue.front().after)) ready.push_back(&lane);
  }
  if (ready.empty()) return false;
  if (operations_left_ >= 0 && operations_left_-- == 0) {
    LoseLocked();
    return false;
  }
  Lane& lane = *ready[random_() % ready.size()];
  const Operation operation = std::move(lane.queue.front());
  lane.queue.pop_front();
  for (const Touched& range : operation.touched) ProtectLocked(range, PROT_READ | PROT_WRITE);
  if (operation.run) operation.run();
  for (const Touched& range : operation.touched) ProtectLocked(range, PROT_NONE);
  ++lane.finished;
  return true;
}

absl::StatusOr<HostAccess> LazyDevice::Core::OpenForHost(const void* begin, size_t bytes) {
  if (bytes == 0) return HostAccess();
  MutexLock lock(mu_);
  if (lost_) return LostError();
  Memory* const memory = FindLocked(begin);
  if (const Operation* const pending = PendingLocked(begin, bytes)) {
    return absl::InternalError(absl::StrCat("the host uses ",
                                            memory == nullptr ? "its memory" : memory->what,
                                            " before ", pending->name, " has run"));
  }
  if (memory == nullptr) return HostAccess();
  OpenLocked(*memory);
  return HostAccess(std::make_unique<Opened>(shared_from_this(), memory->begin));
}

LazyDevice::Core::Memory* LazyDevice::Core::FindLocked(const void* pointer) {
  const auto* const at = static_cast<const char*>(pointer);
  for (Memory& memory : memory_) {
    if (at >= memory.begin && at < memory.begin + memory.mapped) return &memory;
  }
  return nullptr;
}

// The pages of a range, where the host has not opened them all.
void LazyDevice::Core::ProtectLocked(const Touched& range, int access) {
  const Memory* const memory = range.bytes == 0 ? nullptr : FindLocked(range.begin);
  if (memory == nullptr || memory->open > 0 || memory->space != Space::kDevice) return;
  const auto begin = static_cast<size_t>(static_cast<const char*>(range.begin) - memory->begin);
  const size_t first = begin / kPage * kPage;
  const size_t end = range.and_rest ? memory->bytes : begin + range.bytes;
  CHECK_EQ(mprotect(memory->begin + first, (end - first + kPage - 1) / kPage * kPage, access), 0);
}

void LazyDevice::Core::OpenLocked(Memory& memory) {
  if (memory.open++ > 0 || memory.space != Space::kDevice) return;
  CHECK_EQ(mprotect(memory.begin, memory.mapped, PROT_READ | PROT_WRITE), 0);
}

void LazyDevice::Core::CloseLocked(Memory& memory) {
  if (--memory.open > 0 || memory.space != Space::kDevice) return;
  CHECK_EQ(mprotect(memory.begin, memory.mapped, PROT_NONE), 0);
}

LazyDevice::Core::Operation* LazyDevice::Core::PendingLocked(const void* begin, size_t bytes) {
  const auto* const first = static_cast<const char*>(begin);
  for (Lane& lane : lanes_) {
    for (Operation& operation : lane.queue) {
      for (const Touched& range : operation.touched) {
        const auto* const other = static_cast<const char*>(range.begin);
        if (other != nullptr && other < first + bytes && first < other + range.bytes) {
          return &operation;
        }
      }
    }
  }
  return nullptr;
}

bool LazyDevice::Core::Owns(const void* pointer) {
  MutexLock lock(mu_);
  const Memory* const memory = FindLocked(pointer);
  return memory != nullptr && memory->space != Space::kHost;
}

void LazyDevice::Core::Stop() {
  MutexLock lock(mu_);
  for (Lane& lane : lanes_) lane.queue.clear();
}

std::vector<std::string> LazyDevice::Core::problems() {
  MutexLock lock(mu_);
  return problems_;
}

int64_t LazyDevice::Core::operations() {
  MutexLock lock(mu_);
  int64_t finished = 0;
  for (const Lane& lane : lanes_) finished += static_cast<int64_t>(lane.finished);
  return finished;
}

int64_t LazyDevice::Core::postponed() {
  MutexLock lock(mu_);
  return postponed_;
}

LazyDevice::LazyDevice(uint64_t seed, Forgets forgets)
    : core_(std::make_shared<Core>(seed, std::move(forgets))) {}

LazyDevice::~LazyDevice() { core_->Stop(); }

absl::StatusOr<Buffer> LazyDevice::Allocate(Space space, size_t bytes, const std::string& what) {
  return core_->Allocate(space, bytes, what);
}

int64_t LazyDevice::MemoryAvailable() const { return std::numeric_limits<int64_t>::max(); }

std::unique_ptr<Stream> LazyDevice::CreateStream(const std::string& lane) {
  return std::make_unique<LazyStream>(core_, core_->AddLane(lane));
}

std::unique_ptr<Kernels> LazyDevice::CreateKernels(const std::string& lane, Kernels& inner) {
  return CreateKernelsOn(lane, std::shared_ptr<Kernels>(&inner, [](Kernels*) {}));
}

std::unique_ptr<Kernels> LazyDevice::CreateKernels(const std::string& lane,
                                                   std::unique_ptr<Kernels> inner) {
  return CreateKernelsOn(lane, std::move(inner));
}

std::unique_ptr<Kernels> LazyDevice::CreateKernelsOn(const std::string& lane,
                                                     std::shared_ptr<Kernels> inner) {
  const size_t index = core_->AddLane(lane);
  return CreateLazyKernels(core_, index, std::make_unique<LazyStream>(core_, index),
                           std::move(inner));
}

void LazyDevice::LoseAfter(int64_t operations) { core_->LoseAfter(operations); }

std::vector<std::string> LazyDevice::problems() const { return core_->problems(); }
int64_t LazyDevice::postponed() const { return core_->postponed(); }
int64_t LazyDevice::operations() const { return core_->operations(); }

}  // namespace dsrun::worker
