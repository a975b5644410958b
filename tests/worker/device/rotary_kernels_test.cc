// The kernels of models that rotate queries and keys, against plain formulas in double precision
// and finite differences of these; sizes and tolerance as in cpu_kernels_test.cc.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "tests/worker/device/reference.h"
#include "worker/device/cpu/cpu_kernels.h"

namespace dsrun::worker {
namespace {

using testing::Attended;
using testing::Doubles;
using testing::ExpectClose;
using testing::FiniteDifferences;
using testing::Floats;
using testing::GroupedAttentionOf;
using testing::Random;
using testing::RmsNormOf;
using testing::SiluOf;
using testing::Wide;
using testing::Z;

constexpr double kTolerance = 1e-5;

class RotaryKernelsTest : public ::testing::Test {
 protected:
  ThreadPool pool_{2};
  CpuKernels kernels_{pool_, BestIsa()};
};

TEST_F(RotaryKernelsTest, EmbeddingWithoutPositions_IsTheTablesRow) {
  const SequenceShape shape{2, 3, 19, 1};
  const std::vector<int32_t> tokens = {4, 0, 4, 1, 2, 4};
  const Floats table = Random(5 * 19, 1);
  const Floats dout = Random(6 * 19, 2);
  Floats out(6 * 19);
  kernels_.EmbeddingForward(shape, tokens.data(), table.data(), nullptr, out.data());
  Floats dtable(5 * 19, 99.0f);
  kernels_.EmbeddingBackward(shape, 5, 0, tokens.data(), dout.data(), dtable.data(), nullptr);
  Doubles expected(5 * 19);
  for (int64_t row = 0; row < 6; ++row) {
    for (int64_t i = 0; i < 19; ++i) {
      ASSERT_EQ(out[Z(row * 19 + i)], table[Z(tokens[Z(row)] * 19 + i)]);
      expected[Z(tokens[Z(row)] * 19 + i)] += dout[Z(row * 19 + i)];
    }
  }
  ExpectClose(dtable, expected, kTolerance, "dtable");
}

class RmsNormTest : public RotaryKernelsTest, public ::testing::WithParamInterface<int64_t> {};

TEST_P(RmsNormTest, MatchesFormulaAndFiniteDifferences) {
  const int64_t rows = 7;
  const int64_t width = GetParam();
  const Floats x = Random(rows * width, 8, 2);
  const Floats weight = Random(width, 9);
  const Floats dout = Random(rows * width, 11);
  const Floats residual = Random(rows * width, 12);
  constexpr float kEpsilon = 0.125f;  // large enough to be seen
  Floats out(x.size());
  Floats rstd(Z(rows));
  kernels_.RmsNormForward(rows, width, kEpsilon, x.data(), weight.data(), out.data(), rstd.data());
  ExpectClose(out, RmsNormOf(rows, width, kEpsilon, Wide(x), Wide(weight)), kTolerance, "out");
  Floats dx(x.size());
  Floats dweight(Z(width), 99.0f);
  kernels_.RmsNormBackward(rows, width, x.data(), weight.data(), rstd.data(), dout.data(), nullptr,
                           dx.data(), dweight.data());
  const auto loss = [&](const Doubles& x_, const Doubles& weight_) {
    return testing::Dot(RmsNormOf(rows, width, kEpsilon, x_, weight_), Wide(dout));
  };
  ExpectClose(dx,
              FiniteDifferences([&](const Doubles& at) { return loss(at, Wide(weight)); }, Wide(x)),
              kTolerance, "dx");
  ExpectClose(dweight,
              FiniteDifferences([&](const Doubles& at) { return loss(Wide(x), at); }, Wide(weight)),
              kTolerance, "dweight");
  // With a residual, in place; and over dout.
  Floats in_place = residual;
  kernels_.RmsNormBackward(rows, width, x.data(), weight.data(), rstd.data(), dout.data(),
                           in_place.data(), in_place.data(), dweight.data());
  for (size_t i = 0; i < dx.size(); ++i) ASSERT_EQ(in_place[i], residual[i] + dx[i]);
  Floats over = dout;
  Floats dweight_over(Z(width));
  kernels_.RmsNormBackward(rows, width, x.data(), weight.data(), rstd.data(), over.data(), nullptr,
                           over.data(), dweight_over.data());
  EXPECT_EQ(over, dx);
  EXPECT_EQ(dweight_over, dweight);
}

INSTANTIATE_TEST_SUITE_P(Widths, RmsNormTest, ::testing::Values(2, 15, 16, 33, 64));

TEST_F(RotaryKernelsTest, Rotary_TurnsPairsByTheirAngleAndBack) {
  const RotaryShape shape{2, 5, 3, 14};
  const int64_t pairs = 7;
  Floats cosines(Z(6 * pairs));  // a position more than is used
  Floats sines(cosines.size());
  for (int64_t i = 0; i < 6 * pairs; ++i) {
    cosines[Z(i)] = static_cast<float>(std::cos(0.1 * static_cast<double>(i)));
    sines[Z(i)] = static_cast<float>(std::sin(0.1 * static_cast<double>(i)));
  }
  const Floats x = Random(shape.rows() * 3 * 14, 3);
  Floats rotated = x;
  kernels_.RotaryForward(shape, cosines.data(), sines.data(), rotated.data());
  Doubles expected(x.size());
  for (int64_t row = 0; row < shape.rows(); ++row) {
    for (int64_t head = 0; head < 3; ++head) {
      for (int64_t i = 0; i < pairs; ++i) {
        const double angle = 0.1 * static_cast<double>(row % 5 * pairs + i);
        const size_t low = Z((row * 3 + head) * 14 + i);
        const size_t high = low + Z(pairs);
        expected[low] = x[low] * std::cos(angle) - x[high] * std::sin(angle);
        expected[high] = x[high] * std::cos(angle) + x[low] * std::sin(angle);
      }
    }
  }
  ExpectClose(rotated, expected, kTolerance, "rotated");
  // The gradient of a rotation is the rotation back.
  kernels_.RotaryBackward(shape, cosines.data(), sines.data(), rotated.data());
  ExpectClose(rotated, Wide(x), kTolerance, "rotated back");
}

TEST_F(RotaryKernelsTest, SwiGlu_MatchesFormulaAndFiniteDifferences) {
  Floats gate = Random(1003, 1, 6);
  gate.insert(gate.end(), {0.0f, -0.0f, 30.0f, -30.0f, 1e4f, -1e4f});
  const int64_t n = static_cast<int64_t>(gate.size());
  const Floats up = Random(n, 2);
  const Floats dout = Random(n, 3);
  Floats out(Z(n));
  kernels_.SwiGluForward(n, gate.data(), up.data(), out.data());
  Floats dgate(Z(n));
  Floats dup(Z(n));
  kernels_.SwiGluBackward(n, gate.data(), up.data(), dout.data(), dgate.data(), dup.data());
  for (size_t i = 0; i < Z(n); ++i) {
    const double x = gate[i];
    const double silu = SiluOf(x);
    ASSERT_NEAR(out[i], silu * up[i], 1e-6 * (1 + std::fabs(silu))) << "at " << x;
    ASSERT_NEAR(dup[i], silu * dout[i], 1e-6 * (1 + std::fabs(silu))) << "at " << x;
    const double slope = (SiluOf(x + 1e-5) - SiluOf(x - 1e-5)) / 2e-5;
    ASSERT_NEAR(dgate[i], slope * up[i] * dout[i], 1e-5) << "at " << x;
  }
  Floats in_place = dout;
  kernels_.SwiGluBackward(n, gate.data(), up.data(), in_place.data(), in_place.data(), dup.data());
  EXPECT_EQ(in_place, dgate);
}

struct LinearCase {
  int64_t rows;
  int64_t inputs;
  int64_t outputs;
};

class StoredLinearTest : public RotaryKernelsTest,
                         public ::testing::WithParamInterface<LinearCase> {};

TEST_P(StoredLinearTest, OutputsFirst_MatchesFormulas) {
  const auto [rows, inputs, outputs] = GetParam();
  const LinearShape shape{rows, inputs, outputs, WeightOrder::kOutputsInputs};
  const Floats x = Random(rows * inputs, 13);
  const Floats w = Random(inputs * outputs, 14);
  const Floats bias = Random(outputs, 15);
  const Floats dout = Random(rows * outputs, 16);
  const Floats residual = Random(rows * outputs, 17);
  Doubles wt(w.size());  // as (inputs, outputs)
  for (int64_t i = 0; i < inputs; ++i) {
    for (int64_t o = 0; o < outputs; ++o) wt[Z(i * outputs + o)] = w[Z(o * inputs + i)];
  }
  Doubles y = testing::LinearOf(rows, inputs, outputs, Wide(x), wt, Wide(bias));
  Floats out(Z(rows * outputs));
  kernels_.LinearForward(shape, x.data(), w.data(), bias.data(), out.data());
  ExpectClose(out, y, kTolerance, "out");
  y = testing::LinearOf(rows, inputs, outputs, Wide(x), wt, {});
  for (size_t i = 0; i < y.size(); ++i) y[i] += residual[i];
  kernels_.LinearResidualForward(shape, x.data(), w.data(), nullptr, residual.data(), out.data());
  ExpectClose(out, y, kTolerance, "out with residual, without bias");

  const Doubles expected_dx = testing::LinearOf(rows, outputs, inputs, Wide(dout), Wide(w), {});
  Floats dx(x.size(), 99.0f);
  kernels_.LinearBackwardInput(shape, dout.data(), w.data(), dx.data());
  ExpectClose(dx, expected_dx, kTolerance, "dx");
  Floats added = x;
  kernels_.AccumulateLinearBackwardInput(shape, dout.data(), w.data(), added.data());
  Doubles expected_added = expected_dx;
  for (size_t i = 0; i < added.size(); ++i) expected_added[i] += x[i];
  ExpectClose(added, expected_added, kTolerance, "x + dx");
  Doubles dt(dout.size());
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t o = 0; o < outputs; ++o) dt[Z(o * rows + r)] = dout[Z(r * outputs + o)];
  }
  Floats dw(w.size(), 99.0f);
  kernels_.LinearBackwardWeight(shape, x.data(), dout.data(), dw.data());
  ExpectClose(dw, testing::LinearOf(outputs, rows, inputs, dt, Wide(x), {}), kTolerance, "dw");
}

INSTANTIATE_TEST_SUITE_P(Shapes, StoredLinearTest,
                         ::testing::Values(LinearCase{1, 1, 1}, LinearCase{5, 3, 7},
                                           LinearCase{130, 17, 33}, LinearCase{300, 31, 401},
                                           LinearCase{1, 40, 800}));

class GroupedAttentionTest : public RotaryKernelsTest,
                             public ::testing::WithParamInterface<GroupedAttentionShape> {};

TEST_P(GroupedAttentionTest, ForwardAndBackward_MatchFullFormula) {
  const GroupedAttentionShape shape = GetParam();
  const int64_t queries = shape.rows() * shape.heads * shape.head_size;
  const int64_t keys = shape.rows() * shape.heads_of_keys * shape.head_size;
  const Floats q = Random(queries, 22, 2);
  const Floats k = Random(keys, 23, 2);
  const Floats v = Random(keys, 24, 2);
  const Floats dout = Random(queries, 25);
  const Attended expected = GroupedAttentionOf(shape, Wide(q), Wide(k), Wide(v), Wide(dout));
  Floats scratch(Z(kernels_.AttentionScratch(
      {shape.batch, shape.seq_length, shape.heads * shape.head_size, shape.heads}, DType::kF32)));
  Floats out(Z(queries), 99.0f);
  Floats lse(expected.log_sum_exp.size(), 99.0f);
  Floats dq(Z(queries), 99.0f);
  Floats dk(Z(keys), 99.0f);
  Floats dv(Z(keys), 99.0f);
  kernels_.GroupedAttentionForward(shape, {}, q.data(), k.data(), v.data(), scratch.data(),
                                   out.data(), lse.data());
  kernels_.GroupedAttentionBackward(shape, {}, q.data(), k.data(), v.data(), out.data(), lse.data(),
                                    dout.data(), scratch.data(), dq.data(), dk.data(), dv.data());
  ExpectClose(out, expected.out, kTolerance, "out");
  ExpectClose(lse, expected.log_sum_exp, kTolerance, "log-sum-exp");
  ExpectClose(dq, expected.dq, kTolerance, "dq");
  ExpectClose(dk, expected.dk, kTolerance, "dk");
  ExpectClose(dv, expected.dv, kTolerance, "dv");
}

// (batch, length, heads, heads of keys, head size, window): groups of one, some and all heads; with
// windows of one key, inside a vector, across one, across tiles of queries (32) and of keys (256),
// and longer than the sequence.
INSTANTIATE_TEST_SUITE_P(
    Shapes, GroupedAttentionTest,
    ::testing::Values(
        GroupedAttentionShape{1, 1, 1, 1, 4, 0}, GroupedAttentionShape{2, 7, 4, 2, 6, 0},
        GroupedAttentionShape{1, 65, 3, 3, 10, 0}, GroupedAttentionShape{2, 40, 6, 1, 16, 0},
        GroupedAttentionShape{1, 300, 4, 2, 16, 0}, GroupedAttentionShape{1, 40, 2, 1, 16, 1},
        GroupedAttentionShape{2, 77, 4, 2, 10, 3}, GroupedAttentionShape{1, 100, 2, 2, 16, 16},
        GroupedAttentionShape{1, 130, 2, 1, 16, 33}, GroupedAttentionShape{1, 700, 2, 1, 8, 40},
        GroupedAttentionShape{1, 700, 2, 1, 8, 256}, GroupedAttentionShape{1, 700, 2, 1, 8, 300},
        GroupedAttentionShape{1, 50, 2, 1, 8, 64}));

// The formula above has gradients of its own: these do not come from it.
TEST_F(RotaryKernelsTest, GroupedAttentionBackward_MatchesFiniteDifferences) {
  const GroupedAttentionShape shape{1, 6, 4, 2, 4, 3};
  const Floats q = Random(6 * 16, 26, 2);
  const Floats k = Random(6 * 8, 27, 2);
  const Floats v = Random(6 * 8, 28, 2);
  const Floats dout = Random(6 * 16, 29);
  Floats scratch(Z(kernels_.AttentionScratch({1, 6, 16, 4}, DType::kF32)));
  Floats out(q.size());
  Floats lse(4 * 6);
  Floats dq(q.size());
  Floats dk(k.size());
  Floats dv(v.size());
  kernels_.GroupedAttentionForward(shape, {}, q.data(), k.data(), v.data(), scratch.data(),
                                   out.data(), lse.data());
  kernels_.GroupedAttentionBackward(shape, {}, q.data(), k.data(), v.data(), out.data(), lse.data(),
                                    dout.data(), scratch.data(), dq.data(), dk.data(), dv.data());
  const auto loss = [&](const Doubles& q_, const Doubles& k_, const Doubles& v_) {
    return testing::Dot(GroupedAttentionOf(shape, q_, k_, v_, Wide(dout)).out, Wide(dout));
  };
  ExpectClose(
      dq, FiniteDifferences([&](const Doubles& at) { return loss(at, Wide(k), Wide(v)); }, Wide(q)),
      kTolerance, "dq");
  ExpectClose(
      dk, FiniteDifferences([&](const Doubles& at) { return loss(Wide(q), at, Wide(v)); }, Wide(k)),
      kTolerance, "dk");
  ExpectClose(
      dv, FiniteDifferences([&](const Doubles& at) { return loss(Wide(q), Wide(k), at); }, Wide(v)),
      kTolerance, "dv");
}

}  // namespace
}  // namespace dsrun::worker
