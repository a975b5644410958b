// proto::ModelSpec <-> ModelSpec.

#ifndef DSRUN_WORKER_ENGINE_MODEL_SPEC_PROTO_H_
#define DSRUN_WORKER_ENGINE_MODEL_SPEC_PROTO_H_

#include "common/model/model_spec.h"
#include "proto/job.pb.h"

namespace dsrun::worker {

inline ModelSpec FromProto(const proto::ModelSpec& spec) {
  return {spec.preset(),     spec.num_layers(), spec.hidden_size(), spec.num_attention_heads(),
          spec.seq_length(), spec.vocab_size()};
}

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_ENGINE_MODEL_SPEC_PROTO_H_
