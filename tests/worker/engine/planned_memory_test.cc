// Plan and allocator agree: what an engine takes from its device is the memory plan, to the byte.

#include <atomic>
#include <memory>

#include "common/model/model_spec_proto.h"
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
    return inner_.Allocate(space, bytes, what);
  }
  int64_t MemoryAvailable() const override { return inner_.MemoryAvailable(); }
  std::atomic<int64_t> allocated{0};

 private:
  CpuDevice inner_;
};

TEST(PlannedMemoryTest, AnEngineAllocatesItsPlanAndNothingElse) {
  proto::TrainSpec spec = TinySpec(/*micro_batches=*/4);
  for (const int layout : {1, 2, 3, 4, 5, 6}) {
    const int width = layout > 4 ? layout - 2 : layout;  // 3: one rank has two atoms; 4: all one
    spec.set_zero_stage(layout > 4 ? 3 : 1);
    spec.set_micro_batches_per_atom(width == 2 ? 2 : 1);
    std::vector<std::unique_ptr<Communicator>> group = CreateInProcessGroup(width, {});
    for (int rank = 0; rank < width; ++rank) {
      absl::StatusOr<Engine> engine = BuildEngine(spec);
      ASSERT_TRUE(engine.ok()) << engine.status();
      CountingDevice device;
      const auto model = CreateModel(
          FromProto(spec.model()),
          {.micro_batch_size = spec.micro_batch_size(), .threads = spec.threads_per_rank()},
          *engine->kernels, device);
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
      EXPECT_EQ(device.allocated, plan.total_bytes()) << "rank " << rank << " of " << width;
    }
  }
}

}  // namespace
}  // namespace dsrun::worker
