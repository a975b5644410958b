// OperationClass: what a rank of the engine may do for long, by kind: each has a deadline and a
// flag of its own (docs/failure_model.md). The worker sets its deadlines by it and names it in its
// beat; the agent learns from the beat what it was that a rank hung in. Pure.

#ifndef DSRUN_COMMON_BASE_OPERATION_CLASS_H_
#define DSRUN_COMMON_BASE_OPERATION_CLASS_H_

#include <array>
#include <cstddef>
#include <optional>
#include <string_view>

namespace dsrun {

enum class OperationClass {
  kJoin,        // find the peers and connect
  kLoad,        // find, verify and read a checkpoint
  kInitialize,  // parameters from the seed
  kFirstStep,   // of a generation: pages and caches are cold, the length of a step is not known yet
  kStep,
  kSave,      // write and sync a shard
  kCommit,    // the manifest
  kPrune,     // remove old checkpoints
  kEvaluate,  // evaluation and sampling
};

struct OperationFacts {
  OperationClass operation;
  const char* phase;  // Beat.phase, and for people
  const char* flag;   // that sets its limit
  // It waits for a disk or a file server. What takes too long then is not the program's doing.
  bool storage;
};

inline constexpr std::array<OperationFacts, 9> kOperations = {{
    {OperationClass::kJoin, "joining", "--join-timeout", false},
    {OperationClass::kLoad, "loading", "--load-timeout", true},
    {OperationClass::kInitialize, "initialising", "--initialize-timeout", false},
    {OperationClass::kFirstStep, "first step", "--first-step-timeout", false},
    {OperationClass::kStep, "training", "--collective-timeout", false},
    {OperationClass::kSave, "saving", "--save-timeout", true},
    {OperationClass::kCommit, "committing", "--commit-timeout", true},
    {OperationClass::kPrune, "pruning", "--prune-timeout", true},
    {OperationClass::kEvaluate, "sampling", "--evaluation-timeout", false},
}};

constexpr const OperationFacts& FactsOf(OperationClass operation) {
  return kOperations[static_cast<size_t>(operation)];
}

// The table of the rendezvous (proto/worker.proto, ExchangePut) that every rank of a generation
// puts into when its communicators stand, and that is answered when all have: from then on joining
// is over, and loading has its own limit.
inline constexpr char kConnectedTable[] = "connected";

// By the phase that a beat names; absent: none of these ("waiting for the next generation").
constexpr std::optional<OperationFacts> FactsOfPhase(std::string_view phase) {
  for (const OperationFacts& facts : kOperations) {
    if (phase == facts.phase) return facts;
  }
  return std::nullopt;
}

}  // namespace dsrun

#endif  // DSRUN_COMMON_BASE_OPERATION_CLASS_H_
