// The fields of a ModelSpec that families differ in, as data: what writes them down, reads them, or
// compares them goes through this list and names none of them. Pure.

#ifndef DSRUN_COMMON_MODEL_SPEC_FIELDS_H_
#define DSRUN_COMMON_MODEL_SPEC_FIELDS_H_

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "common/model/model_spec.h"

namespace dsrun {

struct SpecField {
  // As files have it: "num_query_groups"; of fields that have a flag, that of the flag, whose names
  // are Megatron-LM's.
  const char* key;
  std::variant<std::string ModelSpec::*, int64_t ModelSpec::*, double ModelSpec::*,
               bool ModelSpec::*>
      member;
};

// In the order in which they are written. `family` is the first.
const std::vector<SpecField>& FamilyFields();

// "num-query-groups".
std::string DashedName(const SpecField& field);
// The value, for people.
std::string TextOf(const SpecField& field, const ModelSpec& spec);
bool SameValue(const SpecField& field, const ModelSpec& a, const ModelSpec& b);

}  // namespace dsrun

#endif  // DSRUN_COMMON_MODEL_SPEC_FIELDS_H_
