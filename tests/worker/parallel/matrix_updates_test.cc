// Muon's step: the bits of one rank at every width, whoever holds what, and the formula in double
// precision.

#include "worker/parallel/matrix_updates.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/plan/optimizer_settings.h"
#include "tests/worker/comm/rank_threads.h"
#include "worker/device/cpu/cpu_kernels.h"
#include "worker/device/random_normal.h"
#include "worker/optim/optimizer.h"

namespace dsrun::worker {
namespace {

using Floats = std::vector<float>;
using Doubles = std::vector<double>;

size_t Z(int64_t i) { return static_cast<size_t>(i); }

// Matrices of part of a leaf, of several, tall, wide, square; more than ranks, and between others.
std::vector<LogicalTensor> Tensors() {
  const auto matrix = [](const char* name, int64_t rows, int64_t columns) {
    return LogicalTensor{
        .name = name, .shape = {rows, columns}, .weight_decay = true, .hidden_matrix = true};
  };
  return {{.name = "table", .shape = {60, 40}, .weight_decay = true},
          matrix("wide", 32, 100),
          {.name = "bias", .shape = {7}},
          matrix("tall", 90, 30),
          matrix("square", 64, 64),
          {.name = "norm", .shape = {1500}},
          matrix("small", 5, 9),
          matrix("long", 24, 333),
          {.name = "frozen", .shape = {40, 40}, .trainable = false, .hidden_matrix = true}};
}

struct State {
  Floats param, m, v;
  friend bool operator==(const State&, const State&) = default;
};

constexpr double kRate = 0.01;
constexpr double kScale = 0.5;
constexpr int kSteps = 3;

Floats Numbers(const FlatLayout& layout, const std::string& name) {
  Floats x(Z(layout.size()));
  for (const FlatLayout::Entry& entry : layout.entries()) {
    NormalRange(1, StreamId(name.c_str(), entry.tensor.name), 0, entry.tensor.size(), 1,
                x.data() + entry.offset);
  }
  return x;
}

OptimizerSettings Muon(std::map<std::string, double> params = {}) {
  return CreateOptimizer("muon", params, /*weight_decay=*/0.1).value();
}

// One rank's part: what it owns, or under ZeRO-0 all shares, its own first.
struct Rank {
  std::vector<Range> ranges;
  Floats update, m, v;
};

Rank Cut(const ShardPlan& shards, int rank, bool everywhere) {
  Rank cut;
  const auto add = [&](int owner) {
    for (const Range& range : shards.Owned(owner)) cut.ranges.push_back(range);
  };
  add(rank);
  for (int other = 0; everywhere && other < shards.width(); ++other) {
    if (other != rank) add(other);
  }
  int64_t elements = 0;
  for (const Range& range : cut.ranges) elements += range.size();
  cut.update.resize(Z(elements));
  cut.m.resize(Z(elements));
  cut.v.resize(Z(elements));
  return cut;
}

// kSteps steps; every owner's parts, or rank 0's of all.
State Stepped(const OptimizerSettings& settings, int width, int64_t bucket_bytes, bool everywhere) {
  const FlatLayout layout(Tensors());
  const ShardPlan shards(layout, width, bucket_bytes);
  const MatrixPlan plan = PlanMatrices(layout, width);
  State state{Numbers(layout, "param"), Floats(Z(layout.size())), Floats(Z(layout.size()))};
  std::vector<Floats> params(Z(width), state.param);
  Group group = MakeGroup(Backend::kInProcess, width);
  RunRanks(width, [&](int rank) {
    ThreadPool pool(1 + rank % 2);
    CpuKernels kernels(pool, BestIsa());
    Rank mine = Cut(shards, rank, everywhere);
    // What must not matter.
    Floats matrix(Z(plan.MatrixElements(rank)), 1e30f);
    Floats scratch(Z(plan.ScratchElements(rank)), 1e30f);
    std::vector<double> device(1 + Z(rank)), host(1 + Z(rank));
    Optimizer optimizer(kernels, layout, settings);
    MatrixUpdates updates({.communicator = group[Z(rank)].get(),
                           .kernels = &kernels,
                           .layout = &layout,
                           .shards = &shards,
                           .method = optimizer.ns_method(),
                           .everywhere = everywhere,
                           .updates = mine.update.data(),
                           .matrix = matrix.data(),
                           .scratch = scratch.data(),
                           .squares = {&kernels, device.data(), host},
                           .check = [] { return absl::OkStatus(); }});
    Floats& param = params[Z(rank)];
    for (int step = 1; step <= kSteps; ++step) {
      const Floats grad = Numbers(layout, "grad" + std::to_string(step));
      int64_t at = 0;
      for (const Range& range : mine.ranges) {
        std::copy(grad.begin() + range.begin, grad.begin() + range.end, mine.update.begin() + at);
        float* const slots[] = {mine.m.data() + at, mine.v.data() + at};
        optimizer.Step(step, {.lr = kRate}, kScale, range, mine.update.data() + at,
                       param.data() + range.begin, slots);
        at += range.size();
      }
      ASSERT_TRUE(updates.Orthogonalise().ok());
      at = 0;
      for (const Range& range : mine.ranges) {
        optimizer.DescendMatrices({.lr = kRate}, range, mine.update.data() + at,
                                  param.data() + range.begin);
        at += range.size();
      }
    }
    int64_t at = 0;
    for (const Range& range : mine.ranges) {
      if (everywhere && rank > 0) break;
      std::copy_n(param.data() + range.begin, range.size(), state.param.data() + range.begin);
      std::copy_n(mine.m.data() + at, range.size(), state.m.data() + range.begin);
      std::copy_n(mine.v.data() + at, range.size(), state.v.data() + range.begin);
      at += range.size();
    }
  });
  for (const Floats& other : params) {
    if (everywhere) {
      EXPECT_EQ(other, params[0]);
    }
  }
  return state;
}

TEST(MatrixUpdatesTest, EveryWidthBucketAndStage_HasTheBitsOfOneRank) {
  for (const char* const method : {"gram", "standard"}) {
    const OptimizerSettings settings =
        Muon({{"ns_method", std::string(method) == "gram" ? 0.0 : 1.0}});
    const State one = Stepped(settings, 1, 1 << 20, false);
    for (const int width : {1, 2, 3, 4, 9}) {
      for (const int64_t bucket : {4 << 10, 16 << 10, 1 << 20}) {
        for (const bool everywhere : {false, true}) {
          EXPECT_EQ(Stepped(settings, width, bucket, everywhere), one)
              << method << ", width " << width << ", bucket " << bucket
              << (everywhere ? ", everywhere" : "");
        }
      }
    }
  }
  EXPECT_NE(Stepped(Muon(), 1, 1 << 20, false),
            Stepped(Muon({{"momentum", 0.9}}), 1, 1 << 20, false))
      << "the comparison can fail";
}

// x / (norm + 1e-7), then five times x <- a x + b x x^T x + c x x^T x x^T x, without a thought for
// which side is smaller.
Doubles Orthogonalised(int64_t rows, int64_t columns, Doubles x) {
  double square = 0;
  for (const double value : x) square += value * value;
  for (double& value : x) value /= std::sqrt(square) + 1e-7;
  for (int step = 0; step < 5; ++step) {
    const auto times_gram = [&](const Doubles& y) {  // x x^T y
      Doubles xty(Z(columns * columns)), out(y.size());
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t i = 0; i < columns; ++i) {
          for (int64_t j = 0; j < columns; ++j) {
            xty[Z(i * columns + j)] += x[Z(r * columns + i)] * y[Z(r * columns + j)];
          }
        }
      }
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t i = 0; i < columns; ++i) {
          for (int64_t j = 0; j < columns; ++j) {
            out[Z(r * columns + j)] += x[Z(r * columns + i)] * xty[Z(i * columns + j)];
          }
        }
      }
      return out;
    };
    const Doubles once = times_gram(x);
    const Doubles twice = times_gram(once);
    for (size_t i = 0; i < x.size(); ++i) {
      x[i] = 3.4445 * x[i] - 4.7750 * once[i] + 2.0315 * twice[i];
    }
  }
  return x;
}

TEST(MatrixUpdatesTest, Steps_AreThoseOfTheFormula) {
  const OptimizerSettings settings = Muon({{"beta2", 0.9}, {"eps", 1e-6}});
  const State state = Stepped(settings, 2, 8 << 10, false);
  const FlatLayout layout(Tensors());
  const Floats start = Numbers(layout, "param");
  for (const FlatLayout::Entry& entry : layout.entries()) {
    const LogicalTensor& tensor = entry.tensor;
    if (!tensor.trainable) continue;
    const double decay = tensor.weight_decay ? 0.1 : 0;
    Doubles p(start.begin() + entry.offset, start.begin() + entry.flat().end);
    Doubles m(p.size()), v(p.size());
    for (int step = 1; step <= kSteps; ++step) {
      const Floats grad = Numbers(layout, "grad" + std::to_string(step));
      Doubles update(p.size());
      const double beta1 = tensor.hidden_matrix ? 0.95 : 0.9;
      for (size_t i = 0; i < p.size(); ++i) {
        const double g = kScale * grad[Z(entry.offset) + i];
        m[i] = beta1 * m[i] + (1 - beta1) * g;
        if (tensor.hidden_matrix) {
          update[i] = beta1 * m[i] + (1 - beta1) * g;
          continue;
        }
        v[i] = 0.9 * v[i] + 0.1 * g * g;
        update[i] = m[i] / (1 - std::pow(beta1, step)) /
                    (std::sqrt(v[i] / (1 - std::pow(0.9, step))) + 1e-6);
      }
      if (tensor.hidden_matrix) {
        const double rows = static_cast<double>(tensor.shape[0]);
        const double columns = static_cast<double>(tensor.shape[1]);
        update = Orthogonalised(tensor.shape[0], tensor.shape[1], update);
        for (double& value : update) value *= rows > columns ? std::sqrt(rows / columns) : 1;
      }
      for (size_t i = 0; i < p.size(); ++i) p[i] = p[i] * (1 - kRate * decay) - kRate * update[i];
    }
    for (size_t i = 0; i < p.size(); ++i) {
      ASSERT_NEAR(state.param[Z(entry.offset) + i], p[i], 2e-5) << tensor.name << " " << i;
      ASSERT_NEAR(state.m[Z(entry.offset) + i], m[i], 1e-5) << tensor.name;
      ASSERT_NEAR(state.v[Z(entry.offset) + i], v[i], 1e-5) << tensor.name;
    }
    for (int64_t i = entry.flat().end; i < entry.padded().end; ++i) {
      ASSERT_EQ(state.param[Z(i)], 0) << "padding of " << tensor.name;
    }
  }
}

TEST(MatrixUpdatesTest, AnErrorOfTheCheck_EndsTheStep) {
  const FlatLayout layout(Tensors());
  const ShardPlan shards(layout, 1, 1 << 20);
  const MatrixPlan plan = PlanMatrices(layout, 1);
  Group group = MakeGroup(Backend::kInProcess, 1);
  ThreadPool pool(1);
  CpuKernels kernels(pool, BestIsa());
  Floats update(Z(layout.size())), matrix(Z(plan.MatrixElements(0))),
      scratch(Z(plan.ScratchElements(0)));
  std::vector<double> device(8), host(8);
  int asked = 0;
  MatrixUpdates updates({.communicator = group[0].get(),
                         .kernels = &kernels,
                         .layout = &layout,
                         .shards = &shards,
                         .method = NsMethod::kGram,
                         .everywhere = false,
                         .updates = update.data(),
                         .matrix = matrix.data(),
                         .scratch = scratch.data(),
                         .squares = {&kernels, device.data(), host},
                         .check = [&]() -> absl::Status {
                           return ++asked < 3 ? absl::OkStatus() : absl::AbortedError("over");
                         }});
  EXPECT_TRUE(absl::IsAborted(updates.Orthogonalise()));
  EXPECT_EQ(asked, 3);
  EXPECT_EQ(update, Floats(update.size())) << "of zero gradients nothing comes";
}

}  // namespace
}  // namespace dsrun::worker
