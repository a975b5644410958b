// GPT-2 once more, in double precision and plain loops, straight from the paper's description: loss
// and all gradients of one micro-batch. Written independently of worker/model and worker/device;
// parameters are looked up by tensor name in the flat layout.

#ifndef DSRUN_TESTS_WORKER_MODEL_REFERENCE_GPT2_H_
#define DSRUN_TESTS_WORKER_MODEL_REFERENCE_GPT2_H_

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "common/model/model_spec.h"
#include "common/plan/shard_plan.h"

namespace dsrun::worker::testing {

class ReferenceGpt2 {
 public:
  using Array = std::vector<double>;

  ReferenceGpt2(const ModelSpec& spec, const FlatLayout& layout, const float* parameters)
      : spec_(spec), layout_(layout), p_(parameters, parameters + layout.size()) {
    gradients.assign(S(layout.size()), 0);
    head_gradient.assign(S(layout.Find("wte.weight").tensor.size()), 0);
  }

  double loss = 0;
  Array gradients;      // like the arena; wte.weight: its use as embedding alone
  Array head_gradient;  // wte.weight's use as output head

  void Run(const std::vector<int32_t>& tokens, const std::vector<int32_t>& targets) {
    rows_ = static_cast<int64_t>(tokens.size());
    const int64_t width = spec_.hidden_size;
    Array x(S(rows_ * width));
    const int64_t wte = At("wte.weight");
    const int64_t wpe = At("wpe.weight");
    for (int64_t r = 0; r < rows_; ++r) {
      for (int64_t i = 0; i < width; ++i) {
        x[S(r * width + i)] =
            p_[S(wte + tokens[S(r)] * width + i)] + p_[S(wpe + r % spec_.seq_length * width + i)];
      }
    }
    const Array dx = Block(0, x, targets);
    for (int64_t r = 0; r < rows_; ++r) {
      for (int64_t i = 0; i < width; ++i) {
        gradients[S(wte + tokens[S(r)] * width + i)] += dx[S(r * width + i)];
        gradients[S(wpe + r % spec_.seq_length * width + i)] += dx[S(r * width + i)];
      }
    }
  }

 private:
  static size_t S(int64_t i) { return static_cast<size_t>(i); }
  int64_t At(const std::string& name) const { return layout_.Find(name).offset; }

  // Each function below runs its piece forward, then everything after it, and returns the gradient
  // of its input: the recursion is the tape.

  Array Block(int64_t layer, const Array& x, const std::vector<int32_t>& targets) {
    if (layer == spec_.num_layers) return Head(x, targets);
    const int64_t width = spec_.hidden_size;
    const std::string h = "h." + std::to_string(layer) + ".";
    const Array a = NormForward(h + "ln_1", x);
    const Array qkv = LinearForward(h + "attn.c_attn", a, width, 3 * width);
    const Array mixed = AttentionForward(qkv);
    Array mid = LinearForward(h + "attn.c_proj", mixed, width, width);
    Add(mid, x);
    const Array b = NormForward(h + "ln_2", mid);
    const Array pre = LinearForward(h + "mlp.c_fc", b, width, 4 * width);
    Array active = pre;
    for (double& value : active) value = 0.5 * value * (1 + std::tanh(Inner(value)));
    Array out = LinearForward(h + "mlp.c_proj", active, 4 * width, width);
    Add(out, mid);

    const Array dout = Block(layer + 1, out, targets);
    Array dpre = LinearBackward(h + "mlp.c_proj", active, dout, 4 * width, width);
    for (size_t i = 0; i < dpre.size(); ++i) dpre[i] *= Slope(pre[i]);
    const Array db = LinearBackward(h + "mlp.c_fc", b, dpre, width, 4 * width);
    Array dmid = NormBackward(h + "ln_2", mid, db);
    Add(dmid, dout);
    const Array dmixed = LinearBackward(h + "attn.c_proj", mixed, dmid, width, width);
    const Array dqkv = AttentionBackward(qkv, dmixed);
    const Array da = LinearBackward(h + "attn.c_attn", a, dqkv, width, 3 * width);
    Array dx = NormBackward(h + "ln_1", x, da);
    Add(dx, dmid);
    return dx;
  }

  Array Head(const Array& x, const std::vector<int32_t>& targets) {
    const int64_t width = spec_.hidden_size;
    const int64_t vocab = spec_.vocab_size;
    const int64_t wte = At("wte.weight");
    const Array y = NormForward("ln_f", x);
    Array dy(y.size());
    for (int64_t r = 0; r < rows_; ++r) {
      if (targets[S(r)] < 0) continue;
      Array logit(S(vocab));
      double sum = 0;
      for (int64_t v = 0; v < vocab; ++v) {
        for (int64_t i = 0; i < width; ++i) {
          logit[S(v)] += y[S(r * width + i)] * p_[S(wte + v * width + i)];
        }
        sum += std::exp(logit[S(v)]);
      }
      loss += std::log(sum) - logit[S(targets[S(r)])];
      for (int64_t v = 0; v < vocab; ++v) {
        const double d = std::exp(logit[S(v)]) / sum - (v == targets[S(r)] ? 1 : 0);
        for (int64_t i = 0; i < width; ++i) {
          dy[S(r * width + i)] += d * p_[S(wte + v * width + i)];
          head_gradient[S(v * width + i)] += d * y[S(r * width + i)];
        }
      }
    }
    return NormBackward("ln_f", x, dy);
  }

  static void Add(Array& to, const Array& what) {
    for (size_t i = 0; i < to.size(); ++i) to[i] += what[i];
  }
  static double Inner(double x) { return std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x); }
  static double Slope(double x) {
    const double t = std::tanh(Inner(x));
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * std::sqrt(2 / M_PI) * (1 + 3 * 0.044715 * x * x);
  }

  Array LinearForward(const std::string& name, const Array& x, int64_t inputs, int64_t outputs) {
    const int64_t w = At(name + ".weight");
    const int64_t b = At(name + ".bias");
    Array y(S(rows_ * outputs));
    for (int64_t r = 0; r < rows_; ++r) {
      for (int64_t o = 0; o < outputs; ++o) {
        double sum = p_[S(b + o)];
        for (int64_t i = 0; i < inputs; ++i) {
          sum += x[S(r * inputs + i)] * p_[S(w + i * outputs + o)];
        }
        y[S(r * outputs + o)] = sum;
      }
    }
    return y;
  }

  Array LinearBackward(const std::string& name, const Array& x, const Array& dy, int64_t inputs,
                       int64_t outputs) {
    const int64_t w = At(name + ".weight");
    const int64_t b = At(name + ".bias");
    Array dx(x.size());
    for (int64_t r = 0; r < rows_; ++r) {
      for (int64_t o = 0; o < outputs; ++o) {
        const double d = dy[S(r * outputs + o)];
        gradients[S(b + o)] += d;
        for (int64_t i = 0; i < inputs; ++i) {
          dx[S(r * inputs + i)] += d * p_[S(w + i * outputs + o)];
          gradients[S(w + i * outputs + o)] += d * x[S(r * inputs + i)];
        }
      }
    }
    return dx;
  }

  void Moments(const Array& x, int64_t row, double* mean, double* deviation) const {
    const int64_t width = spec_.hidden_size;
    *mean = 0;
    double variance = 0;
    for (int64_t i = 0; i < width; ++i) *mean += x[S(row * width + i)] / double(width);
    for (int64_t i = 0; i < width; ++i) {
      variance += std::pow(x[S(row * width + i)] - *mean, 2) / double(width);
    }
    *deviation = std::sqrt(variance + 1e-5);
  }

  Array NormForward(const std::string& name, const Array& x) {
    const int64_t width = spec_.hidden_size;
    Array y(x.size());
    for (int64_t r = 0; r < rows_; ++r) {
      double mean, deviation;
      Moments(x, r, &mean, &deviation);
      for (int64_t i = 0; i < width; ++i) {
        y[S(r * width + i)] =
            (x[S(r * width + i)] - mean) / deviation * p_[S(At(name + ".weight") + i)] +
            p_[S(At(name + ".bias") + i)];
      }
    }
    return y;
  }

  Array NormBackward(const std::string& name, const Array& x, const Array& dy) {
    const int64_t width = spec_.hidden_size;
    const int64_t w = At(name + ".weight");
    const int64_t b = At(name + ".bias");
    Array dx(x.size());
    for (int64_t r = 0; r < rows_; ++r) {
      double mean, deviation;
      Moments(x, r, &mean, &deviation);
      double sum = 0;
      double sum_normal = 0;
      for (int64_t i = 0; i < width; ++i) {
        const double d = dy[S(r * width + i)];
        const double normal = (x[S(r * width + i)] - mean) / deviation;
        gradients[S(w + i)] += d * normal;
        gradients[S(b + i)] += d;
        sum += d * p_[S(w + i)];
        sum_normal += d * p_[S(w + i)] * normal;
      }
      for (int64_t i = 0; i < width; ++i) {
        const double normal = (x[S(r * width + i)] - mean) / deviation;
        dx[S(r * width + i)] = (dy[S(r * width + i)] * p_[S(w + i)] - sum / double(width) -
                                normal * sum_normal / double(width)) /
                               deviation;
      }
    }
    return dx;
  }

  // Probabilities of query `row` over keys `first`..row of head h.
  Array Attend(const Array& qkv, int64_t row, int64_t first, int64_t h) const {
    const int64_t width = spec_.hidden_size;
    const int64_t size = width / spec_.num_attention_heads;
    Array p(S(row - first + 1));
    double sum = 0;
    for (int64_t s = first; s <= row; ++s) {
      double score = 0;
      for (int64_t i = 0; i < size; ++i) {
        score +=
            qkv[S(row * 3 * width + h * size + i)] * qkv[S(s * 3 * width + width + h * size + i)];
      }
      sum += p[S(s - first)] = std::exp(score / std::sqrt(double(size)));
    }
    for (double& value : p) value /= sum;
    return p;
  }

  Array AttentionForward(const Array& qkv) const {
    const int64_t width = spec_.hidden_size;
    const int64_t size = width / spec_.num_attention_heads;
    Array out(S(rows_ * width));
    for (int64_t row = 0; row < rows_; ++row) {
      const int64_t first = row - row % spec_.seq_length;
      for (int64_t h = 0; h < spec_.num_attention_heads; ++h) {
        const Array p = Attend(qkv, row, first, h);
        for (int64_t s = first; s <= row; ++s) {
          for (int64_t i = 0; i < size; ++i) {
            out[S(row * width + h * size + i)] +=
                p[S(s - first)] * qkv[S(s * 3 * width + 2 * width + h * size + i)];
          }
        }
      }
    }
    return out;
  }

  Array AttentionBackward(const Array& qkv, const Array& dout) const {
    const int64_t width = spec_.hidden_size;
    const int64_t size = width / spec_.num_attention_heads;
    Array dqkv(qkv.size());
    for (int64_t row = 0; row < rows_; ++row) {
      const int64_t first = row - row % spec_.seq_length;
      for (int64_t h = 0; h < spec_.num_attention_heads; ++h) {
        const Array p = Attend(qkv, row, first, h);
        const int64_t q = row * 3 * width + h * size;
        Array dp(p.size());
        double mean = 0;
        for (int64_t s = first; s <= row; ++s) {
          const int64_t v = s * 3 * width + 2 * width + h * size;
          for (int64_t i = 0; i < size; ++i) {
            dp[S(s - first)] += dout[S(row * width + h * size + i)] * qkv[S(v + i)];
            dqkv[S(v + i)] += p[S(s - first)] * dout[S(row * width + h * size + i)];
          }
          mean += p[S(s - first)] * dp[S(s - first)];
        }
        for (int64_t s = first; s <= row; ++s) {
          const int64_t k = s * 3 * width + width + h * size;
          const double ds = p[S(s - first)] * (dp[S(s - first)] - mean) / std::sqrt(double(size));
          for (int64_t i = 0; i < size; ++i) {
            dqkv[S(q + i)] += ds * qkv[S(k + i)];
            dqkv[S(k + i)] += ds * qkv[S(q + i)];
          }
        }
      }
    }
    return dqkv;
  }

  const ModelSpec spec_;
  const FlatLayout& layout_;
  const Array p_;
  int64_t rows_ = 0;
};

}  // namespace dsrun::worker::testing

#endif  // DSRUN_TESTS_WORKER_MODEL_REFERENCE_GPT2_H_
