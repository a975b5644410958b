// F16: sixteen floats, whatever the CPU's registers hold (1 x 16, 2 x 8 or 4 x 4). All our vector
// arithmetic has this width, so that sums run over the same sixteen lanes, in the same order, on
// every CPU (docs/numerics.md, rule k). Multiplications and additions are rounded each, except in
// Fma. No libm.
//
// Bf16 and Fp16: elements of 16 bits. They are loaded as floats, exactly, and stored rounded to
// nearest, ties to even, by integer arithmetic: instructions for bf16 differ in what they do to
// subnormal numbers, and not every CPU has them. NaN stays NaN (a quiet one), infinity infinity; a
// number beyond the type's greatest becomes infinity. Subnormal numbers, as all of dsrun's threads
// have it (rule m): those of bf16 are those of fp32, and no store makes one, they become zero of
// their sign before they are rounded; those of fp16 are normal in fp32, and numbers like others.
//
// Only for cpu_loops.cc and attention_tiles.cc, which are compiled once per instruction set:
// everything here is file-local, and no header with inline functions is included, lest the linker
// keep a copy that an older CPU cannot run.

#ifndef DSRUN_WORKER_DEVICE_CPU_LANES_H_
#define DSRUN_WORKER_DEVICE_CPU_LANES_H_

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
typedef uint16_t NativeH __attribute__((vector_size(2 * kNative)));

#define DSRUN_INLINE static inline __attribute__((always_inline))
#define DSRUN_EACH_PART _Pragma("GCC unroll 4") for (int k = 0; k < kParts; ++k)

struct F16 {
  NativeF part[kParts];
};

struct Bf16 {
  uint16_t bits;
};
struct Fp16 {
  uint16_t bits;
};

// --- Conversions, for a number (I int32_t, F float) and for a register of them alike. The lower 16
// bits of an I are the element's.

template <typename F, typename I>
DSRUN_INLINE F WidenBf16(const I& x) {
  return __builtin_bit_cast(F, x << 16);
}

template <typename F, typename I>
DSRUN_INLINE I RoundBf16(const F& x) {
  const I bits = __builtin_bit_cast(I, x);
  const I magnitude = bits & 0x7fffffff;
  const I upper = magnitude >> 16;
  const I rounded = upper + (((magnitude & 0xffff) + 0x7fff + (upper & 1)) >> 16);
  const I nan = upper | 0x40;
  const I number = magnitude > 0x7f800000 ? nan : rounded;
  const I zero = bits & 0;
  return ((bits >> 16) & 0x8000) | (magnitude < 0x00800000 ? zero : number);
}

// a where `is`, elsewhere b, by bits: a plain choice between numbers of which one takes a float
// operation keeps the compiler from vectorising, since the operation might trap.
DSRUN_INLINE int32_t Select(bool is, const int32_t& a, const int32_t& b) {
  return b ^ ((a ^ b) & -int32_t{is});
}
DSRUN_INLINE NativeI Select(const NativeI& is, const NativeI& a, const NativeI& b) {
  return is ? a : b;
}

DSRUN_INLINE float ToFloat(const int32_t& x) { return static_cast<float>(x); }
DSRUN_INLINE NativeF ToFloat(const NativeI& x) { return __builtin_convertvector(x, NativeF); }

template <typename F, typename I>
DSRUN_INLINE F WidenFp16(const I& x) {
  constexpr int32_t kRebias = (127 - 15) << 23;
  const I magnitude = x & 0x7fff;
  const I sign = (x & 0x8000) << 16;
  const I normal = (magnitude << 13) + kRebias;
  const I zero = x & 0;
  const I infinity_or_nan = (normal + kRebias) | (magnitude > 0x7c00 ? zero + 0x400000 : zero);
  const I tiny = __builtin_bit_cast(I, ToFloat(magnitude) * 0x1p-24f);
  const I large = magnitude >= 0x7c00 ? infinity_or_nan : normal;
  return __builtin_bit_cast(F, sign | Select(magnitude < 0x0400, tiny, large));
}

template <typename F, typename I>
DSRUN_INLINE I RoundFp16(const F& x) {
  constexpr int32_t kRebias = (127 - 15) << 23;
  constexpr int32_t kHalf = 0x3f000000;  // 0.5f, whose neighbours are 2^-24 away: fp16's least step
  const I bits = __builtin_bit_cast(I, x);
  const I magnitude = bits & 0x7fffffff;
  const I shifted = magnitude - kRebias;
  const I rounded = (shifted + 0x0fff + ((shifted >> 13) & 1)) >> 13;
  const I infinity = (bits & 0) + 0x7c00;
  const I normal = rounded > 0x7c00 ? infinity : rounded;
  const I nan = ((magnitude >> 13) & 0x03ff) | 0x7e00;
  const I large = magnitude > 0x7f800000 ? nan : normal;
  const I tiny = __builtin_bit_cast(I, __builtin_bit_cast(F, magnitude) + 0.5f) - kHalf;
  return ((bits >> 16) & 0x8000) | Select(magnitude < ((127 - 14) << 23), tiny, large);
}

DSRUN_INLINE float Get(float x) { return x; }
DSRUN_INLINE float Get(Bf16 x) { return WidenBf16<float>(int32_t{x.bits}); }
DSRUN_INLINE float Get(Fp16 x) { return WidenFp16<float>(int32_t{x.bits}); }
DSRUN_INLINE void Put(float& to, float x) { to = x; }
DSRUN_INLINE void Put(Bf16& to, float x) {
  to.bits = static_cast<uint16_t>(RoundBf16<float, int32_t>(x));
}
DSRUN_INLINE void Put(Fp16& to, float x) {
  to.bits = static_cast<uint16_t>(RoundFp16<float, int32_t>(x));
}

// 0, 1, 2, ...
DSRUN_INLINE NativeI Iota() {
  NativeI r = {};
  for (int i = 0; i < kNative; ++i) r[i] = i;
  return r;
}
// Lane i + by in lane i; what stands in the last `by` lanes means nothing.
DSRUN_INLINE NativeF Down(const NativeF& x, int by) { return __builtin_shuffle(x, Iota() + by); }

// x in every lane: written out, it is one load that broadcasts.
DSRUN_INLINE NativeF SetNative(float x) {
#if defined(__AVX512F__)
  return NativeF{x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x};
#elif defined(__AVX2__)
  return NativeF{x, x, x, x, x, x, x, x};
#else
  return NativeF{x, x, x, x};
#endif
}
DSRUN_INLINE F16 Set(float x) {
  F16 r;
  DSRUN_EACH_PART r.part[k] = SetNative(x);
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
DSRUN_INLINE NativeI LoadBits(const void* p) {
  NativeH bits;
  __builtin_memcpy(&bits, p, sizeof(bits));
  return __builtin_convertvector(bits, NativeI);
}
DSRUN_INLINE void StoreBits(void* p, const NativeI& x) {
  const NativeH bits = __builtin_convertvector(x, NativeH);
  __builtin_memcpy(p, &bits, sizeof(bits));
}
DSRUN_INLINE F16 Load(const Bf16* p) {
  F16 r;
  DSRUN_EACH_PART r.part[k] = WidenBf16<NativeF>(LoadBits(p + k * kNative));
  return r;
}
// AVX-512 converts fp16 itself, as the arithmetic above has it: these instructions heed neither the
// flushing of denormals nor other rounding than asked for, and keep NaN (tests go through all).
#if defined(__AVX512F__)
typedef int16_t Bits16 __attribute__((vector_size(32)));
DSRUN_INLINE F16 Load(const Fp16* p) {
  constexpr int kRoundAsSet = 4;
  Bits16 bits;
  __builtin_memcpy(&bits, p, sizeof(bits));
  F16 r;
  r.part[0] =
      __builtin_ia32_vcvtph2ps512_mask(bits, NativeF{}, static_cast<uint16_t>(-1), kRoundAsSet);
  return r;
}
DSRUN_INLINE void Store(Fp16* p, const F16& x) {
  constexpr int kToNearestEven = 0;
  const Bits16 bits = __builtin_ia32_vcvtps2ph512_mask(x.part[0], kToNearestEven, Bits16{},
                                                       static_cast<uint16_t>(-1));
  __builtin_memcpy(p, &bits, sizeof(bits));
}
#else
DSRUN_INLINE F16 Load(const Fp16* p) {
  F16 r;
  DSRUN_EACH_PART r.part[k] = WidenFp16<NativeF>(LoadBits(p + k * kNative));
  return r;
}
DSRUN_INLINE void Store(Fp16* p, const F16& x) {
  DSRUN_EACH_PART StoreBits(p + k * kNative, RoundFp16<NativeF, NativeI>(x.part[k]));
}
#endif
DSRUN_INLINE void Store(Bf16* p, const F16& x) {
  DSRUN_EACH_PART StoreBits(p + k * kNative, RoundBf16<NativeF, NativeI>(x.part[k]));
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
// a * b + c, rounded once.
#if defined(__AVX512F__)
DSRUN_INLINE NativeF FmaNative(const NativeF& a, const NativeF& b, const NativeF& c) {
  constexpr int kRoundAsSet = 4;  // as the thread is set to round
  return __builtin_ia32_vfmaddps512_mask(a, b, c, static_cast<uint16_t>(-1), kRoundAsSet);
}
#elif defined(__FMA__)
DSRUN_INLINE NativeF FmaNative(const NativeF& a, const NativeF& b, const NativeF& c) {
  return __builtin_ia32_vfmaddps256(a, b, c);
}
#else
// In double the product is exact, and the sum is rounded to odd (Boldo and Melquiond, 2008): then
// rounding to float is the only rounding there is. Of the lower two lanes.
typedef double Wide __attribute__((vector_size(16)));
typedef int64_t WideI __attribute__((vector_size(16)));
DSRUN_INLINE NativeF FmaOfTwo(const NativeF& a, const NativeF& b, const NativeF& c) {
  const Wide product = __builtin_ia32_cvtps2pd(a) * __builtin_ia32_cvtps2pd(b);
  const Wide addend = __builtin_ia32_cvtps2pd(c);
  const Wide sum = product + addend;
  const Wide of_addend = sum - product;  // what `sum` lost, exactly (Knuth's TwoSum):
  const Wide lost = (product - (sum - of_addend)) + (addend - of_addend);
  // An even number that lost something becomes its odd neighbour on that side. NaN compares false.
  const WideI bits = (WideI)sum;
  const WideI inexact = (lost < 0) | (lost > 0);
  const WideI even = (bits & 1) - 1;
  const WideI towards_zero = (lost > 0) ^ (sum > 0);
  const WideI step = towards_zero + towards_zero + 1;  // -1 or 1
  return __builtin_ia32_cvtpd2ps((Wide)(bits + (step & inexact & even)));
}
DSRUN_INLINE NativeF FmaNative(const NativeF& a, const NativeF& b, const NativeF& c) {
  const NativeF low = FmaOfTwo(a, b, c);
  const NativeF high = FmaOfTwo(Down(a, 2), Down(b, 2), Down(c, 2));
  return __builtin_shuffle(low, high, NativeI{0, 1, 4, 5});
}
#endif
DSRUN_INLINE F16 Fma(const F16& a, const F16& b, const F16& c) {
  F16 r;
  DSRUN_EACH_PART r.part[k] = FmaNative(a.part[k], b.part[k], c.part[k]);
  return r;
}

// The greater, the smaller; where one is NaN, b. One instruction each.
DSRUN_INLINE F16 Max(const F16& a, const F16& b) {
  F16 r;
  DSRUN_EACH_PART r.part[k] = a.part[k] > b.part[k] ? a.part[k] : b.part[k];
  return r;
}
DSRUN_INLINE F16 Min(const F16& a, const F16& b) {
  F16 r;
  DSRUN_EACH_PART r.part[k] = a.part[k] < b.part[k] ? a.part[k] : b.part[k];
  return r;
}

// The first n of sixteen elements, the others `fill`. 0 < n < 16.
template <typename T>
DSRUN_INLINE F16 LoadTail(const T* p, int64_t n, float fill) {
  float lanes[kLanes];
  for (int64_t i = 0; i < kLanes; ++i) lanes[i] = i < n ? Get(p[i]) : fill;
  return Load(lanes);
}
template <typename T>
DSRUN_INLINE void StoreTail(T* p, int64_t n, const F16& x) {
  T lanes[kLanes];
  Store(lanes, x);
  for (int64_t i = 0; i < n; ++i) p[i] = lanes[i];
}

// x without its first n lanes, which are `fill`; n may be anything.
DSRUN_INLINE F16 DropFirst(const F16& x, int64_t n, float fill) {
  F16 r;
  DSRUN_EACH_PART {
    const NativeI dropped = Iota() < NativeI{} + static_cast<int32_t>(n - k * kNative);
    r.part[k] = dropped ? SetNative(fill) : x.part[k];
  }
  return r;
}

// The first n lanes of x, the others `fill`; n may be anything.
DSRUN_INLINE F16 KeepFirst(const F16& x, int64_t n, float fill) {
  F16 r;
  DSRUN_EACH_PART {
    const NativeI kept = Iota() < NativeI{} + static_cast<int32_t>(n - k * kNative);
    r.part[k] = kept ? x.part[k] : SetNative(fill);
  }
  return r;
}

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
// 1980). From kLowest down n is -127, whose power is written 0, so the result is 0 (e^x is denormal
// there); above 88.3 it stays e^88.3; NaN stays NaN.
DSRUN_INLINE F16 Exp(const F16& x) {
  constexpr float kHighest = 88.3f;
  constexpr float kLowest = -88.0f;
  constexpr float kLog2E = 1.44269504f;
  constexpr float kLn2High = 0.693359375f;
  constexpr float kLn2Low = -2.12194440e-4f;
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const F16 clamped = Min(Set(kHighest), Max(Set(kLowest), x));
  const F16 shifted = Fma(clamped, Set(kLog2E), Set(kRound));
  const F16 n = shifted - Set(kRound);
  const F16 r = Fma(n, Set(-kLn2Low), Fma(n, Set(-kLn2High), clamped));
  F16 e = Set(1.0f / 5040);
  e = Fma(e, r, Set(1.0f / 720));
  e = Fma(e, r, Set(1.0f / 120));
  e = Fma(e, r, Set(1.0f / 24));
  e = Fma(e, r, Set(1.0f / 6));
  e = Fma(e, r, Set(0.5f));
  e = Fma(e, r * r, r) + Set(1.0f);
  F16 power;
  // The integer stands in the low bits of `shifted`; as a biased exponent it is the float 2^n.
  DSRUN_EACH_PART power.part[k] = (NativeF)((((NativeI)shifted.part[k]) + 127 - 0x4B400000) << 23);
  return e * power;
}

}  // namespace
}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_DEVICE_CPU_LANES_H_
