// N ranks as threads, training: what the engine's tests compare across layouts.

#ifndef DSRUN_TESTS_WORKER_ENGINE_TRAINING_RANKS_H_
#define DSRUN_TESTS_WORKER_ENGINE_TRAINING_RANKS_H_

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "proto/job.pb.h"
#include "worker/engine/trainer.h"

namespace dsrun::worker {

// Everything that must have the same bits in every layout, and what may differ.
struct TrainedState {
  std::vector<float> parameters;  // the whole arena
  // The optimizer's first and second slot, gathered from all owners, in arena order; empty: it has
  // none.
  std::vector<float> adam_m;
  std::vector<float> adam_v;
  GradientExponents::State exponents;
  std::vector<double> losses;  // of every step
  std::vector<double> grad_norms;
  std::vector<StepResult> steps;  // of rank 0
  std::string trace;              // of rank 0

  bool SameBits(const TrainedState& other) const;
};

// A byte-level model that takes milliseconds a step, on text that the test makes.
proto::TrainSpec TinySpec(int64_t micro_batches);

// Sample `index` of the tests' text: a window whose position is a function of the index alone.
void SampleText(int64_t index, std::span<int32_t> tokens, std::span<int32_t> targets);

// Runs `body` on `width` threads at once, each with an engine and a rank of its own. `setup` is
// ready for Trainer::Create; body may put its own parts in.
void OnRanks(const proto::TrainSpec& spec, int width,
             const std::function<void(Trainer::Setup& setup)>& body);

// What must change no bit, and what a test puts into every rank.
struct HowTrained {
  ReduceRoute route = {};
  std::vector<std::vector<int64_t>> atoms = {};  // by rank; empty: in order
  std::function<void(Trainer::Setup& setup)> adjust = [](Trainer::Setup&) {};
};

// Trains `steps` steps with `width` ranks, every one a thread with an engine of its own.
TrainedState Train(const proto::TrainSpec& spec, int width, int steps, const HowTrained& how = {});

}  // namespace dsrun::worker

#endif  // DSRUN_TESTS_WORKER_ENGINE_TRAINING_RANKS_H_
