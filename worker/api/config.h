// How a model of one's own is trained: the settings of `dsrun train`, by the names of its flags,
// for Engine::Initialize. What a field means, and its default, is what docs/cli.md says of the
// flag.

#ifndef DSRUN_WORKER_API_CONFIG_H_
#define DSRUN_WORKER_API_CONFIG_H_

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace dsrun {

// A flag of the program's own, beside those of Config.
struct OwnFlag {
  std::string name;   // "hidden", without dashes
  std::string value;  // what it takes, for --help: "N"
  std::string about;  // one phrase; the default belongs into it
  // Errors: what is wrong with the text; who calls says of which flag.
  std::function<absl::Status(const std::string& text)> set;

  // Into `into`, which must outlive the parsing.
  static OwnFlag Text(std::string name, std::string about, std::string* into);
  static OwnFlag Number(std::string name, std::string about, int64_t least, int64_t* into);
};

struct Config {
  int64_t zero_stage = 1;
  int64_t global_batch_size = 32;  // samples of a step, whatever the number of ranks
  int64_t micro_batch_size = 4;    // samples of one pass; both are part of the curve
  int64_t micro_batches_per_atom = 1;
  int64_t train_iters = 1000;  // steps, of the schedule; Engine::TrainBatch goes on behind them
  uint64_t seed = 1234;        // of the parameters' first values

  double lr = 1e-3;
  double min_lr = 0;
  int64_t lr_warmup_iters = -1;  // below 0: a tenth of train_iters
  std::string lr_schedule = "linear";
  std::map<std::string, double> lr_schedule_params = {};
  std::string optimizer = "adamw";
  std::map<std::string, double> optimizer_params = {};
  double weight_decay = -1;  // below 0: the optimizer's own default
  double clip_grad = 1;      // 0: no clipping
  // Of the engine's own blocks, and of layers that ask the pass for these rates.
  double hidden_dropout = 0;
  double attention_dropout = 0;

  std::string sums = "exact";      // or "fast"
  std::string precision = "fp32";  // and no other: own layers compute in fp32
  int64_t bucket_bytes = 0;        // 0: by the model's size
  int64_t threads_per_rank = 0;    // 0: this rank's share of the machine's processors
  bool overlap = true;
  bool shared_memory = true;
  std::string isa_cap = "";  // empty: what this CPU has
  std::string check_collectives = "start";
  bool accept_fingerprint = false;
  int64_t zero3_prefetch = -1;  // below 0, as the next: the engine's default
  int64_t zero3_persistence_threshold = -1;

  int64_t keep_last = 3;
  int64_t keep_every = 0;  // 0: none

  absl::Duration join_timeout = absl::Seconds(60);
  // A rank that computes, or waits for its disk in Save and Load, for longer is given up.
  absl::Duration collective_timeout = absl::Minutes(10);
  absl::Duration save_timeout = absl::Minutes(30);

  bool help = false;  // --help was given: FromFlags has printed what there is

  // The fields above as `--micro-batch-size 8` or `--micro-batch-size=8`, and `own`. Values are
  // looked at as texts; Check looks at what they mean.
  // Errors: INVALID_ARGUMENT: a flag that there is not, one twice, a missing value, or a text that
  // is no value; the message names the flag.
  static absl::StatusOr<Config> FromFlags(int argc, const char* const* argv,
                                          const std::vector<OwnFlag>& own = {});

  // Errors: INVALID_ARGUMENT: the first field that is out of its bounds, by the flag's name, with
  // what is expected. What depends on the number of ranks, Initialize finds.
  absl::Status Check() const;
};

}  // namespace dsrun

#endif  // DSRUN_WORKER_API_CONFIG_H_
