// Dropout: masks against their definition in common/numerics/dropout.h, one element at a time, and
// the kernels against formulas in double precision; sizes and tolerance as in cpu_kernels_test.cc.
// How masks are spread: shares of a million draws, within five standard deviations.

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "common/numerics/dropout.h"
#include "tests/worker/device/halves.h"
#include "tests/worker/device/reference.h"
#include "worker/device/cpu/cpu_kernels.h"

namespace dsrun::worker {
namespace {

using testing::Attended;
using testing::Doubles;
using testing::ExpectClose;
using testing::ExpectRounded;
using testing::FiniteDifferences;
using testing::Floats;
using testing::GroupedAttentionOf;
using testing::Halves;
using testing::Random;
using testing::RandomHalves;
using testing::Wide;
using testing::Z;

constexpr double kTolerance = 1e-5;
constexpr PassDraws kDraws = {.seed = 1234, .step = 17, .first_sample = 6};

DropoutMask Hidden(double rate) { return MaskAt(rate, kDraws, SiteOf(3, kHiddenUse)); }
DropoutMask OfAttention(double rate) { return MaskAt(rate, kDraws, SiteOf(3, kAttentionUse)); }

// A mask that goes through all of the work of dropping, and drops nothing: one word of 2^32.
DropoutMask Idle(DropoutMask mask) {
  mask.threshold = 1;
  mask.scale = 1;
  return mask;
}

class DropoutKernelsTest : public ::testing::Test {
 protected:
  static std::vector<CpuIsa> IsasHere() {
    std::vector<CpuIsa> isas;
    for (const CpuIsa isa : {CpuIsa::kBaseline, CpuIsa::kAvx2, CpuIsa::kAvx512}) {
      if (isa <= BestIsa()) isas.push_back(isa);
    }
    return isas;
  }
  // By the kernels, of `samples` x `rows` x `width` ones.
  Floats Ones(const SequenceShape& shape, const DropoutMask& mask) {
    const Floats ones(Z(shape.rows() * shape.width), 1.0f);
    Floats out(ones.size(), 99.0f);
    kernels_.Dropout(shape, mask, ones.data(), out.data());
    return out;
  }
  Floats Scratch(const GroupedAttentionShape& shape, DType dtype = DType::kF32) const {
    return Floats(Z(kernels_.AttentionScratch(
        {shape.batch, shape.seq_length, shape.heads * shape.head_size, shape.heads}, dtype)));
  }

  ThreadPool pool_{2};
  CpuKernels kernels_{pool_, BestIsa()};
};

TEST(DropoutMaskTest, TheThreshold_IsTheRateTimesTwoToThe32) {
  EXPECT_EQ(Hidden(0).threshold, 0u);
  EXPECT_FALSE(Hidden(0).drops());
  EXPECT_EQ(Hidden(0).scale, 1.0f);
  EXPECT_EQ(Hidden(0.5).threshold, 0x80000000u);
  EXPECT_EQ(Hidden(0.5).scale, 2.0f);
  EXPECT_EQ(Hidden(0.1).threshold, 429496729u);
  EXPECT_EQ(Hidden(0.1).scale, static_cast<float>(1 / 0.9));
  EXPECT_EQ(Hidden(kLeastDropoutRate).threshold, 1u);
  EXPECT_EQ(Hidden(kMostDropoutRate).threshold, 0xffff0000u);
  EXPECT_EQ(Hidden(kMostDropoutRate).scale, 0x1p16f);
  for (const double rate :
       {-0.1, 1e-10, std::nextafter(1.0, 0.0), 1.0, 2.0, std::nan(""), HUGE_VAL}) {
    EXPECT_FALSE(IsDropoutRate(rate)) << rate;
  }
  for (const double rate : {0.0, kLeastDropoutRate, 0.1, kMostDropoutRate}) {
    EXPECT_TRUE(IsDropoutRate(rate)) << rate;
  }
}

// Where bits come from is the curve of every job that drops: another layout of key, site or counter
// raises kCpuKernelsVersion.
TEST(DropoutMaskTest, KeysAndBitsAreThoseOfTheFirstVersion) {
  const PassDraws draws{.seed = 1234, .step = 7, .first_sample = 5, .rates = {}};
  const DropoutMask hidden = MaskAt(0.25, draws, SiteOf(3, kHiddenUse));
  const PhiloxKey key = hidden.KeyOf(2);
  EXPECT_EQ(key, (PhiloxKey{0x3d0b2fb5, 0x2ffee6d2}));
  const DropoutMask scores = MaskAt(0.25, draws, SiteOf(3, kAttentionUse));
  const PhiloxKey key_of_scores = scores.KeyOf(2);
  EXPECT_EQ(key_of_scores, (PhiloxKey{0x6a2d2559, 0x92b872b9}));
  uint64_t elements = 0, kept = 0;
  for (int i = 0; i < 64; ++i) {
    elements |= uint64_t{KeepsElement(hidden, key, i / 8, i * 9 % 200)} << i;
    kept |= uint64_t{KeepsScore(scores, key_of_scores, i % 3, i, i * 5 % 31)} << i;
  }
  EXPECT_EQ(elements, 0xb5fdee677a8fe7deu);
  EXPECT_EQ(kept, 0x8ffdfe36769dd2ffu);
}

TEST(DropoutMaskTest, WordsOfRates_ReadBack) {
  EXPECT_EQ(DropoutWord(0), "");
  EXPECT_EQ(DropoutWord(0.1), "0.1");
  for (const double rate : {0.0, 0.1, 1.0 / 3, 1e-9}) {
    EXPECT_EQ(DropoutOfWord(DropoutWord(rate)), rate);
  }
  for (const char* const word : {"x", "1", "-0.1", "nan", "0.1 "}) {
    EXPECT_EQ(DropoutOfWord(word), std::nullopt) << word;
  }
}

TEST_F(DropoutKernelsTest, EveryElement_HasTheWordOfItsPlace_OnEveryInstructionSet) {
  for (const CpuIsa isa : IsasHere()) {
    CpuKernels kernels(pool_, isa);
    for (const int64_t width : {1, 15, 16, 63, 64, 65, 203}) {
      const SequenceShape shape{3, 7, width};
      const Floats x = Random(shape.rows() * width, 1);
      Floats out(x.size(), 99.0f);
      kernels.Dropout(shape, Hidden(0.3), x.data(), out.data());
      for (size_t i = 0; i < x.size(); ++i) {
        const auto row = static_cast<int64_t>(i) / width;
        const bool kept = KeepsElement(Hidden(0.3), Hidden(0.3).KeyOf(row / 7), row % 7,
                                       static_cast<int64_t>(i) % width);
        ASSERT_EQ(out[i], kept ? x[i] * Hidden(0.3).scale : 0.0f)
            << IsaName(isa) << ", width " << width << ", element " << i;
      }
      Floats in_place = x;
      kernels.Dropout(shape, Hidden(0.3), in_place.data(), in_place.data());
      EXPECT_EQ(in_place, out);
    }
  }
}

// The mask of a sample is its own, wherever its micro-batch begins and whatever is with it.
TEST_F(DropoutKernelsTest, ASample_HasOneMask_InAnyMicroBatch) {
  const int64_t of_sample = 7 * 100;
  const Floats all = Ones({6, 7, 100}, Hidden(0.5));
  for (const int64_t batch : {1, 2, 3}) {
    for (int64_t first = 0; first < 6; first += batch) {
      PassDraws draws = kDraws;
      draws.first_sample += first;
      const Floats some = Ones({batch, 7, 100}, MaskAt(0.5, draws, SiteOf(3, kHiddenUse)));
      EXPECT_TRUE(std::equal(some.begin(), some.end(), all.begin() + first * of_sample));
    }
  }
}

TEST_F(DropoutKernelsTest, KeptShareAndExpectedValue_AreWithinFiveSigma) {
  constexpr double kDraw = 1e6;
  for (const double rate : {0.001, 0.1, 0.5, 0.9}) {
    const Floats out = Ones({10, 100, 1000}, Hidden(rate));
    double kept = 0;
    double sum = 0;
    for (const float value : out) {
      kept += value != 0 ? 1 : 0;
      sum += value;
    }
    const double sigma = std::sqrt(kDraw * rate * (1 - rate));
    EXPECT_NEAR(kept, kDraw * (1 - rate), 5 * sigma) << rate;
    EXPECT_NEAR(sum, kDraw, 5 * sigma / (1 - rate) + 1) << rate;
  }
}

// Two masks that know nothing of each other agree in half of their places.
TEST_F(DropoutKernelsTest, Masks_AreIndependent) {
  const SequenceShape shape{10, 100, 1000};
  const Floats one = Ones(shape, Hidden(0.5));
  const auto expect_apart = [&](const Floats& a, const Floats& b, const std::string& what) {
    double alike = 0;
    for (size_t i = 0; i < a.size(); ++i) alike += a[i] == b[i] ? 1 : 0;
    const double n = static_cast<double>(a.size());
    EXPECT_NEAR(alike, n / 2, 5 * std::sqrt(n) / 2) << what;
  };
  const auto with = [&](const std::string& what, const std::function<void(DropoutMask&)>& change) {
    DropoutMask other = Hidden(0.5);
    change(other);
    expect_apart(one, Ones(shape, other), what);
  };
  with("seed", [](DropoutMask& mask) { ++mask.seed; });
  with("step", [](DropoutMask& mask) { ++mask.step; });
  with("sample", [](DropoutMask& mask) { ++mask.first_sample; });
  with("step and sample", [](DropoutMask& mask) { ++mask.step, --mask.first_sample; });
  with("layer", [](DropoutMask& mask) { mask.site = SiteOf(4, kHiddenUse); });
  with("use", [](DropoutMask& mask) { mask.site = SiteOf(3, kAttentionUse); });
  // And so do neighbours of one mask, at the distances of lanes, words, rows and samples.
  for (const int64_t distance : {1, 16, 64, 1000, 100 * 1000}) {
    const Floats earlier(one.begin(), one.end() - distance);
    expect_apart(earlier, Floats(one.begin() + distance, one.end()), std::to_string(distance));
  }
}

TEST_F(DropoutKernelsTest, WhatIsDropped_IsZero_WhateverItWas) {
  const Floats x(203, std::numeric_limits<float>::infinity());
  Floats out(x.size());
  kernels_.Dropout({1, 1, 203}, Hidden(0.5), x.data(), out.data());
  for (int64_t i = 0; i < 203; ++i) {
    const bool kept = KeepsElement(Hidden(0.5), Hidden(0.5).KeyOf(0), 0, i);
    ASSERT_EQ(out[Z(i)], kept ? x[Z(i)] : 0.0f);
  }
}

// --- What is added to the stream

struct DroppedLinear {
  LinearShape shape;
  int64_t rows_of_sample;
};

// residual + dropped(x w + bias); no bias: empty.
Doubles DroppedLinearOf(const DroppedLinear& of, const DropoutMask& mask, const Doubles& x,
                        const Doubles& w, const Doubles& bias, const Doubles& residual) {
  Doubles out = testing::LinearOf(of.shape.rows, of.shape.inputs, of.shape.outputs, x, w, bias);
  for (int64_t row = 0; row < of.shape.rows; ++row) {
    for (int64_t column = 0; column < of.shape.outputs; ++column) {
      const size_t at = Z(row * of.shape.outputs + column);
      const bool kept =
          KeepsElement(mask, mask.KeyOf(row / of.rows_of_sample), row % of.rows_of_sample, column);
      out[at] = residual[at] + (kept ? out[at] * double{mask.scale} : 0);
    }
  }
  return out;
}

// One tile and several, of columns that begin anywhere.
TEST_F(DropoutKernelsTest, LinearDropoutResidual_MatchesFormula) {
  for (const DroppedLinear& of :
       {DroppedLinear{{1, 1, 1}, 1}, DroppedLinear{{5, 3, 7}, 5}, DroppedLinear{{130, 17, 33}, 65},
        DroppedLinear{{300, 31, 401}, 100}, DroppedLinear{{600, 20, 800}, 20}}) {
    const Floats x = Random(of.shape.rows * of.shape.inputs, 1);
    const Floats w = Random(of.shape.inputs * of.shape.outputs, 2);
    const Floats bias = Random(of.shape.outputs, 3);
    const Floats residual = Random(of.shape.rows * of.shape.outputs, 4);
    Floats out(residual.size(), 99.0f);
    const auto run = [&](const DropoutMask& mask, const float* b) {
      kernels_.LinearDropoutResidualForward(of.shape, of.rows_of_sample, mask, x.data(), w.data(),
                                            b, residual.data(), out.data());
    };
    run(Hidden(0.3), bias.data());
    ExpectClose(out, DroppedLinearOf(of, Hidden(0.3), Wide(x), Wide(w), Wide(bias), Wide(residual)),
                kTolerance, "out");
    run(Hidden(0.3), nullptr);
    ExpectClose(out, DroppedLinearOf(of, Hidden(0.3), Wide(x), Wide(w), {}, Wide(residual)),
                kTolerance, "without bias");
    Floats plain(out.size());
    for (const float* const b : {static_cast<const float*>(bias.data()), (const float*)nullptr}) {
      kernels_.LinearResidualForward(of.shape, x.data(), w.data(), b, residual.data(),
                                     plain.data());
      run(Idle(Hidden(0.3)), b);
      EXPECT_EQ(out, plain);
      run(Hidden(0), b);
      EXPECT_EQ(out, plain);
    }
  }
}

// Its gradient, as the layers make it, is the linear layer's of what Dropout gives of `dout`.
TEST_F(DropoutKernelsTest, GradientsOfLinearDropoutResidual_MatchFiniteDifferences) {
  const DroppedLinear of{{6, 5, 9}, 3};
  const Floats x = Random(6 * 5, 1);
  const Floats w = Random(5 * 9, 2);
  const Floats bias = Random(9, 3);
  const Floats dout = Random(6 * 9, 4);
  Floats dropped(dout.size()), dx(x.size()), dw(w.size()), dbias(bias.size());
  kernels_.Dropout({2, 3, 9}, Hidden(0.4), dout.data(), dropped.data());
  kernels_.LinearBackwardInput(of.shape, dropped.data(), w.data(), dx.data());
  kernels_.LinearBackwardWeight(of.shape, x.data(), dropped.data(), dw.data());
  kernels_.LinearBackwardBias(of.shape, dropped.data(), dbias.data());
  const auto loss = [&](const Doubles& x_, const Doubles& w_, const Doubles& b_) {
    return testing::Dot(DroppedLinearOf(of, Hidden(0.4), x_, w_, b_, Wide(dout)), Wide(dout));
  };
  const auto expect = [&](const Floats& actual, const Floats& from, const auto& of_it) {
    ExpectClose(actual, FiniteDifferences(of_it, Wide(from)), kTolerance, "gradient");
  };
  expect(dx, x, [&](const Doubles& at) { return loss(at, Wide(w), Wide(bias)); });
  expect(dw, w, [&](const Doubles& at) { return loss(Wide(x), at, Wide(bias)); });
  expect(dbias, bias, [&](const Doubles& at) { return loss(Wide(x), Wide(w), at); });
}

TEST_F(DropoutKernelsTest, SixteenBits_HaveTheSameMask_AndAreRoundedOnce) {
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    const DroppedLinear of{{60, 31, 203}, 20};
    const Halves x = RandomHalves(60 * 31, 1, dtype);
    const Halves w = RandomHalves(31 * 203, 2, dtype);
    const Halves bias = RandomHalves(203, 3, dtype);
    const Halves residual = RandomHalves(60 * 203, 4, dtype);
    Halves out(dtype, 60 * 203);
    kernels_.LinearDropoutResidualForward(of.shape, of.rows_of_sample, Hidden(0.3), x, w, bias,
                                          residual, out);
    ExpectRounded(
        out, DroppedLinearOf(of, Hidden(0.3), x.wide(), w.wide(), bias.wide(), residual.wide()),
        kTolerance, "out");
    Halves plain(dtype, 60 * 203);
    kernels_.LinearResidualForward(of.shape, x, w, bias, residual, plain);
    kernels_.LinearDropoutResidualForward(of.shape, of.rows_of_sample, Idle(Hidden(0.3)), x, w,
                                          bias, residual, out);
    EXPECT_EQ(out.bits, plain.bits);
    Halves alone(dtype, 60 * 203);
    kernels_.Dropout({3, 20, 203}, Hidden(0.3), residual, alone);
    Doubles expected = residual.wide();
    const Floats mask = Ones({3, 20, 203}, Hidden(0.3));
    for (size_t i = 0; i < expected.size(); ++i) expected[i] *= double{mask[i]};
    ExpectRounded(alone, expected, 1e-7, "alone");
  }
}

// --- Attention

class DroppedAttentionTest : public DropoutKernelsTest,
                             public ::testing::WithParamInterface<GroupedAttentionShape> {};

TEST_P(DroppedAttentionTest, ForwardAndBackward_MatchFullFormula_InEveryType) {
  const GroupedAttentionShape shape = GetParam();
  const int64_t queries = shape.rows() * shape.heads * shape.head_size;
  const int64_t keys = shape.rows() * shape.heads_of_keys * shape.head_size;
  const Floats q = Random(queries, 22, 2);
  const Floats k = Random(keys, 23, 2);
  const Floats v = Random(keys, 24, 2);
  const Floats dout = Random(queries, 25);
  const DropoutMask mask = OfAttention(0.3);
  const Attended expected =
      GroupedAttentionOf(shape, Wide(q), Wide(k), Wide(v), Wide(dout), nullptr, mask);
  Floats scratch = Scratch(shape);
  Floats out(Z(queries), 99.0f), lse(expected.log_sum_exp.size(), 99.0f);
  Floats dq(Z(queries), 99.0f), dk(Z(keys), 99.0f), dv(Z(keys), 99.0f);
  const auto run = [&](const DropoutMask& with) {
    kernels_.GroupedAttentionForward(shape, with, q.data(), k.data(), v.data(), scratch.data(),
                                     out.data(), lse.data());
    kernels_.GroupedAttentionBackward(shape, with, q.data(), k.data(), v.data(), out.data(),
                                      lse.data(), dout.data(), scratch.data(), dq.data(), dk.data(),
                                      dv.data());
  };
  run(mask);
  ExpectClose(out, expected.out, kTolerance, "out");
  ExpectClose(lse, expected.log_sum_exp, kTolerance, "log-sum-exp");
  ExpectClose(dq, expected.dq, kTolerance, "dq");
  ExpectClose(dk, expected.dk, kTolerance, "dk");
  ExpectClose(dv, expected.dv, kTolerance, "dv");
  run({});
  const std::vector<Floats> plain = {out, lse, dq, dk, dv};
  run(Idle(mask));
  EXPECT_EQ((std::vector<Floats>{out, lse, dq, dk, dv}), plain);
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    const Halves hq = RandomHalves(queries, 22, dtype, 2), hk = RandomHalves(keys, 23, dtype, 2);
    const Halves hv = RandomHalves(keys, 24, dtype, 2), hd = RandomHalves(queries, 25, dtype);
    Halves hout(dtype, queries), hdq(dtype, queries), hdk(dtype, keys), hdv(dtype, keys);
    Floats of_halves = Scratch(shape, dtype);
    kernels_.GroupedAttentionForward(shape, mask, hq, hk, hv, of_halves.data(), hout, lse.data());
    kernels_.GroupedAttentionBackward(shape, mask, hq, hk, hv, hout, lse.data(), hd,
                                      of_halves.data(), hdq, hdk, hdv);
    const Doubles given = hout.wide();
    const Attended of_type =
        GroupedAttentionOf(shape, hq.wide(), hk.wide(), hv.wide(), hd.wide(), &given, mask);
    ExpectRounded(hout, of_type.out, kTolerance, "out");
    ExpectRounded(hdq, of_type.dq, kTolerance, "dq");
    ExpectRounded(hdk, of_type.dk, kTolerance, "dk");
    ExpectRounded(hdv, of_type.dv, kTolerance, "dv");
  }
}

// Lengths inside of a vector, across one, across tiles of queries (32) and of keys (256); groups,
// windows.
INSTANTIATE_TEST_SUITE_P(Shapes, DroppedAttentionTest,
                         ::testing::Values(GroupedAttentionShape{1, 1, 1, 1, 4, 0},
                                           GroupedAttentionShape{2, 7, 4, 2, 6, 0},
                                           GroupedAttentionShape{1, 65, 3, 3, 10, 0},
                                           GroupedAttentionShape{1, 300, 4, 2, 16, 0},
                                           GroupedAttentionShape{2, 77, 4, 2, 10, 3},
                                           GroupedAttentionShape{1, 700, 2, 1, 8, 40},
                                           GroupedAttentionShape{1, 700, 2, 1, 8, 300}));

// The formula has gradients of its own: these do not come from it.
TEST_F(DropoutKernelsTest, GradientsOfDroppedAttention_MatchFiniteDifferences) {
  const GroupedAttentionShape shape{2, 6, 4, 2, 4, 0};
  const Floats q = Random(12 * 16, 26, 2);
  const Floats k = Random(12 * 8, 27, 2);
  const Floats v = Random(12 * 8, 28, 2);
  const Floats dout = Random(12 * 16, 29);
  const DropoutMask mask = OfAttention(0.4);
  Floats scratch = Scratch(shape);
  Floats out(q.size()), lse(2 * 4 * 6), dq(q.size()), dk(k.size()), dv(v.size());
  kernels_.GroupedAttentionForward(shape, mask, q.data(), k.data(), v.data(), scratch.data(),
                                   out.data(), lse.data());
  kernels_.GroupedAttentionBackward(shape, mask, q.data(), k.data(), v.data(), out.data(),
                                    lse.data(), dout.data(), scratch.data(), dq.data(), dk.data(),
                                    dv.data());
  const auto loss = [&](const Doubles& q_, const Doubles& k_, const Doubles& v_) {
    return testing::Dot(GroupedAttentionOf(shape, q_, k_, v_, Wide(dout), nullptr, mask).out,
                        Wide(dout));
  };
  const auto expect = [&](const Floats& actual, const Floats& from, const auto& of_it) {
    ExpectClose(actual, FiniteDifferences(of_it, Wide(from)), kTolerance, "gradient");
  };
  expect(dq, q, [&](const Doubles& at) { return loss(at, Wide(k), Wide(v)); });
  expect(dk, k, [&](const Doubles& at) { return loss(Wide(q), at, Wide(v)); });
  expect(dv, v, [&](const Doubles& at) { return loss(Wide(q), Wide(k), at); });
}

// Queries, keys and values side by side have the bits of those that stand apart.
TEST_F(DropoutKernelsTest, AttentionSideBySide_HasTheBitsOfTheOther) {
  const SequenceShape sequence{2, 70, 24, 3};
  const GroupedAttentionShape shape{2, 70, 3, 3, 8, 0};
  const Floats parts[] = {Random(140 * 24, 1, 2), Random(140 * 24, 2, 2), Random(140 * 24, 3, 2)};
  const auto together = [&](const Floats& a, const Floats& b, const Floats& c) {
    Floats all;
    for (int64_t row = 0; row < 140; ++row) {
      for (const Floats* const part : {&a, &b, &c}) {
        all.insert(all.end(), part->begin() + row * 24, part->begin() + (row + 1) * 24);
      }
    }
    return all;
  };
  const Floats qkv = together(parts[0], parts[1], parts[2]);
  const Floats dout = Random(140 * 24, 4);
  Floats scratch = Scratch(shape);
  Floats out(dout.size()), lse(2 * 3 * 70), dqkv(qkv.size());
  Floats other(dout.size()), other_lse(lse.size()), dq(dout), dk(dout), dv(dout);
  const DropoutMask mask = OfAttention(0.3);
  kernels_.AttentionForward(sequence, mask, qkv.data(), scratch.data(), out.data(), lse.data());
  kernels_.AttentionBackward(sequence, mask, qkv.data(), out.data(), lse.data(), dout.data(),
                             scratch.data(), dqkv.data());
  kernels_.GroupedAttentionForward(shape, mask, parts[0].data(), parts[1].data(), parts[2].data(),
                                   scratch.data(), other.data(), other_lse.data());
  kernels_.GroupedAttentionBackward(shape, mask, parts[0].data(), parts[1].data(), parts[2].data(),
                                    other.data(), other_lse.data(), dout.data(), scratch.data(),
                                    dq.data(), dk.data(), dv.data());
  EXPECT_EQ(out, other);
  EXPECT_EQ(lse, other_lse);
  EXPECT_EQ(dqkv, together(dq, dk, dv));
}

}  // namespace
}  // namespace dsrun::worker
