#include "tests/worker/engine/covering_array.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <set>
#include <tuple>
#include <utility>

namespace dsrun::worker {
namespace {

// Of the rows that begin with an uncovered pair, so many are compared.
constexpr size_t kCandidates = 50;

using Pair = std::tuple<size_t, size_t, size_t, size_t>;  // factor, value, higher factor, value

Pair Ordered(FactorValue a, FactorValue b) {
  if (a.factor > b.factor) std::swap(a, b);
  return {a.factor, a.value, b.factor, b.value};
}

class Builder {
 public:
  Builder(const std::vector<size_t>& values,
          const std::function<bool(const FactorValue&, const FactorValue&)>& allowed)
      : values_(values), allowed_(allowed) {
    for (size_t a = 0; a < values.size(); ++a) {
      for (size_t b = a + 1; b < values.size(); ++b) {
        for (size_t i = 0; i < values[a]; ++i) {
          for (size_t j = 0; j < values[b]; ++j) {
            if (allowed({a, i}, {b, j})) uncovered_.insert({a, i, b, j});
          }
        }
      }
    }
  }

  std::vector<CoveringRow> Build() {
    std::vector<CoveringRow> rows;
    while (!uncovered_.empty()) {
      rows.push_back(BestRow());
      for (size_t a = 0; a < values_.size(); ++a) {
        for (size_t b = a + 1; b < values_.size(); ++b) {
          uncovered_.erase({a, rows.back()[a], b, rows.back()[b]});
        }
      }
    }
    return rows;
  }

 private:
  CoveringRow BestRow() const {
    std::optional<CoveringRow> best;
    size_t most = 0;
    // Those of the two factors that have most values first: no array has fewer rows than they
    // pairs.
    std::vector<Pair> pairs(uncovered_.begin(), uncovered_.end());
    std::stable_sort(pairs.begin(), pairs.end(),
                     [this](const Pair& a, const Pair& b) { return RowsOf(a) > RowsOf(b); });
    pairs.resize(std::min(pairs.size(), kCandidates));
    for (const auto& [a, i, b, j] : pairs) {
      const std::optional<CoveringRow> row = Complete({{a, i}, {b, j}});
      if (!row) continue;
      const size_t gain = Gain(*row);
      if (gain > most) {
        most = gain;
        best = row;
      }
    }
    if (best) return *best;
    std::fprintf(stderr, "CoverPairs: an allowed pair is in no row of allowed pairs\n");
    std::abort();
  }

  // The rows that its two factors need.
  size_t RowsOf(const Pair& pair) const {
    return values_[std::get<0>(pair)] * values_[std::get<2>(pair)];
  }

  size_t Gain(const CoveringRow& row) const {
    size_t gain = 0;
    for (size_t a = 0; a < row.size(); ++a) {
      for (size_t b = a + 1; b < row.size(); ++b) gain += uncovered_.count({a, row[a], b, row[b]});
    }
    return gain;
  }

  // The other factors by their number of values, each with the value that covers most.
  std::optional<CoveringRow> Complete(std::vector<FactorValue> chosen) const {
    std::vector<size_t> rest;
    for (size_t factor = 0; factor < values_.size(); ++factor) {
      if (factor != chosen[0].factor && factor != chosen[1].factor) rest.push_back(factor);
    }
    std::stable_sort(rest.begin(), rest.end(),
                     [&](size_t a, size_t b) { return values_[a] > values_[b]; });
    for (const size_t factor : rest) {
      std::optional<size_t> best;
      size_t most = 0;
      for (size_t value = 0; value < values_[factor]; ++value) {
        const FactorValue candidate{factor, value};
        size_t gain = 0;
        bool possible = true;
        for (const FactorValue& with : chosen) {
          possible = possible && IsAllowed(candidate, with);
          gain += uncovered_.count(Ordered(candidate, with));
        }
        if (!possible || (best && gain <= most)) continue;
        best = value;
        most = gain;
      }
      if (!best) return std::nullopt;
      chosen.push_back({factor, *best});
    }
    CoveringRow row(values_.size());
    for (const FactorValue& one : chosen) row[one.factor] = one.value;
    return row;
  }

  bool IsAllowed(const FactorValue& a, const FactorValue& b) const {
    return a.factor < b.factor ? allowed_(a, b) : allowed_(b, a);
  }

  const std::vector<size_t>& values_;
  const std::function<bool(const FactorValue&, const FactorValue&)>& allowed_;
  std::set<Pair> uncovered_;
};

}  // namespace

std::vector<CoveringRow> CoverPairs(
    const std::vector<size_t>& values,
    const std::function<bool(const FactorValue& a, const FactorValue& b)>& allowed) {
  return Builder(values, allowed).Build();
}

}  // namespace dsrun::worker
