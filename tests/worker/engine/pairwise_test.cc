// One curve under any two settings together: a run for every row of a pairwise covering array of
// all that must change no bit. What there is to choose stands in one table, Factors(); a new stage
// or precision is a row of it.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "common/base/mutex.h"
#include "common/model/model_spec_proto.h"
#include "common/model/presets.h"
#include "common/numerics/precision.h"
#include "common/plan/zero_stage.h"
#include "tests/fakes/faulty_file_system.h"
#include "tests/worker/engine/covering_array.h"
#include "tests/worker/engine/small_job.h"
#include "tests/worker/engine/training_ranks.h"
#include "tests/worker/engine/worker_cluster.h"

namespace dsrun::worker {
namespace {

constexpr int64_t kSteps = 6;
constexpr int64_t kInterruptedAt = 3;  // the newest save is that of step 2
constexpr size_t kMostRuns = 30;

// What a row sets.
struct Setting {
  proto::TrainSpec spec;
  int width = 1;
  bool resumed = false;  // its first steps are those of the run before it, of the same curve
};

struct Factor {
  std::string name;
  std::vector<std::pair<std::string, std::function<void(Setting&)>>> values;
};

Factor Families() {
  Factor factor{"family", {}};
  for (const char* const preset : {"gpt2-nano", "llama-nano"}) {
    factor.values.emplace_back(preset, [preset](Setting& run) {
      ModelSpec model = FindPreset(preset).value();
      model.num_layers = 2;
      model.hidden_size = 48;
      model.num_attention_heads = 4;
      model.seq_length = 24;
      if (model.query_groups > 0) model.query_groups = 2;
      if (model.ffn_hidden_size > 0) model.ffn_hidden_size = 128;
      ToProto(model, run.spec.mutable_model());
    });
  }
  return factor;
}

Factor Precisions() {
  Factor factor{"precision", {}};
  for (const Precision& precision : kPrecisions) {
    factor.values.emplace_back(precision.name, [name = precision.name](Setting& run) {
      run.spec.set_precision(std::string(name));
    });
  }
  return factor;
}

Factor Stages() {
  Factor factor{"zero stage", {}};
  for (const ZeroStage& stage : kZeroStages) {
    factor.values.emplace_back(std::to_string(stage.number), [number = stage.number](Setting& run) {
      run.spec.set_zero_stage(number);
    });
  }
  return factor;
}

// Of twelve atoms; 5 does not divide them.
Factor Widths() {
  Factor factor{"width", {}};
  for (const int width : {1, 2, 3, 4, 5, 6, 12}) {
    factor.values.emplace_back(std::to_string(width), [width](Setting& run) { run.width = width; });
  }
  return factor;
}

Factor Dropouts() {
  return {"dropout", {{"none", [](Setting&) {}}, {"of both kinds", [](Setting& run) {
                                                    run.spec.set_hidden_dropout(0.1);
                                                    run.spec.set_attention_dropout(0.2);
                                                  }}}};
}

// The first ones make other curves, the others must not.
constexpr size_t kOfCurve = 3;

std::vector<Factor> Factors() {
  return {
      Families(),
      Precisions(),
      Dropouts(),
      Stages(),
      Widths(),
      {"recomputation",
       {{"none", [](Setting&) {}},
        {"all", [](Setting& run) { run.spec.mutable_recompute()->set_every(1); }},
        {"every 2", [](Setting& run) { run.spec.mutable_recompute()->set_every(2); }}}},
      {"overlap",
       {{"on", [](Setting& run) { run.spec.set_overlap_comm(true); }},
        {"off", [](Setting& run) { run.spec.set_overlap_comm(false); }}}},
      {"buckets",
       {{"of a leaf", [](Setting& run) { run.spec.set_bucket_bytes(4096); }},
        {"default", [](Setting& run) { run.spec.set_bucket_bytes(256 << 10); }}}},
      {"threads",
       {{"1", [](Setting& run) { run.spec.set_threads_per_rank(1); }},
        {"2", [](Setting& run) { run.spec.set_threads_per_rank(2); }}}},
      {"start",
       {{"fresh", [](Setting&) {}}, {"resumed", [](Setting& run) { run.resumed = true; }}}},
  };
}

std::vector<CoveringRow> Rows(const std::vector<Factor>& factors) {
  std::vector<size_t> values;
  for (const Factor& factor : factors) values.push_back(factor.values.size());
  // Everything is built together.
  return CoverPairs(values, [](const FactorValue&, const FactorValue&) { return true; });
}

// Every choice of the factors of the curve.
std::vector<CoveringRow> Curves(const std::vector<Factor>& factors) {
  std::vector<CoveringRow> curves = {{}};
  for (size_t factor = 0; factor < kOfCurve; ++factor) {
    std::vector<CoveringRow> longer;
    for (const CoveringRow& curve : curves) {
      for (size_t value = 0; value < factors[factor].values.size(); ++value) {
        longer.push_back(curve);
        longer.back().push_back(value);
      }
    }
    curves = std::move(longer);
  }
  return curves;
}

Setting SettingOf(const std::vector<Factor>& factors, const CoveringRow& row) {
  Setting run;
  run.spec = TinySpec(/*micro_batches=*/12);
  run.spec.set_micro_batch_size(1);
  run.spec.set_global_batch_size(12);
  for (size_t factor = 0; factor < factors.size(); ++factor) {
    factors[factor].values[row[factor]].second(run);
  }
  return run;
}

std::string Words(const std::vector<Factor>& factors, const CoveringRow& row) {
  std::string text;
  for (size_t factor = 0; factor < factors.size(); ++factor) {
    text += (text.empty() ? "" : ", ") + factors[factor].name + " " +
            factors[factor].values[row[factor]].first;
  }
  return text;
}

// What must be the same: loss and norm of every step, and the content at the end.
struct Curve {
  std::map<int64_t, std::pair<double, double>> steps;
  std::string hash;
};

proto::JobSpec JobOf(const Setting& run) {
  proto::JobSpec job = Job();
  *job.mutable_train() = run.spec;
  job.mutable_train()->set_train_iters(kSteps);
  job.mutable_train()->set_save_interval(2);
  job.mutable_train()->set_save_dir(kFolder);
  return job;
}

// Trains in `fs`, from its newest checkpoint on; up to `until`, if that is not 0.
void TrainOn(const Setting& run, FaultyFileSystem& fs, int64_t until, Curve& curve) {
  WorkerCluster cluster(JobOf(run), fs);
  Mutex mu;
  cluster.on_message = [&](Rank rank, const proto::WorkerMessage& message) {
    if (rank != Rank(0) || !message.has_step_done()) return;
    const proto::StepDone& done = message.step_done();
    {
      MutexLock lock(mu);
      const std::pair<double, double> now(done.loss(), done.grad_norm());
      const auto [at, is_new] = curve.steps.emplace(done.step(), now);
      EXPECT_TRUE(is_new || at->second == now) << "step " << done.step() << " once more";
    }
    if (done.step() == until) cluster.Announce();
  };
  for (const auto& outcome : cluster.Run(run.width)) {
    if (until == 0) {
      EXPECT_TRUE(outcome.ok()) << outcome.status();
    }
  }
}

Curve CurveOf(const Setting& run, const Setting* before) {
  FaultyFileSystem fs;
  Curve curve;
  if (before != nullptr) TrainOn(*before, fs, kInterruptedAt, curve);
  TrainOn(run, fs, /*until=*/0, curve);
  curve.hash = NewestHash(fs);
  return curve;
}

TEST(PairwiseTest, EveryTwoSettingsTogether_GiveTheSameCurve) {
  const std::vector<Factor> factors = Factors();
  // By what makes another curve.
  std::map<CoveringRow, Curve> references;
  std::map<CoveringRow, Setting> last;  // likewise: that of the row before
  std::set<std::string> hashes;
  for (const CoveringRow& key : Curves(factors)) {
    CoveringRow row(factors.size(), 0);
    std::copy(key.begin(), key.end(), row.begin());
    const Setting plain = SettingOf(factors, row);
    Curve& reference = references[key];
    reference = CurveOf(plain, nullptr);
    last[key] = plain;
    ASSERT_EQ(reference.steps.size(), static_cast<size_t>(kSteps));
    hashes.insert(reference.hash);
  }
  EXPECT_EQ(hashes.size(), references.size());
  for (const CoveringRow& row : Rows(factors)) {
    SCOPED_TRACE(Words(factors, row));
    const CoveringRow key(row.begin(), row.begin() + kOfCurve);
    const Setting run = SettingOf(factors, row);
    const Curve curve = CurveOf(run, run.resumed ? &last[key] : nullptr);
    EXPECT_EQ(curve.steps, references[key].steps);
    EXPECT_EQ(curve.hash, references[key].hash);
    last[key] = run;
  }
}

TEST(PairwiseTest, TheComparisonCanFail) {
  const std::vector<Factor> factors = Factors();
  Setting run = SettingOf(factors, CoveringRow(factors.size(), 0));
  const Curve one = CurveOf(run, nullptr);
  run.spec.set_seed(run.spec.seed() + 1);
  const Curve other = CurveOf(run, nullptr);
  EXPECT_NE(one.steps, other.steps);
  EXPECT_NE(one.hash, other.hash);
}

// ---- The array itself

void ExpectEveryPair(const std::vector<size_t>& values, const std::vector<CoveringRow>& rows,
                     const std::function<bool(const FactorValue&, const FactorValue&)>& allowed) {
  for (size_t a = 0; a < values.size(); ++a) {
    for (size_t b = a + 1; b < values.size(); ++b) {
      std::set<std::pair<size_t, size_t>> there;
      for (const CoveringRow& row : rows) {
        there.emplace(row[a], row[b]);
        EXPECT_TRUE(allowed({a, row[a]}, {b, row[b]}));
      }
      for (size_t i = 0; i < values[a]; ++i) {
        for (size_t j = 0; j < values[b]; ++j) {
          EXPECT_EQ(there.count({i, j}), allowed({a, i}, {b, j}) ? 1u : 0u)
              << a << "=" << i << " " << b << "=" << j;
        }
      }
    }
  }
}

TEST(CoveringArrayTest, EveryAllowedPairStandsInARow) {
  const auto all = [](const FactorValue&, const FactorValue&) { return true; };
  for (const std::vector<size_t>& values :
       {std::vector<size_t>{1, 1}, {2, 2}, {3, 4, 5}, {2, 2, 2, 2, 2, 2, 2}, {7, 3, 3, 2, 2, 1}}) {
    ExpectEveryPair(values, CoverPairs(values, all), all);
  }
  const auto some = [](const FactorValue& a, const FactorValue& b) {
    return a.factor != 0 || b.factor != 1 || a.value != 2 || b.value == 0;
  };
  ExpectEveryPair({3, 4, 2, 2}, CoverPairs({3, 4, 2, 2}, some), some);
}

TEST(CoveringArrayTest, IsSmall) {
  const auto all = [](const FactorValue&, const FactorValue&) { return true; };
  EXPECT_LE(CoverPairs(std::vector<size_t>(10, 2), all).size(), 12u) << "of 1024";
  EXPECT_LE(CoverPairs(std::vector<size_t>(4, 3), all).size(), 13u) << "of 81; nine would do";
}

TEST(PairwiseTest, SettingsOfTheEngine_AreCoveredByFewRuns) {
  const std::vector<Factor> factors = Factors();
  const std::vector<CoveringRow> rows = Rows(factors);
  EXPECT_LE(rows.size(), kMostRuns);
  std::vector<size_t> values;
  for (const Factor& factor : factors) values.push_back(factor.values.size());
  ExpectEveryPair(values, rows, [](const FactorValue&, const FactorValue&) { return true; });
}

}  // namespace
}  // namespace dsrun::worker
