// proto::ModelSpec <-> ModelSpec. Pure.

#ifndef DSRUN_COMMON_MODEL_MODEL_SPEC_PROTO_H_
#define DSRUN_COMMON_MODEL_MODEL_SPEC_PROTO_H_

#include "common/model/model_spec.h"
#include "proto/job.pb.h"

namespace dsrun {

inline ModelSpec FromProto(const proto::ModelSpec& spec) {
  return {spec.preset(),     spec.num_layers(), spec.hidden_size(), spec.num_attention_heads(),
          spec.seq_length(), spec.vocab_size()};
}

inline void ToProto(const ModelSpec& spec, proto::ModelSpec* out) {
  out->set_preset(spec.preset);
  out->set_num_layers(spec.num_layers);
  out->set_hidden_size(spec.hidden_size);
  out->set_num_attention_heads(spec.num_attention_heads);
  out->set_seq_length(spec.seq_length);
  out->set_vocab_size(spec.vocab_size);
}

}  // namespace dsrun

#endif  // DSRUN_COMMON_MODEL_MODEL_SPEC_PROTO_H_
