#include "common/base/differences.h"

#include <algorithm>
#include <cstddef>

namespace dsrun {

std::string DifferenceTable(const std::vector<Difference>& differences,
                            std::string_view their_title, std::string_view our_title) {
  if (differences.empty()) return "";
  size_t name_width = 0, their_width = their_title.size();
  for (const Difference& difference : differences) {
    name_width = std::max(name_width, difference.name.size());
    their_width = std::max(their_width, difference.theirs.size());
  }
  std::string table;
  const auto add = [&](std::string_view name, std::string_view theirs, std::string_view ours) {
    table.append("\n    ").append(name).append(name_width - name.size() + 2, ' ');
    table.append(theirs).append(their_width - theirs.size() + 2, ' ').append(ours);
  };
  add("", their_title, our_title);
  for (const Difference& difference : differences) {
    add(difference.name, difference.theirs, difference.ours);
  }
  return table;
}

}  // namespace dsrun
