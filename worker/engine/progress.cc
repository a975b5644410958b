#include "worker/engine/progress.h"

#include <span>
#include <utility>

#include "absl/status/status.h"
#include "common/base/proto_duration.h"

namespace dsrun::worker {
namespace {

class WatchedCommunicator : public Communicator {
 public:
  WatchedCommunicator(std::unique_ptr<Communicator> inner, Progress* progress)
      : inner_(std::move(inner)), progress_(progress) {}

  int rank() const override { return inner_->rank(); }
  int size() const override { return inner_->size(); }
  absl::Status Exchange(std::span<const SendOp> sends, std::span<const RecvOp> recvs,
                        const std::string& what) override {
    progress_->EnterExchange();
    absl::Status status = inner_->Exchange(sends, recvs, what);
    progress_->LeaveExchange();
    return status;
  }
  void SetTimeout(absl::Duration timeout) override { inner_->SetTimeout(timeout); }
  void Abort(const std::string& reason) override { inner_->Abort(reason); }

 private:
  const std::unique_ptr<Communicator> inner_;
  Progress* const progress_;
};

}  // namespace

void Progress::Set(int64_t step, const std::string& phase, absl::Duration patience) {
  MutexLock lock(mu_);
  beat_.set_step(step);
  beat_.set_phase(phase);
  beat_.set_moves(beat_.moves() + 1);
  patience_ = patience;
}

void Progress::Moved() {
  MutexLock lock(mu_);
  beat_.set_moves(beat_.moves() + 1);
}

void Progress::EnterExchange() {
  MutexLock lock(mu_);
  beat_.set_moves(beat_.moves() + 1);
  ++exchanges_;
}

void Progress::LeaveExchange() {
  MutexLock lock(mu_);
  beat_.set_moves(beat_.moves() + 1);
  --exchanges_;
}

proto::Beat Progress::Get() const {
  MutexLock lock(mu_);
  proto::Beat beat = beat_;
  if (exchanges_ == 0 && patience_ != absl::InfiniteDuration()) {
    *beat.mutable_patience() = ToProto(patience_);
  }
  return beat;
}

std::unique_ptr<Communicator> WatchExchanges(std::unique_ptr<Communicator> inner,
                                             Progress* progress) {
  return std::make_unique<WatchedCommunicator>(std::move(inner), progress);
}

}  // namespace dsrun::worker
