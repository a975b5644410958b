// Two small models of one's own, and N ranks as threads that train them.

#ifndef DSRUN_TESTS_WORKER_API_OWN_MODELS_H_
#define DSRUN_TESTS_WORKER_API_OWN_MODELS_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "tests/fakes/faulty_file_system.h"
#include "worker/api/engine.h"

namespace dsrun {

inline constexpr char kFolder[] = "/checkpoints";

// Which quarter of the plane a point lies in: two floats, four classes; dense layers alone. Every
// seventh sample is masked.
OwnModel QuarterModel();
void QuarterSample(int64_t index, const Sample& sample);

// Sums of what came so far in a sequence of six rows of two floats, as two floats a row: attention
// and MLP of the engine between a layer with a tensor that is used twice and one without tensors.
OwnModel SumsModel();
void SumsSample(int64_t index, const Sample& sample);

// Multiplies by a vector: its own, or that of a layer before.
OwnLayer Scale(std::string name, int64_t width, std::string shared = "");
// How its Backward is wrong, for those who must find it.
enum class Mistake { kNone, kFactor, kNotWritten, kAdds, kStream, kInfinite, kKeepsState };
OwnLayer ScaleWith(Mistake mistake, std::string name, int64_t width);

// A layer that drops by a rate of its own.
OwnLayer Drop(std::string name, int64_t width, double rate);
// SumsModel with one.
OwnModel DroppingModel();

// Six micro-batches of two samples.
Config SmallConfig();

// `body` on `width` threads at once, each with an engine; the test fails where one does not come
// up.
struct HowToRun {
  int width = 1;
  std::string job = "job";
  int64_t generation = 1;
  // Asked before each exchange of a rank; an error is the exchange's.
  std::function<absl::Status(int rank, const std::string& what)> before = nullptr;
};
void OnRanks(const OwnModel& model, const SampleFn& sample, const Config& config,
             const HowToRun& how, FileSystem& fs, const std::function<void(Engine&)>& body);

// What must have the same bits at every width and stage.
struct Trained {
  std::vector<double> losses;
  std::vector<double> grad_norms;
  std::vector<float> outputs;  // of the first 5 samples
  std::string hash;            // of the checkpoint at the end
  friend bool operator==(const Trained&, const Trained&) = default;
};
// `steps` steps from the seed, with a save at the end into kFolder.
Trained Train(const OwnModel& model, const SampleFn& sample, const Config& config, int width,
              int steps);

// Of the newest checkpoint in kFolder; fails the test if there is none.
std::string NewestHash(FileSystem& fs);

}  // namespace dsrun

#endif  // DSRUN_TESTS_WORKER_API_OWN_MODELS_H_
