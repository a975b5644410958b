#include "worker/comm/core/queued_communicator.h"

#include <deque>
#include <functional>
#include <optional>
#include <thread>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/logging.h"
#include "common/base/mutex.h"
#include "common/base/range.h"
#include "common/base/status_macros.h"
#include "common/base/thread.h"
#include "worker/comm/core/collectives.h"
#include "worker/comm/core/exchange_errors.h"
#include "worker/comm/core/reduce_scatter.h"

namespace dsrun::worker {
namespace {

class QueuedCommunicator : public AsyncCommunicator {
 public:
  QueuedCommunicator(std::unique_ptr<Communicator> inner, std::string name)
      : inner_(std::move(inner)), name_(std::move(name)) {}

  ~QueuedCommunicator() override {
    bool under_way;
    {
      MutexLock lock(mu_);
      under_way = done_ < added_;
      quit_ = true;
      more_.NotifyAll();
    }
    if (under_way) Abort("its communicator is destroyed, with operations under way");
    if (thread_.joinable()) thread_.join();
  }

  int rank() const override { return inner_->rank(); }
  int size() const override { return inner_->size(); }

  absl::Status Exchange(std::span<const SendOp> sends, std::span<const RecvOp> recvs,
                        const std::string& what) override {
    // The caller stays: nothing is copied, and nobody is woken to do it for him.
    return Await(Add([&](Communicator& inner) { return inner.Exchange(sends, recvs, what); }));
  }

  CommEvent Enqueue(std::vector<SendOp> sends, std::vector<RecvOp> recvs,
                    const std::string& what) override {
    return AddForThread([sends = std::move(sends), recvs = std::move(recvs),
                         what](Communicator& inner) { return inner.Exchange(sends, recvs, what); });
  }

  CommEvent EnqueueAllGather(const void* mine, size_t bytes, void* all,
                             const std::string& what) override {
    return AddForThread(
        [=](Communicator& inner) { return AllGatherBlocks(inner, mine, bytes, all, what); });
  }

  CommEvent EnqueueReduceScatter(int64_t* sums, int64_t elements, std::span<int64_t> scratch,
                                 const std::string& what) override {
    CHECK_GE(static_cast<int64_t>(scratch.size()), ScratchElements(elements)) << "'" << what << "'";
    return AddForThread([=](Communicator& inner) {
      // As unsigned ones: their overflow is defined.
      const std::span<uint64_t> space(reinterpret_cast<uint64_t*>(scratch.data()), scratch.size());
      return ReduceScatterSums<uint64_t>(inner, kRoute, Blocks(inner.size(), elements),
                                         reinterpret_cast<uint64_t*>(sums), space, AddSums, what);
    });
  }
  int64_t ScratchElements(int64_t elements) const override {
    return ReduceScratchElements(kRoute, Blocks(size(), elements), rank());
  }

  absl::Status Await(CommEvent event) override {
    MutexLock lock(mu_);
    CHECK(event.number == 0 || event.of == this) << "an event of another communicator";
    while (done_ < event.number) {
      if (running_) {
        ended_.Wait(mu_);
      } else {
        RunNext();
      }
    }
    return failed_at_ > 0 && event.number >= failed_at_ ? error_ : absl::OkStatus();
  }

  absl::Status AsyncError() override {
    MutexLock lock(mu_);
    return error_;
  }

  void SetTimeout(absl::Duration timeout) override { timeout_ = timeout; }

  void Abort(const std::string& reason) override {
    {
      MutexLock lock(mu_);
      Fail(Annotate(AbortedError(inner_->rank(), reason), name_), done_ + 1);
    }
    inner_->Abort(reason);
  }

 private:
  using Work = std::function<absl::Status(Communicator&)>;
  struct Operation {
    Work work;
    std::optional<absl::Duration> timeout;
  };

  // The ring holds least memory, and its messages are as long as a block.
  static constexpr ReduceRoute kRoute{ReduceWay::kRing};

  static Owners Blocks(int size, int64_t elements) {
    Owners owners;
    for (int64_t rank = 0; rank < size; ++rank) {
      owners.push_back({Range{rank * elements, (rank + 1) * elements}});
    }
    return owners;
  }
  static void AddSums(int64_t n, const uint64_t* src, uint64_t* dst) {
    for (int64_t i = 0; i < n; ++i) dst[i] += src[i];
  }

  CommEvent Add(Work work) ABSL_LOCKS_EXCLUDED(mu_) {
    MutexLock lock(mu_);
    queue_.push_back({std::move(work), timeout_});
    return {++added_, this};
  }
  CommEvent AddForThread(Work work) ABSL_LOCKS_EXCLUDED(mu_) {
    if (!thread_.joinable()) StartWorking();
    const CommEvent event = Add(std::move(work));
    MutexLock lock(mu_);
    more_.NotifyAll();
    return event;
  }
  void StartWorking() ABSL_LOCKS_EXCLUDED(mu_) {
    absl::StatusOr<std::thread> thread =
        StartThread("a lane of a process group", [this] { RunUntilQuit(); });
    if (thread.ok()) {
      thread_ = *std::move(thread);
      return;
    }
    MutexLock lock(mu_);
    Fail(Annotate(thread.status(), name_), added_ + 1);
  }
  void RunUntilQuit() ABSL_LOCKS_EXCLUDED(mu_) {
    MutexLock lock(mu_);
    while (true) {
      // Also what is left at the end is ended: somebody may ask for its event from a destructor.
      if (!running_ && !queue_.empty()) {
        RunNext();
      } else if (quit_ && queue_.empty()) {
        return;
      } else {
        more_.Wait(mu_);
      }
    }
  }
  // Performs the first operation of the queue, unless the lane has failed. Releases the lock
  // meanwhile; `running_` keeps others from the communicator.
  void RunNext() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    Operation operation = std::move(queue_.front());
    queue_.pop_front();
    running_ = true;
    absl::Status status;
    if (error_.ok()) {
      mu_.Unlock();
      if (operation.timeout && operation.timeout != applied_timeout_) {
        inner_->SetTimeout(*operation.timeout);
        applied_timeout_ = operation.timeout;
      }
      status = operation.work(*inner_);
      mu_.Lock();
    }
    running_ = false;
    ++done_;
    if (!status.ok()) Fail(std::move(status), done_);
    ended_.NotifyAll();
    more_.NotifyAll();
  }
  void Fail(absl::Status error, uint64_t at) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (!error_.ok()) return;
    error_ = std::move(error);
    failed_at_ = at;
  }

  const std::unique_ptr<Communicator> inner_;
  const std::string name_;
  std::optional<absl::Duration> timeout_;  // the owner's; absent: what `inner_` was made with
  std::optional<absl::Duration> applied_timeout_;  // of whoever runs an operation

  Mutex mu_;
  CondVar more_;   // for the thread
  CondVar ended_;  // for who awaits
  std::deque<Operation> queue_ ABSL_GUARDED_BY(mu_);
  bool running_ ABSL_GUARDED_BY(mu_) = false;
  bool quit_ ABSL_GUARDED_BY(mu_) = false;
  uint64_t added_ ABSL_GUARDED_BY(mu_) = 0;
  uint64_t done_ ABSL_GUARDED_BY(mu_) = 0;
  absl::Status error_ ABSL_GUARDED_BY(mu_);
  uint64_t failed_at_ ABSL_GUARDED_BY(mu_) = 0;  // the first operation that did not end well
  std::thread thread_;                           // started and joined by the owner
};

}  // namespace

std::unique_ptr<AsyncCommunicator> QueueOperations(std::unique_ptr<Communicator> inner,
                                                   std::string name) {
  return std::make_unique<QueuedCommunicator>(std::move(inner), std::move(name));
}

}  // namespace dsrun::worker
