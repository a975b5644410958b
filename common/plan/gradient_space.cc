#include "common/plan/gradient_space.h"

namespace dsrun {

GradientSpace::GradientSpace(const FlatLayout& layout)
    : layout_(layout), tied_(layout.Find("wte.weight").padded()) {}

Range GradientSpace::ArenaRange(Range range) const {
  if (range.begin < layout_.size()) return range;
  const int64_t shift = layout_.size() - tied_.begin;
  return {range.begin - shift, range.end - shift};
}

std::vector<int64_t> GradientSpace::Contributions(int64_t atoms) const {
  std::vector<int64_t> contributions;
  for (const FlatLayout::Entry& entry : layout_.entries()) {
    contributions.push_back(entry.offset == tied_.begin ? 2 * atoms : atoms);
  }
  return contributions;
}

}  // namespace dsrun
