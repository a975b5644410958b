#include "common/schedule/deterministic_math.h"

#include <cmath>

namespace dsrun {
namespace {

constexpr long double kLn2 = 0.693147180559945309417232121458176568L;
constexpr long double kPi = 3.141592653589793238462643383279502884L;

// Of |x| <= pi / 4, by Taylor's series: the last term is below 2^-70.
long double Cos(long double x) {
  const long double square = x * x;
  long double term = 1;
  long double sum = 1;
  for (int n = 1; n <= 12; ++n) {
    term *= -square / static_cast<long double>((2 * n - 1) * (2 * n));
    sum += term;
  }
  return sum;
}

long double Sin(long double x) {
  const long double square = x * x;
  long double term = x;
  long double sum = x;
  for (int n = 1; n <= 12; ++n) {
    term *= -square / static_cast<long double>((2 * n) * (2 * n + 1));
    sum += term;
  }
  return sum;
}

}  // namespace

// x = m 2^k with m in [sqrt(1/2), sqrt(2)); log m = 2 artanh((m - 1) / (m + 1)), a series in
// squares below 0.03.
double DeterministicLog(double x) {
  int k = 0;
  long double m = std::frexp(x, &k);
  if (m < 0.707106781186547524400844362104849039L) {
    m *= 2;
    --k;
  }
  const long double s = (m - 1) / (m + 1);
  const long double square = s * s;
  long double power = 1;
  long double sum = 0;
  for (int n = 0; n <= 14; ++n) {
    sum += power / static_cast<long double>(2 * n + 1);
    power *= square;
  }
  return static_cast<double>(static_cast<long double>(k) * kLn2 + 2 * s * sum);
}

double DeterministicCos(double x) {
  const auto exact = static_cast<long double>(x);
  if (exact <= kPi / 4) return static_cast<double>(Cos(exact));
  if (exact <= kPi * 3 / 4) return static_cast<double>(Sin(kPi / 2 - exact));
  return static_cast<double>(-Cos(kPi - exact));
}

}  // namespace dsrun
