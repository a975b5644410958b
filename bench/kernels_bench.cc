// How fast the CPU engine is, beside what this very machine can do in the same run: a loop of fused
// multiply-adds for the products, a copy and a triad for the optimizer. Prints one line per figure.
//
//   bazel run //bench:kernels_bench [-- small|types|adamw]
//
// "small" leaves gpt2-124m out; "types" has but the comparison of fp32, bf16 and fp16, "adamw" but
// AdamW beside the stream.
//
// Each figure is the best of several repetitions: other programs only ever make it slower.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "bench/fma_peak.h"
#include "common/base/philox.h"
#include "common/model/model_plan.h"
#include "common/model/presets.h"
#include "common/plan/gradient_space.h"
#include "common/plan/matrix_plan.h"
#include "common/plan/shard_plan.h"
#include "worker/device/cpu/cpu_device.h"
#include "worker/device/cpu/cpu_kernels.h"
#include "worker/device/random_normal.h"
#include "worker/model/init.h"
#include "worker/model/model.h"
#include "worker/optim/newton_schulz.h"
#include "worker/parallel/replicated_parameters.h"

namespace dsrun::worker {
namespace {

double Seconds(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double BestSeconds(int repetitions, const std::function<void()>& work) {
  work();  // pages, caches, the library's code generation
  double best = Seconds(work);
  for (int i = 1; i < repetitions; ++i) best = std::min(best, Seconds(work));
  return best;
}

double FmaPeak(int threads) {
  ThreadPool pool(threads);
  constexpr int64_t kIterations = 2'000'000;  // some milliseconds: fits between interruptions
  const double seconds = BestSeconds(
      3, [&] { pool.ParallelFor(threads, [&](int64_t, int) { bench::RunFmaLoop(kIterations); }); });
  return threads * static_cast<double>(kIterations) * bench::FmaLoopFlops() / seconds * 1e-9;
}

Buffer MustAllocate(CpuDevice& device, int64_t floats) {
  absl::StatusOr<Buffer> buffer =
      device.Allocate(Space::kDevice, static_cast<size_t>(floats) * 4, "benchmark");
  if (!buffer.ok()) {
    std::fprintf(stderr, "%s\n", buffer.status().ToString().c_str());
    std::exit(1);
  }
  return std::move(buffer).value();
}

// Keeps those of the last layer alone.
class LastGradients : public GradientSink {
 public:
  LastGradients(const ModelPlan& plan, const FlatLayout& layout, CpuDevice& device)
      : space_(plan, layout), window_(MustAllocate(device, space_.largest_window())) {}
  std::span<float* const> Begin(size_t layer) override {
    pointers_.clear();
    for (const GradientSpace::Place& use : space_.uses(layer)) {
      pointers_.push_back(window_.floats() + use.offset);
    }
    return pointers_;
  }
  absl::Status End(size_t) override { return absl::OkStatus(); }

 private:
  const GradientSpace space_;
  const Buffer window_;
  std::vector<float*> pointers_;
};

// One training micro-batch of `spec`, forward and backward.
void MeasureModel(const ModelSpec& spec, int64_t batch, int threads, int repetitions,
                  double fma_peak) {
  CpuDevice device;
  ThreadPool pool(threads);
  CpuKernels kernels(pool, BestIsa());
  std::unique_ptr<Model> model =
      CreateModel(spec, {.micro_batch_size = batch, .threads = threads}, kernels, device).value();
  const FlatLayout layout(model->plan().tensors);
  Buffer parameters = MustAllocate(device, layout.size());
  ReplicatedParameters store(model->plan(), layout, parameters.floats());
  LastGradients gradients(model->plan(), layout, device);
  InitParameters(layout, /*seed=*/1, parameters.floats(), &pool);
  const int64_t tokens = batch * spec.seq_length;
  std::vector<int32_t> text(static_cast<size_t>(tokens));
  for (size_t i = 0; i < text.size(); ++i) {
    text[i] = static_cast<int32_t>(UniformWord(1, 2, i) % static_cast<uint32_t>(spec.vocab_size));
  }
  double forward = 1e9;
  double backward = 1e9;
  for (int i = 0; i <= repetitions; ++i) {
    // Neither pass can fail here.
    forward = std::min(forward, Seconds([&] {
                         model->Forward(0, text.data(), text.data(), store).IgnoreError();
                       }));
    backward = std::min(
        backward, Seconds([&] { model->Backward(0, store, gradients).status().IgnoreError(); }));
  }
  const double rate = TrainFlops(spec, tokens) / (forward + backward) * 1e-9;
  std::printf(
      "%s %ldx%ld, %d threads: forward %.2f ms, backward %.2f ms, %.0f tokens/s, "
      "%.0f GFLOP/s = %.0f %% of FMA peak\n",
      spec.preset.c_str(), static_cast<long>(batch), static_cast<long>(spec.seq_length), threads,
      forward * 1e3, backward * 1e3, static_cast<double>(tokens) / (forward + backward), rate,
      100 * rate / fma_peak);
}

// One layer's attention, as training does it. Counted: the scores that are seen, in the two
// products of forward and the five of backward.
void MeasureAttention(const ModelSpec& spec, int64_t batch, int repetitions, double fma_peak) {
  CpuDevice device;
  ThreadPool pool(1);
  CpuKernels kernels(pool, BestIsa());
  const SequenceShape shape{batch, spec.seq_length, spec.hidden_size, spec.num_attention_heads};
  const int64_t elements = shape.rows() * shape.width;
  Buffer qkv = MustAllocate(device, 3 * elements);
  Buffer dqkv = MustAllocate(device, 3 * elements);
  Buffer out = MustAllocate(device, elements);
  Buffer log_sum_exp = MustAllocate(device, shape.rows() * shape.heads);
  Buffer scratch = MustAllocate(device, kernels.AttentionScratch(shape, DType::kF32));
  for (int64_t i = 0; i < 3 * elements; ++i) {
    qkv.floats()[i] = RandomUnitFloat(UniformWord(1, 3, static_cast<uint64_t>(i))) - 0.5f;
  }
  const double forward = BestSeconds(repetitions, [&] {
    kernels.AttentionForward(shape, {}, qkv.floats(), scratch.floats(), out.floats(),
                             log_sum_exp.floats());
  });
  const double backward = BestSeconds(repetitions, [&] {
    kernels.AttentionBackward(shape, {}, qkv.floats(), out.floats(), log_sum_exp.floats(),
                              out.floats(), scratch.floats(), dqkv.floats());
  });
  const double seen = static_cast<double>(shape.rows() * shape.heads * (shape.seq_length + 1)) / 2;
  const double rate =
      7 * 2 * seen * static_cast<double>(shape.head_size()) / (forward + backward) * 1e-9;
  std::printf(
      "attention %ldx%ld, %ld heads of %ld, 1 thread: forward %.0f us, backward %.0f us, "
      "%.0f GFLOP/s = %.0f %% of FMA peak\n",
      static_cast<long>(batch), static_cast<long>(shape.seq_length), static_cast<long>(shape.heads),
      static_cast<long>(shape.head_size()), forward * 1e6, backward * 1e6, rate,
      100 * rate / fma_peak);
}

// AdamW moves 28 bytes a parameter. STREAM counts 8 bytes an element for a copy and 12 for a triad;
// the memory moves 4 more, since a line is read before it is written (AdamW's are read anyway).
// Both counts are printed: the second is the bound.
void MeasureAdam(int64_t n, int threads) {
  CpuDevice device;
  ThreadPool pool(threads);
  CpuKernels kernels(pool, BestIsa());
  Buffer buffers[4] = {MustAllocate(device, n), MustAllocate(device, n), MustAllocate(device, n),
                       MustAllocate(device, n)};
  for (const Buffer& buffer : buffers) std::fill_n(buffer.floats(), n, 0.01f);
  AdamWArguments arguments;
  arguments.lr = 1e-4f;
  const double adam = BestSeconds(5, [&] {
    kernels.AdamW(n, arguments, buffers[0].floats(), buffers[1].floats(), buffers[2].floats(),
                  buffers[3].floats());
  });
  constexpr int64_t kPiece = 1 << 14;
  const auto stream = [&](bool triad) {
    const float* const a = buffers[0].floats();
    const float* const b = buffers[1].floats();
    float* const c = buffers[2].floats();
    return BestSeconds(5, [&] {
      pool.ParallelFor(n / kPiece, [&](int64_t piece, int) {
        const int64_t end = (piece + 1) * kPiece;
        if (triad) {
#pragma GCC ivdep
          for (int64_t i = piece * kPiece; i < end; ++i) c[i] = a[i] + 0.5f * b[i];
        } else {
#pragma GCC ivdep
          for (int64_t i = piece * kPiece; i < end; ++i) c[i] = a[i];
        }
      });
    });
  };
  const double copy_rate = 8e-9 * static_cast<double>(n) / stream(false);
  const double triad_rate = 12e-9 * static_cast<double>(n) / stream(true);
  const double adam_rate = 28e-9 * static_cast<double>(n) / adam;
  const double bound = triad_rate * 16 / 12;
  std::printf(
      "AdamW %.0fM parameters, %d threads: %.1f ms, %.1f GB/s; copy %.1f, triad %.1f GB/s (%.1f "
      "with the lines read before writing); AdamW = %.0f %% of stream, %.0f %% of the bound\n",
      static_cast<double>(n) * 1e-6, threads, adam * 1e3, adam_rate, copy_rate, triad_rate, bound,
      100 * adam_rate / std::max(copy_rate, triad_rate), 100 * adam_rate / bound);
}

// The other optimizers, by the bytes that each must move: gradient and slots read, parameters and
// slots read and written.
void MeasureOptimizers(int64_t n, int threads) {
  CpuDevice device;
  ThreadPool pool(threads);
  CpuKernels kernels(pool, BestIsa());
  Buffer buffers[4] = {MustAllocate(device, n), MustAllocate(device, n), MustAllocate(device, n),
                       MustAllocate(device, n)};
  for (const Buffer& buffer : buffers) std::fill_n(buffer.floats(), n, 0.01f);
  float* const g = buffers[0].floats();
  float* const p = buffers[1].floats();
  float* const m = buffers[2].floats();
  float* const v = buffers[3].floats();
  AdamWArguments adam;
  adam.lr = 1e-6f;
  const LionArguments lion{.lr = 1e-6f};
  const AdagradArguments adagrad{.lr = 1e-6f};
  const SgdArguments sgd{.lr = 1e-6f, .momentum = 0.9f};
  const auto print = [&](const char* name, int bytes, const auto& run) {
    const double seconds = BestSeconds(5, run);
    std::printf("%-14s %.0fM parameters, %d threads: %.1f ms, %.1f GB/s\n", name,
                static_cast<double>(n) * 1e-6, threads, seconds * 1e3,
                1e-9 * bytes * static_cast<double>(n) / seconds);
  };
  print("AdamW", 28, [&] { kernels.AdamW(n, adam, g, p, m, v); });
  print("Adam", 28, [&] { kernels.Adam(n, adam, g, p, m, v); });
  print("Lion", 20, [&] { kernels.Lion(n, lion, g, p, m); });
  print("Adagrad", 20, [&] { kernels.Adagrad(n, adagrad, g, p, v); });
  print("SGD", 12, [&] { kernels.Sgd(n, sgd, g, p); });
  print("SGD, momentum", 20, [&] { kernels.SgdMomentum(n, sgd, g, p, m); });
  print("Muon, both", 16 + 12, [&] {
    kernels.MuonMomentum(n, {}, g, m);
    kernels.DescendAndDecay(n, 1e-6f, 0, g, p);
  });
  print("LAMB", 28 + 12, [&] {
    kernels.LambDirection(n, adam, p, g, m, v);
    kernels.Descend(n, 1e-6f, g, p);
  });
}

// The same operations in each type that a model computes in: a linear layer of gpt2-124m's MLP, a
// layernorm, and attention.
void MeasureTypes(int threads) {
  CpuDevice device;
  ThreadPool pool(threads);
  CpuKernels kernels(pool, BestIsa());
  constexpr int64_t kRows = 1024;
  constexpr int64_t kWidth = 768;
  constexpr int64_t kInner = 4 * kWidth;
  const SequenceShape sequence{1, kRows, kWidth, 12};
  std::vector<Buffer> buffers;
  const auto array = [&](int64_t elements, DType dtype) {
    buffers.push_back(MustAllocate(device, elements));
    Buffer numbers = MustAllocate(device, elements);
    for (int64_t i = 0; i < elements; ++i) {
      numbers.floats()[i] = RandomUnitFloat(UniformWord(1, 3, static_cast<uint64_t>(i))) - 0.5f;
    }
    const Reals reals(buffers.back().data(), dtype);
    kernels.Cast(elements, numbers.floats(), reals);
    return reals;
  };
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    buffers.clear();
    const Reals x = array(kRows * kWidth, dtype);
    const Reals w = array(kWidth * kInner, dtype);
    const Reals dx = array(kRows * kWidth, dtype);
    const Reals out = array(kRows * kInner, dtype);
    const Reals slope = array(kRows * kInner, dtype);
    const Reals qkv = array(3 * kRows * kWidth, dtype);
    const Reals dqkv = array(3 * kRows * kWidth, dtype);
    float* const floats = array(kWidth * kInner, DType::kF32).f32();
    float* const scratch = array(kernels.AttentionScratch(sequence, dtype), DType::kF32).f32();
    const LinearShape shape{kRows, kWidth, kInner};
    const std::string type(NameOf(dtype));
    const auto print = [&](const char* what, double flops, const auto& run) {
      const double seconds = BestSeconds(5, run);
      const std::string rate =
          flops == 0 ? "" : ", " + std::to_string(std::lround(flops / seconds * 1e-9)) + " GFLOP/s";
      std::printf("%-4s %-22s %d threads: %.0f us%s\n", type.c_str(), what, threads, seconds * 1e6,
                  rate.c_str());
    };
    const double flops = 2.0 * kRows * kWidth * kInner;
    print("LinearForward", flops, [&] { kernels.LinearForward(shape, x, w, qkv, out); });
    print("LinearGeluForward", flops,
          [&] { kernels.LinearGeluForward(shape, x, w, qkv, slope, out); });
    print("LinearBackwardInput", flops, [&] { kernels.LinearBackwardInput(shape, out, w, dx); });
    print("LinearBackwardWeight", flops,
          [&] { kernels.LinearBackwardWeight(shape, x, out, floats); });
    print("LayerNormForward", 0,
          [&] { kernels.LayerNormForward(kRows, kWidth, x, w, w, dx, floats, floats + kRows); });
    print("LayerNormBackward", 0, [&] {
      kernels.LayerNormBackward(kRows, kWidth, x, w, floats, floats + kRows, x, x, dx,
                                floats + 2 * kRows, floats + 3 * kRows);
    });
    print("SwiGluForward", 0, [&] { kernels.SwiGluForward(kRows * kInner, slope, slope, out); });
    print("AttentionForward", 0,
          [&] { kernels.AttentionForward(sequence, {}, qkv, scratch, dx, floats); });
    print("AttentionBackward", 0,
          [&] { kernels.AttentionBackward(sequence, {}, qkv, dx, floats, dx, scratch, dqkv); });
  }
}

// Muon's matrices, by both methods, of the width of gpt2-124m.
void MeasureNewtonSchulz(int threads, double peak) {
  CpuDevice device;
  ThreadPool pool(threads);
  CpuKernels kernels(pool, BestIsa());
  for (const MatrixShape shape : {MatrixShape{768, 768}, {768, 2304}, {768, 3072}, {3072, 768}}) {
    const Buffer x = MustAllocate(device, shape.size());
    const Buffer scratch = MustAllocate(device, NewtonSchulzScratch(shape));
    std::vector<float> start(static_cast<size_t>(shape.size()));
    NormalRange(1, 0, 0, shape.size(), 0.0005f, start.data());  // its norm is below 1
    for (const NsMethod method : {NsMethod::kGram, NsMethod::kStandard}) {
      const double seconds = BestSeconds(5, [&] {
        std::copy(start.begin(), start.end(), x.floats());
        NewtonSchulz(kernels, method, shape, x.floats(), scratch.floats());
      });
      const double rate = 1e-9 * NewtonSchulzFlops(method, shape) / seconds;
      std::printf(
          "Newton-Schulz %lldx%lld, %s, %d threads: %.1f ms, %.0f GFLOP/s, %.0f %% of peak\n",
          static_cast<long long>(shape.rows), static_cast<long long>(shape.columns),
          method == NsMethod::kGram ? "gram" : "standard", threads, seconds * 1e3, rate,
          100 * rate / peak);
    }
  }
}

void Main(const std::string& what) {
  const bool small = what == "small";
  if (what == "adamw") {
    for (const int threads : {1, 2}) MeasureAdam(124 << 20, threads);
    return;
  }
  const MatrixLibrary library = MatrixLibraryInUse();
  std::printf("%s %s %s\n", library.name.c_str(), library.version.c_str(), library.isa.c_str());
  double peak[3] = {};
  for (const int threads : {1, 2}) {
    peak[threads] = FmaPeak(threads);
    std::printf("FMA peak, %d threads: %.0f GFLOP/s\n", threads, peak[threads]);
  }
  for (const int threads : {1, 2}) MeasureTypes(threads);
  if (what == "types") return;
  const ModelSpec nano = FindPreset("gpt2-nano").value();
  for (const int threads : {1, 2}) MeasureModel(nano, 4, threads, 20, peak[threads]);
  MeasureAttention(nano, 4, 200, peak[1]);
  for (const int threads : {1, 2}) MeasureAdam(small ? 16 << 20 : 124 << 20, threads);
  for (const int threads : {1, 2}) MeasureOptimizers(small ? 16 << 20 : 124 << 20, threads);
  for (const int threads : {1, 2}) MeasureNewtonSchulz(threads, peak[threads]);
  if (small) return;
  ModelSpec large = FindPreset("gpt2-124m").value();
  large.seq_length = 64;
  for (const int threads : {1, 2}) MeasureModel(large, 4, threads, 4, peak[threads]);
  MeasureAttention(FindPreset("gpt2-124m").value(), 1, 5, peak[1]);  // 1024 long
}

}  // namespace
}  // namespace dsrun::worker

int main(int argc, char** argv) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  dsrun::worker::Main(argc > 1 ? argv[1] : "");
  return 0;
}
