// A communicator and a model that do what the one inside does: what tests put their own parts on.

#ifndef DSRUN_TESTS_WORKER_ENGINE_WRAPPERS_H_
#define DSRUN_TESTS_WORKER_ENGINE_WRAPPERS_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "worker/comm/core/communicator.h"
#include "worker/device/kernels.h"
#include "worker/device/stream.h"
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

// A model whose passes call what a test puts in.
class ModelWrapper : public Model {
 public:
  // With the kernels of `inner`, Written may read and change the gradients, which are the device's.
  explicit ModelWrapper(Model& inner, Kernels* kernels = nullptr)
      : inner_(inner), kernels_(kernels) {}

  const ModelPlan& plan() const override { return inner_.plan(); }
  void SetGradientScale(float scale) override { inner_.SetGradientScale(scale); }
  absl::StatusOr<size_t> FirstBadLayer(size_t slot) override { return inner_.FirstBadLayer(slot); }
  absl::Status Forward(size_t slot, const int32_t* tokens, const int32_t* targets,
                       const std::optional<PassDraws>& draws, ParameterStore& parameters) override {
    Store store(*this, parameters);
    return inner_.Forward(slot, tokens, targets, draws, store);
  }
  absl::StatusOr<LossSum> Backward(size_t slot, ParameterStore& parameters,
                                   GradientSink& gradients) override {
    Sink sink(*this, gradients);
    return inner_.Backward(slot, parameters, sink);
  }
  absl::StatusOr<LossSum> Loss(size_t slot, ParameterStore& parameters) override {
    return inner_.Loss(slot, parameters);
  }
  absl::Status Outputs(size_t slot, ParameterStore& parameters, float* out) override {
    return inner_.Outputs(slot, parameters, out);
  }
  absl::Status NextTokenLogits(const int32_t* tokens, int64_t length, ParameterStore& parameters,
                               float* logits) override {
    return inner_.NextTokenLogits(tokens, length, parameters, logits);
  }

 protected:
  // A forward pass has the parameters of `layer`.
  virtual void Acquired(size_t layer) {}
  // A backward pass has written gradients[use] of `layer`; nobody has seen them yet. An error ends
  // the pass.
  virtual absl::Status Written(size_t layer, std::span<const std::span<float>> gradients) {
    return absl::OkStatus();
  }
  // And now they were taken over. An error ends the pass.
  virtual absl::Status Taken(size_t layer) { return absl::OkStatus(); }

 private:
  class Store : public ParameterStore {
   public:
    Store(ModelWrapper& model, ParameterStore& inner) : model_(model), inner_(inner) {}
    absl::StatusOr<std::span<const ConstReals>> Acquire(size_t layer) override {
      auto acquired = inner_.Acquire(layer);
      if (acquired.ok()) model_.Acquired(layer);
      return acquired;
    }
    void Release(size_t layer) override { inner_.Release(layer); }

   private:
    ModelWrapper& model_;
    ParameterStore& inner_;
  };

  class Sink : public GradientSink {
   public:
    Sink(ModelWrapper& model, GradientSink& inner) : model_(model), inner_(inner) {}
    size_t lowest_layer() const override { return inner_.lowest_layer(); }
    std::span<float* const> Begin(size_t layer) override {
      const std::span<float* const> pointers = inner_.Begin(layer);
      const ModelPlan& plan = model_.plan();
      gradients_.clear();
      for (size_t use = 0; use < pointers.size(); ++use) {
        const int64_t size = plan.tensors[plan.layers[layer].uses[use]].size();
        gradients_.emplace_back(pointers[use], static_cast<size_t>(size));
      }
      return pointers;
    }
    absl::Status End(size_t layer) override {
      const absl::Status written = Written(layer);
      if (!written.ok()) return written;
      const absl::Status taken = inner_.End(layer);
      return taken.ok() ? model_.Taken(layer) : taken;
    }

   private:
    absl::Status Written(size_t layer) {
      std::vector<HostAccess> opened;
      if (model_.kernels_ != nullptr) {
        Stream& stream = model_.kernels_->stream();
        const absl::Status ran = stream.Record().Await();
        if (!ran.ok()) return ran;
        for (const std::span<float> of : gradients_) {
          absl::StatusOr<HostAccess> access = stream.OpenForHost(of.data(), of.size_bytes());
          if (!access.ok()) return access.status();
          opened.push_back(*std::move(access));
        }
      }
      return model_.Written(layer, gradients_);
    }

    ModelWrapper& model_;
    GradientSink& inner_;
    std::vector<std::span<float>> gradients_;
  };

  Model& inner_;
  Kernels* const kernels_;
};

}  // namespace dsrun::worker

#endif  // DSRUN_TESTS_WORKER_ENGINE_WRAPPERS_H_
