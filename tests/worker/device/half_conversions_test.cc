// bf16 and fp16 to fp32 and back, on every instruction set that this CPU has, with denormals
// flushed as the kernels' threads have it and without: every pattern, every tie and its neighbours,
// against the formats' definitions (halves.h). Which NaN comes out is not compared, but that all
// agree.

#include <gtest/gtest.h>
#include <pmmintrin.h>
#include <xmmintrin.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "common/base/cpu_isa.h"
#include "common/base/philox.h"
#include "tests/worker/device/halves.h"
#include "worker/device/cpu/cpu_kernels.h"
#include "worker/device/cpu/cpu_loops.h"
#include "worker/device/cpu/thread_pool.h"

namespace dsrun::worker {
namespace {

using testing::BitsOf;
using testing::Floats;
using testing::Nearest;
using testing::ValueOf;

constexpr int kPatterns = 1 << 16;

float FloatOf(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}

std::vector<uint16_t> EveryPattern() {
  std::vector<uint16_t> patterns(kPatterns);
  for (int i = 0; i < kPatterns; ++i) patterns[static_cast<size_t>(i)] = static_cast<uint16_t>(i);
  return patterns;
}

class HalfConversionsTest : public ::testing::TestWithParam<DType> {
 protected:
  // body(loops, name) for every instruction set, flushing and not.
  template <typename Body>
  void OnEveryIsa(const Body& body) {
    const unsigned before = _mm_getcsr();
    for (const bool flush : {false, true}) {
      for (const CpuIsa isa : {CpuIsa::kBaseline, CpuIsa::kAvx2, CpuIsa::kAvx512}) {
        if (isa > BestIsa()) continue;
        SCOPED_TRACE(IsaName(isa) + (flush ? ", flushing" : ""));
        _mm_setcsr(before);
        if (flush) SetFlushDenormals();
        body(LoopsOf(LoopsFor(isa), GetParam()));
        _mm_setcsr(before);
      }
    }
  }

  // The rounded bits of x, in long runs and one by one: vectors and what is left of them.
  void ExpectRounds(const Floats& x) {
    std::vector<uint16_t> expected(x.size());
    for (size_t i = 0; i < x.size(); ++i) {
      if (!std::isnan(x[i])) expected[i] = BitsOf(Nearest(x[i], GetParam()), GetParam());
    }
    std::vector<uint16_t> first;
    OnEveryIsa([&](const RealLoops& loops) {
      std::vector<uint16_t> out(x.size());
      std::vector<uint16_t> single(x.size());
      loops.round(static_cast<int64_t>(x.size()), x.data(), out.data());
      for (size_t i = 0; i < x.size(); ++i) loops.round(1, &x[i], &single[i]);
      EXPECT_EQ(out, single);
      if (first.empty()) first = out;
      EXPECT_EQ(out, first);
      for (size_t i = 0; i < x.size(); ++i) {
        if (std::isnan(x[i])) {
          ASSERT_TRUE(std::isnan(ValueOf(out[i], GetParam()))) << "NaN became " << out[i];
        } else {
          ASSERT_EQ(out[i], expected[i]) << std::hexfloat << x[i];
        }
      }
      // There and back, in one.
      Floats there(x.size());
      Floats both(x.size());
      loops.widen(static_cast<int64_t>(x.size()), out.data(), there.data());
      loops.round_widen(static_cast<int64_t>(x.size()), x.data(), both.data());
      EXPECT_EQ(std::memcmp(there.data(), both.data(), x.size() * sizeof(float)), 0);
    });
  }
};

TEST_P(HalfConversionsTest, EveryPattern_IsWidenedExactly) {
  const std::vector<uint16_t> patterns = EveryPattern();
  Floats first;
  OnEveryIsa([&](const RealLoops& loops) {
    Floats out(kPatterns);
    Floats single(kPatterns);
    loops.widen(kPatterns, patterns.data(), out.data());
    for (size_t i = 0; i < kPatterns; ++i) loops.widen(1, &patterns[i], &single[i]);
    EXPECT_EQ(std::memcmp(out.data(), single.data(), kPatterns * sizeof(float)), 0);
    if (first.empty()) first = out;
    EXPECT_EQ(std::memcmp(out.data(), first.data(), kPatterns * sizeof(float)), 0);
    for (size_t i = 0; i < kPatterns; ++i) {
      const double value = ValueOf(patterns[i], GetParam());
      uint32_t expected;
      const auto as_float = static_cast<float>(value);
      std::memcpy(&expected, &as_float, sizeof(expected));
      uint32_t bits;
      std::memcpy(&bits, &out[i], sizeof(bits));
      if (std::isnan(value)) {
        ASSERT_GT(bits & 0x7fffffff, 0x7f800000u) << i;
        ASSERT_EQ(bits >> 31, i >> 15) << i;
      } else if (std::fabs(value) <
                 0x1p-126) {  // a subnormal float: as bits, arithmetic flushes it
        ASSERT_EQ(bits, static_cast<uint32_t>(i) << 16);
      } else {
        ASSERT_EQ(bits, expected) << i;
      }
    }
  });
}

TEST_P(HalfConversionsTest, EveryPattern_RoundsToItself) {
  Floats x(kPatterns);
  const std::vector<uint16_t> patterns = EveryPattern();
  LoopsOf(LoopsFor(CpuIsa::kBaseline), GetParam()).widen(kPatterns, patterns.data(), x.data());
  ExpectRounds(x);
  std::vector<uint16_t> out(kPatterns);
  LoopsOf(LoopsFor(CpuIsa::kBaseline), GetParam()).round(kPatterns, x.data(), out.data());
  for (size_t i = 0; i < kPatterns; ++i) {
    const double value = ValueOf(patterns[i], GetParam());
    if (std::isnan(value)) continue;
    ASSERT_EQ(out[i], std::fabs(value) < 0x1p-126 ? i & 0x8000 : i);
  }
}

// Between each two neighbours of the format: the middle, and the floats on both sides of it.
TEST_P(HalfConversionsTest, Ties_GoToEven_AndTheirNeighboursToTheNearest) {
  Floats x;
  for (int i = 0; i + 1 < kPatterns; ++i) {
    const double value = ValueOf(static_cast<uint16_t>(i), GetParam());
    double next = ValueOf(static_cast<uint16_t>(i + 1), GetParam());
    if (std::isinf(next)) {
      next = std::copysign(
          2 * std::fabs(value) - std::fabs(ValueOf(static_cast<uint16_t>(i - 1), GetParam())),
          value);
    }
    if (!std::isfinite(value) || !std::isfinite(next)) continue;
    const auto middle = static_cast<float>((value + next) / 2);
    x.insert(x.end(), {middle, std::nextafter(middle, 0.0f),
                       std::nextafter(middle, std::copysign(1e38f, middle))});
  }
  ASSERT_GT(x.size(), 180'000u);
  ExpectRounds(x);
}

TEST_P(HalfConversionsTest, FloatsOfAnySize_RoundToTheNearest) {
  Floats x;
  for (uint64_t i = 0; i < 250'000; ++i) {
    for (const uint32_t word : Philox4x32({static_cast<uint32_t>(i), 0, 0, 0}, {3, 4})) {
      x.push_back(FloatOf(word));
    }
  }
  const float infinity = std::numeric_limits<float>::infinity();
  x.insert(x.end(), {infinity,
                     -infinity,
                     std::nanf(""),
                     -std::nanf(""),
                     FloatOf(0x7f800001),
                     FloatOf(0x7fffffff),
                     FloatOf(0xff800001),
                     0.0f,
                     -0.0f,
                     65504.0f,
                     65519.996f,
                     65520.0f,
                     65536.0f,
                     -65520.0f,
                     0x1.fefffep127f,
                     0x1.ffp127f,
                     0x1.fffffep127f,
                     FloatOf(1),
                     FloatOf(0x007fffff),
                     FloatOf(0x807fffff),
                     FloatOf(0x00800000)});
  ExpectRounds(x);
}

// Loads and stores of sixteen lanes are code of their own: over every pattern, in long runs and in
// tails. silu(0) = 0 and its slope is 1/2, so dgate = dout / 2.
TEST_P(HalfConversionsTest, LoadsAndStoresOfLanes_AreAsExact) {
  const std::vector<uint16_t> patterns = EveryPattern();
  const std::vector<uint16_t> gate(kPatterns, 0);
  const std::vector<uint16_t> up(kPatterns, BitsOf(1, GetParam()));
  std::vector<uint16_t> expected(kPatterns);
  for (size_t i = 0; i < kPatterns; ++i) {
    const double value = ValueOf(patterns[i], GetParam());
    if (!std::isnan(value)) expected[i] = BitsOf(Nearest(value / 2, GetParam()), GetParam());
  }
  OnEveryIsa([&](const RealLoops& loops) {
    for (const size_t run : {size_t{kPatterns}, size_t{7}}) {
      std::vector<uint16_t> dgate(kPatterns);
      std::vector<uint16_t> dup(kPatterns);
      for (size_t begin = 0; begin < kPatterns; begin += run) {
        const size_t count = std::min(run, kPatterns - begin);
        loops.swiglu_backward(static_cast<int64_t>(count), gate.data(), up.data(),
                              patterns.data() + begin, dgate.data() + begin, dup.data());
      }
      for (size_t i = 0; i < kPatterns; ++i) {
        if (std::isnan(ValueOf(patterns[i], GetParam()))) {
          ASSERT_TRUE(std::isnan(ValueOf(dgate[i], GetParam()))) << i;
        } else {
          ASSERT_EQ(dgate[i], expected[i]) << i;
        }
      }
    }
  });
}

TEST_P(HalfConversionsTest, Cast_RoundsEveryElementOnce) {
  ThreadPool pool(2);
  CpuKernels kernels(pool, BestIsa());
  const Floats x = testing::Random(100'003, 1, 3);
  testing::Halves out(GetParam(), 100'003);
  kernels.Cast(100'003, x.data(), out);
  for (size_t i = 0; i < x.size(); ++i) {
    ASSERT_EQ(out.bits[i], BitsOf(Nearest(x[i], GetParam()), GetParam()));
  }
}

std::string NameOfType(const ::testing::TestParamInfo<DType>& type) {
  return std::string(NameOf(type.param));
}
INSTANTIATE_TEST_SUITE_P(Types, HalfConversionsTest, ::testing::Values(DType::kBF16, DType::kF16),
                         NameOfType);

TEST(HalfConversionsTest32, CastToFloats_IsACopy) {
  ThreadPool pool(2);
  CpuKernels kernels(pool, BestIsa());
  const Floats x = testing::Random(50'003, 1, 3);
  Floats out(x.size());
  kernels.Cast(50'003, x.data(), out.data());
  EXPECT_EQ(out, x);
}

}  // namespace
}  // namespace dsrun::worker
