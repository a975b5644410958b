// Trains a model of one's own: tells three spirals apart.
//
//   dsrun --num-gpus 2 ./spirals --zero-stage 3 --save runs/spirals --save-interval 200
//
// Started again, also with another number of ranks or stage of ZeRO, it goes on from the newest
// checkpoint. examples/README.md says more.

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/counted.h"
#include "common/base/logging.h"
#include "common/base/status_macros.h"
#include "common/base/units.h"
#include "examples/spirals/spirals_model.h"
#include "worker/api/engine.h"

namespace dsrun::examples {
namespace {

struct Options {
  int64_t hidden = 64;
  std::string save;
  int64_t save_interval = 0;
  int64_t log_interval = 100;
  int64_t test_points = 2000;
};

absl::StatusOr<Config> ParseFlags(int argc, char** argv, Options* options) {
  return Config::FromFlags(
      argc, argv,
      {OwnFlag::Number("hidden", "units of a layer (64)", 1, &options->hidden),
       OwnFlag::Text("save", "folder of checkpoints (none)", &options->save),
       OwnFlag::Number("save-interval", "steps between two; 0: at the end alone (0)", 0,
                       &options->save_interval),
       OwnFlag::Number("log-interval", "steps between two lines (100)", 1, &options->log_interval),
       OwnFlag::Number("test-points", "points for the accuracy (2000)", 1, &options->test_points)});
}

// Of points that were not trained on. All ranks.
absl::StatusOr<double> Accuracy(Engine& engine, int64_t points) {
  ASSIGN_OR_RETURN(const std::vector<float> scores,
                   engine.Outputs(SpiralPoint, kFirstTestPoint, points));
  int64_t right = 0;
  for (int64_t point = 0; point < points; ++point) {
    const auto first = scores.begin() + point * kSpirals;
    const auto best = std::max_element(first, first + kSpirals) - first;
    right += best == (kFirstTestPoint + point) % kSpirals ? 1 : 0;
  }
  return static_cast<double>(right) / static_cast<double>(points);
}

absl::Status Train(Engine& engine, const Config& config, const Options& options) {
  const bool speaks = engine.rank() == 0;
  while (engine.step() < config.train_iters) {
    ASSIGN_OR_RETURN(const TrainedBatch batch, engine.TrainBatch());
    if (speaks && (batch.step == 1 || batch.step % options.log_interval == 0)) {
      std::printf("step %lld  loss %.6f  grad norm %.4f  lr %.3g\n",
                  static_cast<long long>(batch.step), batch.loss, batch.grad_norm, batch.lr);
    }
    const bool last = batch.step == config.train_iters;
    const bool due = options.save_interval > 0 && batch.step % options.save_interval == 0;
    if (!options.save.empty() && (due || last)) {
      ASSIGN_OR_RETURN(const std::string manifest, engine.Save(options.save));
      if (speaks) std::printf("saved %s\n", manifest.c_str());
    }
    if (speaks) std::fflush(stdout);
  }
  return absl::OkStatus();
}

absl::Status Run(const Config& config, const Options& options) {
  ASSIGN_OR_RETURN(const std::unique_ptr<Engine> engine,
                   Engine::Initialize(SpiralsModel(options.hidden), SpiralPoint, config));
  const bool speaks = engine->rank() == 0;
  if (speaks) {
    std::printf("%s, ZeRO stage %lld, %s a rank\n", Counted(engine->size(), "rank").c_str(),
                static_cast<long long>(config.zero_stage),
                BytesText(engine->memory_plan().total_bytes()).c_str());
  }
  if (!options.save.empty()) {
    ASSIGN_OR_RETURN(const LoadedCheckpoint loaded, engine->Load(options.save));
    if (speaks && !loaded.manifest.empty()) {
      std::printf("goes on from step %lld, %s\n", static_cast<long long>(loaded.step),
                  loaded.manifest.c_str());
    }
  }
  RETURN_IF_ERROR(Train(*engine, config, options));
  ASSIGN_OR_RETURN(const double accuracy, Accuracy(*engine, options.test_points));
  if (speaks) {
    std::printf("accuracy %.4f of %lld points that were not trained on\n", accuracy,
                static_cast<long long>(options.test_points));
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace dsrun::examples

int main(int argc, char** argv) {
  dsrun::InitLogging(argv[0], "spirals");
  dsrun::examples::Options options;
  const absl::StatusOr<dsrun::Config> config = dsrun::examples::ParseFlags(argc, argv, &options);
  if (config.ok() && config->help) return 0;
  const absl::Status status =
      config.ok() ? dsrun::examples::Run(*config, options) : config.status();
  if (status.ok()) return 0;
  std::fprintf(stderr, "spirals: %s\n", std::string(status.message()).c_str());
  return config.ok() ? 1 : 2;
}
