#include "launcher/commands/checkpoint_differences.h"

#include <string>

#include "common/model/model_spec_proto.h"
#include "common/numerics/dropout.h"
#include "common/numerics/kernels_version.h"
#include "common/numerics/precision.h"

namespace dsrun::launcher {

RunDifferences CompareWithCheckpoint(const ManifestFacts& facts, const proto::TrainSpec& train,
                                     const std::string& corpus_sha256) {
  ModelSpec model = FromProto(train.model());
  model.preset.clear();  // a shape is compared, whatever it is called
  const BatchFacts batch = {train.global_batch_size(), train.micro_batch_size(), train.seed(),
                            corpus_sha256};
  NumericsFingerprint fingerprint;
  fingerprint.isa = train.isa_cap();
  fingerprint.sums = SumsOf(train.sums());
  fingerprint.precision = FingerprintPrecision(train.precision());
  fingerprint.hidden_dropout = DropoutWord(train.hidden_dropout());
  fingerprint.attention_dropout = DropoutWord(train.attention_dropout());
  fingerprint.micro_batches_per_atom = train.micro_batches_per_atom();
  fingerprint.kernels_version = kCpuKernelsVersion;
  return CompareRuns(facts, model, batch, fingerprint, OurFields::kOnlyThoseKnown);
}

}  // namespace dsrun::launcher
