#include "common/model/spec_fields.h"

#include <algorithm>
#include <type_traits>

#include "absl/strings/str_cat.h"

namespace dsrun {

const std::vector<SpecField>& FamilyFields() {
  static const auto* const fields = new std::vector<SpecField>{
      {"family", &ModelSpec::family},
      {"num_query_groups", &ModelSpec::query_groups},
      {"kv_channels", &ModelSpec::head_channels},
      {"ffn_hidden_size", &ModelSpec::ffn_hidden_size},
      {"window_size", &ModelSpec::window},
      {"norm_epsilon", &ModelSpec::norm_epsilon},
      {"untie_embeddings_and_output_weights", &ModelSpec::untied_output},
      {"add_qkv_bias", &ModelSpec::qkv_bias},
      {"add_attention_output_bias", &ModelSpec::attention_out_bias},
      {"add_mlp_bias", &ModelSpec::mlp_bias},
      {"qk_layernorm", &ModelSpec::qk_norm},
      {"rotary_base", &ModelSpec::rope_base},
      {"rope_scaling", &ModelSpec::rope_scaling},
      {"rope_scaling_factor", &ModelSpec::rope_factor},
      {"rope_low_turns", &ModelSpec::rope_low_turns},
      {"rope_high_turns", &ModelSpec::rope_high_turns},
      {"rope_original_length", &ModelSpec::rope_original_length},
      {"rope_magnitude", &ModelSpec::rope_magnitude},
  };
  return *fields;
}

std::string DashedName(const SpecField& field) {
  std::string name = field.key;
  std::replace(name.begin(), name.end(), '_', '-');
  return name;
}

std::string TextOf(const SpecField& field, const ModelSpec& spec) {
  return std::visit(
      [&](auto member) -> std::string {
        using Value = std::remove_cvref_t<decltype(spec.*member)>;
        if constexpr (std::is_same_v<Value, std::string>) {
          return (spec.*member).empty() ? "none" : spec.*member;
        } else if constexpr (std::is_same_v<Value, bool>) {
          return spec.*member ? "yes" : "no";
        } else {
          return absl::StrCat(spec.*member);
        }
      },
      field.member);
}

bool SameValue(const SpecField& field, const ModelSpec& a, const ModelSpec& b) {
  return std::visit([&](auto member) { return a.*member == b.*member; }, field.member);
}

}  // namespace dsrun
