#include "worker/device/random_normal.h"

#include <cmath>

#include "common/base/philox.h"
#include "common/numerics/portable_math.h"

namespace dsrun::worker {
namespace {

constexpr double kPi = 3.141592653589793238463;

// sin and cos of 2 pi u for u in [0, 1): the nearest quarter turn is taken off, the rest (at most
// pi / 4) goes into Taylor's series; the first dropped terms are below 1e-16.
void SinCosTurn(double u, double* sine, double* cosine) {
  const int quarter = static_cast<int>(u * 4 + 0.5);
  const double x = (u - quarter * 0.25) * (2 * kPi);
  const double x2 = x * x;
  double s = 0;
  double c = 0;
  for (int k = 8; k >= 1; --k) {
    s = (1 - s) * x2 / ((2 * k) * (2 * k + 1));
    c = (1 - c) * x2 / ((2 * k - 1) * (2 * k));
  }
  s = x * (1 - s);
  c = 1 - c;
  switch (quarter & 3) {
    case 0:
      *sine = s, *cosine = c;
      break;
    case 1:
      *sine = c, *cosine = -s;
      break;
    case 2:
      *sine = -s, *cosine = -c;
      break;
    default:
      *sine = -c, *cosine = s;
  }
}

PhiloxBlock Block(uint64_t seed, uint64_t stream, uint64_t block) {
  return Philox4x32({static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32),
                     static_cast<uint32_t>(stream), static_cast<uint32_t>(stream >> 32)},
                    {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
}

// Two normals from two words. The radius uses (0, 1], never 0.
void BoxMuller(uint32_t a, uint32_t b, double* first, double* second) {
  const double u = (static_cast<double>(a) + 1) * 0x1p-32;
  const double radius =
      std::sqrt(-2 * PortableLog(u));  // one instruction, correctly rounded everywhere
  double sine;
  double cosine;
  SinCosTurn(static_cast<double>(b) * 0x1p-32, &sine, &cosine);
  *first = radius * cosine;
  *second = radius * sine;
}

}  // namespace

uint64_t StreamId(const std::string& purpose, const std::string& name) {
  uint64_t hash = 0xCBF29CE484222325ull;
  const auto mix = [&hash](unsigned char byte) { hash = (hash ^ byte) * 0x100000001B3ull; };
  for (const char c : purpose) mix(static_cast<unsigned char>(c));
  mix(0);
  for (const char c : name) mix(static_cast<unsigned char>(c));
  return hash;
}

uint32_t UniformWord(uint64_t seed, uint64_t stream, uint64_t index) {
  return Block(seed, stream, index / 4)[index % 4];
}

void NormalRange(uint64_t seed, uint64_t stream, int64_t begin, int64_t n, float stddev,
                 float* out) {
  for (int64_t block = begin / 4; block * 4 < begin + n; ++block) {
    const PhiloxBlock words = Block(seed, stream, static_cast<uint64_t>(block));
    double normal[4];
    BoxMuller(words[0], words[1], &normal[0], &normal[1]);
    BoxMuller(words[2], words[3], &normal[2], &normal[3]);
    for (int64_t k = 0; k < 4; ++k) {
      const int64_t at = block * 4 + k - begin;
      if (at >= 0 && at < n) out[at] = static_cast<float>(normal[k] * double{stddev});
    }
  }
}

}  // namespace dsrun::worker
