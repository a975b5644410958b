// Plan and allocator agree: what an engine takes from its device is the memory plan, to the byte.

#include <array>
#include <atomic>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/model/model_spec_proto.h"
#include "common/model/presets.h"
#include "common/plan/memory_input.h"
#include "common/plan/memory_plan.h"
#include "gtest/gtest.h"
#include "tests/worker/engine/training_ranks.h"
#include "worker/comm/in_process/in_process_communicator.h"
#include "worker/device/cpu/cpu_device.h"
#include "worker/engine/engine_factory.h"
#include "worker/model/model.h"

namespace dsrun::worker {
namespace {

class CountingDevice : public Device {
 public:
  std::string name() const override { return inner_.name(); }
  absl::StatusOr<Buffer> Allocate(Space space, size_t bytes, const std::string& what) override {
    allocated += static_cast<int64_t>(bytes);
    of_space[static_cast<size_t>(space)] += static_cast<int64_t>(bytes);
    return inner_.Allocate(space, bytes, what);
  }
  int64_t MemoryAvailable() const override { return inner_.MemoryAvailable(); }
  std::atomic<int64_t> allocated{0};
  std::array<std::atomic<int64_t>, 3> of_space{};

 private:
  CpuDevice inner_;
};

// Jobs that take memory in different ways: both families, atoms of several micro-batches, frozen
// tensors, fast sums, buckets of one leaf, threads.
std::vector<std::pair<std::string, proto::TrainSpec>> Jobs() {
  std::vector<std::pair<std::string, proto::TrainSpec>> jobs;
  const proto::TrainSpec tiny = TinySpec(/*micro_batches=*/4);
  const auto add = [&](const std::string& name) -> proto::TrainSpec& {
    return jobs.emplace_back(name, tiny).second;
  };
  add("plain");
  add("atoms of two").set_micro_batches_per_atom(2);
  add("fast sums").set_sums("fast");
  add("small buckets").set_bucket_bytes(4096);
  add("three threads").set_threads_per_rank(3);
  add("frozen").add_frozen("wte.weight");
  add("recomputed").mutable_recompute()->set_every(1);
  add("every second recomputed").mutable_recompute()->set_every(2);
  add("stage 0").set_zero_stage(0);
  add("bf16").set_precision("bf16");
  add("fp16, recomputed").set_precision("fp16");
  jobs.back().second.mutable_recompute()->set_every(1);
  add("bf16, stage 0").set_precision("bf16");
  jobs.back().second.set_zero_stage(0);
  add("fp16, stage 3, frozen").set_precision("fp16");
  jobs.back().second.set_zero_stage(3);
  jobs.back().second.add_frozen("wte.weight");
  for (const int stage : {2, 3}) {
    const std::string name = "stage " + std::to_string(stage);
    add(name).set_zero_stage(stage);
    const auto also = [&](const std::string& what) -> proto::TrainSpec& {
      proto::TrainSpec& spec = add(name + ", " + what);
      spec.set_zero_stage(stage);
      return spec;
    };
    also("atoms of two").set_micro_batches_per_atom(2);
    also("fast sums").set_sums("fast");
    also("small buckets").set_bucket_bytes(4096);
    also("frozen").add_frozen("wte.weight");
    also("recomputed").mutable_recompute()->set_every(1);
  }
  for (const int stage : {0, 1, 3}) {
    proto::TrainSpec& muon = add("muon, stage " + std::to_string(stage));
    muon.set_zero_stage(stage);
    muon.mutable_optimizer()->set_name("muon");
  }
  proto::TrainSpec& own_nothing = add("muon, small buckets");
  own_nothing.set_bucket_bytes(4096);
  own_nothing.mutable_optimizer()->set_name("muon");
  ModelSpec llama = *FindPreset("llama-nano");
  llama.num_layers = 2;
  ToProto(llama, add("llama").mutable_model());
  return jobs;
}

// States to the byte, and so is the arena of the activations.
TEST(PlannedMemoryTest, AnEngineAllocatesItsPlanAndNothingElse) {
  for (const auto& [name, spec] : Jobs()) {
    for (const int width : {1, 2, 3, 4}) {  // 3: one rank has two atoms; 4: all have one
      if (width > 2 && spec.micro_batches_per_atom() == 2) continue;
      std::vector<std::unique_ptr<Communicator>> group = CreateInProcessGroup(width, {});
      for (int rank = 0; rank < width; ++rank) {
        absl::StatusOr<Engine> engine = BuildEngine(spec);
        ASSERT_TRUE(engine.ok()) << engine.status();
        CountingDevice device;
        const auto model = BuildModel(spec, *engine->kernels, device);
        ASSERT_TRUE(model.ok()) << model.status();
        Trace trace(/*enabled=*/false, rank);
        Trainer::Setup setup;
        setup.spec = &spec;
        setup.communicator = group[static_cast<size_t>(rank)].get();
        setup.device = &device;
        setup.model = model->get();
        setup.kernels = engine->kernels.get();
        setup.comm_kernels = engine->comm_kernels.get();
        setup.sample = SampleText;
        setup.cancelled = [] { return false; };
        setup.trace = &trace;
        Buffer snapshot;  // outlives the trainer
        setup.reserve_snapshot = [&](size_t bytes) -> absl::Status {
          absl::StatusOr<Buffer> buffer = device.Allocate(Space::kHost, bytes, "save_snapshot");
          if (buffer.ok()) snapshot = *std::move(buffer);
          return buffer.status();
        };
        ASSERT_TRUE(Trainer::Create(setup).ok());

        MemoryInput input = MemoryInputFromProto(spec);
        EXPECT_EQ(input.micro_batches, 4);
        input.width = width;
        input.rank = rank;
        const MemoryPlan plan = PlanMemory(input);
        EXPECT_EQ(device.allocated, plan.total_bytes())
            << name << ", rank " << rank << " of " << width;
        for (const Space space : {Space::kHost, Space::kPinned, Space::kDevice}) {
          EXPECT_EQ(device.of_space[static_cast<size_t>(space)], plan.bytes_in(space)) << name;
        }
      }
    }
  }
}

}  // namespace
}  // namespace dsrun::worker
