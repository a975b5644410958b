// Compiled once per instruction set, with DSRUN_LOOPS naming the table. Loops that add nothing
// across elements are plain: the compiler vectorises them, and without contraction every element
// has the same bits however wide the registers are. Sums run over the sixteen lanes of F16.
//
// T is what a model computes in: float, Bf16 or Fp16 (lanes.h). Get loads one as a float, Put
// rounds one where it is stored; between the two is fp32.
//
// The source is longer than a room should be; it is one list of short loops.

#include "common/numerics/portable_math.h"
#include "worker/device/adamw_arguments.h"
#include "worker/device/cpu/lanes.h"
#include "worker/device/cpu/loop_table.h"
#include "worker/device/cpu/philox_lanes.h"
#include "worker/device/optimizer_arguments.h"

namespace dsrun::worker {
extern const LoopTable DSRUN_LOOPS;
namespace {

template <typename T>
void Round(int64_t n, const float* x, T* out) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) Put(out[i], x[i]);
}

template <typename T>
void Widen(int64_t n, const T* x, float* out) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) out[i] = Get(x[i]);
}

template <typename T>
void RoundWiden(int64_t n, const float* x, float* out) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    T rounded;
    Put(rounded, x[i]);
    out[i] = Get(rounded);
  }
}

template <typename T>
void Add(int64_t n, const T* a, const T* b, T* out) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) Put(out[i], Get(a[i]) + Get(b[i]));
}

template <typename T>
void AccumulateLoop(int64_t n, const T* __restrict src, float* __restrict dst) {
  for (int64_t i = 0; i < n; ++i) dst[i] += Get(src[i]);
}

template <typename T>
void Bias(int64_t n, const T* bias, const float* x, T* out) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) Put(out[i], x[i] + Get(bias[i]));
}

template <typename T>
void Residual(int64_t n, const T* residual, const float* x, T* out) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) Put(out[i], Get(residual[i]) + x[i]);
}

template <typename T>
void BiasResidual(int64_t n, const T* bias, const T* residual, const float* x, T* out) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) Put(out[i], Get(residual[i]) + (x[i] + Get(bias[i])));
}

template <typename T>
void Multiply(int64_t n, const T* factors, const float* x, T* out) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) Put(out[i], x[i] * Get(factors[i]));
}

// --- Dropout

// each(begin, end, keep) for parts of a row, keep[i] of element begin + i.
template <typename Each>
DSRUN_INLINE void ForKept(int64_t n, const RowMask& mask, const Each& each) {
  int32_t keep[kMaskGroup];
  for (int64_t begin = 0; begin < n;) {
    const int64_t column = mask.column + begin;
    const int64_t in_group = column % kMaskGroup;
    const int64_t rest = kMaskGroup - in_group;
    const int64_t end = n - begin < rest ? n : begin + rest;
    KeepColumns(static_cast<uint32_t>(column / kMaskGroup), static_cast<uint32_t>(mask.row),
                mask.key, mask.threshold, keep);
    each(begin, end, keep + in_group);
    begin = end;
  }
}

template <typename T>
void Drop(int64_t n, const RowMask& mask, const T* x, T* out) {
  const float scale = mask.scale;
  ForKept(n, mask, [&](int64_t begin, int64_t end, const int32_t* keep) {
#pragma GCC ivdep
    for (int64_t i = begin; i < end; ++i) {
      Put(out[i], KeepBits(Get(x[i]) * scale, keep[i - begin]));
    }
  });
}

template <typename T>
void DropResidual(int64_t n, const RowMask& mask, const T* residual, const float* x, T* out) {
  const float scale = mask.scale;
  ForKept(n, mask, [&](int64_t begin, int64_t end, const int32_t* keep) {
#pragma GCC ivdep
    for (int64_t i = begin; i < end; ++i) {
      Put(out[i], Get(residual[i]) + KeepBits(x[i] * scale, keep[i - begin]));
    }
  });
}

template <typename T>
void BiasDropResidual(int64_t n, const RowMask& mask, const T* bias, const T* residual,
                      const float* x, T* out) {
  const float scale = mask.scale;
  ForKept(n, mask, [&](int64_t begin, int64_t end, const int32_t* keep) {
#pragma GCC ivdep
    for (int64_t i = begin; i < end; ++i) {
      const float dropped = KeepBits((x[i] + Get(bias[i])) * scale, keep[i - begin]);
      Put(out[i], Get(residual[i]) + dropped);
    }
  });
}

void ScaleLoop(int64_t n, float factor, float* x) {
  for (int64_t i = 0; i < n; ++i) x[i] *= factor;
}

// --- GELU. With u = sqrt(2 / pi) (x + 0.044715 x^3): gelu(x) = x (1 + tanh u) / 2 = x s, where
// s = 1 / (1 + e^-2u).
constexpr float kTwoSqrt2OverPi = 1.5957691216057308f;  // 2 sqrt(2 / pi)
constexpr float kCubic = 0.044715f;

DSRUN_INLINE F16 GeluSigmoid(const F16& x, const F16& square) {
  // -2u = x (-2 sqrt(2 / pi) - 2 sqrt(2 / pi) 0.044715 x^2)
  const F16 minus_two_u = x * Fma(square, Set(-kTwoSqrt2OverPi * kCubic), Set(-kTwoSqrt2OverPi));
  return Set(1) / (Set(1) + Exp(minus_two_u));
}

// gelu(x); x becomes the slope: d/dx x s = s + x s (1 - s) 2 du/dx.
DSRUN_INLINE F16 GeluAndSlope(F16& x) {
  const F16 square = x * x;
  const F16 s = GeluSigmoid(x, square);
  const F16 gelu = x * s;
  const F16 two_du = Fma(square, Set(3 * kCubic * kTwoSqrt2OverPi), Set(kTwoSqrt2OverPi));
  x = Fma(gelu * (Set(1) - s), two_du, s);
  return gelu;
}

template <typename T>
void BiasGelu(int64_t n, const T* bias, const float* x, T* slope, T* out) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    F16 pre = Load(x + i) + Load(bias + i);
    Store(out + i, GeluAndSlope(pre));
    Store(slope + i, pre);
  }
  if (i < n) {
    F16 pre = LoadTail(x + i, n - i, 0) + LoadTail(bias + i, n - i, 0);
    StoreTail(out + i, n - i, GeluAndSlope(pre));
    StoreTail(slope + i, n - i, pre);
  }
}

// --- SwiGLU. With s = 1 / (1 + e^-x): silu(x) = x s, and its slope is s + x s (1 - s).

DSRUN_INLINE F16 Sigmoid(const F16& x) { return Set(1) / (Set(1) + Exp(Set(0) - x)); }

template <typename T>
void SwiGlu(int64_t n, const T* gate, const T* up, T* out) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const F16 x = Load(gate + i);
    Store(out + i, x * Sigmoid(x) * Load(up + i));
  }
  if (i < n) {
    const F16 x = LoadTail(gate + i, n - i, 0);
    StoreTail(out + i, n - i, x * Sigmoid(x) * LoadTail(up + i, n - i, 0));
  }
}

DSRUN_INLINE void SwiGluGradients(const F16& x, const F16& up, const F16& d, F16& dgate, F16& dup) {
  const F16 s = Sigmoid(x);
  const F16 silu = x * s;
  dgate = d * up * Fma(silu, Set(1) - s, s);
  dup = d * silu;
}

template <typename T>
void SwiGluBackward(int64_t n, const T* gate, const T* up, const T* dout, T* dgate, T* dup) {
  F16 of_gate;
  F16 of_up;
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    SwiGluGradients(Load(gate + i), Load(up + i), Load(dout + i), of_gate, of_up);
    Store(dgate + i, of_gate);
    Store(dup + i, of_up);
  }
  if (i < n) {
    SwiGluGradients(LoadTail(gate + i, n - i, 0), LoadTail(up + i, n - i, 0),
                    LoadTail(dout + i, n - i, 0), of_gate, of_up);
    StoreTail(dgate + i, n - i, of_gate);
    StoreTail(dup + i, n - i, of_up);
  }
}

// --- Optimizer

// What Adam, AdamW and LAMB do with a gradient. The corrections are the same for all elements:
// multiplied by, not divided by.
struct Adaptive {
  explicit Adaptive(const AdamWArguments& a)
      : beta1(a.beta1),
        beta2(a.beta2),
        new1(1.0f - a.beta1),
        new2(1.0f - a.beta2),
        unbias1(1.0f / a.bias_correction1),
        unbias2(1.0f / a.bias_correction2),
        eps(a.eps) {}
  // Both moments move; the direction without decay.
  [[gnu::always_inline]] float Move(float g, float& m, float& v) const {
    m = beta1 * m + new1 * g;
    v = beta2 * v + new2 * (g * g);
    return (m * unbias1) / (__builtin_sqrtf(v * unbias2) + eps);
  }
  const float beta1, beta2, new1, new2, unbias1, unbias2, eps;
};

void AdamWLoop(int64_t n, const AdamWArguments& a, const float* __restrict grad,
               float* __restrict param, float* __restrict m, float* __restrict v) {
  const Adaptive adaptive(a);
  const float lr = a.lr;
  const float decay = a.weight_decay;
  const float scale = a.grad_scale;
  for (int64_t i = 0; i < n; ++i) {
    const float direction = adaptive.Move(grad[i] * scale, m[i], v[i]) + decay * param[i];
    param[i] -= lr * direction;
  }
}

void AdamLoop(int64_t n, const AdamWArguments& a, const float* __restrict grad,
              float* __restrict param, float* __restrict m, float* __restrict v) {
  const Adaptive adaptive(a);
  const float lr = a.lr;
  const float decay = a.weight_decay;
  const float scale = a.grad_scale;
  for (int64_t i = 0; i < n; ++i) {
    param[i] -= lr * adaptive.Move(grad[i] * scale + decay * param[i], m[i], v[i]);
  }
}

void LambDirectionLoop(int64_t n, const AdamWArguments& a, const float* __restrict param,
                       float* __restrict grad, float* __restrict m, float* __restrict v) {
  const Adaptive adaptive(a);
  const float decay = a.weight_decay;
  const float scale = a.grad_scale;
  for (int64_t i = 0; i < n; ++i) {
    grad[i] = adaptive.Move(grad[i] * scale, m[i], v[i]) + decay * param[i];
  }
}

void DescendLoop(int64_t n, float rate, const float* __restrict direction,
                 float* __restrict param) {
  for (int64_t i = 0; i < n; ++i) param[i] -= rate * direction[i];
}

void LionLoop(int64_t n, const LionArguments& a, const float* __restrict grad,
              float* __restrict param, float* __restrict m) {
  const float beta1 = a.beta1;
  const float beta2 = a.beta2;
  const float new1 = 1.0f - beta1;
  const float new2 = 1.0f - beta2;
  const float lr = a.lr;
  const float decay = a.weight_decay;
  const float scale = a.grad_scale;
  for (int64_t i = 0; i < n; ++i) {
    const float g = grad[i] * scale;
    const float mixed = beta1 * m[i] + new1 * g;
    const float sign = (mixed > 0 ? 1.0f : 0.0f) - (mixed < 0 ? 1.0f : 0.0f);
    m[i] = beta2 * m[i] + new2 * g;
    param[i] -= lr * (sign + decay * param[i]);
  }
}

void AdagradLoop(int64_t n, const AdagradArguments& a, const float* __restrict grad,
                 float* __restrict param, float* __restrict sum) {
  const float lr = a.lr;
  const float eps = a.eps;
  const float decay = a.weight_decay;
  const float scale = a.grad_scale;
  for (int64_t i = 0; i < n; ++i) {
    const float g = grad[i] * scale + decay * param[i];
    const float total = sum[i] + g * g;
    sum[i] = total;
    param[i] -= lr * (g / (__builtin_sqrtf(total) + eps));
  }
}

void SgdLoop(int64_t n, const SgdArguments& a, const float* __restrict grad,
             float* __restrict param) {
  const float lr = a.lr;
  const float decay = a.weight_decay;
  const float scale = a.grad_scale;
  for (int64_t i = 0; i < n; ++i) param[i] -= lr * (grad[i] * scale + decay * param[i]);
}

void SgdMomentumLoop(int64_t n, const SgdArguments& a, const float* __restrict grad,
                     float* __restrict param, float* __restrict buffer) {
  const float lr = a.lr;
  const float momentum = a.momentum;
  const float decay = a.weight_decay;
  const float scale = a.grad_scale;
  const bool nesterov = a.nesterov;
  for (int64_t i = 0; i < n; ++i) {
    const float g = grad[i] * scale + decay * param[i];
    const float b = momentum * buffer[i] + g;
    buffer[i] = b;
    param[i] -= lr * (nesterov ? g + momentum * b : b);
  }
}

void MuonMomentumLoop(int64_t n, const MuonArguments& a, float* __restrict grad,
                      float* __restrict m) {
  const float momentum = a.momentum;
  const float fresh = 1.0f - a.momentum;
  const float scale = a.grad_scale;
  for (int64_t i = 0; i < n; ++i) {
    const float added = fresh * (grad[i] * scale);
    m[i] = momentum * m[i] + added;
    grad[i] = momentum * m[i] + added;
  }
}

void DescendAndDecayLoop(int64_t n, float rate, float decay, const float* __restrict direction,
                         float* __restrict param) {
  for (int64_t i = 0; i < n; ++i) param[i] -= rate * direction[i] + decay * param[i];
}

void CombineLoop(int64_t n, float of_x, float of_y, const float* __restrict y,
                 float* __restrict x) {
  for (int64_t i = 0; i < n; ++i) x[i] = of_x * x[i] + of_y * y[i];
}

constexpr int64_t kLeaf = 1024;

void LeafSquares(int64_t leaves, const float* x, double* squares) {
  for (int64_t leaf = 0; leaf < leaves; ++leaf, x += kLeaf) {
    double lanes[kLanes] = {};
    for (int64_t i = 0; i < kLeaf; i += kLanes) {
      for (int k = 0; k < kLanes; ++k) {
        lanes[k] += static_cast<double>(x[i + k]) * static_cast<double>(x[i + k]);
      }
    }
    for (int half = kLanes / 2; half > 0; half /= 2) {
      for (int k = 0; k < half; ++k) lanes[k] += lanes[k + half];
    }
    squares[leaf] = lanes[0];
  }
}

template <typename T>
float Dot(int64_t n, const T* a, const T* b) {
  F16 sum = Set(0);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) sum = sum + Load(a + i) * Load(b + i);
  if (i < n) sum = sum + LoadTail(a + i, n - i, 0) * LoadTail(b + i, n - i, 0);
  return Join(sum);
}

// --- Exact sums. A float times 2^scale becomes the nearest integer, ties to even.

constexpr int64_t kFixedBlock = 1024;  // elements whose greatest magnitude is found first
constexpr uint32_t kMagnitudeMask = 0x7fffffff;
constexpr uint32_t kLeastNormal = 0x00800000;
constexpr int kExponentBias = 127;
constexpr int kMantissaBits = 23;
// Added to a double below 2^51 in magnitude, it leaves the nearest integer in the low bits; the
// same bits are then taken off again.
constexpr double kMagic = 6755399441055744.0;  // 1.5 * 2^52
constexpr int kMagicBits = 51;

// 2^scale; |scale| <= 1022.
DSRUN_INLINE double PowerOfTwo(int scale) {
  const uint64_t bits = static_cast<uint64_t>(1023 + scale) << 52;
  double power;
  __builtin_memcpy(&power, &bits, sizeof(power));
  return power;
}

// As the bits of a float without its sign, which grow with it: infinity and NaN are above all
// others. Subnormal numbers count as 0, which is what the arithmetic makes of them.
DSRUN_INLINE uint32_t MaxMagnitude(int64_t n, const float* x) {
  int32_t max = 0;
  for (int64_t i = 0; i < n; ++i) {
    uint32_t bits;
    __builtin_memcpy(&bits, x + i, sizeof(bits));
    const auto magnitude = static_cast<int32_t>(bits & kMagnitudeMask);
    max = magnitude > max ? magnitude : max;
  }
  return static_cast<uint32_t>(max) < kLeastNormal ? 0 : static_cast<uint32_t>(max);
}

DSRUN_INLINE uint64_t FixedSmall(float x, double power) {
  const double shifted = static_cast<double>(x) * power + kMagic;
  uint64_t bits;
  uint64_t magic;
  __builtin_memcpy(&bits, &shifted, sizeof(bits));
  __builtin_memcpy(&magic, &kMagic, sizeof(magic));
  return bits - magic;
}

// Whatever its size; beyond 2^63 and for NaN the value that the instruction gives for all of them.
DSRUN_INLINE uint64_t FixedLarge(float x, double power) {
  typedef double Two __attribute__((vector_size(16)));
  const Two product = {static_cast<double>(x) * power, 0};
  return static_cast<uint64_t>(__builtin_ia32_cvtsd2si64(product));
}

template <bool kAdd>
DSRUN_INLINE uint32_t Fixed(int64_t n, int scale, const float* __restrict x,
                            uint64_t* __restrict sums) {
  const double power = PowerOfTwo(scale);
  uint32_t greatest = 0;
  for (int64_t begin = 0; begin < n; begin += kFixedBlock) {
    const int64_t end = n - begin < kFixedBlock ? n : begin + kFixedBlock;
    const uint32_t max = MaxMagnitude(end - begin, x + begin);
    greatest = max > greatest ? max : greatest;
    const int exponent = static_cast<int>(max >> kMantissaBits) - kExponentBias;
    if (exponent + 1 + scale <= kMagicBits) {
      for (int64_t i = begin; i < end; ++i) {
        sums[i] = (kAdd ? sums[i] : 0) + FixedSmall(x[i], power);
      }
    } else {
      for (int64_t i = begin; i < end; ++i) {
        sums[i] = (kAdd ? sums[i] : 0) + FixedLarge(x[i], power);
      }
    }
  }
  return greatest;
}

uint32_t StoreFixed(int64_t n, int scale, const float* x, uint64_t* sums) {
  return Fixed<false>(n, scale, x, sums);
}

uint32_t AccumulateFixed(int64_t n, int scale, const float* x, uint64_t* sums) {
  return Fixed<true>(n, scale, x, sums);
}

void AccumulateSums(int64_t n, const uint64_t* __restrict src, uint64_t* __restrict dst) {
  for (int64_t i = 0; i < n; ++i) dst[i] += src[i];
}

// An integer becomes a float by one rounding; what follows is exact, or too small for a normal
// float and then 0.
void RoundFixed(int64_t n, int scale, const uint64_t* __restrict sums, float* __restrict out) {
  const double power = PowerOfTwo(-scale);
  constexpr double kLeast = 0x1p-126;
  for (int64_t i = 0; i < n; ++i) {
    const double value =
        static_cast<double>(static_cast<float>(static_cast<int64_t>(sums[i]))) * power;
    const double magnitude = value < 0 ? -value : value;
    out[i] = static_cast<float>(magnitude < kLeast ? 0.0 : value);
  }
}

// --- Layernorm

constexpr float kLayerNormEpsilon = 1e-5f;

template <typename T>
void LayerNormRow(int64_t width, const T* x, const T* weight, const T* bias, T* out,
                  float* mean_out, float* rstd_out) {
  const int64_t whole = width / kLanes * kLanes;
  const int64_t tail = width - whole;
  F16 sum = Set(0);
  for (int64_t i = 0; i < whole; i += kLanes) sum = sum + Load(x + i);
  if (tail > 0) sum = sum + LoadTail(x + whole, tail, 0);
  const float mean = Join(sum) / static_cast<float>(width);
  const F16 center = Set(mean);
  F16 squares = Set(0);
  for (int64_t i = 0; i < whole; i += kLanes) {
    const F16 d = Load(x + i) - center;
    squares = squares + d * d;
  }
  if (tail > 0) {
    const F16 d = LoadTail(x + whole, tail, mean) - center;
    squares = squares + d * d;
  }
  const float variance = Join(squares) / static_cast<float>(width);
  const float rstd = 1.0f / __builtin_sqrtf(variance + kLayerNormEpsilon);
  for (int64_t i = 0; i < width; ++i) {
    Put(out[i], (Get(x[i]) - mean) * rstd * Get(weight[i]) + Get(bias[i]));
  }
  *mean_out = mean;
  *rstd_out = rstd;
}

// With y = dout * weight and h the normalised input: dx = rstd (y - mean(y) - h mean(y h)).
template <typename T>
void LayerNormBackwardRow(int64_t width, const T* x, const T* weight, float mean, float rstd,
                          const T* dout, const T* residual, T* dx) {
  const int64_t whole = width / kLanes * kLanes;
  const int64_t tail = width - whole;
  const F16 center = Set(mean);
  const F16 scale = Set(rstd);
  F16 sum = Set(0);
  F16 sum_h = Set(0);
  for (int64_t i = 0; i < whole; i += kLanes) {
    const F16 y = Load(dout + i) * Load(weight + i);
    sum = sum + y;
    sum_h = sum_h + y * ((Load(x + i) - center) * scale);
  }
  if (tail > 0) {
    const F16 y = LoadTail(dout + whole, tail, 0) * LoadTail(weight + whole, tail, 0);
    sum = sum + y;
    sum_h = sum_h + y * ((LoadTail(x + whole, tail, mean) - center) * scale);
  }
  const float mean_y = Join(sum) / static_cast<float>(width);
  const float mean_yh = Join(sum_h) / static_cast<float>(width);
  if (residual == nullptr) {
#pragma GCC ivdep
    for (int64_t i = 0; i < width; ++i) {
      const float h = (Get(x[i]) - mean) * rstd;
      Put(dx[i], rstd * (Get(dout[i]) * Get(weight[i]) - mean_y - h * mean_yh));
    }
  } else {
#pragma GCC ivdep
    for (int64_t i = 0; i < width; ++i) {
      const float h = (Get(x[i]) - mean) * rstd;
      Put(dx[i], Get(residual[i]) + rstd * (Get(dout[i]) * Get(weight[i]) - mean_y - h * mean_yh));
    }
  }
}

template <typename T>
void ColumnSums(int64_t rows, int64_t columns, int64_t stride, const T* x, float* __restrict sums) {
  for (int64_t c = 0; c < columns; ++c) sums[c] = Get(x[c]);
  int64_t r = 1;
  for (; r + 4 <= rows; r += 4) {  // four additions for one pass over the sums
    const T* __restrict row = x + r * stride;
    for (int64_t c = 0; c < columns; ++c) {
      sums[c] = (((sums[c] + Get(row[c])) + Get(row[c + stride])) + Get(row[c + 2 * stride])) +
                Get(row[c + 3 * stride]);
    }
  }
  for (; r < rows; ++r) {
    const T* __restrict row = x + r * stride;
    for (int64_t c = 0; c < columns; ++c) sums[c] += Get(row[c]);
  }
}

template <typename T>
void LayerNormColumnSums(int64_t rows, int64_t columns, int64_t stride, const T* x,
                         const float* mean, const float* rstd, const T* dout,
                         float* __restrict dweight, float* __restrict dbias) {
  for (int64_t c = 0; c < columns; ++c) {
    dweight[c] = Get(dout[c]) * ((Get(x[c]) - mean[0]) * rstd[0]);
    dbias[c] = Get(dout[c]);
  }
  int64_t r = 1;
  for (; r + 2 <= rows; r += 2) {  // two additions for one pass over the sums
    const T* __restrict row = x + r * stride;
    const T* __restrict drow = dout + r * stride;
    for (int64_t c = 0; c < columns; ++c) {
      const int64_t next = c + stride;
      dweight[c] = (dweight[c] + Get(drow[c]) * ((Get(row[c]) - mean[r]) * rstd[r])) +
                   Get(drow[next]) * ((Get(row[next]) - mean[r + 1]) * rstd[r + 1]);
      dbias[c] = (dbias[c] + Get(drow[c])) + Get(drow[next]);
    }
  }
  for (; r < rows; ++r) {
    const T* __restrict row = x + r * stride;
    const T* __restrict drow = dout + r * stride;
    const float center = mean[r];
    const float scale = rstd[r];
    for (int64_t c = 0; c < columns; ++c) {
      dweight[c] += Get(drow[c]) * ((Get(row[c]) - center) * scale);
      dbias[c] += Get(drow[c]);
    }
  }
}

// --- Root mean square norm, rotary positions

template <typename T>
void RmsNormRow(int64_t width, float epsilon, const T* x, const T* weight, T* out,
                float* rstd_out) {
  const float mean = Dot(width, x, x) / static_cast<float>(width);
  const float rstd = 1.0f / __builtin_sqrtf(mean + epsilon);
  for (int64_t i = 0; i < width; ++i) Put(out[i], Get(weight[i]) * (Get(x[i]) * rstd));
  *rstd_out = rstd;
}

// With y = dout * weight and h = x * rstd: dx = rstd (y - h mean(y h)).
template <typename T>
void RmsNormBackwardRow(int64_t width, const T* x, const T* weight, float rstd, const T* dout,
                        const T* residual, T* dx) {
  const int64_t whole = width / kLanes * kLanes;
  const int64_t tail = width - whole;
  const F16 scale = Set(rstd);
  F16 sum = Set(0);
  for (int64_t i = 0; i < whole; i += kLanes) {
    sum = sum + Load(dout + i) * Load(weight + i) * (Load(x + i) * scale);
  }
  if (tail > 0) {
    sum = sum + LoadTail(dout + whole, tail, 0) * LoadTail(weight + whole, tail, 0) *
                    (LoadTail(x + whole, tail, 0) * scale);
  }
  const float mean = Join(sum) / static_cast<float>(width);
  if (residual == nullptr) {
#pragma GCC ivdep
    for (int64_t i = 0; i < width; ++i) {
      Put(dx[i], rstd * (Get(dout[i]) * Get(weight[i]) - Get(x[i]) * rstd * mean));
    }
  } else {
#pragma GCC ivdep
    for (int64_t i = 0; i < width; ++i) {
      Put(dx[i],
          Get(residual[i]) + rstd * (Get(dout[i]) * Get(weight[i]) - Get(x[i]) * rstd * mean));
    }
  }
}

template <typename T>
void RmsNormColumnSums(int64_t rows, int64_t columns, int64_t stride, const T* x, const float* rstd,
                       const T* dout, float* __restrict dweight) {
  for (int64_t c = 0; c < columns; ++c) dweight[c] = Get(dout[c]) * (Get(x[c]) * rstd[0]);
  for (int64_t r = 1; r < rows; ++r) {
    const T* __restrict row = x + r * stride;
    const T* __restrict drow = dout + r * stride;
    const float scale = rstd[r];
    for (int64_t c = 0; c < columns; ++c) dweight[c] += Get(drow[c]) * (Get(row[c]) * scale);
  }
}

template <typename T>
void RotateRow(int64_t heads, int64_t pairs, const float* __restrict cosines,
               const float* __restrict sines, float direction, T* x) {
  for (int64_t head = 0; head < heads; ++head) {
    T* __restrict low = x + head * 2 * pairs;
    T* __restrict high = low + pairs;
    for (int64_t i = 0; i < pairs; ++i) {
      const float a = Get(low[i]);
      const float b = Get(high[i]);
      const float sine = direction * sines[i];
      Put(low[i], a * cosines[i] - b * sine);
      Put(high[i], b * cosines[i] + a * sine);
    }
  }
}

// --- Cross-entropy

constexpr float kMinusInfinity = -__builtin_inff();

DSRUN_INLINE float RowMax(int64_t n, const float* x) {
  F16 max = Set(kMinusInfinity);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) max = Max(Load(x + i), max);
  if (i < n) max = Max(LoadTail(x + i, n - i, kMinusInfinity), max);
  return JoinMax(max);
}

// x becomes e^(x - max); their sum, in double from chunk to chunk: a vocabulary's worth of floats
// would lose digits in one float.
DSRUN_INLINE double ExpSum(int64_t n, float max, float* x) {
  constexpr int64_t kChunk = 1024;
  const F16 shift = Set(max);
  double total = 0;
  for (int64_t begin = 0; begin < n; begin += kChunk) {
    const int64_t end = n - begin < kChunk ? n : begin + kChunk;
    F16 sum = Set(0);
    int64_t i = begin;
    for (; i + kLanes <= end; i += kLanes) {
      const F16 e = Exp(Load(x + i) - shift);
      Store(x + i, e);
      sum = sum + e;
    }
    if (i < end) {
      const F16 e = Exp(LoadTail(x + i, end - i, kMinusInfinity) - shift);
      StoreTail(x + i, end - i, e);
      sum = sum + e;
    }
    total += static_cast<double>(Join(sum));
  }
  return total;
}

double CrossEntropyRow(int64_t vocab_size, int32_t target, float* logits) {
  if (target < 0) {
    for (int64_t i = 0; i < vocab_size; ++i) logits[i] = 0;
    return 0;
  }
  const float target_logit = logits[target];
  const float max = RowMax(vocab_size, logits);
  const double sum = ExpSum(vocab_size, max, logits);
  const float inverse = static_cast<float>(1.0 / sum);
  for (int64_t i = 0; i < vocab_size; ++i) logits[i] *= inverse;
  logits[target] -= 1.0f;
  if (sum != sum) return sum;  // NaN in, NaN out
  return PortableLog(sum) + (static_cast<double>(max) - static_cast<double>(target_logit));
}

// --- The tables

// A loop over T as a table has it, which says void* for an array of T.
template <auto loop>
struct Erased;
template <typename... Arguments, void (*loop)(Arguments...)>
struct Erased<loop> {
  template <typename... Parameters>
  static void Call(Parameters... parameters) {
    loop(static_cast<Arguments>(parameters)...);
  }
  template <typename... Parameters>
  using Slot = void (*)(Parameters...);
  template <typename... Parameters>
  constexpr operator Slot<Parameters...>() const {  // NOLINT(google-explicit-constructor)
    return &Call<Parameters...>;
  }
};

template <typename T>
constexpr RealLoops LoopsOf() {
  return {
      .round = Erased<Round<T>>(),
      .widen = Erased<Widen<T>>(),
      .round_widen = Erased<RoundWiden<T>>(),
      .add = Erased<Add<T>>(),
      .accumulate = Erased<AccumulateLoop<T>>(),
      .bias = Erased<Bias<T>>(),
      .residual = Erased<Residual<T>>(),
      .bias_residual = Erased<BiasResidual<T>>(),
      .drop_residual = Erased<DropResidual<T>>(),
      .bias_drop_residual = Erased<BiasDropResidual<T>>(),
      .bias_gelu = Erased<BiasGelu<T>>(),
      .multiply = Erased<Multiply<T>>(),
      .drop = Erased<Drop<T>>(),
      .swiglu = Erased<SwiGlu<T>>(),
      .swiglu_backward = Erased<SwiGluBackward<T>>(),
      .layernorm_row = Erased<LayerNormRow<T>>(),
      .layernorm_backward_row = Erased<LayerNormBackwardRow<T>>(),
      .rmsnorm_row = Erased<RmsNormRow<T>>(),
      .rmsnorm_backward_row = Erased<RmsNormBackwardRow<T>>(),
      .rotate_row = Erased<RotateRow<T>>(),
      .column_sums = Erased<ColumnSums<T>>(),
      .layernorm_column_sums = Erased<LayerNormColumnSums<T>>(),
      .rmsnorm_column_sums = Erased<RmsNormColumnSums<T>>(),
  };
}

}  // namespace

const LoopTable DSRUN_LOOPS = {
    .f32 = LoopsOf<float>(),
    .bf16 = LoopsOf<Bf16>(),
    .f16 = LoopsOf<Fp16>(),
    .scale = ScaleLoop,
    .adamw = AdamWLoop,
    .adam = AdamLoop,
    .lamb_direction = LambDirectionLoop,
    .descend = DescendLoop,
    .lion = LionLoop,
    .adagrad = AdagradLoop,
    .sgd = SgdLoop,
    .sgd_momentum = SgdMomentumLoop,
    .muon_momentum = MuonMomentumLoop,
    .descend_and_decay = DescendAndDecayLoop,
    .combine = CombineLoop,
    .leaf_squares = LeafSquares,
    .dot = Dot<float>,
    .store_fixed = StoreFixed,
    .accumulate_fixed = AccumulateFixed,
    .accumulate_sums = AccumulateSums,
    .round_fixed = RoundFixed,
    .cross_entropy_row = CrossEntropyRow,
};

}  // namespace dsrun::worker
