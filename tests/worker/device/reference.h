// Plain double-precision formulas, one loop per index, and finite differences: what the kernels are
// checked against. Written without looking at how the kernels do it.

#ifndef DSRUN_TESTS_WORKER_DEVICE_REFERENCE_H_
#define DSRUN_TESTS_WORKER_DEVICE_REFERENCE_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "worker/device/kernels.h"

namespace dsrun::worker::testing {

using Doubles = std::vector<double>;
using Floats = std::vector<float>;

inline size_t Z(int64_t i) { return static_cast<size_t>(i); }

// The same numbers on every run; a failure repeats.
inline Floats Random(int64_t n, uint32_t seed, double scale = 1) {
  std::mt19937 engine(seed);
  Floats x(Z(n));
  for (float& value : x) {
    value = static_cast<float>((engine() * 0x1p-31 - 1) * scale);
  }
  return x;
}

inline Doubles Wide(const Floats& x) { return Doubles(x.begin(), x.end()); }

// Every element within `tolerance` x (1 + the largest magnitude of `expected`).
inline void ExpectClose(const Floats& actual, const Doubles& expected, double tolerance,
                        const std::string& what) {
  ASSERT_EQ(actual.size(), expected.size()) << what;
  double largest = 0;
  for (const double value : expected) largest = std::max(largest, std::fabs(value));
  for (size_t i = 0; i < actual.size(); ++i) {
    ASSERT_NEAR(actual[i], expected[i], tolerance * (1 + largest)) << what << " element " << i;
  }
}

// d f / d x by central differences. In double with step 1e-5 the error is about 1e-10 relative.
inline Doubles FiniteDifferences(const std::function<double(const Doubles&)>& f, Doubles x) {
  constexpr double kStep = 1e-5;
  Doubles gradient(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    const double at = x[i];
    x[i] = at + kStep;
    const double above = f(x);
    x[i] = at - kStep;
    const double below = f(x);
    x[i] = at;
    gradient[i] = (above - below) / (2 * kStep);
  }
  return gradient;
}

inline double Dot(const Doubles& a, const Doubles& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

inline double GeluOf(double x) {
  return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}

inline Doubles LinearOf(int64_t rows, int64_t inputs, int64_t outputs, const Doubles& x,
                        const Doubles& w, const Doubles& bias) {
  Doubles y(Z(rows * outputs));
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t o = 0; o < outputs; ++o) {
      double sum = bias.empty() ? 0 : bias[Z(o)];
      for (int64_t i = 0; i < inputs; ++i) sum += x[Z(r * inputs + i)] * w[Z(i * outputs + o)];
      y[Z(r * outputs + o)] = sum;
    }
  }
  return y;
}

inline Doubles LayerNormOf(int64_t rows, int64_t width, const Doubles& x, const Doubles& weight,
                           const Doubles& bias) {
  Doubles y(x.size());
  for (int64_t r = 0; r < rows; ++r) {
    double mean = 0;
    double variance = 0;
    for (int64_t i = 0; i < width; ++i) mean += x[Z(r * width + i)] / static_cast<double>(width);
    for (int64_t i = 0; i < width; ++i) {
      variance += std::pow(x[Z(r * width + i)] - mean, 2) / static_cast<double>(width);
    }
    for (int64_t i = 0; i < width; ++i) {
      y[Z(r * width + i)] =
          (x[Z(r * width + i)] - mean) / std::sqrt(variance + 1e-5) * weight[Z(i)] + bias[Z(i)];
    }
  }
  return y;
}

// qkv (batch, length, 3 width) to (batch, length, width), with the full matrix of scores.
inline Doubles AttentionOf(int64_t batch, int64_t length, int64_t width, int64_t heads,
                           const Doubles& qkv, Doubles* log_sum_exp = nullptr) {
  const int64_t size = width / heads;
  Doubles out(Z(batch * length * width));
  if (log_sum_exp != nullptr) log_sum_exp->assign(Z(batch * heads * length), 0);
  const auto at = [&](int64_t b, int64_t t, int64_t which, int64_t h, int64_t i) {
    return qkv[Z(((b * length + t) * 3 + which) * width + h * size + i)];
  };
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t h = 0; h < heads; ++h) {
      for (int64_t t = 0; t < length; ++t) {
        Doubles score(Z(t + 1));
        double max = -1e300;
        for (int64_t s = 0; s <= t; ++s) {
          for (int64_t i = 0; i < size; ++i) score[Z(s)] += at(b, t, 0, h, i) * at(b, s, 1, h, i);
          score[Z(s)] /= std::sqrt(static_cast<double>(size));
          max = std::max(max, score[Z(s)]);
        }
        double sum = 0;
        for (double& value : score) sum += value = std::exp(value - max);
        for (int64_t i = 0; i < size; ++i) {
          double value = 0;
          for (int64_t s = 0; s <= t; ++s) value += score[Z(s)] / sum * at(b, s, 2, h, i);
          out[Z((b * length + t) * width + h * size + i)] = value;
        }
        if (log_sum_exp != nullptr) {
          (*log_sum_exp)[Z((b * heads + h) * length + t)] = max + std::log(sum);
        }
      }
    }
  }
  return out;
}

// Sum over rows of -ln softmax(logits)[target]; rows with target < 0 count nothing.
inline double CrossEntropyOf(int64_t rows, int64_t vocab, const Doubles& logits,
                             const std::vector<int32_t>& targets) {
  double loss = 0;
  for (int64_t r = 0; r < rows; ++r) {
    if (targets[Z(r)] < 0) continue;
    double max = -1e300;
    for (int64_t v = 0; v < vocab; ++v) max = std::max(max, logits[Z(r * vocab + v)]);
    double sum = 0;
    for (int64_t v = 0; v < vocab; ++v) sum += std::exp(logits[Z(r * vocab + v)] - max);
    loss += max + std::log(sum) - logits[Z(r * vocab + targets[Z(r)])];
  }
  return loss;
}

inline Doubles RmsNormOf(int64_t rows, int64_t width, double epsilon, const Doubles& x,
                         const Doubles& weight) {
  Doubles y(x.size());
  for (int64_t r = 0; r < rows; ++r) {
    double mean = 0;
    for (int64_t i = 0; i < width; ++i) {
      mean += x[Z(r * width + i)] * x[Z(r * width + i)] / static_cast<double>(width);
    }
    for (int64_t i = 0; i < width; ++i) {
      y[Z(r * width + i)] = x[Z(r * width + i)] / std::sqrt(mean + epsilon) * weight[Z(i)];
    }
  }
  return y;
}

inline double SiluOf(double x) { return x / (1 + std::exp(-x)); }

// q, k, v and their gradients, side by side.
struct Attended {
  Doubles q, k, v, out, log_sum_exp, dq, dk, dv;
};

// With full rows of scores, out and the gradients for `dout`. Backward is told forward's result:
// where that was rounded, `given_out` says what it was told. Probabilities are dropped by `mask`.
inline Attended GroupedAttentionOf(const GroupedAttentionShape& shape, const Doubles& q,
                                   const Doubles& k, const Doubles& v, const Doubles& dout,
                                   const Doubles* given_out = nullptr,
                                   const DropoutMask& mask = {}) {
  const int64_t size = shape.head_size;
  const double scale = 1 / std::sqrt(static_cast<double>(size));
  Attended a{q,
             k,
             v,
             Doubles(q.size()),
             Doubles(Z(shape.batch * shape.heads * shape.seq_length)),
             Doubles(q.size()),
             Doubles(k.size()),
             Doubles(v.size())};
  for (int64_t b = 0; b < shape.batch; ++b) {
    for (int64_t h = 0; h < shape.heads; ++h) {
      const int64_t of_keys = h / (shape.heads / shape.heads_of_keys);
      const auto q_at = [&](int64_t t, int64_t i) {
        return Z(((b * shape.seq_length + t) * shape.heads + h) * size + i);
      };
      const auto k_at = [&](int64_t t, int64_t i) {
        return Z(((b * shape.seq_length + t) * shape.heads_of_keys + of_keys) * size + i);
      };
      for (int64_t t = 0; t < shape.seq_length; ++t) {
        const int64_t first = shape.window == 0 ? 0 : std::max<int64_t>(0, t - shape.window + 1);
        Doubles p(Z(t + 1));
        Doubles dp(Z(t + 1));
        Doubles kept(Z(t + 1), 1);  // what a probability is multiplied by
        for (int64_t s = first; s <= t && mask.drops(); ++s) {
          kept[Z(s)] = KeepsScore(mask, mask.KeyOf(b), h, t, s) ? double{mask.scale} : 0;
        }
        double sum = 0;
        for (int64_t s = first; s <= t; ++s) {
          double score = 0;
          for (int64_t i = 0; i < size; ++i) score += q[q_at(t, i)] * k[k_at(s, i)];
          sum += p[Z(s)] = std::exp(score * scale);
          for (int64_t i = 0; i < size; ++i) {
            dp[Z(s)] += kept[Z(s)] * dout[q_at(t, i)] * v[k_at(s, i)];
          }
        }
        a.log_sum_exp[Z((b * shape.heads + h) * shape.seq_length + t)] = std::log(sum);
        double mean = 0;
        for (int64_t s = first; s <= t; ++s) mean += (p[Z(s)] /= sum) * dp[Z(s)];
        if (given_out != nullptr) {
          mean = 0;
          for (int64_t i = 0; i < size; ++i) mean += (*given_out)[q_at(t, i)] * dout[q_at(t, i)];
        }
        for (int64_t s = first; s <= t; ++s) {
          const double ds = p[Z(s)] * (dp[Z(s)] - mean) * scale;
          for (int64_t i = 0; i < size; ++i) {
            a.out[q_at(t, i)] += kept[Z(s)] * p[Z(s)] * v[k_at(s, i)];
            a.dq[q_at(t, i)] += ds * k[k_at(s, i)];
            a.dk[k_at(s, i)] += ds * q[q_at(t, i)];
            a.dv[k_at(s, i)] += kept[Z(s)] * p[Z(s)] * dout[q_at(t, i)];
          }
        }
      }
    }
  }
  return a;
}

}  // namespace dsrun::worker::testing

#endif  // DSRUN_TESTS_WORKER_DEVICE_REFERENCE_H_
