// No allocation after step 2: whatever a rank needs of size it has taken by then, from its plan.
// Every way by which this process asks the C library for memory is watched here, C++, oneDNN and
// all: the whole program's malloc is this file's.

#include <errno.h>
#include <execinfo.h>
#include <link.h>
#include <stddef.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <iostream>
#include <memory>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "common/model/model_spec_proto.h"
#include "common/model/presets.h"
#include "common/plan/library_plan.h"
#include "gtest/gtest.h"
#include "tests/worker/engine/training_ranks.h"
#include "worker/device/cpu/cpu_matmul.h"

extern "C" {
// The C library's own (glibc).
void* __libc_malloc(size_t bytes);
void* __libc_calloc(size_t count, size_t bytes);
void* __libc_realloc(void* old, size_t bytes);
void* __libc_memalign(size_t alignment, size_t bytes);
void __libc_free(void* data);
}

namespace {

// Metadata, messages and names of a step are smaller: a tensor of the models below is not.
constexpr size_t kOfSize = 8 << 10;
constexpr int kMostFrames = 24;

// Where oneDNN's code is.
struct Code {
  uintptr_t begin = 0;
  uintptr_t end = 0;
};
Code library;

int FindLibrary(dl_phdr_info* info, size_t, void*) {
  if (std::string_view(info->dlpi_name).find("libdnnl") == std::string_view::npos) return 0;
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const ElfW(Phdr)& part = info->dlpi_phdr[i];
    if (part.p_type != PT_LOAD || (part.p_flags & PF_X) == 0) continue;
    library = {info->dlpi_addr + part.p_vaddr, info->dlpi_addr + part.p_vaddr + part.p_memsz};
  }
  return 1;
}

struct Seen {
  size_t bytes = 0;
  int frames = 0;
  std::array<void*, kMostFrames> stack{};
};

std::atomic<bool> watching{false};
std::atomic<size_t> count{0};       // of size
std::atomic<size_t> of_library{0};  // the largest that oneDNN has asked for
std::array<Seen, 64> seen;
thread_local bool inside = false;

void Note(size_t bytes) {
  if (!watching.load(std::memory_order_relaxed) || inside) return;
  if (bytes < kOfSize) return;
  inside = true;
  Seen one;
  one.bytes = bytes;
  one.frames = backtrace(one.stack.data(), kMostFrames);
  const auto in_library = [](void* frame) {
    const auto at = reinterpret_cast<uintptr_t>(frame);
    return at >= library.begin && at < library.end;
  };
  // This function, malloc and posix_memalign come first.
  if (std::any_of(one.stack.begin(), one.stack.begin() + std::min(one.frames, 5), in_library)) {
    size_t most = of_library;
    while (bytes > most && !of_library.compare_exchange_weak(most, bytes)) {
    }
  } else if (const size_t at = count++; at < seen.size()) {
    seen[at] = one;
  }
  inside = false;
}

}  // namespace

extern "C" {
void* malloc(size_t bytes) {
  Note(bytes);
  return __libc_malloc(bytes);
}
void* calloc(size_t number, size_t bytes) {
  Note(number * bytes);
  return __libc_calloc(number, bytes);
}
void* realloc(void* old, size_t bytes) {
  Note(bytes);
  return __libc_realloc(old, bytes);
}
void* memalign(size_t alignment, size_t bytes) {
  Note(bytes);
  return __libc_memalign(alignment, bytes);
}
void* aligned_alloc(size_t alignment, size_t bytes) { return memalign(alignment, bytes); }
int posix_memalign(void** out, size_t alignment, size_t bytes) {
  *out = memalign(alignment, bytes);
  return *out == nullptr ? ENOMEM : 0;
}
void free(void* data) { __libc_free(data); }
}

namespace dsrun::worker {
namespace {

void FindLibraryOnce() {
  void* warm[1];
  backtrace(warm, 1);  // loads what it needs itself
  dl_iterate_phdr(&FindLibrary, nullptr);
  ASSERT_NE(library.end, 0u) << "oneDNN is not found";
}

// Large enough that anything that grows with the model, the batch or a bucket is of size.
proto::TrainSpec Spec(const std::string& preset, int64_t micro_batches) {
  proto::TrainSpec spec = TinySpec(micro_batches);
  ModelSpec model = *FindPreset(preset);
  model.num_layers = 2;
  model.seq_length = 128;
  ToProto(model, spec.mutable_model());
  spec.set_bucket_bytes(1 << 20);
  return spec;
}

// The test of the tester: an allocation of size is seen, one that is not is not.
TEST(SteadyMemoryTest, AnAllocationOfSizeIsSeen) {
  FindLibraryOnce();
  count = 0;
  watching = true;
  auto small = std::make_unique<std::vector<char>>(kOfSize / 2);
  EXPECT_EQ(count, 0u);
  auto large = std::make_unique<std::vector<char>>(kOfSize);
  watching = false;
  EXPECT_EQ(count, 1u) << small->size() + large->size();
}

// Of every tile that a product is cut into, whatever is inside: never more than its line.
TEST(SteadyMemoryTest, AProductTakesNoMoreThanItsLine) {
  FindLibraryOnce();
  constexpr int64_t kMostInner = 4096;
  const Tiling largest = TilesOf(1 << 20, 1 << 20);
  const std::vector<float> a(static_cast<size_t>(largest.tile_m * kMostInner), 1.0f);
  const std::vector<float> b(static_cast<size_t>(largest.tile_n * kMostInner), 1.0f);
  std::vector<float> c(static_cast<size_t>(largest.tile_m * largest.tile_n));
  of_library = 0;
  for (int64_t m = 16; m <= largest.tile_m; m *= 2) {
    for (int64_t n = 16; n <= largest.tile_n; n += n < 64 ? 16 : 64) {
      for (const int64_t k : {64, 384, 1000, 4096}) {
        for (const bool of_a : {false, true}) {
          for (const bool of_b : {false, true}) {
            watching = true;
            SerialMatmul(m, n, k, 1, {a.data(), of_a ? m : k, of_a}, {b.data(), of_b ? k : n, of_b},
                         0, c.data(), n);
            watching = false;
          }
        }
      }
    }
  }
  std::cout << "a product takes up to " << of_library << " bytes of " << kProductBytes << "\n";
  EXPECT_GT(of_library, 0u) << "oneDNN was not seen";
  EXPECT_LE(static_cast<int64_t>(of_library), kProductBytes);
}

TEST(SteadyMemoryTest, AfterTheSecondStep_NothingOfSizeIsAllocated) {
  FindLibraryOnce();
  for (const auto& [preset, width, stage] : {std::tuple("gpt2-nano", 1, 1),
                                             {"gpt2-nano", 2, 1},
                                             {"gpt2-nano", 3, 1},
                                             {"gpt2-nano", 3, 2},
                                             {"llama-nano", 1, 1},
                                             {"llama-nano", 2, 1},
                                             {"llama-nano", 3, 1},
                                             {"llama-nano", 2, 2},
                                             {"llama-nano", 3, 3}}) {
    SCOPED_TRACE(std::string(preset) + ", width " + std::to_string(width) + ", stage " +
                 std::to_string(stage));
    proto::TrainSpec spec = Spec(preset, /*micro_batches=*/4);
    spec.set_zero_stage(stage);
    if (width == 3 && stage == 1) spec.mutable_optimizer()->set_name("muon");
    // Masks are stored nowhere.
    spec.set_hidden_dropout(width == 2 ? 0.1 : 0);
    spec.set_attention_dropout(width == 2 ? 0.1 : 0);
    count = 0;
    std::atomic<int> ready{0};
    OnRanks(spec, width, [&](Trainer::Setup& setup) {
      Trace trace(/*enabled=*/false, setup.communicator->rank());
      setup.trace = &trace;
      absl::StatusOr<std::unique_ptr<Trainer>> trainer = Trainer::Create(setup);
      ASSERT_TRUE(trainer.ok()) << trainer.status();
      ASSERT_TRUE((*trainer)->InitializeParameters(spec.seed()).ok());
      for (int step = 0; step < 6; ++step) {
        if (step == 2) {
          // Nobody begins the third step before all have ended the second.
          ASSERT_TRUE((*trainer)->Settle().ok());
          if (++ready == width) {
            watching = true;
            watching.notify_all();
          }
          watching.wait(false);
        }
        const absl::StatusOr<StepResult> done = (*trainer)->TrainStep(false);
        ASSERT_TRUE(done.ok()) << done.status();
      }
      ASSERT_TRUE((*trainer)->Settle().ok());
      // Nobody goes before all are through: what a rank gives back or ends with is no step's.
      if (--ready == 0) {
        watching = false;
        watching.notify_all();
      }
      watching.wait(true);
    });
    watching = false;
    const size_t times = count;
    EXPECT_LE(static_cast<int64_t>(of_library), kProductBytes);
    EXPECT_EQ(times, 0u) << "allocations of " << kOfSize << " bytes and more";
    for (size_t i = 0; i < std::min(times, seen.size()); ++i) {
      std::cerr << "-- " << seen[i].bytes << " bytes\n";
      backtrace_symbols_fd(seen[i].stack.data(), seen[i].frames, STDERR_FILENO);
    }
  }
}

}  // namespace
}  // namespace dsrun::worker
