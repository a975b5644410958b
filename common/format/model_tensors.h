// What a manifest must hold to be a checkpoint of the model that it names: every tensor of the
// model, in its shape, what the optimizer keeps for it, and the exponents of exact sums where its
// sums are exact.
//
// A family that this program does not plan (IsPlannedFamily), as that of all models of programs of
// their own, is described by its parameters alone: then what the optimizer keeps is held against
// those.
//
// A manifest that contradicts its model is whole: its checksum is right, and so are those of its
// shards. Somebody has written it so. It is an error of the input, and nothing that an older
// checkpoint is taken for.
//
// Pure; any thread.

#ifndef DSRUN_COMMON_FORMAT_MODEL_TENSORS_H_
#define DSRUN_COMMON_FORMAT_MODEL_TENSORS_H_

#include <cstdint>
#include <string_view>

#include "absl/status/status.h"
#include "common/format/manifest.h"

namespace dsrun {

// A number for each trained tensor of the model, in its order (docs/checkpoint_format.md).
inline constexpr std::string_view kSumExponents = "sums/exponents";
// Of fp16: kLossScaleValues numbers (common/numerics/loss_scaler.h).
inline constexpr std::string_view kLossScale = "loss_scale";

// Of "model/": every tensor of the model and no other. Of "state/<slot>/": tensors of the model,
// in their shapes; a parameter that is in one slot is in all of them (one that is not trained is in
// none; Muon has no second moment of hidden matrices), and exactly the slots of the optimizer that
// the manifest names. The exponents of those that are trained where facts.fingerprint.sums is
// kExactSums; the loss scale where its precision is "fp16". All of F32, BF16 or F16. Errors:
// FAILED_PRECONDITION: the first that is not so: which
// tensor, expected, got.
absl::Status CheckModelTensors(const Manifest& manifest);

}  // namespace dsrun

#endif  // DSRUN_COMMON_FORMAT_MODEL_TENSORS_H_
