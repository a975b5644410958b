// Every kernel against the plain formulas of reference.h, its gradients against finite differences
// of those formulas, at sizes that are no multiple of anything. Tolerance: a float has 2^-24 =
// 6e-8; sums here have at most a few hundred terms, so 1e-5 of the largest value is 100 times the
// expected error and far below any wrong formula.

#include "worker/device/cpu/cpu_kernels.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "common/numerics/fingerprint.h"
#include "common/numerics/kernels_version.h"
#include "tests/worker/device/reference.h"

namespace dsrun::worker {
namespace {

using testing::Doubles;
using testing::ExpectClose;
using testing::FiniteDifferences;
using testing::Floats;
using testing::Random;
using testing::Wide;
using testing::Z;

constexpr double kTolerance = 1e-5;

class CpuKernelsTest : public ::testing::Test {
 protected:
  ThreadPool pool_{2};
  CpuKernels kernels_{pool_, BestIsa()};
};

TEST_F(CpuKernelsTest, Gelu_MatchesTanhFormulaAndItsSlope) {
  Floats x = Random(1003, 1, 6);
  x.insert(x.end(), {0.0f, -0.0f, 30.0f, -30.0f, 1e4f, -1e4f});
  const int64_t n = static_cast<int64_t>(x.size());
  const Floats one(1, 1.0f);  // one row, one input: what goes into GELU is x itself
  const Floats bias(Z(n), 0.0f);
  Floats out(Z(n));
  Floats slopes(Z(n));
  kernels_.LinearGeluForward({1, 1, n}, one.data(), x.data(), bias.data(), slopes.data(),
                             out.data());
  for (int64_t i = 0; i < n; ++i) {
    const double at = x[Z(i)];
    const double expected = testing::GeluOf(at);
    ASSERT_NEAR(out[Z(i)], expected, 1e-6 * (1 + std::fabs(expected))) << "at " << at;
    const double slope = (testing::GeluOf(at + 1e-5) - testing::GeluOf(at - 1e-5)) / 2e-5;
    ASSERT_NEAR(slopes[Z(i)], slope, 1e-5) << "at " << at;
  }
}

TEST_F(CpuKernelsTest, Accumulate_AddsEveryElementOnce) {
  const int64_t n = 100003;
  const Floats a = Random(n, 3);
  const Floats b = Random(n, 4);
  Floats accumulated = a;
  kernels_.Accumulate(n, b.data(), accumulated.data());
  for (int64_t i = 0; i < n; ++i) ASSERT_EQ(accumulated[Z(i)], a[Z(i)] + b[Z(i)]);
}

TEST_F(CpuKernelsTest, Embedding_GathersForwardAndScattersBackward) {
  const SequenceShape shape{3, 5, 19, 1};
  const int64_t vocab = 11;
  const int64_t positions = 8;  // more than are used
  const std::vector<int32_t> tokens = {0, 10, 3, 3, 7, 7, 7, 1, 0, 2, 10, 3, 4, 5, 0};
  const Floats wte = Random(vocab * 19, 5);
  const Floats wpe = Random(positions * 19, 6);
  const Floats dout = Random(15 * 19, 7);
  Floats out(15 * 19);
  kernels_.EmbeddingForward(shape, tokens.data(), wte.data(), wpe.data(), out.data());
  Floats dwte(Z(vocab * 19), 99.0f);
  Floats dwpe(Z(positions * 19), 99.0f);
  kernels_.EmbeddingBackward(shape, vocab, positions, tokens.data(), dout.data(), dwte.data(),
                             dwpe.data());
  Doubles expected_wte(Z(vocab * 19));
  Doubles expected_wpe(Z(positions * 19));
  for (int64_t row = 0; row < 15; ++row) {
    for (int64_t i = 0; i < 19; ++i) {
      const int64_t token_at = tokens[Z(row)] * 19 + i;
      const int64_t position_at = row % 5 * 19 + i;
      ASSERT_EQ(out[Z(row * 19 + i)], wte[Z(token_at)] + wpe[Z(position_at)]);
      expected_wte[Z(token_at)] += dout[Z(row * 19 + i)];
      expected_wpe[Z(position_at)] += dout[Z(row * 19 + i)];
    }
  }
  ExpectClose(dwte, expected_wte, kTolerance, "dwte");
  ExpectClose(dwpe, expected_wpe, kTolerance, "dwpe");
}

class LayerNormTest : public CpuKernelsTest, public ::testing::WithParamInterface<int64_t> {};

TEST_P(LayerNormTest, MatchesFormulaAndFiniteDifferences) {
  const int64_t rows = 7;
  const int64_t width = GetParam();
  const Floats x = Random(rows * width, 8, 2);
  const Floats weight = Random(width, 9);
  const Floats bias = Random(width, 10);
  const Floats dout = Random(rows * width, 11);
  const Floats residual = Random(rows * width, 12);
  Floats out(x.size());
  Floats mean(Z(rows));
  Floats rstd(Z(rows));
  kernels_.LayerNormForward(rows, width, x.data(), weight.data(), bias.data(), out.data(),
                            mean.data(), rstd.data());
  ExpectClose(out, testing::LayerNormOf(rows, width, Wide(x), Wide(weight), Wide(bias)), kTolerance,
              "out");
  const auto loss = [&](const Doubles& x_, const Doubles& weight_, const Doubles& bias_) {
    return testing::Dot(testing::LayerNormOf(rows, width, x_, weight_, bias_), Wide(dout));
  };
  Doubles expected_dx = FiniteDifferences(
      [&](const Doubles& at) { return loss(at, Wide(weight), Wide(bias)); }, Wide(x));
  Floats dx(x.size());
  Floats dweight(Z(width));
  Floats dbias(Z(width));
  kernels_.LayerNormBackward(rows, width, x.data(), weight.data(), mean.data(), rstd.data(),
                             dout.data(), nullptr, dx.data(), dweight.data(), dbias.data());
  ExpectClose(dx, expected_dx, kTolerance, "dx");
  ExpectClose(dweight,
              FiniteDifferences([&](const Doubles& at) { return loss(Wide(x), at, Wide(bias)); },
                                Wide(weight)),
              kTolerance, "dweight");
  ExpectClose(dbias,
              FiniteDifferences([&](const Doubles& at) { return loss(Wide(x), Wide(weight), at); },
                                Wide(bias)),
              kTolerance, "dbias");
  // With a residual, in place.
  Floats in_place = residual;
  kernels_.LayerNormBackward(rows, width, x.data(), weight.data(), mean.data(), rstd.data(),
                             dout.data(), in_place.data(), in_place.data(), dweight.data(),
                             dbias.data());
  for (size_t i = 0; i < dx.size(); ++i) ASSERT_EQ(in_place[i], residual[i] + dx[i]);
}

INSTANTIATE_TEST_SUITE_P(Widths, LayerNormTest, ::testing::Values(2, 15, 16, 33, 64));

struct LinearCase {
  int64_t rows;
  int64_t inputs;
  int64_t outputs;
};

class LinearTest : public CpuKernelsTest, public ::testing::WithParamInterface<LinearCase> {};

TEST_P(LinearTest, AllProducts_MatchFormulas) {
  const auto [rows, inputs, outputs] = GetParam();
  const LinearShape shape{rows, inputs, outputs};
  const Floats x = Random(rows * inputs, 13);
  const Floats w = Random(inputs * outputs, 14);
  const Floats bias = Random(outputs, 15);
  const Floats dout = Random(rows * outputs, 16);
  const Floats residual = Random(rows * outputs, 17);
  const Doubles y = testing::LinearOf(rows, inputs, outputs, Wide(x), Wide(w), Wide(bias));

  Floats out(Z(rows * outputs));
  kernels_.LinearForward(shape, x.data(), w.data(), bias.data(), out.data());
  ExpectClose(out, y, kTolerance, "out");
  kernels_.LinearForward(shape, x.data(), w.data(), nullptr, out.data());
  ExpectClose(out, testing::LinearOf(rows, inputs, outputs, Wide(x), Wide(w), {}), kTolerance,
              "out without bias");
  kernels_.LinearResidualForward(shape, x.data(), w.data(), bias.data(), residual.data(),
                                 out.data());
  Doubles with_residual = y;
  for (size_t i = 0; i < y.size(); ++i) with_residual[i] += residual[i];
  ExpectClose(out, with_residual, kTolerance, "out with residual");
  Floats slope(out.size());
  kernels_.LinearGeluForward(shape, x.data(), w.data(), bias.data(), slope.data(), out.data());
  const auto slope_at = [](double at) {
    return (testing::GeluOf(at + 1e-5) - testing::GeluOf(at - 1e-5)) / 2e-5;
  };
  Doubles activated = y;
  Doubles slopes = y;
  for (double& value : activated) value = testing::GeluOf(value);
  for (double& value : slopes) value = slope_at(value);
  ExpectClose(slope, slopes, 10 * kTolerance, "gelu slope");
  ExpectClose(out, activated, kTolerance, "gelu out");

  // dx = dout w^T, dw = x^T dout: the transposes written out, the product by the same formula.
  Doubles wt(w.size());
  Doubles xt(x.size());
  for (int64_t i = 0; i < inputs; ++i) {
    for (int64_t o = 0; o < outputs; ++o) wt[Z(o * inputs + i)] = w[Z(i * outputs + o)];
    for (int64_t r = 0; r < rows; ++r) xt[Z(i * rows + r)] = x[Z(r * inputs + i)];
  }
  const Doubles expected_dx = testing::LinearOf(rows, outputs, inputs, Wide(dout), wt, {});
  Floats dx(x.size());
  kernels_.LinearBackwardInput(shape, dout.data(), w.data(), dx.data());
  ExpectClose(dx, expected_dx, kTolerance, "dx");
  Doubles through_gelu = expected_dx;
  for (size_t i = 0; i < through_gelu.size(); ++i) through_gelu[i] *= x[i];
  kernels_.LinearBackwardInputGelu(shape, dout.data(), w.data(), x.data(), dx.data());
  ExpectClose(dx, through_gelu, kTolerance, "dx through gelu");
  Floats dw(w.size(), 99.0f);
  kernels_.LinearBackwardWeight(shape, x.data(), dout.data(), dw.data());
  ExpectClose(dw, testing::LinearOf(inputs, rows, outputs, xt, Wide(dout), {}), kTolerance, "dw");
  Floats dbias(Z(outputs), 99.0f);
  kernels_.LinearBackwardBias(shape, dout.data(), dbias.data());
  Doubles expected_dbias(Z(outputs));
  for (int64_t i = 0; i < rows * outputs; ++i) expected_dbias[Z(i % outputs)] += dout[Z(i)];
  ExpectClose(dbias, expected_dbias, kTolerance, "dbias");
}

// One tile, several, odd edges, single rows and columns.
INSTANTIATE_TEST_SUITE_P(Shapes, LinearTest,
                         ::testing::Values(LinearCase{1, 1, 1}, LinearCase{5, 3, 7},
                                           LinearCase{130, 17, 33}, LinearCase{300, 31, 401},
                                           LinearCase{1, 40, 800}));

TEST_F(CpuKernelsTest, Head_StridedProductsMatchFormulasAndLeaveTheGapAlone) {
  const HeadShape shape{9, 12, 45, 48};
  const Floats x = Random(9 * 12, 18);
  const Floats wte = Random(45 * 12, 19);
  Floats logits(9 * 48, 77.0f);
  kernels_.HeadForward(shape, x.data(), wte.data(), logits.data());
  Doubles expected_dx(9 * 12);
  Doubles expected_dwte(45 * 12);
  for (int64_t r = 0; r < 9; ++r) {
    for (int64_t v = 0; v < 45; ++v) {
      double sum = 0;
      for (int64_t i = 0; i < 12; ++i) sum += double{x[Z(r * 12 + i)]} * wte[Z(v * 12 + i)];
      ASSERT_NEAR(logits[Z(r * 48 + v)], sum, 1e-4);
      const double d = logits[Z(r * 48 + v)];
      for (int64_t i = 0; i < 12; ++i) {
        expected_dx[Z(r * 12 + i)] += d * wte[Z(v * 12 + i)];
        expected_dwte[Z(v * 12 + i)] += d * x[Z(r * 12 + i)];
      }
    }
    for (int64_t v = 45; v < 48; ++v) ASSERT_EQ(logits[Z(r * 48 + v)], 77.0f);
  }
  Floats dx(9 * 12);
  Floats dwte(45 * 12);
  kernels_.HeadBackwardInput(shape, logits.data(), wte.data(), dx.data());
  kernels_.HeadBackwardWeight(shape, logits.data(), x.data(), dwte.data());
  ExpectClose(dx, expected_dx, kTolerance, "dx");
  ExpectClose(dwte, expected_dwte, kTolerance, "dwte");
}

class CrossEntropyTest : public CpuKernelsTest, public ::testing::WithParamInterface<int64_t> {};

TEST_P(CrossEntropyTest, LossAndGradientMatchFormula) {
  const int64_t rows = 4;
  const int64_t vocab = GetParam();
  const std::vector<int32_t> targets = {0, static_cast<int32_t>(vocab - 1), -1,
                                        static_cast<int32_t>(vocab / 2)};
  const HeadShape shape{rows, 8, vocab, vocab + 3};
  const Floats dense = Random(rows * vocab, 20, 12);
  Floats logits(Z(rows * shape.stride), 55.0f);
  for (int64_t i = 0; i < rows * vocab; ++i) {
    logits[Z(i / vocab * shape.stride + i % vocab)] = dense[Z(i)];
  }
  std::vector<double> losses(Z(rows));
  kernels_.CrossEntropy(shape, /*gradient_scale=*/1, targets.data(), logits.data(), losses.data());
  double loss = 0;
  for (const double value : losses) loss += value;
  EXPECT_NEAR(loss, testing::CrossEntropyOf(rows, vocab, Wide(dense), targets), 1e-5);
  EXPECT_EQ(losses[2], 0);
  for (int64_t r = 0; r < rows; ++r) {
    double max = -1e300;
    double sum = 0;
    for (int64_t v = 0; v < vocab; ++v) max = std::max(max, double{dense[Z(r * vocab + v)]});
    for (int64_t v = 0; v < vocab; ++v) sum += std::exp(dense[Z(r * vocab + v)] - max);
    for (int64_t v = 0; v < vocab; ++v) {
      const double p = std::exp(dense[Z(r * vocab + v)] - max) / sum;
      const double expected = targets[Z(r)] < 0 ? 0 : p - (targets[Z(r)] == v ? 1 : 0);
      ASSERT_NEAR(logits[Z(r * shape.stride + v)], expected, 1e-6) << "row " << r << " " << v;
    }
    for (int64_t v = vocab; v < shape.stride; ++v) {
      ASSERT_EQ(logits[Z(r * shape.stride + v)], 55.0f);
    }
  }
}

// 50257: GPT-2's vocabulary.
INSTANTIATE_TEST_SUITE_P(Vocabularies, CrossEntropyTest, ::testing::Values(2, 17, 256, 50257));

TEST_F(CpuKernelsTest, CrossEntropy_GradientMatchesFiniteDifferences) {
  const std::vector<int32_t> targets = {3, -1, 9};
  const Floats start = Random(3 * 11, 21, 3);
  Floats logits = start;
  std::vector<double> losses(3);
  kernels_.CrossEntropy({3, 8, 11, 11}, /*gradient_scale=*/1, targets.data(), logits.data(),
                        losses.data());
  ExpectClose(logits,
              FiniteDifferences(
                  [&](const Doubles& at) { return testing::CrossEntropyOf(3, 11, at, targets); },
                  Wide(start)),
              kTolerance, "dlogits");
}

TEST_F(CpuKernelsTest, CrossEntropy_ExtremeLogitsStayFinite_NotANumberIsNotHidden) {
  Floats logits = {1000.0f, -1000.0f, 0.0f, 0.0f, std::nanf(""), 0.0f};
  const std::vector<int32_t> targets = {1, 0};
  std::vector<double> losses(2);
  kernels_.CrossEntropy({2, 8, 3, 3}, /*gradient_scale=*/1, targets.data(), logits.data(),
                        losses.data());
  EXPECT_NEAR(losses[0], 2000, 1e-9);
  EXPECT_EQ(logits[0], 1.0f);
  EXPECT_TRUE(std::isnan(losses[1]));
}

struct AttentionCase {
  int64_t batch;
  int64_t length;
  int64_t width;
  int64_t heads;
};

class AttentionTest : public CpuKernelsTest, public ::testing::WithParamInterface<AttentionCase> {
 protected:
  SequenceShape shape() const {
    const auto [batch, length, width, heads] = GetParam();
    return {batch, length, width, heads};
  }

  Floats scratch_ = Floats(Z(kernels_.AttentionScratch(shape(), DType::kF32)));
};

TEST_P(AttentionTest, Forward_MatchesFullSoftmax) {
  const auto [batch, length, width, heads] = GetParam();
  const SequenceShape shape = this->shape();
  const Floats qkv = Random(shape.rows() * 3 * width, 22, 2);
  Floats out(Z(shape.rows() * width));
  Floats lse(Z(batch * heads * length));
  kernels_.AttentionForward(shape, {}, qkv.data(), scratch_.data(), out.data(), lse.data());
  Doubles expected_lse;
  ExpectClose(out, testing::AttentionOf(batch, length, width, heads, Wide(qkv), &expected_lse),
              kTolerance, "out");
  ExpectClose(lse, expected_lse, kTolerance, "log-sum-exp");
}

// The gradient by the textbook formula with full matrices, per head.
Doubles AttentionGradient(const SequenceShape& shape, const Doubles& qkv, const Doubles& dout) {
  const int64_t size = shape.head_size();
  const double scale = 1 / std::sqrt(static_cast<double>(size));
  Doubles dqkv(qkv.size());
  for (int64_t b = 0; b < shape.batch; ++b) {
    for (int64_t h = 0; h < shape.heads; ++h) {
      const auto at = [&](int64_t t, int64_t which, int64_t i) {
        return Z(((b * shape.seq_length + t) * 3 + which) * shape.width + h * size + i);
      };
      const auto out_at = [&](int64_t t, int64_t i) {
        return Z((b * shape.seq_length + t) * shape.width + h * size + i);
      };
      for (int64_t t = 0; t < shape.seq_length; ++t) {
        Doubles p(Z(t + 1));
        Doubles dp(Z(t + 1));
        double sum = 0;
        for (int64_t s = 0; s <= t; ++s) {
          double score = 0;
          for (int64_t i = 0; i < size; ++i) score += qkv[at(t, 0, i)] * qkv[at(s, 1, i)];
          sum += p[Z(s)] = std::exp(score * scale);
          for (int64_t i = 0; i < size; ++i) dp[Z(s)] += dout[out_at(t, i)] * qkv[at(s, 2, i)];
        }
        double mean = 0;
        for (int64_t s = 0; s <= t; ++s) mean += (p[Z(s)] /= sum) * dp[Z(s)];
        for (int64_t s = 0; s <= t; ++s) {
          const double ds = p[Z(s)] * (dp[Z(s)] - mean) * scale;
          for (int64_t i = 0; i < size; ++i) {
            dqkv[at(t, 0, i)] += ds * qkv[at(s, 1, i)];
            dqkv[at(s, 1, i)] += ds * qkv[at(t, 0, i)];
            dqkv[at(s, 2, i)] += p[Z(s)] * dout[out_at(t, i)];
          }
        }
      }
    }
  }
  return dqkv;
}

TEST_P(AttentionTest, Backward_MatchesFullFormula) {
  const auto [batch, length, width, heads] = GetParam();
  const SequenceShape shape = this->shape();
  const Floats qkv = Random(shape.rows() * 3 * width, 23, 2);
  const Floats dout = Random(shape.rows() * width, 24);
  Floats out(Z(shape.rows() * width));
  Floats lse(Z(batch * heads * length));
  Floats dqkv(qkv.size(), 99.0f);
  kernels_.AttentionForward(shape, {}, qkv.data(), scratch_.data(), out.data(), lse.data());
  kernels_.AttentionBackward(shape, {}, qkv.data(), out.data(), lse.data(), dout.data(),
                             scratch_.data(), dqkv.data());
  ExpectClose(dqkv, AttentionGradient(shape, Wide(qkv), Wide(dout)), kTolerance, "dqkv");
}

// Below, at and above one tile of queries (32) and of keys (256), not a multiple of either; heads
// of whole vectors (16), of several and of none.
INSTANTIATE_TEST_SUITE_P(Lengths, AttentionTest,
                         ::testing::Values(AttentionCase{1, 1, 4, 1}, AttentionCase{2, 7, 24, 4},
                                           AttentionCase{1, 32, 32, 1}, AttentionCase{2, 65, 30, 2},
                                           AttentionCase{1, 64, 64, 1},
                                           AttentionCase{1, 33, 112, 1},
                                           AttentionCase{1, 256, 16, 2},
                                           AttentionCase{1, 257, 10, 2},
                                           AttentionCase{1, 600, 48, 3}));

TEST_F(CpuKernelsTest, AttentionBackward_MatchesFiniteDifferences) {
  const SequenceShape shape{1, 6, 8, 2};
  const Floats qkv = Random(6 * 24, 25, 2);
  const Floats dout = Random(6 * 8, 26);
  Floats scratch(Z(kernels_.AttentionScratch(shape, DType::kF32)));
  Floats out(6 * 8);
  Floats lse(2 * 6);
  Floats dqkv(qkv.size());
  kernels_.AttentionForward(shape, {}, qkv.data(), scratch.data(), out.data(), lse.data());
  kernels_.AttentionBackward(shape, {}, qkv.data(), out.data(), lse.data(), dout.data(),
                             scratch.data(), dqkv.data());
  ExpectClose(dqkv,
              FiniteDifferences(
                  [&](const Doubles& at) {
                    return testing::Dot(testing::AttentionOf(1, 6, 8, 2, at), Wide(dout));
                  },
                  Wide(qkv)),
              kTolerance, "dqkv");
}

TEST_F(CpuKernelsTest, AdamW_MatchesFormulaOverSeveralSteps) {
  const int64_t n = 40001;
  AdamWArguments arguments;
  arguments.lr = 0.01f;
  arguments.weight_decay = 0.1f;
  arguments.grad_scale = 0.5f;
  Floats param = Random(n, 27);
  Floats m(Z(n));
  Floats v(Z(n));
  Doubles wide_param = Wide(param);
  Doubles wide_m(Z(n));
  Doubles wide_v(Z(n));
  for (int step = 1; step <= 3; ++step) {
    const Floats grad = Random(n, 27 + static_cast<uint32_t>(step));
    arguments.bias_correction1 = static_cast<float>(1 - std::pow(0.9, step));
    arguments.bias_correction2 = static_cast<float>(1 - std::pow(0.95, step));
    kernels_.AdamW(n, arguments, grad.data(), param.data(), m.data(), v.data());
    for (size_t i = 0; i < Z(n); ++i) {
      const double g = 0.5 * grad[i];
      wide_m[i] = 0.9 * wide_m[i] + 0.1 * g;
      wide_v[i] = 0.95 * wide_v[i] + 0.05 * g * g;
      const double direction = wide_m[i] / (1 - std::pow(0.9, step)) /
                               (std::sqrt(wide_v[i] / (1 - std::pow(0.95, step))) + 1e-8);
      wide_param[i] -= 0.01 * (direction + 0.1 * wide_param[i]);
    }
  }
  ExpectClose(m, wide_m, 1e-6, "m");
  ExpectClose(v, wide_v, 1e-6, "v");
  ExpectClose(param, wide_param, 1e-5, "param");
}

TEST_F(CpuKernelsTest, MuonsLoops_MatchTheirFormulas) {
  const int64_t n = 40001;
  Floats param = Random(n, 41), m = Random(n, 42), update = Random(n, 43);
  Doubles wide_param = Wide(param), wide_m = Wide(m), wide_update = Wide(update);
  kernels_.MuonMomentum(n, {.momentum = 0.9f, .grad_scale = 0.5f}, update.data(), m.data());
  kernels_.Scale(n, 3, update.data());
  kernels_.DescendAndDecay(n, 0.02f, 0.003f, update.data(), param.data());
  for (size_t i = 0; i < Z(n); ++i) {
    const double g = 0.5 * wide_update[i];
    wide_m[i] = 0.9 * wide_m[i] + 0.1 * g;
    wide_update[i] = 3 * (0.9 * wide_m[i] + 0.1 * g);
    wide_param[i] -= 0.02 * wide_update[i] + 0.003 * wide_param[i];
  }
  ExpectClose(m, wide_m, 1e-6, "m");
  ExpectClose(update, wide_update, 1e-6, "update");
  ExpectClose(param, wide_param, 1e-6, "param");
}

// Sizes of one tile and of several; each operand as it stands and transposed.
TEST_F(CpuKernelsTest, MatrixProductAndPolynomial_MatchTheirFormulas) {
  const int64_t m = 40, n = 37, k = 29;
  const Floats a = Random(m * k, 44), b = Random(k * n, 45);
  const auto transposed = [](int64_t rows, int64_t columns, const Floats& x) {
    Floats t(x.size());
    for (int64_t i = 0; i < rows * columns; ++i) {
      t[Z(i % columns * rows + i / columns)] = x[Z(i)];
    }
    return t;
  };
  const Doubles expected = testing::LinearOf(m, k, n, Wide(a), Wide(b), {});
  for (const bool of_a : {false, true}) {
    for (const bool of_b : {false, true}) {
      const Floats left = of_a ? transposed(m, k, a) : a;
      const Floats right = of_b ? transposed(k, n, b) : b;
      Floats out(Z(m * n));
      kernels_.MatrixProduct({m, n, k, of_a, of_b}, left.data(), right.data(), out.data());
      ExpectClose(out, expected, 1e-6, "product");
    }
  }
  for (const int64_t size : {1, 30, 400}) {
    const Floats x = Random(size * size, 46, 0.1);
    Doubles polynomial = testing::LinearOf(size, size, size, Wide(x), Wide(x), {});
    for (int64_t i = 0; i < size * size; ++i) {
      polynomial[Z(i)] =
          (i % (size + 1) == 0 ? 2 : 0) - 3 * double{x[Z(i)]} + 0.5 * polynomial[Z(i)];
    }
    Floats out(Z(size * size));
    kernels_.MatrixPolynomial(size, {.a = 2, .b = -3, .c = 0.5f}, x.data(), out.data());
    ExpectClose(out, polynomial, 1e-6, "polynomial");
  }
}

TEST_F(CpuKernelsTest, LeafSquares_SumsEachLeafInDouble) {
  const int64_t leaves = 130;
  const Floats x = Random(leaves * 1024, 31, 100);
  std::vector<double> squares(Z(leaves));
  kernels_.LeafSquares(leaves, x.data(), squares.data());
  for (int64_t leaf = 0; leaf < leaves; ++leaf) {
    double expected = 0;
    for (int64_t i = 0; i < 1024; ++i) expected += std::pow(double{x[Z(leaf * 1024 + i)]}, 2);
    ASSERT_NEAR(squares[Z(leaf)], expected, 1e-11 * expected);
  }
}

TEST_F(CpuKernelsTest, Fingerprint_NamesLibraryTilesAndCodeVersion) {
  const NumericsFingerprint ours = kernels_.Fingerprint();
  EXPECT_EQ(ours.library, "oneDNN");
  EXPECT_NE(ours.library_version.find('.'), std::string::npos) << ours.library_version;
  EXPECT_NE(ours.isa, "");
  EXPECT_EQ(ours.tiles, "512x384 or 192");
  EXPECT_NE(ours.attention_tiles.find('x'), std::string::npos) << ours.attention_tiles;
  EXPECT_EQ(ours.denormals, "ftz daz");
  EXPECT_EQ(ours.kernels_version, kCpuKernelsVersion);
  EXPECT_EQ(ours.sums, "");  // the job's
}

}  // namespace
}  // namespace dsrun::worker
