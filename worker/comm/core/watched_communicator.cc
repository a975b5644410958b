#include "worker/comm/core/watched_communicator.h"

#include <span>
#include <utility>

#include "absl/status/status.h"
#include "common/base/clock.h"

namespace dsrun::worker {
namespace {

class WatchedCommunicator : public Communicator {
 public:
  WatchedCommunicator(std::unique_ptr<Communicator> inner, absl::Duration timeout,
                      ExchangeWatch watch)
      : inner_(std::move(inner)), watch_(std::move(watch)), timeout_(timeout) {}

  int rank() const override { return inner_->rank(); }
  int size() const override { return inner_->size(); }
  absl::Status Exchange(std::span<const SendOp> sends, std::span<const RecvOp> recvs,
                        const std::string& what) override {
    const SteadyTime begin = Clock::Real().SteadyNow();
    watch_.enter();
    absl::Status status = inner_->Exchange(sends, recvs, what);
    watch_.leave();
    if (status.ok() || absl::IsAborted(status)) return status;
    const absl::Duration waited = Clock::Real().SteadyNow() - begin;
    if (waited >= timeout_ / 2) watch_.waited_in_vain(what, waited);
    return status;
  }
  void SetTimeout(absl::Duration timeout) override {
    timeout_ = timeout;
    inner_->SetTimeout(timeout);
  }
  void Abort(const std::string& reason) override { inner_->Abort(reason); }

 private:
  const std::unique_ptr<Communicator> inner_;
  const ExchangeWatch watch_;
  absl::Duration timeout_;  // of the owner, as Exchange
};

}  // namespace

std::unique_ptr<Communicator> WatchExchanges(std::unique_ptr<Communicator> inner,
                                             absl::Duration timeout, ExchangeWatch watch) {
  return std::make_unique<WatchedCommunicator>(std::move(inner), timeout, std::move(watch));
}

}  // namespace dsrun::worker
