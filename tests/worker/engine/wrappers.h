// A communicator and a model that do what the one inside does: what tests put their own parts on.

#ifndef DSRUN_TESTS_WORKER_ENGINE_WRAPPERS_H_
#define DSRUN_TESTS_WORKER_ENGINE_WRAPPERS_H_

#include <cstdint>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "worker/comm/core/communicator.h"
#include "worker/model/model.h"

namespace dsrun::worker {

class CommunicatorWrapper : public Communicator {
 public:
  explicit CommunicatorWrapper(Communicator& inner) : inner_(inner) {}

  int rank() const override { return inner_.rank(); }
  int size() const override { return inner_.size(); }
  absl::Status Exchange(std::span<const SendOp> sends, std::span<const RecvOp> recvs,
                        const std::string& what) override {
    return inner_.Exchange(sends, recvs, what);
  }
  void SetTimeout(absl::Duration timeout) override { inner_.SetTimeout(timeout); }
  void Abort(const std::string& reason) override { inner_.Abort(reason); }

 private:
  Communicator& inner_;
};

class ModelWrapper : public Model {
 public:
  explicit ModelWrapper(Model& inner) : inner_(inner) {}

  int64_t gradient_size() const override { return inner_.gradient_size(); }
  absl::StatusOr<LossSum> Forward(const float* parameters, const int32_t* tokens,
                                  const int32_t* targets, const RangeFn& needed) override {
    return inner_.Forward(parameters, tokens, targets, needed);
  }
  absl::Status Backward(const float* parameters, float* gradients, const RangeFn& ready) override {
    return inner_.Backward(parameters, gradients, ready);
  }
  void NextTokenLogits(const float* parameters, const int32_t* tokens, int64_t length,
                       float* logits) override {
    inner_.NextTokenLogits(parameters, tokens, length, logits);
  }

 private:
  Model& inner_;
};

}  // namespace dsrun::worker

#endif  // DSRUN_TESTS_WORKER_ENGINE_WRAPPERS_H_
