// Newton-Schulz against double precision, by both methods; singular values in the method's band.

#include "worker/optim/newton_schulz.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "worker/device/cpu/cpu_kernels.h"
#include "worker/device/random_normal.h"

namespace dsrun::worker {
namespace {

using Doubles = std::vector<double>;
using Floats = std::vector<float>;

size_t Z(int64_t i) { return static_cast<size_t>(i); }

// Normal numbers, divided by the Frobenius norm.
Floats Normalised(MatrixShape shape, uint64_t seed) {
  Floats x(Z(shape.size()));
  NormalRange(seed, StreamId("matrix", "x"), 0, shape.size(), 1, x.data());
  double square = 0;
  for (const float value : x) square += double{value} * value;
  for (float& value : x) value = static_cast<float>(value / std::sqrt(square));
  return x;
}

// a (m, k) b (k, n).
Doubles Product(int64_t m, int64_t n, int64_t k, const Doubles& a, const Doubles& b) {
  Doubles c(Z(m * n));
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t at = 0; at < k; ++at) {
      for (int64_t j = 0; j < n; ++j) c[Z(i * n + j)] += a[Z(i * k + at)] * b[Z(at * n + j)];
    }
  }
  return c;
}

Doubles Transposed(MatrixShape shape, const Doubles& x) {
  Doubles t(x.size());
  for (int64_t i = 0; i < shape.rows; ++i) {
    for (int64_t j = 0; j < shape.columns; ++j) {
      t[Z(j * shape.rows + i)] = x[Z(i * shape.columns + j)];
    }
  }
  return t;
}

// x x^T
Doubles GramOf(MatrixShape shape, const Doubles& x) {
  return Product(shape.rows, shape.rows, shape.columns, x, Transposed(shape, x));
}

// By its definition: x <- a x + (b G + c G G) x, G = x x^T, whatever the shape.
Doubles Expected(MatrixShape shape, Doubles x) {
  for (int step = 0; step < 5; ++step) {
    const Doubles g = GramOf(shape, x);
    const Doubles gx = Product(shape.rows, shape.columns, shape.rows, g, x);
    const Doubles ggx = Product(shape.rows, shape.columns, shape.rows, g, gx);
    for (size_t i = 0; i < x.size(); ++i) {
      x[i] = 3.4445 * x[i] - 4.7750 * gx[i] + 2.0315 * ggx[i];
    }
  }
  return x;
}

// Square roots of the eigenvalues of x x^T, by Jacobi's rotations. REQUIRES: rows <= columns.
Doubles SingularValues(MatrixShape shape, const Doubles& x) {
  const int64_t n = shape.rows;
  Doubles g = GramOf(shape, x);
  const auto at = [&](int64_t i, int64_t j) -> double& { return g[Z(i * n + j)]; };
  for (int sweep = 0; sweep < 12; ++sweep) {
    for (int64_t p = 0; p < n; ++p) {
      for (int64_t q = p + 1; q < n; ++q) {
        if (std::fabs(at(p, q)) < 1e-14) continue;
        const double theta = (at(q, q) - at(p, p)) / (2 * at(p, q));
        const double t = (theta < 0 ? -1 : 1) / (std::fabs(theta) + std::sqrt(theta * theta + 1));
        const double c = 1 / std::sqrt(t * t + 1);
        const double s = t * c;
        for (int64_t k = 0; k < n; ++k) {
          const double kp = at(k, p), kq = at(k, q);
          at(k, p) = c * kp - s * kq;
          at(k, q) = s * kp + c * kq;
        }
        for (int64_t k = 0; k < n; ++k) {
          const double pk = at(p, k), qk = at(q, k);
          at(p, k) = c * pk - s * qk;
          at(q, k) = s * pk + c * qk;
        }
      }
    }
  }
  Doubles values;
  for (int64_t i = 0; i < n; ++i) values.push_back(std::sqrt(std::max(0.0, at(i, i))));
  std::sort(values.begin(), values.end());
  return values;
}

class NewtonSchulzTest : public ::testing::Test {
 protected:
  // Scratch begins with what must not matter.
  Floats Result(NsMethod method, MatrixShape shape, Floats x, float garbage = 1e30f) {
    Floats scratch(Z(NewtonSchulzScratch(shape)) + 1, garbage);
    const float* const result = NewtonSchulz(kernels_, method, shape, x.data(), scratch.data());
    EXPECT_EQ(scratch.back(), garbage) << "beyond its scratch";
    return Floats(result, result + shape.size());
  }

  ThreadPool pool_{2};
  CpuKernels kernels_{pool_, BestIsa()};
};

constexpr NsMethod kMethods[] = {NsMethod::kGram, NsMethod::kStandard};
// Wide, tall, square; nearly square; a row, a column; sides of no round number.
constexpr MatrixShape kShapes[] = {{24, 96}, {96, 24}, {40, 40}, {40, 41},
                                   {1, 50},  {50, 1},  {33, 71}, {1, 1}};

TEST_F(NewtonSchulzTest, BothMethods_AreTheIterationInDoublePrecision) {
  for (const MatrixShape shape : kShapes) {
    for (const NsMethod method : kMethods) {
      SCOPED_TRACE(testing::Message() << shape.rows << " x " << shape.columns << ", method "
                                      << static_cast<int>(method));
      const Floats x = Normalised(shape, 7);
      const Doubles expected = Expected(shape, Doubles(x.begin(), x.end()));
      const Floats result = Result(method, shape, x);
      for (size_t i = 0; i < result.size(); ++i) ASSERT_NEAR(result[i], expected[i], 2e-4) << i;
    }
  }
}

TEST_F(NewtonSchulzTest, SingularValues_AreInTheBand) {
  for (const MatrixShape shape : {MatrixShape{24, 96}, {24, 30}, {32, 32}}) {
    for (const NsMethod method : kMethods) {
      const Floats x = Normalised(shape, 11);
      const Doubles before = SingularValues(shape, Doubles(x.begin(), x.end()));
      const Floats result = Result(method, shape, x);
      const Doubles after = SingularValues(shape, Doubles(result.begin(), result.end()));
      ASSERT_EQ(before.size(), after.size());
      size_t counted = 0;
      for (size_t i = 0; i < after.size(); ++i) {
        EXPECT_LT(after[i], 1.21);
        // Smaller ones have not arrived; the order may change, so the least bounds none but itself.
        if (before.front() < 0.002 && i == 0) continue;
        EXPECT_GT(after[i], 0.68);
        ++counted;
      }
      EXPECT_GE(counted + 1, after.size());
      EXPECT_GT(before.back() / before.front(), 1.8) << "nothing was to be done";
    }
  }
}

TEST_F(NewtonSchulzTest, Zeros_StayZeros) {
  for (const MatrixShape shape : kShapes) {
    for (const NsMethod method : kMethods) {
      const Floats result = Result(method, shape, Floats(Z(shape.size())));
      EXPECT_EQ(result, Floats(Z(shape.size()), 0.0f));
    }
  }
}

TEST_F(NewtonSchulzTest, Bits_AreOfTheMatrixAlone) {
  for (const MatrixShape shape : kShapes) {
    for (const NsMethod method : kMethods) {
      const Floats x = Normalised(shape, 13);
      const Floats result = Result(method, shape, x);
      EXPECT_EQ(Result(method, shape, x, -1), result) << "what stood in the scratch";
      ThreadPool one(1);
      CpuKernels alone(one, BestIsa());
      Floats again = x, scratch(Z(NewtonSchulzScratch(shape)));
      const float* const there = NewtonSchulz(alone, method, shape, again.data(), scratch.data());
      EXPECT_EQ(Floats(there, there + shape.size()), result) << "threads";
    }
  }
}

// A matrix of rank one: one singular value, the others 0, and 0 they stay.
TEST_F(NewtonSchulzTest, RankOne_StaysOfRankOne) {
  const MatrixShape shape{20, 60};
  Floats x(Z(shape.size()));
  for (int64_t i = 0; i < shape.rows; ++i) {
    for (int64_t j = 0; j < shape.columns; ++j) {
      x[Z(i * shape.columns + j)] =
          static_cast<float>(std::sin(double(i) + 1) * std::cos(double(j)));
    }
  }
  double square = 0;
  for (const float value : x) square += double{value} * value;
  for (float& value : x) value = static_cast<float>(value / std::sqrt(square));
  for (const NsMethod method : kMethods) {
    const Floats result = Result(method, shape, x);
    const double ratio = double{result[5]} / x[5];
    EXPECT_GT(ratio, 0.68);
    EXPECT_LT(ratio, 1.21);
    for (size_t i = 0; i < x.size(); ++i) ASSERT_NEAR(result[i], ratio * x[i], 2e-5);
  }
}

}  // namespace
}  // namespace dsrun::worker
