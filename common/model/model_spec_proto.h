// proto::ModelSpec <-> ModelSpec. Pure.

#ifndef DSRUN_COMMON_MODEL_MODEL_SPEC_PROTO_H_
#define DSRUN_COMMON_MODEL_MODEL_SPEC_PROTO_H_

#include "common/model/model_spec.h"
#include "proto/job.pb.h"

namespace dsrun {

inline ModelSpec FromProto(const proto::ModelSpec& spec) {
  ModelSpec out{spec.preset(),      spec.num_layers(),
                spec.hidden_size(), spec.num_attention_heads(),
                spec.seq_length(),  spec.vocab_size()};
  if (!spec.family().empty()) out.family = spec.family();
  out.query_groups = spec.query_groups();
  out.head_channels = spec.head_channels();
  out.ffn_hidden_size = spec.ffn_hidden_size();
  out.window = spec.window();
  out.norm_epsilon = spec.norm_epsilon();
  out.untied_output = spec.untied_output();
  out.qkv_bias = spec.qkv_bias();
  out.attention_out_bias = spec.attention_out_bias();
  out.mlp_bias = spec.mlp_bias();
  out.qk_norm = spec.qk_norm();
  out.rope_base = spec.rope_base();
  out.rope_scaling = spec.rope_scaling();
  out.rope_factor = spec.rope_factor();
  out.rope_low_turns = spec.rope_low_turns();
  out.rope_high_turns = spec.rope_high_turns();
  out.rope_original_length = spec.rope_original_length();
  out.rope_magnitude = spec.rope_magnitude();
  return out;
}

inline void ToProto(const ModelSpec& spec, proto::ModelSpec* out) {
  out->set_preset(spec.preset);
  out->set_num_layers(spec.num_layers);
  out->set_hidden_size(spec.hidden_size);
  out->set_num_attention_heads(spec.num_attention_heads);
  out->set_seq_length(spec.seq_length);
  out->set_vocab_size(spec.vocab_size);
  out->set_family(spec.family);
  out->set_query_groups(spec.query_groups);
  out->set_head_channels(spec.head_channels);
  out->set_ffn_hidden_size(spec.ffn_hidden_size);
  out->set_window(spec.window);
  out->set_norm_epsilon(spec.norm_epsilon);
  out->set_untied_output(spec.untied_output);
  out->set_qkv_bias(spec.qkv_bias);
  out->set_attention_out_bias(spec.attention_out_bias);
  out->set_mlp_bias(spec.mlp_bias);
  out->set_qk_norm(spec.qk_norm);
  out->set_rope_base(spec.rope_base);
  out->set_rope_scaling(spec.rope_scaling);
  out->set_rope_factor(spec.rope_factor);
  out->set_rope_low_turns(spec.rope_low_turns);
  out->set_rope_high_turns(spec.rope_high_turns);
  out->set_rope_original_length(spec.rope_original_length);
  out->set_rope_magnitude(spec.rope_magnitude);
}

}  // namespace dsrun

#endif  // DSRUN_COMMON_MODEL_MODEL_SPEC_PROTO_H_
