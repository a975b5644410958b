// Every kernel in bf16 and fp16 against formulas in double precision, of operands that are exact in
// the type. What is stored in 16 bits may be off by half a step of the type, beside the error of
// fp32 that cpu_kernels_test.cc allows; what is fp32, by that alone. Sizes are no multiple of
// anything; inner dimensions are longer than the pieces of converted products (kHalfInner). Run
// also with the matrix library held to AVX2 and less, where bf16 is converted, too.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "tests/worker/device/halves.h"
#include "tests/worker/device/lazy_device.h"
#include "worker/device/cpu/cpu_half_matmul.h"
#include "worker/device/cpu/cpu_kernels.h"

namespace dsrun::worker {
namespace {

using testing::Doubles;
using testing::ExpectClose;
using testing::ExpectRounded;
using testing::FiniteDifferences;
using testing::Floats;
using testing::Halves;
using testing::Random;
using testing::RandomHalves;
using testing::Rounded;
using testing::Wide;
using testing::Z;

constexpr double kTolerance = 1e-5;

class HalfKernelsTest : public ::testing::TestWithParam<DType> {
 protected:
  Halves Out(int64_t n) const { return Halves(GetParam(), n); }
  Halves Numbers(int64_t n, uint32_t seed, double scale = 1) const {
    return RandomHalves(n, seed, GetParam(), scale);
  }

  ThreadPool pool_{2};
  CpuKernels kernels_{pool_, BestIsa()};
};

TEST_P(HalfKernelsTest, Embedding_GathersForwardAndAddsUpInFloats) {
  const SequenceShape shape{3, 5, 19, 1};
  const int64_t vocab = 11;
  const std::vector<int32_t> tokens = {0, 10, 3, 3, 7, 7, 7, 1, 0, 2, 10, 3, 4, 5, 0};
  const Halves wte = Numbers(vocab * 19, 5);
  const Halves wpe = Numbers(8 * 19, 6);
  const Halves dout = Numbers(15 * 19, 7);
  Halves out = Out(15 * 19);
  Halves out_of_tokens = Out(15 * 19);
  kernels_.EmbeddingForward(shape, tokens.data(), wte, wpe, out);
  kernels_.EmbeddingForward(shape, tokens.data(), wte, nullptr, out_of_tokens);
  Floats dwte(Z(vocab * 19), 99.0f);
  Floats dwpe(8 * 19, 99.0f);
  kernels_.EmbeddingBackward(shape, vocab, 8, tokens.data(), dout, dwte.data(), dwpe.data());
  Doubles expected(15 * 19);
  Doubles expected_wte(dwte.size());
  Doubles expected_wpe(dwpe.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    const size_t token_at = Z(tokens[i / 19]) * 19 + i % 19;
    const size_t position_at = i / 19 % 5 * 19 + i % 19;
    expected[i] = wte.wide()[token_at] + wpe.wide()[position_at];
    ASSERT_EQ(out_of_tokens.bits[i], wte.bits[token_at]);
    expected_wte[token_at] += dout.wide()[i];
    expected_wpe[position_at] += dout.wide()[i];
  }
  ExpectRounded(out, expected, 0, "out");
  ExpectClose(dwte, expected_wte, kTolerance, "dwte");
  ExpectClose(dwpe, expected_wpe, kTolerance, "dwpe");
  // What is not wanted.
  Floats again(dwpe.size());
  kernels_.EmbeddingBackward(shape, vocab, 8, tokens.data(), dout, nullptr, again.data());
  EXPECT_EQ(again, dwpe);
}

TEST_P(HalfKernelsTest, LayerNorm_MatchesFormulaAndFiniteDifferences) {
  for (const int64_t width : {2, 15, 16, 33, 64}) {
    SCOPED_TRACE(width);
    const int64_t rows = 7;
    const Halves x = Numbers(rows * width, 8, 2);
    const Halves weight = Numbers(width, 9);
    const Halves bias = Numbers(width, 10);
    const Halves dout = Numbers(rows * width, 11);
    const Halves residual = Numbers(rows * width, 12);
    Halves out = Out(rows * width);
    Floats mean(Z(rows));
    Floats rstd(Z(rows));
    kernels_.LayerNormForward(rows, width, x, weight, bias, out, mean.data(), rstd.data());
    ExpectRounded(out, testing::LayerNormOf(rows, width, x.wide(), weight.wide(), bias.wide()),
                  kTolerance, "out");
    const auto loss = [&](const Doubles& x_, const Doubles& weight_, const Doubles& bias_) {
      return testing::Dot(testing::LayerNormOf(rows, width, x_, weight_, bias_), dout.wide());
    };
    const Doubles dx = FiniteDifferences(
        [&](const Doubles& at) { return loss(at, weight.wide(), bias.wide()); }, x.wide());
    Doubles with_residual = dx;
    for (size_t i = 0; i < dx.size(); ++i) with_residual[i] += residual.wide()[i];
    Halves got = Out(rows * width);
    Floats dweight(Z(width));
    Floats dbias(Z(width));
    kernels_.LayerNormBackward(rows, width, x, weight, mean.data(), rstd.data(), dout, nullptr, got,
                               dweight.data(), dbias.data());
    ExpectRounded(got, dx, kTolerance, "dx");
    Halves in_place = residual;
    kernels_.LayerNormBackward(rows, width, x, weight, mean.data(), rstd.data(), dout, in_place,
                               in_place, nullptr, nullptr);
    ExpectRounded(in_place, with_residual, kTolerance, "dx + residual");
    ExpectClose(
        dweight,
        FiniteDifferences([&](const Doubles& at) { return loss(x.wide(), at, bias.wide()); },
                          weight.wide()),
        kTolerance, "dweight");
    ExpectClose(
        dbias,
        FiniteDifferences([&](const Doubles& at) { return loss(x.wide(), weight.wide(), at); },
                          bias.wide()),
        kTolerance, "dbias");
  }
}

TEST_P(HalfKernelsTest, RmsNorm_MatchesFormulaAndFiniteDifferences) {
  constexpr float kEpsilon = 0.125f;
  for (const int64_t width : {2, 15, 16, 33, 64}) {
    SCOPED_TRACE(width);
    const int64_t rows = 7;
    const Halves x = Numbers(rows * width, 8, 2);
    const Halves weight = Numbers(width, 9);
    const Halves dout = Numbers(rows * width, 11);
    const Halves residual = Numbers(rows * width, 12);
    Halves out = Out(rows * width);
    Floats rstd(Z(rows));
    kernels_.RmsNormForward(rows, width, kEpsilon, x, weight, out, rstd.data());
    ExpectRounded(out, testing::RmsNormOf(rows, width, kEpsilon, x.wide(), weight.wide()),
                  kTolerance, "out");
    const auto loss = [&](const Doubles& x_, const Doubles& weight_) {
      return testing::Dot(testing::RmsNormOf(rows, width, kEpsilon, x_, weight_), dout.wide());
    };
    const Doubles dx =
        FiniteDifferences([&](const Doubles& at) { return loss(at, weight.wide()); }, x.wide());
    Doubles with_residual = dx;
    for (size_t i = 0; i < dx.size(); ++i) with_residual[i] += residual.wide()[i];
    Floats dweight(Z(width));
    Halves over = dout;  // dx over dout
    kernels_.RmsNormBackward(rows, width, x, weight, rstd.data(), over, nullptr, over,
                             dweight.data());
    ExpectRounded(over, dx, kTolerance, "dx");
    Halves in_place = residual;
    kernels_.RmsNormBackward(rows, width, x, weight, rstd.data(), dout, in_place, in_place,
                             nullptr);
    ExpectRounded(in_place, with_residual, kTolerance, "dx + residual");
    ExpectClose(
        dweight,
        FiniteDifferences([&](const Doubles& at) { return loss(x.wide(), at); }, weight.wide()),
        kTolerance, "dweight");
  }
}

TEST_P(HalfKernelsTest, Rotary_TurnsPairsByTheirAngle) {
  for (const int64_t pairs : {7, 16, 20}) {
    const RotaryShape shape{2, 5, 3, 2 * pairs};
    Floats cosines(Z(5 * pairs));
    Floats sines(cosines.size());
    for (size_t i = 0; i < cosines.size(); ++i) {
      cosines[i] = static_cast<float>(std::cos(0.1 * static_cast<double>(i)));
      sines[i] = static_cast<float>(std::sin(0.1 * static_cast<double>(i)));
    }
    const Halves x = Numbers(shape.rows() * 6 * pairs, 3);
    for (const int direction : {1, -1}) {
      Halves rotated = x;
      if (direction == 1) kernels_.RotaryForward(shape, cosines.data(), sines.data(), rotated);
      if (direction == -1) kernels_.RotaryBackward(shape, cosines.data(), sines.data(), rotated);
      const Doubles from = x.wide();
      Doubles expected(from.size());
      for (int64_t head = 0; head < shape.rows() * 3; ++head) {
        for (int64_t i = 0; i < pairs; ++i) {
          const double angle = direction * 0.1 * static_cast<double>(head / 3 % 5 * pairs + i);
          const size_t low = Z(head * 2 * pairs + i);
          const size_t high = low + Z(pairs);
          expected[low] = from[low] * std::cos(angle) - from[high] * std::sin(angle);
          expected[high] = from[high] * std::cos(angle) + from[low] * std::sin(angle);
        }
      }
      ExpectRounded(rotated, expected, kTolerance, "rotated");
    }
  }
}

struct Sizes {
  int64_t rows;
  int64_t inputs;
  int64_t outputs;
};

// (a, b) as (b, a).
Doubles Transposed(int64_t a, int64_t b, const Doubles& x) {
  Doubles y(x.size());
  for (int64_t i = 0; i < a; ++i) {
    for (int64_t j = 0; j < b; ++j) y[Z(j * a + i)] = x[Z(i * b + j)];
  }
  return y;
}
Doubles Plus(Doubles a, const Doubles& b) {
  for (size_t i = 0; i < a.size(); ++i) a[i] += b[i];
  return a;
}

TEST_P(HalfKernelsTest, LinearForward_MatchesFormulas) {
  for (const auto& [rows, inputs, outputs] : {Sizes{1, 1, 1}, Sizes{5, 3, 7}, Sizes{130, 600, 33},
                                              Sizes{300, 31, 401}, Sizes{1, 40, 800}}) {
    for (const WeightOrder order : {WeightOrder::kInputsOutputs, WeightOrder::kOutputsInputs}) {
      SCOPED_TRACE(std::to_string(rows) + "x" + std::to_string(inputs));
      const LinearShape shape{rows, inputs, outputs, order};
      const Halves x = Numbers(rows * inputs, 13);
      const Halves w = Numbers(inputs * outputs, 14);
      const Halves bias = Numbers(outputs, 15);
      const Halves residual = Numbers(rows * outputs, 17);
      const Doubles wide_w =
          order == WeightOrder::kInputsOutputs ? w.wide() : Transposed(outputs, inputs, w.wide());
      const Doubles product = testing::LinearOf(rows, inputs, outputs, x.wide(), wide_w, {});
      const Doubles y = testing::LinearOf(rows, inputs, outputs, x.wide(), wide_w, bias.wide());
      Halves out = Out(rows * outputs);
      kernels_.LinearForward(shape, x, w, bias, out);
      ExpectRounded(out, y, kTolerance, "out");
      kernels_.LinearForward(shape, x, w, nullptr, out);
      ExpectRounded(out, product, kTolerance, "out without bias");
      kernels_.LinearResidualForward(shape, x, w, bias, residual, out);
      ExpectRounded(out, Plus(y, residual.wide()), kTolerance, "out with residual");
      kernels_.LinearResidualForward(shape, x, w, nullptr, residual, out);
      ExpectRounded(out, Plus(product, residual.wide()), kTolerance, "without bias");
      Halves in_place = residual;
      kernels_.LinearResidualForward(shape, x, w, nullptr, in_place, in_place);
      EXPECT_EQ(in_place.bits, out.bits);
      Halves slope = Out(rows * outputs);
      kernels_.LinearGeluForward(shape, x, w, bias, slope, out);
      Doubles activated = y;
      Doubles slopes = y;
      for (double& value : activated) value = testing::GeluOf(value);
      for (double& value : slopes) {
        value = (testing::GeluOf(value + 1e-5) - testing::GeluOf(value - 1e-5)) / 2e-5;
      }
      ExpectRounded(out, activated, kTolerance, "gelu");
      ExpectRounded(slope, slopes, 10 * kTolerance, "gelu slope");
    }
  }
}

TEST_P(HalfKernelsTest, LinearBackward_MatchesFormulas) {
  for (const auto& [rows, inputs, outputs] : {Sizes{1, 1, 1}, Sizes{5, 3, 7}, Sizes{130, 17, 601},
                                              Sizes{600, 31, 401}, Sizes{1, 40, 800}}) {
    for (const WeightOrder order : {WeightOrder::kInputsOutputs, WeightOrder::kOutputsInputs}) {
      SCOPED_TRACE(std::to_string(rows) + "x" + std::to_string(inputs));
      const bool stored = order == WeightOrder::kOutputsInputs;
      const LinearShape shape{rows, inputs, outputs, order};
      const Halves x = Numbers(rows * inputs, 13);
      const Halves w = Numbers(inputs * outputs, 14);
      const Halves dout = Numbers(rows * outputs, 16);
      const Doubles wt = stored ? w.wide() : Transposed(inputs, outputs, w.wide());
      const Doubles dx = testing::LinearOf(rows, outputs, inputs, dout.wide(), wt, {});
      Halves out = Out(rows * inputs);
      kernels_.LinearBackwardInput(shape, dout, w, out);
      ExpectRounded(out, dx, kTolerance, "dx");
      Halves added = x;
      kernels_.AccumulateLinearBackwardInput(shape, dout, w, added);
      ExpectRounded(added, Plus(x.wide(), dx), kTolerance, "x + dx");
      const Doubles factors = x.wide();
      Doubles through_gelu = dx;
      for (size_t i = 0; i < dx.size(); ++i) through_gelu[i] *= factors[i];
      kernels_.LinearBackwardInputGelu(shape, dout, w, x, out);
      ExpectRounded(out, through_gelu, kTolerance, "dx through gelu");
      const Doubles xt = Transposed(rows, inputs, x.wide());
      const Doubles dw = testing::LinearOf(inputs, rows, outputs, xt, dout.wide(), {});
      Floats got(w.bits.size(), 99.0f);
      kernels_.LinearBackwardWeight(shape, x, dout, got.data());
      ExpectClose(got, stored ? Transposed(inputs, outputs, dw) : dw, kTolerance, "dw");
      kernels_.LinearBackwardWeight(shape, x, dout, nullptr);
      Floats dbias(Z(outputs), 99.0f);
      kernels_.LinearBackwardBias(shape, dout, dbias.data());
      Doubles expected_dbias(Z(outputs));
      const Doubles terms = dout.wide();
      for (int64_t i = 0; i < rows * outputs; ++i) expected_dbias[Z(i % outputs)] += terms[Z(i)];
      ExpectClose(dbias, expected_dbias, kTolerance, "dbias");
      kernels_.LinearBackwardBias(shape, dout, nullptr);
    }
  }
}

// A product is fp32 until it is stored: in 16 bits its terms would be lost one by one.
TEST_P(HalfKernelsTest, LongSums_AreSummedInFloats) {
  constexpr int64_t kInner = 4096;
  const Halves x = Rounded(Doubles(kInner, 1.0), GetParam());
  Halves out = Out(1);
  kernels_.LinearForward({1, kInner, 1}, x, x, nullptr, out);
  EXPECT_EQ(out.wide()[0], kInner);
  Floats dbias(1);
  kernels_.LinearBackwardBias({kInner, 1, 1}, x, dbias.data());
  EXPECT_EQ(dbias[0], kInner);
}

// The error of 16-bit logits' gradients is that of rounding them, as operands.
TEST_P(HalfKernelsTest, Head_StridedProductsMatchFormulas_AndLeaveTheGapAlone) {
  const HeadShape shape{300, 270, 545, 560};
  const Halves x = Numbers(shape.rows * shape.width, 18);
  const Halves table = Numbers(shape.vocab_size * shape.width, 19);
  Floats logits(Z(shape.rows * shape.stride), 77.0f);
  kernels_.HeadForward(shape, x, table, logits.data());
  const auto dense = [&](const Floats& strided) {
    Floats rows;
    for (int64_t r = 0; r < shape.rows; ++r) {
      const auto row = strided.begin() + r * shape.stride;
      rows.insert(rows.end(), row, row + shape.vocab_size);
      for (int64_t v = shape.vocab_size; v < shape.stride; ++v) EXPECT_EQ(row[v], 77.0f);
    }
    return rows;
  };
  const Floats forward = dense(logits);
  ExpectClose(forward,
              testing::LinearOf(shape.rows, shape.width, shape.vocab_size, x.wide(),
                                Transposed(shape.vocab_size, shape.width, table.wide()), {}),
              kTolerance, "logits");
  const Doubles rounded = Rounded(Wide(forward), GetParam()).wide();
  Halves dx = Out(shape.rows * shape.width);
  kernels_.HeadBackwardInput(shape, logits.data(), table, dx);
  ExpectRounded(
      dx, testing::LinearOf(shape.rows, shape.vocab_size, shape.width, rounded, table.wide(), {}),
      kTolerance, "dx");
  Doubles dtable =
      testing::LinearOf(shape.vocab_size, shape.rows, shape.width,
                        Transposed(shape.rows, shape.vocab_size, rounded), x.wide(), {});
  Floats got(dtable.size(), 99.0f);
  kernels_.HeadBackwardWeight(shape, logits.data(), x, got.data());
  ExpectClose(got, dtable, kTolerance, "dtable");
  kernels_.AccumulateHeadBackwardWeight(shape, logits.data(), x, got.data());
  for (double& value : dtable) value *= 2;
  ExpectClose(got, dtable, kTolerance, "dtable, twice");
  kernels_.HeadBackwardWeight(shape, logits.data(), x, nullptr);
  kernels_.AccumulateHeadBackwardWeight(shape, logits.data(), x, nullptr);
  dense(logits);
}

TEST_P(HalfKernelsTest, SwiGlu_MatchesFormulas) {
  Doubles gates = Wide(Random(1003, 1, 6));
  gates.insert(gates.end(), {0.0, -0.0, 30.0, -30.0, 1e4, -1e4});
  const Halves gate = Rounded(gates, GetParam());
  const auto n = static_cast<int64_t>(gates.size());
  const Halves up = Numbers(n, 2);
  const Halves dout = Numbers(n, 3);
  Halves out = Out(n);
  kernels_.SwiGluForward(n, gate, up, out);
  Halves dgate = dout;  // in place
  Halves dup = Out(n);
  kernels_.SwiGluBackward(n, gate, up, dgate, dgate, dup);
  for (size_t i = 0; i < gates.size(); ++i) {
    const double x = gate.wide()[i];
    const double silu = testing::SiluOf(x);
    const double slope = (testing::SiluOf(x + 1e-5) - testing::SiluOf(x - 1e-5)) / 2e-5;
    const auto check = [&](const Halves& actual, double expected) {
      Halves one(GetParam(), 1);
      one.bits[0] = actual.bits[i];
      ExpectRounded(one, {expected}, 1e-5, "at " + std::to_string(x));
    };
    check(out, silu * up.wide()[i]);
    check(dup, silu * dout.wide()[i]);
    check(dgate, slope * up.wide()[i] * dout.wide()[i]);
    if (HasFailure()) return;
  }
}

class HalfKernelsAttentionTest : public HalfKernelsTest {
 protected:
  void Check(const GroupedAttentionShape& shape) {
    const int64_t queries = shape.rows() * shape.heads * shape.head_size;
    const int64_t keys = shape.rows() * shape.heads_of_keys * shape.head_size;
    const Halves q = Numbers(queries, 22, 2);
    const Halves k = Numbers(keys, 23, 2);
    const Halves v = Numbers(keys, 24, 2);
    const Halves dout = Numbers(queries, 25);
    Floats scratch(Z(kernels_.AttentionScratch(
        {shape.batch, shape.seq_length, shape.heads * shape.head_size, shape.heads}, GetParam())));
    Halves out = Out(queries);
    Floats lse(Z(shape.rows() * shape.heads), 99.0f);
    Halves dq = Out(queries);
    Halves dk = Out(keys);
    Halves dv = Out(keys);
    kernels_.GroupedAttentionForward(shape, {}, q, k, v, scratch.data(), out, lse.data());
    kernels_.GroupedAttentionBackward(shape, {}, q, k, v, out, lse.data(), dout, scratch.data(), dq,
                                      dk, dv);
    const Doubles given = out.wide();
    const testing::Attended expected =
        testing::GroupedAttentionOf(shape, q.wide(), k.wide(), v.wide(), dout.wide(), &given);
    ExpectRounded(out, expected.out, kTolerance, "out");
    ExpectClose(lse, expected.log_sum_exp, kTolerance, "log-sum-exp");
    ExpectRounded(dq, expected.dq, kTolerance, "dq");
    ExpectRounded(dk, expected.dk, kTolerance, "dk");
    ExpectRounded(dv, expected.dv, kTolerance, "dv");
    if (shape.window == 0 && shape.heads == shape.heads_of_keys) {
      CheckSideBySide(shape, {q, k, v}, {dq, dk, dv}, out, dout, lse);
    }
  }

  // The other layout has the same bits.
  void CheckSideBySide(const GroupedAttentionShape& shape, const std::vector<Halves>& in,
                       const std::vector<Halves>& gradients, const Halves& out, const Halves& dout,
                       const Floats& lse) {
    const SequenceShape sequence{shape.batch, shape.seq_length, shape.heads * shape.head_size,
                                 shape.heads};
    const auto together = [&](const std::vector<Halves>& parts) {
      Halves all = Out(0);
      for (int64_t row = 0; row < sequence.rows(); ++row) {
        for (const Halves& part : parts) {
          const auto begin = part.bits.begin() + row * sequence.width;
          all.bits.insert(all.bits.end(), begin, begin + sequence.width);
        }
      }
      return all;
    };
    const Halves qkv = together(in);
    Floats scratch(Z(kernels_.AttentionScratch(sequence, GetParam())));
    Halves got = Out(static_cast<int64_t>(out.bits.size()));
    Halves dqkv = Out(static_cast<int64_t>(qkv.bits.size()));
    Floats got_lse(lse.size());
    kernels_.AttentionForward(sequence, {}, qkv, scratch.data(), got, got_lse.data());
    kernels_.AttentionBackward(sequence, {}, qkv, got, got_lse.data(), dout, scratch.data(), dqkv);
    EXPECT_EQ(got.bits, out.bits);
    EXPECT_EQ(got_lse, lse);
    EXPECT_EQ(dqkv.bits, together(gradients).bits);
  }
};

TEST_P(HalfKernelsAttentionTest, ForwardAndBackward_MatchFullFormula) {
  for (const GroupedAttentionShape& shape :
       {GroupedAttentionShape{1, 1, 1, 1, 4, 0}, GroupedAttentionShape{2, 7, 4, 2, 6, 0},
        GroupedAttentionShape{1, 65, 3, 3, 10, 0}, GroupedAttentionShape{2, 40, 6, 1, 16, 0},
        GroupedAttentionShape{1, 300, 4, 2, 16, 0}, GroupedAttentionShape{2, 77, 4, 2, 10, 3},
        GroupedAttentionShape{1, 270, 2, 2, 48, 0}, GroupedAttentionShape{1, 300, 2, 1, 8, 40}}) {
    SCOPED_TRACE(shape.seq_length);
    Check(shape);
  }
}

// Operations that run late touch two bytes an element: arrays side by side do not overlap, and the
// results have the same bits.
TEST_P(HalfKernelsTest, LazyKernels_TakeHalves) {
  const Halves x = Numbers(20 * 30, 1);
  const Halves w = Numbers(30 * 20, 2);
  Halves expected = Out(20 * 20);
  kernels_.LinearForward({20, 30, 20}, x, w, nullptr, expected);
  LazyDevice device(/*seed=*/1);
  const std::unique_ptr<Kernels> lazy = device.CreateKernels("kernels", kernels_);
  const auto bytes = [](const Halves& halves) { return 2 * halves.bits.size(); };
  absl::StatusOr<Buffer> arena =
      device.Allocate(Space::kDevice, bytes(x) + bytes(w) + bytes(expected), "arrays");
  ASSERT_TRUE(arena.ok()) << arena.status();
  const Reals begin(arena->data(), GetParam());
  const Reals of_w = begin + static_cast<int64_t>(x.bits.size());
  const Reals of_out = of_w + static_cast<int64_t>(w.bits.size());
  lazy->stream().Copy(begin.data(), x.bits.data(), bytes(x));
  lazy->stream().Copy(of_w.data(), w.bits.data(), bytes(w));
  lazy->LinearForward({20, 30, 20}, begin, of_w, nullptr, of_out);
  Halves out = Out(20 * 20);
  lazy->stream().Copy(out.bits.data(), of_out.data(), bytes(out));
  EXPECT_TRUE(lazy->stream().Record().Await().ok());
  EXPECT_EQ(out.bits, expected.bits);
  EXPECT_TRUE(device.problems().empty()) << device.problems().front();
}

std::string NameOfType(const ::testing::TestParamInfo<DType>& type) {
  return std::string(NameOf(type.param));
}
INSTANTIATE_TEST_SUITE_P(Types, HalfKernelsTest, ::testing::Values(DType::kBF16, DType::kF16),
                         NameOfType);
INSTANTIATE_TEST_SUITE_P(Types, HalfKernelsAttentionTest,
                         ::testing::Values(DType::kBF16, DType::kF16), NameOfType);

}  // namespace
}  // namespace dsrun::worker
