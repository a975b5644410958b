#include "tests/worker/engine/training_ranks.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <span>
#include <thread>
#include <utility>

#include "common/base/cpu_isa.h"
#include "common/base/philox.h"
#include "gtest/gtest.h"
#include "tests/worker/engine/engine_under_test.h"
#include "worker/comm/in_process/in_process_communicator.h"

namespace dsrun::worker {
namespace {

// About 17,000 bytes of words, the same in every run.
std::string MakeText() {
  static const char* const kWords[] = {"rank ",  "shard ", "batch ", "step ",
                                       "norm\n", "tree ",  "leaf "};
  std::string text;
  for (uint64_t i = 0; i < 3000; ++i) {
    text += kWords[RandomAt(7, RandomPurpose::kDataOrder, 0, i)[0] % 7];
  }
  return text;
}

template <typename T>
bool SameBytes(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

}  // namespace

void SampleText(int64_t index, std::span<int32_t> tokens, std::span<int32_t> targets) {
  static const std::string* const text = new std::string(MakeText());
  const uint64_t start = static_cast<uint64_t>(index) * 131 % (text->size() - 1 - tokens.size());
  for (size_t i = 0; i < tokens.size(); ++i) {
    tokens[i] = static_cast<unsigned char>((*text)[start + i]);
    targets[i] = static_cast<unsigned char>((*text)[start + i + 1]);
  }
}

bool TrainedState::SameBits(const TrainedState& other) const {
  return !losses.empty() && SameBytes(parameters, other.parameters) &&
         SameBytes(adam_m, other.adam_m) && SameBytes(adam_v, other.adam_v) &&
         exponents == other.exponents && SameBytes(losses, other.losses) &&
         SameBytes(grad_norms, other.grad_norms);
}

proto::TrainSpec TinySpec(int64_t micro_batches) {
  proto::TrainSpec spec;
  proto::ModelSpec* const model = spec.mutable_model();
  model->set_num_layers(2);
  model->set_hidden_size(48);
  model->set_num_attention_heads(4);
  model->set_seq_length(24);
  model->set_vocab_size(256);
  spec.set_micro_batch_size(2);
  spec.set_global_batch_size(2 * micro_batches);
  spec.set_train_iters(10);
  spec.set_lr(3e-3);
  spec.set_adam_beta1(0.9);
  spec.set_adam_beta2(0.95);
  spec.set_adam_eps(1e-8);
  spec.set_weight_decay(0.1);
  spec.set_clip_grad(1.0);
  spec.set_seed(1234);
  spec.set_threads_per_rank(1);
  spec.set_bucket_bytes(64 << 10);
  spec.set_overlap_comm(true);
  spec.set_device("cpu");
  spec.set_isa_cap(IsaName(BestIsa()));
  spec.set_check_collectives("off");
  return spec;
}

void OnRanks(const proto::TrainSpec& spec, int width,
             const std::function<void(Trainer::Setup& setup)>& body) {
  std::vector<std::unique_ptr<Communicator>> group = CreateInProcessGroup(width, {});
  std::vector<std::thread> ranks;
  for (int rank = 0; rank < width; ++rank) {
    ranks.emplace_back([&, rank] {
      absl::StatusOr<Engine> engine = BuildEngineUnderTest(spec);
      ASSERT_TRUE(engine.ok()) << engine.status();
      Trace trace(/*enabled=*/rank == 0, rank);
      Trainer::Setup setup;
      setup.spec = &spec;
      setup.communicator = group[static_cast<size_t>(rank)].get();
      setup.device = engine->device.get();
      setup.model = engine->model.get();
      setup.kernels = engine->kernels.get();
      setup.comm_kernels = engine->comm_kernels.get();
      setup.sample = SampleText;
      setup.cancelled = [] { return false; };
      setup.trace = &trace;
      body(setup);
    });
  }
  for (std::thread& rank : ranks) rank.join();
}

TrainedState Train(const proto::TrainSpec& spec, int width, int steps, const HowTrained& how) {
  TrainedState result;
  Mutex mu;
  OnRanks(spec, width, [&](Trainer::Setup& setup) {
    const int rank = setup.communicator->rank();
    setup.route = how.route;
    setup.atoms = how.atoms;
    how.adjust(setup);
    absl::StatusOr<std::unique_ptr<Trainer>> trainer = Trainer::Create(setup);
    ASSERT_TRUE(trainer.ok()) << trainer.status();
    ShardedState& state = (*trainer)->state();
    const FlatLayout& layout = (*trainer)->layout();
    ASSERT_TRUE((*trainer)->InitializeParameters(spec.seed()).ok());
    for (int step = 0; step < steps; ++step) {
      const absl::StatusOr<StepResult> done = (*trainer)->TrainStep(/*stop_requested=*/false);
      ASSERT_TRUE(done.ok()) << "rank " << rank << ": " << done.status();
      if (rank == 0) {
        result.losses.push_back(done->loss);
        result.grad_norms.push_back(done->grad_norm);
        result.steps.push_back(*done);
      }
    }
    ASSERT_TRUE((*trainer)->Settle().ok());
    const auto access = (*trainer)->OpenState();
    ASSERT_TRUE(access.ok()) << access.status();
    MutexLock lock(mu);
    std::vector<float>* const arenas[] = {&result.adam_m, &result.adam_v};
    for (size_t slot = 0; slot < state.slots.size(); ++slot) {
      arenas[slot]->resize(static_cast<size_t>(layout.size()));
      int64_t at = 0;
      for (const Range& range : (*trainer)->owned_with_slot(slot)) {
        std::copy_n(state.slots[slot] + at, range.size(), arenas[slot]->data() + range.begin);
        at += range.size();
      }
    }
    if (state.partitioned) {
      result.parameters.resize(static_cast<size_t>(layout.size()));
      const float* from = state.parameters;
      for (const Range& range : (*trainer)->stored()) {
        std::copy_n(from, range.size(), result.parameters.data() + range.begin);
        from += range.size();
      }
    } else {
      const std::vector<float> parameters(state.parameters, state.parameters + layout.size());
      if (result.parameters.empty()) result.parameters = parameters;
      EXPECT_TRUE(SameBytes(result.parameters, parameters)) << "ranks ended with other parameters";
    }
    if (rank == 0) result.exponents = (*trainer)->exponents().state();
    EXPECT_EQ(result.exponents.empty() || result.exponents == (*trainer)->exponents().state(),
              true);
    if (rank == 0) result.trace = setup.trace->Json();
  });
  return result;
}

}  // namespace dsrun::worker
