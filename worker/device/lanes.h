// F16: sixteen floats, whatever the CPU's registers hold (1 x 16, 2 x 8 or 4 x 4). All our vector
// arithmetic has this width, so that sums run over the same sixteen lanes, in the same order, on
// every CPU (docs/numerics.md, rule k). No fused multiply-add, no libm.
//
// Only for cpu_loops.cc, which is compiled once per instruction set: everything here is
// file-local, and no header with inline functions is included, lest the linker keep a copy that
// an older CPU cannot run.

#ifndef DSRUN_WORKER_DEVICE_LANES_H_
#define DSRUN_WORKER_DEVICE_LANES_H_

#include <stdint.h>

namespace dsrun::worker {
namespace {

#if defined(__AVX512F__)
constexpr int kNative = 16;
#elif defined(__AVX2__)
constexpr int kNative = 8;
#else
constexpr int kNative = 4;
#endif
constexpr int kLanes = 16;
constexpr int kParts = kLanes / kNative;

typedef float NativeF __attribute__((vector_size(4 * kNative)));
typedef int32_t NativeI __attribute__((vector_size(4 * kNative)));

#define DSRUN_INLINE static inline __attribute__((always_inline))
#define DSRUN_EACH_PART _Pragma("GCC unroll 4") for (int k = 0; k < kParts; ++k)

struct F16 {
  NativeF part[kParts];
};

// 0, 1, 2, ...
DSRUN_INLINE NativeI Iota() {
  NativeI r = {};
  for (int i = 0; i < kNative; ++i) r[i] = i;
  return r;
}
// Lane i + by in lane i; what stands in the last `by` lanes means nothing.
DSRUN_INLINE NativeF Down(const NativeF& x, int by) { return __builtin_shuffle(x, Iota() + by); }

DSRUN_INLINE F16 Set(float x) {
  F16 r;
  DSRUN_EACH_PART r.part[k] = NativeF{} + x;
  return r;
}
DSRUN_INLINE F16 Load(const float* p) {
  F16 r;
  DSRUN_EACH_PART __builtin_memcpy(&r.part[k], p + k * kNative, sizeof(NativeF));
  return r;
}
DSRUN_INLINE void Store(float* p, const F16& x) {
  DSRUN_EACH_PART __builtin_memcpy(p + k * kNative, &x.part[k], sizeof(NativeF));
}
DSRUN_INLINE F16 operator+(const F16& a, const F16& b) {
  F16 r;
  DSRUN_EACH_PART r.part[k] = a.part[k] + b.part[k];
  return r;
}
DSRUN_INLINE F16 operator-(const F16& a, const F16& b) {
  F16 r;
  DSRUN_EACH_PART r.part[k] = a.part[k] - b.part[k];
  return r;
}
DSRUN_INLINE F16 operator*(const F16& a, const F16& b) {
  F16 r;
  DSRUN_EACH_PART r.part[k] = a.part[k] * b.part[k];
  return r;
}
DSRUN_INLINE F16 operator/(const F16& a, const F16& b) {
  F16 r;
  DSRUN_EACH_PART r.part[k] = a.part[k] / b.part[k];
  return r;
}
// a > b ? x : y, lane by lane; a comparison with NaN is false.
DSRUN_INLINE F16 SelectGreater(const F16& a, const F16& b, const F16& x, const F16& y) {
  F16 r;
  DSRUN_EACH_PART r.part[k] = a.part[k] > b.part[k] ? x.part[k] : y.part[k];
  return r;
}
DSRUN_INLINE F16 Max(const F16& a, const F16& b) { return SelectGreater(a, b, a, b); }
DSRUN_INLINE F16 Min(const F16& a, const F16& b) { return SelectGreater(a, b, b, a); }

// The first n of sixteen elements, the others `fill`. 0 < n < 16.
DSRUN_INLINE F16 LoadTail(const float* p, int64_t n, float fill) {
  float lanes[kLanes];
  for (int64_t i = 0; i < kLanes; ++i) lanes[i] = i < n ? p[i] : fill;
  return Load(lanes);
}
DSRUN_INLINE void StoreTail(float* p, int64_t n, const F16& x) {
  float lanes[kLanes];
  Store(lanes, x);
  for (int64_t i = 0; i < n; ++i) p[i] = lanes[i];
}

// The first n lanes of x, the others `fill`; n may be anything.
DSRUN_INLINE F16 KeepFirst(const F16& x, int64_t n, float fill) {
  F16 r;
  DSRUN_EACH_PART {
    const NativeI before = Iota() < NativeI{} + static_cast<int32_t>(n - k * kNative);
    r.part[k] = before ? x.part[k] : NativeF{} + fill;
  }
  return r;
}

DSRUN_INLINE float First(const F16& x) { return x.part[0][0]; }

// The lanes joined in one fixed tree: i with i + 8, then + 4, + 2, + 1.
DSRUN_INLINE float Join(const F16& x) {
  NativeF sums[kParts];
  DSRUN_EACH_PART sums[k] = x.part[k];
  for (int half = kParts / 2; half > 0; half /= 2) {
    for (int k = 0; k < half; ++k) sums[k] += sums[k + half];
  }
  NativeF sum = sums[0];
  for (int half = kNative / 2; half > 0; half /= 2) sum += Down(sum, half);
  return sum[0];
}
// No lane may be NaN.
DSRUN_INLINE float JoinMax(const F16& x) {
  NativeF max = x.part[0];
  for (int k = 1; k < kParts; ++k) max = x.part[k] > max ? x.part[k] : max;
  for (int half = kNative / 2; half > 0; half /= 2) {
    const NativeF other = Down(max, half);
    max = other > max ? other : max;
  }
  return max[0];
}

// e^x: x = n ln 2 + r, |r| <= ln 2 / 2, e^r by Taylor's series to r^7 (the next term is below
// 2^-27), times 2^n. ln 2 is taken off in two parts so that n * kLn2High is exact (Cody and Waite,
// 1980). Below -87.3 the result is 0 (e^x is denormal there), above 88.3 it stays e^88.3; NaN stays
// NaN.
DSRUN_INLINE F16 Exp(const F16& x) {
  constexpr float kHighest = 88.3f;
  constexpr float kLowest = -87.3f;
  constexpr float kLog2E = 1.44269504f;
  constexpr float kLn2High = 0.693359375f;
  constexpr float kLn2Low = -2.12194440e-4f;
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const F16 lowest = Set(kLowest);
  const F16 clamped =
      SelectGreater(lowest, x, lowest, SelectGreater(x, Set(kHighest), Set(kHighest), x));
  const F16 shifted = clamped * Set(kLog2E) + Set(kRound);
  const F16 n = shifted - Set(kRound);
  const F16 r = (clamped - n * Set(kLn2High)) - n * Set(kLn2Low);
  F16 e = Set(1.0f / 5040);
  e = e * r + Set(1.0f / 720);
  e = e * r + Set(1.0f / 120);
  e = e * r + Set(1.0f / 24);
  e = e * r + Set(1.0f / 6);
  e = e * r + Set(0.5f);
  e = e * (r * r) + r + Set(1.0f);
  F16 power;
  // The integer stands in the low bits of `shifted`; as a biased exponent it is the float 2^n.
  DSRUN_EACH_PART power.part[k] = (NativeF)((((NativeI)shifted.part[k]) + 127 - 0x4B400000) << 23);
  return SelectGreater(lowest, x, Set(0), e * power);
}

}  // namespace
}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_DEVICE_LANES_H_
