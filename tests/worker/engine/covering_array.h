// Pairwise covering arrays: few rows in which every two values of two factors stand together in one
// row. Most faults that settings make together are made by two of them (Kuhn, Wallace and Gallo,
// 2004, "Software Fault Interactions"). Pure; the same factors give the same rows.

#ifndef DSRUN_TESTS_WORKER_ENGINE_COVERING_ARRAY_H_
#define DSRUN_TESTS_WORKER_ENGINE_COVERING_ARRAY_H_

#include <cstddef>
#include <functional>
#include <vector>

namespace dsrun::worker {

// One value of every factor, by its index.
using CoveringRow = std::vector<size_t>;

// A value of a factor.
struct FactorValue {
  size_t factor = 0;
  size_t value = 0;
};

// `values`: how many each factor has. `allowed`: whether two values of different factors may stand
// in one row; asked with the lower factor first. Built greedily, a row at a time (after Cohen,
// Dalal, Fredman and Patton, 1997, "The AETG System"). REQUIRES: two factors at least, each with a
// value, and every allowed pair can be completed to a row of allowed pairs; ends the program
// otherwise.
std::vector<CoveringRow> CoverPairs(
    const std::vector<size_t>& values,
    const std::function<bool(const FactorValue& a, const FactorValue& b)>& allowed);

}  // namespace dsrun::worker

#endif  // DSRUN_TESTS_WORKER_ENGINE_COVERING_ARRAY_H_
