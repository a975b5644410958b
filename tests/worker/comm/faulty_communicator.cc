#include "tests/worker/comm/faulty_communicator.h"

#include <string>
#include <utility>

namespace dsrun::worker {
namespace {

class FaultyCommunicator : public Communicator {
 public:
  FaultyCommunicator(std::unique_ptr<Communicator> inner, std::vector<CommunicatorFault> faults)
      : inner_(std::move(inner)), faults_(std::move(faults)) {}

  int rank() const override { return inner_->rank(); }
  int size() const override { return inner_->size(); }

  absl::Status Exchange(std::span<const SendOp> sends, std::span<const RecvOp> recvs,
                        const std::string& what) override {
    if (!error_.ok()) return error_;
    ++calls_;
    for (const CommunicatorFault& fault : faults_) {
      if (fault.call != calls_) continue;
      switch (fault.kind) {
        case CommunicatorFault::Kind::kFail:
          error_ = fault.error;
          return error_;
        case CommunicatorFault::Kind::kDrop:
          return inner_->Exchange({}, recvs, what);
        case CommunicatorFault::Kind::kDelay:
          fault.before();
          break;
      }
    }
    return inner_->Exchange(sends, recvs, what);
  }

  void SetTimeout(absl::Duration timeout) override { inner_->SetTimeout(timeout); }
  void Abort(const std::string& reason) override { inner_->Abort(reason); }

 private:
  const std::unique_ptr<Communicator> inner_;
  const std::vector<CommunicatorFault> faults_;
  int calls_ = 0;
  absl::Status error_;
};

}  // namespace

std::unique_ptr<Communicator> CreateFaultyCommunicator(std::unique_ptr<Communicator> inner,
                                                       std::vector<CommunicatorFault> faults) {
  return std::make_unique<FaultyCommunicator>(std::move(inner), std::move(faults));
}

}  // namespace dsrun::worker
