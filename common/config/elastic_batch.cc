#include "common/config/elastic_batch.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <optional>
#include <set>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status_macros.h"

namespace dsrun {
namespace {

// The numbers that DeepSpeed multiplies with: the highly composite ones up to 720,720.
constexpr std::array<int64_t, 38> kHighlyComposite = {
    1,      2,      4,      6,      12,     24,     36,     48,    60,    120,
    180,    240,    360,    720,    840,    1260,   1680,   2520,  5040,  7560,
    10080,  15120,  20160,  25200,  27720,  45360,  50400,  55440, 83160, 110880,
    166320, 221760, 277200, 332640, 498960, 554400, 665280, 720720};

constexpr int64_t kMost = int64_t{1} << 31;
constexpr size_t kMostMicroBatches = 64;

absl::Status AtLeastOne(const char* key, int64_t value) {
  if (value >= 1 && value <= kMost) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(key, ": expected a whole number from 1 to ", kMost, ", got ", value));
}

absl::Status Check(const ElasticRequest& request) {
  RETURN_IF_ERROR(AtLeastOne("max_train_batch_size", request.max_batch));
  RETURN_IF_ERROR(AtLeastOne("min_gpus", request.min_ranks));
  RETURN_IF_ERROR(AtLeastOne("max_gpus", request.max_ranks));
  RETURN_IF_ERROR(AtLeastOne("num_gpus_per_node", request.ranks_per_node));
  RETURN_IF_ERROR(AtLeastOne("model_parallel_size", request.model_parallel));
  if (request.max_ranks < request.min_ranks) {
    return absl::InvalidArgumentError(absl::StrCat(
        "max_gpus: expected min_gpus (", request.min_ranks, ") or more, got ", request.max_ranks));
  }
  if (request.micro_batches.empty()) {
    return absl::InvalidArgumentError("micro_batch_sizes: expected a list with a number, got []");
  }
  if (request.micro_batches.size() > kMostMicroBatches) {
    return absl::InvalidArgumentError(absl::StrCat("micro_batch_sizes: expected at most ",
                                                   kMostMicroBatches, " numbers, got ",
                                                   request.micro_batches.size()));
  }
  for (const int64_t micro : request.micro_batches) {
    RETURN_IF_ERROR(AtLeastOne("micro_batch_sizes", micro));
    if (micro <= request.max_batch) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("micro_batch_sizes: expected max_train_batch_size (", request.max_batch,
                     ") or less, got ", micro));
  }
  if (!request.by_node && request.model_parallel > 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("model_parallel_size: expected 1 with version 0.1, got ",
                     request.model_parallel, "; version 0.2 has it"));
  }
  if (request.ranks_per_node % request.model_parallel != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("num_gpus_per_node: expected a multiple of model_parallel_size (",
                     request.model_parallel, "), got ", request.ranks_per_node));
  }
  return absl::OkStatus();
}

// Their least common multiple, or nothing where it is above `most`.
std::optional<int64_t> CommonMultiple(const std::vector<int64_t>& numbers, int64_t most) {
  int64_t multiple = 1;
  for (const int64_t number : numbers) {
    multiple = multiple / std::gcd(multiple, number) * number;  // both at most 2^31
    if (multiple > most) return std::nullopt;
  }
  return multiple;
}

std::set<int64_t> CandidateBatches(const std::vector<int64_t>& micro_batches, int64_t most) {
  std::vector<int64_t> bases = micro_batches;
  if (const auto multiple = CommonMultiple(micro_batches, most)) bases.push_back(*multiple);
  std::set<int64_t> batches;
  for (const int64_t base : bases) {
    if (base > most) continue;
    const auto beyond = std::ranges::upper_bound(kHighlyComposite, most / base);
    batches.insert(*(beyond - 1) * base);
  }
  return batches;
}

// Those of [least, most] that divide the batch into a whole number of one of the micro-batches.
std::set<int64_t> WidthsOf(int64_t batch, const std::vector<int64_t>& micro_batches, int64_t least,
                           int64_t most) {
  std::set<int64_t> widths;
  const auto take = [&](int64_t width) {
    if (least <= width && width <= most) widths.insert(width);
  };
  for (const int64_t micro : micro_batches) {
    if (batch % micro != 0) continue;
    const int64_t whole = batch / micro;
    for (int64_t factor = 1; factor * factor <= whole; ++factor) {
      if (whole % factor != 0) continue;
      take(factor);
      take(whole / factor);
    }
  }
  return widths;
}

// Version 0.1, of whatever stands for a rank.
ElasticBatch MostDivisible(const std::vector<int64_t>& micro_batches, int64_t max_batch,
                           int64_t least, int64_t most, bool prefer_larger) {
  ElasticBatch best;
  const auto smallest = *std::ranges::min_element(micro_batches);
  best.global_batch = smallest;
  const int64_t from = least == 0 ? 1 : least;
  const int64_t to = most == 0 ? max_batch / smallest : most;
  for (const int64_t batch : CandidateBatches(micro_batches, max_batch)) {
    const std::set<int64_t> widths = WidthsOf(batch, micro_batches, from, to);
    const bool preferred = prefer_larger ? batch > best.global_batch : batch < best.global_batch;
    if (widths.size() < best.widths.size()) continue;
    if (widths.size() == best.widths.size() && !preferred) continue;
    best.global_batch = batch;
    best.widths.assign(widths.begin(), widths.end());
  }
  return best;
}

// Version 0.2's: the first one that divides the share of a rank, or the largest.
std::optional<int64_t> MicroBatchOf(const std::vector<int64_t>& micro_batches, int64_t share,
                                    bool prefer_larger) {
  std::optional<int64_t> found;
  for (const int64_t micro : micro_batches) {
    if (share % micro != 0) continue;
    if (!found || (prefer_larger && *found < micro)) found = micro;
  }
  return found;
}

absl::Status NoWidth(const ElasticRequest& request) {
  return absl::InvalidArgumentError(
      absl::StrCat("min_gpus, max_gpus: no number of ranks from ", request.min_ranks, " to ",
                   request.max_ranks, " divides a batch of at most ", request.max_batch,
                   " sequences in micro-batches of ", absl::StrJoin(request.micro_batches, ", ")));
}

absl::StatusOr<ElasticBatch> ByRank(const ElasticRequest& request) {
  ElasticBatch best = MostDivisible(request.micro_batches, request.max_batch, request.min_ranks,
                                    request.max_ranks, request.prefer_larger);
  if (best.widths.empty()) return NoWidth(request);
  if (request.world_size == 0) return best;
  if (!std::ranges::binary_search(best.widths, request.world_size)) {
    return absl::InvalidArgumentError(
        absl::StrCat("World size (", request.world_size,
                     ") is not valid with the current list of valid GPU counts: [",
                     absl::StrJoin(best.widths, ", "), "]"));
  }
  const int64_t share = best.global_batch / request.world_size;
  best.micro_batch = MicroBatchOf(request.micro_batches, share, /*prefer_larger=*/true).value_or(0);
  return best;
}

// A batch for `width` alone: the micro-batch that comes nearest to the limit, or farthest from it.
ElasticBatch OfOneWidth(const ElasticRequest& request, int64_t width) {
  std::set<int64_t> batches;
  for (const int64_t micro : request.micro_batches) {
    batches.insert(request.max_batch / (micro * width) * micro * width);
  }
  ElasticBatch best;
  best.global_batch = request.prefer_larger ? *batches.rbegin() : *batches.begin();
  best.widths = {width};
  return best;
}

absl::StatusOr<ElasticBatch> ByNode(const ElasticRequest& request) {
  RETURN_IF_ERROR(AtLeastOne("the number of ranks", request.world_size));
  const int64_t of_node = request.ranks_per_node / request.model_parallel;
  const int64_t max_of_node = request.max_batch / of_node;
  for (const int64_t micro : request.micro_batches) {
    if (micro <= max_of_node) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        "micro_batch_sizes: expected ", max_of_node, " or less (max_train_batch_size ",
        request.max_batch, " over the ", of_node, " data-parallel ranks of a node), got ", micro));
  }
  const ElasticBatch nodes =
      MostDivisible(request.micro_batches, max_of_node, request.min_ranks / request.ranks_per_node,
                    request.max_ranks / request.ranks_per_node, request.prefer_larger);
  if (nodes.widths.empty()) return NoWidth(request);
  ElasticBatch best;
  best.global_batch = nodes.global_batch * of_node;
  for (const int64_t count : nodes.widths) best.widths.push_back(count * of_node);
  int64_t width = request.world_size / request.model_parallel;
  if (!std::ranges::binary_search(best.widths, width)) {
    width = request.world_size * of_node / request.ranks_per_node;
    if (width > 0) best = OfOneWidth(request, width);
    if (width == 0 || best.global_batch == 0) return NoWidth(request);
  }
  best.micro_batch =
      MicroBatchOf(request.micro_batches, best.global_batch / width, request.prefer_larger)
          .value_or(0);
  return best;
}

}  // namespace

absl::StatusOr<ElasticBatch> ResolveElasticBatch(const ElasticRequest& request) {
  RETURN_IF_ERROR(Check(request));
  return request.by_node ? ByNode(request) : ByRank(request);
}

}  // namespace dsrun
